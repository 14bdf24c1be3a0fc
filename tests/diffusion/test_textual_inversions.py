"""Textual inversions are what diffusers' own ``load_textual_inversion`` makes of the same files."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import write_inputs
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_models import noise, pickled_trap
from tiny_sessions import ask, session_on
from tiny_xl import xl_pipeline

from dragwidget.__main__ import main
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.loading.reading import quiet
from dragwidget.editor.recipe import python_of
from dragwidget.session.many import run_many

SIZE = (64, 48)
PROMPT = "a photo of <dog> and <cat>, <cat> again"


def write(file, **tensors):
    save_file(tensors, file)
    return file


@pytest.fixture
def files(tmp_path):
    """One word in the layout of A1111, with four vectors, and one in diffusers', with one."""
    return {
        "<cat>": write(tmp_path / "cat.safetensors", emb_params=noise(4, 16)),
        "<dog>": write(tmp_path / "dog.safetensors", **{"<own>": noise(16, seed=1)}),
    }


def loaded(folder, **options):
    return load_model(folder, device="cpu", dtype="float32", **options)


@pytest.mark.loads(
    "textual inversion",
    "diffusers' layout; A1111's, of several vectors",
    "SD 1.x",
    "loads: the embedding that diffusers makes of it",
)
@pytest.mark.slow
def test_embeddings_of_both_layouts_are_what_diffusers_makes_of_them(tiny_folder, tiny, files):
    with quiet(), torch.random.fork_rng():
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
        for word, file in files.items():
            pipeline.load_textual_inversion(str(file), token=word)
    model = loaded(tiny_folder, embeddings=files)
    with torch.no_grad():
        wanted, _ = pipeline.encode_prompt(
            PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(model.embed(PROMPT), wanted)
    assert not torch.equal(model.embed(PROMPT), tiny.embed(PROMPT))
    ids = pipeline.tokenizer(pipeline.maybe_convert_prompt("<cat>", pipeline.tokenizer)).input_ids
    rows = model.text_encoder.get_input_embeddings().weight[torch.tensor(ids[1:-1])]
    assert torch.equal(rows, noise(4, 16))


@pytest.mark.loads(
    "textual inversion",
    "`clip_l` and `clip_g`",
    "SDXL",
    "loads: the embedding that diffusers makes of it",
)
@pytest.mark.slow
def test_embeddings_of_xl_are_what_diffusers_makes_of_them(xl_folder, xl, tmp_path):
    tensors = {"clip_l": noise(3, 16), "clip_g": noise(3, 20, seed=1)}
    file = write(tmp_path / "cat.safetensors", **tensors)
    with torch.random.fork_rng():
        pipeline = xl_pipeline(xl_folder)
        with quiet():
            for key, number in (("clip_l", ""), ("clip_g", "_2")):
                pipeline.load_textual_inversion(
                    tensors[key],
                    token="<cat>",
                    text_encoder=getattr(pipeline, f"text_encoder{number}"),
                    tokenizer=getattr(pipeline, f"tokenizer{number}"),
                )
    with torch.no_grad():
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            PROMPT, device="cpu", do_classifier_free_guidance=False
        )
    text = loaded(xl_folder, embeddings={"<cat>": file}).embed(PROMPT)
    assert torch.equal(text.embeddings, embeddings)
    assert torch.equal(text.pooled, pooled)
    assert not torch.equal(xl.embed(PROMPT).embeddings, embeddings)


def test_other_prompts_are_read_as_before_and_no_random_number_is_drawn(tiny_folder, tiny, files):
    state = torch.get_rng_state()
    model = loaded(tiny_folder, embeddings=files)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.embed("a cat"), tiny.embed("a cat"))
    assert not any(p.requires_grad for p in model.text_encoder.parameters())


def test_the_fingerprint_includes_words_and_vectors(tiny_folder, tiny, files, tmp_path):
    other = write(tmp_path / "other.safetensors", emb_params=noise(4, 16, seed=9))
    cat = files["<cat>"]
    given = [{}, {"<cat>": cat}, {"<kitten>": cat}, {"<cat>": other}, files]
    prints = [loaded(tiny_folder, embeddings=each).fingerprint for each in given]
    assert prints[0] == tiny.fingerprint
    assert len(set(prints)) == len(given)
    assert loaded(tiny_folder, embeddings=files).fingerprint == prints[-1]


def test_a_folder_as_diffusers_writes_it_is_read(tiny_folder, files, tmp_path):
    folder = tmp_path / "concept"
    folder.mkdir()
    write(folder / "learned_embeds.safetensors", **load_file(files["<dog>"]))
    model = loaded(tiny_folder, embeddings={"<dog>": folder})
    assert model.fingerprint == loaded(
        tiny_folder, embeddings={"<dog>": files["<dog>"]}
    ).fingerprint  # fmt: skip


@pytest.mark.parametrize("family", ["tiny", "xl"])
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"emb_params": noise(2, 768)}, r"of Stable Diffusion 1\.x .*belongs to another model"),
        ({"emb_params": noise(2, 1024)}, r"of Stable Diffusion 2\.x .*belongs to another model"),
        ({"emb_params": noise(2, 17)}, "belongs to another model"),
        ({"emb_params": noise(1, 2, 16)}, r"a tensor of \(1, 2, 16\); wanted 1 to 75 vectors"),
        ({"emb_params": noise(76, 16)}, r"a tensor of \(76, 16\); wanted 1 to 75 vectors"),
        ({"emb_params": noise(0, 16)}, "wanted 1 to 75 vectors"),
        ({"emb_params": noise(1, 16) / 0}, "the file is damaged"),
        ({"emb_params": torch.ones(1, 16, dtype=torch.int8)}, "the file is damaged"),
        ({"a": noise(16), "b": noise(16)}, "it holds 2 tensors, first 'a'; wanted one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(family, tensors, message, tmp_path, request):
    file = write(tmp_path / "cat.safetensors", **tensors)
    with pytest.raises(ValueError, match=message) as said:
        loaded(request.getfixturevalue(f"{family}_folder"), embeddings={"<cat>": file})
    assert str(file) in str(said.value)


@pytest.mark.loads("textual inversion", "of the other family", "SD 1.x, SDXL", "refused by name")
def test_embeddings_of_the_other_family_are_refused_by_name(tiny_folder, xl_folder, files):
    file = write(files["<cat>"].with_name("xl.safetensors"), clip_l=noise(16), clip_g=noise(20))
    with pytest.raises(ValueError, match="of Stable Diffusion XL with vectors for 2 text encoders"):
        loaded(tiny_folder, embeddings={"<cat>": file})
    with pytest.raises(ValueError, match=r"with vectors for 1 text encoder, and .* has 2"):
        loaded(xl_folder, embeddings=files)
    wrong = write(file, clip_l=noise(16), clip_g=noise(21))
    with pytest.raises(
        ValueError, match=r"vectors of 21 numbers, and the text encoder of .* reads"
    ):
        loaded(xl_folder, embeddings={"<cat>": wrong})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("a", "has the word 'a' already"),
        ("", "is named by a word of 1 to 100 characters"),
        ("two words", "has no spaces"),
        ("x" * 101, "is named by a word of 1 to 100 characters"),
        (7, "is named by a word of 1 to 100 characters"),
    ],
)
def test_a_word_that_cannot_stand_for_one_is_refused(tiny_folder, files, word, message):
    with pytest.raises(ValueError, match=message):
        loaded(tiny_folder, embeddings={word: files["<cat>"]})


def test_what_is_no_file_of_safetensors_is_not_opened(tiny_folder, tmp_path):
    canary = tmp_path / "canary"
    for name in ("cat.pt", "cat.safetensors"):
        (tmp_path / name).write_bytes(pickled_trap(canary))
        with pytest.raises(ValueError, match=name):
            loaded(tiny_folder, embeddings={"<cat>": tmp_path / name})
    assert not canary.exists()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.safetensors"):
        loaded(tiny_folder, embeddings={"<cat>": tmp_path / "gone.safetensors"})
    with pytest.raises(TypeError, match="embeddings must be files by the words"):
        loaded(tiny_folder, embeddings=["cat.safetensors"])


# ---------------------------------------------------------------- ways to name them


@pytest.mark.slow
def test_the_command_line_names_them(tiny_folder, files, tmp_path):
    folder = write_inputs(tmp_path)
    given = [folder / "fox.png", "--pair", "20,20:40,24", "--prompt", "a <cat>", "--model",
             tiny_folder, "--device", "cpu", "--settings", folder / "quick.json", "--steps", "1",
             "--log", folder / "log.json"]  # fmt: skip
    for word, file in files.items():
        given += ["--embedding", file, word]
    assert main(["edit", *map(str, given)]) == 0
    log = json.loads((folder / "log.json").read_text())
    assert log["model"]["fingerprint"] == loaded(tiny_folder, embeddings=files).fingerprint


def test_the_code_of_an_edit_names_them_and_loads_the_same(tiny_folder, files, monkeypatch):
    monkeypatch.chdir(files["<cat>"].parent)
    model = loaded(tiny_folder, embeddings={"<cat>": "cat.safetensors"})
    session = session_on(model, prompt="a <cat>")
    code = python_of(session)
    assert f"embeddings={{'<cat>': {str(files['<cat>'])!r}}}" in code
    names = {"image": session.image}
    exec(code.split("session.settings")[0], names)
    assert names["session"].model.fingerprint == model.fingerprint


@pytest.mark.slow
def test_workers_load_them(tiny_folder, files):
    model = loaded(tiny_folder, embeddings=files)
    session = session_on(model, prompt="a <cat>", steps=1)
    session.instructions = ask()
    rows = list(run_many([session.request], model=tiny_folder, device="cpu", embeddings=files))
    assert [row.error for row in rows] == [""]
