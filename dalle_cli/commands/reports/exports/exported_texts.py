"""What an export keeps of a run's texts: tokenizer, known words, and what its author says of it."""

from dalle_cli.data.clip_tokenizer import find_clip_vocabulary, vocabulary_files
from dalle_cli.data.text.known_words import KnownWords
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.storage.atomic import copy_file, make_folder
from dalle_cli.storage.run_dir import RunDir


def export_texts(run: RunDir, target: RunDir) -> None:
    """Write what a run has of them, or the vocabulary of a public CLIP."""
    if run.tokenizer.is_file():
        make_folder(target.tokenizer.parent)
        Tokenizer.load(run.tokenizer).save(target.tokenizer)
    elif vocabulary := find_clip_vocabulary(run.root):
        for file in vocabulary_files(vocabulary):
            copy_file(file, target.root / file.name)
    if run.known_words.is_file():
        KnownWords.load(run.known_words).save(target.known_words)
    if run.about.is_file():
        copy_file(run.about, target.about)
