"""What is made of an edit to be taken away."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dragwidget.editor.export import MAX_FRAMES, animation, before_after, link


def grey(level, size=(8, 6)):
    return Image.new("RGB", size, (level, level, level))


def levels(data):
    """(grey level, milliseconds) of every frame of a GIF."""
    with Image.open(io.BytesIO(data)) as gif:
        for index in range(gif.n_frames):
            gif.seek(index)
            yield gif.convert("L").getpixel((0, 0)), gif.info["duration"]


def test_an_animation_plays_every_frame_and_rests_on_the_last():
    shown = list(levels(animation([grey(0), grey(100), grey(200)], milliseconds=50)))
    assert shown == [(0, 50), (100, 50), (200, 500)]


def test_a_long_animation_is_thinned_out_evenly_and_keeps_its_ends():
    shown = [level for level, _ in levels(animation([grey(level) for level in range(118)]))]
    assert len(shown) == MAX_FRAMES
    assert shown == list(range(0, 118, 3))


def test_an_animation_of_nothing_is_refused():
    with pytest.raises(ValueError, match="an animation needs at least one image"):
        animation([])


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.25, 1.0, 2.0])
def test_a_curtain_shows_the_left_of_one_and_the_right_of_the_other(share):
    both = np.asarray(before_after(grey(10, (16, 4)), grey(90, (16, 4)), share).convert("L"))
    at = round(16 * min(max(share, 0), 1))
    line = [at - 1, at] if 0 < at < 16 else []  # white, where both are seen
    for column in range(16):
        wanted = 255 if column in line else 10 if column < at else 90
        assert (both[:, column] == wanted).all()


def test_a_curtain_between_images_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"are \(8, 6\) and \(8, 7\): both must be of one size"):
        before_after(grey(0), grey(0, (8, 7)), 0.5)


def test_a_link_holds_the_file_and_its_name_breaks_out_of_nothing():
    html = link('a"><script>.gif', b"GIF89a" * 500)
    assert "<script" not in html
    address = html.split('href="')[1].split('"')[0]
    head, _, data = address.partition(",")
    assert head == "data:image/gif;base64"
    assert base64.b64decode(data) == b"GIF89a" * 500
    assert "(3 KiB)" in html
    assert "data:application/octet-stream;base64," in link("a.safetensors", b"x")
