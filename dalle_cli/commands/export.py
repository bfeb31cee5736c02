"""`dalle export`: everything that inference needs, as one folder of safetensors and JSON."""

import shutil
from pathlib import Path

from dalle_cli.commands.reports.exports.exported_run import describe_run
from dalle_cli.commands.reports.exports.model_card import model_card
from dalle_cli.config import kind_of
from dalle_cli.console import Terminal
from dalle_cli.storage.atomic import make_folder
from dalle_cli.storage.checkpoint_folder import SavedWeights, find_saved_weights
from dalle_cli.storage.lazy_tensors import Stored
from dalle_cli.storage.model_folder import read_model_table, write_model
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, RunDir, check_new_folder, model_dir


def run_export(run_path: Path, out: Path, checkpoint: str | None, terminal: Terminal) -> None:
    """Copy a run's model, and its dVAE and tokenizer if it has them, without its training state.

    checkpoint  whose weights are exported: "best", "last" or a step; None: the run's model

    The run's record, its held-out figures and a model card come with them.
    """
    check_new_folder(out)
    run, target = RunDir(run_path), RunDir(out)
    source = model_dir(run_path)
    table = read_model_table(source)
    saved = find_saved_weights(run, checkpoint) if checkpoint else None

    exported = describe_run(run, saved.step if saved else None)
    make_folder(out)
    files = exported.write(target)
    files += _export_model(source, target.model, saved)
    dvae = None
    if run.dvae.is_dir():
        files += _export_model(model_dir(run.dvae), target.dvae)
        dvae = read_model_table(target.dvae)

    for path, copy in (
        (run.tokenizer, target.tokenizer),
        (run.known_words, target.known_words),
    ):
        if path.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            files.append(Path(shutil.copyfile(path, copy)))

    card = model_card(out.resolve().name, table, exported, dvae=dvae)
    target.model_card.write_text(card, "utf-8")
    files.append(target.model_card)

    if exported.record is None and run.recipe.is_file():
        terminal.warn(f"{run.recipe} can't be read: the export has no recipe")
    facts = {"out": str(out), "kind": kind_of(table), "step": exported.step}
    terminal.result(str(out), {**facts, "files": [str(file) for file in files]})


def _export_model(source: Path, folder: Path, saved: SavedWeights | None = None) -> list[Path]:
    """Copy a model folder, or write one with the weights of a checkpoint; return its files."""
    if saved is None:
        folder.mkdir(parents=True)
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(source / name, folder / name)
    else:
        table = read_model_table(source)
        config = {"kind": kind_of(table), "model": table.model_dump()}
        write_model(folder, config, dict(Stored(saved.files)))
    return [folder / CONFIG, folder / WEIGHTS]
