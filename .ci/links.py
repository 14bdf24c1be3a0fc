"""Writes every link to the repository from one value, ``Repository`` of ``[project.urls]``.

    python .ci/links.py           writes them
    python .ci/links.py --check   names the files that it would change; fails if there are any

These are the blocks from ``<!-- links: NAME -->`` to ``<!-- end -->`` in README and the pages, the
badges and the first code cell of each notebook, and ``repository-code`` in CITATION.cff. Without a
value there are no links, and a notebook installs from the clone that it lies in.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import tomllib

ROOT = Path(__file__).parents[1]
BRANCH = "main"
COLAB = "https://colab.research.google.com"
BINDER = "https://mybinder.org"
BADGES = {  # alternative text: image
    "Open in Colab": f"{COLAB}/assets/colab-badge.svg",
    "Open in Binder": f"{BINDER}/badge_logo.svg",
}
BLOCK = re.compile(r"(<!-- links: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)
# In a notebook's first cell: badges, of this or an older form, below the title.
IN_TITLE = re.compile(r"\A(# .*\n)\n(?:(?:<a href=|\[!\[).*\n)*\n?")
INSTALL = """\
from importlib.util import find_spec
from pathlib import Path

if find_spec("dragwidget") is None:
    clone = Path("..").resolve()
    is_clone = (clone / "dragwidget" / "__init__.py").is_file()
"""
FROM_CLONE = """\
    if not is_clone:
        raise ImportError("Clone dragwidget's repository and open this notebook in the clone.")
    %pip install --quiet "{clone}[tutorials]"
"""
FROM_URL = """\
    source = clone.as_uri() if is_clone else "URL"
    %pip install --quiet "dragwidget[tutorials] @ {source}"
"""


def repository(root: Path = ROOT) -> str:
    """Return the repository's address in pyproject.toml, or an empty text where it has none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    url = project.get("urls", {}).get("Repository", "").rstrip("/").removesuffix(".git")
    if url and not re.fullmatch(r"(?:https|file)://[\w./~:@-]+", url):
        raise SystemExit(f"[project.urls] Repository is no https address: {url!r}")
    return url


def opened(url: str, notebook: str) -> dict[str, str]:
    """Return where a notebook can be opened, by the name of the badge; Colab reads GitHub alone."""
    if not url.startswith("https://"):
        return {}
    path = f"notebooks/{notebook}"
    name = url.removeprefix("https://github.com/")
    lab = f"labpath={quote(path, safe='')}"
    if name == url:
        links = {"Open in Binder": f"{BINDER}/v2/git/{quote(url, safe='')}/{BRANCH}?{lab}"}
    else:
        links = {
            "Open in Colab": f"{COLAB}/github/{name}/blob/{BRANCH}/{path}",
            "Open in Binder": f"{BINDER}/v2/gh/{name}/{BRANCH}?{lab}",
        }
    return links


def badges(url: str, notebook: str) -> str:
    """Return the badges of a notebook as lines of HTML: images in Markdown stop Voila."""
    return "".join(
        f'<a href="{link}"><img src="{BADGES[name]}" alt="{name}"></a>\n'
        for name, link in opened(url, notebook).items()
    )


def install(url: str) -> str:
    """Return the code that installs dragwidget where it is missing."""
    address = url if url.startswith("file:") else f"git+{url}"
    return INSTALL + (FROM_URL.replace("URL", address) if url else FROM_CLONE)


def blocks(url: str) -> dict[str, str]:
    """Return what README and the pages say, by the name of the block."""
    anywhere = (
        f'`git clone {url}`, or without a clone `pip install "dragwidget[lab] @ git+{url}"`.\n'
    )
    return {"badges": badges(url, "01_quickstart.ipynb"), "install": anywhere if url else ""}


def page(text: str, url: str) -> str:
    """Return a page of Markdown with its blocks written."""
    return BLOCK.sub(lambda found: found[1] + blocks(url)[found[2]] + found[4], text)


def notebook(text: str, name: str, url: str) -> str:
    """Return a notebook with its badges and its install cell written; outputs stay."""
    cells = json.loads(text)
    title = cells["cells"][0]
    links = badges(url, name)
    head = IN_TITLE.sub(
        lambda found: f"{found[1]}\n{links}" + ("\n" if links else ""), "".join(title["source"])
    )
    title["source"] = head.splitlines(keepends=True)
    code = next(cell for cell in cells["cells"] if cell["cell_type"] == "code")
    rest = "".join(code["source"]).partition("\nimport torch\n")
    if not rest[1]:
        raise SystemExit(f"{name}: the first code cell does not import torch after installing")
    code["source"] = (install(url) + "".join(rest[1:])).splitlines(keepends=True)
    return json.dumps(cells, indent=1, ensure_ascii=False) + "\n"


def citation(text: str, url: str) -> str:
    """Return CITATION.cff with the repository below the version, or without it."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f'repository-code: "{url}"\n' if url else ""
    return re.sub(r"^(version: .*\n)", lambda found: found[1] + line, text, flags=re.M)


def written(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """Yield every file that holds a link, and its text as it should be."""
    url = repository(root)
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        yield path, page(path.read_text(encoding="utf-8"), url)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        yield path, notebook(path.read_text(encoding="utf-8"), path.name, url)
    path = root / "CITATION.cff"
    yield path, citation(path.read_text(encoding="utf-8"), url)


def main(check: bool, root: Path = ROOT) -> int:
    """Write the files, or only name those that differ; return the exit status."""
    changed = 0
    for path, text in written(root):
        if text != path.read_text(encoding="utf-8"):
            changed += 1
            print(path.relative_to(root))
            if not check:
                path.write_text(text, encoding="utf-8")
    return int(check and changed > 0)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
