"""The entry point: what Ctrl-C leaves on the screen before a command handles it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["dalle", "doctor"]
runpy.run_module("dalle_cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["dalle_cli.cli.app", "rich.console", "torch.nn"])
def test_ctrl_c_while_modules_are_imported_ends_in_silence(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_before_anything_is_computed_ends_in_one_line(
    tmp_path: Path, transformer_run: Path
) -> None:
    prompts = tmp_path / "prompts"
    os.mkfifo(prompts)
    words = ["generate", transformer_run, "--prompts", prompts, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dalle_cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with prompts.open("w"):  # opens as soon as the command reads
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "stopped\n")
    assert not (tmp_path / "out").exists()
