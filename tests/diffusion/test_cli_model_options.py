"""The command line's options of a model are ``load_model``'s."""

from __future__ import annotations

import argparse
import inspect

import pytest
from tiny_models import edit_json

from dragwidget.__main__ import main
from dragwidget.cli.model_options import add_model_arguments, model_options
from dragwidget.diffusion.loading import load_model


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return model_options(parser.parse_args(words))


def test_options_that_are_not_given_are_not_passed_on():
    assert parsed() == {}


def test_every_option_is_one_of_load_models():
    given = parsed(
        "--vae", "v", "--revision", "r", "--variant", "fp16", "--config", "c",
        "--prediction-type", "v_prediction", "--embedding", "cat.safetensors", "<cat>",
        "--embedding", "2.safetensors", "<two>", "--preview-vae", "taesd",
    )  # fmt: skip
    assert given.keys() <= inspect.signature(load_model).parameters.keys()
    assert given == {
        "vae": "v",
        "revision": "r",
        "variant": "fp16",
        "config": "c",
        "prediction_type": "v_prediction",
        "embeddings": {"<cat>": "cat.safetensors", "<two>": "2.safetensors"},
        "preview_vae": "taesd",
    }


def test_a_word_of_two_embeddings_is_refused():
    with pytest.raises(ValueError, match="--embedding names a word twice"):
        parsed("--embedding", "a.safetensors", "<cat>", "--embedding", "b.safetensors", "<cat>")


@pytest.mark.parametrize(("words", "status"), [(["--prediction-type", "v_prediction"], 0), ([], 1)])
def test_the_doctor_takes_them(broken, capsys, words, status):
    edit_json(broken / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert main(["doctor", "--model", str(broken), "--device", "cpu", *words]) == status
    assert ("predicts 'sample'" in capsys.readouterr().out) == bool(status)
