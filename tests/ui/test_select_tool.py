"""The tool "select": a click adds a thing to the mask or erases it, a drag sets the tolerance."""

import numpy as np
import pytest

BLUE, RED = (20, 40, 200), (200, 40, 20)


@pytest.fixture
def things(canvas):
    """The canvas with a red square on blue, and a red bar away from it."""
    width, height = canvas.size
    image = np.empty((height, width, 3), np.uint8)
    image[:] = BLUE
    image[20:60, 20:60] = RED
    image[:, width - 12 : width - 4] = RED
    canvas.image = image
    canvas.tool = "select"
    return canvas


def square(canvas):
    mask = np.zeros(canvas.size[::-1], bool)
    mask[20:60, 20:60] = True
    return mask


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_a_click_selects_the_thing_and_undo_takes_it_back(things, page):
    page.click((40, 40))
    assert overlap(things.mask, square(things)) > 0.95
    things.undo()
    assert things.mask is None
    things.redo()
    assert overlap(things.mask, square(things)) > 0.95


def test_a_click_outside_the_mask_adds_and_inside_it_erases(things, page):
    bar = things.size[0] - 8
    page.click((40, 40))
    page.click((bar, 40))
    assert things.mask[40, 40]
    assert things.mask[40, bar]
    page.click((41, 41))
    assert not things.mask[40, 40]
    assert things.mask[40, bar]
    things.undo()
    assert things.mask[40, 40]
    assert things.mask[40, bar]


def test_what_was_painted_before_stays(things, page):
    things.rectangle((70, 70), (90, 90))
    page.click((40, 40))
    assert things.mask[80, 80]
    assert things.mask[40, 40]
    page.click((80, 80))  # on blue, and so all of the blue that was painted
    assert not things.mask[80, 80]
    assert things.mask[40, 40]


def test_a_drag_to_the_right_selects_more_and_the_left_less(canvas, page):
    width, height = canvas.size
    ramp = np.broadcast_to((np.arange(width) * 1.2 + 40)[None, :, None], (height, width, 3))
    canvas.image = ramp.astype(np.uint8)
    canvas.tool = "select"
    counts = []
    for across in (-20, 0, 20):
        page.drag((60, 40), (60 + across / 2, 40), (60 + across, 40))
        counts.append(np.count_nonzero(canvas.mask))
        canvas.undo()
    assert counts[0] < counts[1] < counts[2]


def test_a_drag_shows_the_selection_and_escape_drops_it(things, page):
    page.press((40, 40))
    page.move((44, 40))
    assert overlap(things.scene.mask, square(things)) > 0.95
    assert things.mask is None
    page.key("Escape")
    assert things.scene.mask is None
    page.release((44, 40))
    assert things.mask is None
    assert not things.can_undo


def test_the_key_w_chooses_it(things, page):
    things.tool = "brush"
    page.key("w")
    assert things.tool == "select"


# ---------------------------------------------------------------- what the user gives


def test_a_function_of_the_user_segments(things):
    calls = []

    def segment(image, points, labels):
        calls.append((image.shape, points.tolist(), labels.tolist()))
        mask = np.zeros(image.shape[:2], bool)
        for (x, y), on in zip(points.astype(int), labels, strict=True):
            mask[y - 2 : y + 3, x - 2 : x + 3] = on
        return mask

    things.segment = segment
    shape = (*things.size[::-1], 3)
    things.select_at((30, 30))
    things.select_at((80, 30))
    assert np.count_nonzero(things.mask) == 50
    things.select_at((81, 31))
    assert not things.mask[31, 81]
    assert calls[0] == (shape, [[30.0, 30.0]], [True])
    assert calls[-1] == (shape, [[30.0, 30.0], [80.0, 30.0], [81.0, 31.0]], [True, True, False])


@pytest.mark.parametrize(
    ("found", "error", "match"),
    [
        (np.zeros((4, 5), bool), ValueError, r"shape \(\d+, \d+\) \(height, width\), got \(4, 5\)"),
        (np.zeros((4, 5)), TypeError, "must return booleans, got float64"),
    ],
)
def test_a_mask_that_is_none_is_refused(things, found, error, match):
    things.segment = lambda *_: found
    with pytest.raises(error, match=match):
        things.select_at((30, 30))
    assert things.mask is None
    assert not things.can_undo


def test_segment_must_be_a_function(things):
    with pytest.raises(TypeError, match="segment must be a function"):
        things.segment = "sam"


def test_features_are_asked_first_and_colours_where_there_are_none(things):
    asked = []

    def by_features(points, labels, tolerances):
        asked.append((points.tolist(), labels.tolist(), tolerances.tolist()))

    things.select_by(by_features)
    things.select_at((40, 40), 2.0)
    assert asked == [([[40.0, 40.0]], [True], [2.0])]
    assert overlap(things.mask, square(things)) > 0.95


# ---------------------------------------------------------------- the part that the pairs move


def test_the_parts_of_the_pairs_are_selected_with_the_room_to_move(things):
    things.add_pair((40, 40), (50, 50))
    things.select_parts()
    mask = things.mask
    assert mask[20:60, 20:60].all()
    assert mask[30:70, 30:70].all()
    away = np.ones_like(mask)
    away[14:76, 14:76] = False  # the square at its start and its end, and 4 % of 96 pixels
    assert not (mask & away).any()
    things.undo()
    assert things.mask is None


def test_more_room_is_given_in_lengths_of_the_pair(things):
    things.add_pair((40, 40), (46, 40))
    things.select_parts(room=1.0)
    mask = things.mask
    assert mask[20:60, 20:66].all()  # the square at its start and its end
    assert mask[40, 12]  # and around them as far as it moves, and 4 % of 96 pixels
    assert mask[12, 40]
    assert mask[40, 74]
    away = np.ones_like(mask)
    away[10:71, 10:77] = False
    assert not (mask & away).any()


def test_every_pair_has_its_part(things):
    bar = things.size[0] - 8
    things.add_pair((40, 40), (41, 40))
    things.add_pair((bar, 40), (bar, 41))
    things.select_parts()
    assert things.mask[40, 40]
    assert things.mask[40, bar]
    assert not things.mask[40, 90]


def test_without_a_pair_no_part_is_selected(things):
    with pytest.raises(ValueError, match="draw a pair first"):
        things.select_parts()
    assert things.mask is None


def test_a_users_segment_selects_the_parts(things):
    left = np.zeros(things.size[::-1], bool)
    left[:, :10] = True
    things.segment = lambda *_: left
    things.add_pair((5, 40), (5, 45))
    things.select_parts()
    assert things.mask[:, :10].all()
    assert not things.mask[:, 20:].any()


def test_a_handle_is_editable_whatever_is_found(things):
    things.segment = lambda *_: np.zeros(things.size[::-1], bool)
    things.add_pair((40, 40), (60, 50))
    things.select_parts()
    assert things.mask[40, 40]
    assert things.mask[50, 60]
