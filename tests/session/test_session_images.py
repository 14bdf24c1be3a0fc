"""Images in and out of a session: of any kind and size, unshifted. And any prompt."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_sessions import ask, blocks_of, session_on, settings_of, state, waves

from dragwidget.data.settings import InversionSettings
from dragwidget.session.session import DragSession

ORIENTATION = 0x0112  # EXIF


def shift(there: np.ndarray, here: np.ndarray) -> np.ndarray:
    """How far ``here`` lies right of and below ``there``, (x, y) in pixels; both (H, W).

    The least squares of the brightness that a small shift changes (Lucas and Kanade).
    """
    border = 4
    inner = (slice(border, -border),) * 2
    down, right = np.gradient(there.astype(float))
    slopes = np.stack([right[inner].ravel(), down[inner].ravel()], axis=1)
    change = (there.astype(float) - here)[inner].ravel()
    return np.linalg.lstsq(slopes, change, rcond=None)[0]


@pytest.mark.parametrize("pixels", [(1, 0), (0, -1), (0.5, 0.25)])
def test_a_shift_is_seen(pixels):
    x, y = pixels
    green = waves(200, 150)[..., 1].astype(float)
    rows, columns = np.fft.fftfreq(150)[:, None], np.fft.fftfreq(200)[None]
    moved = np.fft.ifft2(np.fft.fft2(green) * np.exp(-2j * np.pi * (rows * y + columns * x))).real
    assert shift(green, moved) == pytest.approx([x, y], abs=0.1)


# ---------------------------------------------------------------- out


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 512), (500, 333), (201, 150)])
def test_an_image_comes_back_at_its_own_size_unshifted(tiny, size):
    """Encoded, inverted and rendered without a drag, with an autoencoder that shifts nothing."""
    session = DragSession(blocks_of(tiny))
    settings = settings_of(tiny)
    session.settings = replace(settings, inversion=InversionSettings(steps=50, strength=0.02))
    session.set_image(waves(*size), max_side=128)
    source, rendered = np.asarray(session.image), np.asarray(session.render())
    assert session.render().size == size
    for channel in range(3):
        there, here = source[..., channel], rendered[..., channel]
        assert np.abs(shift(there, here)).max() < 0.25  # pixels
        assert np.abs(there.astype(float) - here).mean() < 8  # of 255: what the blocks cost
        assert abs(there.mean() - here.mean()) < 2


@pytest.mark.slow
def test_a_preview_without_a_drag_is_the_image(tiny):
    session = DragSession(blocks_of(tiny))
    session.settings = settings_of(tiny)
    session.set_image(waves(201, 150), max_side=128)
    source, preview = np.asarray(session.image), np.asarray(session.preview())
    for channel in range(3):
        assert np.abs(shift(source[..., channel], preview[..., channel])).max() < 0.25


@pytest.mark.slow
def test_what_is_dragged_is_seen_where_it_was_dragged_in_an_image_of_any_aspect(tiny):
    """Instructions are in pixels of the image as it was given, and so is the render."""
    session = DragSession(blocks_of(tiny))
    session.settings = settings_of(tiny, learning_rate=0.2)
    session.set_image(waves(300, 100), max_side=128)
    mask = np.zeros((100, 300), dtype=bool)
    mask[:, 200:] = True
    render = replace(session.settings.render, keep_protected=True)
    session.settings = replace(session.settings, render=render)
    before = np.asarray(session.render()).astype(int)
    session.instructions = ask(((220, 50), (280, 50)), size=(300, 100), mask=mask)
    session.run()
    change = np.abs(np.asarray(session.render()) - before).sum(axis=(0, 2))  # by column
    assert change[:190].max() == 0  # but for what resampling spreads over a cell
    assert change[210:].min() > 0


@pytest.mark.slow
def test_renders_and_previews_keep_the_sources_pixels_outside_the_mask_where_asked(tiny):
    session = session_on(tiny, learning_rate=0.2)
    height, width = np.asarray(session.image).shape[:2]
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 4] = True
    session.instructions = ask(mask=mask)
    session.run()
    source, far = np.asarray(session.image), np.s_[:, width // 4 + tiny.vae_factor :]
    plain = [np.asarray(make()) for make in (session.render, session.preview)]
    render = replace(session.settings.render, keep_source_pixels=True)
    session.settings = replace(session.settings, render=render)
    for before, make in zip(plain, (session.render, session.preview), strict=True):
        kept = np.asarray(make())
        assert np.array_equal(kept[mask], before[mask])
        assert np.array_equal(kept[far], source[far])
        assert not np.array_equal(before[far], source[far])
    session.instructions = ask()
    for before, make in zip(plain, (session.render, session.preview), strict=True):
        assert np.array_equal(np.asarray(make()), before)


# ---------------------------------------------------------------- in


def save(image, path, **options):
    image.save(path, **options)
    return path


def upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return save(Image.fromarray(waves(60, 90)), tmp_path / "turned.jpg", exif=exif)


def animated(tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    return save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])


PICTURES = {
    "EXIF": (upright, (90, 60)),
    "RGBA": (lambda p: save(Image.new("RGBA", (70, 50), (9, 99, 200, 60)), p / "a.png"), (70, 50)),
    "palette": (lambda p: save(Image.new("P", (70, 50), 3), p / "a.png"), (70, 50)),
    "grey of 16 bits": (
        lambda p: save(Image.fromarray(np.full((50, 70), 30000, np.uint16)), p / "a.png"),
        (70, 50),
    ),
    "one pixel": (lambda _: Image.new("RGB", (1, 1), "red"), (1, 1)),
    "5000 x 20": (lambda _: Image.new("RGB", (5000, 20), "red"), (5000, 20)),
    "animated": (animated, (40, 30)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* has several frames:UserWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_an_image_of_any_kind_is_edited_and_comes_back_at_its_size(tiny, tmp_path, name):
    make, size = PICTURES[name]
    session = session_on(tiny)
    session.set_image(make(tmp_path))
    assert session.image.size == size
    right, bottom = size[0] - 1, size[1] - 1
    steps = list(session.drag(ask(((0, 0), (right, bottom)), size=size), steps=1))
    assert len(steps) == (0 if size == (1, 1) else 1)
    assert session.render().size == session.preview().size == size


def test_an_animated_image_is_edited_in_its_first_frame(tiny, tmp_path):
    session = session_on(tiny)
    with pytest.warns(UserWarning, match="has several frames: the first is read"):
        session.set_image(animated(tmp_path))
    assert session.image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("cut", ValueError, "is damaged or truncated"),
        ("text", ValueError, r"text\.png is not an image that can be read: save it as PNG or JP"),
        (None, FileNotFoundError, "there is no image at"),
    ],
)
def test_a_file_that_is_no_image_is_refused_and_changes_nothing(
    tiny, tmp_path, content, error, message
):
    path = tmp_path / "text.png"
    if content == "text":
        path.write_text("This is text.\n")
    if content == "cut":
        Image.fromarray(waves(90, 60)).save(path)
        path.write_bytes(path.read_bytes()[:-100])
    session = session_on(tiny)
    session.instructions = ask()
    session.step()
    before = state(session)
    with pytest.raises(error, match=message):
        session.set_image(path, "a dog")
    assert state(session) == before


def test_an_image_chosen_again_starts_anew_and_its_steps_are_still_there(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    steps = list(session.history)
    session.set_image(waves(seed=1))
    assert session.instructions is None
    assert session.edits == []
    session.set_image(waves(), "a cat")
    assert list(session.history) == []
    session.rewind(2)
    assert list(session.history) == steps


def test_an_image_that_is_given_is_not_changed_nor_looked_at_again(tiny):
    pixels = waves()
    session = session_on(tiny)
    session.set_image(pixels)
    pixels[:] = 0
    assert np.array_equal(session.image, waves())


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("prompt", ["", "🦊 in 雪, café", "a\n\tcat"])
def test_any_text_is_a_prompt(tiny, prompt):
    session = session_on(tiny, prompt=prompt)
    session.instructions = ask(prompt=prompt)
    assert session.step().latent.isfinite().all()
    assert session.prompt == prompt


def test_a_long_prompt_is_cut_with_a_warning_and_the_edit_goes_on(tiny):
    prompt = " ".join(["cat"] * 500)
    session = session_on(tiny, prompt=prompt, lora_steps=2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        session.instructions = ask()
        session.step()
    assert [str(warning.message) for warning in heard] == [
        f"the prompt has {len(tiny.tokenizer(prompt, verbose=False).input_ids) - 2} tokens and "
        "this model reads 75: the rest is not used"
    ]
    assert session.prompt == prompt
