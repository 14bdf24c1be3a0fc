"""``bench fullsize``: the folders that it writes, and the whole path on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from dragwidget.__main__ import main
from dragwidget.bench import memory
from dragwidget.bench.dev import fullsize_models
from dragwidget.bench.dev.fullsize import ESTIMATED, PHASES, PhaseRow
from dragwidget.bench.dev.fullsize_command import table
from dragwidget.bench.dev.fullsize_models import FAMILIES, weights_size, write_folder
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet

VAE = {
    "block_out_channels": [4, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4,
    "sample_size": 64,
}  # fmt: skip
TEXT = {
    "vocab_size": 600, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "projection_dim": 16,
}  # fmt: skip
SMALL = {
    "sd15": {
        "unet": {
            "block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "cross_attention_dim": 16, "attention_head_dim": 2, "sample_size": 8,
        },
        "vae": VAE,
        "text_encoder": TEXT,
        "safety_checker": {
            "projection_dim": 16,
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 32, "patch_size": 16, "projection_dim": 16,
            },
        },
    },
    "sdxl": {
        "unet": {
            "block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4,
            "cross_attention_dim": 36, "attention_head_dim": [1, 2, 2], "sample_size": 8,
            "transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 12 + 6 * 8,
        },
        "vae": VAE,
        "text_encoder": TEXT,
        "text_encoder_2": TEXT | {"hidden_size": 20, "projection_dim": 12},
    },
}  # fmt: skip
TOKENIZER = ["merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
WEIGHTS = ["config.json", "diffusion_pytorch_model.fp16.safetensors"]
TEXT_FILES = ["config.json", "model.fp16.safetensors"]
FILES = {
    "sd15": {
        "feature_extractor": ["preprocessor_config.json"],
        "safety_checker": TEXT_FILES,
        "scheduler": ["scheduler_config.json"],
        "text_encoder": TEXT_FILES,
        "tokenizer": TOKENIZER,
        "unet": WEIGHTS,
        "vae": WEIGHTS,
    },
    "sdxl": {
        "scheduler": ["scheduler_config.json"],
        "text_encoder": TEXT_FILES,
        "text_encoder_2": TEXT_FILES,
        "tokenizer": TOKENIZER,
        "tokenizer_2": TOKENIZER,
        "unet": WEIGHTS,
        "vae": WEIGHTS,
    },
}
PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def small(name):
    return replace(FAMILIES[name], changes=SMALL[name])


@pytest.fixture(params=FILES)
def family(request, monkeypatch):
    """The name of a family, whose networks have a few channels."""
    monkeypatch.setitem(FAMILIES, request.param, small(request.param))
    monkeypatch.setattr(memory, "_settle", lambda _: None)  # what is held here is not the question
    return request.param


@pytest.mark.parametrize("name", FILES)
def test_a_folder_has_the_files_of_the_published_one(name, tmp_path):
    write_folder(tmp_path, small(name), lambda _: None)
    parts = {path.name: sorted(p.name for p in path.iterdir()) for path in tmp_path.glob("*/")}
    assert parts == FILES[name]
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {part for part in index if part[0] != "_"} - {"force_zeros_for_empty_prompt"} == set(
        FILES[name]
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_folder_is_read_by_diffusers_and_gives_the_same_weights(name, tmp_path):
    write_folder(tmp_path, small(name), lambda _: None)
    with quiet():
        pipeline = PIPELINES[name].from_pretrained(
            tmp_path, variant="fp16", torch_dtype=torch.float16
        )
    ours = load_model(tmp_path, device="cpu", dtype="float16")
    for part, network in ours.networks.items():
        theirs = getattr(pipeline, part).half().state_dict()
        own = network.half().state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert type(pipeline.scheduler).__name__ == FAMILIES[name].scheduler["_class_name"]
    assert len(pipeline.tokenizer) == TEXT["vocab_size"]
    if name == "sd15":
        assert pipeline.safety_checker is not None
        assert pipeline.feature_extractor is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sd15", {"unet": 859.5, "vae": 83.7, "text_encoder": 123.1, "safety_checker": 304.0}),
        (
            "sdxl",
            {"unet": 2567.5, "vae": 83.7, "text_encoder": 123.1, "text_encoder_2": 694.7},
        ),
    ],
)
def test_the_networks_are_of_the_published_size(name, millions):
    with torch.device("meta"):
        made = {
            part: fullsize_models._network(FAMILIES[name], part) for part in FAMILIES[name].networks
        }
    counted = {
        part: sum(weight.numel() for weight in network.parameters()) / 1e6
        for part, network in made.items()
    }
    assert counted == pytest.approx(millions, abs=0.1)
    assert weights_size(FAMILIES[name]) == pytest.approx(2e6 * sum(millions.values()), rel=1e-3)


def test_weights_are_the_same_every_time_and_disturb_nothing(tmp_path):
    state, kind = torch.random.get_rng_state(), torch.get_default_dtype()
    for number in "12":
        write_folder(tmp_path / number, small("sd15"), lambda _: None)
    file = "unet/diffusion_pytorch_model.fp16.safetensors"
    assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.get_default_dtype() == kind


@pytest.mark.slow
@pytest.mark.parametrize("how", ["normal", "low"])
def test_the_whole_path_is_run_and_told_by_phase(family, how, tmp_path, capsys):
    file = tmp_path / "out.json"
    words = ["--family", family, "--memory", how, "--steps", "2", "--batch", "1", "--device", "cpu"]
    assert main(["bench", "fullsize", *words, "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert (told["family"], told["memory"], told["steps"]) == (family, how, 2)
    assert [row["phase"] for row in told["rows"]] == list(PHASES)
    for row in told["rows"]:
        assert row["seconds"] > 0
        known = row["phase"] in ESTIMATED
        assert (row["estimated_memory"] is not None) == known
        assert (row["estimated_seconds"] is not None) == known
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["seconds", *PHASES]


@pytest.mark.slow
def test_a_folder_that_is_named_stays_and_is_measured_again_as_it_is(family, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    words = ["bench", "fullsize", "--family", family, "--folder", str(folder), "--steps", "1"]
    assert main([*words, "--batch", "1", "--device", "cpu"]) == 0
    assert (folder / "model_index.json").is_file()
    monkeypatch.setattr(
        "dragwidget.bench.dev.fullsize_command.write_folder",
        lambda *_: pytest.fail("it was written again"),
    )
    assert main([*words, "--batch", "1", "--device", "cpu", "--size", "128"]) == 0


def test_too_little_space_is_told_before_anything_is_written(family, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    words = ["--family", family, "--folder", str(tmp_path / "model"), "--device", "cpu"]
    assert main(["bench", "fullsize", *words]) == 1
    assert "0.0 GB are free: name a folder on another disk by --folder" in capsys.readouterr().err
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--family", "flux"], "invalid choice: 'flux'"),
        (["--steps", "51"], "--steps must be 1 to 50, got 51"),
        (["--steps", "0"], "must be a whole number, 1 or more, got '0'"),
        (["--size", "100"], "--size must be a multiple of 64 pixels, got 100"),
        (["--limit-gb", "8"], "--limit-gb limits CUDA devices alone, and this is cpu"),
        (["--device", "cuda:99"], "there is no cuda:99 here"),
        (["--dtype", "int8"], "got 'int8'"),
    ],
)
def test_bad_input_is_told_in_one_line(words, message, capsys):
    assert main(["bench", "fullsize", "--device", "cpu", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_table_has_what_is_known():
    rows = [PhaseRow("load", 2.0, 3 * 10**9), PhaseRow("drag", 4.0, 4 * 10**9, 5.0, 5 * 10**9)]
    assert table(rows).splitlines()[1:] == [
        "load                 2.0                    3.00                        ",
        "drag                 4.0         5.0        4.00        5.00        1.25",
    ]
    assert PhaseRow("drag", 1.0, None, 1.0, 5).ratio is None
