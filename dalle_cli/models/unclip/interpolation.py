"""Ways through CLIP's space of embeddings: between pictures, towards a text, to fewer components.

Ramesh et al. 2022, sections 3 and 7. Nothing here is learned. Axes used below:

    B batch    D width of CLIP's embedding    n components
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dalle_cli.models.unclip.embedding_codec import PrincipalComponents

SMALLEST_SINE = 1e-6  # of the angle, below which both weights would be 0 / 0


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Interpolate along the arc from one vector to another, whatever their lengths.

    start, end  [B, ...]; a sample is one vector, whatever its shape, with one angle
    shares      [B], 0 at the start and 1 at the end
    returns     [B, ...]

    Between parallel and opposite vectors, which have no arc or every one, it is linear.
    """
    a, b = start.flatten(1).double(), end.flatten(1).double()  # [B, D]
    share = shares.to(a)[:, None]  # [B, 1]
    cosine = F.cosine_similarity(a, b, dim=1)[:, None].clamp(-1, 1)  # [B, 1]
    angle = cosine.arccos()

    sine = angle.sin()
    is_arc = sine > SMALLEST_SINE
    safe = torch.where(is_arc, sine, 1.0)
    from_start = torch.where(is_arc, ((1 - share) * angle).sin() / safe, 1 - share)
    from_end = torch.where(is_arc, (share * angle).sin() / safe, share)
    return (from_start * a + from_end * b).view_as(start).to(start.dtype)


def text_direction(towards: Tensor, away_from: Tensor | None) -> Tensor:
    """Return the unit vector from the embedding of one text to that of another: [B, D].

    towards    [B, D], unit vectors
    away_from  the same; None: the first text itself is the direction

    Raises ValueError where both texts have the same embedding, which leaves no direction.
    """
    difference = towards if away_from is None else towards - away_from
    if not (difference.norm(dim=1) > SMALLEST_SINE).all():
        raise ValueError("both texts have the same embedding")
    return F.normalize(difference, dim=1)


def keep_components(embeddings: Tensor, basis: PrincipalComponents, counts: Tensor) -> Tensor:
    """Return embeddings of which only the first principal components are kept.

    embeddings  [B, D], of any length
    basis       of n components
    counts      int64 [B], how many of them each sample keeps
    returns     unit vectors [B, D]
    """
    centred = F.normalize(embeddings.to(basis.mean), dim=1) - basis.mean  # [B, D]
    scores = centred @ basis.components.T  # [B, n]
    is_kept = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]  # [B, n]
    kept = basis.mean + (scores * is_kept) @ basis.components  # [B, D]
    return F.normalize(kept, dim=1).to(embeddings)
