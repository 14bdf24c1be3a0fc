"""Draws which package imports which, as an SVG.

    python docs/images/import_graph.py [-]    # - writes to stdout, and not beside the script

An arrow points to what is imported. An arrow that others imply is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "support"))

from import_graph import package_graph, without_shortcuts  # noqa: E402 - found only now

BOX, GAP, ROW = (116, 40), 34, 92  # (width, height) of a box, between boxes, from row to row; px
PLACES = {  # by column, and what a package stands on outside the standard library or is for
    "data": (0.5, "NumPy, Pillow"),
    "progress": (2.4, ""),
    "storage": (1.5, "safetensors"),
    "drag": (0.5, "PyTorch"),
    "diffusion": (0.5, "diffusers, peft"),
    "session": (1.5, "one edited image"),
    "demo": (0, "embedded model"),
    "editor": (2, "headless driver"),
    "cli": (1, "terminal"),
    "bench": (0, "users' benchmarks"),
    "ui": (2, "Jupyter"),
    "bench.dev": (1, "our benchmarks"),
}


def rows(edges: dict[str, set[str]]) -> list[list[str]]:
    """The packages by height, lowest first: each above all that it imports."""
    height: dict[str, int] = {}

    def height_of(part: str) -> int:
        if part not in height:
            height[part] = 1 + max(map(height_of, edges[part]), default=-1)
        return height[part]

    for part in edges:
        height_of(part)
    top = max(height.values())
    return [sorted(part for part in edges if height[part] == h) for h in range(top + 1)]


def svg(edges: dict[str, set[str]]) -> str:
    """The drawing."""
    levels = rows(edges)
    width = (1 + max(column for column, _ in PLACES.values())) * (BOX[0] + GAP) + GAP
    height = len(levels) * ROW
    middle: dict[str, tuple[float, float]] = {}
    for k, level in enumerate(levels):
        for part in level:
            x = GAP + BOX[0] / 2 + PLACES[part][0] * (BOX[0] + GAP)
            middle[part] = (x, height - (k + 0.5) * ROW)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="sans-serif" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="#78909c"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for part, targets in sorted(without_shortcuts(edges).items()):
        for target in sorted(targets):
            (x, y), (to_x, to_y) = middle[part], middle[target]
            y, to_y = y + BOX[1] / 2, to_y - BOX[1] / 2
            lines.append(
                f'<path d="M{x:g} {y:g}C{x:g} {y + 30:g} {to_x:g} {to_y - 34:g} {to_x:g} {to_y:g}" '
                'fill="none" stroke="#78909c" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    for part, (x, y) in sorted(middle.items()):
        note = PLACES[part][1]
        lines += [
            f'<rect x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" width="{BOX[0]}" '
            f'height="{BOX[1]}" rx="6" fill="#e3f2fd" stroke="#1565c0"/>',
            f'<text x="{x:g}" y="{y - (3 if note else -5):g}" font-size="14" '
            f'fill="#0d47a1">{part}</text>',
            f'<text x="{x:g}" y="{y + 13:g}" font-size="10" fill="#455a64">{note}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    drawing = svg(package_graph())
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(drawing)
    else:
        (HERE / "import_graph.svg").write_text(drawing)
