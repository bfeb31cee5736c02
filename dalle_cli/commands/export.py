"""`dalle export`: everything that inference needs, as one folder of safetensors and JSON."""

import shutil
from pathlib import Path

from dalle_cli.console import Terminal
from dalle_cli.storage.atomic import make_folder
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, RunDir, check_new_folder, model_dir


def run_export(run_path: Path, out: Path, terminal: Terminal) -> None:
    """Copy a run's model, and its dVAE and tokenizer if it has them, without its training state."""
    check_new_folder(out)
    run, target = RunDir(run_path), RunDir(out)

    folders = [(model_dir(run_path), target.model)]
    if run.dvae.is_dir():
        folders.append((model_dir(run.dvae), target.dvae))
    files = [
        (source / name, folder / name) for source, folder in folders for name in (CONFIG, WEIGHTS)
    ]
    if run.tokenizer.is_file():
        files.append((run.tokenizer, target.tokenizer))

    for source, copy in files:
        make_folder(copy.parent)
        shutil.copyfile(source, copy)
    terminal.result(str(out), {"out": str(out), "files": [str(copy) for _, copy in files]})
