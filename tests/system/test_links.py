"""Links to the repository are written from one value; nothing is installed by its bare name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="Python reads TOML since 3.11")

ROOT = Path(__file__).parents[2]
URL = "https://github.com/someone/their-fork"
SPEC = importlib.util.spec_from_file_location("links", ROOT / ".ci" / "links.py")
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)
HELD = ["README.md", "CITATION.cff", "pyproject.toml", "docs/index.md", "docs/release.md"]

# What is in the tree as text that a reader may run or see.
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.toml", "docs/**/*.md", "notebooks/*.ipynb", "**/*.py", ".ci/*")
    for path in ROOT.glob(pattern)
    if not {".venv", "build", "mutants"} & set(path.relative_to(ROOT).parts)
)
# The name alone, which anybody could register on an index; `.`, a path or an address is none.
BY_NAME = re.compile(r"pip install [^\n`]*?(?<![\w/.-])dragwidget(?![\w/-]|\.\w)(?!\S* @)")


@pytest.fixture
def tree(tmp_path):
    """A copy of what holds links, with a function that gives it an address."""
    for name in HELD:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")

    def publish(url):
        path = tmp_path / "pyproject.toml"
        line = f'[project.urls]\nRepository = "{url}"\n' if url else "[project.urls]\n"
        found = re.compile(r"^\[project\.urls\]\n(Repository = .*\n)?", re.M)
        path.write_text(found.sub(lambda _: line, path.read_text()))
        return tmp_path

    return publish


def first_cells(path):
    """The source of a notebook's title and of its first code cell."""
    cells = json.loads(path.read_text())["cells"]
    code = next(cell for cell in cells if cell["cell_type"] == "code")
    return "".join(cells[0]["source"]), "".join(code["source"])


def test_everything_in_the_tree_agrees_with_the_value(capsys):
    assert links.main(check=True) == 0, capsys.readouterr().out


def test_a_new_value_is_written_everywhere(tree):
    root = tree(URL)
    assert links.main(check=True, root=root) == 1
    assert links.main(check=False, root=root) == 0
    assert links.main(check=True, root=root) == 0
    for path in (root / "notebooks").glob("*.ipynb"):
        title, code = first_cells(path)
        for place in ("colab.research.google.com/github", "mybinder.org/v2/gh"):
            (link,) = re.findall(rf'<a href="https://{place}/(\S+)"', title)
            assert link.startswith("someone/their-fork/")
            assert link.endswith(path.name)
        assert f"git+{URL}" in code
    assert f'repository-code: "{URL}"' in (root / "CITATION.cff").read_text()


def test_without_a_value_nothing_is_linked_and_all_else_stays(tree):
    root = tree("")
    links.main(check=False, root=root)
    before = dict(links.written(root))
    for url in (URL, ""):
        links.main(check=False, root=tree(url))
    assert {path: path.read_text() for path in before} == before
    for path in (root / "notebooks").glob("*.ipynb"):
        title, code = first_cells(path)
        assert "<a href=" not in title
        assert "git+" not in code


def test_outputs_of_a_notebook_stay(tree):
    root = tree(URL)
    links.main(check=False, root=root)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        before = ROOT / "notebooks" / path.name
        was, now = (json.loads(file.read_text())["cells"] for file in (before, path))
        assert [cell.get("outputs") for cell in was] == [cell.get("outputs") for cell in now]
        assert [c["source"] for c in was[3:]] == [c["source"] for c in now[3:]]


def test_a_repository_that_is_not_on_github_is_opened_by_binder_alone():
    opened = links.opened("https://git.example/us/it", "01_quickstart.ipynb")
    assert list(opened) == ["Open in Binder"]
    assert "/v2/git/https%3A%2F%2Fgit.example%2Fus%2Fit/main" in opened["Open in Binder"]


@pytest.mark.parametrize("url", ["http://github.com/a/b", "github.com/a/b", 'https://a/"b'])
def test_what_is_no_address_is_refused(tree, url):
    with pytest.raises(SystemExit, match="is no https address"):
        links.repository(tree(url.replace('"', '\\"')))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_installed_by_a_name_that_others_could_register(path):
    if path.name != Path(__file__).name:
        assert BY_NAME.findall(path.read_text(encoding="utf-8")) == []


def test_an_install_by_name_is_found():
    for words in ("dragwidget", "'dragwidget[lab]'", "-q dragwidget."):
        assert BY_NAME.search(f"pip install {words}")
    for words in (".", "'dragwidget @ git+https://a/dragwidget'", "./dragwidget"):
        assert not BY_NAME.search(f"pip install {words}")


# ---------------------------------------------------------------- the first cell itself

# A kernel's shell without a kernel, where dragwidget is not installed.
SHELL = """
import sys
from pathlib import Path
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "dragwidget" / "__init__.py").exists()]
from IPython.core.interactiveshell import InteractiveShell
result = InteractiveShell.instance().run_cell(open(sys.argv[1]).read())
sys.exit(0 if result.success else 1)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "dragwidget"
version = "9"
[project.optional-dependencies]
tutorials = []
"""


@pytest.fixture
def clone(tmp_path):
    """A small repository of that name, with a folder of notebooks."""
    root = tmp_path / "a clone"
    for folder in ("dragwidget", "notebooks"):
        (root / folder).mkdir(parents=True)
    (root / "dragwidget" / "__init__.py").touch()
    (root / "pyproject.toml").write_text(PROJECT)
    return root


def run_first_cell(code, folder, target):
    """Run the install part of a first cell in a folder; pip installs into ``target``."""
    file = target.with_suffix(".cell")
    file.write_text(code)
    pip = {"PIP_TARGET": str(target), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return subprocess.run(
        [sys.executable, "-c", SHELL, file],
        cwd=folder,
        env={**os.environ, **pip, "PYTHONPATH": "", "IPYTHONDIR": str(target) + ".ipython"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("url", ["", "https://git.example/a/b"])
def test_the_first_cell_installs_the_clone_beside_it(clone, tmp_path, url):
    run = run_first_cell(links.install(url), clone / "notebooks", tmp_path / "there")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "there" / "dragwidget-9.dist-info").is_dir(), run.stdout + run.stderr


@pytest.mark.slow
def test_elsewhere_the_first_cell_installs_from_the_address(clone, tmp_path):
    address = clone.rename(tmp_path / "published").as_uri()
    run = run_first_cell(links.install(address), tmp_path, tmp_path / "there")
    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "there" / "dragwidget-9.dist-info").is_dir(), run.stdout + run.stderr


@pytest.mark.slow
def test_with_neither_the_first_cell_says_what_to_do(tmp_path):
    run = run_first_cell(links.install(""), tmp_path, tmp_path / "there")
    assert run.returncode == 1
    assert "open this notebook in the clone." in run.stdout + run.stderr
    assert not (tmp_path / "there").exists()
