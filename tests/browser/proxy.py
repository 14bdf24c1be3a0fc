"""A slow line: a TCP relay that holds everything back for a while, each way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType


class SlowLine:
    """Relays ``127.0.0.1:port`` to a server's port, on ``with``.

    ``delay``, seconds each way, may be changed at any time and holds for what comes from then on;
    order is kept. Only time is added: no limit to what goes through at once.
    """

    def __init__(self, server_port: int, delay: float = 0.0) -> None:
        self.delay = delay
        self.port = 0
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> SlowLine:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _hang_up(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            onward_reader, onward_writer = await asyncio.open_connection(
                "127.0.0.1", self._server_port
            )
            ways = [self._carry(reader, onward_writer), self._carry(onward_reader, writer)]
            try:
                await asyncio.gather(*ways)
            finally:
                await _close(onward_writer)
        except (OSError, asyncio.CancelledError):
            pass  # one side hung up, or all do
        finally:
            await _close(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each piece leaves ``delay`` after it came, so that a stream is late but no slower."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.ensure_future(self._send(waiting, writer))
        try:
            while True:
                piece = await reader.read(65536)
                waiting.put_nowait((self._loop.time() + self.delay, piece))
                if not piece:
                    break
            await sending
        finally:
            sending.cancel()

    async def _send(
        self, waiting: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            leaves_at, piece = await waiting.get()
            await asyncio.sleep(max(0.0, leaves_at - self._loop.time()))
            if not piece:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
