"""Loads the models of DALL-E 2 from their runs: priors, the codec of one kind, and the decoder.

The CLIP that each was trained with is in its run, too: `load_clip_parts` reads it from there.
"""

from pathlib import Path

from dalle_cli.loading.kinds import (
    build_autoregressive_prior,
    build_decoder,
    build_embedding_codec,
    build_prior,
)
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.storage.model_folder import read_model
from dalle_cli.storage.run_dir import RunDir, model_dir
from dalle_cli.storage.shipped import resolve_run


def load_prior(path: Path | str) -> DiffusionPrior:
    """Load a diffusion prior from a run, a model folder or a shipped model.

    Raises DalleError if there is none.
    """
    return read_model(model_dir(Path(resolve_run(str(path))), "prior"), "prior", build_prior)


def load_autoregressive_prior(path: Path | str) -> AutoregressivePrior:
    """Load an autoregressive prior like `load_prior`; its codec is another model."""
    kind = "prior-autoregressive"
    folder = model_dir(Path(resolve_run(str(path))), kind)
    return read_model(folder, kind, build_autoregressive_prior)


def load_embedding_codec(run: RunDir) -> EmbeddingCodec:
    """Load the codec of an autoregressive prior's run; raises DalleError if there is none."""
    return read_model(run.codec, "embedding-codec", build_embedding_codec)


def load_decoder(path: Path | str) -> UnclipDecoder:
    """Load a decoder from a run, a model folder or a shipped model.

    Raises DalleError if there is none.
    """
    folder = model_dir(Path(resolve_run(str(path))), "decoder")
    return read_model(folder, "decoder", build_decoder)
