"""The diffusion prior: a causal transformer that denoises CLIP's image embedding for a caption.

Ramesh et al. 2022, section 2.2. Its slots are the caption, CLIP's text embedding, the step, the
noisy embedding, and a query whose output predicts the clean embedding. Knows nothing of captions
as text, CLIP or files. Axes used below:

    B batch    T text slots    F width of CLIP's text tower    D width of CLIP's embedding
    M width of the transformer    S = T + 4 slots    n candidates of a caption
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.attention_masks import causal_padding_mask
from dalle_cli.models.clip import ClipBlock, ClipTransformer, Tower
from dalle_cli.models.diffusion.guided_net import GuidedNet, Net
from dalle_cli.models.diffusion.noise_schedules import NoiseSchedule
from dalle_cli.models.diffusion.noising import add_noise
from dalle_cli.models.diffusion.samplers import Denoiser, NoiseAt, sample_ancestral
from dalle_cli.models.diffusion.time_embedding import TimeEmbedding
from dalle_cli.models.unclip.caption_encoders import CaptionInputs
from dalle_cli.models.unclip.decayed_weights import decayed_weights
from dalle_cli.models.unclip.embedding_scale import scale_embeddings

N_OWN_SLOTS = 4  # text embedding, step, noisy embedding, query


class PriorCondition(NamedTuple):
    """What the prior is told of a batch's captions, the same at every step.

    slots       [B, T + 1, M], of the caption and its embedding
    is_visible  bool [B, T + 1], False for slots that no other may see
    """

    slots: Tensor
    is_visible: Tensor


class DiffusionPrior(nn.Module):
    """The network of the prior. It predicts clean embeddings in the scale of `target`."""

    def __init__(
        self,
        d_embed: int,
        text_len: int,
        n_layers: int,
        d_model: int,
        n_heads: int,
        embedding_rms: float,
        d_text: int | None = None,
        text_vocab_size: int | None = None,
    ) -> None:
        """Build the network.

        embedding_rms    the scale in which embeddings are diffused, see `scale_embeddings`
        d_text           width of CLIP's text tower, whose outputs are the caption's slots
        text_vocab_size  in place of it: captions are tokens, embedded here

        Raises ValueError unless exactly one of the last two is given.
        """
        super().__init__()
        self.text_len = text_len
        self.embedding_rms = embedding_rms

        self.caption_input = _caption_input(d_model, d_text, text_vocab_size)
        self.text_input = nn.Linear(d_embed, d_model)
        self.time = TimeEmbedding(d_model, d_model)
        self.noisy_input = nn.Linear(d_embed, d_model)
        self.query = nn.Parameter(torch.empty(d_model))
        self.position = nn.Parameter(torch.empty(text_len + N_OWN_SLOTS, d_model))

        # in place of a caption that is left out, and of its embedding
        self.null_caption = nn.Parameter(torch.empty(text_len, d_model))
        self.null_text = nn.Parameter(torch.empty(d_model))

        self.transformer = ClipTransformer(Tower(n_layers, d_model, n_heads, 4 * d_model), "gelu")
        self.final_norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, d_embed)

        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as CLIP's text tower."""
        if self.query.is_meta:
            return  # nothing to initialise, and torch would import modules for a second to do so
        for vectors in (self.query, self.position, self.null_caption, self.null_text):
            nn.init.normal_(vectors, std=0.01)
        if isinstance(self.caption_input, nn.Embedding):
            nn.init.normal_(self.caption_input.weight, std=0.02)
        self.transformer.reset_parameters()

    def target(self, embeddings: Tensor) -> Tensor:
        """Scale image embeddings [B, D] of any length to what is diffused."""
        return scale_embeddings(embeddings, self.embedding_rms)

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        captions: CaptionInputs,
        text_embeddings: Tensor,
        is_dropped: Tensor,
    ) -> Tensor:
        """Predict clean embeddings from noisy ones.

        noisy      [B, D]
        timesteps  int64 [B], steps of the training schedule
        returns    [B, D]

        The other arguments are those of `condition`.
        """
        condition = self.condition(captions, text_embeddings, is_dropped=is_dropped)
        return self.denoise(noisy, timesteps, condition=condition)

    def condition(
        self, captions: CaptionInputs, text_embeddings: Tensor, *, is_dropped: Tensor
    ) -> PriorCondition:
        """Encode a batch's captions.

        captions         of T slots
        text_embeddings  [B, D], of any length
        is_dropped       bool [B], whether a sample's caption and text embedding are left out

        Raises ValueError for another number of slots.
        """
        values, is_given = captions
        if is_given.shape[1] != self.text_len:
            raise ValueError(f"expected {self.text_len} text slots, got {is_given.shape[1]}")

        if isinstance(self.caption_input, nn.Embedding):
            values = values.masked_fill(~is_given, 0)
        caption = self.caption_input(values)  # [B, T, M]
        text = self.text_input(scale_embeddings(text_embeddings, self.embedding_rms))  # [B, M]

        caption = torch.where(is_dropped[:, None, None], self.null_caption, caption)
        text = torch.where(is_dropped[:, None], self.null_text, text)
        is_visible = F.pad(is_given | is_dropped[:, None], (0, 1), value=True)  # [B, T + 1]
        return PriorCondition(torch.cat([caption, text[:, None]], dim=1), is_visible)

    def denoise(self, noisy: Tensor, timesteps: Tensor, *, condition: PriorCondition) -> Tensor:
        """Predict under captions that are encoded already; see `forward`."""
        query = self.query.expand(len(noisy), -1)  # [B, M]
        rest = torch.stack([self.time(timesteps), self.noisy_input(noisy), query], dim=1)
        x = torch.cat([condition.slots, rest], dim=1) + self.position  # [B, S, M]

        is_visible = F.pad(condition.is_visible, (0, rest.shape[1]), value=True)  # [B, S]
        x = self.transformer(x, causal_padding_mask(is_visible))
        return self.output(self.final_norm(x[:, -1]))

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that decay."""
        return decayed_weights(self)

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches."""
        blocks = cast(Sequence[ClipBlock], self.transformer.resblocks)
        return [part for block in blocks for part in (block.attn, block.mlp)]


def _caption_input(d_model: int, d_text: int | None, text_vocab_size: int | None) -> nn.Module:
    if d_text is not None and text_vocab_size is None:
        return nn.Linear(d_text, d_model)
    if text_vocab_size is not None and d_text is None:
        return nn.Embedding(text_vocab_size, d_model)
    raise ValueError(
        f"captions need either d_text or text_vocab_size: {d_text} and {text_vocab_size}"
    )


def prior_loss(
    prior: DiffusionPrior,
    schedule: NoiseSchedule,
    image_embeddings: Tensor,
    *,
    captions: CaptionInputs,
    text_embeddings: Tensor,
    is_dropped: Tensor,
    noise: Tensor,
    index: Tensor,
) -> Tensor:
    """Compute each sample's mean squared error, relative to the mean square of its target: [B].

    image_embeddings  [B, D], of any length
    noise             [B, D], standard normal
    index             int64 [B] on the CPU, uniform over the training schedule

    1 is the loss of predicting zero, whatever the scale.
    """
    clean = prior.target(image_embeddings)
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    timesteps = schedule.timesteps[index].to(noisy.device, non_blocking=True)

    predicted = prior(noisy, timesteps, captions, text_embeddings, is_dropped)
    return (predicted - clean).square().mean(dim=1) / prior.embedding_rms**2


def prior_net(
    prior: DiffusionPrior, captions: CaptionInputs, text_embeddings: Tensor, *, guidance: float
) -> Net:
    """Return the prior under given captions, guided away from none.

    guidance  1: the caption alone, at half the cost
    """
    is_dropped = torch.zeros(len(text_embeddings), dtype=torch.bool, device=text_embeddings.device)
    if guidance != 1:
        captions = captions.twice()
        text_embeddings = torch.cat([text_embeddings, text_embeddings])  # [2 B, D]
        is_dropped = torch.cat([is_dropped, ~is_dropped])

    condition = prior.condition(captions, text_embeddings, is_dropped=is_dropped)
    net = partial(prior.denoise, condition=condition)
    return net if guidance == 1 else GuidedNet(net, guidance)


def sample_embeddings(
    prior: DiffusionPrior,
    schedule: NoiseSchedule,
    captions: CaptionInputs,
    text_embeddings: Tensor,
    *,
    start: Tensor,
    noise_at: NoiseAt,
    log_variances: Tensor,
    guidance: float = 1.0,
    limit: float | None = None,
) -> Tensor:
    """Sample image embeddings of unit length, n candidates for each caption: [B, n, D].

    schedule       the grid to sample on
    start          [B, n, D], standard normal, as is what noise_at returns
    log_variances  float64 [N], one for each index of the grid
    limit          the largest entry of a predicted embedding, in the scale of `target`
    """
    n_candidates = start.shape[1]
    rows = captions.repeated(n_candidates)
    texts = text_embeddings.repeat_interleave(n_candidates, dim=0)  # [B n, D]

    net = prior_net(prior, rows, texts, guidance=guidance)
    denoiser = Denoiser(net, schedule, "clean", limit=limit, log_variances=log_variances)
    flat = sample_ancestral(
        denoiser, start.flatten(0, 1), lambda index: noise_at(index).flatten(0, 1)
    )  # [B n, D]
    return F.normalize(flat, dim=1).view_as(start)


def keep_closest(candidates: Tensor, text_embeddings: Tensor) -> Tensor:
    """Return the candidate of each caption with the largest cosine to its text embedding: [B, D].

    candidates       [B, n, D]
    text_embeddings  [B, D]

    Both may be of any length: guidance makes embeddings longer, which says nothing of their worth.
    """
    texts = F.normalize(text_embeddings, dim=-1)[..., None]  # [B, D, 1]
    cosines = (F.normalize(candidates, dim=-1) @ texts).squeeze(2)  # [B, n]
    rows = torch.arange(len(candidates), device=candidates.device)
    return candidates[rows, cosines.argmax(dim=1)]
