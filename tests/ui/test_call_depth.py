"""The way from the widget to the network: a traceback of it can be read, and so can its types."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import replace

import pytest
from tiny_sessions import ask, left_half, session_on

from dragwidget.diffusion.backbone import Backbone, Predictor
from dragwidget.drag import methods
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.method import DragMethod
from dragwidget.drag.methods import method_named
from dragwidget.editor import Runner
from dragwidget.editor.editing import Editing
from dragwidget.editor.jobs import Job
from dragwidget.editor.work import dragging
from dragwidget.session.edit import Edit
from dragwidget.session.session import DragSession
from dragwidget.session.stages import Stages
from dragwidget.ui.widget import DragWidget

DEPTH = 12  # frames of ours from ``widget.step()`` to the network, both ends included


def frames_of_ours() -> list[str]:
    """The functions of the package that are being called, innermost first."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] == "dragwidget":
            found.append(f"{module}.{frame.f_code.co_name}")
        frame = frame.f_back
    return found


@pytest.fixture
def depths(tiny):
    """Every way in which the network was called."""
    found = []
    hook = tiny.unet.register_forward_pre_hook(lambda *_: found.append(frames_of_ours()))
    yield found
    hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, left_half()], ids=["no mask", "mask"])
@pytest.mark.parametrize("start", ["inverted", "warped"])
@pytest.mark.parametrize("lora_steps", [0, 11])
def test_a_step_calls_the_network_through_few_frames(tiny, depths, mask, start, lora_steps):
    """With the LoRA, the inversion and the preview that it needs, and after going back."""
    session = session_on(tiny, steps=9, lora_steps=lora_steps, start=start)
    lora = {"lora": replace(session.settings.lora, early_stop_ratio=1e-9)} if lora_steps else {}
    session.settings = replace(session.settings, **lora)
    widget = DragWidget(session, clock="sync", instructions=ask(mask=mask), journal=False)
    widget.step()
    widget.step(2)
    widget.rewind(1)
    session.edits[0].release()
    widget.instructions = ask(((12, 12), (40, 30)), mask=mask)
    widget.step()
    widget.wait()
    assert widget.error == ""
    assert widget.index == 2
    steps = [way for way in depths if way[-1].endswith("drag_widget.step")]
    assert len(steps) > 3
    deepest = max(steps, key=len)
    assert len(deepest) <= DEPTH, "\n".join(deepest)
    widget.close()


WAY = [
    DragWidget.__init__, DragWidget.step, DragWidget.run, Editing.__init__, Editing.step,
    Editing.run, Runner.__init__, Runner.start, Runner._drive, Runner._next_job, Job.open, Job.run,
    dragging, DragSession.__init__, DragSession.from_pretrained, DragSession.drag,
    DragSession._drag, Stages.preparing, Edit.__init__, Edit.advance, method_named,
    DragMethod.begin, DragMethod.advance, DragMethod.ended, Passes.__init__, Passes.at,
    Predictor.__init__, Predictor.__call__, Backbone.__call__, Backbone.encode_text,
    Backbone.schedule,
]  # fmt: skip


@pytest.mark.parametrize("function", WAY, ids=lambda function: function.__qualname__)
def test_the_way_from_the_widget_to_the_network_can_be_followed_by_types_alone(function):
    signature = inspect.signature(function)
    said = {name: p.annotation for name, p in signature.parameters.items() if name != "self"}
    said["returned"] = signature.return_annotation
    assert [name for name, type_ in said.items() if type_ is inspect.Parameter.empty] == []
    assert [name for name, type_ in said.items() if re.search(r"\bAny\b", str(type_))] == []


def test_the_methods_by_name_have_a_type():
    assert methods.__annotations__ == {"METHODS": "dict[str, DragMethod]"}
