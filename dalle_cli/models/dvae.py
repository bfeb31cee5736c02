"""The discrete VAE: pictures to a grid of codebook entries and back (Ramesh et al. 2021, section 2.1, appendix A).

Architecture as in the released weights: bottleneck residual blocks without normalisation, max-pooling down,
nearest-neighbour up, 1x1 convolutions next to the relaxation. Knows nothing of losses, schedules or noise sources.
Axes used below:

    B batch    C channels    H W height and width of a picture    K codebook size    g side of the token grid
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_EPS = (
    0.1  # the logit-Laplace density diverges at 0 and 1, so pixels are kept away from both (A.3)
)


def map_pixels(images: Tensor) -> Tensor:
    """Squeeze pixel values from [0, 1] into [0.1, 0.9], the range the decoder models (appendix A.3)."""
    return (1 - 2 * PIXEL_EPS) * images + PIXEL_EPS


def unmap_pixels(mapped: Tensor) -> Tensor:
    """Invert `map_pixels`, clamping what lies outside its range to [0, 1]."""
    return ((mapped - PIXEL_EPS) / (1 - 2 * PIXEL_EPS)).clamp(0, 1)


def relax(logits: Tensor, temperature: float, gumbel: Tensor) -> Tensor:
    """Draw from the Gumbel-softmax relaxation of the encoder's categorical (Ramesh et al. 2021, section 2.1).

    logits   [B, K, g, g]
    gumbel   [B, K, g, g], standard Gumbel noise
    returns  [B, K, g, g], a soft one-hot vector in each cell; one-hot as the temperature goes to 0

    Fast where both have their entries side by side (channels last), as the result has.
    """
    noisy = (logits + gumbel).div_(
        temperature
    )  # in place: nobody else has the sum, the widest tensor of all
    cells = noisy.movedim(1, -1)  # softmax wants its own dimension last
    return cells.softmax(dim=-1).movedim(-1, 1)


class Conv(nn.Conv2d):
    """A same-size convolution with the released initialisation: weights N(0, 1 / fan-in), bias 0."""

    def __init__(self, n_in: int, n_out: int, kernel_size: int) -> None:
        super().__init__(n_in, n_out, kernel_size, padding=(kernel_size - 1) // 2)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return  # nothing to draw, and torch would import a second's worth of modules for it
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.bias)


class ResBlock(nn.Module):
    """id_path(x) + post_gain * res_path(x), the residual path a bottleneck of four convolutions."""

    def __init__(
        self, n_in: int, n_out: int, kernels: tuple[int, int, int, int], post_gain: float
    ) -> None:
        super().__init__()
        if n_out % 4:
            raise ValueError(f"a residual block's width must be divisible by 4: {n_out}")
        widths = [n_in, n_out // 4, n_out // 4, n_out // 4, n_out]
        self.post_gain = post_gain
        self.id_path = Conv(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.res_path = nn.Sequential()
        for i, kernel_size in enumerate(kernels):
            self.res_path.add_module(f"relu_{i + 1}", nn.ReLU())
            self.res_path.add_module(f"conv_{i + 1}", Conv(widths[i], widths[i + 1], kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.id_path(x), self.res_path(x), alpha=self.post_gain)


def _tower(
    widths: list[int],
    blocks_per_group: int,
    kernels: tuple[int, int, int, int],
    resample: nn.Module,
) -> list[tuple[str, nn.Module]]:
    """Name the groups of residual blocks from widths[0] to widths[-1]; all but the last end by resampling."""
    n_groups = len(widths) - 1
    post_gain = 1 / (n_groups * blocks_per_group) ** 2
    groups = []
    for i in range(n_groups):
        n_in, n_out = widths[i], widths[i + 1]
        blocks = [
            (f"block_{j + 1}", ResBlock(n_in if j == 0 else n_out, n_out, kernels, post_gain))
            for j in range(blocks_per_group)
        ]
        end = [("resample", resample)] if i < n_groups - 1 else []
        groups.append((f"group_{i + 1}", nn.Sequential(OrderedDict(blocks + end))))
    return groups


class DVAEEncoder(nn.Module):
    """The half that reads: pictures to a grid of entries of a codebook of `vocab_size`.

    n_hidden is the width next to the pixels; it doubles from group to group, while each of the n_groups - 1 poolings
    halves the picture. The paper: 4 groups of 2 blocks, n_hidden 256, vocab_size 8192, 256 px; 53,786,240 parameters.
    """

    def __init__(
        self, image_size: int, vocab_size: int, n_hidden: int, n_groups: int, blocks_per_group: int
    ) -> None:
        super().__init__()
        factor = 2 ** (n_groups - 1)
        if image_size % factor:
            raise ValueError(
                f"image_size must be divisible by {factor} for {n_groups} groups: {image_size}"
            )
        self.image_size = image_size
        self.vocab_size = vocab_size
        self.grid_size = image_size // factor

        widths = [n_hidden * 2**i for i in range(n_groups)]
        down = nn.MaxPool2d(2)
        self.encoder = nn.Sequential(
            OrderedDict(
                trunk=nn.Sequential(
                    OrderedDict(
                        input=Conv(3, n_hidden, 7),
                        **dict(_tower([n_hidden, *widths], blocks_per_group, (3, 3, 3, 1), down)),
                        relu=nn.ReLU(),
                    )
                ),
                output=Conv(widths[-1], vocab_size, 1),
            )
        )

    def codebook_logits(self, images: Tensor) -> Tensor:
        """Score every codebook entry in every cell: images [B, 3, H, W] in [0, 1] -> logits [B, K, g, g]."""
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images [B, {', '.join(map(str, expected))}], got {list(images.shape)}"
            )
        return self.encoder(map_pixels(images))

    def image_tokens(self, images: Tensor) -> Tensor:
        """Choose the best entry in every cell, without noise: images [B, 3, H, W] -> int64 [B, g*g] in raster order."""
        return self.codebook_logits(images).argmax(dim=1).flatten(1)

    def matrices(self) -> list[nn.Parameter]:
        """List the weights of the convolutions: everything but the biases."""
        return [parameter for parameter in self.parameters() if parameter.ndim == 4]

    def half_precision_modules(self) -> list[nn.Module]:
        """List what the paper runs in 16 bits: all but the two convolutions next to the relaxation (appendix A)."""
        return [self.encoder.trunk]


class DiscreteVAE(DVAEEncoder):
    """Encoder and decoder around a codebook.

    n_init is the width of the codebook vectors, in the paper 128; there the decoder has 43,829,766 parameters.
    """

    def __init__(
        self,
        image_size: int,
        vocab_size: int,
        n_hidden: int,
        n_init: int,
        n_groups: int,
        blocks_per_group: int,
    ) -> None:
        super().__init__(image_size, vocab_size, n_hidden, n_groups, blocks_per_group)
        widths = [n_hidden * 2**i for i in reversed(range(n_groups))]
        up = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoder = nn.Sequential(
            OrderedDict(
                input=Conv(vocab_size, n_init, 1),
                trunk=nn.Sequential(
                    OrderedDict(
                        **dict(_tower([n_init, *widths], blocks_per_group, (1, 3, 3, 3), up)),
                        relu=nn.ReLU(),
                        output=Conv(n_hidden, 6, 1),
                    )
                ),
            )
        )

    def decode(self, image_tokens: Tensor) -> Tensor:
        """Draw the pictures that image_tokens int64 [B, g*g] stand for: [B, 3, H, W] in [0, 1].

        The scale of the likelihood is ignored: the reconstruction is its median (appendix A.3).
        """
        grid = image_tokens.unflatten(1, (self.grid_size, self.grid_size))
        codebook = self.decoder.input
        vectors = (
            F.embedding(grid, codebook.weight[:, :, 0, 0].T) + codebook.bias
        )  # [B, g, g, n_init]
        mu, _ = self._decode_vectors(vectors.permute(0, 3, 1, 2))
        return unmap_pixels(mu.sigmoid())

    def decode_soft(self, relaxed: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a relaxed sample [B, K, g, g] into the likelihood's mu and log_scale, both [B, 3, H, W]."""
        return self._decode_vectors(self.decoder.input(relaxed))

    def half_precision_modules(self) -> list[nn.Module]:
        """List the decoder's trunk beside the encoder's."""
        return [*super().half_precision_modules(), self.decoder.trunk]

    def _decode_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_scale = self.decoder.trunk(vectors).chunk(2, dim=1)
        return mu, log_scale
