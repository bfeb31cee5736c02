"""Captions as CLIP reads them (Radford et al. 2021): start of text, byte pairs, end of text, zeros.

There are two kinds of vocabulary: the public one, run by the `tokenizers` library, and that of a
CLIP trained here by `train-clip`. The public one follows transformers' CLIPTokenizer: NFC, one
space for any white space, lower case. OpenAI's code also straightens quotes, repairs broken
encodings and unescapes HTML. As in both, a caption that spells out start or end of text gets that
token. Knows nothing of models: whoever loads a vocabulary and a model checks that they fit.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from tokenizers import Regex, normalizers, pre_tokenizers
from torch import Tensor

from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import SURROGATE, DalleError, UsageError, printable

MERGE_LISTS = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
VOCABULARY, MERGES, TOKENIZER = "vocab.json", "merges.txt", "tokenizer.json"  # Hugging Face's
HINT = (
    f"a CLIP vocabulary is `{MERGE_LISTS[0]}`, `{VOCABULARY}` with `{MERGES}` in the same folder, "
    f"or `{TOKENIZER}`"
)

N_MERGES = 48_894  # as many as OpenAI's CLIP uses of its list of 262,144
MAX_BYTES = 32 << 20  # unpacked; the largest of the public files has 3.2 MB
GZIP_MAGIC = b"\x1f\x8b"

# GPT-2's byte alphabet, in the order of CLIP's ids: visible Latin-1, other bytes from U+0100 on
BYTE_SYMBOLS = [
    chr(i)
    for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144))
]
END_OF_WORD = "</w>"
START_AND_END = (
    ("<|startoftext|>", "<|endoftext|>"),  # OpenAI
    ("<start_of_text>", "<end_of_text>"),  # open_clip
)
WORD = Regex(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)

Merge = tuple[str, str]


@dataclass(frozen=True)
class ClipTokenizer:
    """A tokenizer that turns captions into rows of token ids for CLIP.

    encode      returns the ids of a caption, without start and end of text
    vocab_size  counts all ids, including start and end of text
    """

    encode: Callable[[str], list[int]]
    start_of_text: int
    end_of_text: int
    vocab_size: int

    def __call__(self, captions: Sequence[str], text_len: int) -> Tensor:
        """Tokenize captions: int64 [B, text_len]; a long one is cut and ends in end of text."""
        text_tokens = np.zeros((len(captions), text_len), dtype=np.int64)
        for row, caption in zip(text_tokens, captions, strict=True):
            row[:] = frame(
                self.encode(caption),
                start_of_text=self.start_of_text,
                end_of_text=self.end_of_text,
                text_len=text_len,
            )
        return torch.from_numpy(text_tokens)


def frame(ids: Sequence[int], *, start_of_text: int, end_of_text: int, text_len: int) -> np.ndarray:
    """Put ids between start and end of text, then cut or pad with zeros: int64 [text_len]."""
    kept = [start_of_text, *ids, end_of_text][:text_len]
    kept[-1] = end_of_text
    text_tokens = np.zeros(text_len, dtype=np.int64)
    text_tokens[: len(kept)] = kept
    return text_tokens


def own_clip_tokenizer(tokenizer: Tokenizer) -> ClipTokenizer:
    """Build a CLIP tokenizer from this package's `Tokenizer`, which has no start and end of text.

    They become the two ids after its last.
    """
    n_ids = tokenizer.vocab_size
    return ClipTokenizer(
        tokenizer.encode, start_of_text=n_ids, end_of_text=n_ids + 1, vocab_size=n_ids + 2
    )


def find_clip_vocabulary(folder: Path) -> Path | None:
    """Return the file in a checkpoint's folder that `read_clip_vocabulary` can read, or None."""
    for name in (*MERGE_LISTS, VOCABULARY, TOKENIZER):
        path = Path(folder) / name
        if path.is_file() and (name != VOCABULARY or path.with_name(MERGES).is_file()):
            return path
    return None


def vocabulary_files(file: Path) -> list[Path]:
    """Return all files of a vocabulary, to be copied, given the one that it is known by."""
    return [file, file.with_name(MERGES)] if file.name == VOCABULARY else [file]


def read_clip_vocabulary(path: Path) -> ClipTokenizer:
    """Read the public vocabulary, or one laid out like it, from any file that it is published in.

    path  `tokenizer.json`; `vocab.json`, with merges.txt in the same folder; under any other name,
          OpenAI's list of merges, gzipped or not, where fewer merges make a smaller vocabulary

    Raises DalleError, naming the file, if it cannot be read or holds anything else.
    """
    path = Path(path)
    with _named_in_errors(path):
        content = _read(path)

        if path.name == TOKENIZER:
            model = _TokenizerFile.model_validate_json(content).model
            return _clip_tokenizer(model.vocab, [_split_merge(merge) for merge in model.merges])

        if path.name == VOCABULARY:
            vocabulary = VOCABULARY_FILE.validate_json(content)
            return _clip_tokenizer(vocabulary, _read_merges(path.with_name(MERGES)))

        merges = _parse_merges(content.decode().splitlines()[1 : 1 + N_MERGES])
        return _clip_tokenizer(_ids_in_clip_order(merges), merges)


@dataclass(frozen=True)
class _Encoder:
    """Encodes captions by a pipeline of the library; other processes can be sent it."""

    pipeline: tokenizers.Tokenizer

    def __call__(self, caption: str) -> list[int]:
        encoded = self.pipeline.encode(SURROGATE.sub("\ufffd", caption), add_special_tokens=False)
        return encoded.ids


class _BytePairModel(BaseModel, strict=True):
    """The relevant part of a `tokenizer.json`; merges are lines in old files, pairs in new ones."""

    end_of_word_suffix: Literal["</w>"]
    vocab: dict[str, int]
    merges: list[str] | list[Merge]


class _TokenizerFile(BaseModel, strict=True):
    model: _BytePairModel


VOCABULARY_FILE = TypeAdapter(dict[str, int], config=ConfigDict(strict=True))


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Convert any exception from a damaged or foreign file into a DalleError that names it."""
    file = printable(str(path))

    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"cannot read the CLIP vocabulary {file}: {error.strerror}") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DalleError(f"cannot read the CLIP vocabulary {file}: {reason}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        raise _not_a_vocabulary(path, f"{place[:80]}{problem['msg']}") from error
    except ValueError as error:
        raise _not_a_vocabulary(path, str(error)) from error


def _not_a_vocabulary(path: Path, reason: str) -> DalleError:
    """Build the error with its reason, which may quote the file at any length and is cut."""
    return DalleError(printable(f"{path} is not a CLIP vocabulary: {reason[:200]}"), HINT)


def _read(path: Path) -> bytes:
    """Read a file, unpacked if it is gzipped, but never more than MAX_BYTES."""
    with path.open("rb") as file:
        is_packed = file.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC)
        content = (gzip.GzipFile(fileobj=file) if is_packed else file).read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    return content


def _read_merges(path: Path) -> list[Merge]:
    """Read Hugging Face's `merges.txt`, whose first line may name a version."""
    with _named_in_errors(path):
        lines = _read(path).decode().splitlines()
        return _parse_merges(lines[1:] if lines and lines[0].startswith("#version") else lines)


def _parse_merges(lines: list[str]) -> list[Merge]:
    return [_split_merge(line) for line in lines]


def _split_merge(merge: str | Merge) -> Merge:
    if isinstance(merge, str):
        left, gap, right = merge.partition(" ")
        if not (left and gap and right) or " " in right:
            raise ValueError(f"a merge joins two pieces, not `{merge}`")
        return left, right
    return merge


def _ids_in_clip_order(merges: list[Merge]) -> dict[str, int]:
    """Number the pieces as OpenAI does.

    Bytes come first, then bytes that end a word, merges by rank, and start and end of text.
    """
    word_ends = [symbol + END_OF_WORD for symbol in BYTE_SYMBOLS]
    merged = [left + right for left, right in merges]
    pieces = [*BYTE_SYMBOLS, *word_ends, *merged, *START_AND_END[0]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    if len(vocabulary) < len(pieces):
        raise ValueError("a merge makes a piece that already exists")
    return vocabulary


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[Merge]) -> ClipTokenizer:
    """Build transformers' CLIPTokenizer; raises ValueError if the vocabulary is not CLIP's."""
    found = [
        (start, end) for start, end in START_AND_END if start in vocabulary and end in vocabulary
    ]
    if not found:
        raise ValueError("it has no start and end of text")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"its ids are not 0 to {len(vocabulary) - 1}, each once")
    if not merges:
        raise ValueError("it has no merges")
    if len(set(merges)) < len(merges):
        raise ValueError("a merge occurs twice")

    start, end = found[0]
    return ClipTokenizer(
        _Encoder(_pipeline(vocabulary, merges, start=start, end=end)),
        start_of_text=vocabulary[start],
        end_of_text=vocabulary[end],
        vocab_size=len(vocabulary),
    )


def _pipeline(
    vocabulary: dict[str, int], merges: list[Merge], *, start: str, end: str
) -> tokenizers.Tokenizer:
    # The public vocabulary has every byte; for any other, transformers maps unknown bytes to `end`
    try:
        model = tokenizers.models.BPE(
            vocabulary, merges, unk_token=end, end_of_word_suffix=END_OF_WORD
        )
    except Exception as error:  # the library raises no class of its own for an unknown merge
        raise ValueError(str(error)) from error

    pipeline = tokenizers.Tokenizer(model)
    pipeline.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORD, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    pipeline.add_special_tokens([start, end])
    return pipeline
