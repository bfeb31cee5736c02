"""Which text tokens a run reads: those it began with, those of a tokenizer named, or those learnt from its captions."""

from collections.abc import Iterator
from pathlib import Path

from dalle_cli.config import TokenizerTable
from dalle_cli.data.images import BadSample
from dalle_cli.data.tokenizer import Tokenizer, learn_merges
from dalle_cli.errors import UsageError
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import RunDir
from dalle_cli.training.run import TrainingRun


def choose_tokenizer(
    session: TrainingRun, table: TokenizerTable, named_file: Path | None
) -> Tokenizer:
    """Take the run's own tokenizer, or the one named, or learn one from the training captions.

    Raises UsageError where the one named is not the run's, or larger than the recipe allows.
    """
    named = Tokenizer.load(named_file) if named_file is not None else None
    if session.is_resumed and session.run.tokenizer.is_file():
        tokenizer = Tokenizer.load(session.run.tokenizer)
        if named is not None and named.merges != tokenizer.merges:
            raise UsageError(
                f"{named_file} is not the tokenizer this run began with", "leave out --tokenizer"
            )
        return tokenizer
    if named is not None:
        most = table.vocab_size
        if named.vocab_size > most:
            message = f"{named_file} has {named.vocab_size:,} entries, `tokenizer.vocab_size` allows {most:,}"
            raise UsageError(message, f"`--set tokenizer.vocab_size={named.vocab_size}`")
        return named
    learnt = (
        [learn_merges(_captions(session), table.vocab_size, backend=table.backend)]
        if session.world.is_main
        else []
    )
    tokenizer = session.world.all_gather(learnt)[0]
    session.terminal.say(
        f"learnt a vocabulary of {tokenizer.vocab_size:,} text tokens with {tokenizer.learnt_with}; "
        f"the recipe allows {table.vocab_size:,}"
    )
    return tokenizer


def keep_tokenizer(run: RunDir, tokenizer: Tokenizer) -> None:
    """Write the run's own copy, where it has none yet."""
    if not run.tokenizer.is_file():
        run.tokenizer.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(run.tokenizer) as beside:
            tokenizer.save(beside)


def _captions(session: TrainingRun) -> Iterator[str]:
    for index in session.training.indices:
        try:
            yield from session.training.source.captions(int(index))
        except BadSample:
            continue  # told, and counted, when its turn to train comes
