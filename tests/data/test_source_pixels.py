"""Outside the mask an edited image has the source's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dragwidget.data.image import feathered, source_image

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("size", [(96, 64), (200, 150), (33, 120), (48, 32)])
@pytest.mark.parametrize("cell", [4, 8])
def test_only_the_mask_and_a_seam_of_one_cell_around_it_are_not_the_sources(size, cell):
    width, height = size
    source = source_image(RNG.integers(0, 256, (height, width, 3)).astype(np.uint8), max_side=128)
    edited = RNG.integers(0, 256, source.pixels.shape).astype(np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 3 : height // 2, width // 3 : width // 2] = True
    kept = np.asarray(source.restore(edited, mask, cell))
    assert np.array_equal(kept[mask], np.asarray(source.restore(edited))[mask])
    seam = int(np.ceil(cell * max(size) / max(source.fitted_size) / 2)) * 2
    rows, columns = np.nonzero((kept != source.original).any(axis=2))
    assert rows.min() >= height // 3 - seam
    assert rows.max() < height // 2 + seam
    assert columns.min() >= width // 3 - seam
    assert columns.max() < width // 2 + seam


def test_where_all_is_editable_nothing_of_the_source_is_kept():
    source = source_image(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    edited = RNG.integers(0, 256, source.pixels.shape).astype(np.uint8)
    plain = np.asarray(source.restore(edited))
    assert np.array_equal(source.restore(edited, np.ones((64, 64), bool), 8), plain)
    assert np.array_equal(source.restore(edited, None, 8), plain)


def test_the_seam_falls_from_the_edit_to_the_source():
    mask = np.zeros((20, 40), dtype=bool)
    mask[:, :10] = True
    share = feathered(mask, 4)
    assert (share == share[:1]).all()
    across = share[0]
    assert (across[:10] == 1).all()
    assert (np.diff(across[9:19]) < 0).all()
    assert (across[18:] == 0).all()
    assert np.allclose(np.diff(across[10:18]), -1 / 9)


def test_a_seam_of_no_width_is_the_mask_itself():
    mask = RNG.random((12, 15)) < 0.5
    assert np.array_equal(feathered(mask, 0), mask)


def test_what_an_image_carries_stays_with_the_sources_pixels():
    image = Image.fromarray(RNG.integers(0, 256, (64, 64, 4)).astype(np.uint8), "RGBA")
    source = source_image(image)
    mask = np.zeros((64, 64), dtype=bool)
    mask[:8] = True
    kept = source.restore(255 - source.pixels, mask, 8)
    assert kept.mode == "RGBA"
    assert np.array_equal(np.asarray(kept)[..., 3], np.asarray(image)[..., 3])
