"""Pictures that were sent to begin from: read like any stranger's, and a few of them kept.

A picture is cut to the model's size at once, so that little is kept, whatever its size was.
"""

import hashlib
import threading
from dataclasses import dataclass

from PIL import Image

from dalle_cli.data.augment import centre_crop
from dalle_cli.data.images import BadSample, decode_image, to_png
from dalle_cli.errors import UsageError

MAX_UPLOADS = 16  # that are kept
MAX_BYTES = 16 * 2**20  # of an uploaded file


@dataclass(frozen=True)
class Upload:
    """A picture to begin from, as RGB and as a PNG."""

    image: Image.Image
    content: bytes


class UploadShelf:
    """The pictures that were sent last, by ids; threads may use it at the same time."""

    def __init__(self, side: int) -> None:
        """Keep squares of so many pixels a side."""
        self._side = side
        self._uploads: dict[str, Upload] = {}
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def add(self, content: bytes) -> str:
        """Keep a picture; return its id.

        Raises UsageError for what is no usable picture.
        """
        with self._decoding:  # one at a time: 64 megapixels take hundreds of megabytes
            try:
                image = Image.fromarray(centre_crop(decode_image(content), self._side))
            except BadSample as error:
                raise UsageError(f"cannot use the picture: {error.reason}") from error

        upload = Upload(image, to_png(image))
        key = hashlib.sha256(upload.content).hexdigest()[:32]
        with self._lock:
            self._uploads.pop(key, None)
            self._uploads[key] = upload
            while len(self._uploads) > MAX_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
        return key

    def find(self, key: str) -> Upload | None:
        """Return a picture that is still kept, as the one that is forgotten last."""
        with self._lock:
            upload = self._uploads.pop(key, None)
            if upload is not None:
                self._uploads[key] = upload
            return upload
