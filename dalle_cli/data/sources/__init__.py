"""Random access to captioned pictures, whether they lie in a folder, in tar shards, behind a manifest, or as tokens.

A source indexes once and then reads any sample by its number, from any process. What cannot be used is left out and
told (`problems`), or found when it is read (`BadSample`). Pictures stay encoded: decoding is `data.images`' work.
"""

from dalle_cli.data.sources.opening import open_dataset
from dalle_cli.data.sources.source import Problem, Sample, Source
from dalle_cli.data.sources.split import validation_split
from dalle_cli.data.sources.tokens import TokenSource

__all__ = ["Problem", "Sample", "Source", "TokenSource", "open_dataset", "validation_split"]
