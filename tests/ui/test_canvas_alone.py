"""The canvas is of use where torch is not installed."""

import subprocess
import sys

ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "transformers", "peft", "safetensors"}:
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
assert not {"torch", "diffusers", "transformers", "peft"} & set(sys.modules)
canvas.close()
print("drawn")
"""


def test_the_canvas_works_without_torch():
    run = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert run.stdout == "drawn\n", run.stderr
