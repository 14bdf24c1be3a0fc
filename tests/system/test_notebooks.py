"""Every notebook runs from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import time

import nbformat
import notebook_runs
import pytest
from PIL import Image

NOTEBOOKS = notebook_runs.notebooks()
(TOOLKIT,) = [path for path in NOTEBOOKS if path.stem == "05_toolkit"]
(OWN_IMAGE,) = [path for path in NOTEBOOKS if path.stem == "03_edit_your_image"]
TAUGHT = [path for path in NOTEBOOKS if path.stem[:2] in ("01", "03", "05")]
RECIPES = notebook_runs.sections(notebook_runs.read(TOOLKIT))
LARGEST = 1_500_000  # bytes of a file, so that pages that show it do
HUNGRIEST = 1.6 * 2**30  # bytes that a kernel may hold where a machine has 2 GB for all

PANEL = 300  # pixels of a figure's panel, at least

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
taught = pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)

# Those that ask a question in each part, before the cell that answers it.
LESSONS = [path for path in NOTEBOOKS if path.stem in ("02_how_it_works", "04_ablations")]
LEAST = 300  # pixels of a figure's shorter side
by_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def text_of(path):
    """All that a reader sees as text: sources, and what was printed."""
    notebook = json.loads(path.read_text())
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    for cell in code_cells(path):
        for output in cell["outputs"]:
            data = output.get("data", {})
            shown = [data[kind] for kind in data if kind.startswith("text/")]
            texts += ["".join(text) for text in [output.get("text", ""), *shown]]
    return "\n".join(texts)


def parts(path):
    """Its numbered parts: (title, what a reader sees as text, whether it has code)."""
    texts, kinds = [""], [set()]
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            first, *others = re.split(r"^## ", "".join(cell["source"]), flags=re.M)
            texts[-1] += first
            texts += others
            kinds += [set() for _ in others]
        else:
            kinds[-1].add("code")
            for output in cell["outputs"]:
                texts[-1] += "".join(output.get("data", {}).get("text/markdown", ""))
    return [
        (*text.partition("\n")[::2], "code" in kind)
        for text, kind in zip(texts, kinds, strict=True)
        if re.match(r"\d+\. ", text)
    ]


def test_lessons_are_there():
    assert LESSONS


@by_lesson
def test_a_lesson_opens_with_goals_time_and_hardware(path):
    opening = "".join(json.loads(path.read_text())["cells"][0]["source"])
    for word in ("Goals", "Time", "Hardware"):
        assert f"**{word}.**" in opening


@by_lesson
def test_each_part_of_a_lesson_asks_before_it_answers_below_a_fold(path):
    found = parts(path)
    assert len(found) >= 8
    for title, text, runs in found:
        asked = [at.start() for at in re.finditer(r"\*\*Predict\.\*\*", text)]
        answered = [at.start() for at in re.finditer(r"<details><summary>", text)]
        assert len(asked) == len(answered), title
        assert asked or not runs, title
        assert all(one < other for one, other in zip(asked, answered, strict=True)), title


@by_lesson
def test_figures_of_a_lesson_are_large(path):
    sizes = []
    for cell in code_cells(path):
        for output in cell["outputs"]:
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    with Image.open(io.BytesIO(base64.b64decode("".join(data)))) as figure:
                        sizes.append(figure.size)
    assert min(min(size) for size in sizes) >= LEAST


@pytest.mark.timeout(1800)
@by_name
def test_a_notebook_runs(path, tmp_path, capsys):
    # In a folder of its own: nothing may be needed beside it, and nothing is left in the project.
    copy, peak = tmp_path / path.name, tmp_path / "peak.txt"
    nbformat.write(notebook_runs.with_probe(notebook_runs.read(path), peak), copy)
    # A process of its own: the order of cells is not to be shuffled as that of tests is.
    (tmp_path / "pytest.ini").write_text("[pytest]")
    words = ["--nbval-lax", "--nbval-current-env", "-p", "no:randomly", "--rootdir", tmp_path]
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", tmp_path / "pytest.ini", *words, copy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    highest = notebook_runs.peak_in(peak)
    with capsys.disabled():
        measured = notebook_runs.Measured(path.stem, time.monotonic() - start, highest)
        sys.stdout.write(f"\n{measured}\n")
    assert highest is None or highest < HUNGRIEST


@pytest.mark.timeout(600)
@pytest.mark.parametrize("heading", RECIPES)
def test_a_recipe_runs_alone_after_the_cells_before_the_first_heading(heading, tmp_path):
    kept = RECIPES[heading]
    ran, _ = notebook_runs.execute(kept, tmp_path, heading)
    assert notebook_runs.held_texts(ran) == notebook_runs.held_texts(kept) != []


def test_the_toolkit_has_six_recipes():
    assert [heading[:2] for heading in RECIPES] == [f"{number}." for number in range(1, 7)]


@pytest.mark.timeout(300)
def test_a_recipe_that_needs_another_is_told(tmp_path):
    texts = ["setup = 1", "## A", "a = setup", "## B", "print(a)", "## C", "print(setup)"]
    made = {True: nbformat.v4.new_markdown_cell, False: nbformat.v4.new_code_cell}
    cells = [made[text[0] == "#"](text, id=f"c{k}") for k, text in enumerate(texts)]
    found = notebook_runs.sections(nbformat.v4.new_notebook(cells=cells))
    assert list(found) == ["A", "B", "C"]
    with pytest.raises(Exception, match="name 'a' is not defined"):
        notebook_runs.execute(found["B"], tmp_path, "B")
    ran, _ = notebook_runs.execute(found["C"], tmp_path, "C")
    assert ran.cells[-1].outputs[0].text == "1\n"


@pytest.mark.timeout(300)
def test_a_misspelt_name_of_an_image_is_an_error_and_draws_nothing(tmp_path):
    notebook = notebook_runs.read(OWN_IMAGE)
    last = next(k for k, cell in enumerate(notebook.cells) if "set_image(" in cell.source)
    del notebook.cells[last + 1 :]
    (choice,) = (cell for cell in notebook.cells if cell.source.startswith("PHOTO = "))
    choice.source = choice.source.replace("PHOTO = None", 'PHOTO = "fotto.jpg"')
    with pytest.raises(Exception, match=r"there is no image at fotto\.jpg"):
        notebook_runs.execute(notebook, tmp_path, "misspelt")
    assert not list(tmp_path.glob("*.png"))


@taught
def test_a_notebook_opens_with_goals_time_and_hardware(path):
    first = notebook_runs.read(path).cells[0].source
    assert [word for word in ("Goals", "Time", "Hardware") if f"**{word}.**" not in first] == []


@taught
def test_each_section_asks_for_a_prediction_before_a_cell_and_hides_the_answer(path):
    for heading, section in notebook_runs.sections(notebook_runs.read(path)).items():
        asks = [
            k for k, cell in enumerate(section.cells) if "**Predict, then run.**" in cell.source
        ]
        assert len(asks) == 1, heading
        assert "<details><summary>Answer</summary>" in section.cells[asks[0]].source, heading
        assert section.cells[asks[0] + 1].cell_type == "code", heading


@taught
def test_each_panel_of_a_figure_is_large(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            if figure := output.get("data", {}).get("image/jpeg"):
                with Image.open(io.BytesIO(base64.b64decode("".join(figure)))) as image:
                    assert min(image.size) >= PANEL, cell["id"]


@by_name
def test_a_notebook_is_kept_executed_and_clean(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"]
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert path.stat().st_size <= LARGEST


@by_name
def test_a_notebook_is_worth_looking_at_without_a_kernel(path):
    kinds = [
        kind for cell in code_cells(path) for o in cell["outputs"] for kind in o.get("data", {})
    ]
    assert sum(kind.startswith("image/") for kind in kinds) >= 3
    # No page finds the model of a widget again, and would say so in its place.
    assert notebook_runs.VIEW not in kinds


@by_name
def test_a_notebook_says_nothing_of_the_machine_it_ran_on(path):
    folders = r"(?<![\w.:/])/(?:home|root|tmp|opt|Users|usr|var|work|mnt|content)/|\b[A-Z]:\\"
    addresses = r"0x[0-9a-f]{8}"
    assert re.findall(f"{folders}|{addresses}", text_of(path)) == []


@by_name
def test_something_taught_is_held_to_its_value(path):
    checked = [
        cell
        for cell in code_cells(path)
        if "nbval-check-output" in cell["metadata"].get("tags", ())
        or "# NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
    ]
    assert checked
    assert all(cell["outputs"] for cell in checked)


@by_name
def test_a_notebook_installs_only_what_is_missing(path):
    (install,) = [cell for cell in code_cells(path) if "%pip" in "".join(cell["source"])]
    assert install["execution_count"] == 1
    assert 'find_spec("dragwidget") is None' in "".join(install["source"])
    assert not {"--upgrade", "-U"} & set("".join(install["source"]).split())


@by_name
def test_a_notebook_for_voila_has_no_image_in_markdown(path):
    # Voila 0.5 as a part of Jupyter's server fails on them, and shows no page at all.
    if "`voila " in text_of(path):
        cells = json.loads(path.read_text())["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        assert not [text for text in texts if "![" in text]


@by_name
def test_a_link_to_another_notebook_leads_there(path):
    for link in re.findall(r"\]\(([^):]+\.ipynb)\)", text_of(path)):
        assert (path.parent / link).exists()


def test_what_is_kept_is_tidy():
    cell = nbformat.v4.new_code_cell("widget", id="one", execution_count=1)
    cell.metadata["execution"] = {"iopub.execute_input": "2000-01-01"}
    view = {notebook_runs.VIEW: {"model_id": "m"}, "text/plain": "W(..)"}
    still = {**view, "image/png": "iVBORw0KGgo="}
    for data in (view, still):
        cell.outputs.append(nbformat.v4.new_output("display_data", data=dict(data)))
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    kept = notebook_runs.tidy(notebook)
    assert "widgets" not in kept.metadata
    assert kept.cells[0].metadata == {}
    assert [sorted(o.data) for o in kept.cells[0].outputs] == [["image/png", "text/plain"]]


@pytest.mark.timeout(300)
def test_a_cell_that_fails_is_told(tmp_path):
    path = tmp_path / "wrong.ipynb"
    cells = [nbformat.v4.new_code_cell("1 / 0", id="one")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebook_runs.run(path, tmp_path)
