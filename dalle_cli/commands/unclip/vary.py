"""`dalle vary`: other pictures of what CLIP sees in a picture."""

from dataclasses import dataclass
from pathlib import Path

from dalle_cli.commands.reports.passed_over import tell_passed_over
from dalle_cli.commands.unclip.painted_rows import write_painted_rows
from dalle_cli.console import Terminal
from dalle_cli.data.picture_lists import find_pictures
from dalle_cli.generation.unclip.latent_points import variation_points
from dalle_cli.generation.unclip.painting import Painter, PaintOptions
from dalle_cli.storage.run_dir import check_new_folder


@dataclass(frozen=True)
class VaryOptions:
    """The command line of `vary`, but for how pictures are painted.

    n    variations of each picture
    eta  for those that begin with the picture's own noise: the share of randomness on the way;
         None: they begin with noise of their own
    """

    pictures: list[Path]
    n: int
    eta: float | None


def run_vary(options: PaintOptions, varied: VaryOptions, terminal: Terminal) -> None:
    """Write n variations of each picture, a manifest and a grid with the originals.

    Raises DalleError for whatever a user can cause; nothing is written then.
    """
    if options.out is not None:
        check_new_folder(options.out)
    listed = find_pictures(varied.pictures)
    painter = Painter.open(options, terminal.say)
    tell_passed_over(listed, terminal)
    latents = [painter.read(picture.path) for picture in listed.pictures]

    starts = None
    if varied.eta is not None:
        terminal.say(f"finding the noise of {len(latents):,} pictures")
        starts = painter.invert(latents)
        painter = painter.with_eta(varied.eta)
    points = variation_points(
        painter.decoder, latents, n=varied.n, seed=options.seed, starts=starts
    )
    write_painted_rows(
        painter,
        points,
        [(f"{latent.name} and its variations", [latent.picture]) for latent in latents],
        options=options,
        facts={"is_inverted": starts is not None},
        terminal=terminal,
    )
