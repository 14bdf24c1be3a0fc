"""One thing has one name, the field's: in code, interface, command line, docs and notebooks.

``INSTEAD`` lists the words that we do not use, each with the one that we do. ``ALLOWED`` lists the
places where such a word means something else, each with its reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A regular expression for whole words (case as written, a first capital allowed): what to write.
INSTEAD = {
    "pictures?": "image",
    "cards?": "GPU",
    "processors?": "CPU",
    "films?": "animation, trajectory",
    "bend|bends|bent|bending": "warp, warped",
    "own pass": "reference branch, inversion trajectory",
    "looks? at (?:the|keys|another)": "attends to; runs a forward pass",
    "the instrument": "the keypoint evaluator",
    "proofs?": "evaluator validation",
    "unreadable": "fit failed",
    "true answers?": "ground truth, reference result",
    "share_done|share done|share of the way": "completion",
    "worlds?": "synthetic domain",
    "made anew|what is kept|What is kept": "recomputed; the cache",
    "fresh|stale": "up to date; outdated",
    "[Ss]hel(?:f|ves)": "keyed cache",
    "Asked|Wanted": "EditRequest",
    "born": "anchor nodes",
    "stood at": "most recently used",
    "yardstick": "fixed-noise validation loss",
    "may change|(?:the mask|it) freezes|is frozen|frozen (?:area|region|cells?)": (
        "editable, protected region"
    ),
    "mask (?:term|weight)": "region loss, region weight",
    "spoilt|mended|taken for": "corrupted, fixed, classified as",
    "by hand|without a hand|at the page": "interactively; programmatically, headless",
    "exact (?:picture|image)s?": "final render",
    "curtains?": "before/after slider",
    "laid aside|lay aside|put aside": "set aside",
    "herald": "dispatching thread",
    "let_go": "clear traceback frames",
    "twins?": "meta copy",
    "drawers": "data workers",
    "surely (?:worse|better)": "the 95 % interval excludes 0",
    "in the mean|the half of": "on average; half of",
    "the house|(?:this|that|own) room": "architecture; package",
}

# (file, as a pattern of its path; word, as it stands in INSTEAD): why it may stand there.
ALLOWED = {
    (
        "dragwidget/demo/training/*.py",
        "processors?",
    ): "diffusers' name for what computes an attention",
    ("dragwidget/diffusion/*.py", "processors?"): "diffusers' name for what computes an attention",
    ("dragwidget/diffusion/lora/*.py", "processors?"): "diffusers' keys in old LoRA files",
    ("dragwidget/bench/dev/*.py", "processors?"): "diffusers' name for what computes an attention",
}
# Terms of the field that hold such a word; they are taken out of a line before it is searched.
TERMS = re.compile(r"[Mm]odel[ -]cards?|[Rr]eal[ -]world|hello world|frozen=True")

# Places that still speak old words, by file: each number may only go down, and a file that has none
# any more leaves the list.
PENDING = {
    "SECURITY.md": 1,
    "docs/contributing.md": 1,
    "docs/guide/session.md": 1,
    "docs/guide/settings.md": 1,
    "docs/guide/widget.md": 1,
    "dragwidget/bench/ablations.py": 3,
    "dragwidget/bench/ablations_command.py": 2,
    "dragwidget/bench/dev/baseline.py": 1,
    "dragwidget/bench/dev/cold_command.py": 2,
    "dragwidget/bench/dev/speed.py": 1,
    "dragwidget/bench/dev/validation.py": 13,
    "dragwidget/bench/dev/validation_command.py": 24,
    "dragwidget/bench/scenes.py": 1,
    "dragwidget/bench/warp.py": 1,
    "dragwidget/diffusion/attention.py": 1,
    "dragwidget/diffusion/checkpoint.py": 1,
    "dragwidget/diffusion/kinds.py": 1,
    "dragwidget/diffusion/model.py": 1,
    "dragwidget/drag/method.py": 1,
    "dragwidget/drag/noise_path.py": 1,
    "dragwidget/drag/supervision.py": 2,
    "dragwidget/drag/warping.py": 1,
    "dragwidget/editor/clocks.py": 1,
    "dragwidget/editor/editing.py": 1,
    "dragwidget/editor/export.py": 6,
    "dragwidget/editor/images.py": 4,
    "dragwidget/editor/jobs.py": 2,
    "dragwidget/editor/messages.py": 1,
    "dragwidget/editor/notices.py": 6,
    "dragwidget/editor/runner.py": 4,
    "dragwidget/editor/work.py": 4,
    "dragwidget/progress.py": 8,
    "dragwidget/session/cached_stages.py": 1,
    "dragwidget/session/history.py": 2,
    "dragwidget/session/journal.py": 13,
    "dragwidget/session/rendering.py": 3,
    "dragwidget/session/session.py": 12,
    "dragwidget/session/stages.py": 16,
    "dragwidget/storage/cache.py": 1,
    "dragwidget/ui/controls/fields.py": 4,
    "dragwidget/ui/controls/rows.py": 2,
    "dragwidget/ui/controls/settings_panel.py": 2,
    "dragwidget/ui/plots/tree.py": 2,
    "dragwidget/ui/styles.py": 6,
    "dragwidget/ui/widget/compare_panel.py": 6,
    "dragwidget/ui/widget/drag_widget.py": 8,
    "dragwidget/ui/widget/export_panel.py": 1,
    "dragwidget/ui/widget/layout.py": 2,
    "dragwidget/ui/widget/status_panel.py": 1,
    "notebooks/01_quickstart.ipynb": 7,
    "notebooks/02_how_it_works.ipynb": 30,
    "notebooks/03_edit_your_image.ipynb": 9,
    "notebooks/04_ablations.ipynb": 16,
    "notebooks/05_toolkit.ipynb": 5,
}

SOURCES = sorted(
    path
    for pattern in (
        "README.md",
        "SECURITY.md",
        "docs/**/*.md",
        "dragwidget/**/*.py",
        "notebooks/*.ipynb",
    )
    for path in ROOT.glob(pattern)
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of what a reader sees in a file; of a notebook, all cells and no outputs."""
    if path.suffix != ".ipynb":
        yield from enumerate(path.read_text().splitlines(), start=1)
        return
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        for line in "".join(cell["source"]).splitlines():
            yield number, line


def found(name: str, lines: Iterator[tuple[int, str]]) -> list[str]:
    """Each place in the file ``name`` where a word of ours stands for the field's."""
    places = []
    for number, line in lines:
        for words, better in INSTEAD.items():
            if any(Path(name).match(file) and words == w for file, w in ALLOWED):
                continue
            pattern = rf"(?<![A-Za-z])(?:{words}|{words[0].upper()}{words[1:]})(?![A-Za-z])"
            if match := re.search(pattern, TERMS.sub("", line)):
                places.append(f"{name}:{number}: {match[0]!r}: write {better!r}")
    return places


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_speaks_the_words_of_the_field(path):
    name = str(path.relative_to(ROOT))
    places = found(name, texts(path))
    assert len(places) <= PENDING.get(name, 0), places


def test_what_is_pending_is_still_there():
    found_in = {name: len(found(name, texts(ROOT / name))) for name in PENDING}
    assert found_in == PENDING


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("edit a picture", "picture"),
        ("Pictures of it", "Pictures"),
        ("it runs on a card", "card"),
        ("read_picture(path)", "picture"),
        ("the source's own pass", "own pass"),
        ("A share_done of 1", "share_done"),
    ],
)
def test_a_word_of_ours_is_found(line, word):
    places = found("docs/x.md", iter([(1, line)]))
    assert len(places) == 1
    assert repr(word) in places[0]


@pytest.mark.parametrize("line", ["the model card", "depicture", "discarded", "processorless"])
def test_a_word_of_the_field_is_not(line):
    assert found("docs/x.md", iter([(1, line)])) == []


def test_every_exception_has_its_reason_and_is_needed():
    for (file, words), reason in ALLOWED.items():
        assert words in INSTEAD
        assert len(reason) > 20
        assert any(path.match(file) for path in SOURCES)
