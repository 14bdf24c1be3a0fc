"""A process that is sent SIGINT again and again while it edits; run by ``test_interrupts``.

Prints JSON: how many signals ended a piece of work, how many Python passed over (one that is raised
in a destructor), and what was wrong after them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from interrupting import inventory, weights_of
from tiny_models import write_model
from tiny_sessions import FAR, ask, left_half, session_on

from dragwidget.diffusion.loading import load_model


def main(folder: Path, signals: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    torch.set_num_threads(1)
    model = load_model(write_model(folder, channels=(8, 8)), device="cpu", dtype="float32")
    session = session_on(model.with_parts(memory="low"), lora_steps=1)
    session.instructions = ask(FAR, mask=left_half())

    session.prepare()

    def work() -> float:
        session.rewind(0)
        return session.step(1).loss

    work()
    wanted = work()
    started = time.perf_counter()
    work()
    span = time.perf_counter() - started
    before, weights = inventory(model), weights_of(model)
    delays = random.Random(0)
    ended, passed_over, wrong = 0, 0, []
    for _ in range(signals):
        sent = threading.Event()
        delay = delays.uniform(0, 1.5 * span)

        def send(delay: float = delay, sent: threading.Event = sent) -> None:
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGINT)
            sent.set()

        sender = threading.Thread(target=send)
        try:
            sender.start()
            while True:
                was_sent = sent.is_set()
                work()
                if was_sent:
                    passed_over += 1
                    break
        except KeyboardInterrupt:
            ended += 1
        sender.join()
        after = inventory(model)
        wrong += [key for key in before if after[key] != before[key]]
        if work() != wanted:
            wrong.append("another loss")
    if weights_of(model) != weights:
        wrong.append("weights")
    sys.stdout.write(
        json.dumps({"ended": ended, "passed_over": passed_over, "wrong": wrong}) + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
