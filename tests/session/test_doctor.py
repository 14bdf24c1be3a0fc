"""The doctor: what it finds, and that it raises nothing."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata

import pytest
import torch

import dragwidget
from dragwidget.session.doctor import Finding, Report, examine


@pytest.fixture(scope="module")
def report(tiny_folder):
    return examine(tiny_folder, device="cpu")


def found(report, name) -> Finding:
    (finding,) = (finding for finding in report.findings if finding.name == name)
    return finding


def test_on_a_machine_where_all_is_well_all_is_well(report):
    assert report.ok
    assert str(report).endswith("all is well")


def test_versions_are_the_ones_that_are_installed(report):
    assert found(report, "dragwidget").value == dragwidget.__version__
    assert found(report, "python").value.startswith(sys.version.split()[0])
    for name in ("torch", "diffusers", "transformers", "numpy", "pillow", "ipycanvas"):
        assert found(report, name).value == metadata.version(name)


def test_device_memory_and_cache_folder_are_named(report):
    assert found(report, "device").value.startswith("cpu")
    assert found(report, "memory").value.endswith("GiB")
    assert found(report, "cache folder").value.endswith("free")


def test_the_model_is_loaded_and_each_stage_of_an_edit_runs(report, tiny_folder):
    assert found(report, "model").value.startswith(f"{tiny_folder} loads: 0.1 million weights")
    assert found(report, "drag step").value.startswith("runs on a 64 x 64 image, loss ")
    assert [f.name for f in report.findings][-5:] == [
        "LoRA training", "inversion", "drag step", "warp", "render"
    ]  # fmt: skip


def test_every_finding_is_a_line(report):
    lines = str(report).splitlines()
    assert len(lines) == len(report.findings) + 1
    for line, finding in zip(lines, report.findings, strict=False):
        assert finding.name in line
        assert finding.value in line


def test_a_broken_model_is_a_finding(broken):
    shutil.rmtree(broken / "unet")
    report = examine(broken, device="cpu")
    assert not report.ok
    assert "the unet of" in found(report, "model").value
    assert "\n" not in found(report, "model").value
    assert found(report, "drag step").value.startswith("not tried")
    assert str(report).endswith("not well: model, drag step")
    assert sum(line.startswith("!") for line in str(report).splitlines()) == 2


def test_weights_that_are_not_numbers_are_found_and_what_needs_them_is_not_tried(broken):
    from safetensors.torch import load_file, save_file

    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: tensor * torch.nan for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    report = examine(broken, device="cpu")
    assert found(report, "model").ok
    assert "ArithmeticError" in found(report, "LoRA training").value
    assert found(report, "render").value == "not tried: LoRA training failed"


def test_an_edit_that_cannot_be_begun_is_a_finding(tiny_folder, monkeypatch):
    def refuse(*_):
        raise ValueError("no image for this")

    monkeypatch.setattr("dragwidget.session.doctor.DragSession.set_image", refuse)
    finding = found(examine(tiny_folder, device="cpu"), "edit")
    assert not finding.ok
    assert finding.value == "ValueError: no image for this"


def test_a_device_that_is_not_there_is_a_finding(tiny_folder):
    report = examine(tiny_folder, device="cuda:99")
    assert not found(report, "device").ok
    assert not found(report, "model").ok


def test_a_package_that_is_not_installed_is_a_finding(tiny_folder, monkeypatch):
    monkeypatch.setattr("dragwidget.session.doctor._PACKAGES", ("torch", "no-such-package"))
    finding = found(examine(tiny_folder, device="cpu"), "no-such-package")
    assert not finding.ok
    assert finding.value == "not installed: pip install no-such-package"


def test_a_report_of_nothing_is_well():
    assert Report(()).ok
    assert str(Report(())) == "all is well"
