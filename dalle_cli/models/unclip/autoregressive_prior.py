"""The autoregressive prior: a causal transformer that predicts the codes of an image embedding.

Ramesh et al. 2022, section 2.2. Its slots are the quantised cosine of the two embeddings, the
caption, CLIP's text embedding and the codes; the output of a slot predicts the code after it. How
captions enter is not published: here as outputs of CLIP's text tower. Knows nothing of captions as
text, CLIP or files. Axes used below:

    B batch    T text slots    F width of CLIP's text tower    D width of CLIP's embedding
    n codes    V buckets    M width of the transformer    P = T + 2 slots before the codes
    S = P + n - 1 slots    N slots given
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention import attend
from dalle_cli.models.attention_masks import causal_padding_mask
from dalle_cli.models.transformer import Block, reset_blocks
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.decayed_weights import decayed_weights
from dalle_cli.models.unclip.embedding_scale import UNIT_VARIANCE_RMS, scale_embeddings

N_OWN_SLOTS = 2  # cosine and text embedding

# from logits [B, V] and the number of a code to codes int64 [B]
ChooseCode = Callable[[Tensor, int], Tensor]


class PriorPrefix(NamedTuple):
    """The slots before the codes.

    slots       [B, P, M]
    is_visible  bool [B, P], False for slots that no other may see
    """

    slots: Tensor
    is_visible: Tensor


class AutoregressivePrior(nn.Module):
    """The network of the prior. Its codes are those of an `EmbeddingCodec` of the same sizes."""

    def __init__(
        self,
        d_embed: int,
        n_components: int,
        n_buckets: int,
        d_text: int,
        text_len: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
    ) -> None:
        super().__init__()
        self.text_len = text_len
        self.n_codes = n_components

        self.cosine_embedding = nn.Embedding(n_buckets, d_model)
        self.caption_input = nn.Linear(d_text, d_model)
        self.text_input = nn.Linear(d_embed, d_model)
        self.code_embedding = nn.Embedding(n_buckets, d_model)
        n_prefix = text_len + N_OWN_SLOTS
        self.position = nn.Parameter(torch.empty(n_prefix + n_components - 1, d_model))

        # in place of everything that says something of a caption that is left out
        self.null_prefix = nn.Parameter(torch.empty(n_prefix, d_model))

        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.final_norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, n_buckets)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the blocks as DALL-E's; a zero head starts from uniform predictions."""
        if self.position.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        for embedding in (self.cosine_embedding, self.code_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        for vectors in (self.position, self.null_prefix):
            nn.init.normal_(vectors, std=0.01)
        reset_blocks(self._blocks())
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        codes: Tensor,
        cosine_codes: Tensor,
        captions: CaptionInputs,
        text_embeddings: Tensor,
        is_dropped: Tensor,
    ) -> Tensor:
        """Predict every code from those before it.

        codes    int64 [B, n]
        returns  logits [B, n, V]; slot p predicts code p

        The other arguments are those of `prefix`.
        """
        prefix = self.prefix(cosine_codes, captions, text_embeddings, is_dropped=is_dropped)
        n_prefix = prefix.slots.shape[1]
        inputs = self.code_embedding(codes[:, :-1])  # [B, n - 1, M]
        x = torch.cat([prefix.slots, inputs], dim=1) + self.position  # [B, S, M]

        visible = F.pad(prefix.is_visible, (0, inputs.shape[1]), value=True)  # [B, S]
        within = partial(attend, mask=causal_padding_mask(visible))
        for block in self._blocks():
            x = block(x, within)
        return self.head(self.final_norm(x[:, n_prefix - 1 :]))

    def prefix(
        self,
        cosine_codes: Tensor,
        captions: CaptionInputs,
        text_embeddings: Tensor,
        *,
        is_dropped: Tensor,
    ) -> PriorPrefix:
        """Embed what comes before the codes, without positions.

        cosine_codes     int64 [B], see `EmbeddingCodec.encode_cosines`
        captions         outputs of CLIP's text tower, of T slots
        text_embeddings  [B, D], of any length
        is_dropped       bool [B], whether a sample's cosine, caption and text embedding are left
                         out

        Raises ValueError for another number of slots.
        """
        values, is_given = captions
        if is_given.shape[1] != self.text_len:
            raise ValueError(f"expected {self.text_len} text slots, got {is_given.shape[1]}")

        cosine = self.cosine_embedding(cosine_codes)[:, None]  # [B, 1, M]
        text = self.text_input(scale_embeddings(text_embeddings, UNIT_VARIANCE_RMS))[:, None]
        slots = torch.cat([cosine, self.caption_input(values), text], dim=1)  # [B, P, M]

        slots = torch.where(is_dropped[:, None, None], self.null_prefix, slots)
        is_visible = F.pad(is_given, (1, 1), value=True) | is_dropped[:, None]  # [B, P]
        return PriorPrefix(slots, is_visible)

    def new_cache(self, prefix: PriorPrefix) -> "PriorCache":
        """Return an empty cache for generating the codes after a prefix."""
        return PriorCache(self._blocks(), prefix.is_visible)

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that decay."""
        return decayed_weights(self)

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches."""
        return [branch for block in self._blocks() for branch in (block.attention, block.mlp)]

    def _blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.blocks)


class PriorCache:
    """Keys and values of the slots so far, so that each code costs one slot."""

    def __init__(self, blocks: Sequence[Block], is_visible: Tensor) -> None:
        """is_visible: bool [B, P], of the prefix."""
        self._blocks = blocks
        self._is_visible = is_visible
        self._attentions = [_CachedAttention() for _ in blocks]

    def append(self, x: Tensor) -> Tensor:
        """Run the next slots [B, N, M] through the blocks: first the prefix, then code by code."""
        n_known = self._attentions[0].n_slots
        if n_known:
            self._is_visible = F.pad(self._is_visible, (0, x.shape[1]), value=True)
        mask = causal_padding_mask(self._is_visible)[:, :, n_known:]  # [B, 1, N, known + N]

        for block, attention in zip(self._blocks, self._attentions, strict=True):
            attention.mask = mask
            x = block(x, attention)
        return x


class _CachedAttention:
    """Attention that remembers the keys and values it was given, and attends to all of them."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def n_slots(self) -> int:
        return 0 if self._kept is None else self._kept[0].shape[2]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._kept is not None:
            key = torch.cat([self._kept[0], key], dim=2)  # [B, H, known + N, K]
            value = torch.cat([self._kept[1], value], dim=2)  # [B, H, known + N, K]
        self._kept = key, value
        return attend(query, key, value, mask=self.mask)


def sample_codes(
    prior: AutoregressivePrior,
    cosine_codes: Tensor,
    captions: CaptionInputs,
    text_embeddings: Tensor,
    *,
    choose: ChooseCode,
    guidance: float = 1.0,
) -> Tensor:
    """Sample codes int64 [B, n], one after another.

    cosine_codes, captions, text_embeddings  see `AutoregressivePrior.prefix`
    choose                                   samples each code from its logits, guided already
    guidance                                 1: the caption alone, at half the cost
    """
    n_samples = len(cosine_codes)
    is_dropped = torch.zeros(n_samples, dtype=torch.bool, device=cosine_codes.device)
    is_guided = guidance != 1
    if is_guided:
        cosine_codes = torch.cat([cosine_codes, cosine_codes])  # [2 B]
        captions = captions.twice()
        text_embeddings = torch.cat([text_embeddings, text_embeddings])  # [2 B, D]
        is_dropped = torch.cat([is_dropped, ~is_dropped])

    prefix = prior.prefix(cosine_codes, captions, text_embeddings, is_dropped=is_dropped)
    cache = prior.new_cache(prefix)
    n_prefix = prefix.slots.shape[1]
    x = prefix.slots + prior.position[:n_prefix]  # [B or 2 B, P, M]

    codes: list[Tensor] = []
    for number in range(prior.n_codes):
        logits = prior.head(prior.final_norm(cache.append(x)[:, -1]))  # [B or 2 B, V]
        if is_guided:
            conditional, null = logits.chunk(2)  # [B, V] each
            logits = null + guidance * (conditional - null)
        codes.append(choose(logits, number))

        if number + 1 < prior.n_codes:
            last = torch.cat([codes[-1], codes[-1]]) if is_guided else codes[-1]
            x = (prior.code_embedding(last) + prior.position[n_prefix + number])[:, None]
    return torch.stack(codes, dim=1)


def code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Compute each sample's mean cross-entropy over its codes, in nats: [B].

    logits  [B, n, V]    codes  int64 [B, n]
    """
    by_code = F.cross_entropy(logits.float().transpose(1, 2), codes, reduction="none")  # [B, n]
    return by_code.mean(dim=1)
