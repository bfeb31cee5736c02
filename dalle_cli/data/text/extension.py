"""More merges for a tokenizer, learnt from captions with words that it has not seen.

The merges that are there keep their ranks and ids, so that whatever was learnt of them holds; the
new ones join their pieces. Fine-tuning needs both: the old words, and new ones in few tokens.
"""

from collections import Counter
from collections.abc import Iterable

from dalle_cli.data.merge_learners import learn_with_tokenizers
from dalle_cli.data.tokenizer import Tokenizer, repeated_words

FIRST_CHARACTER = 0x10000  # from here on, no character is a space or a surrogate


def extend_tokenizer(tokenizer: Tokenizer, captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return the tokenizer with further merges, up to vocab_size ids in all.

    The order of the captions makes no difference. Where nothing is left to merge, or vocab_size
    leaves no room, there are fewer, or none.
    """
    words = Counter(word for caption in captions for word in caption.lower().split())
    # A piece becomes one character, so that merges are learnt on top of those there are
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts["".join(chr(FIRST_CHARACTER + i) for i in tokenizer.encode(word))] += count

    n_merges = min(vocab_size - tokenizer.vocab_size, sum(len(word) - 1 for word in counts))
    if n_merges <= 0:
        return tokenizer

    def spell(characters: str) -> str:
        return "".join(tokenizer.pieces[ord(one) - FIRST_CHARACTER] for one in characters)

    symbols = set().union(*counts)
    learnt = learn_with_tokenizers(repeated_words(counts), symbols, n_merges)
    known, merges = set(tokenizer.pieces), list(tokenizer.merges)
    for left, right in ((spell(left), spell(right)) for left, right in learnt):
        # another way to a piece that exists: only the merge that is there makes it
        if left + right not in known:
            known.add(left + right)
            merges.append((left, right))
    return Tokenizer(merges, tokenizer.learnt_with)
