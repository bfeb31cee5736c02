"""Captions of a user's, for which a transformer's previews show pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dalle_cli.data.preprocessing import pad_tokens
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import UsageError, printable
from dalle_cli.generation.prompts import read_captions

MAX_PREVIEW_CAPTIONS = 16  # each is generated at every preview


@dataclass(frozen=True)
class PreviewCaptions:
    """Captions for previews, perhaps none.

    text_tokens  int64 [B, T], -1 after the caption; empty until they are encoded
    """

    captions: list[str]
    text_tokens: Tensor

    def encoded(
        self, tokenizer: Tokenizer, text_len: int, *, device: torch.device
    ) -> "PreviewCaptions":
        """Return the captions with their tokens, on a device."""
        padded = [pad_tokens(tokenizer.encode(caption), text_len) for caption in self.captions]
        text_tokens = torch.tensor(np.array(padded, dtype=np.int64), device=device)  # [B, T]
        return PreviewCaptions(self.captions, text_tokens)

    def batches(self, size: int) -> Iterator[tuple[list[str], Tensor]]:
        """Yield captions and their tokens, at most `size` at a time."""
        for start in range(0, len(self.captions), size):
            part = slice(start, start + size)
            yield self.captions[part], self.text_tokens[part]


NO_PREVIEW_CAPTIONS = PreviewCaptions([], torch.empty(0, 0, dtype=torch.int64))


def read_preview_captions(file: Path | None) -> PreviewCaptions:
    """Read captions from a file like that of `dalle generate --prompts`; none without a file.

    Raises UsageError where there are too many, and like `read_captions`.
    """
    if file is None:
        return NO_PREVIEW_CAPTIONS
    captions = read_captions([], str(file))
    if len(captions) > MAX_PREVIEW_CAPTIONS:
        message = f"{printable(str(file))} holds {len(captions)} captions"
        raise UsageError(message, f"a preview shows at most {MAX_PREVIEW_CAPTIONS}")
    return PreviewCaptions(captions, NO_PREVIEW_CAPTIONS.text_tokens)
