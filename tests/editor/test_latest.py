"""The mailbox: one value, the latest."""

from __future__ import annotations

import threading
from queue import Empty

import pytest

from dragwidget.editor import Latest

SOON = 30  # seconds; reached only by what would otherwise hang


def test_the_latest_value_wins():
    box = Latest()
    for i in range(5):
        box.put(i)
    assert box.get() == 4
    assert box.dropped == 4
    with pytest.raises(Empty):
        box.get(timeout=0)


def test_a_value_wakes_its_consumer_and_closing_ends_it():
    box, got, fetched = Latest(), [], threading.Semaphore(0)

    def consume():
        for value in box:
            got.append(value)
            fetched.release()

    consumer = threading.Thread(target=consume)
    consumer.start()
    for i in range(3):
        box.put(i)
        assert fetched.acquire(timeout=SOON)
    box.close()
    consumer.join(SOON)
    assert not consumer.is_alive()
    assert got == [0, 1, 2]
    box.put(3)
    with pytest.raises(Empty):
        box.get()


def test_a_closed_mailbox_lets_go_of_what_it_held():
    box = Latest()
    box.put("value")
    box.close()
    with pytest.raises(Empty):
        box.get()
