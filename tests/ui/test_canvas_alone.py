"""The canvas is of use where torch is not installed."""

import subprocess
import sys

import pytest

ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
from dragwidget.ui.canvas import DragCanvas

canvas = DragCanvas(np.zeros((40, 60, 3), np.uint8))
multi = canvas.scene.multi

def send(widget, **content):
    data = {"method": "custom", "content": content}
    widget._handle_msg({"content": {"data": data}, "buffers": []})

send(multi[-1], event="client_ready")
at = canvas.viewport.to_canvas
for tool, name in (("points", "pairs"), ("brush", "mask")):
    canvas.tool = tool
    for event, xy in (("mouse_down", (5, 5)), ("mouse_move", (20, 9)), ("mouse_up", (50, 30))):
        x, y = at(xy)
        send(multi, event=event, x=x, y=y)
assert len(canvas.pairs) == 1 and canvas.mask.any() and canvas.last_error == "", canvas.last_error
canvas.snapshot()
assert canvas.instructions.to_json()
assert not BLOCKED & set(sys.modules)
assert (canvas._script is None) == ("anywidget" in BLOCKED)
canvas.close()
print("drawn")
"""


TORCH = {"torch", "diffusers", "transformers", "peft", "safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("blocked", [TORCH, TORCH | {"anywidget"}], ids=["torch", "anywidget too"])
def test_the_canvas_works_without(blocked):
    code = f"BLOCKED = {blocked!r}\n{ALONE}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "drawn\n", run.stderr
