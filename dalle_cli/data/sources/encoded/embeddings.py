"""A folder of samples of which `dalle data encode --clip` has kept CLIP's embeddings alone."""

from pathlib import Path

from dalle_cli.data.images import BadSample
from dalle_cli.data.sources.encoded.tokens import EncodedFolder
from dalle_cli.data.sources.source import Sample
from dalle_cli.data.unclip.embedding_shards import (
    DAMAGED_EMBEDDINGS,
    ClipEncoding,
    EmbeddingShard,
    embedding_shard_path,
    read_embedding_record,
)


class EmbeddingSource(EncodedFolder):
    """Source of samples with embeddings in place of pictures."""

    form = "folder of CLIP embeddings"

    def __init__(self, name: str) -> None:
        """Open a folder; raises DalleError if sizes show that the record or a shard is damaged."""
        record = read_embedding_record(Path(name))
        self.encoding: ClipEncoding = record.encoding
        paths = [embedding_shard_path(Path(name), number) for number in range(len(record.shards))]
        self._shards = [EmbeddingShard(path, self.encoding) for path in paths]
        super().__init__(name, record, self._shards, embedding_shard_path)

    def __reduce__(self) -> tuple[type["EmbeddingSource"], tuple[str]]:
        return EmbeddingSource, (self.name,)  # another process maps the shards itself

    def read(self, index: int) -> Sample:
        number, i = self._find(index)
        key, captions = self._shards[number].text(i)
        embeddings = self._shards[number].embeddings(i)
        if len(embeddings.captions) != len(captions):
            raise BadSample(DAMAGED_EMBEDDINGS)
        return Sample(key, b"", captions=captions, embeddings=embeddings)
