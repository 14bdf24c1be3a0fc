"""What a model's name may be: told by the name and the disk alone, before any request."""

from __future__ import annotations

import os
import shutil

import pytest

from dragwidget.diffusion.loading import checkpoint, load, load_model
from dragwidget.diffusion.loading.sources import MAX_NAME, is_hub_id, locate


@pytest.fixture
def asked(monkeypatch):
    """The names that the hub was asked for: it is never asked in truth."""
    names = []

    def fetch(name, *_args, **_kwargs):
        names.append(name)
        raise FileNotFoundError("asked")

    monkeypatch.setattr(load, "fetch", fetch)
    monkeypatch.setattr(checkpoint, "fetch", fetch)
    return names


STRANGE = [
    "http://evil.example/x",
    "https://huggingface.co/owner/model",
    "file:///etc",
    "ssh://a/b",
    "../x",
    "-opt",
    "-opt/x",
    "//evil/share",
    "\\\\evil\\share",
    "~root/.ssh",
    "~no-such-user/model",
    "a.ckpt",
    "owner/model.ckpt",
    "owner/model.safetensors",
    "/dev/null",
    "/dev/zero.safetensors",
    "a/b/c",
    "C:\\x\\y",
    "attacker/x\n",
    "attacker/x\r\nHost: evil",
    "\x00/a",
    "a/\x00",
    "attacker/\u202eledom",
    "a/" + "b" * 5000,
    "x" * 100_000,
    "a/" + "b" * 97,
    "",
    " ",
    "datasets/x",
    "spaces/x",
    "a/..",
    "../..",
    "a/b--c",
    "a/b..c",
    "a/b.git",
    "müller/model",
    "a b/c",
    "a/b?x=1",
    "a/b#c",
    "a/%2e%2e",
]


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("argument", ["source", "vae", "config"])
def test_a_strange_name_is_refused_by_name_and_never_asked_for(
    asked, tiny_folder, tmp_path, name, argument
):
    given = {"source": tiny_folder, argument: name}
    if argument == "config":
        given["source"] = tmp_path / "model.safetensors"
        given["source"].touch()
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        load_model(**given, device="cpu")
    assert asked == []
    message = str(raised.value)
    assert 0 < len(message) < 1000
    assert message.isprintable()


@pytest.mark.parametrize("name", [None, 3, b"critters", ["critters"]])
def test_what_is_no_name_is_a_type_error(asked, name):
    with pytest.raises(TypeError, match="given by a name or a path"):
        load_model(name, device="cpu")
    assert asked == []


def test_the_message_of_a_url_says_what_to_give(asked):
    with pytest.raises(ValueError, match=r"not fetched from a URL.*path.*'owner/model'"):
        load_model("https://huggingface.co/owner/model", device="cpu")
    assert asked == []


def test_a_hub_id_is_asked_for(asked):
    with pytest.raises(FileNotFoundError, match="asked"):
        load_model("attacker/beacon-for-42", device="cpu")
    assert asked == ["attacker/beacon-for-42"]


def test_a_tilde_is_the_home_folder(asked, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "models" / "mine")
    model = load_model("~/models/mine", vae="~/models/mine", device="cpu")
    assert model.name == "~/models/mine"
    assert asked == []


def test_a_folder_here_comes_before_a_model_on_the_hub(asked, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "owner" / "model")
    load_model("owner/model", device="cpu")
    assert asked == []


def test_the_longest_name_that_is_looked_up():
    with pytest.raises(FileNotFoundError):
        locate("x" * MAX_NAME, "a model")
    with pytest.raises(ValueError, match=f"1 to {MAX_NAME} printable"):
        locate("x" * (MAX_NAME + 1), "a model")


@pytest.mark.parametrize(
    "name",
    [
        "stabilityai/stable-diffusion-2-1",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "a/b",
        "A_1/b.c-d_e",
        "a/" + "b" * 96,
    ],
)
def test_ids_that_the_hub_itself_allows(name):
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(name)
    assert is_hub_id(name)


@pytest.mark.skipif(os.name == "nt", reason="this is a name of Linux")
def test_a_device_is_no_model(asked):
    with pytest.raises(ValueError, match="/dev/null is no model"):
        load_model("/dev/null", device="cpu")
    assert asked == []


@pytest.mark.parametrize("word", ["-x", "a b", "", "\n", "a;b"])
@pytest.mark.parametrize("what", ["variant", "revision"])
def test_a_variant_or_revision_that_is_no_name_is_refused(tiny_folder, what, word):
    with pytest.raises(ValueError, match=f"{what} must be a name"):
        load_model(tiny_folder, device="cpu", **{what: word})
