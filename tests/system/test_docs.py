"""The documentation is built without a warning, and says what the code does."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dragwidget
from dragwidget.__main__ import COMMANDS
from dragwidget.data.settings import Settings
from dragwidget.diffusion.loading import EMBEDDED, load_model
from dragwidget.ui.controls.fields import shown

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = [Path("tutorials", f"{path.stem}.md") for path in (ROOT / "notebooks").glob("*.ipynb")]
IN_REFERENCE = sorted(
    name
    for page in (DOCS / "reference").glob("*.md")
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
)
SETTINGS_PAGE = (DOCS / "guide" / "settings.md").read_text()
TEXT_BELOW = [
    "dragwidget.drag.loop.Ended"
]  # no docstring, but a string below it, as constants have
STRIPS = sorted(path.name for path in (DOCS / "images" / "settings").glob("*.jpg"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages as they are published; built from anywhere, with warnings as errors."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        why = f"no {', '.join(missing)} here: pip install '.[docs]'"
        if os.environ.get("DRAGWIDGET_DOCS") == "required":
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml"]
    run = subprocess.run(
        [*build, "-d", folder],
        cwd=ROOT,  # where the code is that the reference reads
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_page_is_built(site):
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")}
    written = {page.relative_to(DOCS) for page in PAGES}
    assert written | set(map(Path, TUTORIALS)) == built - {Path("404.md")}


def test_a_tutorial_is_shown_with_all_its_figures(site):
    for page in TUTORIALS:
        notebook = json.loads((ROOT / "notebooks" / page.name).with_suffix(".ipynb").read_text())
        outputs = [one for cell in notebook["cells"] for one in cell.get("outputs", [])]
        figures = sum(any("image/" in kind for kind in one.get("data", {})) for one in outputs)
        shown = re.findall(
            r'<img [^>]*src="([^"]+)"', (site / page.with_suffix(".html")).read_text()
        )
        assert figures == len(shown) > 0
        assert all((site / page.parent / name).is_file() for name in shown)


@pytest.mark.parametrize("word", ["GPU", "VRAM", "Colab", "SDXL", "LoRA"])
def test_the_search_finds_what_users_look_for(site, word):
    pages = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    assert any(word in f"{page['title']} {page['text']}" for page in pages)


def test_scripts_are_not_published(site):
    assert not list(site.rglob("*.py"))


def test_a_page_fetches_nothing_from_elsewhere(site):
    fetched = re.compile(r'<(?:script|img)[^>]*?src="([^"]+)"|<link[^>]*?href="([^"]+)"')
    for page in site.rglob("*.html"):
        found = ["".join(groups) for groups in fetched.findall(page.read_text())]
        assert found
        assert [address for address in found if address.startswith(("http", "//"))] == []


@pytest.mark.parametrize("name", [name for name in dragwidget.__all__ if name[0] != "_"])
def test_a_public_name_is_in_the_reference(site, name):
    place = getattr(dragwidget, name)
    anchor = f'id="{place.__module__}.{place.__name__}"'
    assert any(anchor in page.read_text() for page in (site / "reference").glob("*.html"))


def without_breaks(page):
    """The HTML of a page, without the places where a line may be broken."""
    return page.read_text().replace("<wbr>", "").replace("<wbr />", "")


@pytest.mark.parametrize("stage", [stage.name for stage in fields(Settings)])
def test_every_setting_is_in_the_table_of_its_stage(site, stage):
    text = without_breaks(site / "guide" / "settings.html")
    assert "<!-- settings" not in text
    text = text.split(f'<h2 id="{stage}">')[1]
    paper = getattr(Settings(), stage)
    models = [getattr(load_model(name, device="cpu").recommended, stage) for name in EMBEDDED]
    for setting in fields(paper):
        row = text.split(f"<td><code>{setting.name}</code></td>")[1].split("</tr>")[0]
        values = re.findall(r"<td><code>(.*?)</code></td>", row)
        assert values == [shown(getattr(record, setting.name)) for record in (paper, *models)]


def test_every_row_of_the_reference_has_one_name(site):
    for page in (site / "reference").glob("*.html"):
        assert re.findall(r"<code>\w+,</code>", page.read_text()) == []
        assert "Annotated[" not in page.read_text()


def test_every_command_tells_its_arguments(site):
    text = (site / "guide" / "command-line.html").read_text()
    assert "<!-- help" not in text
    for command in COMMANDS:
        assert f"usage: dragwidget {command}" in text


def test_formulas_are_drawn(site):
    for page in [*PAGES, *(DOCS / page for page in TUTORIALS)]:
        built = (site / page.relative_to(DOCS).with_suffix(".html")).read_text()
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", built, flags=re.S)
        assert "$$" not in text
        assert re.findall(r"\\(?:[()[\]]|[A-Za-z]{2,})", text) == []
        if not page.exists():
            continue
        written = re.findall(r"^\$\$$", page.read_text(), re.M)
        assert text.count('display="block"') == len(written) / 2


def test_examples_of_the_reference_are_code(site):
    for page in (site / "reference").glob("*.html"):
        assert "<blockquote>" not in page.read_text()


# What needs nothing built


def test_the_pages_of_the_menu_are_all_there_is():
    menu = (ROOT / "mkdocs.yml").read_text().split("nav:")[1].split("\nvalidation:")[0]
    listed = re.findall(r"(\S+\.md)", menu)
    written = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(listed) == sorted(written + [page.as_posix() for page in TUTORIALS])


def test_every_strip_of_a_setting_is_shown_once_and_can_be_made_again():
    sys.path.insert(0, str(DOCS / "images"))
    try:
        script = importlib.import_module("make_settings")
    finally:
        sys.path.remove(str(DOCS / "images"))
    assert sorted(f"{name}.jpg" for name in script.STRIPS) == STRIPS
    assert sorted(re.findall(r"images/settings/(\w+\.jpg)", SETTINGS_PAGE)) == STRIPS
    for strip in STRIPS:
        with Image.open(DOCS / "images" / "settings" / strip) as image:
            panels = 2 + len(script.STRIPS[strip.removesuffix(".jpg")].values)
            width = panels * (script.PANEL + script.GAP) - script.GAP
            assert image.size == (width, script.PANEL + script.LINE)


def test_the_thumbnails_of_the_tutorials_are_of_their_figures():
    sys.path.insert(0, str(DOCS / "images"))
    try:
        script = importlib.import_module("make_thumbnails")
    finally:
        sys.path.remove(str(DOCS / "images"))
    notebooks = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert list(script.FIGURES) == sorted(notebooks)
    for name, number in script.FIGURES.items():
        made = script.thumbnail(script.figures(notebooks[name])[number])
        with Image.open(script.FOLDER / f"{name}.jpg") as kept:
            assert kept.size == made.size
            assert np.abs(np.asarray(kept).astype(int) - np.asarray(made)).mean() < 4


def test_the_animation_is_small_light_and_moves():
    path = DOCS / "images" / "drag.gif"
    assert path.stat().st_size <= 3_000_000
    with Image.open(path) as animation:
        assert animation.width <= 900
        assert animation.n_frames > 30
        seen = []
        for frame in (0, animation.n_frames // 2, animation.n_frames - 1):
            animation.seek(frame)
            seen.append(np.asarray(animation.convert("L")).astype(int))
    assert np.median(seen[0][:8]) > 200  # a light page around the image
    assert all(np.abs(a - b).max() > 64 for a, b in pairwise(seen))


@pytest.mark.parametrize("name", [name for name in dragwidget.__all__ if name[0] != "_"])
def test_a_public_name_has_an_example_and_says_what_it_returns(name):
    thing = getattr(dragwidget, name)
    text = inspect.getdoc(thing)
    [page] = [
        page.read_text()
        for page in (DOCS / "reference").glob("*.md")
        if f"::: {thing.__module__}.{name}\n" in page.read_text()
    ]
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert "Examples:" in text or any(
        f"{name}(" in block or f"{name}." in block for block in blocks
    )
    assert inspect.isclass(thing) or "Returns:" in text


def named(path):
    """What a dotted path names: a module, or something in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(named(module), name)


def parts(thing):
    """What the reference lists below a module or class: its public parts that are ours, by name."""
    spaces = [thing] if inspect.ismodule(thing) else inspect.getmro(thing)
    for space in spaces:
        home = space.__name__ if inspect.ismodule(space) else space.__module__
        for name, part in vars(space).items():
            part = getattr(part, "fget", None) or getattr(part, "__func__", part)
            is_ours = getattr(part, "__module__", None) == home and home.startswith("dragwidget")
            if is_ours and not name.startswith("_") and callable(part):
                yield f"{home}.{name}", part


@pytest.mark.parametrize("path", IN_REFERENCE)
def test_what_is_in_the_reference_is_explained(path):
    thing = named(path)
    listed = dict(parts(thing)) if inspect.ismodule(thing) or inspect.isclass(thing) else {}
    for name, part in list(listed.items()):
        listed |= dict(parts(part)) if inspect.isclass(part) else {}
    silent = [name for name, part in listed.items() if not (part.__doc__ or "").strip()]
    # Handlers of events are left out there, see docs/reference/widget.md.
    assert [name for name in silent if ".on_" not in name] == []
    if path not in TEXT_BELOW:
        assert inspect.getdoc(thing)
