"""`dalle data overlap`: which pictures of a test set are in the training set as well."""

from dataclasses import dataclass
from pathlib import Path

from dalle_cli.console import Terminal
from dalle_cli.data.sources import Columns, Source, open_dataset
from dalle_cli.errors import printable
from dalle_cli.runtime.devices import explain_out_of_memory, open_device
from dalle_cli.scoring.clip_scorer import load_clip_scorer
from dalle_cli.scoring.overlap.clip_embedding import ClipDescriptor
from dalle_cli.scoring.overlap.comparison import Comparison
from dalle_cli.scoring.overlap.descriptors import Descriptor
from dalle_cli.scoring.overlap.overlap_folder import EXCLUDED_TRAINING, SHEET, OverlapFolder
from dalle_cli.scoring.overlap.perceptual_hash import HashDescriptor
from dalle_cli.storage.atomic import atomic_folder
from dalle_cli.storage.run_dir import check_new_folder


@dataclass(frozen=True)
class OverlapOptions:
    """The command line of `data overlap`.

    clip       by which pictures are compared; None: by perceptual hashes
    threshold  None: what is usual for the method
    """

    training: str
    test: str
    out: Path
    image_column: str | None
    clip: str | None
    tokenizer: Path | None
    threshold: float | None
    device: str
    precision: str


def run_data_overlap(options: OverlapOptions, terminal: Terminal) -> None:
    """Compare all pictures, and write the nearest pairs and the keys of copies into a new folder.

    Pictures that cannot be read are reported and left out. An interrupted command leaves nothing in
    the folder. Raises DalleError for what a user can cause.
    """
    check_new_folder(options.out)
    descriptor = _descriptor(options, terminal)
    training, test = (_open(spec, options, terminal) for spec in (options.training, options.test))
    threshold = descriptor.threshold if options.threshold is None else options.threshold
    terminal.say(
        f"comparing {len(test):,} test pictures with {len(training):,} training pictures, writing "
        f"{options.out}: {descriptor.method}"
    )

    comparison = Comparison(training, test, descriptor, threshold, terminal)
    with explain_out_of_memory():
        overlap = comparison.run()
    facts = comparison.facts(overlap)
    with atomic_folder(options.out) as staging:
        OverlapFolder(staging, training, test).write(overlap, facts)

    terminal.say(
        f"{len(overlap.test):,} of {len(test):,} test pictures are among the training pictures, up "
        f"to a distance of {threshold:g} {descriptor.unit}\n"
        f"{options.out / SHEET} shows the pairs about that distance: look where they stop being "
        "copies, and draw the line there with `--threshold`"
    )
    if overlap.training:
        excluded = ["--exclude", str(options.out / EXCLUDED_TRAINING)]
        terminal.suggest(["train", options.training, *excluded, "--run", "DIR"])
    terminal.result(str(options.out), {"out": str(options.out), **facts})


def _descriptor(options: OverlapOptions, terminal: Terminal) -> Descriptor:
    if options.clip is None:
        return HashDescriptor()
    device, precision = open_device(options.device, options.precision, say=terminal.say)
    scorer = load_clip_scorer(options.clip, options.tokenizer, device=device, precision=precision)
    for warning in scorer.warnings([]):
        terminal.warn(warning)
    return ClipDescriptor(scorer)


def _open(spec: str, options: OverlapOptions, terminal: Terminal) -> Source:
    source = open_dataset(spec, captions_required=False, columns=Columns(options.image_column))
    terminal.say(f"data: {printable(source.name)}: {source.form}")
    terminal.warn_about(source.problems)
    return source
