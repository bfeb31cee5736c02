"""OpenAI's released discrete VAE stated plainly, and its modules pickled as the released files
were.

The classes call themselves `dall_e`'s; a package of that name is there only while they are pickled.
"""

import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Module):
    """A convolution that keeps the size of its input."""

    __module__ = "dall_e.utils"

    def __init__(self, n_in: int, n_out: int, kw: int, use_float16: bool = True) -> None:
        super().__init__()
        self.n_in, self.n_out, self.kw, self.use_float16 = n_in, n_out, kw, use_float16
        self.device, self.requires_grad = torch.device("cpu"), False
        self.w = nn.Parameter(torch.randn(n_out, n_in, kw, kw) / (n_in * kw**2) ** 0.5)
        self.b = nn.Parameter(
            torch.randn(n_out) / 4
        )  # released ones start at zero, where a mistake would not show

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=(self.kw - 1) // 2)


class Block(nn.Module):
    """Four convolutions beside an identity."""

    def __init__(self, n_in: int, n_out: int, n_layers: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.n_in, self.n_out, self.n_layers, self.post_gain = (
            n_in,
            n_out,
            n_layers,
            1 / n_layers**2,
        )
        self.id_path = nn.Identity() if n_in == n_out else Conv2d(n_in, n_out, 1)
        widths = [n_in, n_out // 4, n_out // 4, n_out // 4, n_out]
        parts = OrderedDict()
        for i, kernel in enumerate(kernels):
            parts[f"relu_{i + 1}"], parts[f"conv_{i + 1}"] = (
                nn.ReLU(),
                Conv2d(widths[i], widths[i + 1], kernel),
            )
        self.res_path = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.post_gain * self.res_path(x)


class EncoderBlock(Block):
    """As the encoder has them."""

    __module__ = "dall_e.encoder"


class DecoderBlock(Block):
    """As the decoder has them."""

    __module__ = "dall_e.decoder"


def group(
    make_block: Callable, n_in: int, n_out: int, n_blocks: int, **end: nn.Module
) -> nn.Sequential:
    blocks = OrderedDict(
        (f"block_{i + 1}", make_block(n_out if i else n_in, n_out)) for i in range(n_blocks)
    )
    return nn.Sequential(OrderedDict(**blocks, **end))


class Encoder(nn.Module):
    """Mapped pictures [B, 3, 256, 256] to logits [B, K, 32, 32]."""

    __module__ = "dall_e.encoder"

    def __init__(self, n_hid: int = 256, vocab_size: int = 8192, n_blocks: int = 2) -> None:
        super().__init__()
        self.n_hid, self.vocab_size, self.use_mixed_precision = n_hid, vocab_size, True

        def block(n_in: int, n_out: int) -> nn.Module:
            return EncoderBlock(n_in, n_out, 4 * n_blocks, (3, 3, 3, 1))

        parts = OrderedDict(input=Conv2d(3, n_hid, 7))
        for i, (n_in, n_out) in enumerate([(1, 1), (1, 2), (2, 4), (4, 8)]):
            end = {"pool": nn.MaxPool2d(kernel_size=2)} if i < 3 else {}
            parts[f"group_{i + 1}"] = group(block, n_in * n_hid, n_out * n_hid, n_blocks, **end)
        output = Conv2d(8 * n_hid, vocab_size, 1, use_float16=False)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=output))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Decoder(nn.Module):
    """One-hot tokens [B, K, 32, 32] to mu and ln b [B, 6, 256, 256]."""

    __module__ = "dall_e.decoder"

    def __init__(
        self, n_hid: int = 256, vocab_size: int = 8192, n_init: int = 128, n_blocks: int = 2
    ) -> None:
        super().__init__()
        self.n_hid, self.n_init, self.vocab_size, self.use_mixed_precision = (
            n_hid,
            n_init,
            vocab_size,
            True,
        )

        def block(n_in: int, n_out: int) -> nn.Module:
            return DecoderBlock(n_in, n_out, 4 * n_blocks, (1, 3, 3, 3))

        parts = OrderedDict(input=Conv2d(vocab_size, n_init, 1, use_float16=False))
        widths = [n_init, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid]
        for i in range(4):
            end = {"upsample": nn.Upsample(scale_factor=2, mode="nearest")} if i < 3 else {}
            parts[f"group_{i + 1}"] = group(block, widths[i], widths[i + 1], n_blocks, **end)
        parts["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(n_hid, 6, 1)))
        self.blocks = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def logits_of(encoder: Encoder, images: Tensor) -> Tensor:
    """Score the codes of pictures in [0, 1]."""
    return encoder(0.8 * images + 0.1)


def pictures_of(decoder: Decoder, image_tokens: Tensor) -> Tensor:
    """Draw tokens [B, 32, 32]: pictures [B, 3, 256, 256] in [0, 1]."""
    one_hot = F.one_hot(image_tokens, decoder.vocab_size).permute(0, 3, 1, 2).float()
    return ((decoder(one_hot)[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)


@contextmanager
def package() -> Iterator[None]:
    """Let `dall_e` be a package, as pickle asks of a class that it names."""
    modules = {
        name: types.ModuleType(name)
        for name in ("dall_e", "dall_e.utils", "dall_e.encoder", "dall_e.decoder")
    }
    for kind in (Conv2d, EncoderBlock, DecoderBlock, Encoder, Decoder):
        setattr(modules[kind.__module__], kind.__name__, kind)
    with mock.patch.dict(sys.modules, modules):
        yield


def pickle_module(module: nn.Module, path: Path, archive: bool = True) -> Path:
    """Write a module as a whole, in an archive or as torch did before.

    Classes of no file have no source to add.
    """
    with package(), warnings.catch_warnings(action="ignore"):
        torch.save(module, path, _use_new_zipfile_serialization=archive)
    return path
