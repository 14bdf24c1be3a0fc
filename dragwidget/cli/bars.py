"""Progress bars for a session: ``DragSession(model, progress=Bars())``."""

from __future__ import annotations

from typing import Any, TextIO

from tqdm import tqdm

from dragwidget.progress import Progress


class Bars:
    """Shows the progress of a session, one bar for each phase of the work.

    Args:
        file: where to; ``None`` is stderr.
        disable: show none; ``None`` shows them on a terminal only.
    """

    def __init__(self, *, file: TextIO | None = None, disable: bool | None = False) -> None:
        self._file = file
        self._disable = disable
        self._bar: Any = None
        self._phase = ""
        self._index = 0

    def __call__(self, progress: Progress) -> None:
        self.show(progress.phase, progress.index, progress.total, progress.loss)

    def show(self, phase: str, index: int, total: int, loss: float | None = None) -> None:
        """Show that ``index`` of ``total`` steps of a phase are done."""
        if self._bar is None or phase != self._phase or index <= self._index:
            self.close()
            self._bar = tqdm(
                desc=f"{phase:<9}", total=total, file=self._file, disable=self._disable
            )
            self._phase, self._index = phase, 0
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
        self._bar.update(index - self._index)
        self._index = index

    def close(self) -> None:
        """Leave the last bar and go to the next line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
