"""Colours of any profile to sRGB, by littlecms."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from dragwidget.data.user_warning import warn_user

MAX_PROFILE = 16 * 2**20  # bytes; the largest of printers have a few MB
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}  # by Pillow's mode
_STEPS = range(0, 256, 17)
_UNUSABLE = (OSError, ImageCms.PyCMSError, ImportError)  # ImportError: a Pillow without littlecms


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """The ICC profile of sRGB, always the same bytes; empty where Pillow has no littlecms."""
    try:
        made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    except ImportError:
        return b""
    return made[:24] + bytes(12) + made[36:]  # littlecms writes the time there


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Convert colours to sRGB.

    Args:
        image: of mode L, RGB, CMYK or LAB.
        profile: ICC profile that the image carries, if any.

    Returns:
        An RGB image, and the name of the profile that it was converted from; empty where the
        values are kept, as no color of the profile is more than one level off from sRGB.

    Warns (UserWarning) where the profile cannot be used, so that the values are taken as sRGB,
    and where colours are only approximate: CMYK without a profile.
    """
    if profile:
        try:
            return _by_profile(image, profile)
        except _UNUSABLE as error:
            warn_user(
                f"the image's ICC profile cannot be used ({error}): its colours are taken as sRGB"
            )
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        return _transformed(image, lab), "CIELAB"
    if image.mode == "CMYK" and not profile:
        warn_user("the image is CMYK without an ICC profile: its colours are approximate")
    return image.convert("RGB"), ""


def _by_profile(image: Image.Image, data: bytes) -> tuple[Image.Image, str]:
    if len(data) > MAX_PROFILE:
        raise OSError(f"it has {len(data)} bytes, at most {MAX_PROFILE} are read")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    if image.mode == "L" and space == "RGB":  # of a gray image that was saved by a colour program
        image = image.convert("RGB")
    if space != _SPACES[image.mode]:
        raise OSError(f"it is for {space}, the image is {_SPACES[image.mode]}")
    if image.mode in ("L", "RGB") and _is_srgb(data, image.mode):
        return image.convert("RGB"), ""
    name = (profile.profile.profile_description or "an unnamed profile").strip()
    return _transformed(image, profile), name


@lru_cache(maxsize=8)
def _is_srgb(data: bytes, mode: str) -> bool:
    """Whether a profile moves no colour by more than one level: rounding is worse than that."""
    image = Image.new("RGB", (64, 64))
    image.putdata([(r, g, b) for r in _STEPS for g in _STEPS for b in _STEPS])
    if mode == "L":
        image = Image.linear_gradient("L")
    moved = _transformed(image, ImageCms.ImageCmsProfile(io.BytesIO(data)))
    away = np.asarray(moved).astype(int) - np.asarray(image.convert("RGB"))
    return bool(np.abs(away).max() <= 1)


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    moved = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    assert moved is not None  # it is ``None`` only in place
    return moved
