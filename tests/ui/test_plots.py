"""Plots, tree, heat map and the HTML around them."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dragwidget.ui import styles
from dragwidget.ui.plots.heat import colours, heat_overlay
from dragwidget.ui.plots.lines import COLOURS, DASHES, MAX_POINTS, decimate, line_plot
from dragwidget.ui.plots.svg import number
from dragwidget.ui.plots.tree import MAX_BRANCHES, tree

SVG = "{http://www.w3.org/2000/svg}"
ANY = st.floats(allow_nan=True, allow_infinity=True)


def parse(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == root.find(f"{SVG}title").text
    for nothing in ("nan", "inf", "None"):
        assert nothing not in "".join(re.findall(r' (?:d|x|y|cx|cy)="([^"]*)"', svg))
    return root


def words(svg):
    return [node.text for node in parse(svg).iter(f"{SVG}text")]


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


# ---------------------------------------------------------------- lines


@given(
    st.dictionaries(st.text(max_size=8), st.lists(ANY, max_size=300), max_size=8),
    st.text(max_size=20),
)
def test_whatever_is_plotted_is_well_formed_and_small(series, title):
    printable = {
        "".join(c for c in name if c.isprintable()): values for name, values in series.items()
    }
    svg = line_plot(printable, title="".join(c for c in title if c.isprintable()))
    parse(svg)
    assert len(svg) < 4000 + 8 * 14 * MAX_POINTS


def test_every_line_is_told_apart_by_name_and_dashes_too():
    svg = line_plot({str(k): [9.0 - k, 5.0 - k] for k in range(3)}, title="Distance", unit="px")
    assert [w for w in words(svg) if w.endswith("px")] == ["0  5 px", "1  4 px", "2  3 px"]
    strokes = [n for n in parse(svg).iter(f"{SVG}path") if n.get("stroke-width") == "1.8"]
    assert len({n.get("stroke-dasharray") for n in strokes}) == 3
    assert len({n.get("stroke") for n in strokes}) == 3


def test_what_a_plot_shows_is_said_in_words():
    svg = line_plot({"1": [20.0, 14.2], "2": [9.0, 1.5]}, title="Distance", unit="px")
    assert parse(svg).get("aria-label") == "Distance after 2 steps: 1 14.2 px; 2 1.5 px"
    assert parse(line_plot({}, title="Loss")).get("aria-label") == "Loss: no steps yet"
    assert "no steps yet" in words(line_plot({"a": [math.nan]}, title="Loss"))


def test_labels_never_cover_each_other():
    svg = line_plot({str(k): [5.0 + 0.001 * k] for k in range(5)}, title="t", height=120, unit="px")
    places = [
        float(node.get("y")) for node in parse(svg).iter(f"{SVG}text") if node.text.endswith("px")
    ]
    gaps = np.diff(sorted(places))
    assert (gaps >= 12).all()
    assert min(places) > 20
    assert max(places) < 120


def test_the_size_is_the_same_with_and_without_steps():
    empty, full = (parse(line_plot({"a": v}, title="t")) for v in ([], [1.0, 2.0]))
    assert (empty.get("width"), empty.get("height")) == (full.get("width"), full.get("height"))


def test_nothing_moves_sideways_when_digits_come_and_go():
    def edge(last):
        svg = line_plot({"1": [20.0, last]}, title="t", unit="px")
        return {
            n.get("d").split("H")[1] for n in parse(svg).iter(f"{SVG}path") if "H" in n.get("d")
        }

    assert edge(14.25) == edge(3.0) == edge(0.125) == edge(18.0)


def test_names_and_titles_cannot_break_out():
    svg = line_plot({'<b x="1">&': [1.0]}, title="</svg><script>")
    assert "<script" not in svg
    assert "</svg><script>" in words(svg)


@given(st.lists(ANY, max_size=1000))
def test_thinning_keeps_ends_and_peaks_and_is_bounded(values):
    points = decimate(values)
    finite = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
    assert len(points) <= MAX_POINTS
    assert points == sorted(points)
    assert set(points) <= set(finite)
    if finite:
        assert (points[0], points[-1]) == (finite[0], finite[-1])
        assert {f(v for _, v in points) for f in (min, max)} == {
            f(v for _, v in finite) for f in (min, max)
        }


def test_of_a_long_line_every_peak_is_kept_where_it_is():
    values = [float(k % 7) for k in range(10_000)]
    peaks = {0: -50.0, 17: 99.0, 4_321: -99.0, 4_322: 98.0, 9_998: 97.0}
    for index, value in peaks.items():
        values[index] = value
    values[5_000], values[6_000] = math.inf, math.nan
    points = decimate(values)
    assert set(peaks.items()) <= set(points)
    assert points[-1] == (9_999, values[9_999])
    assert MAX_POINTS - 20 <= len(points) <= MAX_POINTS
    assert points == sorted(points)
    # Evenly: no stretch of a hundredth of the line is without a point.
    steps = [index for index, _ in points]
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2 * 10_000 / (MAX_POINTS // 2 - 1)


def test_a_line_that_is_just_too_long_keeps_its_ends():
    values = [float(k) for k in range(MAX_POINTS + 1)]
    points = decimate(values)
    assert len(points) <= MAX_POINTS
    assert (points[0], points[-1]) == ((0, 0.0), (MAX_POINTS, float(MAX_POINTS)))
    assert len(set(points)) == len(points)


def test_a_gap_breaks_the_line():
    svg = line_plot({"a": [1.0, 2.0, math.nan, 2.0, 1.0]}, title="t")
    line = next(n for n in parse(svg).iter(f"{SVG}path") if n.get("stroke-width") == "1.8")
    assert line.get("d").count("M") == 2


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_lines_can_be_seen_on_white_and_on_dark(ground):
    assert min(contrast(colour, ground) for colour in COLOURS) >= 3
    assert len(DASHES) == len(COLOURS)


def test_letters_take_their_colour_from_the_theme():
    svg = line_plot({"a": [1.0]}, title="t") + tree([0, 0], 1, 1)
    for style in re.findall(r'<text[^>]*style="([^"]*)"', svg):
        assert style.startswith("fill:var(--jp-")


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (3.14159, "3.14"), (10, "10"), (123.4, "123"), (0.05, "0.05"), (1.3e-4, "1.3e-4"),
     (2e7, "2e7"), (-14.25, "-14.2"), (99_999, "99999"), (0.001, "0.001")],
)  # fmt: skip
def test_numbers_are_short(value, said):
    assert number(value) == said
    assert number(value, "px") == f"{said} px"


# ---------------------------------------------------------------- branches


@given(st.data())
def test_any_history_can_be_drawn(data):
    parents = [0]
    for n in range(data.draw(st.integers(0, 60))):
        parents.append(data.draw(st.integers(max(0, n - 6), n)))
    nodes = st.integers(0, len(parents) - 1)
    svg = tree(parents, data.draw(nodes), data.draw(nodes), width=300)
    root = parse(svg)
    for dot in root.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx")) <= 300
        assert 0 <= float(dot.get("cy")) <= float(root.get("height"))


def test_where_the_edit_stands_is_said():
    # 0-1-2-3-4 and a branch 2-5-6
    svg = tree([0, 0, 1, 2, 3, 2, 5], current=5, tip=6)
    assert parse(svg).get("aria-label") == "History: at step 3 of 4, 2 branches"
    assert words(svg) == ["4", "4", "3"]  # the ends of both branches, and where it stands
    assert parse(tree([0], 0, 0)).get("aria-label") == "History: at step 0 of 0, 1 branch"


def test_a_branch_keeps_its_place_when_others_come():
    def lines(parents, tip):
        return re.findall(r'<path d="([^"]*)"', tree(parents, tip, tip))

    before = lines([0, 0, 1, 2, 1], 4)
    after = lines([0, 0, 1, 2, 1, 1], 4)
    assert set(before) < set(after)


def test_many_branches_stay_small():
    parents = [0] + [0] * 500
    svg = tree(parents, 1, 1)
    assert "and 492 older branches" in words(svg)
    assert len(svg) < 8000
    assert len(list(parse(svg).find(f"{SVG}g"))) == MAX_BRANCHES


@pytest.mark.parametrize(
    ("parents", "current", "tip"), [([], 0, 0), ([0, 2, 1], 0, 0), ([0, 0], 2, 1), ([1], 0, 0)]
)
def test_what_is_no_history_is_refused(parents, current, tip):
    with pytest.raises(ValueError, match="node"):
        tree(parents, current, tip)


# ---------------------------------------------------------------- similarity


def oklab(rgb):
    """OKLab of sRGB, (N, 3): written again, from the other side."""
    c = rgb / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]
    )  # fmt: skip
    to_lab = np.array(
        [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.8086757660]]
    )  # fmt: skip
    return np.cbrt(c @ to_cones.T) @ to_lab.T


def test_equal_differences_look_equal():
    lab = oklab(colours().astype(float))
    assert np.abs(np.diff(lab[:, 0]) - (lab[-1, 0] - lab[0, 0]) / 255).max() < 0.005
    every_8th = np.linalg.norm(np.diff(lab[::8], axis=0), axis=1)
    assert every_8th.max() < 2.5 * every_8th.min()


def test_the_most_similar_is_brightest_and_least_transparent():
    image = np.asarray(heat_overlay([[0.0, 0.5, 1.0]])).astype(int)
    assert image.shape == (1, 3, 4)
    assert (np.diff(image[0, :, :3].sum(axis=1)) > 0).all()
    assert (np.diff(image[0, :, 3]) > 0).all()
    assert image[0, 2, 3] == round(0.75 * 255)


def test_it_has_the_size_of_what_it_lies_over():
    overlay = heat_overlay(np.random.default_rng(0).random((16, 24)), (240, 160))
    assert (overlay.size, overlay.mode) == ((240, 160), "RGBA")
    Image.new("RGBA", (240, 160)).alpha_composite(overlay)


def test_what_is_unknown_is_clear():
    image = np.asarray(heat_overlay([[0.0, math.nan], [1.0, math.inf]]))
    assert image[0, 1, 3] == image[1, 1, 3] == 0
    assert image[0, 0, 3] > 0
    assert not np.asarray(heat_overlay([[math.nan]]))[..., 3].any()


def test_a_scale_may_be_given():
    same = heat_overlay([[0.2, 0.4]], low=0.0, high=1.0), heat_overlay([[0.2, 0.4]])
    assert np.asarray(same[0])[0, 1, 3] < np.asarray(same[1])[0, 1, 3]
    assert len(np.unique(np.asarray(heat_overlay(np.full((3, 3), 0.7))).reshape(9, 4), axis=0)) == 1


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 2)), np.zeros(3), np.zeros((0, 4))])
def test_what_is_no_map_is_refused(bad):
    with pytest.raises(ValueError, match=r"must be an array \(H, W\), got shape"):
        heat_overlay(bad)


# ---------------------------------------------------------------- HTML


def test_nothing_that_is_shown_can_break_out():
    bad = '<script>"x"</script>&'
    for made in (
        styles.status_line(bad),
        styles.badge(bad, "outdated", bad),
        styles.error_line(bad, hint=bad),
        styles.error_line(ValueError(bad)),
    ):
        assert "<script" not in made
        ElementTree.fromstring(made)


def test_a_status_is_read_out_and_an_error_at_once():
    assert 'role="status"' in styles.status_line("running")
    assert 'role="alert"' in styles.error_line("wrong")
    assert "dragwidget-error" in styles.error_line(None)
    assert "⚠" not in styles.error_line(None)


@pytest.mark.parametrize("state", ["ready", "outdated", "missing", "off"])
def test_a_badge_says_it_by_word_and_symbol(state):
    said = ElementTree.fromstring(styles.badge("LoRA", state, "because"))
    texts = [part.text for part in said]
    assert texts[1] == "LoRA"
    assert texts[3] == "because"
    assert len(texts[0]) == 1
    assert texts[2]


def test_an_error_is_one_line_with_its_traceback_folded():
    try:
        raise ValueError("steps must be 1 or more\ngot 0")
    except ValueError as error:
        made = styles.error_line(error)
    root = ElementTree.fromstring(made)
    assert "steps must be 1 or more" in "".join(root.find(".//summary").itertext())
    assert "got 0" not in "".join(root.find(".//summary").itertext())
    assert "test_plots.py" in root.find(".//pre").text
    assert "KeyError" in styles.error_line(KeyError())


def test_a_long_traceback_keeps_its_end():
    made = styles.error_line(ValueError("x" * 100_000 + "end"))
    assert "xend" in made[-200:]
    assert len(made) < 150_000


def test_no_colour_is_hard_coded_but_as_a_last_resort():
    rules = styles.STYLE.replace("{{", "{")
    for colour in re.findall(r"#[0-9a-fA-F]{3,6}", rules):
        assert re.search(rf"var\(--jp-[\w-]+, {colour}\)", rules)
