"""The weights that a new run starts from, where `--init-from` names another run or an export.

What fits by name and shape is taken from `model/`, which holds the moving average where there is
one. A row of a text embedding or a text head belongs to a token, and is taken by its token, so that
two vocabularies need not be the same. Nothing in the folder is executed.
"""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dalle_cli.console import Terminal
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.storage.model_folder import read_weights
from dalle_cli.storage.run_dir import WEIGHTS, RunDir, dvae_model_dir, model_dir

TEXT_ROWS = {  # by kind, the parameters with a row for each text token
    "transformer": ("text_embedding.weight", "text_head.weight", "text_head.bias"),
    "clip": ("token_embedding.weight",),
}
SPECIAL_TOKENS = {"clip": (" start of text", " end of text")}  # no piece holds a space
MOST_NAMES_SHOWN = 4


@dataclass
class Taken:
    """What a model has taken, and what it has not."""

    n_tensors: int
    n_tokens: int | None
    fresh: list[str]


@torch.no_grad()
def take_weights(
    model: nn.Module,
    weights: dict[str, Tensor],
    *,
    text_rows: Sequence[str] = (),
    same_tokens: tuple[Tensor, Tensor] | None = None,
) -> Taken:
    """Copy what fits into a model, in place.

    text_rows    parameters with a row for each text token
    same_tokens  the rows of the model and those of the weights that stand for the same tokens,
                 int64 [N] each; None: no text row is taken
    """
    taken = Taken(0, None if same_tokens is None else len(same_tokens[0]), [])
    for name, tensor in model.state_dict().items():
        given = weights.get(name)
        if given is None or given.shape[1:] != tensor.shape[1:]:
            taken.fresh.append(name)
        elif name in text_rows:
            if same_tokens is None:
                taken.fresh.append(name)
                continue
            own_rows, given_rows = same_tokens
            tensor[own_rows] = given[given_rows].to(tensor.dtype)
            taken.n_tensors += 1
        elif given.shape == tensor.shape:
            tensor.copy_(given)
            taken.n_tensors += 1
        else:
            taken.fresh.append(name)
    return taken


def start_from(
    source: Path,
    model: nn.Module,
    kind: str,
    *,
    tokenizer: Tokenizer | None = None,
    terminal: Terminal,
) -> None:
    """Start a model from another run's weights, in place, and print what was taken.

    tokenizer  the new run's, for a model that reads captions

    Raises DalleError where the folder holds another kind of model, or none.
    """
    weights = read_weights(model_dir(source), kind)
    same_tokens = None
    if tokenizer is not None and RunDir(source).tokenizer.is_file():
        theirs = Tokenizer.load(RunDir(source).tokenizer)
        same_tokens = _shared_tokens(tokenizer, theirs, SPECIAL_TOKENS.get(kind, ()))

    rows = TEXT_ROWS.get(kind, ())
    taken = take_weights(model, weights, text_rows=rows, same_tokens=same_tokens)
    n_tensors = taken.n_tensors + len(taken.fresh)
    tokens = ""
    if tokenizer is not None and taken.n_tokens is not None:
        n_tokens = tokenizer.vocab_size + len(SPECIAL_TOKENS.get(kind, ()))
        tokens = f", {taken.n_tokens:,} of {n_tokens:,} text tokens"
    terminal.say(f"started from {source}: {taken.n_tensors} of {n_tensors} tensors{tokens}")

    if taken.fresh:
        names = ", ".join(taken.fresh[:MOST_NAMES_SHOWN])
        more = len(taken.fresh) - MOST_NAMES_SHOWN
        terminal.say(f"fresh: {names}" + (f" and {more} more" if more > 0 else ""))


def _shared_tokens(
    ours: Tokenizer, theirs: Tokenizer, special: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return the ids of the tokens that both vocabularies have: in ours, and in theirs."""
    their_ids = {piece: i for i, piece in enumerate([*theirs.pieces, *special])}
    pairs = [
        (i, their_ids[piece])
        for i, piece in enumerate([*ours.pieces, *special])
        if piece in their_ids
    ]
    own_rows, given_rows = torch.tensor(pairs).T  # [N] each
    return own_rows, given_rows


def warn_of_another_dvae(source: Path, dvae: Path, terminal: Terminal) -> None:
    """Warn where a transformer starts from one that learnt the tokens of another dVAE."""
    kept = RunDir(source).dvae / WEIGHTS
    given = dvae_model_dir(dvae) / WEIGHTS
    if kept.is_file() and not filecmp.cmp(kept, given, shallow=False):
        terminal.warn(
            f"{source} learnt the image tokens of another dVAE than {dvae}: they mean something "
            "else here, and the transformer has to learn them anew"
        )
