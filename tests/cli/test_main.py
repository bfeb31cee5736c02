"""The entry point: what Ctrl-C leaves on the screen before a command handles it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import LIMIT

from dalle_cli.recipe import shipped_recipes

INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["dalle", "doctor", "--measure"]  # which lasts, once all is imported
runpy.run_module("dalle_cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("module", "line"),
    [("dalle_cli.cli.app", ""), ("rich.console", ""), ("torch.nn", "stopped by SIGINT\n")],
)
def test_ctrl_c_while_modules_are_imported_ends_in_at_most_a_line(module: str, line: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", line)


@pytest.mark.thorough
def test_ctrl_c_in_a_late_import_still_removes_what_was_begun(tmp_path: Path) -> None:
    script = f"""
import os, runpy, signal, sys, time
from dalle_cli.commands.data import shapes

def write(folder, *args, **kwargs):
    folder.mkdir()
    import colorsys
    time.sleep(3600)

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "colorsys":
            os.kill(os.getpid(), signal.SIGINT)

shapes._write_pairs = write
sys.modules.pop("colorsys", None)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["dalle", "data", "shapes", {str(tmp_path / "shapes")!r}]
runpy.run_module("dalle_cli", run_name="__main__", alter_sys=True)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,  # it does not wait for the sleep to end
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (ended.returncode, ended.stderr) == (130, "stopped by SIGINT\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
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
    assert (process.returncode, out, err) == (130, "", "stopped by SIGINT\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_results_are_printed_whatever_the_encoding_of_the_terminal(
    encoding: str, tmp_path: Path, dvae_run: Path
) -> None:
    for name in ("ex✨", os.fsdecode(b"\xff")):
        out = tmp_path / f"{encoding} {name}"
        ended = subprocess.run(
            [sys.executable, "-m", "dalle_cli", "export", str(dvae_run), "--out", str(out)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == f"{out}\n".encode(encoding, "backslashreplace")
        assert (out / "model" / "model.safetensors").is_file()


def completed(*words: str) -> list[str]:
    """What a shell is offered for the last of some words after `dalle`."""
    script = "import sys; sys.argv[0] = 'dalle'; from dalle_cli.cli.main import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "_DALLE_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["dalle", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.stdout.split()


def test_shells_complete_commands_options_and_recipes() -> None:
    models = ["dvae", "transformer", "clip", "prior", "decoder"]
    assert completed("train-") == [f"train-{model}" for model in models]
    assert {"--data", "--run", "--set"} < set(completed("train-dvae", "--"))
    assert completed("train-dvae", "dvae/t") == ["dvae/tiny"]
    assert completed("train-clip", "clip/") == [
        name for name in shipped_recipes() if name.startswith("clip/")
    ]


def test_completion_can_be_shown_for_the_current_shell(dalle: Callable) -> None:
    assert "--install-completion" in dalle("--help").out
