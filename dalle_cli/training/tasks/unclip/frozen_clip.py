"""The frozen CLIP of a prior's or a decoder's run: does it fit, and the run's copy of it.

Both are trained on the embeddings of one CLIP (Ramesh et al. 2022, section 2), and each run keeps a
copy, so that it can embed captions and be told whether another run goes with it.
"""

from collections.abc import Iterable
from typing import Any

import torch

from dalle_cli.config import (
    AutoregressivePriorModelTable,
    DecoderModelTable,
    PriorModelTable,
)
from dalle_cli.data.clip_tokenizer import vocabulary_files
from dalle_cli.data.sources import EmbeddingSource, Source, encoded_folder
from dalle_cli.data.token_shards import AGAIN
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import find_clip, find_vocabulary, table_of_clip
from dalle_cli.models.clip import Clip
from dalle_cli.runtime.precision import Precision
from dalle_cli.scoring.clip_scorer import ClipScorer, load_clip_scorer
from dalle_cli.storage.atomic import copy_file, make_folder
from dalle_cli.storage.model_folder import write_model
from dalle_cli.storage.run_dir import WEIGHTS, RunDir
from dalle_cli.training.run import TrainingRun

UnclipModelTable = PriorModelTable | AutoregressivePriorModelTable | DecoderModelTable

ANOTHER_CLIP = (
    "give the CLIP that embedded with `--clip`, or embed the pictures again: `dalle data encode`"
)
MOST_MEASURED = 1000  # captions
MANY_CUT = 0.01  # of the captions


def load_frozen_clip(
    name: str,
    model: UnclipModelTable,
    sources: Iterable[Source],
    *,
    device: torch.device,
    precision: Precision,
) -> ClipScorer:
    """Load a CLIP, and check it against a model and the sources that hold embeddings.

    name  a run, a public checkpoint or a name on the hub, see `loading.load_clip`

    Raises DalleError where it does not fit, or embeddings are damaged.
    """
    scorer = load_clip_scorer(name, None, device=device, precision=precision)
    _check_sizes(name, scorer.clip, model)
    encoded = map(encoded_folder, sources)
    embedded = [source for source in encoded if isinstance(source, EmbeddingSource)]
    for source in dict.fromkeys(embedded):  # the one that both trains and is held out comes twice
        if source.encoding.clip != scorer.identity:
            raise UsageError(
                f"{source.name} was embedded by another CLIP than {name}", ANOTHER_CLIP
            )
        for shard, reason in source.damaged():
            raise DalleError(f"{shard} is damaged: it {reason}", AGAIN)
    return scorer


def _check_sizes(name: str, clip: Clip, model: UnclipModelTable) -> None:
    """Raise DalleError unless the sizes that follow from CLIP are this CLIP's, with their keys."""
    differing = [
        (key, stated, size)
        for key, stated, size in _stated_sizes(clip, model)
        if stated is not None and stated != size
    ]
    if differing:
        listed = ", ".join(f"`{key}` {size}, not {stated}" for key, stated, size in differing)
        changes = " ".join(f"--set {key}={size}" for key, _, size in differing)
        raise DalleError(f"{name} needs {listed}", f"`{changes}`, or another CLIP")


def _stated_sizes(clip: Clip, model: UnclipModelTable) -> list[tuple[str, int | None, int]]:
    """List the keys that follow from a CLIP, each with the model's value, if any, and CLIP's."""
    d_embed, text_vocab_size = clip.text_projection.shape[1], clip.text_vocab_size
    sizes: list[tuple[str, int | None, int]] = [
        ("model.d_embed", model.d_embed, d_embed),
        ("model.text_len", model.text_len, clip.text_len),
        ("model.d_text", model.d_text, clip.text.d_model),
    ]
    if isinstance(model, PriorModelTable):
        sizes.append(("model.text_vocab_size", model.text_vocab_size, text_vocab_size))
    if isinstance(model, DecoderModelTable) and model.text is not None:
        sizes.append(("model.text.text_vocab_size", model.text.text_vocab_size, text_vocab_size))
    return sizes


def warn_of_cut_by_clip(run: TrainingRun[Any], scorer: ClipScorer) -> None:
    """Warn, before a new run's first update, of what CLIP makes of its captions.

    That is what had to be assumed of it, and that it cuts many of them.
    """
    if run.checkpoint is not None or not run.world.is_main:
        return
    if scorer.assumption:
        run.terminal.warn(scorer.assumption)

    captions = list(run.data.training.captions(MOST_MEASURED))
    share = sum(map(scorer.is_truncated, captions)) / len(captions)
    if share >= MANY_CUT:
        n_fitting = scorer.clip.text_len - 2
        run.terminal.warn(
            f"{share:.0%} of the captions are longer than the {n_fitting} tokens that this CLIP "
            "reads, and are cut"
        )


def check_kept_clip(folder: RunDir, name: str, scorer: ClipScorer) -> None:
    """Raise DalleError where the run keeps a copy of another CLIP than the one of a name."""
    kept = folder.clip
    if not _is_kept(folder) or find_clip(name).resolve() == kept.resolve():
        return
    copy = load_clip_scorer(str(kept), None, device=torch.device("cpu"), precision="fp32")
    if copy.identity != scorer.identity:
        hint = f"`--clip {folder.root}` uses the run's copy"
        raise DalleError(f"{name} is not the CLIP this run began with", hint)


def keep_clip(folder: RunDir, name: str, scorer: ClipScorer) -> None:
    """Copy a CLIP and its vocabulary into the run, unless the run has a copy.

    name  as it was loaded by
    """
    if _is_kept(folder):
        return
    vocabulary = find_vocabulary(find_clip(name))
    own = RunDir(folder.clip).tokenizer
    place = own.parent if vocabulary.name == own.name else folder.clip
    make_folder(place)
    for file in vocabulary_files(vocabulary):
        copy_file(file, place / file.name)

    clip = scorer.clip
    weights = {name: tensor.cpu().contiguous() for name, tensor in clip.state_dict().items()}
    config = {"kind": "clip", "model": table_of_clip(clip).model_dump()}
    write_model(RunDir(folder.clip).model, config, weights)  # last: by it, a copy is whole


def _is_kept(folder: RunDir) -> bool:
    return (RunDir(folder.clip).model / WEIGHTS).is_file()
