"""The tokenizer of a run: the one it began with, a given one, or one learnt from its captions.

A run that starts from another's weights extends that one's tokenizer: every token keeps its row of
the embedding, and the words of the new captions get tokens of their own.
"""

from pathlib import Path
from typing import Any

import numpy as np

from dalle_cli.config import TokenizerTable
from dalle_cli.data.text.extension import extend_tokenizer
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer, learn_merges
from dalle_cli.errors import UsageError
from dalle_cli.storage.atomic import make_folder
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.run import TrainingRun

MOST_MEASURED = 1000  # samples whose captions are measured
MANY_CUT = 0.01  # of the captions


def choose_tokenizer(run: TrainingRun[Any], table: TokenizerTable, given: Path | None) -> Tokenizer:
    """Return the run's tokenizer, or the given one, or learn one from the training captions.

    Where the run starts from another, what is learnt extends that one's tokenizer.

    Raises UsageError where the given one is not the run's, or is larger than the recipe allows.
    """
    if given is not None and not given.exists():
        raise UsageError(f"no such tokenizer: {given}", "name a merges.json of another run")
    named = None if given is None else Tokenizer.load(given)
    if run.folder.is_run and run.folder.tokenizer.exists():
        tokenizer = Tokenizer.load(run.folder.tokenizer)
        if named is not None and named.merges != tokenizer.merges:
            message = f"{given} is not the tokenizer this run began with"
            raise UsageError(message, "leave out --tokenizer")
        return tokenizer

    if named is not None:
        if named.vocab_size > table.vocab_size:
            size, allowed = named.vocab_size, table.vocab_size
            message = f"{given} has {size:,} entries, `tokenizer.vocab_size` allows {allowed:,}"
            raise UsageError(message, f"`--set tokenizer.vocab_size={size}`")
        return named
    if run.init_from is not None and RunDir(run.init_from).tokenizer.is_file():
        return _extend(run, table, Tokenizer.load(RunDir(run.init_from).tokenizer))
    return _learn(run, table)


def _extend(run: TrainingRun[Any], table: TokenizerTable, earlier: Tokenizer) -> Tokenizer:
    """Extend a tokenizer in the main process, for all processes."""
    tokenizer = None
    if run.world.is_main:
        captions = run.data.training.captions(max_bad_share=run.recipe.data.max_bad_share)
        tokenizer = extend_tokenizer(earlier, captions, table.vocab_size)
    tokenizer = run.world.broadcast(tokenizer)

    more = f"learnt {tokenizer.vocab_size - earlier.vocab_size:,} more from the captions"
    if earlier.vocab_size >= table.vocab_size:
        more = f"`tokenizer.vocab_size={table.vocab_size}` leaves no room for more"
    run.terminal.say(f"kept the {earlier.vocab_size:,} text tokens of {run.init_from}; {more}")
    return tokenizer


def _learn(run: TrainingRun[Any], table: TokenizerTable) -> Tokenizer:
    """Learn a tokenizer in the main process, for all processes."""
    tokenizer = None
    if run.world.is_main:
        captions = run.data.training.captions(max_bad_share=run.recipe.data.max_bad_share)
        tokenizer = learn_merges(captions, table.vocab_size, backend=table.backend)
    tokenizer = run.world.broadcast(tokenizer)
    run.terminal.say(
        f"learnt a vocabulary of {tokenizer.vocab_size:,} text tokens "
        f"with {tokenizer.learnt_with}; the recipe allows {table.vocab_size:,}"
    )
    return tokenizer


def warn_of_cut_captions(run: TrainingRun[Any], tokenizer: Tokenizer, n_fitting: int) -> None:
    """Warn, before a new run's first update, if many captions have more tokens than fit.

    n_fitting  tokens of a caption that the model reads
    """
    if run.checkpoint is not None or not run.world.is_main:
        return
    captions = run.data.training.captions(MOST_MEASURED)
    lengths = np.array([len(tokenizer.encode(caption)) for caption in captions])
    share = float((lengths > n_fitting).mean())
    if share >= MANY_CUT:
        enough = max(int(np.quantile(lengths, 0.99, method="higher")) - n_fitting, 1)
        run.terminal.warn(
            f"{share:.0%} of the captions are longer than {n_fitting:,} tokens and are cut\n"
            f"hint: `--set model.text_len={run.recipe.model.text_len + enough}` holds 99 % of them"
        )


def keep_tokenizer(folder: RunDir, tokenizer: Tokenizer) -> None:
    """Write the run's copy of its tokenizer, unless it has one."""
    if not folder.tokenizer.exists():
        make_folder(folder.tokenizer.parent)
        tokenizer.save(folder.tokenizer)


def keep_known_words(run: TrainingRun[Any]) -> None:
    """Write the words of the training captions beside the tokenizer of a new run.

    A run that starts from another knows that one's words, too; where they are not recorded, what it
    knows is not known either. A run that has its tokenizer already keeps what it has: its captions
    may have changed.
    """
    if run.folder.tokenizer.exists():
        return
    known = KnownWords.of_captions(run.data.training.captions())

    if run.init_from is not None:
        earlier = RunDir(run.init_from).known_words
        if not earlier.is_file():
            return
        known = known.with_those_of(KnownWords.load(earlier))
    known.save(run.folder.known_words)
