"""The task of the autoregressive prior: the codes of CLIP's image embedding, one after another.

Ramesh et al. 2022, section 2.2. A micro-batch's loss is its share of the global batch's. Knows
nothing of optimizers, engines or files. Axes used below:

    B batch    n codes    V buckets
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dalle_cli.config import PriorLossTable
from dalle_cli.data.loader import Batch
from dalle_cli.generation.sampling import SamplingSettings, sample_tokens, token_probabilities
from dalle_cli.models.unclip.autoregressive_prior import (
    AutoregressivePrior,
    code_loss,
    sample_codes,
)
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.training.metric_log import Metrics
from dalle_cli.training.tasks.noise import uniforms
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs, PairEncoder
from dalle_cli.training.tasks.unclip.embedding_sheet import embedding_sheet


class AutoregressivePriorTask:
    """Trains a prior on the cross-entropy of the codes."""

    formats: Mapping[str, str] = {
        "train/code_accuracy": "accuracy {:.1%}",
        "valid/code_accuracy": "accuracy {:.1%}",
        "valid/cosine_of_codes": "cosine of codes and embeddings {:.4f}",
    }

    def __init__(
        self,
        prior: AutoregressivePrior,
        encode: PairEncoder,
        codec: EmbeddingCodec,
        loss: PriorLossTable,
        seed: int,
    ) -> None:
        """encode: embeds the pairs of a batch; codec: makes codes of embeddings, fitted already."""
        self.module = prior
        self._encode = encode
        self._codec = codec
        self._table = loss
        self._seed = seed

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Metrics]:
        """Return the micro-batch's share of the cross-entropy, in nats per code."""
        pairs = self._encode(batch)
        chances = self._chances(batch.positions, "dropped", pairs)
        is_dropped = chances.squeeze(1) < self._table.caption_dropout
        losses, hits = self._losses(pairs, is_dropped)

        loss = losses.sum() / batch.global_size
        metrics: Metrics = {
            "train/loss": loss.detach(),
            "train/code_accuracy": hits / batch.global_size,
            "train/captions_cut": sum(batch.are_cut) / batch.global_size,
        }
        return loss, metrics

    def _losses(self, pairs: ClipPairs, is_dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of each sample, [B], and the sum of the shares of codes hit.

        A code is hit where it is the likeliest.
        """
        codes = self._codec.encode(pairs.images)  # [B, n]
        cosine_codes = self._codec.encode_cosines((pairs.images * pairs.texts).sum(dim=1))
        logits = self.module(codes, cosine_codes, pairs.captions, pairs.texts, is_dropped)
        hits = (logits.detach().argmax(dim=2) == codes).float().mean(dim=1).sum()
        return code_loss(logits, codes), hits

    def _chances(
        self, positions: list[int], purpose: str, pairs: ClipPairs, *, n: int = 1
    ) -> Tensor:
        """Sample n uniform numbers for each sample: [B, n]."""
        device = pairs.images.device
        return uniforms(self._seed, positions, purpose=purpose, shape=(n,), device=device)

    def validate(self, batches: Iterable[Batch], step: int) -> dict[str, float]:
        """Compute cross-entropy and accuracy, and how well codes stand for embeddings."""
        loss = hits = cosines = 0.0
        n_samples = 0
        for batch in batches:
            pairs = self._encode(batch)
            none = torch.zeros(len(pairs.texts), dtype=torch.bool, device=pairs.texts.device)
            losses, batch_hits = self._losses(pairs, none)
            loss += float(losses.sum())
            hits += float(batch_hits)

            decoded = self._codec.decode(self._codec.encode(pairs.images))
            cosines += float(F.cosine_similarity(decoded, pairs.images, dim=1).sum())
            n_samples += len(batch.positions)
        return {
            "valid/loss": loss / n_samples,
            "valid/code_accuracy": hits / n_samples,
            "valid/cosine_of_codes": cosines / n_samples,
        }

    def preview(self, whole: AutoregressivePrior, batch: Batch, step: int) -> Image.Image:
        """Render what the prior guesses from the held-out captions of a batch."""
        pairs, positions = self._encode(batch), batch.positions
        numbers = self._chances(positions, "codes", pairs, n=whole.n_codes)  # [B, n]
        first = self._chances(positions, "cosine", pairs).squeeze(1)  # [B]

        def choose(logits: Tensor, number: int) -> Tensor:
            probabilities = token_probabilities(logits, SamplingSettings())
            return sample_tokens(probabilities, numbers[:, number])

        codes = sample_codes(
            whole,
            self._codec.sample_cosine_codes(first),
            pairs.captions,
            pairs.texts,
            choose=choose,
        )
        return embedding_sheet(batch, pairs, self._codec.decode(codes))
