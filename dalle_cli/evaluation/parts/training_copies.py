"""The part about copies: the training pictures nearest to generated ones."""

from collections.abc import Callable

from PIL import Image

from dalle_cli.errors import DalleError, printable
from dalle_cli.evaluation.evaluated_pairs import TrainingPictures, open_training_pictures, spread
from dalle_cli.evaluation.evaluation_folder import Part
from dalle_cli.evaluation.figures.copies import (
    CLOSE_SHARE,
    MOST_COMPARED,
    PIXEL_SIDE,
    NearestPictures,
    closest_pictures,
    copy_figures,
    find_nearest,
)
from dalle_cli.evaluation.parts.measurement import Measurement
from dalle_cli.evaluation.picture_sets import (
    GeneratedPictures,
    SourcePictures,
    Square,
    centred_pictures,
)
from dalle_cli.storage.atomic import write_file
from dalle_cli.storage.run_dir import RunDir

MOST_TRAINING = 20_000  # training pictures in which copies are looked for


def find_training_pictures(measurement: Measurement) -> TrainingPictures | None:
    """Open the training pictures that are named, or recorded; where none are, a note says so.

    Raises DalleError where those that the user named cannot be read.
    """
    settings, terminal = measurement.plan.settings, measurement.terminal
    found = None
    try:
        found = open_training_pictures(
            settings.train,
            RunDir(measurement.plan.run),
            n=MOST_TRAINING,
            columns=settings.columns,
        )
    except DalleError as error:
        if settings.train is not None:
            raise
        terminal.say(f"the training pictures cannot be read: {error.message}")
    if found is None:
        terminal.say("copies are not looked for: `--train SRC` names the training pictures")
    return found


def copies_part(measurement: Measurement, training: TrainingPictures) -> Part:
    """Measure how near generated pictures are to training pictures, and show the nearest."""
    held_out = measurement.real_pictures(MOST_COMPARED)
    generated = _some(measurement.generated, MOST_COMPARED)
    pictures = centred_pictures(training.source, training.indices, measurement.side)
    key = {**measurement.judge, **training.facts}
    protocol = {
        **key,
        "available": training.n_available,
        "generated": len(generated),
        "held_out": len(held_out),
        "pixels": f"both scaled by area to {PIXEL_SIDE} pixels",
        "close": f"nearer than the nearest {CLOSE_SHARE:.0%} of held-out pictures are",
    }

    def measure(advance: Callable[[], None]) -> Part:
        nearest = find_nearest(
            generated, held_out, pictures, scorer=measurement.judges.scorer, advance=advance
        )
        if len(pictures.bad) == len(pictures):
            message = f"not one usable picture in {printable(training.source.name)}"
            raise DalleError(message, "`dalle data check` says why")
        for name, found in nearest.items():
            file = measurement.folder.path / f"nearest-by-{name.replace('_', '-')}.png"
            write_file(file, _closest(found, generated, pictures))
        return Part(copy_figures(nearest), protocol, _warnings(held_out, training))

    n = len(generated) + len(held_out) + len(pictures)
    return measurement.part("nearest", key, n, measure)


def _closest(
    found: NearestPictures, generated: GeneratedPictures, training: SourcePictures
) -> bytes:
    def picture(square: object) -> Image.Image:
        assert isinstance(square, Square), "it was read before"
        return Image.fromarray(square.pixels)

    return closest_pictures(
        found, lambda i: picture(generated.read(i)), lambda i: picture(training.read(i))
    )


def _warnings(held_out: SourcePictures, training: TrainingPictures) -> list[str]:
    warnings = []
    if len(held_out) < 1 / CLOSE_SHARE:
        warnings.append(
            f"nearest/close_by_... rests on {len(held_out)} held-out pictures, where "
            f"{CLOSE_SHARE:.0%} is less than one"
        )
    if len(training.indices) < training.n_available:
        warnings.append(
            f"copies were looked for in {len(training.indices):,} of {training.n_available:,} "
            "training pictures"
        )
    return warnings


def _some(pictures: GeneratedPictures, most: int) -> GeneratedPictures:
    """Return at most so many pictures, evenly spread."""
    chosen = spread(len(pictures), most).tolist()
    files, captions = pictures.files, pictures.captions
    return GeneratedPictures([files[i] for i in chosen], [captions[i] for i in chosen])
