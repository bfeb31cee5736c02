"""`dalle project`: pictures of which CLIP's embedding is kept in part."""

from dataclasses import dataclass
from pathlib import Path

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.commands.unclip.painted_rows import write_painted_rows
from dalle_cli.console import Terminal
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.data.sources import Columns, open_dataset
from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.unclip.latent_points import projection_points
from dalle_cli.generation.unclip.painting import Painter, PaintOptions
from dalle_cli.models.unclip.embedding_codec import PrincipalComponents, principal_components
from dalle_cli.scoring.sampled_embeddings import sample_image_embeddings
from dalle_cli.storage.run_dir import check_new_folder


@dataclass(frozen=True)
class ProjectOptions:
    """The command line of `project`, but for how pictures are painted.

    data    pictures, or embeddings of them, whose principal components are found
    counts  how many components are kept, for each picture of a row
    """

    pictures: list[Path]
    data: str
    image_column: str | None
    counts: tuple[int, ...]


def run_project(options: PaintOptions, projected: ProjectOptions, terminal: Terminal) -> None:
    """Write each picture with fewer and fewer components of its embedding, in one row.

    Raises DalleError for whatever a user can cause; nothing is written then.
    """
    if options.out is not None:
        check_new_folder(options.out)
    listed = find_pictures(projected.pictures)
    painter = Painter.open(options, terminal.say).with_eta(0.0)
    basis = _basis(painter, projected, terminal)
    tell_passed_over(listed, terminal)
    latents = [painter.read(picture.path) for picture in listed.pictures]

    counts = projected.counts
    points = projection_points(painter.decoder, latents, basis, counts=counts, seed=options.seed)
    shown = ", ".join(map(str, counts))
    write_painted_rows(
        painter,
        points,
        [(f"{latent.name}, and with {shown} components", [latent.picture]) for latent in latents],
        options=options,
        facts={"data": projected.data},
        terminal=terminal,
    )


def _basis(painter: Painter, projected: ProjectOptions, terminal: Terminal) -> PrincipalComponents:
    """Find as many principal components as any picture keeps."""
    source = open_dataset(
        projected.data,
        captions_required=False,
        embeddings_allowed=True,
        columns=Columns(projected.image_column),
    )
    terminal.say(f"data: {printable(source.name)}: {source.form}")
    terminal.warn_about(source.problems)

    n, width = max(projected.counts), painter.scorer.width
    if n > width:
        message = f"`--components` asks for {n} components, and embeddings have {width} entries"
        raise UsageError(message, f"keep at most {width}")
    embeddings = sample_image_embeddings(source, painter.scorer)  # [N, D]
    basis = principal_components(embeddings, n)
    terminal.say(
        f"of {len(embeddings):,} embeddings, {n} components hold {basis.share:.1%} of the variance"
    )
    return basis
