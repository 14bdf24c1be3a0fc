"""A session's file whose tensors or steps do not belong together is refused, by what is wrong."""

from __future__ import annotations

import pytest
from session_files import of_node, of_tensor, rewrite
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


def nothing(*_):
    pass


def test_a_file_that_is_written_again_as_it_was_is_opened(path, tiny):
    for change in (nothing, of_node(2, nothing)):
        rewrite(path, change)
        assert len(DragSession.load(path, tiny).history.nodes) == 3


def of_step(**changes):
    """Changes what is said of the second step."""
    return of_node(2, lambda data, _tensors: data.update(changes))


def of_shape(change):
    """Changes the tensors of the second step."""

    def do(_data, tensors):
        for name, tensor in tensors.items():
            tensors[name] = change(tensor).contiguous()

    return of_node(2, do)


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
        of_shape(lambda tensor: tensor[:, :2]),
        "step 2 of its history is of .* and of shape",
    ),
    "a step of another type": (
        of_shape(lambda tensor: tensor.double()),
        "step 2 of its history is of .* and of shape",
    ),
    "a step that nobody drew": (of_step(instructions="x"), "step 2 of its history was not drawn"),
    "its own parent": (of_step(parent=2), "step 2 of its history does not come from earlier"),
    "handles of a later step": (
        of_step(anchor_nodes=[3]),
        "step 2 of its history does not come from earlier",
    ),
    "two steps on": (of_step(index=3), "step 2 of its history does not come after its parent"),
    "another number": (of_step(number=1), "step 2 of its history does not come after its parent"),
    "two handles": (of_step(handles=[[1, 2], [3, 4]]), "step 2 .* not the points that were drawn"),
    "no handles": (of_step(anchor_nodes=[]), "step 2 of its .* not the points that were drawn"),
    "no timestep": (of_step(timestep="681"), "step 2 of its history has no timestep"),
    "many terms of its loss": (
        of_step(loss_terms={str(k): 0.0 for k in range(1000)}),
        "step 2 of its history has .*too many terms",
    ),
    "a long header": (
        of_step(note="x" * 2**20),
        r"step 2 of its history has a header of \d+ bytes",
    ),
    "no settings": (of_step(settings=None), "step 2 of its history lacks or misstates"),
    "lists without end": (
        of_node(2, lambda *_: "[" * 100_000),
        "step 2 of its history: ",
    ),
}


@pytest.mark.slow
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
