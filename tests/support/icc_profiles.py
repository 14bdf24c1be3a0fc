"""ICC profiles for the tests, built by hand: of primaries and gamma, of grey, of CMYK."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
ADOBE_RGB = (  # primaries adapted to D50, X Y Z of red, green, blue
    (0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)
)  # fmt: skip
DISPLAY_P3 = (
    (0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)
)  # fmt: skip


def rgb_profile(primaries=ADOBE_RGB, gamma: float = 2.2) -> bytes:
    """A matrix profile."""
    tags = {f"{c}XYZ": _xyz(xyz) for c, xyz in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", {**tags, **{f"{c}TRC": _curve(gamma) for c in "rgb"}})


def gray_profile(gamma: float = 1.0) -> bytes:
    """A profile of grey levels of that gamma."""
    return _profile(b"GRAY", b"XYZ ", {"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A lookup table of 2 points a channel: paper white to black, its inks those of no printer."""
    grid = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # C, M, Y, K; 1 is full
    lightness = 255 * (1 - grid[:, 3]) * (1 - grid[:, :3].sum(axis=1) / 4)
    a, b = 128 - 60 * grid[:, 0] + 60 * grid[:, 1], 128 - 40 * grid[:, 0] + 60 * grid[:, 2]
    table = np.stack([lightness, a, b], axis=1).round().clip(0, 255).astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if k % 4 == 0 else 0 for k in range(9)))
    lut = (
        b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table.tobytes() + ramp * 3
    )
    return _profile(b"CMYK", b"Lab ", {"A2B0": lut}, kind=b"prtr")


def _profile(
    space: bytes, connection: bytes, tags: dict[str, bytes], kind: bytes = b"mntr"
) -> bytes:
    text = b"made for a test\0"
    tags = {
        "desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78),
        "cprt": b"text" + bytes(4) + text,
        "wtpt": _xyz(D50),
        **tags,
    }
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI", at + len(body), b"test", 0x02400000) + kind + space + connection
    header += bytes(12) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
