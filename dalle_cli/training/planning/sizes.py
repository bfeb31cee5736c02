"""How large the models of a plan are, and why: pure functions of a situation.

The paper trains one size, so the rules are ours. They were tried on emoji, photographs and toy
scenes on two CPU cores, and extended to GPUs by counting operations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from dalle_cli.config import (
    ClipModelTable,
    DVAEModelTable,
    ModelTable,
    TowerTable,
    TrainedClipTable,
    TrainedTransformerTable,
)
from dalle_cli.loading import trained_clip_table
from dalle_cli.training.planning.cost import count_parameters, sample_flops
from dalle_cli.training.planning.situation import Pictures, Situation

Limit = TypeVar("Limit")

IMAGE_SIZES = (32, 48, 64, 96, 128, 192, 256)  # pixels
# operations of the whole plan from which larger pictures are worth their time
OPERATIONS_FOR_SIZE = {32: 0.0, 64: 6e13, 128: 3e15, 256: 2e18}
FLAT = 0.25  # flatness from which pictures count as drawings, which need small cells
CODEBOOK_SIZES = {32: 256, 64: 512, 128: 1024, 192: 4096, 256: 8192}  # by image size

# more would only learn so few pictures by heart
WIDEST_DVAE = {0: 64, 1_000: 128, 100_000: 256}
WIDEST_TRANSFORMER = {0: 256, 1_000: 512, 20_000: 768, 200_000: 1024}

MANY = 20_000  # pictures from which the codebook is doubled
LARGEST_CODEBOOK = 8192  # the paper's

DVAE_WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256)  # channels next to the pixels
TRANSFORMERS = (  # d_model, layers, heads
    (128, 4, 4),
    (192, 4, 4),
    (256, 6, 4),
    (384, 8, 6),
    (512, 8, 8),
    (768, 12, 12),
    (1024, 20, 16),
)
TOKENS_PER_WORD = 2  # in a long caption; rare words fall into pieces
LONGEST_TEXT = 256  # the paper's, as is the vocabulary
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 512, 16_384

# of the time, by the side of the pictures from which they hold; the rest generates
SHARES = {
    32: {"dvae": 0.2, "transformer": 0.64, "clip": 0.06},
    48: {"dvae": 0.36, "transformer": 0.48, "clip": 0.06},
}
CLIP_SAMPLES = 15_000  # that it must see in its share of the time
FEWEST_FOR_CLIP = 300  # captioned pictures; from fewer, a CLIP learns nothing that ranks


STATE_BYTES_PER_PARAMETER = 20  # weights, gradients, two moments and the average, in fp32
MODEL_SHARE = 0.4  # of a device's memory


@dataclass(frozen=True)
class Need:
    """The samples that a model must see in training before a larger one is worth its time."""

    at_least: int
    for_each_picture: int
    at_most: int

    def samples(self, n_pictures: int) -> int:
        """Return the number for a data set."""
        return min(max(self.at_least, self.for_each_picture * n_pictures), self.at_most)


DVAE_NEED = Need(40_000, 50, 2_000_000)
TRANSFORMER_NEED = Need(24_000, 50, 2_000_000)


@dataclass(frozen=True)
class Choice:
    """One choice of a plan, for people: what was chosen, and the reason."""

    what: str
    value: str
    reason: str


def time_shares(image_size: int) -> Mapping[str, float]:
    """Return the share of the time that each kind of model trains, in the order of training.

    The dVAE of small pictures has less to learn.
    """
    return limit_for(SHARES, image_size)


def choose_sizes(situation: Situation) -> tuple[dict[str, ModelTable], list[Choice]]:
    """Choose the size of each model, by its kind and in the order of training, with reasons."""
    pictures = situation.pictures
    image_size, of_picture = choose_image_size(situation)
    cell, of_cell = choose_cell(image_size, pictures)
    dvae, of_dvae = choose_dvae(situation, image_size=image_size, cell=cell)
    transformer, of_transformer = choose_transformer(situation, dvae=dvae, cell=cell)
    clip, of_clip = choose_clip(situation, image_size=image_size)

    tables: dict[str, ModelTable] = {"dvae": dvae, "transformer": transformer}
    if clip is not None:
        tables["clip"] = clip
    of_text = choose_text(pictures)[2]
    return tables, [of_picture, of_cell, of_dvae, of_text, of_transformer, of_clip]


def choose_image_size(situation: Situation) -> tuple[int, Choice]:
    """Choose the side of the pictures by the time and by how large they are."""
    side, operations = situation.pictures.side, situation.operations
    affordable = max(size for size, least in OPERATIONS_FOR_SIZE.items() if operations >= least)
    there = max((size for size in IMAGE_SIZES if size <= side), default=IMAGE_SIZES[0])

    chosen = min(affordable, there)
    reason = f"what the time allows; the pictures have {side}"
    if there < affordable:
        reason = f"the pictures have {side}"
    return chosen, Choice("picture", f"{chosen} px", reason)


def choose_cell(image_size: int, pictures: Pictures) -> tuple[int, Choice]:
    """Choose how many pixels an image token stands for; drawings need the finer grid."""
    is_flat = pictures.flatness >= FLAT
    is_fine = image_size <= 64 or (is_flat and image_size <= 128)
    cell = 4 if is_fine else 8
    grid = image_size // cell

    look = "flat" if is_flat else "not flat"
    reason = f"cells of {cell}x{cell} px; {pictures.flatness:.0%} of the pictures' area is one "
    return cell, Choice("image tokens", f"{grid}x{grid}", f"{reason}colour: {look}")


def choose_dvae(
    situation: Situation, *, image_size: int, cell: int
) -> tuple[DVAEModelTable, Choice]:
    """Choose the widest discrete VAE that still sees enough pictures in its share of the time."""
    n_pictures = situation.pictures.n_samples
    codebook = max(size for side, size in CODEBOOK_SIZES.items() if image_size >= side)
    if n_pictures >= MANY:
        codebook = min(2 * codebook, LARGEST_CODEBOOK)

    def table(width: int) -> DVAEModelTable:
        return DVAEModelTable(
            image_size=image_size,
            vocab_size=codebook,
            n_hidden=width,
            n_init=min(max(2 * width, 48), 128),
            n_groups=1 + int(math.log2(cell)),
            blocks_per_group=1,
        )

    need, share = DVAE_NEED.samples(n_pictures), time_shares(image_size)["dvae"]
    operations = share * situation.operations
    allowed = [width for width in DVAE_WIDTHS if width <= limit_for(WIDEST_DVAE, n_pictures)]
    affordable = takewhile(lambda width: need * sample_flops(table(width)) <= operations, allowed)
    chosen = max(affordable, default=DVAE_WIDTHS[0])

    reason = f"the widest that sees {need:,} pictures in {share:.0%} of the time"
    if need * sample_flops(table(chosen)) > operations:
        reason = "the narrowest, as the time is short"
    elif chosen == allowed[-1]:
        reason = f"wide enough for {n_pictures:,} pictures"
    value = f"{chosen} channels, {codebook:,} entries"
    return table(chosen), Choice("dVAE", value, reason)


def choose_text(pictures: Pictures) -> tuple[int, int, Choice]:
    """Choose the text positions and the vocabulary for the captions, and return them in turn."""
    n_tokens = TOKENS_PER_WORD * pictures.caption_words + 2
    text_len = min(max(math.ceil(n_tokens / 8) * 8, 8), LONGEST_TEXT)
    # of more tokens than words, most would have a caption or two to learn from
    vocab = 2 ** math.floor(math.log2(max(pictures.n_words, 1)))
    vocab = min(max(vocab, SMALLEST_VOCABULARY), LARGEST_VOCABULARY)

    words = f"{pictures.n_words:,} different words; long captions have {pictures.caption_words}"
    return text_len, vocab, Choice("caption", f"{text_len} positions, {vocab:,} tokens", words)


def choose_transformer(
    situation: Situation, *, dvae: DVAEModelTable, cell: int
) -> tuple[TrainedTransformerTable, Choice]:
    """Choose the largest transformer that still sees enough samples in its share of the time."""
    text_len, text_vocab_size, _ = choose_text(situation.pictures)
    grid_size = dvae.image_size // cell

    def table(size: tuple[int, int, int]) -> TrainedTransformerTable:
        d_model, n_layers, n_heads = size
        return TrainedTransformerTable(
            text_len=text_len,
            text_vocab_size=text_vocab_size,
            grid_size=grid_size,
            image_vocab_size=dvae.vocab_size,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            kernel_size=11 if grid_size >= 32 else 5,
        )

    need = TRANSFORMER_NEED.samples(situation.pictures.n_samples)
    share = time_shares(dvae.image_size)["transformer"]
    operations = share * situation.operations

    def is_affordable(size: tuple[int, int, int]) -> bool:
        is_in_time = need * sample_flops(table(size)) <= operations
        return is_in_time and _fits(table(size), situation.machine.memory)

    widest = limit_for(WIDEST_TRANSFORMER, situation.pictures.n_samples)
    allowed = [size for size in TRANSFORMERS if size[0] <= widest]
    chosen = max(takewhile(is_affordable, allowed), default=TRANSFORMERS[0])

    reason = f"the largest that sees {need:,} samples in {share:.0%} of the time"
    if not is_affordable(chosen):
        reason = "the smallest, as the time is short"
    elif chosen == allowed[-1]:
        reason = f"large enough for {situation.pictures.n_samples:,} pictures"
    value = f"{chosen[1]} layers of {chosen[0]}"
    return table(chosen), Choice("transformer", value, reason)


def choose_clip(situation: Situation, *, image_size: int) -> tuple[TrainedClipTable | None, Choice]:
    """Choose the CLIP that ranks, or none where there are too few pictures to learn from."""
    pictures, is_gpu = situation.pictures, situation.machine.is_gpu
    if min(pictures.n_samples, pictures.n_captions) < FEWEST_FOR_CLIP:
        reason = f"fewer than {FEWEST_FOR_CLIP} different captions would teach it nothing"
        return None, Choice("CLIP", "none", reason)

    width = 256 if is_gpu else 128
    side = min(image_size, 128)
    text_len, vocab_size, _ = choose_text(pictures)
    sizes = ClipModelTable(
        image_size=side,
        patch_size=side // 8,
        text_len=text_len + 1,
        d_embed=width,
        activation="quick_gelu",
        vision=_tower(width, n_layers=6 if is_gpu else 4),
        text=_tower(width, n_layers=4 if is_gpu else 3),
    )
    table = trained_clip_table(sizes, vocab_size)
    if CLIP_SAMPLES * sample_flops(table) > time_shares(image_size)["clip"] * situation.operations:
        return None, Choice("CLIP", "none", "the time is too short to train one")
    value = f"{sizes.vision.n_layers} and {sizes.text.n_layers} layers of {width}"
    return table, Choice("CLIP", value, "ranks the pictures that are generated")


def _tower(width: int, *, n_layers: int) -> TowerTable:
    return TowerTable(n_layers=n_layers, d_model=width, n_heads=width // 64, d_mlp=4 * width)


def limit_for(limits: Mapping[int, Limit], size: int) -> Limit:
    """Return the limit for a number of pictures or pixels, by the numbers from which each holds."""
    return limits[max(least for least in limits if size >= least)]


def _fits(table: TrainedTransformerTable, memory: int) -> bool:
    """Return whether the state of a model leaves room for samples on a device."""
    return STATE_BYTES_PER_PARAMETER * count_parameters(table) <= MODEL_SHARE * memory
