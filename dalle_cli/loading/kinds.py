"""Modules built from the tables of recipes and model folders, with fresh weights.

`MODEL_KINDS` has a row for each kind of model that a folder can hold.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dalle_cli.config import (
    AutoregressivePriorModelTable,
    AutoregressivePriorRecipe,
    ClipModelTable,
    ClipRecipe,
    DecoderModelTable,
    DecoderRecipe,
    DVAEEncoderTable,
    DVAEModelTable,
    DVAERecipe,
    EmbeddingCodecTable,
    ModelTable,
    PriorModelTable,
    PriorRecipe,
    Recipe,
    TowerTable,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerModelTable,
    TransformerRecipe,
    kind_of,
)
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Tower
from dalle_cli.models.dvae import DiscreteVAE, DVAEEncoder
from dalle_cli.models.transformer import Transformer
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.caption_encoders import CaptionEncoder, StateCaptions, TokenCaptions
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.models.unclip.unet import UNetSizes
from dalle_cli.storage.model_folder import check_stored_weights

N_SPECIAL_TOKENS = 2  # start and end of text, which CLIP adds to a tokenizer's ids


def build_dvae(model: DVAEModelTable) -> DiscreteVAE:
    """Build a discrete VAE with fresh weights."""
    return DiscreteVAE(**model.model_dump())


def build_dvae_encoder(model: DVAEEncoderTable) -> DVAEEncoder:
    """Build the encoder of a discrete VAE, without its decoder, with fresh weights."""
    return DVAEEncoder(**model.model_dump())


def build_transformer(model: TransformerModelTable, text_vocab_size: int) -> Transformer:
    """Build a transformer with fresh weights, for a text vocabulary of the learnt size."""
    return Transformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})


def build_trained_transformer(model: TrainedTransformerTable) -> Transformer:
    """Build a transformer with fresh weights, of the sizes in its `config.json`."""
    return build_transformer(model, model.text_vocab_size)


def build_clip(model: TrainedClipTable) -> Clip:
    """Build a CLIP with fresh weights."""
    sizes = model.model_dump()
    return Clip(**{**sizes, "vision": Tower(**sizes["vision"]), "text": Tower(**sizes["text"])})


def trained_clip_table(model: ClipModelTable, text_vocab_size: int) -> TrainedClipTable:
    """Return the table of a CLIP that this package trains, for a tokenizer's vocabulary size."""
    return TrainedClipTable(
        **model.model_dump(),
        text_vocab_size=text_vocab_size + N_SPECIAL_TOKENS,
        end_of_text=None,
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )


def table_of_clip(clip: Clip) -> TrainedClipTable:
    """Return the table of a CLIP, wherever it comes from."""
    return TrainedClipTable(
        image_size=clip.image_size,
        patch_size=clip.visual.patch_size,
        text_len=clip.text_len,
        text_vocab_size=clip.text_vocab_size,
        d_embed=clip.text_projection.shape[1],
        activation=clip.activation,
        vision=TowerTable(**asdict(clip.vision)),
        text=TowerTable(**asdict(clip.text)),
        end_of_text=clip.end_of_text,
        pixel_mean=list(clip.pixel_mean),
        pixel_std=list(clip.pixel_std),
    )


def build_prior(model: PriorModelTable) -> DiffusionPrior:
    """Build a diffusion prior with fresh weights."""
    return DiffusionPrior(**model.model_dump(exclude={"diffusion"}))


def build_autoregressive_prior(model: AutoregressivePriorModelTable) -> AutoregressivePrior:
    """Build an autoregressive prior with fresh weights."""
    return AutoregressivePrior(**model.model_dump())


def build_embedding_codec(model: EmbeddingCodecTable) -> EmbeddingCodec:
    """Build the codec of an autoregressive prior, before it is fitted to embeddings."""
    return EmbeddingCodec(**model.model_dump())


def build_decoder(model: DecoderModelTable) -> UnclipDecoder:
    """Build a decoder with fresh weights."""
    side = model.image_size // model.patch_size
    return UnclipDecoder(
        UNetSizes(side, **model.unet.model_dump()),
        patch_size=model.patch_size,
        d_embed=model.d_embed,
        d_context=model.d_context,
        embedding_rms=model.embedding_rms,
        learns_variance=model.learns_variance,
        captions=_caption_encoder(model),
    )


def _caption_encoder(model: DecoderModelTable) -> CaptionEncoder | None:
    """Build what a decoder reads captions with, if it reads any."""
    if model.text_len is None:
        return None
    if model.text is not None:
        return TokenCaptions(text_len=model.text_len, **model.text.model_dump())
    assert model.d_text is not None  # as the table checks
    return StateCaptions(model.d_text, model.text_len, model.d_context)


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    table      its sizes, as in `config.json`
    build      builds a module with fresh weights from a table
    recipe     the recipe that trains it; None if this package does not train it
    sizes_for  returns the table of the largest model that a recipe allows: a learnt vocabulary may
               turn out smaller
    """

    table: type[ModelTable]
    build: Callable[[Any], nn.Module]
    recipe: type[Recipe] | None = None
    sizes_for: Callable[[Any], ModelTable] | None = None


MODEL_KINDS = {
    "dvae": ModelKind(DVAEModelTable, build_dvae, DVAERecipe, lambda recipe: recipe.model),
    "dvae-encoder": ModelKind(DVAEEncoderTable, build_dvae_encoder),
    "transformer": ModelKind(
        TrainedTransformerTable,
        build_trained_transformer,
        TransformerRecipe,
        lambda recipe: TrainedTransformerTable(
            **recipe.model.model_dump(), text_vocab_size=recipe.tokenizer.vocab_size
        ),
    ),
    "clip": ModelKind(
        TrainedClipTable,
        build_clip,
        ClipRecipe,
        lambda recipe: trained_clip_table(recipe.model, recipe.tokenizer.vocab_size),
    ),
    "prior": ModelKind(PriorModelTable, build_prior, PriorRecipe, lambda recipe: recipe.model),
    "prior-autoregressive": ModelKind(
        AutoregressivePriorModelTable,
        build_autoregressive_prior,
        AutoregressivePriorRecipe,
        lambda recipe: recipe.model,
    ),
    "decoder": ModelKind(
        DecoderModelTable, build_decoder, DecoderRecipe, lambda recipe: recipe.model
    ),
    "embedding-codec": ModelKind(EmbeddingCodecTable, build_embedding_codec),
}


def build_model(table: ModelTable) -> nn.Module:
    """Build the model that a table describes, with fresh weights."""
    return MODEL_KINDS[kind_of(table)].build(table)


def largest_table(recipe: Recipe) -> ModelTable:
    """Return the table of the model that a recipe trains, with the largest vocabulary it allows."""
    sizes_for = MODEL_KINDS[recipe.kind].sizes_for
    assert sizes_for is not None, recipe.kind
    return sizes_for(recipe)


def build_largest_model(recipe: Recipe) -> nn.Module:
    """Build the largest model that a recipe allows, with fresh weights."""
    return MODEL_KINDS[recipe.kind].build(largest_table(recipe))


def check_model(folder: Path) -> ModelTable:
    """Check that a model folder is whole and its weights are those of its config.

    Returns the model's sizes. Raises DalleError naming the file that is damaged.
    """
    return check_stored_weights(folder, build_model)
