"""The tokenizer of a run: the one it began with, a given one, or one learnt from its captions."""

from pathlib import Path

from dalle_cli.config import TokenizerTable
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer, learn_merges
from dalle_cli.errors import UsageError
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.run import TrainingRun


def choose_tokenizer(run: TrainingRun, table: TokenizerTable, given: Path | None) -> Tokenizer:
    """Return the run's tokenizer, or the given one, or learn one from the training captions.

    Raises UsageError where the given one is not the run's, or is larger than the recipe allows.
    """
    if given is not None and not given.exists():
        raise UsageError(f"no such tokenizer: {given}", "name a merges.json of another run")
    named = None if given is None else Tokenizer.load(given)
    if run.folder.is_run and run.folder.tokenizer.is_file():
        tokenizer = Tokenizer.load(run.folder.tokenizer)
        if named is not None and named.merges != tokenizer.merges:
            message = f"{given} is not the tokenizer this run began with"
            raise UsageError(message, "leave out --tokenizer")
        return tokenizer

    allowed = table.vocab_size
    if named is not None:
        size = named.vocab_size
        if size > allowed:
            message = f"{given} has {size:,} entries, `tokenizer.vocab_size` allows {allowed:,}"
            raise UsageError(message, f"`--set tokenizer.vocab_size={size}`")
        return named
    return _learn(run, table)


def _learn(run: TrainingRun, table: TokenizerTable) -> Tokenizer:
    """Learn a tokenizer in the main process, for all processes."""
    tokenizer = None
    if run.world.is_main:
        captions = run.data.training.captions()
        tokenizer = learn_merges(captions, table.vocab_size, backend=table.backend)
    tokenizer = run.world.broadcast(tokenizer)
    run.terminal.say(
        f"learnt a vocabulary of {tokenizer.vocab_size:,} text tokens "
        f"with {tokenizer.learnt_with}; the recipe allows {table.vocab_size:,}"
    )
    return tokenizer


def keep_tokenizer(folder: RunDir, tokenizer: Tokenizer) -> None:
    """Write the run's copy of its tokenizer, unless it has one."""
    if not folder.tokenizer.is_file():
        folder.tokenizer.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder.tokenizer) as temporary:
            tokenizer.save(temporary)


def keep_known_words(run: TrainingRun) -> None:
    """Write the words of the training captions beside the tokenizer of a new run.

    A run that has its tokenizer already keeps what it has: its captions may have changed.
    """
    if not run.folder.tokenizer.is_file():
        KnownWords.of_captions(run.data.training.captions()).save(run.folder.known_words)
