"""``bench speed``: what it measures with, the networks that it builds, and the command itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from dragwidget.__main__ import main
from dragwidget.bench import memory
from dragwidget.bench.dev import networks
from dragwidget.bench.dev.networks import SIZES, Size, in_type, make_network
from dragwidget.bench.dev.rounds import BASELINE, Compare, Part, measure, run_part
from dragwidget.bench.dev.speed import PARTS
from dragwidget.bench.memory import Lap, Meter
from dragwidget.data.settings import Settings
from dragwidget.diffusion import devices

CPU = torch.device("cpu")
SIDE = 64


# ---------------------------------------------------------------- the meter


MANY = 2**25  # bytes, enough to be seen


def held(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.uint8)


@pytest.fixture
def _unsettled(monkeypatch):
    """Where it does not matter what is held, it is not given back first, which takes long here."""
    monkeypatch.setattr(memory, "_settle", lambda _: None)


@pytest.mark.slow
@pytest.mark.skipif(not memory._forget_peak(CPU), reason="this system does not count a peak")
def test_a_peak_is_of_what_was_held_at_most_since_the_meter_was_made():
    before = held(MANY)
    meter = Meter(CPU)
    prepared = held(2 * MANY)
    with meter.lap("outer"):
        passing = held(4 * MANY)
        del passing
        with meter.lap("inner"):
            passing = held(MANY)
    after = held(8 * MANY)
    peaks = [meter.laps[name].peak / MANY for name in ("outer", "inner")]
    assert peaks == pytest.approx([6, 3], abs=0.5)
    assert len(before) + len(prepared) + len(passing) + len(after) == 12 * MANY


def test_where_the_system_counts_no_peak_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "none")
    meter = Meter(CPU)
    with meter.lap("a"):
        pass
    assert meter.laps["a"].peak is None
    assert devices.free_memory(torch.device("mps")) is None


def test_a_lap_has_a_name_of_its_own():
    meter = Meter(CPU)
    with meter.lap("a"), pytest.raises(ValueError, match="a lap 'a' already"), meter.lap("a"):
        pass


@pytest.mark.usefixtures("_unsettled")
def test_cases_take_turns_and_the_first_round_is_dropped():
    order = []

    def case(name, values):
        left = iter(values)

        def measured(meter):
            order.append(name)
            value = next(left)
            meter.laps[name] = Lap(value, 10 * value, None if value == 3 else int(value))

        return measured

    ticks = []
    found = measure(
        [case("baseline", [99, 2, 5, 4]), case("ours", [99, 1, 3, 2])],
        3,
        CPU,
        lambda: ticks.append(1),
    )
    assert order == ["baseline", "ours"] * 4
    assert len(ticks) == 8
    assert found == {"baseline": Lap(4, 40, 4), "ours": Lap(2, 20, None)}


@pytest.mark.slow
def test_a_row_is_ours_over_the_reference():
    def reference(meter):
        meter.laps |= {BASELINE: Lap(8, 4, 100), "baseline unit": Lap(2, 1, 50)}

    def ours(meter):
        meter.laps |= {"a": Lap(2, 1, 25), "b": Lap(4, 2, None)}

    rows = (Compare("first", "a", BASELINE, "b", "baseline unit"), Compare("second", "b"))
    first, second = run_part(Part("some", (reference, ours), rows), 1, CPU)
    assert (first.ratio, first.cpu_ratio, first.peak_ratio) == (0.25, 0.25, 0.25)
    assert (first.in_units, first.reference_in_units) == (0.5, 4)
    assert (second.ratio, second.peak_ratio, second.in_units) == (0.5, None, None)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("whole", [True, False])
def test_the_network_is_of_stable_diffusions_shape(whole):
    model = networks._stable_diffusion(torch.device("meta"), whole)

    def millions(module):
        return round(sum(weight.numel() for weight in module.parameters()) / 1e6, 1)

    assert millions(model.unet) == 859.5
    assert (model.image_side, model.vae_factor, model.latent_channels) == (512, 8, 4)
    assert (model.self_attention_count, model.feature_block_count) == (16, 5)
    if whole:
        assert (millions(model.vae), millions(model.text_encoder)) == (83.7, 123.1)
    assert model.image_multiple == SIZES["sd15"].multiple
    model.check(Settings())
    tokens = model.tokenizer("a fox", padding="max_length").input_ids
    assert len(tokens) == 77
    assert max(tokens) < 49408


def test_the_embedded_network_is_measured_too():
    model = make_network(SIZES["critters"], "critters", CPU, whole=False)
    assert model.dtype == torch.float32
    assert model.image_multiple == SIZES["critters"].multiple
    assert model.image_side == SIZES["critters"].side


def test_random_weights_are_the_same_every_time_and_disturb_nothing():
    def weights(_device, _whole):
        return torch.rand(3)

    state = torch.random.get_rng_state()
    made = [make_network(Size(weights, 64, 8, 0), "x", CPU, whole=True) for _ in range(2)]
    assert torch.equal(*made)
    assert torch.equal(state, torch.random.get_rng_state())


def test_another_type_stands_beside_the_first(tiny):
    low = in_type(tiny, torch.bfloat16)
    assert {weight.dtype for weight in low.unet.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in low.vae.parameters()} == {torch.bfloat16}
    assert low.recommended == tiny.recommended
    for own, first in zip(low.unet.parameters(), tiny.unet.parameters(), strict=True):
        assert torch.equal(own, first.to(torch.bfloat16))
    assert tiny.dtype == torch.float32
    assert in_type(tiny, torch.float32) is tiny


# ---------------------------------------------------------------- the command


@pytest.fixture
def tiny_size(tiny, monkeypatch, _unsettled):
    """The tiny network as a size of the command."""
    monkeypatch.setitem(SIZES, "tiny", Size(lambda *_: tiny, SIDE, tiny.image_multiple, 0))
    return ["bench", "speed", "--size", "tiny", "--device", "cpu", "--rounds", "1"]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_all_numbers(tiny_size, tmp_path, capsys):
    file = tmp_path / "out.json"
    words = ["--parts", "step,redrag,growth", "--dtype", "float32", "--inverted", "2"]
    assert main([*tiny_size, *words, "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert not list(tmp_path.glob("*.part"))
    assert (told["size"], told["side"], told["rounds"]) == ("tiny", SIDE, 1)
    assert told["settings"]["inversion"]["strength"] == 0.04
    assert [(row["part"], row["variant"]) for row in told["rows"]] == [
        ("step", "float32, mask"),
        ("step", "float32"),
        ("redrag", "first new step after moving a point"),
    ]
    for row in told["rows"]:
        assert row["ratio"] == row["seconds"] / row["reference_seconds"]
        assert row["ratio_range"] == [row["ratio"]] * 2  # of one round
        assert row["cpu_ratio"] == row["cpu_seconds"] / row["reference_cpu_seconds"]
    assert told["rows"][-1]["in_units"] > 0
    assert {one["by"] for one in told["growth"]} == {"side", "pairs", "steps"}
    table = capsys.readouterr().out
    lines = [line.split("  ")[0] for line in table.splitlines()]
    assert [line for line in lines if line in PARTS] == ["step"] * 2 + ["redrag"]
    assert "of one step: " in table
    assert table.splitlines()[-1].startswith("on ")


@pytest.mark.slow
def test_all_parts_but_growth_are_the_default(tiny_size, tmp_path):
    file = tmp_path / "out.json"
    few = ["--inverted", "1", "--drag-steps", "1", "--lora-steps", "1", "--batch", "1"]
    assert main([*tiny_size, *few, "--dtype", "float32", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert list(dict.fromkeys(row["part"] for row in told["rows"])) == list(PARTS)
    assert told["growth"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "step,fly"], "no part 'fly'; name some of step, invert, render, lora, "),
        (["--rounds", "0"], "argument --rounds: must be a whole number, 1 or more, got '0'"),
        (["--side", "60"], "--side must be a multiple of 32 pixels here, got 60"),
        (["--side", "0"], "--side must be a multiple of 32 pixels here, got 0"),
        (["--inverted", "51"], "--inverted must be 1 to 50 steps, got 51"),
        (["--lora-steps", "-1"], "LoRASettings.steps must lie in"),
        (["--batch", "0"], "LoRASettings.batch_size must lie in"),
        (["--dtype", "float32,int8"], "got 'int8'"),
        (["--device", "cuda:99"], "there is no cuda:99 here"),
        (["--json", "none/out.json"], "there is no folder none to write out.json in"),
    ],
)
def test_bad_input_is_told_in_one_line(words, message, tiny_size, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([*tiny_size, *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_too_little_memory_is_said_before_anything_is_built(monkeypatch, capsys):
    monkeypatch.setattr(networks, "free_memory", lambda _: 3_000_000_000)
    never = replace(SIZES["sd15"], make=lambda *_: pytest.fail("it was built"))
    monkeypatch.setitem(SIZES, "sd15", never)
    assert main(["bench", "speed", "--size", "sd15", "--device", "cpu"]) == 1
    told = capsys.readouterr().err
    assert "needs about 8 GB of memory on cpu" in told
    assert "3.0 GB are free: end other programs, or take --size critters" in told
