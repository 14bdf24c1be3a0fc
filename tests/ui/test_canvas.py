"""``DragCanvas`` from Python: traits, methods, what is refused."""

import numpy as np
import pytest
import traitlets
from front_end import Page
from PIL import Image

from dragwidget.data.instructions import DragInstructions, PointPair
from dragwidget.ui.canvas import DragCanvas

SIZE = (60, 40)


def image(width=SIZE[0], height=SIZE[1], value=120):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def canvas():
    made = DragCanvas(image())
    yield made
    assert made.last_error == ""
    made.close()


# ---------------------------------------------------------------- the image


def test_an_array_an_image_and_a_path_are_the_same_image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(image()).save(path)
    for given in (image(), Image.fromarray(image()), path, str(path)):
        canvas = DragCanvas(given)
        assert canvas.size == SIZE
        np.testing.assert_array_equal(np.asarray(canvas.image), image())
        canvas.close()


@pytest.mark.parametrize(
    ("given", "error"),
    [("nowhere.png", FileNotFoundError), (3, TypeError), (np.zeros((2, 2, 7)), ValueError)],
)
def test_what_is_no_image_is_refused(given, error):
    with pytest.raises(error):
        DragCanvas(given)


@pytest.mark.parametrize("width", ["wide", 1.5, True, 10, 100_000])
def test_a_width_that_makes_no_sense_is_refused(width):
    with pytest.raises(ValueError, match="width must be"):
        DragCanvas(image(), width)


def test_the_width_is_that_of_the_whole_canvas():
    canvas = DragCanvas(image(), width=400)
    assert canvas.scene.multi.layout.width == "400px"
    assert canvas.scene.multi.width == 800  # two canvas pixels to a CSS pixel
    canvas.close()


def test_a_tall_image_is_no_taller_than_a_window_and_a_wide_one_as_wide_as_asked():
    for width, height in [(300, 2000), (2000, 300), (100, 4000), (512, 768)]:
        canvas = DragCanvas(image(width, height), width=500)
        columns, rows = canvas.scene.multi.width / 2, canvas.scene.multi.height / 2
        assert columns <= 500
        assert rows <= 720
        assert columns == 500 or rows > 700
        assert ("vh" in canvas.scene.multi.layout.width) == (rows > 480)
        canvas.close()


def test_a_brush_that_nobody_has_set_suits_the_image():
    sizes = [(120, 240), (1200, 600), (300, 2000), (3, 3)]
    canvas = DragCanvas()
    for width, height in sizes:
        canvas.image = image(width, height)
        assert canvas.brush_size == max(1, round(min(width, height) / 12))
    canvas.close()
    canvas = DragCanvas(image(1200, 600), brush_size=70)
    canvas.image = image(600, 300)
    assert canvas.brush_size == 70  # which somebody has set
    canvas.image = image(48, 48)
    assert canvas.brush_size == 48  # the whole of it is enough
    canvas.close()


def test_closing_ends_the_script_too():
    canvas = DragCanvas(image())
    script = canvas._script
    canvas.close()
    assert script.comm is None


def test_without_an_image_it_is_empty_and_says_what_to_do():
    canvas = DragCanvas()
    page = Page(canvas)
    page.drag((5, 5), (50, 50))
    assert canvas.pairs == ()
    assert (canvas.image, canvas.size, canvas.mask, canvas.instructions) == (None,) * 4
    assert not canvas.undo()
    with pytest.raises(RuntimeError, match=r"canvas\.image ="):
        canvas.add_pair((1, 1), (2, 2))
    with pytest.raises(ValueError, match="no image"):
        canvas.pairs = [PointPair((1, 1), (2, 2))]
    canvas.image = image()
    page.drag((5, 5), (50, 30))
    assert len(canvas.pairs) == 1
    assert canvas.last_error == ""


def test_another_image_starts_anew(canvas):
    canvas.add_pair((1, 1), (2, 2))
    canvas.fill_mask()
    canvas.image = image(30, 30)
    assert (canvas.pairs, canvas.mask, canvas.selected) == ((), None, None)
    assert not canvas.can_undo
    canvas.add_pair((1, 1), (29, 29))


def test_an_image_of_the_same_size_can_keep_what_is_drawn(canvas):
    canvas.add_pair((1, 1), (2, 2))
    canvas.set_image(image(value=30), keep=True)
    assert len(canvas.pairs) == 1
    assert canvas.can_undo
    with pytest.raises(ValueError, match="with keep=True the new image must have the size"):
        canvas.set_image(image(30, 30), keep=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (4000, 3000), (3000, 2), (2, 900)])
def test_any_size_is_drawn_in_its_own_pixels(size):
    canvas = DragCanvas(image(*size))
    page = Page(canvas)
    assert max(canvas.scene.image.size) <= 2048
    assert max(canvas.scene.multi.width, canvas.scene.multi.height) <= 1200
    far = (size[0] - 0.02, size[1] - 0.02)
    page.press((0.02, 0.02))
    page.move((size[0] * 0.5, size[1] * 0.5))
    page.release(far)
    assert canvas.pairs[0].target == pytest.approx(far, abs=0.011)
    canvas.tool = "rectangle"
    page.drag((-1, -1), (size[0] + 1, size[1] + 1))
    assert canvas.mask.all()
    assert canvas.mask.shape == (size[1], size[0])
    assert canvas.instructions.size == size
    assert canvas.last_error == ""
    canvas.close()


# ---------------------------------------------------------------- traits


def test_pairs_are_observed_and_replaced(canvas):
    seen = []
    canvas.observe(lambda change: seen.append(change["new"]), "pairs")
    canvas.add_pair((1, 1), (2, 2))
    canvas.move_target(0, (3, 3))
    canvas.undo()
    assert [pairs[0].target for pairs in seen] == [(2, 2), (3, 3), (2, 2)]


def test_pairs_can_be_set_in_any_form_and_undone(canvas):
    canvas.pairs = [((1, 1), (2, 2)), PointPair((3, 3), (4, 4))]
    assert canvas.pairs == (PointPair((1, 1), (2, 2)), PointPair((3, 3), (4, 4)))
    canvas.undo()
    assert canvas.pairs == ()


def test_two_canvases_can_be_linked(canvas):
    other = DragCanvas(image())
    traitlets.link((canvas, "pairs"), (other, "pairs"))
    canvas.add_pair((1, 1), (2, 2))
    assert other.pairs == canvas.pairs
    other.clear_pairs()
    assert canvas.pairs == ()
    other.close()


def test_the_mask_version_tells_of_every_change(canvas):
    seen = []
    canvas.observe(lambda change: seen.append(change["new"]), "mask_version")
    canvas.stroke([(5, 5)], size=6)
    canvas.stroke([(5, 5)], size=6)  # changes nothing
    canvas.undo()
    canvas.redo()
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("trait", "value", "error"),
    [
        ("selected", 0, traitlets.TraitError),
        ("tool", "pencil", traitlets.TraitError),
        ("brush_size", 0, traitlets.TraitError),
        ("mask_tint", "red", traitlets.TraitError),
        ("mask_style", "none", traitlets.TraitError),
        ("pairs", [((1, 1), (60, 2))], ValueError),
        ("prompt", "\ud800", ValueError),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(canvas, trait, value, error):
    before = getattr(canvas, trait)
    with pytest.raises(error):
        setattr(canvas, trait, value)
    assert getattr(canvas, trait) == before


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="no trait or argument 'colour'"):
        DragCanvas(image(), colour=3)


def test_traits_can_be_given_at_once():
    canvas = DragCanvas(image(), tool="brush", brush_size=7, prompt="a fox", read_only=True)
    assert (canvas.tool, canvas.brush_size, canvas.prompt) == ("brush", 7, "a fox")
    canvas.close()


def test_zoom_stays_within_what_is_of_use(canvas):
    canvas.zoom = 1000
    assert canvas.zoom == 32
    canvas.zoom = 0
    assert canvas.zoom == 1
    canvas.zoom_to(4, center=(10, 10))
    assert canvas.zoom == canvas.viewport.zoom == 4
    canvas.fit()
    assert canvas.zoom == 1


def test_deleting_a_pair_keeps_the_same_one_selected(canvas):
    for x in range(4):
        canvas.add_pair((x, 1), (x, 2))
    canvas.selected = 2
    canvas.delete_pair(0)
    assert canvas.selected == 1
    canvas.delete_pair(1)
    assert canvas.selected is None
    canvas.selected = 1
    canvas.undo()
    canvas.clear_pairs()
    assert canvas.selected is None


# ---------------------------------------------------------------- mask and instructions


def test_the_mask_is_a_copy(canvas):
    canvas.fill_mask()
    canvas.mask[:] = False
    assert canvas.mask.all()


def test_a_mask_is_taken_from_an_array_and_from_an_image(canvas):
    mask = np.zeros((40, 60), bool)
    mask[3:9, 4:20] = True
    canvas.set_mask(mask)
    np.testing.assert_array_equal(canvas.mask, mask)
    canvas.set_mask(None)
    canvas.set_mask(Image.fromarray(mask.astype(np.uint8) * 255))
    np.testing.assert_array_equal(canvas.mask, mask)
    with pytest.raises(ValueError, match="shape"):
        canvas.set_mask(mask.T)


def test_each_mask_method_is_one_level(canvas):
    canvas.rectangle((10, 10), (30, 30))
    area = [canvas.mask.sum()]
    for change in (
        lambda: canvas.grow(3),
        lambda: canvas.shrink(3),
        canvas.invert_mask,
        canvas.fill_mask,
        lambda: canvas.lasso([(0, 0), (9, 0), (0, 9)], erase=True),
    ):
        change()
        area.append(canvas.mask.sum())
    assert area[0] == 400
    assert area[1] > area[2] == 400
    assert area[3] == 2400 - 400
    assert area[4] == 2400
    assert area[5] < 2400
    for expected in (*area[-2::-1], None):
        canvas.undo()
        assert (None if canvas.mask is None else canvas.mask.sum()) == expected


def test_instructions_go_out_and_in(canvas, tmp_path):
    canvas.prompt = "a fox"
    assert canvas.instructions is None
    canvas.add_pair((1, 1), (2, 2))
    canvas.rectangle((0, 0), (10, 10))
    given = canvas.instructions
    assert given == DragInstructions(canvas.pairs, size=SIZE, mask=canvas.mask, prompt="a fox")
    canvas.save(tmp_path / "fox.json")
    other = DragCanvas(image())
    other.load(tmp_path / "fox.json")
    assert other.instructions == given
    other.undo()  # one level for all of it
    assert (other.pairs, other.mask) == ((), None)
    with pytest.raises(RuntimeError, match="no instructions to save"):
        other.save(tmp_path / "none.json")
    other.close()


def test_instructions_for_another_image_are_refused(canvas):
    other = DragInstructions((PointPair((1, 1), (2, 2)),), size=(8, 8))
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        canvas.instructions = other
    with pytest.raises(TypeError, match="DragInstructions"):
        canvas.instructions = "fox"


def test_a_mask_that_lets_nothing_change_is_said_and_refused_late(canvas):
    canvas.add_pair((1, 1), (2, 2))
    canvas.invert_mask()
    assert "Nothing is editable" in canvas._caption.value
    with pytest.raises(ValueError, match="zero everywhere"):
        _ = canvas.instructions


def test_the_caption_says_how_much_may_change_and_warns(canvas):
    assert "no mask: all editable, no pair" in canvas._caption.value
    canvas.add_pair((50, 30), (5, 5))
    assert "1 pair" in canvas._caption.value
    canvas.rectangle((0, 0), (30, 20))
    assert "25 % editable, 1 pair" in canvas._caption.value
    assert "Handle 1 is in the protected region" in canvas._caption.value
    canvas.move_handle(0, (6, 6))
    assert "protected" not in canvas._caption.value
    assert 'role="status"' in canvas._caption.value


def test_every_button_has_a_label_and_a_tooltip(canvas):
    for row in canvas._toolbar.box.children:
        for control in row.children:
            if control.has_trait("disabled"):
                tip = getattr(control, "tooltip", None) or control.description_tooltip
                assert tip, control
            if control.has_trait("icon"):
                assert control.description


def test_closing_frees_the_image_and_is_harmless_twice():
    canvas = DragCanvas(image())
    Page(canvas)
    canvas.add_pair((1, 1), (2, 2))
    canvas.close()
    canvas.close()
    canvas.show_image(image())
    assert canvas.scene.image is None
    assert len(canvas.pairs) == 1
