"""An upstream that does what the request tells it to: the script of a request stands in its text.

`~e500.ok~7` anywhere in a body says: the first time you meet this mark answer 500, every later time answer
well. So tests need no state here, requests may run side by side, and `Lab.hits` tells who asked where, how
often and with which bytes. The deployment is named by the path (`/d/<deployment>/v1/…`). Every connection
serves one request, so that a lost one is never a pooled one.
"""

import asyncio
import contextlib
import itertools
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from harness import UPSTREAM_KEY, until
from lab_acts import CLOSE, RESET, STALL, steps

MARK = re.compile(rb"~([a-z0-9.-]+)~([0-9]+)")
TARGET = re.compile(rb"POST /d/([^/]+)(/[^ ?]*)(?:\?[^ ]*)? HTTP/1\.1\r\n")
APIS = (
    ("/messages", "messages"),
    ("/responses", "responses"),
    ("/embeddings", "embeddings"),
    ("enerateContent", "gemini"),
)
BASES = {"anthropic": "", "gemini": "/v1beta/openai"}
_numbers = itertools.count(1)


def mark(*acts: str) -> str:
    """A mark of its own with this script; the last act is repeated."""
    return f"~{'.'.join(acts or ('ok',))}~{next(_numbers)}"


@dataclass(eq=False)
class Hit:
    """One request that arrived."""

    deployment: str
    mark: str
    number: int  # which of the mark's hits, from 0
    act: str
    target: str
    head: bytes
    body: bytes
    at: float = field(default_factory=time.monotonic)
    waiting: threading.Event = field(default_factory=threading.Event)  # it has come to a stall
    gone: threading.Event = field(default_factory=threading.Event)  # closed on us before the end
    done: threading.Event = field(default_factory=threading.Event)  # all was sent
    dropped: bool = False  # its stall ended with the end of the connection

    def line(self, name: str) -> str | None:
        """The value of a field line of the head."""
        found = re.search(rf"(?i)\r\n{re.escape(name)}: *([^\r]*)".encode(), self.head)
        return found[1].decode() if found else None


class Lab:
    """The server, on a loop in a thread of its own, and its journal."""

    def __init__(self) -> None:
        self.hits: list[Hit] = []
        self.moods: dict[str, str] = {}  # deployment: what it does whatever the mark says
        self._gates: dict[tuple[str, int], asyncio.Event] = {}
        self._counts: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        # bound but not listening: refuses, and nobody else can take it
        self._dead = socket.socket()
        self._dead.bind(("127.0.0.1", 0))
        self.dead_port = int(self._dead.getsockname()[1])
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512, limit=1 << 26)
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server and what it is still playing."""

        async def end() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._dead.close()

    # -- what tests ask for

    def deployment(
        self, group: str, name: str | None = None, provider: str = "openai", **params: Any
    ) -> dict[str, Any]:
        """An entry of `model_list`; its id, its key and its upstream model say its name."""
        name = name or group
        port = self.dead_port if params.pop("dead", False) else self.port
        base = f"http://127.0.0.1:{port}/d/{name}{BASES.get(provider, '/v1')}"
        known = {"model": f"{provider}/up-{name}", "api_base": base, "api_key": upstream_key(name)}
        info = params.pop("model_info", {})
        return {
            "model_name": group,
            "litellm_params": known | params,
            "model_info": {"id": name, **info},
        }

    def of(self, mark: str) -> list[Hit]:
        """The hits of a mark, in the order of arrival."""
        return [hit for hit in list(self.hits) if hit.mark == mark]

    def at(self, deployment: str) -> list[Hit]:
        """The hits of a deployment."""
        return [hit for hit in list(self.hits) if hit.deployment == deployment]

    def hit(self, mark: str, number: int = 0) -> Hit:
        """Waits for a hit."""
        until(lambda: len(self.of(mark)) > number, what=f"hit {number} of {mark}")
        return self.of(mark)[number]

    def stalled(self, mark: str, number: int = 0) -> Hit:
        """Waits for a hit and until all that precedes its stall is sent."""
        hit = self.hit(mark, number)
        until(hit.waiting.is_set, what="the stall")
        return hit

    def release(self, hit: Hit) -> None:
        """The stall of this hit ends, the rest of its answer follows."""
        self._loop.call_soon_threadsafe(self._gates[hit.mark, hit.number].set)

    def cut(self, hit: Hit) -> None:
        """The stall of this hit ends with its connection."""
        hit.dropped = True
        self.release(hit)

    # -- the server

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = await reader.readexactly(int(size[1]) if size else 0)
        target = TARGET.match(head)
        if target is None:
            writer.write(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        hit = self._note(target, head, body)
        path = hit.target
        api = next((api for end, api in APIS if path.endswith(end)), "chat")
        stream = "stream" in path or re.search(rb'"stream": ?true', body) is not None
        script = steps(
            hit.act, api, stream, f"pong from {hit.deployment}", b"include_usage" in body
        )
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif not await self._pause(step, hit, reader, writer):
                return
        hit.done.set()

    def _note(self, target: re.Match[bytes], head: bytes, body: bytes) -> Hit:
        deployment = target[1].decode()
        found = MARK.search(body)
        name = found[0].decode() if found else "none"
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        acts = found[1].decode().split(".") if found else ["ok"]
        act = self.moods.get(deployment) or acts[min(number, len(acts) - 1)]
        hit = Hit(deployment, name, number, act, target[2].decode(), head, body)
        self._gates[name, number] = asyncio.Event()
        self.hits.append(hit)
        return hit

    async def _pause(
        self, step: str, hit: Hit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the script goes on after this step."""
        if step in (CLOSE, RESET):
            if step == RESET:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            return False
        limit = None if step == STALL else float(step[1:]) / 1000
        hit.waiting.set()
        released = asyncio.ensure_future(self._gates[hit.mark, hit.number].wait())
        ended = asyncio.ensure_future(reader.read())
        try:
            done, _ = await asyncio.wait(
                {released, ended}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            released.cancel()
            if not ended.done():
                ended.cancel()
        if ended in done:
            ended.exception()
            hit.gone.set()
            return False
        return not hit.dropped


def upstream_key(name: str) -> str:
    """The credential of a deployment, which no other may see."""
    return f"{UPSTREAM_KEY}-{name}"
