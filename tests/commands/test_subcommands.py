"""Commands that run others: a request to stop is for the one under way."""

import os
import signal
import threading
from pathlib import Path

import pytest

from dalle_cli.commands.subcommands import run_subcommand
from dalle_cli.console import Terminal
from dalle_cli.errors import DalleError

PATIENCE = 120  # seconds until a command that does not do as it should is given up


@pytest.mark.thorough
def test_command_under_way_is_stopped_and_its_code_is_passed_on(
    tmp_path: Path, transformer_run: Path
) -> None:
    prompts, has_ended = tmp_path / "prompts", threading.Event()
    os.mkfifo(prompts)

    def stop() -> None:
        with prompts.open("w"):  # opens as soon as the command reads
            os.kill(os.getpid(), signal.SIGUSR2)
            has_ended.wait(PATIENCE)

    thread = threading.Thread(target=stop)
    thread.start()
    words = ["generate", transformer_run, "--prompts", prompts, "--out", tmp_path / "out"]
    with pytest.raises(DalleError, match="`dalle generate` did not finish") as caught:
        run_subcommand(words, Terminal(quiet=True), hint="again")
    has_ended.set()
    thread.join()
    assert caught.value.exit_code == 128 + signal.SIGUSR2
    assert not (tmp_path / "out").exists()
