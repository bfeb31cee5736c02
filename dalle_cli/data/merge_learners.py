"""Learning byte-pair merges with youtokentome or tokenizers; the only importer of youtokentome.

Each learner takes lines of words that start with a boundary symbol and returns merges in rank
order, as pairs of strings. The libraries are imported only when called, and neither is needed to
apply the merges. Given the same lines, tokenizers always learns the same merges; youtokentome
breaks ties between equally frequent pairs by the timing of its threads (even of a single one),
unless it was compiled with -DDETERMINISTIC_QUEUE.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dalle_cli.storage.integrity.disk_space import explain_disk_failure

Merges = list[tuple[str, str]]

# Padding, unknown, start and end, whose ids youtokentome reserves within the vocabulary size
N_YOUTOKENTOME_SPECIALS = 4


def learn_with_youtokentome(lines: Iterable[str], symbols: set[str], n_merges: int) -> Merges:
    """Learn at most n_merges with youtokentome.

    symbols  all characters that occur in the lines, including the boundary
    """
    import youtokentome

    with tempfile.TemporaryDirectory(prefix="dalle-tokenizer-") as folder:
        corpus, model = Path(folder, "corpus.txt"), Path(folder, "model.txt")
        with explain_disk_failure(corpus), corpus.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

        size = N_YOUTOKENTOME_SPECIALS + len(symbols) + n_merges
        with _silent_descriptors():
            youtokentome.BPE.train(data=str(corpus), model=str(model), vocab_size=size, n_threads=1)
        return _read_youtokentome_model(model.read_text("utf-8"))


def learn_with_tokenizers(lines: Iterable[str], symbols: set[str], n_merges: int) -> Merges:
    """Learn at most n_merges with Hugging Face's tokenizers; arguments as for youtokentome."""
    import tokenizers

    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(symbols) + n_merges, special_tokens=[], show_progress=False
    )
    learner.train_from_iterator(lines, trainer=trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def _read_youtokentome_model(text: str) -> Merges:
    """Parse a model file into merges.

    Its lines are the two counts, then `code point, id` for each symbol, then `left id, right id,
    new id` for each rule in rank order.
    """
    counts, *rows = [[int(number) for number in line.split()] for line in text.splitlines()]
    n_symbols, n_rules = counts
    pieces = {symbol_id: chr(code_point) for code_point, symbol_id in rows[:n_symbols]}
    merges = []
    for left, right, product in rows[n_symbols : n_symbols + n_rules]:
        merges.append((pieces[left], pieces[right]))
        pieces[product] = pieces[left] + pieces[right]
    return merges


@contextmanager
def _silent_descriptors() -> Iterator[None]:
    """Silence C++ code: youtokentome writes to the descriptors, bypassing Python's streams."""
    sys.stdout.flush()
    sys.stderr.flush()
    copies = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}

    try:
        with open(os.devnull, "wb") as nowhere:
            for descriptor in copies:
                os.dup2(nowhere.fileno(), descriptor)
        yield
    finally:
        for descriptor, copy in copies.items():
            os.dup2(copy, descriptor)
            os.close(copy)
