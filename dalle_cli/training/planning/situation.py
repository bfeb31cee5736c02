"""What a plan depends on: facts about the pictures, the captions, the device and the time.

`survey` looks at a source; the facts about the machine come from the caller.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np
import torch
from PIL import Image

from dalle_cli.data.images import BadSample, decode_image, to_tensor
from dalle_cli.data.sources import Source
from dalle_cli.errors import DalleError
from dalle_cli.metrics import blank_cells
from dalle_cli.runtime.devices import free_memory
from dalle_cli.runtime.peak_rates import MATRIX_ORDER, measure_matmul_rate, stored_matmul_rate
from dalle_cli.runtime.precision import DTYPES, Precision

MOST_LOOKED_AT = 200  # pictures
MOST_READ = 5_000  # samples whose captions are read
BLANK_SIDE, BLANK_GRID = 64, 16  # pixels and cells at which flatness is judged
EFFICIENCY = 0.15  # of the peak rate of matrix products, as small models reach it
LONG = 0.95  # share of the captions that are no longer than `caption_words`


@dataclass(frozen=True)
class Pictures:
    """Facts about captioned pictures.

    n_samples        all of them
    side             the median of their short sides, in pixels
    flatness         share of 4x4 cells, at 64 pixels, that have one colour
    n_captions       different captions among those that were read
    n_words          different words in these
    caption_words    words of a long caption: 95 % are no longer
    """

    n_samples: int
    side: int
    flatness: float
    n_captions: int
    n_words: int
    caption_words: int


@dataclass(frozen=True)
class Machine:
    """Facts about the devices that train.

    device  "cpu" or "cuda"
    memory  bytes that one device can still allocate
    flops   floating-point operations a second that training reaches on one device
    """

    device: str
    n_devices: int
    memory: int
    flops: float

    @property
    def is_gpu(self) -> bool:
        """Whether the devices are GPUs."""
        return self.device != "cpu"


def look_at_machine(device: torch.device, precision: Precision, n_devices: int) -> Machine:
    """Return the facts about a device, of which there are `n_devices` alike.

    Its rate is that of `dalle doctor --measure`, or of a product that is timed now, and the share
    of it that small models reach.
    """
    rate = stored_matmul_rate(device, precision)
    if rate is None:
        dtype = DTYPES.get(precision, torch.float32)
        rate = measure_matmul_rate(device, dtype, order=MATRIX_ORDER.get(device.type, 2048))
    return Machine(device.type, n_devices, free_memory(device), EFFICIENCY * rate)


@dataclass(frozen=True)
class Situation:
    """All that a plan depends on.

    seconds  for training and generating, all models together
    """

    pictures: Pictures
    machine: Machine
    seconds: float

    @property
    def operations(self) -> float:
        """The floating-point operations that all devices can do in the time."""
        return self.seconds * self.machine.flops * self.machine.n_devices


def survey(source: Source) -> Pictures:
    """Look at some pictures and read captions, spread evenly over a source.

    Raises DalleError if none of the pictures can be read.
    """
    sides, flatness = [], []
    for picture in _some_pictures(source):
        sides.append(min(picture.size))
        flatness.append(_flatness(picture))
    if not sides:
        hint = "`dalle data check` says what is wrong with each"
        raise DalleError(f"no picture of {source.name} can be read", hint)

    captions = set(_some_captions(source))
    lengths = [len(caption.split()) for caption in captions] or [0]
    return Pictures(
        n_samples=len(source),
        side=int(median(sides)),
        flatness=round(sum(flatness) / len(flatness), 3),
        n_captions=len(captions),
        n_words=len({word for caption in captions for word in caption.lower().split()}),
        caption_words=_long(lengths),
    )


def _spread(n: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below n, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()


def _some_pictures(source: Source) -> Iterator[Image.Image]:
    for index in _spread(len(source), MOST_LOOKED_AT):
        try:
            yield decode_image(source.read(index).image)
        except BadSample:
            continue  # training skips it, and counts it


def _some_captions(source: Source) -> Iterator[str]:
    for index in _spread(len(source), MOST_READ):
        try:
            yield from source.captions(index)
        except BadSample:
            continue


def _flatness(picture: Image.Image) -> float:
    """Return the share of cells that have one colour, give or take what scaling leaves."""
    small = picture.resize((BLANK_SIDE, BLANK_SIDE), Image.Resampling.BOX)
    levels = (to_tensor(small) // 4).to(torch.float32)  # 64 levels
    return float(blank_cells(levels[None], BLANK_GRID).to(torch.float32).mean())


def _long(lengths: list[int]) -> int:
    if len(lengths) == 1:
        return lengths[0]
    return round(quantiles(lengths, n=100, method="inclusive")[round(100 * LONG) - 1])
