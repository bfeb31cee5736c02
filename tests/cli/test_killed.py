"""`kill -9` at any moment: the same command, typed again, ends as if nothing had happened."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MEASURED = ("train/seconds", "train/images_per_second", "train/peak_memory_gib")
PATIENCE = 3600  # seconds until a script that does not come to its end is given up

# kills children that each run a command in a folder, and starts the next folder once one is done;
# children are forked, since importing everything anew would take most of the time
SCRIPT = """
import json, os, random, resource, signal, sys, time
from pathlib import Path
from dalle_cli.cli.main import main
import dalle_cli.commands.evaluation.evaluate
import dalle_cli.commands.generate, dalle_cli.commands.training.train_dvae
from dalle_cli.storage.checkpoint_folder import check_checkpoint, checkpoints
from dalle_cli.storage.run_dir import RunDir

words, root, n_kills = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def start(folder):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.setpgid(0, 0)
    sys.argv = ["dalle", *(str(folder) if word == "FOLDER" else word for word in words)]
    code = 1
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        os._exit(code)

def kill_after(child, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

assert kill_after(start(root / "undisturbed"), 1e6) == 0
# seconds of a processor, which do not count how long others kept it
usual = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

chance = random.Random(0)
folders, n_killed = [root / "killed-0"], 0
while n_killed < n_kills:
    code = kill_after(start(folders[-1]), chance.uniform(0, usual))
    if code is None:
        n_killed += 1
        for _, path in checkpoints(RunDir(folders[-1])):
            check_checkpoint(path)
    else:
        assert code == 0, code
        folders.append(root / f"killed-{len(folders)}")
assert kill_after(start(folders[-1]), 1e6) == 0
print(json.dumps([str(folder) for folder in folders]))
"""


def outcome(folder: Path, tree: Callable) -> dict[str, object]:
    """Return all that a command has written, but for times and for what names the folder."""
    hashes: dict[str, object] = tree(folder)
    hashes.pop("recipe.json", None)
    if "metrics.jsonl" in hashes:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        hashes["metrics.jsonl"] = [
            {name: line[name] for name in line if name not in MEASURED} for line in lines
        ]
    return hashes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "n_kills"), [("train-dvae", 100), ("generate", 40), ("evaluate", 10)]
)
def test_command_that_is_killed_again_and_again_ends_as_one_that_is_not(
    command: str,
    n_kills: int,
    pairs: Path,
    transformer_run: Path,
    clip_run: Path,
    make_pairs: Callable,
    settings: Callable,
    tree: Callable,
    tmp_path: Path,
) -> None:
    often = settings(runtime__save_every=1, runtime__workers=1, runtime__keep_checkpoints=3)
    words = {
        "train-dvae": ["train-dvae", "dvae/tiny", "--data", pairs, "--run", "FOLDER", *often],
        "generate": [
            *("generate", transformer_run, "a ring", "-n", 24, "--batch-size", 2),
            *("--rank", "perplexity", "--best", 2, "--out", "FOLDER"),
        ],
        "evaluate": [
            *("evaluate", transformer_run, "--data", make_pairs(tmp_path / "data", 40)),
            *("--captions", 20, "--clip", clip_run, "--candidates", 2, "--out", "FOLDER"),
        ],
    }[command]
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(map(str, words))), tmp_path, str(n_kills)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    expected = outcome(tmp_path / "undisturbed", tree)
    for folder in json.loads(ended.stdout):
        assert outcome(Path(folder), tree) == expected
    assert "Traceback" not in ended.stderr
