"""What a model predicts and its noise levels: by its marks, by option, or said to be a guess."""

from __future__ import annotations

import warnings

import diffusers
import numpy as np
import pytest
import torch
from original_layout import write_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, write_model

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.noise_levels import SchedulerMarks, noise_scheduler

EMPTY = torch.tensor([])
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def weights(tiny_folder, tmp_path_factory):
    """All tensors of a checkpoint of the tiny model."""
    return load_file(write_checkpoint(tiny_folder, tmp_path_factory.mktemp("c") / "c.safetensors"))


@pytest.fixture
def marked(weights, tmp_path):
    """Write the checkpoint with more in it."""

    def write(more, metadata=None):
        file = tmp_path / "marked.safetensors"
        save_file({**weights, **more}, file, metadata=metadata)
        return file

    return write


def expected(**config):
    return diffusers.DDIMScheduler.from_config(config).alphas_cumprod


# ---------------------------------------------------------------- a checkpoint's own marks


def test_a_checkpoint_that_says_nothing_predicts_what_its_configuration_says(marked, tiny_folder):
    assert load_model(marked({}), config=tiny_folder, device="cpu").prediction_type == "epsilon"


@pytest.mark.loads(
    "model",
    "checkpoint marked `v_pred` or by its header",
    "SD 1.x, 2.x",
    "loads, predicts velocity",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "metadata"),
    [
        ({"v_pred": EMPTY}, None),
        ({"v_pred": torch.ones(3)}, {"format": "pt"}),
        ({}, {"modelspec.predict_key": "v"}),
        ({}, {"modelspec.prediction_type": "v"}),
        ({}, {"modelspec.prediction_type": "V_Prediction"}),
        ({}, {"modelspec.prediction_type": " velocity "}),
        ({"v_pred": EMPTY}, {"modelspec.prediction_type": "v"}),
    ],
)
def test_the_marks_of_a_checkpoint_win_over_its_configuration(marked, tiny_folder, more, metadata):
    model = load_model(marked(more, metadata), config=tiny_folder, device="cpu")
    assert model.prediction_type == "v_prediction"
    assert model.alphas_cumprod[-1] > 0.004


def test_a_checkpoint_may_say_that_it_predicts_noise(marked, tmp_path):
    folder = write_model(tmp_path / "v", scheduler={"prediction_type": "v_prediction"})
    file = marked({}, {"modelspec.prediction_type": "epsilon"})
    assert load_model(file, config=folder, device="cpu").prediction_type == "epsilon"


@pytest.mark.loads("model", "checkpoint marked `ztsnr`", "SD 1.x", "loads with zero terminal SNR")
def test_a_checkpoint_of_zero_terminal_snr_ends_in_pure_noise(marked, tiny_folder, tiny):
    model = load_model(marked({"v_pred": EMPTY, "ztsnr": EMPTY}), config=tiny_folder, device="cpu")
    wanted = expected(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )
    assert model.alphas_cumprod[-1] == 0
    torch.testing.assert_close(model.alphas_cumprod, wanted, rtol=0, atol=1e-7)
    assert model.fingerprint != tiny.fingerprint


def test_pure_noise_and_predicted_noise_do_not_go_together_and_it_is_said(marked, tiny_folder):
    with pytest.warns(UserWarning, match=r"end in pure noise.*prediction_type='v_prediction'"):
        model = load_model(marked({"ztsnr": EMPTY}), config=tiny_folder, device="cpu")
    assert model.alphas_cumprod[-1] == 0


def test_marks_that_contradict_each_other_are_refused(marked, tiny_folder):
    file = marked({"v_pred": EMPTY}, {"modelspec.prediction_type": "epsilon"})
    with pytest.raises(ValueError, match=r"epsilon .* and v_prediction .*name one by "):
        load_model(file, config=tiny_folder, device="cpu")
    model = load_model(file, config=tiny_folder, device="cpu", prediction_type="epsilon")
    assert model.prediction_type == "epsilon"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sample", "flow", "rectified", "x0", "edm"])
def test_a_checkpoint_that_predicts_something_else_is_refused(marked, tiny_folder, kind):
    file = marked({}, {"modelspec.prediction_type": kind})
    with pytest.raises(ValueError, match=f"marked.safetensors says that it predicts '{kind}'"):
        load_model(file, config=tiny_folder, device="cpu")
    assert load_model(file, config=tiny_folder, device="cpu", prediction_type="epsilon")


def test_marks_in_a_folders_weights_count_too(broken):
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "v_pred": EMPTY, "ztsnr": EMPTY}, file, metadata={"format": "pt"})
    model = load_model(broken, device="cpu")
    assert model.prediction_type == "v_prediction"
    assert model.alphas_cumprod[-1] == 0


# ---------------------------------------------------------------- by option


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_option_wins_over_all(marked, tiny_folder, broken, kind):
    file = marked({"v_pred": EMPTY})
    assert load_model(file, config=tiny_folder, device="cpu", prediction_type=kind).loaded_with == {
        "config": str(tiny_folder),
        "prediction_type": kind,
    }
    edit_json(broken / SCHEDULER, prediction_type="sample")
    model = load_model(broken, device="cpu", prediction_type=kind)
    assert model.prediction_type == model.schedule(10).prediction_type == kind


@pytest.mark.parametrize("kind", ["sample", "v", "flow_prediction", "", 3])
def test_an_option_that_is_no_prediction_type_is_refused_before_anything_is_read(kind):
    with pytest.raises(ValueError, match="prediction_type must be 'epsilon'"):
        load_model("nobody/nothing", device="cpu", prediction_type=kind)


# ---------------------------------------------------------------- guesses are said to be


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A folder of the kind of Stable Diffusion 2, and a checkpoint of it."""
    folder = write_model(
        tmp_path_factory.mktemp("two") / "two",
        unet={"use_linear_projection": True, "attention_head_dim": (2, 2, 4, 4)},
        text_encoder={"hidden_act": "gelu"},
    )
    return folder, write_checkpoint(folder, folder / "two.safetensors", open_clip=True)


@pytest.mark.loads(
    "model",
    "checkpoint that does not say what it predicts",
    "SD 2.x",
    "loads, with a warning that it is a guess",
)
def test_a_checkpoint_of_version_2_that_says_nothing_is_a_guess_and_it_is_said(second):
    folder, file = second
    edit_json(folder / SCHEDULER, prediction_type=...)
    match = r"two.safetensors .*epsilon is a guess.*prediction_type='v_prediction'"
    with pytest.warns(UserWarning, match=match):
        load_model(file, config=folder, device="cpu")
    edit_json(folder / SCHEDULER, prediction_type="epsilon")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_where_the_caller_or_the_configuration_says_it_there_is_no_guess(second, kind):
    folder, file = second
    model = load_model(file, config=folder, device="cpu", prediction_type=kind)
    assert model.prediction_type == kind
    edit_json(folder / SCHEDULER, prediction_type=kind)
    assert load_model(file, config=folder, device="cpu").prediction_type == kind
    edit_json(folder / SCHEDULER, prediction_type="epsilon")


@pytest.mark.parametrize(
    ("width", "side", "guess"),
    [(1024, 96, "v_prediction"), (1024, 64, "epsilon"), (768, 64, None), (768, 96, None)],
)
def test_the_guess_is_by_the_side_that_version_2_was_trained_on(width, side, guess):
    from dragwidget.diffusion.loading.kinds import prediction_guess

    assert prediction_guess({"cross_attention_dim": width, "sample_size": side}) == guess


def test_a_folder_of_version_1_that_says_nothing_predicts_noise_as_diffusers_has_it(broken):
    edit_json(broken / SCHEDULER, prediction_type=...)
    assert load_model(broken, device="cpu").prediction_type == "epsilon"


# ---------------------------------------------------------------- noise levels


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, 129, 1000, 4000])
def test_betas_as_a_list_of_any_length_are_those(broken, count):
    betas = np.linspace(0.001, 0.02, count)
    edit_json(broken / SCHEDULER, trained_betas=betas.tolist())
    alphas = load_model(broken, device="cpu").alphas_cumprod
    assert alphas.shape == (count,)
    torch.testing.assert_close(alphas, torch.tensor(np.cumprod(1 - betas)).float())


@pytest.mark.parametrize(
    "betas", [[], [2.0], [-0.1, 0.1], ["a"], [None], "0.1", [float("nan")], [True], {"a": 1}]
)
def test_betas_that_are_none_are_refused(broken, betas):
    edit_json(broken / SCHEDULER, trained_betas=betas)
    with pytest.raises(ValueError, match=r"scheduler of .* trained_betas"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps"),
        ({"beta_end": 7}, "beta_end 7"),
        ({"beta_start": "a"}, "beta_start 'a'"),
        ({"beta_schedule": "exec"}, "cannot be made of its settings"),
        ({"steps_offset": 5000}, "steps_offset 5000"),
        ({"steps_offset": -1}, "steps_offset -1"),
    ],
)
def test_settings_that_make_no_noise_levels_are_refused_by_name(broken, changes, match):
    edit_json(broken / SCHEDULER, **changes)
    with pytest.raises(ValueError, match=rf"scheduler of .*{match}"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero", [False, True])
def test_noise_levels_are_those_of_diffusers(schedule, zero):
    config = {"beta_start": 0.001, "beta_end": 0.01, "beta_schedule": schedule}
    config["rescale_betas_zero_snr"] = zero
    got = noise_scheduler({**config, "prediction_type": "v_prediction"}, "it").alphas_cumprod
    torch.testing.assert_close(got, expected(**config), rtol=0, atol=1e-7)


FAMILY = [
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
    "LMSDiscreteScheduler", "DPMSolverSDEScheduler", "SASolverScheduler",
]  # fmt: skip


@pytest.mark.loads(
    "model", "scheduler of another sampler of the family", "SD 1.x", "loads with its noise levels"
)
@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILY)
def test_a_sampler_of_the_family_gives_its_noise_levels(broken, tiny, kind):
    edit_json(broken / SCHEDULER, _class_name=kind, use_karras_sigmas=True)
    assert torch.equal(load_model(broken, device="cpu").alphas_cumprod, tiny.alphas_cumprod)


NEED_PACKAGES = {"LMSDiscreteScheduler", "DPMSolverSDEScheduler"}  # to be made themselves


@pytest.mark.filterwarnings("ignore:__array_.*:DeprecationWarning")  # of diffusers with numpy 2
@pytest.mark.parametrize("kind", [*sorted({*FAMILY} - NEED_PACKAGES), "LCMScheduler"])
def test_what_a_configuration_leaves_out_is_as_its_class_has_it(kind):
    got = noise_scheduler({"_class_name": kind}, "it").alphas_cumprod
    wanted = torch.cumprod(1 - getattr(diffusers, kind)().betas, 0)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["LCMScheduler", "TCDScheduler"])
def test_the_sampler_of_a_distilled_model_gives_its_noise_levels(broken, tiny, kind):
    edit_json(broken / SCHEDULER, _class_name=kind)
    model = load_model(broken, device="cpu")
    assert torch.equal(model.alphas_cumprod, tiny.alphas_cumprod)


@pytest.mark.loads("model", "scheduler of flow matching or EDM", "other", "refused by name")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "flow matching"),
        ({"_class_name": "EDMEulerScheduler"}, "EDM"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDM"),
        ({"_class_name": "CosineDPMSolverMultistepScheduler"}, "EDM"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "consistency"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "stochastic"),
        ({"_class_name": "VQDiffusionScheduler"}, "codes"),
        ({"_class_name": "IPNDMScheduler"}, "not known"),
        ({"_class_name": "os.system"}, "not known"),
        ({"_class_name": ["a"]}, "not known"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "flow matching"),
        ({"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
         "predicts 'flow_prediction'"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "continuous"),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_max": 700.0}, "sigma_max is 700"),
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": ..., "predict_epsilon": False}, "predicts 'sample'"),
    ],
)  # fmt: skip
def test_a_scheduler_of_another_family_is_refused_by_name(broken, changes, why):
    edit_json(broken / SCHEDULER, **changes)
    with pytest.raises(ValueError, match=rf"scheduler of .*{why}.*supported are"):
        load_model(broken, device="cpu")


def test_the_scheduler_that_the_index_names_counts_too(broken):
    edit_json(
        broken / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]
    )
    with pytest.raises(ValueError, match="flow matching"):
        load_model(broken, device="cpu")


def test_a_model_that_says_all_is_loaded_without_a_word(broken):
    edit_json(broken / SCHEDULER, sigma_max=14.6, sigma_min=0.03, timestep_type="discrete")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(broken, device="cpu")


def test_marks_are_nothing_by_default():
    assert SchedulerMarks() == SchedulerMarks(prediction_type=None, zero_snr=False, guess=None)
