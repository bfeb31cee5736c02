"""Captions as a CLIP's text tower sees them, slot by slot, to be kept on disk.

Axes used below:

    B batch    T text slots
"""

from collections.abc import Sequence

import torch

from dalle_cli.data.unclip.clip_embeddings import CaptionEmbedding
from dalle_cli.models.unclip.clip_captions import encode_captions
from dalle_cli.scoring.clip_scorer import ClipScorer, unit_vectors


@torch.inference_mode()
def embed_slots(
    scorer: ClipScorer, captions: Sequence[str], *, batch_size: int
) -> dict[str, CaptionEmbedding]:
    """Embed captions, and keep what the text tower returns for each slot up to end of text."""
    found: dict[str, CaptionEmbedding] = {}
    for start in range(0, len(captions), batch_size):
        batch = captions[start : start + batch_size]
        tokens = scorer.tokenizer(batch, scorer.clip.text_len).to(scorer.device)  # [B, T]
        inputs, embeddings = encode_captions(scorer.clip, tokens)

        rows = zip(
            batch,
            inputs.is_given.sum(dim=1).tolist(),
            tokens.cpu().numpy(),
            unit_vectors(embeddings).numpy(),
            inputs.values.half().cpu().numpy(),
            strict=True,
        )
        for caption, length, ids, embedding, states in rows:
            found[caption] = CaptionEmbedding(ids[:length], embedding, states[:length])
    return found
