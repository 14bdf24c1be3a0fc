"""A bounded cache of images of the history's nodes."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from typing import Any

from PIL import Image

from dragwidget.data.image_reading import flattened

THUMBNAIL = 64  # longest side, pixels


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """Return the bytes of an image file; ``form`` as Pillow names it."""
    if form == "JPEG":  # which holds no alpha
        image = flattened(image)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Return a file as a data URI; ``kind`` is its media type, such as ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def evenly(count: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers below ``count``, evenly spread from end to end."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


class Images:
    """Caches images of the history's nodes: previews as JPEG, final renders as they are.

    Args:
        previews: how many to keep; the least recently used is evicted.
        renders: how many final renders to keep, likewise.
    """

    def __init__(self, previews: int = 300, renders: int = 12) -> None:
        self._limits = {"previews": previews, "renders": renders}
        self._previews: OrderedDict[object, bytes] = OrderedDict()
        self._renders: OrderedDict[object, Image.Image] = OrderedDict()
        self._thumbnails: OrderedDict[object, str] = OrderedDict()
        self._lock = threading.Lock()

    def put_preview(self, node: object, image: Image.Image) -> None:
        """Cache a preview of a node; a cached final render stays."""
        data = encoded(image, "JPEG", quality=90, subsampling=0)
        with self._lock:
            self._put(self._previews, node, data, self._limits["previews"])
            if node not in self._renders:
                self._thumbnails.pop(node, None)

    def put_render(self, node: object, image: Image.Image) -> None:
        """Cache the final render of a node."""
        with self._lock:
            self._put(self._renders, node, image, self._limits["renders"])
            self._thumbnails.pop(node, None)

    def get(self, node: object) -> Image.Image | None:
        """Return the best cached image of a node: its final render, else its preview."""
        with self._lock:
            if node in self._renders:
                return self._renders[node]
            data = self._previews.get(node)
        return None if data is None else Image.open(io.BytesIO(data)).convert("RGB")

    def render(self, node: object) -> Image.Image | None:
        """Return the final render of a node, if it is cached."""
        return self._renders.get(node)

    def thumbnail(self, node: object) -> str | None:
        """Return a thumbnail of a node as a data URI, if it has an image."""
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
        """Remove all images."""
        with self._lock:
            self._previews.clear()
            self._renders.clear()
            self._thumbnails.clear()

    @staticmethod
    def _put(kept: OrderedDict[object, Any], node: object, value: Any, limit: int) -> None:
        kept[node] = value
        kept.move_to_end(node)
        while len(kept) > limit:
            kept.popitem(last=False)
