"""Tables, figures and JSON of a benchmark's summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dragwidget.storage.atomic import write_whole

NO_FIGURE = "no figure: it is drawn with matplotlib: pip install matplotlib"


def shown(value: float | None, form: str = ".2f") -> str:
    """Return a number as text, empty where there is none."""
    return "" if value is None else f"{value:{form}}"


def interval(values: Mapping[str, float] | None, form: str = ".2f") -> str:
    """Return a mean with its interval."""
    if values is None:
        return ""
    return f"{values['mean']:{form}} ({values['low']:{form}} to {values['high']:{form}})"


def share(values: Mapping[str, float] | None) -> str:
    """Return a count with its exact interval in per cent."""
    if values is None:
        return ""
    return f"{values['count']}/{values['n']} ({values['low']:.0%} to {values['high']:.0%})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, aligned to be read as it is."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| "
        + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def csv_table(summary: Sequence[Mapping[str, Any]]) -> str:
    """Return a summary as CSV; what has parts has a column for each, ``completion.low``."""
    flat = [_flat(row) for row in summary]
    names = list(dict.fromkeys(name for row in flat for name in row))
    # What is empty in one row may have parts in others.
    names = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        parts = value.items() if isinstance(value, Mapping) else [("", value)]
        flat.update({f"{name}.{part}" if part else name: inner for part, inner in parts})
    return flat


def earlier(path: Path | None, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier run wrote to a file; empty where it is not there.

    Raises:
        ValueError: it was made by something else, such as other weights; it is kept.
    """
    if path is None or not path.is_file():
        return {}
    written: dict[str, Any] = json.loads(path.read_text())
    for name, value in json.loads(json.dumps(made_by)).items():
        if written.get(name) != value:
            raise ValueError(
                f"{path} holds results of other {name} than this run would make: name another "
                "file, or move it"
            )
    return written


def save_figure(
    path: Path,
    series: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]],
    lines: Mapping[str, float],
    axes: tuple[str, str],
) -> str:
    """Draw points with error bars, and horizontal lines; return why not, or ``""``.

    Args:
        series: by name, points (x, y with ``mean``, ``low`` and ``high``).
        lines: by name, y.
        axes: labels.
    """
    if find_spec("matplotlib") is None:
        return NO_FIGURE
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot = figure.subplots()
    for (name, points), mark in zip(series.items(), "osDv^<>pP*Xh" * len(series), strict=False):
        along = [x for x, _ in points]
        means = [y["mean"] for _, y in points]
        below = [max(0.0, y["mean"] - y["low"]) for _, y in points]
        above = [max(0.0, y["high"] - y["mean"]) for _, y in points]
        plot.errorbar(along, means, yerr=[below, above], fmt=mark, capsize=3, label=name)
    for (name, level), dash in zip(lines.items(), ("--", ":", "-.") * len(lines), strict=False):
        plot.axhline(level, linestyle=dash, color="0.5", label=name)
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=150)
    write_whole(path, content.getvalue())
    return ""
