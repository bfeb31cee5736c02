"""The codec of an autoregressive prior's run: fitted before training, and kept as it was then."""

from typing import Any

import torch
from torch import Tensor

from dalle_cli.config import AutoregressivePriorModelTable, EmbeddingCodecTable
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.errors import DalleError
from dalle_cli.loading import build_embedding_codec, load_embedding_codec
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.storage.model_folder import write_model
from dalle_cli.storage.run_dir import WEIGHTS, RunDir
from dalle_cli.training.run import TrainingRun
from dalle_cli.training.tasks.unclip.clip_pairs import PairEncoder
from dalle_cli.training.tasks.unclip.spread_batches import spread_batches

MOST_FITTED = 20_000  # samples, evenly spread


def fit_codec(
    run: TrainingRun[Any],
    model: AutoregressivePriorModelTable,
    *,
    preprocess: Preprocessing,
    encode: PairEncoder,
) -> EmbeddingCodec:
    """Return the run's codec, or fit one to training samples in the main process, for all.

    Every process takes part. Raises DalleError where no sample is usable.
    """
    if (run.folder.codec / WEIGHTS).is_file():
        return load_embedding_codec(run.folder).to(run.world.device)

    codec, share = build_embedding_codec(codec_table(model)), 0.0
    state: dict[str, Any] | None = None
    if run.world.is_main:
        images, texts = _training_embeddings(run, preprocess, encode)
        share = codec.fit(images, texts)
        state = codec.state_dict()
    codec.load_state_dict(run.world.broadcast(state))
    run.terminal.say(
        f"fitted codes to embeddings: {model.n_components} components hold {share:.1%} of the "
        "variance"
    )
    return codec.to(run.world.device)


def keep_codec(folder: RunDir, codec: EmbeddingCodec) -> None:
    """Write the run's copy of its codec, unless it has one."""
    if (folder.codec / WEIGHTS).is_file():
        return
    n_components, d_embed = codec.components.shape
    table = EmbeddingCodecTable(
        d_embed=d_embed, n_components=n_components, n_buckets=codec.n_buckets
    )
    config = {"kind": "embedding-codec", "model": table.model_dump()}
    weights = {name: tensor.cpu().contiguous() for name, tensor in codec.state_dict().items()}
    write_model(folder.codec, config, weights)


def codec_table(model: AutoregressivePriorModelTable) -> EmbeddingCodecTable:
    """Return the sizes of the codec that goes with a prior."""
    return EmbeddingCodecTable(
        d_embed=model.d_embed, n_components=model.n_components, n_buckets=model.n_buckets
    )


def _training_embeddings(
    run: TrainingRun[Any], preprocess: Preprocessing, encode: PairEncoder
) -> tuple[Tensor, Tensor]:
    """Embed samples that are evenly spread: pictures and captions, [N, D] each, on the CPU."""
    images: list[Tensor] = []
    texts: list[Tensor] = []
    for read in spread_batches(run, preprocess, most=MOST_FITTED):
        for batch in read.micro_batches(0, run.world.device):
            pairs = encode(batch)
            images.append(pairs.images.cpu())
            texts.append(pairs.texts.cpu())
    if not images:
        source = run.data.training.source
        raise DalleError(f"not one usable sample in {source.name}", "`dalle data check` says why")
    return torch.cat(images), torch.cat(texts)
