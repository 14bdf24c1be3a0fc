"""What a device has left, as far as its system says."""

from __future__ import annotations

import torch

from dragwidget.diffusion.devices import free_memory, in_table

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
