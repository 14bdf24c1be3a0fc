"""One request: whatever way an edit is asked for it is the same, and so is what tells of it."""

from __future__ import annotations

import argparse
import json
import logging
import pickle

import numpy as np
import pytest
from command_line import QUICK, write_inputs
from exported import exported
from tiny_sessions import ask, left_half, session_on, waves

from dragwidget import DragInstructions, DragSession, DragWidget, load_model
from dragwidget.__main__ import main
from dragwidget.cli import edit as command
from dragwidget.cli.inputs import with_changes
from dragwidget.data.image_reading import read_mask
from dragwidget.diffusion.lora import save_lora
from dragwidget.session.journal import restore

POINTS = [(20.0, 20.0), (40.0, 24.0)]


@pytest.fixture
def widget(tiny, tmp_path, monkeypatch):
    """A widget on a small session, with one pair and a journal."""
    monkeypatch.chdir(tmp_path)  # its code saves an image
    made = DragWidget(
        session_on(tiny, steps=2),
        instructions=ask(mask=left_half()),
        clock="sync",
        journal=tmp_path / "journal",
        render_when_done=False,
    )
    yield made
    made.close()


# ---------------------------------------------------------------- the prompt has one home

CHANGES = {
    "typed in the box": lambda w: setattr(w._view.prompt, "value", "a dog"),
    "the widget's property": lambda w: setattr(w, "prompt", "a dog"),
    "the session's": lambda w: setattr(w.session, "prompt", "a dog"),
    "the canvas' trait": lambda w: setattr(w.canvas, "prompt", "a dog"),
    "instructions drawn": lambda w: setattr(w, "instructions", ask(prompt="a dog")),
    "instructions of the session": lambda w: setattr(
        w.session, "instructions", ask(prompt="a dog")
    ),
    "a whole request": lambda w: setattr(
        w.session, "request", w.session.request.replace(prompt="a dog")
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_prompt_that_is_changed_anywhere_is_the_prompt_everywhere(widget, tiny, tmp_path, name):
    widget.run()
    CHANGES[name](widget)
    assert widget.error == ""
    request = widget.session.request
    shown = [widget.prompt, widget.canvas.prompt, widget._view.prompt.value]
    assert [request.prompt, request.instructions.prompt, *shown] == ["a dog"] * 5
    assert widget.instructions == request.instructions

    names = {"image": waves(), "model": tiny}
    exec(widget.code(), names)
    assert names["session"].request == request
    assert restore(tmp_path / "journal", tiny)[0].request == request
    widget.save(tmp_path / "edit.drag")
    assert DragSession.load(tmp_path / "edit.drag", tiny).request == request
    assert DragInstructions.from_json(exported(widget, "Instructions")) == request.instructions


def test_the_log_of_the_command_line_has_the_prompt_of_what_a_widget_exports(
    widget, tiny_folder, tmp_path
):
    folder = write_inputs(tmp_path)
    widget._view.prompt.value = "a dog"
    (folder / "drawn.json").write_bytes(exported(widget, "Instructions"))
    words = ["--model", tiny_folder, "--device", "cpu", "--settings", folder / "quick.json",
             "--instructions", folder / "drawn.json", "--log", folder / "log.json"]  # fmt: skip
    assert main(["edit", str(folder / "fox.png"), *map(str, words)]) == 0
    said = json.loads((folder / "log.json").read_text())["instructions"]
    assert said == json.loads(widget.session.request.instructions.to_json())


def test_a_prompt_may_be_cleared(widget):
    widget._view.prompt.value = ""
    assert widget.session.prompt == widget.canvas.prompt == widget.instructions.prompt == ""


def test_a_prompt_that_is_no_text_is_refused_and_none_is_shown(widget, caplog):
    caplog.set_level(logging.CRITICAL)
    widget._view.prompt.value = "\ud83d"
    assert "not valid text" in widget.error
    assert widget._view.prompt.value == widget.prompt == widget.canvas.prompt == "a cat"


# ---------------------------------------------------------------- page and session agree


def test_whatever_the_session_is_asked_for_is_on_the_page(widget):
    request = widget.session.request
    inversion = {"inversion": {"steps": 4}}
    widget.session.request = request.replace(
        instructions=ask(((5, 5), (9, 9)), ((20, 20), (30, 30))),
        settings=with_changes(request.settings, inversion),
    )
    assert len(widget.canvas.pairs) == 2
    assert widget.canvas.mask is None
    assert widget._view.settings.settings.inversion.steps == 4
    widget.session.request = request
    assert widget.canvas.pairs == request.instructions.pairs
    assert np.array_equal(widget.canvas.mask, left_half())
    assert widget.settings == widget._view.settings.settings == request.settings


def test_whatever_is_drawn_is_asked_for_and_what_is_no_instructions_is_not(widget):
    widget.canvas.move_target(0, (20, 40))
    assert widget.session.instructions == widget.instructions
    widget.canvas.undo()
    assert widget.session.instructions == ask(mask=left_half(), prompt="a cat")
    mask = widget.canvas.mask
    widget.canvas.clear_pairs()  # the mask is drawn on
    assert widget.session.instructions is None
    assert np.array_equal(widget.canvas.mask, mask)
    widget.canvas.undo()
    assert widget.session.instructions == ask(mask=left_half(), prompt="a cat")


def test_another_image_of_the_session_is_on_the_canvas(widget):
    widget.run()
    widget.session.set_image(waves(40, 30, seed=1), "a bird")
    assert widget.error == ""
    assert (widget.canvas.size, widget.canvas.pairs) == ((40, 30), ())
    assert np.array_equal(widget.canvas.image, widget.image)
    assert widget.prompt == widget.canvas.prompt == "a bird"
    assert widget.index == 0
    widget.canvas.add_pair((5, 5), (20, 20))
    widget.run()
    assert widget.index == 2


def test_an_outdated_edit_is_shown_until_what_is_asked_for_is_there(widget):
    widget.run()
    last = widget._editing.history.current
    widget.prompt = "a dog"
    assert (widget.index, widget._editing.history.current) == (2, last)
    widget.rewind(1)
    assert widget.index == 1
    widget.prepare()
    assert widget.index == 0
    widget.prompt = "a cat"
    assert (widget.index, widget._editing.history.current.index) == (1, 1)


# ---------------------------------------------------------------- all ways ask for the same


@pytest.fixture
def asked(tmp_path, tiny_folder, monkeypatch):
    """By way of asking: the session of an edit of one image file, with a mask and a LoRA."""
    monkeypatch.chdir(tmp_path)  # the code of a widget saves an image
    folder = write_inputs(tmp_path)
    model = load_model(tiny_folder, device="cpu")
    settings = with_changes(model.recommended, QUICK, {"drag": {"steps": 2}})
    trainer = DragSession(model)
    trainer.settings = settings
    trainer.set_image(folder / "fox.png", "a fox")
    save_lora(trainer.train_lora(), folder / "lora.safetensors")
    mask = read_mask(folder / "mask.png")
    drawn = DragInstructions.from_points(POINTS, size=(64, 48), mask=mask)
    closing = []

    def python():
        session = DragSession(model)
        session.set_image(folder / "fox.png", prompt="a fox")
        session.settings, session.instructions = settings, drawn
        session.use_lora(folder / "lora.safetensors")
        return session

    def python_in_another_order():
        session = DragSession(model)
        session.settings = settings
        session.set_image(folder / "fox.png")
        session.use_lora(folder / "lora.safetensors")
        session.instructions = drawn.replace(prompt="a fox")
        return session

    def python_with_the_drag():
        session = DragSession(model)
        session.settings = with_changes(model.recommended, QUICK)
        session.set_image(np.array(trainer.image), "another prompt")
        session.use_lora(folder / "lora.safetensors")
        session.drag(drawn.replace(prompt="a fox"), settings.drag)
        return session

    def widget(**options):
        made = DragWidget(
            folder / "fox.png", model=tiny_folder, settings=settings, clock="sync", store=None,
            device="cpu", journal=False, **options,
        )  # fmt: skip
        made.session.use_lora(folder / "lora.safetensors")
        closing.append(made)
        return made

    def drawn_in_a_widget():
        made = widget(prompt="a fox")
        made.canvas.add_pair(*POINTS)
        made.canvas.set_mask(folder / "mask.png")
        return made.session

    def given_to_a_widget():
        return widget(instructions=drawn.replace(prompt="a fox")).session

    def typed_in_a_widget():
        made = widget(instructions=drawn)
        made._view.prompt.value = "a fox"
        return made.session

    def command_line(*words):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        given = [folder / "fox.png", "--model", tiny_folder, "--device", "cpu", "--no-store",
                 "--settings", folder / "quick.json", "--steps", "2",
                 "--lora", folder / "lora.safetensors", *words]  # fmt: skip
        return command.begin(parser.parse_args(list(map(str, given))))[0]

    def words():
        mask = ("--mask", folder / "mask.png")
        return command_line("--pair", "20,20:40,24", *mask, "--prompt", "a fox")

    def file_of_instructions():
        text = python().instructions.to_json()
        (folder / "drawn.json").write_text(text)
        return command_line("--instructions", folder / "drawn.json")

    def dragbench():
        sample = folder / "sample"
        sample.mkdir()
        (sample / "original_image.png").write_bytes((folder / "fox.png").read_bytes())
        fields = {"prompt": "a fox", "points": list(map(list, POINTS)), "mask": mask.astype(int)}
        (sample / "meta_data.pkl").write_bytes(pickle.dumps(fields))
        return command_line("--instructions", sample)

    def session_file():
        python().save(folder / "edit.drag")
        return DragSession.load(folder / "edit.drag", model)

    def recipe():
        names = {}
        exec(drawn_in_a_widget_code(), names)
        return names["session"]

    def drawn_in_a_widget_code():
        drawn_in_a_widget()
        return closing[-1].code()

    yield {
        way.__name__: way
        for way in (
            python, python_in_another_order, python_with_the_drag, drawn_in_a_widget,
            given_to_a_widget, typed_in_a_widget, words, file_of_instructions, dragbench,
            session_file, recipe,
        )
    }  # fmt: skip
    for each in closing:
        each.close()


def test_all_ways_to_ask_for_an_edit_make_equal_requests(asked):
    requests = {name: way().request for name, way in asked.items()}
    wanted = requests["python"]
    assert (wanted.prompt, wanted.settings.drag.steps) == ("a fox", 2)
    assert wanted.lora is not None
    assert wanted.instructions.mask is not None
    assert [name for name, request in requests.items() if request != wanted] == []
    assert {hash(request) for request in requests.values()} == {hash(wanted)}
