"""The scale in which the priors and the decoder see CLIP's embeddings.

Every implementation of DALL-E 2 has another one, so a model folder states it, as the root mean
square of an entry. Embeddings may be given in any length: here they are made unit vectors first.
"""

import torch.nn.functional as F
from torch import Tensor

# unit vectors of 1,024 entries times 17.2, about the deviation of pixels in [-1, 1] (Ramesh et al.
# 2022, section 2.2), so that noise schedules made for pictures suit embeddings
PUBLISHED_RMS = 17.2 / 1024**0.5

UNIT_VARIANCE_RMS = 1.0  # what a linear layer likes


def scale_embeddings(embeddings: Tensor, rms: float) -> Tensor:
    """Scale embeddings [..., E] of any length so that their entries have a root mean square."""
    return F.normalize(embeddings, dim=-1) * (rms * embeddings.shape[-1] ** 0.5)
