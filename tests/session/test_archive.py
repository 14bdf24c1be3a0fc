"""A session in a file: what is kept, what is refused, and that no half file is left behind."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load as read_tensors
from same_sessions import assert_same, same
from session_files import of_json, read_parts, rewrite, write_parts
from tiny_models import make_unet
from tiny_sessions import N, Passes, ask, left_half, session_on

from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.session import session_file as archive
from dragwidget.session.session import DragSession


def saved(session, tmp_path):
    path = tmp_path / "edit.drag"
    session.save(path)
    return path


def edited(tiny):
    """A session with two edits, branches, a moved target and changed settings."""
    session = session_on(tiny, lora_steps=2)
    session.instructions = ask(mask=left_half())
    session.step(3)
    session.prompt = "🦊"
    session.step(1)
    session.prompt = "a cat"
    session.rewind(1)
    session.instructions = ask(((12, 12), (20, 39)), ((40, 30), (10, 30)), mask=left_half())
    list(session.drag(settings=replace(session.settings.drag, learning_rate=0.03), steps=2))
    session.rewind(2)
    return session


@pytest.fixture(scope="module")
def session(tiny):
    """Read only."""
    return edited(tiny)


@pytest.fixture(scope="module")
def data(session, tmp_path_factory):
    """What is in its file."""
    return saved(session, tmp_path_factory.mktemp("archive")).read_bytes()


@pytest.fixture
def path(data, tmp_path):
    """Its file."""
    path = tmp_path / "edit.drag"
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- what is kept


def test_everything_comes_back_bit_for_bit(session, path, tiny):
    assert_same(session, DragSession.load(path, tiny))


@pytest.mark.slow
def test_going_on_after_loading_is_going_on_before(path, tiny):
    session, loaded = edited(tiny), DragSession.load(path, tiny)
    for each in (session, loaded):
        each.step(2)
    assert_same(session, loaded)
    assert np.array_equal(session.render(), loaded.render())


def test_what_was_loaded_needs_no_lora_and_no_inversion(path, tiny):
    loaded = DragSession.load(path, tiny)
    with Passes(tiny) as passes:
        loaded.prepare()
        assert passes.count == 0
        loaded.step()
    assert passes.count == 4  # here, at the start, where the second handle was drawn, and behind


def test_a_file_opens_on_the_model_that_this_process_holds(session, path):
    loaded = DragSession.load(path, device="cpu")
    assert loaded.model.name == session.model.name
    assert_same(session, loaded)


def test_a_loaded_session_reports_its_progress(path, tiny):
    reports = []
    loaded = DragSession.load(path, tiny, progress=reports.append)
    loaded.step()
    assert [report.phase for report in reports] == ["drag"]


@pytest.mark.slow
def test_a_generated_image_survives(tiny, tmp_path):
    session = session_on(tiny)
    session.generate("a cat", "a dog", guidance_scale=3.0, seed=4, size=(64, 32))
    session.instructions = ask(((12, 12), (50, 20)), size=(64, 32))
    session.step(2)
    loaded = DragSession.load(saved(session, tmp_path), tiny)
    assert_same(session, loaded)
    for each in (session, loaded):
        # Another strength needs more of the way from the noise.
        inversion = replace(each.settings.inversion, strength=1.0)
        each.settings = replace(each.settings, inversion=inversion)
        each.step()
    assert_same(session, loaded)


@pytest.mark.slow
@pytest.mark.parametrize("prepared", [False, True])
def test_a_lora_that_was_given_survives(session, tiny, tmp_path, prepared):
    given = session_on(tiny, lora_steps=2)
    given.use_lora(session.train_lora())
    if prepared:
        given.prepare()
    loaded = DragSession.load(saved(given, tmp_path), tiny)
    assert loaded.lora.digest == given.lora.digest
    assert_same(given, loaded)
    assert same(given.invert().latents, loaded.invert().latents)


@pytest.mark.slow
def test_a_lora_that_was_only_trained_survives(tiny, tmp_path):
    session = session_on(tiny, lora_steps=2)
    lora = session.train_lora()
    loaded = DragSession.load(saved(session, tmp_path), tiny)
    with Passes(tiny) as passes:
        assert loaded.train_lora().digest == lora.digest
        assert passes.count == 0
        loaded.prepare()
    assert passes.count == N


@pytest.mark.slow
def test_two_inversions_with_one_lora_keep_it_once(tiny, tmp_path):
    session = session_on(tiny, lora_steps=2)
    session.prepare()
    inversion = replace(session.settings.inversion, strength=0.7)
    session.settings = replace(session.settings, inversion=inversion)
    session.prepare()
    names = list(read_tensors(read_parts(saved(session, tmp_path))["tensors.safetensors"]))
    lora = session.train_lora()
    assert len([name for name in names if name.startswith("lora.")]) == 2 * len(lora.down)
    assert_same(session, DragSession.load(tmp_path / "edit.drag", tiny))


def test_a_session_that_has_done_nothing_yet_survives(tiny, tmp_path):
    session = session_on(tiny)
    assert_same(session, DragSession.load(saved(session, tmp_path), tiny))


def test_a_session_without_an_image_has_nothing_to_save(tiny, tmp_path):
    with pytest.raises(RuntimeError, match="there is no image yet"):
        DragSession(tiny).save(tmp_path / "edit.drag")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("where", ["write_tensors", "os.fsync", "os.replace"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(
    tiny, tmp_path, monkeypatch, where
):
    session = session_on(tiny)
    path = saved(session, tmp_path)
    old = path.read_bytes()
    session.instructions = ask()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(f"dragwidget.session.session_file.{where}", fail)
    with pytest.raises(OSError, match="no space left"):
        session.save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_and_as_readable_as_any(tiny, tmp_path):
    session = session_on(tiny)
    path = saved(session, tmp_path)
    session.instructions = ask()
    session.save(path)
    assert DragSession.load(path, tiny).instructions == ask(prompt="a cat")
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_that_there_is_not_is_named(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone to save in: make it"):
        session_on(tiny).save(tmp_path / "gone" / "edit.drag")


def test_what_could_not_be_read_again_is_not_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="the session is larger than 1000 bytes: no file is writ"):
        session_on(tiny).save(tmp_path / "edit.drag")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what is refused


def test_another_model_is_refused_by_name(path, tiny):
    other = StableDiffusion(
        unet=make_unet().eval(),
        vae=tiny.vae,
        text_encoder=tiny.text_encoder,
        tokenizer=tiny.tokenizer,
        alphas_cumprod=tiny.alphas_cumprod,
        name="another",
    )
    with pytest.raises(ValueError, match=r"made with the model .*tiny' \('float32'\), whose wei"):
        DragSession.load(path, other)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -100, -1])
def test_a_truncated_file_is_refused(path, tiny, data, kept):
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"edit\.drag is not a session that can be opened: "):
        DragSession.load(path, tiny)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["session.json", "tensors.safetensors", "edit-0/node-5.safet"])
def test_a_file_that_is_damaged_where_it_is_read_is_refused(path, tiny, data, part):
    data = bytearray(data)
    data[data.index(part.encode()) + 4000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"edit\.drag is not a session that can be opened: "):
        DragSession.load(path, tiny)


BOTH = {"session.json": "{}", "tensors.safetensors": b""}
BARE = {"format": archive.FORMAT, "version": archive.VERSION, "edits": []}
WHOLE = {**BOTH, "session.json": json.dumps(BARE)}
FOREIGN = {
    "other files": ({"a.txt": "text"}, r"it holds \['a.txt'\]"),
    "more files": ({**WHOLE, "run.py": "print()"}, r"it holds \['run.py'\]"),
    "a way out": ({"../session.json": "{}", "tensors.safetensors": b""}, "it holds"),
    "nothing in it": (BOTH, "it was not saved by dragwidget"),
    "no JSON": ({**BOTH, "session.json": "{"}, "Expecting property name"),
    "a list": ({**BOTH, "session.json": "[]"}, "it was not saved by dragwidget"),
    "no end of lists": ({**BOTH, "session.json": "[" * 100_000}, "no file of ours is like that"),
    "no text": ({**BOTH, "session.json": b"\xff\xfe\xff"}, "codec can't decode"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_zip_is_refused(tiny, tmp_path, name):
    files, message = FOREIGN[name]
    write_parts(tmp_path / "a.zip", files)
    with pytest.raises(
        ValueError, match=rf"a\.zip is not a session that can be opened: .*{message}"
    ):
        DragSession.load(tmp_path / "a.zip", tiny)


def test_a_text_file_is_refused_and_a_missing_one_is_missing(tiny, tmp_path):
    (tmp_path / "a.drag").write_text("This is text.")
    with pytest.raises(ValueError, match=r"a\.drag is not a session that .*: it is no ZIP archive"):
        DragSession.load(tmp_path / "a.drag", tiny)
    with pytest.raises(FileNotFoundError, match=r"there is no session file .*gone\.drag"):
        DragSession.load(tmp_path / "gone.drag", tiny)


def test_an_encrypted_part_is_refused(path, tiny, data):
    data = bytearray(data)
    central = data.index(b"PK\x01\x02")
    data[6] |= 1  # the flag of encryption, in the file's own header
    data[central + 8] |= 1  # and in the directory
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"edit\.drag is not a session that can be opened: .*encr"):
        DragSession.load(path, tiny)


CHANGES = {
    "version 1": (lambda c: c.update(version=1), "it is of format 1, .* reads format 3: open"),
    "version 2": (lambda c: c.update(version=2), "it is of format 2, .* reads format 3: open"),
    "no version": (lambda c: c.pop("version"), "it is of format None"),
    "no model": (lambda c: c.pop("model"), "it lacks 'model'"),
    "no edits": (lambda c: c.pop("edits"), "it lacks 'edits'"),
    "unknown setting": (lambda c: c["settings"].update(x={}), r"unknown settings \['x'\]"),
    "setting out of range": (
        lambda c: c["settings"]["drag"].update(steps=-1),
        "DragSettings.steps must lie in",
    ),
    "fewer latents": (
        lambda c: c["edits"][0]["settings"]["inversion"].update(strength=0.9),
        "it has 4 latents of an inversion with InversionSettings",
    ),
    "no such step": (lambda c: c["edits"][0].update(current=9), "it stands at step 9, and"),
    "no such branch": (lambda c: c["edits"][0].update(tip=-1), "it stands at step .*, and"),
    "a step too many": (
        lambda c: c["edits"][0]["nodes"].append(c["edits"][0]["nodes"][0]),
        "it lacks edit-0/node-6.safetensors",
    ),
    "another image's points": (
        lambda c: c.update(instructions=ask(size=(99, 99)).to_json()),
        "the instructions are for an image of 99 x 99",
    ),
    "an unknown LoRA": (lambda c: c.update(lora="x"), "it lacks 'x'"),
    "a prompt that is none": (lambda c: c.update(prompt=None), "the prompt must be a string"),
    "more drawn than steps": (
        lambda c: c.update(drawn=c["drawn"] * 9),
        "more was drawn than steps were taken",
    ),
    "another step in its place": (
        lambda c: c["edits"][0]["nodes"].reverse(),
        "step 1 of its history is damaged",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_content_that_does_not_fit_is_refused(path, tiny, name):
    change, message = CHANGES[name]
    rewrite(path, of_json(change))
    with pytest.raises(ValueError, match=rf"edit\.drag is not a session .* opened: .*{message}"):
        DragSession.load(path, tiny)


def test_a_file_made_to_exhaust_the_memory_is_refused(path, tiny, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"its tensors\.safetensors is larger than 1000 bytes"):
        DragSession.load(path, tiny)


# ---------------------------------------------------------------- a file loads no model by its name

NAMES = [
    "attacker/beacon", "stable-diffusion-v1-5/stable-diffusion-v1-5", "../x", "-opt",
    "//evil/share", "/etc", "~root/.ssh", "a.ckpt", "/dev/zero.safetensors", "C:\\x", "a/b\n",
    "\x00/a", "a/" + "b" * 5000, "", ".", "https://example.org/x",
]  # fmt: skip


def renamed(path, name, fingerprint="another"):
    """A copy of a session's file that says it was made with another model."""
    other = path.with_name("renamed.drag")
    shutil.copy(path, other)
    model = {"name": name, "fingerprint": fingerprint}
    rewrite(other, of_json(lambda content: content["model"].update(model)))
    return other


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_file_never_loads_the_model_that_it_names(path, name, monkeypatch):
    def no_loading(*_, **__):
        raise AssertionError("a file made us load a model")

    monkeypatch.setattr("dragwidget.session.session_file.load_model", no_loading)
    for options in ({}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="which a file may not load: load it") as told:
            DragSession.load(renamed(path, name), **options)
        assert len(str(told.value)) < 1000


@pytest.mark.slow
def test_a_file_opens_on_a_model_of_its_weights_that_is_here(path, tiny):
    opened = DragSession.load(renamed(path, "attacker/beacon", tiny.fingerprint))
    assert opened.model.fingerprint == tiny.fingerprint
    with pytest.raises(ValueError, match="which a file may not load"):  # of another number format
        DragSession.load(renamed(path, "attacker/beacon", tiny.fingerprint), dtype="bfloat16")


def test_a_file_of_the_embedded_model_opens_on_it(path):
    with pytest.raises(ValueError, match=r"made with the model 'critters'.*are\s+not those of"):
        DragSession.load(renamed(path, "critters"), device="cpu")
