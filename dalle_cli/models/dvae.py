"""The discrete VAE: images to a grid of codebook entries and back.

Ramesh et al. 2021, section 2.1 and appendix A. The architecture is that of the released weights:
bottleneck residual blocks without normalisation, max-pooling on the way down, nearest-neighbour
upsampling on the way up, and 1x1 convolutions next to the relaxation. Knows nothing of losses,
schedules or noise sources. Axes used below:

    B batch    H W height and width of an image    g side of the token grid
    K codebook size    D width of a codebook vector
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# the logit-Laplace density diverges at 0 and 1, so pixels are kept away from both (appendix A.3)
PIXEL_EPS = 0.1

Kernels = tuple[int, int, int, int]  # sizes along a residual path


def map_pixels(images: Tensor) -> Tensor:
    """Squeeze pixels from [0, 1] into [0.1, 0.9], the range that the decoder models."""
    return (1 - 2 * PIXEL_EPS) * images + PIXEL_EPS


def unmap_pixels(mapped: Tensor) -> Tensor:
    """Invert `map_pixels`, clamping the result to [0, 1]."""
    return ((mapped - PIXEL_EPS) / (1 - 2 * PIXEL_EPS)).clamp(0, 1)


def relax(logits: Tensor, temperature: float, gumbel: Tensor) -> Tensor:
    """Sample from the Gumbel-softmax relaxation of the encoder's categorical (section 2.1).

    logits   [B, K, g, g]
    gumbel   [B, K, g, g], standard Gumbel noise
    returns  [B, K, g, g], a soft one-hot vector in each cell; one-hot as the temperature goes to 0

    It is fast if both arguments have the entries of a cell next to each other in memory (channels
    last), as the result has.
    """
    # in place: the sum is the widest tensor of all, and nothing else refers to it
    noisy = (logits + gumbel).div_(temperature)

    # a softmax is fastest over the last dimension
    cells = noisy.movedim(1, -1)  # [B, g, g, K]
    return cells.softmax(dim=-1).movedim(-1, 1)  # [B, K, g, g]


class Conv(nn.Conv2d):
    """A same-size convolution, initialised as released: weights N(0, 1 / fan-in), bias 0."""

    bias: nn.Parameter

    def __init__(self, n_in: int, n_out: int, kernel_size: int) -> None:
        super().__init__(n_in, n_out, kernel_size, padding=(kernel_size - 1) // 2)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.bias)


class ResBlock(nn.Module):
    """id_path(x) + post_gain * res_path(x), where res_path is a bottleneck of four convolutions."""

    def __init__(self, n_in: int, n_out: int, *, kernels: Kernels, post_gain: float) -> None:
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


def _groups(
    widths: list[int], blocks_per_group: int, *, kernels: Kernels, resample: nn.Module
) -> list[tuple[str, nn.Module]]:
    """Build the named groups of residual blocks from widths[0] to widths[-1].

    All groups but the last end with `resample`.
    """
    n_groups = len(widths) - 1
    post_gain = 1 / (n_groups * blocks_per_group) ** 2  # of the released weights

    groups: list[tuple[str, nn.Module]] = []
    for i in range(n_groups):
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(blocks_per_group):
            n_in = widths[i] if j == 0 else widths[i + 1]
            block = ResBlock(n_in, widths[i + 1], kernels=kernels, post_gain=post_gain)
            parts[f"block_{j + 1}"] = block
        if i < n_groups - 1:
            parts["resample"] = resample
        groups.append((f"group_{i + 1}", nn.Sequential(parts)))
    return groups


class _EncoderLayers(nn.Sequential):
    """The layers of the encoder, with the types of those used by name."""

    trunk: nn.Sequential
    output: Conv


class _DecoderTrunk(nn.Sequential):
    """The layers after the codebook, with the type of the one used by name."""

    output: Conv


class _DecoderLayers(nn.Sequential):
    """The layers of the decoder, with the types of those used by name."""

    input: Conv
    trunk: _DecoderTrunk


class DVAEEncoder(nn.Module):
    """The encoder: images to a grid of entries of a codebook of `vocab_size`.

    n_hidden is the width next to the pixels. It doubles from group to group, while each of the
    n_groups - 1 poolings halves the side of the image. The paper has 4 groups of 2 blocks, n_hidden
    256, vocab_size 8192 and 256 px, which makes 53,786,240 parameters.
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

        widths = [n_hidden, *(n_hidden * 2**i for i in range(n_groups))]
        down = nn.MaxPool2d(2)

        # layers are built in the order of the data, in which they take random numbers
        first = Conv(3, n_hidden, 7)
        groups = _groups(widths, blocks_per_group, kernels=(3, 3, 3, 1), resample=down)
        trunk = nn.Sequential(OrderedDict([("input", first), *groups, ("relu", nn.ReLU())]))
        output = Conv(widths[-1], vocab_size, 1)
        self.encoder = _EncoderLayers(OrderedDict(trunk=trunk, output=output))

    def codebook_logits(self, images: Tensor) -> Tensor:
        """Score every codebook entry in every cell.

        images   [B, 3, H, W] in [0, 1]
        returns  logits [B, K, g, g]

        Raises ValueError for images of another shape.
        """
        expected = (3, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected images [B, {', '.join(map(str, expected))}], got {list(images.shape)}"
            )
        return self.encoder(map_pixels(images))

    def image_tokens(self, images: Tensor) -> Tensor:
        """Return the best entry of every cell, without noise.

        images   [B, 3, H, W] in [0, 1]
        returns  int64 [B, g*g] in raster order
        """
        return self.codebook_logits(images).argmax(dim=1).flatten(1)  # [B, g*g]

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights of the convolutions: everything but the biases."""
        return [parameter for parameter in self.parameters() if parameter.ndim == 4]

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the modules that the paper runs in 16 bits.

        These are all but the two convolutions next to the relaxation (appendix A).
        """
        return [self.encoder.trunk]


class DiscreteVAE(DVAEEncoder):
    """Encoder and decoder around a codebook.

    n_init is the width of the codebook vectors: 128 in the paper, whose decoder has 43,829,766
    parameters.
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

        widths = [n_init, *(n_hidden * 2**i for i in reversed(range(n_groups)))]
        up = nn.Upsample(scale_factor=2, mode="nearest")

        first = Conv(vocab_size, n_init, 1)
        groups = _groups(widths, blocks_per_group, kernels=(1, 3, 3, 3), resample=up)
        output = Conv(n_hidden, 6, 1)  # mu and log_scale of three colours (appendix A.3)
        trunk = _DecoderTrunk(OrderedDict([*groups, ("relu", nn.ReLU()), ("output", output)]))
        self.decoder = _DecoderLayers(OrderedDict(input=first, trunk=trunk))

    def decode(self, image_tokens: Tensor) -> Tensor:
        """Decode image_tokens int64 [B, g*g] to images [B, 3, H, W] in [0, 1].

        The scale of the likelihood is ignored: the reconstruction is its median (appendix A.3).
        """
        grid = image_tokens.unflatten(1, (self.grid_size, self.grid_size))  # [B, g, g]

        # what the 1x1 convolution makes of one-hot vectors, without building them
        codebook = self.decoder.input.weight[:, :, 0, 0].T  # [K, D]
        vectors = F.embedding(grid, codebook) + self.decoder.input.bias  # [B, g, g, D]

        mu, _ = self._decode_vectors(vectors.permute(0, 3, 1, 2))  # [B, 3, H, W]
        return unmap_pixels(mu.sigmoid())

    def decode_soft(self, relaxed: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a relaxed sample into the parameters of the likelihood.

        relaxed  [B, K, g, g]
        returns  mu and log_scale, both [B, 3, H, W]
        """
        return self._decode_vectors(self.decoder.input(relaxed))

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the decoder's trunk in addition to the encoder's."""
        return [*super().half_precision_modules(), self.decoder.trunk]

    def _decode_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_scale = self.decoder.trunk(vectors).chunk(2, dim=1)  # [B, 3, H, W] each
        return mu, log_scale
