"""One thing has one name, the field's: in code, interface, command line, docs and notebooks.

``INSTEAD`` lists the words that we do not use, each with the one that we do. ``ALLOWED`` lists the
places where such a word means something else, each with its reason.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A regular expression for whole words (of any case, unless it holds capitals): what to write.
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
    "anew|what is kept": "recomputed, again; the cache",
    "fresh|stale": "up to date; outdated",
    "shel(?:f|ves)": "keyed cache",
    "(?:Asked|Wanted)(?! for)": "EditRequest",
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
    "drawers|helpers": "data workers, gradient workers",
    "surely (?:worse|better)": "the 95 % interval excludes 0",
    "in the mean|the half of": "on average; half of",
    "the house|(?:this|that|own) room": "architecture; package",
    "inks?": "stroke, draft",
    "Pace": "PreviewRateLimiter",
    "Hand": "PointerController",
    "Later": "LazyTensor",
    "plain (?:reference|procedure|step)|nothing kept": "baseline; nothing cached",
    "steps at most": "max steps",
    "explained by": "fitted by",
    "(?:on|by|of) the way|the way (?:there|back)": "trajectory, inversion",
    "what it shows|for people": "prompt; shown to the user",
}

# (file, as a pattern of its path; word, as it stands in INSTEAD): why it may stand there.
ATTENTION = "diffusers' name for what computes an attention"
INK = "digital ink, as browsers have it: what is drawn under the pointer before a program answers"
ALLOWED = {
    ("dragwidget/demo/training/*.py", "processors?"): ATTENTION,
    ("dragwidget/diffusion/*.py", "processors?"): ATTENTION,
    ("dragwidget/diffusion/lora/*.py", "processors?"): "diffusers' keys in old LoRA files",
    ("dragwidget/bench/dev/*.py", "processors?"): ATTENTION,
    ("dragwidget/ui/canvas/*", "inks?"): INK,
    ("docs/architecture.md", "inks?"): INK,
    ("dragwidget/demo/domain/*.py", "inks?"): "the colour that eyes and noses are drawn with",
    ("notebooks/05_toolkit.ipynb", "bend|bends|bent|bending"): "what the joints of an arm do",
}
# Terms of the field that hold such a word; they are taken out of a line before it is searched.
TERMS = re.compile(r"[Mm]odel[ -]cards?|[Rr]eal[ -]world|hello world|frozen=True")

SOURCES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "dragwidget/**/*.md",
        "dragwidget/**/*.py",
        "dragwidget/**/*.js",
        "notebooks/*.ipynb",
    )
    for path in ROOT.glob(pattern)
)


def compiled(words: str) -> re.Pattern[str]:
    """Match ``words`` as whole words, across line ends too; in any case where written small."""
    spaced = words.replace(" ", r"(?:[ ]|\s*\n[\s#>*]*)")
    flags = re.IGNORECASE if words == words.lower() else 0
    return re.compile(rf"(?:{spaced})(?![A-Za-z])", flags)


PATTERNS = {words: compiled(words) for words in INSTEAD}


def text_of(path: Path) -> str:
    """Return what a reader sees in a file: of a notebook, the source of all cells, no outputs."""
    text = path.read_text()
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def found(name: str, text: str) -> list[str]:
    """List each place in the file ``name`` where a word of ours stands for the field's."""
    text = TERMS.sub(lambda term: re.sub(r"\S", "_", term[0]), text)
    allowed = {words for file, words in ALLOWED if Path(name).match(file)}
    places = []
    for words, pattern in PATTERNS.items():
        if words in allowed:
            continue
        for match in pattern.finditer(text):
            if match.start() == 0 or not text[match.start() - 1].isalpha():
                line = text.count("\n", 0, match.start()) + 1
                places.append(f"{name}:{line}: {match[0]!r}: write {INSTEAD[words]!r}")
    return places


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_speaks_the_words_of_the_field(path):
    assert found(str(path.relative_to(ROOT)), text_of(path)) == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("edit a picture", "picture"),
        ("Pictures of it", "Pictures"),
        ("it runs on a card", "card"),
        ("read_picture(path)", "picture"),
        ("the source's own pass", "own pass"),
        ("A share_done of 1", "share_done"),
        ("Stale or FRESH", "Stale"),
        ("it is made\n    # anew", "anew"),
        ("the source's own\n    pass", "own\n    pass"),
    ],
)
def test_a_word_of_ours_is_found(line, word):
    assert repr(word) in "".join(found("docs/x.md", line))


@pytest.mark.parametrize("line", ["the model card", "depicture", "discarded", "processorless"])
def test_a_word_of_the_field_is_not(line):
    assert found("docs/x.md", line) == []


def test_every_exception_has_its_reason_and_is_needed():
    for (file, words), reason in ALLOWED.items():
        assert len(reason) > 20
        texts = [text_of(path) for path in SOURCES if path.match(file)]
        assert any(PATTERNS[words].search(TERMS.sub("", text)) for text in texts), (file, words)
