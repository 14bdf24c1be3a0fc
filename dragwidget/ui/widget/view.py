"""The view of an edit: all parts of the page, and their updates.

Nothing here begins any work.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ipywidgets
from ipywidgets import Layout

from dragwidget.data.frames import XY
from dragwidget.data.presets import presets
from dragwidget.data.settings import Settings
from dragwidget.drag.method import Ended
from dragwidget.drag.tracking import LOW_CONFIDENCE
from dragwidget.editor.editing import GENERATE, LOAD, PREVIEW
from dragwidget.editor.hints import Situation
from dragwidget.editor.images import evenly
from dragwidget.editor.messages import PHASES, message
from dragwidget.editor.messages import ended as ended_message
from dragwidget.session.few_step_check import few_step_warning
from dragwidget.ui.controls import SettingsPanel
from dragwidget.ui.controls.fields import FIELDS
from dragwidget.ui.styles import STYLE, model_line, warning_line
from dragwidget.ui.widget.compare_panel import ComparePanel
from dragwidget.ui.widget.features_panel import FeaturesPanel
from dragwidget.ui.widget.guide import Guide
from dragwidget.ui.widget.history_panel import HistoryPanel
from dragwidget.ui.widget.layout import Buttons, allow, preparation, sections, two_columns
from dragwidget.ui.widget.points_table import PointsTable
from dragwidget.ui.widget.status_panel import ErrorLine, StatusPanel

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.diffusion.backbone import Backbone
    from dragwidget.editor.editing import Editing
    from dragwidget.editor.work import Report
    from dragwidget.session.history import History
    from dragwidget.session.node import Node
    from dragwidget.ui.canvas import DragCanvas
    from dragwidget.ui.widget.export_panel import ExportPanel
    from dragwidget.ui.widget.image_panel import ImagePanel
    from dragwidget.ui.widget.model_panel import ModelPanel

log = logging.getLogger(__name__)

BEFORE_A_DRAG = ("lora", "inversion")  # the stages that it needs
TRAIL = 200  # points of a trajectory that are shown


class View:
    """All parts of the widget, for one edit.

    Attributes:
        rows: what is on the page, from top to bottom.
        index: where the edit stands, drag steps from the start.
        placed: the history that is shown.
        by_colours: whether a thing was selected by colours because the network was at work.
    """

    def __init__(
        self,
        canvas: DragCanvas,
        editing: Editing,
        history: HistoryPanel,
        features: FeaturesPanel,
        image: ImagePanel,
        model: ModelPanel,
        export: ExportPanel,
        *,
        width: int,
        image_first: bool,
        render_when_done: bool,
        warning: str = "",
    ) -> None:
        session = editing.session
        self._canvas, self._editing = canvas, editing
        self.history, self.features = history, features
        self.index, self._phase = 0, ""
        self._render_seen: object = None
        self._mask_seen = 0  # version of the mask when that render was first shown
        self.placed: History | None = None
        self.by_colours = self._is_prepared = False
        self.guide = Guide()
        self.prompt = ipywidgets.Text(
            value=session.prompt, description="Prompt", placeholder="description of the image",
            continuous_update=False, layout=Layout(width="auto"),
            style={"description_width": "52px"},
        )  # fmt: skip
        self.models, self.loras = model, model.loras
        self.buttons = Buttons()
        self.render_when_done = ipywidgets.Checkbox(
            value=render_when_done, description="Render after runs", indent=False,
            layout=Layout(width="auto"),
        )  # fmt: skip
        self.model = ipywidgets.HTML(layout=Layout(width="auto"))
        self.warning = ipywidgets.HTML(layout=Layout(width="auto"))
        self._of_image = warning
        self.warn()
        self.status = StatusPanel()
        self.error_line = ErrorLine()
        self.settings = SettingsPanel(session.settings, **_offered(session.model))
        self.show_model(session.model)
        self.compare = ComparePanel(self.image, lambda on: canvas.set_trait("is_bare", on))
        folded: dict[str, Any] = {} if image_first else {"Image": image}
        self.folded = sections(
            {
                "Settings": self.settings,
                "Points": PointsTable(canvas),
                "Compare": self.compare,
                "Features": features,
                "Export": export,
                "Preparation": preparation(self.status.badges, self.buttons, self.render_when_done),
                "Model": model,
                **folded,
            }
        )
        right: list[Any] = [
            self.model, self.warning, self.prompt, self.settings.essentials, self.error_line,
            self.status,
        ]  # fmt: skip
        if editing.runner.play is not None:  # its ticks come only while it is on the page
            right.append(editing.runner.play)
        columns = two_columns([canvas, history], [*right, self.folded], width)
        style = ipywidgets.HTML(STYLE, layout=Layout(display="none"))
        first = [image] if image_first else []
        self.rows = [style, *first, self.guide, self.buttons, canvas.toolbar, columns]

    def show_model(self, model: Backbone) -> None:
        """Show which model is in use, and the settings that it recommends and accepts."""
        self.model.value = model_line(*_described(model))
        self.models.show(model)
        self.settings.offer(**_offered(model))

    def warn(self, of_image: str | None = None) -> None:
        """Show what to know before a run, of image and method; ``None``: the image's stays."""
        if of_image is not None:
            self._of_image = of_image
        session = self._editing.session
        of_method = few_step_warning(session.model, session.settings)
        text = " ".join(filter(None, [self._of_image, of_method, self._of_model()]))
        self.warning.value = warning_line(text)
        self.warning.layout.display = None if text else "none"

    def _of_model(self) -> str:
        """Return which changed settings the model in use does not take."""
        switched = self._editing.switched
        names = [] if switched is None else [name.split(".") for name in switched.reset]
        labels = ", ".join(FIELDS[stage][name].label for stage, name in names)
        return (
            f"Reset to what {self._editing.session.model.name} recommends: {labels}."
            if names
            else ""
        )

    def state(self) -> None:
        """Update the stage badges and the buttons."""
        stages = self._editing.session.status
        self.status.show_stages(stages)
        self._is_prepared = all(stages[name].state in ("ready", "off") for name in BEFORE_A_DRAG)
        for name, button in self.buttons.by_name.items():
            allow(button, self._editing.why_not(name), self.buttons.tooltips[name])
        self.models.allow(self._editing.why_not("load"))
        self.show_hint()

    def show_hint(self) -> None:
        """Show what to do next."""
        editing, canvas = self._editing, self._canvas
        history, rendered = editing.history, editing.rendered
        here = None if history is None else history.current
        state = "idle" if editing.runner.name == PREVIEW else editing.runner.state
        self.by_colours = self.by_colours and state != "idle"
        is_rendered = rendered is not None and rendered.node is here
        if rendered is not self._render_seen:
            self._render_seen, self._mask_seen = rendered, canvas.mask_version
        # The mask would darken what was waited for.
        unchanged = canvas.mask_version == self._mask_seen
        canvas.set_trait("hides_mask", is_rendered and unchanged)
        self.guide.show(
            Situation(
                state=state,
                pairs=len(canvas.pairs),
                has_mask=canvas.has_mask,
                index=0 if here is None else here.index,
                is_rendered=is_rendered,
                is_prepared=self._is_prepared,
                may_draw=not canvas.read_only,
                by_colours=self.by_colours,
            )
        )

    def say(self, key: str, **values: object) -> None:
        """Show a sentence of ``MESSAGES``; ``index`` is the current step."""
        self.status.say(message(key, **{"index": self.index, **values}))

    def report(self, report: Report) -> None:
        """Show the progress of the work, and its new step or image."""
        state = self._editing.runner.state
        if report.phase != self._phase:
            self._phase = report.phase
            self.status.show_stages(self._editing.session.status)
        if report.step is not None:
            self.drag(report.node, hurry=state != "running")
        if report.image is not None:
            self.image(None)
        if report.phase == "preview":  # it is not what the user waits for
            return
        text = self.status.show_report(report)
        if report.phase == "load":
            self.models.say(text)
        if state == "running":
            self.status.say(text)
        elif state == "paused":
            self.paused()

    def paused(self) -> None:
        """Show that the work is paused, or will be after the step in progress."""
        if self._editing.runner.busy:
            self.say("pausing")
            return
        self.place()
        report = self._editing.report
        if report is None or report.phase in ("drag", "preview"):
            self.say("stepped" if self._editing.single else "paused")
        else:
            work = PHASES.get(report.phase, report.phase)
            self.say("paused within", work=work, done=report.index, total=report.total)

    def over(self, error: BaseException | None) -> None:
        """Show that the work is over, the current node, and why it ended."""
        self.status.clear_bar()
        self._phase = ""
        self.place()
        editing = self._editing
        name, ended = editing.runner.name, editing.work.ended
        if error is not None:
            self.failed(error)
            key = "not finite" if isinstance(error, ArithmeticError) else "failed"
            key = "not loaded" if name == LOAD else key
            self.say(key, name=name, model=editing.session.model.name)
            if name == LOAD:
                self.models.say(str(error))
        elif editing.waiting or name == PREVIEW:
            return  # another message was shown, and holds
        elif editing.runner.outcome == "stopped":
            dragged = editing.report is not None and editing.report.phase == "drag"
            self.say("stopped" if dragged else "cancelled", name=name)
            self.models.say("")
        elif name in ("Prepare", GENERATE):
            self.say("prepared" if name == "Prepare" else "generated")
        elif name == "Render":
            self.say("rendered")
        elif name == LOAD and (switched := editing.switched) is not None:
            key = "loaded another" if switched.has_steps else "loaded"
            self.say(key, **vars(switched))
            self.models.say(message(key, **vars(switched)))
        elif ended is None or (ended is Ended.STEP_LIMIT and name == "Step"):
            self.say("stepped")
        else:
            reason = ended.describe(editing.work.settings.drag)
            known = self._confidences()
            self.status.say(ended_message(ended, reason, tuple(known.values())))

    def _confidences(self) -> dict[XY, float]:
        """Return the confidence of each pair, by its handle, where the current node was checked."""
        edit = self._editing.work.edit
        checked = None if edit is None else edit.checked
        if edit is None or checked is None or checked.node != edit.history.current.number:
            return {}
        handles = [pair.handle for pair in checked.instructions.pairs]
        return dict(zip(handles, checked.confidences.tolist(), strict=True))

    def moved(self) -> None:
        """Show another current node."""
        self.place()
        self.say("at" if self.index else "at the start")

    def failed(self, error: BaseException) -> None:
        """Log and show an error."""
        log.error("in the widget", exc_info=error)
        self.error_line.show(error, _hint(error))

    def newest(self) -> Image.Image | None:
        """Return the best cached image of the current node."""
        history = self._editing.history
        return None if history is None else self._editing.image_of(history.current)

    def image(self, image: Image.Image | None) -> None:
        """Show an image on the canvas; ``None``: the newest, unless the user compares others."""
        if image is None:
            if self.compare.mode.value != "after":
                return
            image = self.newest()
        self._canvas.show_image(image)

    def place(self) -> None:
        """Where the edit stands: image, handles, history and curves."""
        self.placed = history = self._editing.history
        self.history.show(history, self._editing.images, self._editing.why_not("rewind"))
        self.drag(None if history is None else history.current, hurry=True)
        self.compare.set_images(self._editing.work.image, self.newest())
        self.show_hint()

    def drew(self) -> None:
        """Show what is drawn, with the distances and curves of the current pairs.

        Whoever draws no longer compares: the marks were hidden meanwhile.
        """
        self.compare.mode.value = "after"
        history = self._editing.history
        path = [] if history is None else history.path()
        starts = [pair.handle for pair in self._canvas.pairs]
        self.status.show_path(path, starts, confidences=self._confidences())
        self.show_hint()

    def drag(self, node: Node | None, *, hurry: bool) -> None:
        """Show handles and trajectories on the canvas, distances and curves beside it."""
        history = self._editing.history
        path = [] if history is None or node is None else history.path(node)
        self.index = 0 if node is None else node.index
        starts, known = [pair.handle for pair in self._canvas.pairs], self._confidences()
        self.status.show_path(path, starts, hurry=hurry, confidences=known)
        if node is None or node.number == 0:
            self._canvas.clear_tracks()
            return
        came = [
            {pair.handle: at for pair, at in zip(step.pairs, step.handles, strict=True)}
            for step in _thinned(path)
        ]
        starts = [pair.handle for pair in node.pairs]  # a pair's own, whatever its index was
        trails = [[places[start] for places in came if start in places] for start in starts]
        notes = [note_of(known.get(start)) for start in starts]
        self._canvas.show_tracks(list(node.handles), trails, starts, notes)


def note_of(confidence: float | None) -> str:
    """Return what stands beside a handle whose confidence is known; "?" where it is low."""
    if confidence is None:
        return ""
    return f"{confidence:.2f}{' ?' if confidence < LOW_CONFIDENCE else ''}"


def _offered(model: Backbone) -> dict[str, Any]:
    """Return the settings that a model recommends and accepts, as ``SettingsPanel`` takes them."""
    recommended, paper = map(model.numbered, (model.recommended, Settings()))
    offered = presets(recommended, model.check)
    return {"recommended": recommended, "paper": paper, "presets": offered, "check": model.check}


def _described(model: Backbone) -> tuple[str, str]:
    """Return a model's name, and its number format, device and domain."""
    dtype = str(model.dtype).removeprefix("torch.")
    knows = f" · knows {model.domain.images}" if model.domain.images else ""
    return model.name, f"{dtype} on {model.device.type}{knows}"


def _thinned(path: list[Node]) -> list[Node]:
    """Return at most TRAIL nodes of a path, evenly spread, both ends among them."""
    return [path[k] for k in evenly(len(path), TRAIL)]


def _hint(error: BaseException) -> str:
    """Return what to do about an error that does not say so itself."""
    text = str(error).lower()  # of torch, on CUDA and on the CPU
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return "Lower max_side, the LoRA's batch size or the inversion's steps."
    return ""
