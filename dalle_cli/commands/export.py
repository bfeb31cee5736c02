"""`dalle export`: everything that inference needs, as one folder of safetensors and JSON."""

from dataclasses import dataclass, replace
from pathlib import Path

from dalle_cli.commands.reports.exports.exported_model import export_model
from dalle_cli.commands.reports.exports.exported_run import ExportedRun, describe_run
from dalle_cli.commands.reports.exports.exported_texts import export_texts
from dalle_cli.commands.reports.exports.joined_models import find_joined_clip, find_joined_prior
from dalle_cli.commands.reports.exports.model_card import model_card
from dalle_cli.commands.reports.exports.onnx_files import check_dvae_for_onnx, write_onnx
from dalle_cli.config import TRAINED_WITH_CLIP, ModelTable, kind_of
from dalle_cli.console import Terminal
from dalle_cli.loading import check_model
from dalle_cli.loading.prior_variances import export_variances
from dalle_cli.storage.atomic import atomic_folder, make_folder, write_file
from dalle_cli.storage.checkpoint_folder import find_saved_weights
from dalle_cli.storage.model_about import read_about
from dalle_cli.storage.model_folder import is_half_precision, read_model_table
from dalle_cli.storage.run_dir import WEIGHTS, RunDir, check_new_folder, model_dir


@dataclass(frozen=True)
class ExportOptions:
    """The command line of `export`.

    clip        a CLIP's run that is exported, too; None: the CLIP that an export brings
    prior       that is exported with a decoder; None: the prior that an export brings
    checkpoint  whose weights are exported: "best", "last" or a step; None: the run's model
    half        whether matrices are stored in fp16
    onnx        whether the dVAE is written as ONNX, too
    """

    run: Path
    out: Path
    clip: Path | None = None
    prior: Path | None = None
    checkpoint: str | None = None
    half: bool = False
    onnx: bool = False


def run_export(options: ExportOptions, terminal: Terminal) -> None:
    """Copy a run's model, and its dVAE and tokenizer if it has them, without its training state.

    The run's record, its held-out figures, what its author says of it and a model card come with
    them. The folder appears complete or not at all, and nothing damaged is exported.
    """
    check_new_folder(options.out)
    if options.onnx:
        check_dvae_for_onnx(options.run)
    clip = find_joined_clip(options.run, options.clip)
    prior = find_joined_prior(options.run, options.prior)
    with atomic_folder(options.out) as staging:
        inside = replace(options, clip=clip, prior=prior, out=staging)
        exported = _export(inside, terminal, name=options.out.resolve().name)
        kind = kind_of(read_model_table(RunDir(staging).model))
        if options.onnx:
            write_onnx(staging)
        written = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())

    files = [str(options.out / file) for file in written]
    facts = {"out": str(options.out), "kind": kind, "step": exported.step, "files": files}
    terminal.result(str(options.out), facts)


def _export(options: ExportOptions, terminal: Terminal, *, name: str) -> ExportedRun:
    """Export a run under a name, and what goes with it into folders inside.

    Returns what is said of the run.
    """
    run, target = RunDir(options.run), RunDir(options.out)
    source = model_dir(run.root)
    saved = find_saved_weights(run, options.checkpoint) if options.checkpoint else None
    table = read_model_table(source) if saved else check_model(source)
    about = read_about(run) if run.about.is_file() else None

    exported = describe_run(run, saved.step if saved else None)
    exported.write(target)
    weights = saved.files if saved else [source / WEIGHTS]
    export_model(table, weights, target.model, half=options.half)
    if kind_of(table) == "prior" and saved is None:  # of a checkpoint there are none
        export_variances(run, target)
    parts = []
    if run.dvae.is_dir():
        dvae = model_dir(run.dvae)
        parts.append(check_model(dvae))
        export_model(parts[-1], [dvae / WEIGHTS], target.dvae, half=options.half)
    if run.codec.is_dir():
        parts.append(check_model(run.codec))
        export_model(parts[-1], [run.codec / WEIGHTS], target.codec, half=False)
    if options.clip is not None:
        # by its checksum, priors and decoders fit
        half = options.half and kind_of(table) not in TRAINED_WITH_CLIP
        inside = ExportOptions(options.clip, target.clip, half=half)
        parts.append(_export_part(inside, terminal, name=name))
    if options.prior is not None:
        inside = ExportOptions(options.prior, target.prior, half=options.half)
        parts.append(_export_part(inside, terminal, name=name))

    export_texts(run, target)
    is_half = is_half_precision(target.model)
    card = model_card(name, table, exported, parts=parts, is_half=is_half, about=about)
    write_file(target.model_card, card)

    if exported.record is None and run.recipe.is_file():
        terminal.warn(f"{run.recipe} can't be read: the export has no recipe")
    return exported


def _export_part(options: ExportOptions, terminal: Terminal, *, name: str) -> ModelTable:
    """Export a run into a folder of another export, which has a name; return its sizes."""
    make_folder(options.out)
    _export(options, terminal, name=f"{name}/{options.out.name}")
    return read_model_table(RunDir(options.out).model)
