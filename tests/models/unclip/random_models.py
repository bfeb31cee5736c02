"""Small models in which nothing hides behind zeros, and conditions for them."""

from typing import Any

import torch
from torch import Tensor, nn

from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.caption_encoders import (
    CaptionEncoder,
    CaptionInputs,
    StateCaptions,
    TokenCaptions,
)
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.unet import UNetSizes

D, T, F_TEXT, VOCAB, W = 6, 5, 10, 11, 8  # embedding, text slots and width, vocabulary, context
N_CODES, N_BUCKETS = 4, 7
LENGTHS = [3, 5, 1]  # tokens of the captions of a batch
UNET = UNetSizes(8, 8, (1, 2), 1, (4,), d_head=4, n_groups=4, dropout=0.0)


def randomised(model: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim == 2 else 4
        nn.init.normal_(parameter, std=fan_in**-0.5 if parameter.ndim < 4 else 0.2)
    return model.requires_grad_(False)


def diffusion_prior(**changes: Any) -> DiffusionPrior:
    sizes = {"d_embed": D, "text_len": T, "n_layers": 2, "d_model": 12, "n_heads": 3}
    if "text_vocab_size" not in changes:
        sizes["d_text"] = F_TEXT
    return randomised(DiffusionPrior(**{**sizes, "embedding_rms": 0.5375, **changes}))


def autoregressive_prior() -> AutoregressivePrior:
    sizes = {"n_layers": 2, "d_model": 12, "n_heads": 3}
    return randomised(AutoregressivePrior(D, N_CODES, N_BUCKETS, F_TEXT, T, **sizes))


def caption_encoder(kind: str) -> CaptionEncoder | None:
    if kind == "tokens":
        return TokenCaptions(VOCAB, T, n_layers=2, d_model=W, n_heads=2)
    return StateCaptions(F_TEXT, T, W) if kind == "states" else None


def decoder(kind: str, **changes: Any) -> UnclipDecoder:
    settings = {"patch_size": 1, "embedding_rms": 1.0, "learns_variance": True, **changes}
    captions = caption_encoder(kind)
    return randomised(UnclipDecoder(UNET, d_embed=D, d_context=W, captions=captions, **settings))


def captions_of(kind: str, seed: int = 1) -> CaptionInputs | None:
    """Return three captions of different lengths for a decoder's or prior's kind of captions."""
    generator = torch.Generator().manual_seed(seed)
    is_given = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    if kind == "tokens":
        return CaptionInputs(torch.randint(VOCAB, (3, T), generator=generator), is_given)
    if kind == "states":
        return CaptionInputs(torch.randn(3, T, F_TEXT, generator=generator), is_given)
    return None


def embeddings(seed: int) -> Tensor:
    return torch.randn(3, D, generator=torch.Generator().manual_seed(seed))


def flags(*values: bool) -> Tensor:
    return torch.tensor(values)
