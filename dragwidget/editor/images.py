"""Images of places in the history that were seen already, small and bounded."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from typing import Any

from PIL import Image

from dragwidget.data.image_reading import flattened

__all__ = ["Images", "data_uri", "encoded"]

THUMBNAIL = 64  # longest side, pixels


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file; ``form`` as Pillow names it."""
    if form == "JPEG":  # which holds no alpha
        image = flattened(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """A file as an address that holds it; ``kind`` as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Images:
    """What was seen of nodes of the history: previews as JPEG, exact images as they are.

    Args:
        previews: how many to keep; the one used longest ago goes first.
        exact: likewise, of exact images.
    """

    def __init__(self, previews: int = 300, exact: int = 12) -> None:
        self._limits = {"previews": previews, "exact": exact}
        self._previews: OrderedDict[object, bytes] = OrderedDict()
        self._exact: OrderedDict[object, Image.Image] = OrderedDict()
        self._thumbnails: OrderedDict[object, str] = OrderedDict()
        self._lock = threading.Lock()

    def put_preview(self, node: object, image: Image.Image) -> None:
        """Keep an approximate image of a node; an exact one that is there stays."""
        data = encoded(image, "JPEG", quality=90, subsampling=0)
        with self._lock:
            self._put(self._previews, node, data, self._limits["previews"])
            if node not in self._exact:
                self._thumbnails.pop(node, None)

    def put_exact(self, node: object, image: Image.Image) -> None:
        """Keep an exact image of a node."""
        with self._lock:
            self._put(self._exact, node, image, self._limits["exact"])
            self._thumbnails.pop(node, None)

    def get(self, node: object) -> Image.Image | None:
        """The best image of a node that is kept."""
        with self._lock:
            if node in self._exact:
                return self._exact[node]
            data = self._previews.get(node)
        return None if data is None else Image.open(io.BytesIO(data)).convert("RGB")

    def exact(self, node: object) -> Image.Image | None:
        """The exact image of a node, if it is kept."""
        return self._exact.get(node)

    def thumbnail(self, node: object) -> str | None:
        """A small image of a node as a data URI, if there is one."""
        with self._lock:
            if node in self._thumbnails:
                return self._thumbnails[node]
        image = self.get(node)
        if image is None:
            return None
        image = image.copy()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        uri = data_uri(encoded(image, "JPEG", quality=80), "image/jpeg")
        with self._lock:
            self._put(self._thumbnails, node, uri, self._limits["previews"])
        return uri

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._previews.clear()
            self._exact.clear()
            self._thumbnails.clear()

    @staticmethod
    def _put(kept: OrderedDict[object, Any], node: object, value: Any, limit: int) -> None:
        kept[node] = value
        kept.move_to_end(node)
        while len(kept) > limit:
            kept.popitem(last=False)
