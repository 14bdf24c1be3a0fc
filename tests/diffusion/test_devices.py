"""What a device has left and calculates in, as far as its system says."""

from __future__ import annotations

import pytest
import torch

from dragwidget.bench.dev import speed_command
from dragwidget.diffusion import devices
from dragwidget.diffusion.devices import calculates_fast, free_memory, in_table
from dragwidget.diffusion.loading import choose_dtype

CPU = torch.device("cpu")

TABLE = "MemTotal:       16384256 kB\nMemFree:          204800 kB\nMemAvailable:    8192000 kB\n"


def test_a_field_of_a_table_is_told_in_bytes(tmp_path):
    table = tmp_path / "meminfo"
    table.write_text(TABLE)
    assert in_table(table, "MemAvailable") == 8192000 * 1024
    assert in_table(table, "MemFree") == 204800 * 1024


def test_what_is_in_no_table_is_not_known(tmp_path):
    table = tmp_path / "meminfo"
    table.write_text(TABLE)
    assert in_table(table, "Mem") is None
    assert in_table(table, "SwapFree") is None
    assert in_table(tmp_path / "gone", "MemFree") is None


def test_of_a_device_that_does_not_say_nothing_is_known():
    assert free_memory(torch.device("meta")) is None


# ---------------------------------------------------------------- number formats


@pytest.fixture
def bare_cpu(monkeypatch):
    """A CPU without instructions for 16-bit numbers."""
    monkeypatch.setattr(devices, "_cpu_has", lambda _: False)


def test_a_cpu_calculates_fast_in_full_precision():
    for dtype in (torch.float32, torch.float64):
        assert calculates_fast(CPU, dtype)


@pytest.mark.usefixtures("bare_cpu")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_type_that_a_cpu_has_no_instructions_for_is_taken_with_a_warning(dtype):
    with pytest.warns(UserWarning, match=f"this CPU has no instructions for {dtype}, .* 50 to 100"):
        assert choose_dtype(dtype, CPU) == getattr(torch, dtype)


@pytest.mark.usefixtures("bare_cpu")
def test_it_is_never_chosen_there():
    assert choose_dtype("auto", CPU) == torch.float32
    assert not calculates_fast(CPU, torch.bfloat16)


@pytest.mark.usefixtures("bare_cpu")
def test_the_speed_benchmark_leaves_it_out_there_and_takes_it_where_it_is_named():
    assert speed_command._dtypes("auto", CPU) == [torch.float32]
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        assert speed_command._dtypes("float32,bfloat16", CPU) == [torch.float32, torch.bfloat16]


def test_the_speed_benchmark_takes_it_where_there_are_instructions(monkeypatch):
    monkeypatch.setattr(devices, "_cpu_has", lambda _: True)
    assert speed_command._dtypes("auto", CPU) == [torch.float32, torch.bfloat16]
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_a_build_of_torch_that_does_not_say_has_none(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not calculates_fast(CPU, torch.bfloat16)
