"""The kernel behind a page, asked directly, so that a test can compare both sides."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq
from jupyter_client.session import Session


class KernelDoor:
    """Runs Python in a kernel that is already there, beside its front ends.

    Nothing is printed in the notebook and no cell's number changes. The kernel answers when its
    running cell, if any, has ended. Raises AssertionError, with the kernel's traceback, where the
    code fails, and TimeoutError where no answer comes.

    Plain ZeroMQ and not jupyter_client's client: that wants an event loop of its own, where
    Playwright already keeps one running.
    """

    def __init__(self, connection_file: Path, seconds: float = 180.0) -> None:
        self.seconds = seconds
        place = json.loads(connection_file.read_text())
        self._session = Session(
            key=place["key"].encode(), signature_scheme=place["signature_scheme"]
        )
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._shell.linger = 0
        self._shell.connect(f"tcp://{place['ip']}:{place['shell_port']}")

    def run(self, code: str) -> None:
        """Execute statements."""
        self._ask(code, "None")

    def get(self, expression: str) -> Any:
        """The value of an expression, as JSON carries it: tuples come as lists."""
        return json.loads(self._ask("import json as _json", f"_json.dumps({expression})"))

    def array(self, expression: str) -> npt.NDArray[Any]:
        """The value of an expression that is an array (or a PIL image), whole and exact."""
        code = (
            "import base64 as _base64, io as _io, numpy as _numpy\n"
            "_bytes = _io.BytesIO()\n"
            f"_numpy.save(_bytes, _numpy.asarray({expression}), allow_pickle=False)"
        )
        text = self._ask(code, "_base64.b64encode(_bytes.getvalue()).decode()")
        array: npt.NDArray[Any] = np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)
        return array

    def wait_for(self, expression: str, seconds: float | None = None) -> Any:
        """Ask until the expression is true; its value. Raises TimeoutError, saying the last one."""
        limit = self.seconds if seconds is None else seconds
        end = time.monotonic() + limit
        while not (value := self.get(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true in {limit:g} s: {expression} is {value!r}")
            time.sleep(0.02)
        return value

    def close(self) -> None:
        """Leave the kernel; it goes on."""
        self._shell.close()
        self._context.term()

    def _ask(self, code: str, expression: str) -> str:
        content = {
            "code": code,
            "silent": True,
            "store_history": False,
            "user_expressions": {"value": expression},
            "allow_stdin": False,
            "stop_on_error": False,  # what a front end has queued is not to be thrown away
        }
        asked = self._session.send(self._shell, "execute_request", content)
        assert asked is not None
        answer = self._answer_to(asked["header"]["msg_id"])
        if answer["status"] == "ok":
            answer = answer["user_expressions"]["value"]
        if answer["status"] != "ok":
            lines = "\n".join(answer.get("traceback", []))
            raise AssertionError(
                f"in the kernel: {answer.get('ename')}: {answer.get('evalue')}\n"
                + re.sub(r"\x1b\[[\d;]*m", "", lines)
            )
        return str(ast.literal_eval(answer["data"]["text/plain"]))

    def _answer_to(self, asked: str) -> dict[str, Any]:
        end = time.monotonic() + self.seconds
        while self._shell.poll(max(0, int((end - time.monotonic()) * 1000))):
            _, message = self._session.recv(self._shell)
            if message and message["parent_header"].get("msg_id") == asked:
                return dict(message["content"])
        raise TimeoutError(f"the kernel did not answer in {self.seconds:g} s")
