"""The decoder of DALL-E 2: from CLIP's image embedding, and the caption, to a picture.

Ramesh et al. 2022, section 2.1. The embedding is added to the embedded step, and becomes four slots
of context beside the caption's. Either may be left out of a sample, so that both can be guided.
Knows nothing of schedules, CLIP or files. Axes used below:

    B batch    C predicted channels    R side of a picture    D width of CLIP's embedding
    T text slots    W width of a context slot    E width of the vector
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dalle_cli.models.diffusion.guided_net import GuidedNet, Net
from dalle_cli.models.unclip.caption_encoders import CaptionEncoder, CaptionInputs, TokenCaptions
from dalle_cli.models.unclip.decayed_weights import decayed_weights
from dalle_cli.models.unclip.embedding_scale import scale_embeddings
from dalle_cli.models.unclip.unet import UNet, UNetSizes, Uniforms

N_EMBEDDING_SLOTS = 4
N_COLOURS = 3


class DecoderCondition(NamedTuple):
    """What the U-Net is told of a batch's conditions, the same at every step.

    vector   [B, E]
    context  [B, 4 + T, W], or [B, 4, W] without a text path
    """

    vector: Tensor
    context: Tensor


class UnclipDecoder(nn.Module):
    """A U-Net with CLIP's embedding and, if it has a text path, captions as its conditions."""

    def __init__(
        self,
        unet: UNetSizes,
        *,
        patch_size: int,
        d_embed: int,
        d_context: int,
        embedding_rms: float,
        learns_variance: bool,
        captions: CaptionEncoder | None,
    ) -> None:
        """Build the decoder.

        unet             sizes, with the side after the picture is cut into patches
        patch_size       side of the patches of pixels that become channels; 1, as published
        embedding_rms    the scale of embeddings, see `scale_embeddings`
        learns_variance  whether it predicts variances in addition
        captions         what makes context of captions; None: no text path
        """
        super().__init__()
        self.patch_size = patch_size
        self.embedding_rms = embedding_rms
        self.n_predicted = N_COLOURS * (2 if learns_variance else 1)

        n_pixels = patch_size**2
        self.unet = UNet(
            unet,
            n_in=N_COLOURS * n_pixels,
            n_out=self.n_predicted * n_pixels,
            d_context=d_context,
        )
        self.captions = captions

        # CLIP's embedding; in place of one that is left out, a vector that starts at zero
        self.null_embedding = nn.Parameter(torch.zeros(d_embed))
        self.embedding_vector = nn.Linear(d_embed, unet.d_vector)
        self.embedding_slots = nn.Linear(d_embed, N_EMBEDDING_SLOTS * d_context)

        has_summary = isinstance(captions, TokenCaptions)
        self.summary_vector = nn.Linear(d_context, unet.d_vector) if has_summary else None

    @property
    def image_size(self) -> int:
        """Side of the pictures, in pixels."""
        return self.unet.sizes.image_size * self.patch_size

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        embeddings: Tensor,
        captions: CaptionInputs | None,
        is_embedding_dropped: Tensor,
        is_caption_dropped: Tensor,
        uniforms: Uniforms | None = None,
    ) -> Tensor:
        """Predict the noise of noisy pictures, or the clean ones, and the variances if learned.

        noisy      [B, 3, R, R]
        timesteps  int64 [B], steps of the training schedule
        uniforms   random numbers for dropout; None: no dropout
        returns    [B, C, R, R], of which the first three channels are the prediction

        The other arguments are those of `condition`.
        """
        condition = self.condition(
            embeddings,
            captions,
            is_embedding_dropped=is_embedding_dropped,
            is_caption_dropped=is_caption_dropped,
        )
        return self.denoise(noisy, timesteps, condition=condition, uniforms=uniforms)

    def condition(
        self,
        embeddings: Tensor,
        captions: CaptionInputs | None,
        *,
        is_embedding_dropped: Tensor,
        is_caption_dropped: Tensor,
    ) -> DecoderCondition:
        """Encode a batch's conditions.

        embeddings            [B, D], of any length
        captions              None where there is no text path
        is_embedding_dropped  bool [B], whether a sample's embedding is left out
        is_caption_dropped    bool [B], whether its caption is

        Raises ValueError for captions without a text path, and the reverse.
        """
        if (captions is None) != (self.captions is None):
            expected = "no captions" if self.captions is None else "captions"
            raise ValueError(f"the decoder takes {expected}")

        # before both projections, so that nothing of a dropped embedding is left
        scaled = scale_embeddings(embeddings, self.embedding_rms)
        scaled = torch.where(is_embedding_dropped[:, None], self.null_embedding, scaled)  # [B, D]
        vector = self.embedding_vector(scaled)  # [B, E]
        slots = self.embedding_slots(scaled).unflatten(1, (N_EMBEDDING_SLOTS, -1))  # [B, 4, W]
        if self.captions is None or captions is None:
            return DecoderCondition(vector, slots)

        is_given = captions.is_given & ~is_caption_dropped[:, None]  # [B, T]
        text = self.captions(CaptionInputs(captions.values, is_given))  # [B, T, W]
        if self.summary_vector is not None:
            vector = vector + self.summary_vector(text[:, -1])
        return DecoderCondition(vector, torch.cat([slots, text], dim=1))

    def denoise(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        *,
        condition: DecoderCondition,
        uniforms: Uniforms | None = None,
    ) -> Tensor:
        """Predict under conditions that are encoded already; see `forward`.

        Raises ValueError for pictures of another size.
        """
        side = self.image_size
        if list(noisy.shape[1:]) != [N_COLOURS, side, side]:
            raise ValueError(
                f"expected pictures [B, {N_COLOURS}, {side}, {side}], got {list(noisy.shape)}"
            )
        patches = F.pixel_unshuffle(noisy, self.patch_size)  # [B, 3 patch², R / patch, R / patch]
        output = self.unet(patches, timesteps, condition.vector, condition.context, uniforms)
        return F.pixel_shuffle(output, self.patch_size)  # [B, C, R, R]

    def matrices(self) -> list[nn.Parameter]:
        """Return the weights that decay."""
        return decayed_weights(self)

    def half_precision_modules(self) -> list[nn.Module]:
        """Return the residual branches of the U-Net, and those of a text transformer."""
        text = [] if self.captions is None else self.captions.half_precision_modules()
        return [*self.unet.half_precision_modules(), *text]


def choose_dropped(
    uniforms: Tensor, *, embedding_dropout: float, caption_dropout: float
) -> tuple[Tensor, Tensor]:
    """Choose which samples train without their embedding, and which without their caption.

    uniforms  [B, 2] in [0, 1): the two are chosen independently
    returns   bool [B] each
    """
    by_embedding, by_caption = uniforms.unbind(1)  # [B] each
    return by_embedding < embedding_dropout, by_caption < caption_dropout


def decoder_net(
    decoder: UnclipDecoder,
    embeddings: Tensor,
    captions: CaptionInputs | None,
    *,
    guidance: float,
    is_embedding_dropped: Tensor | None = None,
    is_caption_dropped: Tensor | None = None,
) -> Net:
    """Return the decoder under given conditions, guided away from neither of them.

    guidance              1: the conditions alone, at half the cost
    is_embedding_dropped  bool [B]; None: no embedding is left out
    is_caption_dropped    bool [B]; None: no caption is, if the decoder reads captions
    """
    none = torch.zeros(len(embeddings), dtype=torch.bool, device=embeddings.device)
    without_embedding = none if is_embedding_dropped is None else is_embedding_dropped
    without_caption = none if is_caption_dropped is None else is_caption_dropped

    if guidance != 1:
        embeddings = torch.cat([embeddings, embeddings])  # [2 B, D]
        captions = None if captions is None else captions.twice()
        without_embedding = torch.cat([without_embedding, ~none])
        without_caption = torch.cat([without_caption, ~none])

    condition = decoder.condition(
        embeddings,
        captions,
        is_embedding_dropped=without_embedding,
        is_caption_dropped=without_caption,
    )
    net = partial(decoder.denoise, condition=condition)
    return net if guidance == 1 else GuidedNet(net, guidance)
