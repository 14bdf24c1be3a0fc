"""Tensors written piece by piece are a safetensors file like any other."""

import io

import pytest
import torch
from safetensors.torch import load
from tiny_models import noise

from dragwidget.storage.tensors import NAMES, size, write_tensors


def written(tensors):
    file = io.BytesIO()
    write_tensors(file.write, tensors)
    return load(file.getvalue())


@pytest.mark.parametrize("dtype", NAMES)
def test_every_type_comes_back_to_the_bit(dtype):
    tensors = {"b": (100 * noise(3, 5)).abs().to(dtype), "a": torch.zeros(7, dtype=torch.uint8)}
    found = written(tensors)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(3.0), torch.zeros(0), torch.zeros(2, 0, 3), noise(4, 6).T, noise(4, 6)[1:, ::2],
     noise(3).requires_grad_()],
    ids=["a number", "nothing", "no rows", "turned", "a part", "with a gradient"],
)  # fmt: skip
def test_every_shape_comes_back(tensor):
    found = written({"x": tensor})["x"]
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor)


def test_nothing_at_all_is_a_file_too():
    assert written({}) == {}


def test_the_size_is_that_of_all_tensors():
    assert size({"x": noise(4), "y": torch.zeros(3, dtype=torch.uint8)}) == 19
