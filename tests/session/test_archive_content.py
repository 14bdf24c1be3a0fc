"""A session's file whose tensors or steps do not belong together is refused, by what is wrong."""

from __future__ import annotations

import json
import zipfile

import pytest
from safetensors.torch import load, save
from tiny_sessions import ask, session_on

from dragwidget.session.session import DragSession


@pytest.fixture
def path(tiny, tmp_path):
    """A session's file of two steps."""
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    session.save(tmp_path / "edit.drag")
    return tmp_path / "edit.drag"


def rewrite(path, change):
    """Change the JSON and the tensors of a saved session."""
    with zipfile.ZipFile(path) as file:
        content = json.loads(file.read("session.json"))
        tensors = load(file.read("tensors.safetensors"))
    change(content, tensors)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("session.json", json.dumps(content))
        file.writestr("tensors.safetensors", save(tensors))


def nothing(_content, _tensors):
    pass


def test_a_file_that_is_written_again_as_it_was_is_opened(path, tiny):
    rewrite(path, nothing)
    assert len(DragSession.load(path, tiny).history.nodes) == 3


def of_tensor(name, change):
    """Changes one tensor of the file."""

    def do(_content, tensors):
        tensors[name] = change(tensors[name]).contiguous()

    return do


def of_step(**changes):
    """Changes what is said of the second step."""

    def do(content, _tensors):
        content["edits"][0]["nodes"][1].update(changes)

    return do


CHANGES = {
    "an image of another type": (
        of_tensor("original", lambda image: image.float()),
        r"its image is float32 of shape \(48, 64, 3\)",
    ),
    "an image without colours": (
        of_tensor("original", lambda image: image[..., 0]),
        r"its image is uint8 of shape \(48, 64\)",
    ),
    "a fitted image of two colours": (  # it is fitted to the model's grid, 64 x 64
        of_tensor("pixels", lambda image: image[..., :2]),
        r"its image is uint8 of shape \(64, 64, 2\)",
    ),
    "a step of another size": (
        of_tensor("edit.0.node.2", lambda packed: packed[:, :2]),
        r"step 2 of its history is of shape \(3, 2, \d+, \d+\)",
    ),
    "a step that nobody drew": (of_step(drawn=1), "step 2 of its history was not drawn"),
    "a step drawn before the first": (of_step(drawn=-1), "step 2 of its history was not drawn"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_belong_together_is_refused(path, tiny, name):
    change, message = CHANGES[name]
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"edit\.drag is not a session .* opened: .*{message}"):
        DragSession.load(path, tiny)


def test_a_generated_image_has_a_latent_for_every_step_of_its_making(tiny, tmp_path):
    session = session_on(tiny)
    session.generate("a cat", seed=4, size=(64, 32))
    path = tmp_path / "edit.drag"
    session.save(path)
    rewrite(path, of_tensor("trajectory", lambda latents: latents[1:]))
    with pytest.raises(ValueError, match=r"edit\.drag is not .*it has (\d+) latents of \1 steps"):
        DragSession.load(path, tiny)
