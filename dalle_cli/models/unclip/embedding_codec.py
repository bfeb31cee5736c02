"""CLIP's image embeddings as codes, for the autoregressive prior, and back.

Ramesh et al. 2022, section 2.2: principal components in order of their variance, each quantised on
its own. The cosine of an embedding to its caption's is quantised too; generation begins with one of
the better ones. How buckets are laid out is not published. Axes used below:

    N embeddings to learn from    B batch    D width of an embedding    n components    V buckets
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REACH = 4.0  # standard deviations; the outermost buckets have no outer end
TOP_SHARE = 0.5  # best of the shares that were tried (section 2.2)
SMALLEST = 1e-12  # deviation of a component in which all embeddings agree


def quantise(scores: Tensor, n_buckets: int) -> Tensor:
    """Return the bucket, int64, of each standardised component."""
    buckets = ((scores + REACH) * (n_buckets / (2 * REACH))).floor()
    return buckets.clamp(0, n_buckets - 1).long()


def dequantise(codes: Tensor, n_buckets: int) -> Tensor:
    """Return the centre of each bucket, in standard deviations."""
    return (codes + 0.5) * (2 * REACH / n_buckets) - REACH


class PrincipalComponents(NamedTuple):
    """The directions in which unit vectors of embeddings vary most, in order of their variance.

    mean        [D]
    components  [n, D], unit vectors
    variances   [n], along each of them
    share       of the whole variance that they hold
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    share: float


def principal_components(embeddings: Tensor, n: int) -> PrincipalComponents:
    """Find the first n principal components of embeddings [N, D] of any length, in float64.

    A component's sign is arbitrary, so that of its largest entry is made positive.
    """
    vectors = F.normalize(embeddings.double(), dim=1)
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(vectors))  # ascending

    components = axes.T.flip(0)[:n]  # [n, D]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))  # [n, 1]
    kept = variances.flip(0)[:n].clamp(min=0)
    share = float(kept.sum() / variances.sum().clamp(min=SMALLEST))
    return PrincipalComponents(mean, components * largest.sign(), kept, share)


class EmbeddingCodec(nn.Module):
    """Principal components of image embeddings, and quantiles of their cosines to captions.

    Both are learned from training embeddings by `fit`, and are buffers: no gradient changes them.
    """

    mean: Tensor
    components: Tensor
    deviations: Tensor
    cosine_quantiles: Tensor

    def __init__(self, d_embed: int, n_components: int, n_buckets: int) -> None:
        super().__init__()
        if n_components > d_embed:
            raise ValueError(
                f"embeddings of {d_embed} entries do not have {n_components} components"
            )
        self.n_buckets = n_buckets
        self.register_buffer("mean", torch.zeros(d_embed))
        self.register_buffer("components", torch.eye(n_components, d_embed))  # [n, D]
        self.register_buffer("deviations", torch.ones(n_components))
        self.register_buffer("cosine_quantiles", torch.linspace(-1, 1, n_buckets + 1))

    @torch.no_grad()
    def fit(self, image_embeddings: Tensor, text_embeddings: Tensor) -> float:
        """Learn from pairs of training embeddings [N, D] of any length.

        Returns the share of the variance that the components hold.
        """
        found = principal_components(image_embeddings, len(self.components))
        self.mean.copy_(found.mean)
        self.components.copy_(found.components)
        self.deviations.copy_(found.variances.sqrt().clamp(min=SMALLEST))

        pairs = image_embeddings.double(), text_embeddings.double()
        cosines = F.cosine_similarity(*pairs, dim=1).sort().values
        ranks = torch.linspace(0, len(cosines) - 1, self.n_buckets + 1, device=cosines.device)
        self.cosine_quantiles.copy_(cosines[ranks.round().long()])
        return found.share

    def encode(self, image_embeddings: Tensor) -> Tensor:
        """Encode embeddings [B, D] of any length as codes int64 [B, n]."""
        centred = F.normalize(image_embeddings, dim=1) - self.mean
        scores = centred @ self.components.T / self.deviations  # [B, n]
        return quantise(scores, self.n_buckets)

    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes int64 [B, n] to embeddings of unit length [B, D]."""
        scores = dequantise(codes, self.n_buckets)
        return F.normalize(self.mean + scores * self.deviations @ self.components, dim=1)

    def encode_cosines(self, cosines: Tensor) -> Tensor:
        """Return the buckets, int64 [B], of cosines [B]; they divide the training range equally."""
        lowest, highest = self.cosine_quantiles[0], self.cosine_quantiles[-1]
        shares = (cosines - lowest) / (highest - lowest).clamp(min=SMALLEST)
        return (shares * self.n_buckets).floor().clamp(0, self.n_buckets - 1).long()

    def sample_cosine_codes(self, uniforms: Tensor, *, top_share: float = TOP_SHARE) -> Tensor:
        """Sample buckets, int64 [B], from the largest share of the training cosines.

        uniforms  [B] in [0, 1)
        """
        rank = (1 - top_share + top_share * uniforms) * self.n_buckets
        below = rank.floor().long().clamp(max=self.n_buckets - 1)
        low, high = self.cosine_quantiles[below], self.cosine_quantiles[below + 1]
        return self.encode_cosines(torch.lerp(low, high, (rank - below).to(low.dtype)))
