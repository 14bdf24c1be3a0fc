"""What a user may have set in PyTorch, and what of it can be seen afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def undetermined():
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)


@contextmanager
def other_random_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        yield


State = Callable[[], AbstractContextManager[object]]
STATES: dict[str, State] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "with device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad switched off": lambda: torch.set_grad_enabled(False),
    "undetermined": undetermined,
    "another seed": other_random_numbers,
}
if torch.cuda.is_available():  # elsewhere PyTorch switches it off itself, with a warning
    STATES["autocast of a GPU"] = lambda: torch.autocast("cuda", dtype=torch.float16)
states = pytest.mark.parametrize("state", STATES.values(), ids=STATES)


def now():
    """All of the user's settings that could be left otherwise."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002 - what the user may depend on
    )
