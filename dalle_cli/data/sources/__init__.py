"""Random access to captioned pictures in a folder, in tar shards, behind a manifest, or as tokens.

A source indexes once and then reads any sample by its number, from any process. Unusable samples
are left out and reported (`problems`), or found when they are read (`BadSample`). Pictures stay
encoded: decoding them is the job of `data.images`.
"""

from dalle_cli.data.images import Problem
from dalle_cli.data.sources.opening import open_dataset
from dalle_cli.data.sources.source import Sample, Source
from dalle_cli.data.sources.split import validation_split
from dalle_cli.data.sources.tokens import TokenSource

__all__ = ["Problem", "Sample", "Source", "TokenSource", "open_dataset", "validation_split"]
