"""`dalle export`: everything that inference needs, as one folder of safetensors and JSON."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from dalle_cli.commands.reports.exports.exported_run import ExportedRun, describe_run
from dalle_cli.commands.reports.exports.model_card import model_card
from dalle_cli.config import kind_of
from dalle_cli.console import Terminal
from dalle_cli.storage.atomic import atomic_folder, make_folder
from dalle_cli.storage.checkpoint_folder import SavedWeights, find_saved_weights
from dalle_cli.storage.lazy_tensors import Stored
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import (
    check_model_kind,
    half_precision,
    is_half_precision,
    read_model_table,
    write_model,
)
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, RunDir, check_new_folder, model_dir, part_of


@dataclass(frozen=True)
class ExportOptions:
    """The command line of `export`.

    clip        a CLIP's run that is exported, too; None: the CLIP that an export brings
    checkpoint  whose weights are exported: "best", "last" or a step; None: the run's model
    half        whether matrices are stored in fp16
    """

    run: Path
    out: Path
    clip: Path | None = None
    checkpoint: str | None = None
    half: bool = False


def run_export(options: ExportOptions, terminal: Terminal) -> None:
    """Copy a run's model, and its dVAE and tokenizer if it has them, without its training state.

    The run's record, its held-out figures, what its author says of it and a model card come with
    them. An interrupted command leaves nothing in the folder.
    """
    check_new_folder(options.out)
    own_clip = RunDir(options.run).clip
    clip = options.clip or (own_clip if own_clip.is_dir() else None)
    if clip is not None:
        clip = part_of(clip, "clip")
        check_model_kind(model_dir(clip, "clip"), "clip")

    name = options.out.resolve().name
    with atomic_folder(options.out) as staging:
        inside = replace(options, out=staging, clip=clip)
        exported, written = _export(inside, terminal, name=name)
    files = [str(options.out / file.relative_to(staging)) for file in written]
    kind = kind_of(read_model_table(RunDir(options.out).model))
    facts = {"out": str(options.out), "kind": kind, "step": exported.step}
    terminal.result(str(options.out), {**facts, "files": files})


def _export(
    options: ExportOptions, terminal: Terminal, *, name: str
) -> tuple[ExportedRun, list[Path]]:
    """Export a run under a name, and its CLIP into a folder inside; return what was written."""
    run, target = RunDir(options.run), RunDir(options.out)
    source = model_dir(run.root)
    table = read_model_table(source)
    saved = find_saved_weights(run, options.checkpoint) if options.checkpoint else None
    about = read_about(run) if run.about.is_file() else None

    exported = describe_run(run, saved.step if saved else None)
    make_folder(target.root)
    files = exported.write(target)
    files += _export_model(source, target.model, saved, half=options.half)
    parts = []
    if run.dvae.is_dir():
        files += _export_model(model_dir(run.dvae), target.dvae, half=options.half)
        parts.append(read_model_table(target.dvae))
    if options.clip is not None:
        inside = replace(options, run=options.clip, out=target.clip, clip=None, checkpoint=None)
        files += _export(inside, terminal, name=f"{name}/{target.clip.name}")[1]
        parts.append(read_model_table(RunDir(target.clip).model))

    files += _copy_files([run.tokenizer, run.known_words, run.about], run.root, target.root)
    is_half = is_half_precision(target.model)
    card = model_card(name, table, exported, parts=parts, is_half=is_half, about=about)
    target.model_card.write_text(card, "utf-8")
    files.append(target.model_card)

    if exported.record is None and run.recipe.is_file():
        terminal.warn(f"{run.recipe} can't be read: the export has no recipe")
    return exported, files


def _export_model(
    source: Path, folder: Path, saved: SavedWeights | None = None, *, half: bool
) -> list[Path]:
    """Copy a model folder, or write one with other weights; return its files."""
    if saved is None and not half:
        return _copy_files([source / CONFIG, source / WEIGHTS], source, folder)

    table = read_model_table(source)
    config = {"kind": kind_of(table), "model": table.model_dump()}
    weights = dict(Stored(saved.files if saved else [source / WEIGHTS]))
    write_model(folder, config, half_precision(weights) if half else weights)
    return [folder / CONFIG, folder / WEIGHTS]


def _copy_files(paths: list[Path], source: Path, target: Path) -> list[Path]:
    """Copy the files that exist from their places below one folder to those below another."""
    copies = []
    for path in filter(Path.is_file, paths):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copies.append(Path(shutil.copyfile(path, copy)))
    return copies
