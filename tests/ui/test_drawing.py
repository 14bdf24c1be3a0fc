"""The one safe way to draw: all of it or nothing, in one message, from any thread."""

import threading

import pytest
from front_end import drawings, messages
from ipycanvas import Canvas
from ipycanvas.canvas import _CANVAS_MANAGER

from dragwidget.ui.drawing import Layer, drawing


@pytest.fixture
def layer():
    return Layer(Canvas(width=10, height=10))


def test_what_is_drawn_inside_is_one_message_that_names_its_canvas(layer):
    with messages() as sent, drawing():
        layer.clear()
        layer.disc((1, 2), 3, "#ff0000")
    (message,) = drawings(sent)
    assert message[0] == ("switchCanvas", [f"IPY_MODEL_{layer.canvas.model_id}"])
    assert message[-1] == ("fillCircle", [1.0, 2.0, 3.0])


def test_nested_it_is_still_one_message(layer):
    with messages() as sent, drawing():
        layer.clear()
        with drawing():
            layer.clear()
        layer.clear()
    assert len(drawings(sent)) == 1


def test_after_an_exception_nothing_of_it_is_sent_and_drawing_goes_on(layer):
    def fail():
        with drawing():
            layer.clear()
            raise KeyError

    with messages() as sent, pytest.raises(KeyError):
        fail()
    assert drawings(sent) == []
    assert not _CANVAS_MANAGER._caching
    with messages() as sent, drawing():
        layer.disc((1, 2), 3, "#ff0000")
    assert len(drawings(sent)) == 1


def test_an_exception_in_a_nested_one_that_is_caught_costs_nothing(layer):
    with messages() as sent, drawing():
        layer.clear()
        with pytest.raises(KeyError), drawing():
            raise KeyError
    assert len(drawings(sent)) == 1


def test_drawing_nothing_sends_nothing():
    with messages() as sent, drawing():
        pass
    assert sent == []


def test_threads_do_not_draw_on_each_others_canvases():
    layers = [Layer(Canvas(width=10, height=10)) for _ in range(4)]
    start = threading.Barrier(4)

    def draw(index):
        start.wait()
        for _ in range(50):
            with drawing():
                layers[index].disc((index, 0), 1, "#ff0000")
                layers[index].disc((index, 1), 1, "#ff0000")

    threads = [threading.Thread(target=draw, args=(index,)) for index in range(4)]
    with messages() as sent:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(drawings(sent)) == 200
    names = {f"IPY_MODEL_{layer.canvas.model_id}": i for i, layer in enumerate(layers)}
    for message in drawings(sent):
        index = names[message[0][1][0]]
        assert [a[0] for c, a in message if c == "fillCircle"] == [index, index]
