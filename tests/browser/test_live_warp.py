"""While a point is pulled the image on the page is warped, by the very field of the drag's warp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from browser.canvases import ImageOnPage
from browser.test_canvas_input import use
from browser.test_drag_canvas import SIZE
from browser.test_ink_layer import IDLE, LAYER
from dragwidget.drag.warping import near_field
from dragwidget.ui.canvas.ink import mesh_of, protected_cells

pytestmark = pytest.mark.timeout(900)

LIVE = ("mean", 2.5)
CELLS = [  # red and green say which pixel it is
    "import numpy as np\nfrom dragwidget.ui.canvas import DragCanvas",
    "y, x = np.mgrid[:128, :128]\n"
    "image = np.stack([2 * x, 2 * y, 0 * x], -1).astype('uint8')\n"
    f"canvas = DragCanvas(image, live_warp={LIVE})",
    "canvas",
]
FIELD = """() => { const { layer } = document.querySelector('.dragwidget-ink');
    return [...layer.fieldOf(layer.predict())]; }"""
PAIRS = """() => document.querySelector('.dragwidget-ink').layer.predict().pairs"""
FRAME = """() => { const { isWarped, warped } = document.querySelector('.dragwidget-ink').layer;
    return isWarped ? [...warped.result.data] : null; }"""


def in_cells(points):
    """Points of the image (N, 2) -> (row, column) on the mesh."""
    mesh = torch.tensor(mesh_of(SIZE))
    return torch.tensor(points, dtype=torch.float32).flip(-1) / torch.tensor(SIZE) * mesh - 0.5


def field_of(pairs, mask, live):
    handles, targets = (in_cells([pair[i : i + 2] for pair in pairs]) for i in (0, 2))
    mesh = mesh_of(SIZE)
    cells = np.frombuffer(protected_cells(mask), np.uint8).reshape(-1)
    protected = torch.from_numpy(cells.copy()).reshape(mesh) if len(cells) else None
    combine, reach = live
    return near_field(mesh, handles, targets, protected, combine=combine, reach=reach)


def test_the_page_warps_by_the_field_of_the_drag_and_shows_it(lab):
    lab.open(CELLS).run_all()
    canvas = ImageOnPage(lab.canvas(0, "dragwidget-canvas").element, SIZE)
    lab.until(lambda: canvas.shows((5, 120))[3] == 255, "the image shows")
    lab.wait_for(LAYER)
    box = np.zeros(SIZE[::-1], bool)
    box[20:110, 30:100] = True
    hole = box.copy()
    hole[50:70, 60:90] = False
    masks = {"None": None, "box": box, "hole": hole}
    lab.kernel.run("box = np.zeros((128, 128), bool)\nbox[20:110, 30:100] = True\n"
                   "hole = box.copy()\nhole[50:70, 60:90] = False")  # fmt: skip
    far = [((40, 40), (70, 50)), ((80, 90), (60, 100)), ((50, 80), (52, 60))]
    alike = [((40, 40), (60, 50)), ((60, 60), (80, 70.5))]
    for name, pairs, live in (
        ("None", far[:1], ("mean", 2.5)), ("None", far, ("winner", 2.5)),
        ("box", far, ("mean", 0.7)), ("hole", far[:2], ("winner", 2.5)),
        ("hole", alike, ("mean", 2.5)), ("None", alike, ("mean", 2.5)),
    ):  # fmt: skip
        lab.kernel.run(
            f"canvas.set_mask({name})\ncanvas.pairs = {pairs}\ncanvas.live_warp = {live}"
        )
        expected = field_of([(*a, *b) for a, b in pairs], masks[name], live)
        # The state comes some time later.
        lab.until(
            lambda e=expected: np.allclose(lab.page.evaluate(FIELD), e.flatten(), atol=1e-4),
            f"the page has the field of {len(pairs)} pairs in {name}",
            20,
        )

    lab.kernel.run("canvas.set_mask(box)\ncanvas.pairs = []\ncanvas.live_warp = ('mean', 2.5)")
    use(lab, "points")
    lab.page.wait_for_timeout(500)
    canvas.press((50.0, 50.0))
    for at in (58.0, 64.0, 70.0):
        canvas.hover((at, 60.0))
    frame = lab.page.evaluate(FRAME)
    pairs = lab.page.evaluate(PAIRS)
    lab.screenshot("ink/live-warp")
    field = field_of(pairs, box, LIVE).permute(2, 0, 1)[None]
    cell = SIZE[0] / mesh_of(SIZE)[1]
    moved = interpolate(field, SIZE[::-1], mode="bilinear", align_corners=False)[0] * cell
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    shown = np.array(frame, float).reshape(SIZE[1], SIZE[0], 4)
    assert moved.norm(dim=0).max() > 15  # or else this shows nothing
    for channel, start, move in ((1, rows, moved[0]), (0, columns, moved[1])):
        source = np.clip(start - move.numpy(), 0, 127)
        assert np.abs(shown[:, :, channel] / 2 - source).max() < 1
    canvas.release()
    lab.kernel.wait_for("len(canvas.pairs) == 1")
    lab.wait_for(IDLE)
    assert lab.page.evaluate(FRAME) is None  # it has faded back
    assert lab.kernel.get("canvas.last_error") == ""
