"""Files of images, which appear whole or not at all."""

from __future__ import annotations

import io
import os
from typing import IO, Any

from PIL import Image

from dragwidget.data.image_writing import output_format, save_options
from dragwidget.data.paths import user_path
from dragwidget.storage.atomic import whole_file


class EditedImage(Image.Image):
    """A Pillow image whose ``save`` writes what its source carried: EXIF, dpi, sRGB profile."""

    @classmethod
    def of(cls, image: Image.Image) -> EditedImage:
        """This very image, as one."""
        image.__class__ = cls  # Pillow makes none of a subclass, and this one adds no state
        assert isinstance(image, cls)
        return image

    def save(
        self,
        fp: str | bytes | os.PathLike[str] | os.PathLike[bytes] | IO[bytes],
        format: str | None = None,
        **params: Any,
    ) -> None:
        """Save as Pillow does; a file at a path is replaced only by a whole one."""
        if not isinstance(fp, str | bytes | os.PathLike):
            carried = save_options(self, format) if format else {}
            super().save(fp, format, **{**carried, **params})
            return
        path = user_path(os.fsdecode(fp))
        Image.init()
        name = format or Image.EXTENSION.get(path.suffix.lower())
        if name is None:
            raise ValueError(f"{path} has no known image ending: name it like {path.stem}.png")
        content = io.BytesIO()
        super().save(content, name, **{**save_options(self, name), **params})
        with whole_file(path) as file:
            file.write(content.getbuffer())


def write_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an sRGB image, with the EXIF, dpi and alpha that it has where the format holds them.

    Raises:
        ValueError: the ending names no format, or one that cannot take the image.
        OSError: it cannot be written there; what was there stays.
    """
    path = user_path(path)
    output_format(path, image.size, transparent=image.mode in ("RGBA", "LA", "PA"))
    EditedImage.of(image.copy()).save(path)
