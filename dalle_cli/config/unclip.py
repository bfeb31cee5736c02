"""The tables of DALL-E 2's models: sizes of priors and decoder, diffusion, and what is left out.

Sizes that follow from a CLIP are stated as well, so that a recipe alone says how large its model
is; they must be those of the CLIP that it is trained with. Knows nothing of files.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dalle_cli.config.tables import Channels, Layers, Pixels, Positive, Share, Table, Unit

PositiveRate = Annotated[float, Field(gt=0)]


class DiffusionTable(Table):
    """The noise that a model is trained to remove, `models.diffusion.noise_schedules`."""

    schedule: Literal["cosine", "linear"]
    """How the noise grows from step to step."""

    n_steps: Annotated[int, Field(ge=2, le=100_000), Unit("steps")]
    """Steps of the schedule; sampling may take fewer. More than 20 for `linear`."""

    @model_validator(mode="after")
    def _check_steps(self) -> "DiffusionTable":
        if self.schedule == "linear" and self.n_steps <= 20:
            raise ValueError(f"the linear schedule needs more than 20 steps: {self.n_steps}")
        return self


class PriorModelTable(Table):
    """Sizes of the diffusion prior, `models.unclip.diffusion_prior.DiffusionPrior`."""

    d_embed: Channels
    """Width of CLIP's shared embedding; must be CLIP's."""

    text_len: Annotated[Positive, Unit("tokens")]
    """Text positions; must be CLIP's."""

    d_text: Channels | None = None
    """Width of CLIP's text transformer, whose outputs the prior reads; must be CLIP's. Either this
    or `text_vocab_size`."""

    text_vocab_size: Positive | None = None
    """Size of CLIP's text vocabulary, for a prior that reads captions as tokens; must be CLIP's."""

    n_layers: Layers
    """Layers, each an attention and an MLP branch."""

    d_model: Channels
    """Width of the residual stream; even, and divisible by `n_heads`."""

    n_heads: Positive
    """Attention heads of a layer."""

    embedding_rms: PositiveRate
    """Root mean square of an entry of the embeddings that are diffused; 0.5375 is the published
    factor of 17.2 for unit vectors of 1,024 entries."""

    diffusion: DiffusionTable

    @model_validator(mode="after")
    def _check_sizes(self) -> "PriorModelTable":
        if (self.d_text is None) == (self.text_vocab_size is None):
            raise ValueError("must have either `d_text` or `text_vocab_size`, and not both")
        _check_heads(self.d_model, self.n_heads)
        if self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is not even")
        return self


class PriorLossTable(Table):
    """What the priors leave out of samples, which guidance needs."""

    caption_dropout: Share
    """Share of the samples that train without caption and text embedding; published: 0.1."""


class EmbeddingCodecTable(Table):
    """Sizes of the codes of image embeddings, `models.unclip.embedding_codec.EmbeddingCodec`."""

    d_embed: Channels
    """Width of CLIP's shared embedding; must be CLIP's."""

    n_components: Annotated[Positive, Unit("components")]
    """Principal components of an embedding that are kept; published: 319 of 1,024."""

    n_buckets: Annotated[int, Field(ge=2), Unit("entries")]
    """Values that a component, or the cosine to the caption, is rounded to; published: 1,024."""

    @model_validator(mode="after")
    def _check_components(self) -> "EmbeddingCodecTable":
        if self.n_components > self.d_embed:
            raise ValueError(
                f"n_components {self.n_components} is more than d_embed {self.d_embed}"
            )
        return self


class AutoregressivePriorModelTable(EmbeddingCodecTable):
    """Sizes of the autoregressive prior, `models.unclip.autoregressive_prior`."""

    text_len: Annotated[Positive, Unit("tokens")]
    """Text positions; must be CLIP's."""

    d_text: Channels
    """Width of CLIP's text transformer; must be CLIP's."""

    n_layers: Layers
    """Layers, each an attention and an MLP branch."""

    d_model: Channels
    """Width of the residual stream; must be divisible by `n_heads`."""

    n_heads: Positive
    """Attention heads of a layer."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "AutoregressivePriorModelTable":
        _check_heads(self.d_model, self.n_heads)
        return self


class UNetTable(Table):
    """Sizes of a U-Net, `models.unclip.unet.UNetSizes`."""

    channels: Channels
    """Width at the first level; even."""

    multiples: Annotated[list[Positive], Field(max_length=100)]
    """Widths of the levels, as multiples of `channels`; every level but the last halves the
    side."""

    depth: Layers
    """Residual blocks of a level on the way down; on the way up there is one more."""

    attention_sizes: Annotated[list[Positive], Field(max_length=100)]
    """Sides at which residual blocks are followed by attention; with any, the middle has it too."""

    d_head: Channels
    """Channels of an attention head; must divide the widths of levels with attention."""

    n_groups: Positive
    """Groups of the normalisation; must divide every width. Published: 32."""

    dropout: Share
    """Share of activations that residual blocks leave out in training."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "UNetTable":
        if not self.multiples:
            raise ValueError("multiples must name at least one level")
        widths = [self.channels * multiple for multiple in self.multiples]
        if self.channels % 2:
            raise ValueError(f"channels {self.channels} is not even")
        for width in widths:
            if width % self.n_groups:
                raise ValueError(f"a width of {width} is not divisible by n_groups {self.n_groups}")
        return self


class TextTransformerTable(Table):
    """Sizes of the decoder's own text transformer, `models.unclip.caption_encoders`."""

    text_vocab_size: Positive
    """Size of CLIP's text vocabulary; must be CLIP's."""

    n_layers: Layers
    """Layers, each an attention and an MLP branch."""

    d_model: Channels
    """Width of the residual stream; must be divisible by `n_heads`, and is the context's."""

    n_heads: Positive
    """Attention heads of a layer."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "TextTransformerTable":
        _check_heads(self.d_model, self.n_heads)
        return self


class DecoderModelTable(Table):
    """Sizes of the decoder, `models.unclip.decoder.UnclipDecoder`."""

    image_size: Pixels
    """Side of the square pictures."""

    patch_size: Pixels
    """Side of the patches of pixels that the U-Net reads as channels; 1, as published: none."""

    d_embed: Channels
    """Width of CLIP's shared embedding; must be CLIP's."""

    d_context: Channels
    """Width of the slots that attention reads in addition to the picture."""

    embedding_rms: PositiveRate
    """Root mean square of an entry of the embeddings that the decoder reads."""

    text_len: Annotated[Positive | None, Unit("tokens")] = None
    """Text positions; must be CLIP's. Without it, the decoder reads no captions."""

    d_text: Channels | None = None
    """Width of CLIP's text transformer, whose outputs the decoder reads; must be CLIP's."""

    text: TextTransformerTable | None = None
    """The decoder's own text transformer, in place of CLIP's outputs."""

    predicts: Literal["noise", "clean"]
    """What the U-Net predicts: the noise, as published, or the clean picture, which small networks
    learn much faster."""

    learns_variance: bool
    """Whether the decoder predicts variances as well; published: true."""

    unet: UNetTable
    diffusion: DiffusionTable

    @model_validator(mode="after")
    def _check_picture(self) -> "DecoderModelTable":
        unet, divisor = self.unet, self.patch_size * 2 ** (len(self.unet.multiples) - 1)
        if self.image_size % divisor:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by {divisor}, "
                f"patch_size times 2 for every level of the U-Net after the first"
            )

        sides = [self.image_size // self.patch_size // 2**i for i in range(len(unet.multiples))]
        unknown = [size for size in unet.attention_sizes if size not in sides]
        if unknown:
            raise ValueError(
                f"attention_sizes {unknown} are not among the levels' sides, "
                f"{', '.join(map(str, sides))}"
            )
        self._check_head_widths(sides)
        return self

    def _check_head_widths(self, sides: list[int]) -> None:
        unet = self.unet
        attended = [
            unet.channels * multiple
            for multiple, side in zip(unet.multiples, sides, strict=True)
            if side in unet.attention_sizes
        ]
        if attended:
            attended.append(unet.channels * unet.multiples[-1])  # the middle
        for width in attended:
            if width % unet.d_head:
                raise ValueError(f"a width of {width} is not divisible by d_head {unet.d_head}")

    @model_validator(mode="after")
    def _check_text_path(self) -> "DecoderModelTable":
        n_readers = (self.d_text is not None) + (self.text is not None)
        if n_readers > 1:
            raise ValueError("must have either `d_text` or `text`, and not both")
        if (self.text_len is not None) != (n_readers > 0):
            raise ValueError("`text_len` goes with `d_text` or `text`")
        if self.text is not None and self.text.d_model != self.d_context:
            raise ValueError(
                f"d_context {self.d_context} is not the text transformer's width, "
                f"{self.text.d_model}"
            )
        return self


class DecoderLossTable(Table):
    """What the decoder leaves out of samples, by independent chances, which guidance needs."""

    embedding_dropout: Share
    """Share of the samples that train without CLIP's embedding; published: 0.1."""

    caption_dropout: Share
    """Share of the samples that train without a caption; published: 0.5."""


def _check_heads(d_model: int, n_heads: int) -> None:
    if d_model % n_heads:
        raise ValueError(f"d_model {d_model} is not divisible by n_heads {n_heads}")
