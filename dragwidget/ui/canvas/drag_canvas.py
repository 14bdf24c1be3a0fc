"""``DragCanvas``: draw point pairs and a mask on an image, in a notebook.

No torch here: the canvas is of use alone, as a tool for annotation. Coordinates are ``(x, y)`` in
pixels of the image at its full size, however large it is shown.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import ipywidgets
import traitlets
from PIL import Image

from dragwidget.data.frames import BoolArray, Size
from dragwidget.data.image import SourceImage
from dragwidget.data.instructions import DragInstructions, PointPair, check_prompt
from dragwidget.ui.canvas import caption as captions
from dragwidget.ui.canvas import events
from dragwidget.ui.canvas.commands import Commands
from dragwidget.ui.canvas.gestures import TOOLS, Hand
from dragwidget.ui.canvas.overlay import MASK_STYLES
from dragwidget.ui.canvas.scene import MaskLook, Scene
from dragwidget.ui.canvas.showing import EMPTY_SIZE, Showing, read_source
from dragwidget.ui.canvas.sketch import Sketch
from dragwidget.ui.canvas.toolbar import Toolbar
from dragwidget.ui.canvas.viewport import MAX_ZOOM, Viewport

# Around the canvas: no scroll bars, and not stretched, lest the image be.
_FRAME = {"overflow": "hidden", "max_width": "100%", "align_self": "flex-start", "flex": "0 0 auto"}

_CAPTION = {"width": "auto", "max_width": "100%", "align_self": "stretch", "overflow": "hidden"}


class DragCanvas(events.Listening, Showing, Commands, ipywidgets.VBox):
    """Point pairs and a mask, drawn by hand or by methods, observable, undoable.

    Args:
        image: what ``image.source_image`` takes; ``None``: an empty canvas until one is set.
        width: of the canvas in CSS pixels, padding included; "fit": about 560 on the longest side.
        toolbar: whether to show the buttons above.
        caption: whether to show the line below.
        probe: whether the toolbar has the tool "probe".
        traits: starting values of the traits below.

    Traits (observe and link them; observers run while the canvas' lock is held, so they must not
    wait for another thread that uses this canvas): ``pairs``, a tuple of ``PointPair``, replaced,
    never changed in place; ``selected``, the index of a pair or ``None``; ``tool``; ``brush_size``,
    a diameter in image pixels; ``mask_style``, ``mask_tint`` ("#rrggbb"), ``mask_opacity`` (0 to
    1); ``zoom``, 1 = fitted, up to 32; ``read_only``, for the hand, not for methods; ``keyboard``,
    whether keys do something: off, as Notebook 7 acts on the same keys; ``mask_version``, up by one
    with every change of the mask; ``prompt``, carried along; ``last_error``, what
    went wrong while an event was handled, empty if nothing.
    """

    pairs = traitlets.Any(())
    selected = traitlets.Int(None, allow_none=True)
    tool = traitlets.Enum(TOOLS, "points")
    brush_size = traitlets.Float(40.0)
    mask_style = traitlets.Enum(MASK_STYLES, "darken")
    mask_tint = traitlets.Unicode("#ff2d87")
    mask_opacity = traitlets.Float(0.55)
    zoom = traitlets.Float(1.0)
    read_only = traitlets.Bool(False)
    keyboard = traitlets.Bool(False)
    mask_version = traitlets.Int(0)
    prompt = traitlets.Unicode("")
    last_error = traitlets.Unicode("")

    def __init__(
        self,
        image: Any = None,
        width: int | str = "fit",
        *,
        toolbar: bool = True,
        caption: bool = True,
        probe: bool = False,
        **traits: Any,
    ) -> None:
        if width != "fit" and not (type(width) is int and 120 <= width <= 4000):
            raise ValueError(f'width must be "fit" or 120 to 4000 CSS pixels, got {width!r}')
        source = None if image is None else read_source(image)
        self._lock = threading.RLock()
        self._width = None if width == "fit" else int(width)
        self._source: SourceImage | None = None
        self._sketch: Sketch | None = None
        self._version_shown = -1
        self.scene = Scene(Viewport.of(EMPTY_SIZE, self._width))
        self._hand = Hand(self)
        self._key_callbacks = []
        self._probe_callbacks = []
        self._toolbar = Toolbar(self, probe=probe)
        self._caption = ipywidgets.HTML(layout=dict(_CAPTION))
        self._caption.add_class("dragwidget-caption")
        frame = ipywidgets.Box([self.scene.multi], layout=dict(_FRAME))
        frame.add_class("dragwidget-canvas")
        children = [frame]
        if toolbar:
            children.insert(0, self._toolbar.box)
        if caption:
            children.append(self._caption)
        super().__init__(children, layout={"align_items": "flex-start", "max_width": "100%"})
        self.add_class("dragwidget-canvas-box")
        self._start_showing()
        self._listen()
        self._take(source)
        self._is_open = True
        for name, value in traits.items():
            if not self.has_trait(name):
                raise TypeError(f"DragCanvas takes no {name!r}")
            setattr(self, name, value)

    # ------------------------------------------------------------ the image

    @property
    def image(self) -> Image.Image | None:
        """The image at its full size, RGB; ``None`` where there is none yet."""
        return None if self._source is None else Image.fromarray(self._source.original)

    @image.setter
    def image(self, image: Any) -> None:
        self.set_image(image)

    def set_image(self, image: Any, keep: bool = False) -> None:
        """Another image. What was drawn is dropped, and undo with it; with ``keep`` it stays,
        and then the new image must have the old one's size."""
        source = None if image is None else read_source(image)
        with self._lock:
            if keep and (source is None or self._source is None or source.size != self.size):
                got = None if source is None else source.size
                raise ValueError(
                    f"what is drawn can be kept on an image of size {self.size} only, got {got}"
                )
            self._take(source, keep)

    @property
    def size(self) -> Size | None:
        """(width, height) of the image; ``None`` where there is none yet."""
        return None if self._source is None else self._source.size

    def _take(self, source: SourceImage | None, keep: bool = False) -> None:
        with self._lock:
            self._hand.forget()
            self._source = source
            self._lay_nothing_over()
            if not keep:
                self._sketch = None if source is None else Sketch(source.size)
                self._version_shown = -1
                self.selected = None
                size = EMPTY_SIZE if source is None else source.size
                self.show_viewport(Viewport.of(size, self._width))
                self.brush_size = min(self.brush_size, float(max(size)))
            self._changed()

    # ------------------------------------------------------------ what is drawn

    @property
    def mask(self) -> BoolArray | None:
        """A copy of the mask (H, W), True = may change; ``None``: everything may change."""
        mask = None if self._sketch is None else self._sketch.mask
        return None if mask is None else mask.copy()

    @property
    def instructions(self) -> DragInstructions | None:
        """All of it as plain data; ``None`` while there is no pair.

        Raises ValueError where the mask lets nothing change. Setting it is one level of undo.
        """
        with self._lock:
            sketch = self._sketch
            if sketch is None or not sketch.pairs:
                return None
            return DragInstructions(
                sketch.pairs, size=sketch.size, mask=sketch.mask, prompt=self.prompt
            )

    @instructions.setter
    def instructions(self, instructions: DragInstructions | None) -> None:
        if instructions is None:
            self.clear()
            return
        if not isinstance(instructions, DragInstructions):
            raise TypeError(f"wanted DragInstructions, got {type(instructions).__name__}")
        with self._editing() as sketch:
            if instructions.size != sketch.size:
                raise ValueError(
                    f"these instructions are for an image of size {instructions.size}, "
                    f"and this one has {sketch.size} (width, height)"
                )
            self._hand.forget()
            sketch.set_both(instructions.pairs, instructions.mask)
            self.prompt = instructions.prompt

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the instructions as JSON. Raises RuntimeError while there is no pair."""
        instructions = self.instructions
        if instructions is None:
            raise RuntimeError("there is no pair yet, and instructions have at least one: add one")
        Path(path).write_text(instructions.to_json(), encoding="ascii")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the instructions of a file that ``save`` wrote; ValueError where it is none."""
        self.instructions = DragInstructions.from_json(Path(path).read_bytes())

    @property
    def toolbar(self) -> Any:
        """The buttons, for whoever puts them elsewhere on the page than over the canvas."""
        return self._toolbar.box

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return self._sketch is not None and self._sketch.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to do again."""
        return self._sketch is not None and self._sketch.can_redo

    def _changed(self) -> None:
        """Traits, marks, buttons and caption follow the sketch; paint what is new."""
        sketch = self._sketch
        pairs = () if sketch is None else sketch.pairs
        if self.selected is not None and self.selected >= len(pairs):
            self.selected = None
        if self.pairs != pairs:
            self.pairs = pairs
        version = 0 if sketch is None else sketch.mask_version
        if version != self._version_shown:
            is_new = self._version_shown >= 0 or self.scene.mask is not None
            self._version_shown = version
            self.scene.mask = None if sketch is None else sketch.mask
            self.scene.touch("mask")
            if is_new:
                self.mask_version += 1
        self.marks_changed()
        self._tell()

    def _tell(self) -> None:
        """Buttons and caption."""
        self._toolbar.update()
        hint = captions.HINTS[self.tool] if self._source is not None else ""
        self._caption.value = captions.as_html(
            captions.describe(self._sketch), hint, self.last_error
        )

    # ------------------------------------------------------------ traits

    @traitlets.validate("pairs")
    def _check_pairs(self, proposal: Any) -> tuple[PointPair, ...]:
        if self._sketch is None:
            if len(proposal["value"]):
                raise ValueError("there is no image to set pairs on: set one first")
            return ()
        return self._sketch.check_pairs(proposal["value"])

    @traitlets.validate("selected")
    def _check_selected(self, proposal: Any) -> int | None:
        index: int | None = proposal["value"]
        count = 0 if self._sketch is None else len(self._sketch.pairs)
        if index is not None and not 0 <= index < count:
            raise traitlets.TraitError(f"there is no pair {index}: there are {count}, from 0")
        return index

    @traitlets.validate("brush_size")
    def _check_brush_size(self, proposal: Any) -> float:
        if not 1 <= proposal["value"] <= 10_000:
            raise traitlets.TraitError("brush_size must be 1 to 10000 image pixels")
        return float(proposal["value"])

    @traitlets.validate("zoom")
    def _check_zoom(self, proposal: Any) -> float:
        return float(min(max(proposal["value"], 1.0), MAX_ZOOM))

    @traitlets.validate("mask_opacity")
    def _check_mask_opacity(self, proposal: Any) -> float:
        return float(min(max(proposal["value"], 0.0), 1.0))

    @traitlets.validate("mask_tint")
    def _check_mask_tint(self, proposal: Any) -> str:
        colour: str = proposal["value"]
        if len(colour) != 7 or colour[0] != "#" or set(colour[1:]) - set("0123456789abcdefABCDEF"):
            raise traitlets.TraitError(f'mask_tint must be like "#ff2d87", got {colour!r}')
        return colour

    @traitlets.validate("prompt")
    def _check_prompt(self, proposal: Any) -> str:
        check_prompt(proposal["value"])
        return str(proposal["value"])

    @traitlets.observe("pairs")
    def _take_pairs(self, change: Any) -> None:
        with self._lock:
            if self._sketch is not None and change["new"] != self._sketch.pairs:
                self._sketch.set_pairs(change["new"])
                self._changed()

    @traitlets.observe("selected", "brush_size", "read_only", "last_error")
    def _take_state(self, change: Any) -> None:
        with self._lock:
            if change["name"] == "read_only" and change["new"]:
                self._hand.forget()
            self.marks_changed()
            self._tell()

    @traitlets.observe("tool")
    def _take_tool(self, _: Any) -> None:
        with self._lock:
            self._hand.leave_tool()
            self.marks_changed()
            self._tell()

    @traitlets.observe("mask_style", "mask_tint", "mask_opacity")
    def _take_look(self, _: Any) -> None:
        with self._lock:
            self.scene.look = MaskLook(self.mask_style, self.mask_tint, self.mask_opacity)
            self.scene.touch("mask")
            self.scene.refresh()
            self._tell()

    @traitlets.observe("zoom")
    def _take_zoom(self, change: Any) -> None:
        with self._lock:
            if change["new"] != self.viewport.zoom:
                self.zoom_to(change["new"])
            self._tell()

    def close(self) -> None:
        """Close the widget and let its images go; what was drawn can still be read."""
        if not getattr(self, "_is_open", False):  # perhaps it never was
            return
        self._is_open = False
        self._throttle.close()
        with self._lock:
            self._hand.forget()
            self._listen(remove=True)
            self.scene.close()
        self._toolbar.close()
        self._caption.close()
        super().close()
