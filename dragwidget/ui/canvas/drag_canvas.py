"""``DragCanvas``: draw point pairs and a mask on an image, in a notebook.

No torch here: the canvas works alone, as an annotation tool. Coordinates are ``(x, y)`` in
pixels of the image at its full size, however large it is shown.

A ``DragCanvas`` is its model (``SketchWidget``) and holds view, pointer, input and toolbar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ipywidgets
import traitlets
from PIL import Image

from dragwidget.data.frames import XY, BoolArray, Size
from dragwidget.data.image import SourceImage, UInt8Array
from dragwidget.ui.canvas import caption as captions
from dragwidget.ui.canvas import ink, keys
from dragwidget.ui.canvas.guard import Guard
from dragwidget.ui.canvas.input import CanvasInput
from dragwidget.ui.canvas.marks import Marks
from dragwidget.ui.canvas.overlay import MASK_STYLES
from dragwidget.ui.canvas.pointer import PointerController
from dragwidget.ui.canvas.scene import MaskLook, Scene
from dragwidget.ui.canvas.script import make_script
from dragwidget.ui.canvas.sketch_widget import SketchWidget
from dragwidget.ui.canvas.toolbar import Toolbar
from dragwidget.ui.canvas.tools import TOOLS, Pointer
from dragwidget.ui.canvas.traits import Clamped, HexColor, ToolName
from dragwidget.ui.canvas.view import CanvasView, read_source
from dragwidget.ui.canvas.viewport import MAX_ZOOM, Viewport
from dragwidget.ui.closing import close_all
from dragwidget.ui.still import StillImage

# Around the canvas: no scroll bars, and not stretched, lest the image be.
_FRAME = {"overflow": "hidden", "max_width": "100%", "align_self": "flex-start", "flex": "0 0 auto"}
_CAPTION = {"width": "auto", "max_width": "100%", "align_self": "stretch", "overflow": "hidden"}


class DragCanvas(StillImage, SketchWidget):
    """Canvas to draw point pairs and a mask on, interactively or by methods, with undo.

    Args:
        image: anything ``read_image`` accepts; ``None``: an empty canvas until one is set.
        width: width of the canvas in CSS pixels, padding included; less for a tall image, which
            is made to fit the window. "fit": 560 CSS pixels on the longest side.
        toolbar: whether to show the buttons above.
        caption: whether to show the line below.
        probe: whether the toolbar has the tool "probe".
        traits: starting values of the traits below.

    Traits (observe and link them; observers run while the canvas' lock is held, so they must not
    wait for another thread that uses this canvas): ``pairs``, a tuple of ``PointPair``, replaced,
    never changed in place; ``selected``, the index of a pair or ``None``; ``tool``; ``brush_size``,
    a diameter in image pixels, by default a twelfth of the image's shorter side; ``mask_style``,
    ``mask_tint`` ("#rrggbb"), ``mask_opacity`` (0 to 1); ``zoom``, 1 = fitted, up to 32;
    ``live_warp``, how the page warps the image while a point is pulled, ``(warp_combine,
    warp_reach)`` of ``DragSettings``, or ``None``, the default, if it does not; ``is_bare``,
    whether mask and marks are hidden; ``hides_mask``, whether the mask is hidden as long as no tool
    that changes it is chosen; ``shows_source``, whether the image that was set shows alone;
    ``read_only``, for pointer and keys, not for methods; ``keyboard``, whether keys act: ``None``,
    the default, where the notebook does not act on them too, see ``has_keys``; ``mask_version``,
    up by one with every change of the mask; ``prompt``, carried along; ``last_error``, what went
    wrong while an event was handled, empty if nothing.
    """

    tool = ToolName("points")
    mask_style = traitlets.Enum(MASK_STYLES, "darken")
    mask_tint = HexColor("#ff2d87")
    mask_opacity = Clamped(0.55, 0.0, 1.0)
    zoom = Clamped(1.0, 1.0, MAX_ZOOM)
    is_bare = traitlets.Bool(False)
    hides_mask = traitlets.Bool(False)
    shows_source = traitlets.Bool(False)
    read_only = traitlets.Bool(False)
    live_warp = traitlets.Tuple(
        traitlets.Enum(("mean", "winner")), traitlets.Float(min=1e-3), default_value=None,
        allow_none=True,
    )  # fmt: skip
    keyboard = traitlets.Bool(None, allow_none=True)
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
        super().__init__(layout={"align_items": "flex-start", "max_width": "100%"})
        self.add_class("dragwidget-canvas-box")
        self._source: SourceImage | None = None
        self.image_number = 0  # up by one with every image
        self._has_script = False
        self._meshed: BoolArray | None = None  # the mask that our script has
        self._key_callbacks: list[Callable[[str], None]] = []
        self._probe_callbacks: list[Callable[[float, float], None]] = []
        self._image_callbacks: list[Callable[[bytes], None]] = []
        guard = self._guard = Guard(
            self._lock,
            refresh=lambda: self.scene.refresh(),
            give_up=lambda: self._controller.cancel(),
            tell=partial(setattr, self, "last_error"),
            end=self._tell_script,
        )
        self._view = CanvasView(None if width == "fit" else int(width), guard, self._marked)
        self._controller = PointerController(self)
        name = f"dragwidget-{self.scene.multi.model_id}"  # what the script finds its parts by
        self._script = make_script(name, self.scene.parts)
        self._toolbar = Toolbar(self, probe=probe)
        self._caption = ipywidgets.HTML(layout=dict(_CAPTION))
        self._lay_out(name, toolbar, caption)
        self._listen(CanvasInput(self, self._controller, guard, self._script))
        self._take(source)
        self._is_open = True
        for key, value in traits.items():
            if not self.has_trait(key):
                raise TypeError(f"DragCanvas has no trait or argument {key!r}")
            setattr(self, key, value)

    def _lay_out(self, name: str, toolbar: bool, caption: bool) -> None:
        script = [] if self._script is None else [self._script]
        frame = ipywidgets.Box([self.scene.multi, *script], layout=dict(_FRAME))
        frame.add_class("dragwidget-canvas")
        frame.add_class(f"{name}-canvas")
        self._caption.add_class("dragwidget-caption")
        self._toolbar.box.add_class(f"{name}-toolbar")
        above = [self._toolbar.box] if toolbar else []
        below = [self._caption] if caption else []
        self.children = [*above, frame, *below]

    def _listen(self, events: CanvasInput) -> None:
        """Take events; the handlers are the canvas' own, for whoever plays a front end."""
        self._input = events
        self.on_ready = events.on_ready
        self.on_mouse_down, self.on_mouse_move = events.on_mouse_down, events.on_mouse_move
        self.on_mouse_up, self.on_mouse_out = events.on_mouse_up, events.on_mouse_out
        self.on_mouse_wheel, self.on_key_down = events.on_mouse_wheel, events.on_key_down
        self.on_touch_start, self.on_touch_move = events.on_touch_start, events.on_touch_move
        self.on_touch_end, self.on_touch_cancel = events.on_touch_end, events.on_touch_cancel

    # ------------------------------------------------------------ the image

    @property
    def image(self) -> Image.Image | None:
        """The image at full resolution, RGB; ``None`` until one is set."""
        return None if self._source is None else Image.fromarray(self._source.original)

    @image.setter
    def image(self, image: Any) -> None:
        self.set_image(image)

    def set_image(self, image: Any, keep: bool = False) -> None:
        """Set another image and drop pairs, mask and undo history.

        With ``keep`` they stay; the new image must then have the old one's size."""
        source = None if image is None else read_source(image)
        with self._lock:
            if keep and (source is None or self._source is None or source.size != self.size):
                got = None if source is None else source.size
                raise ValueError(
                    f"with keep=True the new image must have the size {self.size}, got {got}: "
                    "resize it, or set it without keep"
                )
            self._take(source, keep)

    @property
    def size(self) -> Size | None:
        """(width, height) of the image; ``None`` until one is set."""
        return None if self._source is None else self._source.size

    @property
    def _pixels(self) -> UInt8Array | None:
        return None if self._source is None else self._source.original

    def _take(self, source: SourceImage | None, keep: bool = False) -> None:
        with self._lock:
            self._controller.forget()
            self._source = source
            self._selector.forget()
            self.image_number += 1
            self._view.set_source(source, fit=not keep)
            if not keep:
                self._start_sketch(None if source is None else source.size)
                self.zoom = self.viewport.zoom
            self._changed()

    # ------------------------------------------------------------ what is shown

    @property
    def scene(self) -> Scene:
        """The scene that ipycanvas paints."""
        return self._view.scene

    @property
    def viewport(self) -> Viewport:
        """The mapping between image pixels and canvas pixels."""
        return self.scene.viewport

    def show_viewport(self, viewport: Viewport) -> None:
        """Show another part of the image."""
        with self._lock:
            self.scene.set_viewport(viewport)
            self.zoom = viewport.zoom
            self.scene.refresh()
            self._tell_script()

    def zoom_to(self, factor: float, center: XY | None = None) -> None:
        """Zoom to ``factor`` times the fitted size, 1 to 32, centered on an image point."""
        with self._lock:
            self.show_viewport(self.viewport.zoomed(factor, center))

    def zoom_by(self, factor: float) -> None:
        """Zoom by ``factor`` about the center."""
        self.show_viewport(self.viewport.zoomed(self.viewport.zoom * factor))

    def fit(self) -> None:
        """Show the whole image."""
        self.zoom_to(1.0)

    def show_image(self, image: Any) -> None:
        """Show an image of any size, as ``read_image`` takes it, over the source; ``None``: none.

        At most one image per 0.1 s is shown, always the latest. Safe from any thread.
        """
        self._view.show_image(image)

    def show_tracks(
        self,
        handles: Sequence[XY],
        trails: Sequence[Sequence[XY]] = (),
        starts: Sequence[XY] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Mark the current handles and their trajectories; see ``CanvasView.show_tracks``."""
        self._view.show_tracks(handles, trails, starts, notes)

    def clear_tracks(self) -> None:
        """Remove the marks of ``show_tracks``."""
        self._view.show_tracks(())

    def flush(self) -> None:
        """Show pending updates now."""
        self._view.flush()

    @property
    def marks(self) -> Marks:
        """The marks on the image."""
        return self._view.marks

    def snapshot(self, side: int | None = None) -> Image.Image:
        """Return image, mask and marks as one Pillow image; ``side``: its longest side, pixels."""
        return self._view.snapshot(None if self._sketch is None else self._sketch.mask, side)

    def __repr__(self) -> str:
        size = self._view.size
        shown = "no image" if self._source is None else f"{size[0]} x {size[1]}"
        return f"{type(self).__name__}({shown}: {captions.describe(self._sketch)})"

    def _marked(self) -> Marks:
        gesture = self._controller.gesture
        return Marks(
            pairs=self.pairs,
            selected=self.selected,
            hidden=None if gesture is None else gesture.hidden_pair,
            pending=self._controller.pending,
        )

    def marks_changed(self) -> None:
        """Repaint the marks and everything else that has changed."""
        self._view.show_marks()

    def _show_mask(self, mask: BoolArray | None) -> None:
        self.scene.mask = mask
        self.scene.touch("mask")
        self.scene.refresh()

    def _show_sketch(self, mask_is_new: bool) -> None:
        if mask_is_new:
            self.scene.mask = None if self._sketch is None else self._sketch.mask
            self.scene.touch("mask")
        self._update()

    def _update(self) -> None:
        """Update marks, buttons, caption, and our script."""
        self.marks_changed()
        self._toolbar.update()
        self.hint_changed()
        self._tell_script()

    def _tell_script(self) -> None:
        """Tell our script what it needs to know: once an event, when all is painted."""
        script = self._script
        if script is None or self._guard.is_busy:
            return
        with script.hold_sync():
            script.label = f"Image to draw on: {captions.describe(self._sketch)}"
            script.known_keys = keys.known_keys() if self.has_keys else []
            script.takes_images = bool(self._image_callbacks)
            script.key_help = keys.key_help() if self.has_keys else []
            script.cursor = TOOLS[self.tool].cursor
            if not self._has_script:  # no page draws by itself yet
                return
            if self.scene.mask is not self._meshed:
                self._meshed = self.scene.mask
                script.protected = ink.protected_cells(self._meshed)
            script.state = ink.state(
                self, self._controller, self.image_number, self._input.answered
            )

    def hint_changed(self) -> None:
        """Update the caption: what is drawn and what to do next."""
        hint = ""
        if self._source is not None:
            hint = captions.hint(
                TOOLS[self.tool],
                self.pointer.unfinished.get(self.tool),
                clicks=self._has_script,
                keys=self.has_keys,
            )
        self._caption.value = captions.as_html(
            captions.describe(self._sketch), hint, self.last_error
        )

    # ------------------------------------------------------------ pointer and keys

    @property
    def pointer(self) -> Pointer:
        """The pointer's state between two presses."""
        return self._controller.state

    @property
    def has_keys(self) -> bool:
        """Whether keys act: as ``keyboard`` says, by default where they are safe.

        They are safe where our script runs on the page: there no key pressed on the canvas
        reaches the notebook, which acts on the same keys.
        """
        return self._has_script if self.keyboard is None else bool(self.keyboard)

    @property
    def lists_keys(self) -> bool:
        """Whether ``show_keys`` has a page that lists them."""
        return self.has_keys and self._has_script

    def script_is_ready(self) -> None:
        """Use the events of our script from now on.

        A page that went while its button was held has said nothing: no button is held yet.
        """
        self._has_script, self.shows_source = True, False
        self._update()

    def show_keys(self) -> None:
        """Show or hide the list of keys on the page, where keys act."""
        if self._script is not None:
            self._script.send({"show": "keys"})

    @property
    def toolbar(self) -> Any:
        """The box of buttons, to place it elsewhere than above the canvas."""
        return self._toolbar.box

    def guarded(self, action: Callable[..., Any], *args: Any) -> None:
        """Call ``action`` under the lock and repaint; show its errors."""
        self._guard(action, *args)

    def undo(self) -> bool:
        """Undo the last change, or the unfinished gesture; return whether there was one."""
        with self._lock:
            if self._controller.step_back():
                self._changed()
                return True
            return super().undo()

    def close_lasso(self) -> None:
        """Close the lasso whose corners are being clicked."""
        with self._lock:
            self._controller.finish()

    def cancel_gesture(self) -> bool:
        """Cancel the unfinished gesture; return whether there was one."""
        with self._lock:
            return self._controller.cancel()

    def _drop_unfinished(self) -> None:
        self._controller.forget()

    def on_key(self, callback: Callable[[str], None], remove: bool = False) -> None:
        """Call ``callback("run")`` for Space and ``callback("step")`` for s."""
        (self._key_callbacks.remove if remove else self._key_callbacks.append)(callback)

    def on_probe(self, callback: Callable[[float, float], None], remove: bool = False) -> None:
        """Call ``callback(x, y)``, in image pixels, for a click with the tool "probe"."""
        (self._probe_callbacks.remove if remove else self._probe_callbacks.append)(callback)

    def on_image(self, callback: Callable[[bytes], None], remove: bool = False) -> None:
        """Call ``callback(file)``, with its bytes, for an image file dropped or pasted on the page.

        That needs anywidget. A file of more than 9 MB is refused on the page.
        """
        (self._image_callbacks.remove if remove else self._image_callbacks.append)(callback)
        with self._lock:
            self._tell_script()

    def tell_image(self, file: bytes) -> None:
        """Call the callbacks that ``on_image`` registered."""
        for callback in list(self._image_callbacks):
            self._guard.later(callback, file)

    def tell_key(self, name: str) -> None:
        """Call the callbacks that ``on_key`` registered."""
        for callback in list(self._key_callbacks):
            self._guard.later(callback, name)

    def probe_at(self, xy: XY) -> None:
        """Call the callbacks that ``on_probe`` registered, with a point in image pixels."""
        for callback in list(self._probe_callbacks):
            self._guard.later(callback, *xy)

    # ------------------------------------------------------------ traits

    @traitlets.observe("selected", "brush_size", "read_only", "last_error", "keyboard", "live_warp")
    def _take_state(self, change: Any) -> None:
        with self._lock:
            if change["name"] == "read_only" and change["new"]:
                self._controller.forget()
            self._update()

    @traitlets.observe("tool")
    def _take_tool(self, change: Any) -> None:
        with self._lock:
            self._controller.leave_tool(change["old"])
            self._set_look()
            self._update()

    @traitlets.observe(
        "mask_style", "mask_tint", "mask_opacity", "is_bare", "hides_mask", "shows_source"
    )
    def _take_look(self, change: Any) -> None:
        with self._lock:
            self._set_look()
            if change["name"] in ("is_bare", "shows_source"):
                self._view.is_bare, self._view.shows_source = self.is_bare, self.shows_source
                self._view.show_overlays()
            self._update()

    def _set_look(self) -> None:
        """Show or hide the mask, as the traits and the tool ask for it."""
        unseen = self.hides_mask and (self.tool == "points" or not TOOLS[self.tool].draws)
        hidden = unseen or self.is_bare or self.shows_source
        look = MaskLook("hidden" if hidden else self.mask_style, self.mask_tint, self.mask_opacity)
        if look != self.scene.look:
            self.scene.look = look
            self.scene.touch("mask")

    @traitlets.observe("zoom")
    def _take_zoom(self, change: Any) -> None:
        with self._lock:
            if change["new"] != self.viewport.zoom:
                self.zoom_to(change["new"])
            self._update()

    def close(self) -> None:
        """Close the widget and free its images; pairs and mask stay readable."""
        if not getattr(self, "_is_open", False):  # perhaps it never was
            return
        self._is_open = False
        with self._lock:
            self._controller.forget()
            self._input.close()
        self._view.close()
        close_all(self)
        super().close()
