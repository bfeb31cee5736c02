"""Random access to captioned pictures: in folders, tar shards or tables, or encoded beforehand.

A source indexes once and then reads any sample by its number, from any process. Unusable samples
are left out and reported (`problems`), or found when they are read (`BadSample`). Pictures stay
encoded: decoding them is the job of `data.images`.
"""

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.columns import Columns
from dalle_cli.data.sources.encoded.embeddings import EmbeddingSource
from dalle_cli.data.sources.encoded.tokens import TokenSource, encoded_folder
from dalle_cli.data.sources.exclusion import RemainingSource
from dalle_cli.data.sources.file_names import describe_unread
from dalle_cli.data.sources.mixture import MixedSource, open_datasets
from dalle_cli.data.sources.opening import open_dataset
from dalle_cli.data.sources.source import Sample, Source
from dalle_cli.data.sources.split import validation_split

__all__ = [
    "Columns",
    "EmbeddingSource",
    "MixedSource",
    "Problem",
    "RemainingSource",
    "Sample",
    "Source",
    "TokenSource",
    "describe_unread",
    "encoded_folder",
    "open_dataset",
    "open_datasets",
    "validation_split",
]
