"""Whether two sessions are the same to the bit, in all that a file keeps of one."""

import numpy as np
import torch

from dragwidget.drag.loop import DragStep


def same(some, other):
    """Whether two values hold the same bits, whatever they are made of."""
    if torch.is_tensor(some):
        return torch.equal(some, other)
    if isinstance(some, np.ndarray):
        return some.dtype == other.dtype and np.array_equal(some, other)
    if isinstance(some, DragStep):
        names = {*vars(some), "latent"} - {"stored"}  # from memory or from a file
        return all(same(getattr(some, name), getattr(other, name)) for name in names)
    if isinstance(some, tuple | list):
        return len(some) == len(other) and all(map(same, some, other))
    return some == other


def assert_same(session, other):
    assert np.array_equal(session.image, other.image)
    assert np.array_equal(session.request.image.pixels, other.request.image.pixels)
    assert session.request == other.request
    assert same(*(getattr(s.request.image, "trajectory", ()) for s in (session, other)))
    for name in ("prompt", "settings", "instructions", "ended"):
        assert getattr(session, name) == getattr(other, name)
    without_reference = [{**each.status, "reference": None} for each in (session, other)]
    assert without_reference[0] == without_reference[1]
    assert len(session.edits) == len(other.edits)
    for edit, loaded in zip(session.edits, other.edits, strict=True):
        assert same(edit.inversion.latents, loaded.inversion.latents)
        assert edit.inversion.request == loaded.inversion.request
        assert (edit.inversion.lora is None) == (loaded.inversion.lora is None)
        assert edit.history.current.number == loaded.history.current.number
        assert edit.history.tip.number == loaded.history.tip.number
        for node, read in zip(edit.history.nodes, loaded.history.nodes, strict=True):
            assert same(list(vars(node.moments).values()), list(vars(read.moments).values()))
            for name in {*vars(node), "latent"} - {"tensors"}:
                assert same(getattr(node, name), getattr(read, name)), name
