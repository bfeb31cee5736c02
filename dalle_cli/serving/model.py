"""What the server knows of a model, and a loaded one as such."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from dalle_cli.generation.sampling import SamplingSettings
from dalle_cli.generation.text_to_image import (
    GeneratedImage,
    GenerationOptions,
    RankBy,
    TextToImage,
)
from dalle_cli.serving.picture_request import PictureRequest
from dalle_cli.storage.model_about import SamplingAdvice

BATCH_SIZE = 4  # more would be a little faster in all, and the first picture would come later


class PreparedPictures(Protocol):
    """Pictures that are ready to be generated; `Generation` is one."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def images(self) -> Iterator[GeneratedImage]:
        """Generate all pictures; yield them as they come."""
        ...

    def kept(self, images: Sequence[GeneratedImage]) -> list[GeneratedImage]:
        """Return those of all pictures that are kept, in their order."""
        ...


class ServedModel(Protocol):
    """A model that is tried on a page.

    name        for people
    examples    captions that it knows
    rankings    what can rank its pictures
    image_size  of its pictures, pixels a side
    grid_size   of their tokens
    advice      how they are best
    """

    @property
    def name(self) -> str: ...

    @property
    def examples(self) -> Sequence[str]: ...

    @property
    def rankings(self) -> tuple[RankBy, ...]: ...

    @property
    def image_size(self) -> int: ...

    @property
    def grid_size(self) -> int: ...

    @property
    def advice(self) -> SamplingAdvice: ...

    def prepare(
        self,
        request: PictureRequest,
        image: Image.Image | None,
        on_progress: Callable[[float], None],
    ) -> PreparedPictures:
        """Prepare the pictures of a request.

        image        to begin from
        on_progress  is called often with the share that is done; what it raises ends the generation

        Raises UsageError for a request that can't be right.
        """
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model under a name."""

    name: str
    examples: Sequence[str]
    text_to_image: TextToImage

    @property
    def rankings(self) -> tuple[RankBy, ...]:
        """What can rank its pictures."""
        return self.text_to_image.rankings

    @property
    def image_size(self) -> int:
        """Pixels a side of its pictures."""
        return self.text_to_image.pipeline.dvae.image_size

    @property
    def grid_size(self) -> int:
        """Tokens a side of its pictures."""
        return self.text_to_image.pipeline.dvae.grid_size

    @property
    def advice(self) -> SamplingAdvice:
        """How its pictures are best."""
        return self.text_to_image.advice

    def prepare(
        self,
        request: PictureRequest,
        image: Image.Image | None,
        on_progress: Callable[[float], None],
    ) -> PreparedPictures:
        """Prepare the pictures of a request, a few of which are sampled at a time."""
        sampling = SamplingSettings(temperature=request.temperature, guidance=request.guidance)
        options = GenerationOptions(
            n=request.n,
            first=request.first,
            seed=request.seed,
            sampling=sampling,
            rank=request.rank,
            best=request.best,
            image=image,
            keep_rows=request.keep_rows,
            batch_size=BATCH_SIZE,
        )
        return self.text_to_image.prepare([request.caption], options, on_progress=on_progress)
