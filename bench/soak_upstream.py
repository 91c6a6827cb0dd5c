"""The soak's upstreams: deployments whose mood changes at random, and a journal of what each did to whom.

They fail, stall, reset, go away and come back. Every request carries its number (`soak-<n>-`), so that the
journal tells how often it came and what was done to it each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import orjson

NUMBER = re.compile(rb"soak-(\d+)-")
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
STREAM = re.compile(rb'"stream": ?true')
USAGE = b"include_usage"

FAULTS = [
    "500",
    "503",
    "reset",
    "close",
    "hang",
    "bad-chunk",
    "early-cut",
    "early-stall",
    "late-cut",
    "late-stall",
]
# mood: how often, and what it does to a request: (weight, act)
MOODS: dict[str, tuple[int, list[tuple[int, str]]]] = {
    "well": (50, [(1, "ok")]),
    "slow": (10, [(3, "ok"), (1, "slow")]),
    "shaky": (16, [(14, "ok"), *((1, act) for act in FAULTS)]),
    "failing": (6, [(1, "500"), (1, "503"), (1, "reset")]),
    "full": (6, [(1, "429")]),
    "stuck": (4, [(1, "hang"), (1, "early-stall"), (1, "late-stall")]),
    "away": (8, []),  # refuses connections
}
LATE = frozenset({"late-cut", "late-stall"})  # after the first content: can't be taken back
GOOD = frozenset({"ok", "slow"})
MOOD_SECONDS = (1.0, 6.0)
GAP = 0.004  # seconds between two events of a stream
SLOW = (0.02, 0.2)
PLAIN_OF = {"early-cut": "close", "early-stall": "hang", "late-cut": "close", "late-stall": "hang"}


@dataclass
class Hit:
    """One arrival of a request."""

    deployment: str
    act: str
    over: bool = False  # answered to the end of the act, or closed by the gateway


class Journal:
    """All arrivals of the requests that are still to be judged."""

    def __init__(self) -> None:
        self.hits: dict[int, list[Hit]] = {}
        self.acts: Counter[str] = Counter()
        self.total = 0

    def note(self, number: int, deployment: str, act: str) -> Hit:
        """A request has come."""
        hit = Hit(deployment, act)
        self.hits.setdefault(number, []).append(hit)
        self.acts[act] += 1
        self.total += 1
        return hit


class Deployment:
    """A listening port with a mood."""

    def __init__(self, name: str, api: str, journal: Journal, steady: bool = False) -> None:
        self.name, self.api, self.journal, self.steady = name, api, journal, steady
        self.mood = "well"
        self.sessions: set[Session] = set()
        self.server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen, always on the same port."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Session(self), "127.0.0.1", self.port, backlog=1024, reuse_address=True
        )
        self.port = int(self.server.sockets[0].getsockname()[1])

    def leave(self) -> None:
        """Refuse connections from now on, and lose those that are open."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for session in list(self.sessions):
            if session.hit is not None and session.hit.act in GOOD:
                session.hit.act = "late-cut" if session.streaming else "reset"
            session.transport.abort()

    async def live(self) -> None:
        """Change the mood for ever."""
        names = list(MOODS)
        weights = [MOODS[name][0] for name in names]
        while True:
            await asyncio.sleep(random.uniform(*MOOD_SECONDS))
            self.mood = "well" if self.steady else random.choices(names, weights)[0]
            if self.mood == "away":
                self.leave()
            elif self.server is None:
                await self.open()

    def act(self, stream: bool) -> str:
        """What becomes of the next request."""
        choices = MOODS[self.mood][1] or [(1, "close")]
        act = random.choices([act for _, act in choices], [weight for weight, _ in choices])[0]
        return act if stream else PLAIN_OF.get(act, act)


class Session(asyncio.Protocol):
    """One connection of the gateway."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.data = bytearray()
        self.hit: Hit | None = None
        self.streaming = False  # some content is out
        self.waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self.transport = cast("asyncio.Transport", transport)
        self.deployment.sessions.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway gave up, or we did."""
        self.deployment.sessions.discard(self)
        self.end()
        if self.waiting is not None:
            self.waiting.cancel()

    def end(self) -> None:
        """The request is over, whichever way."""
        if self.hit is not None:
            self.hit.over = True
            self.hit = None

    def data_received(self, data: bytes) -> None:
        """A request comes; there is never a second one before its answer."""
        self.data += data
        head = self.data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(self.data, 0, head + 2)
        size = head + 4 + (int(length[1]) if length else 0)
        if len(self.data) < size:
            return
        request = bytes(self.data[:size])
        del self.data[:size]
        found = NUMBER.search(request, head)
        if found is None:
            self.transport.abort()
            return
        number, stream = int(found[1]), STREAM.search(request, head) is not None
        act = self.deployment.act(stream)
        self.hit = self.deployment.journal.note(number, self.deployment.name, act)
        self.play(act, number, stream, USAGE in request)

    def play(self, act: str, number: int, stream: bool, usage: bool) -> None:
        """Do that to the request."""
        api = self.deployment.api
        if act in ("500", "503", "429"):
            self.transport.write(error(int(act), api))
            self.end()
        elif act == "reset":
            sock: socket.socket = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif act == "close":
            self.transport.close()
        elif act == "slow":
            self.later(random.uniform(*SLOW), "ok", number, stream, usage)
        elif act == "bad-chunk":
            self.transport.write(HEAD_STREAM + b"zz\r\n")
            self.transport.close()
        elif act != "hang":
            if stream:
                opening, content, ending = stream_parts(api, number, usage)
                self.transport.write(HEAD_STREAM + opening)
                self.events(act, [*content, ending])
            else:
                self.transport.write(whole(200, answer(api, number)))
                self.end()

    def later(self, delay: float, act: str, number: int, stream: bool, usage: bool) -> None:
        """The same after a while."""
        loop = asyncio.get_running_loop()
        self.waiting = loop.call_later(delay, self.play, act, number, stream, usage)

    def events(self, act: str, left: list[bytes]) -> None:
        """The next event of a stream, or the fault."""
        if act == "early-cut" or (act == "late-cut" and len(left) == 1):
            self.transport.close()
            return
        if act == "early-stall" or (act == "late-stall" and len(left) == 1):
            return
        self.transport.write(left.pop(0))
        self.streaming = bool(left)
        if not left:
            self.end()
            return
        self.waiting = asyncio.get_running_loop().call_later(GAP, self.events, act, left)


# -- bytes

HEAD_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def text(number: int) -> str:
    """What the model says: whose answer it is."""
    return f"answer to soak-{number}-"


def whole(status: int, body: Any, *lines: str) -> bytes:
    """An answer with a length."""
    data = orjson.dumps(body)
    extra = "".join(line + "\r\n" for line in lines)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def error(status: int, api: str) -> bytes:
    """An error of the API's shape."""
    lines = ["Retry-After: 1"] if status == 429 else []
    said = {"message": f"upstream says {status}", "type": "api_error"}
    body = {"type": "error", "error": said} if api == "messages" else {"error": said}
    return whole(status, body, *lines)


def answer(api: str, number: int) -> dict[str, Any]:
    """A good answer."""
    if api == "messages":
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": "up",
            "content": [{"type": "text", "text": text(number)}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 4},
        }
    message = {"role": "assistant", "content": text(number)}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    }


def event(body: Any, name: str = "") -> bytes:
    """One server-sent event in a chunk of its own."""
    data = (f"event: {name}\n".encode() if name else b"") + b"data: " + orjson.dumps(body) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_parts(api: str, number: int, usage: bool) -> tuple[bytes, list[bytes], bytes]:
    """Opening, content and end of a stream."""
    words = text(number).split(" ")
    if api == "messages":
        start = answer(api, number) | {"content": [], "stop_reason": None}
        opening = event({"type": "message_start", "message": start}, "message_start")
        block = {"type": "content_block_start", "index": 0}
        opening += event(
            block | {"content_block": {"type": "text", "text": ""}}, "content_block_start"
        )
        delta = {"type": "content_block_delta", "index": 0}
        content = [
            event(delta | {"delta": {"type": "text_delta", "text": word}}, "content_block_delta")
            for word in words
        ]
        ending = event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        stop = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
        ending += event(stop | {"usage": {"output_tokens": 4}}, "message_delta")
        return opening, content, ending + event({"type": "message_stop"}, "message_stop") + LAST
    same = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1}

    def chunk(one: dict[str, Any], finish: str | None = None) -> bytes:
        return event(same | {"choices": [{"index": 0, "delta": one, "finish_reason": finish}]})

    opening = chunk({"role": "assistant", "content": ""})
    content = [chunk({"content": word}) for word in words]
    ending = chunk({}, "stop")
    if usage:
        counts = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        ending += event(same | {"choices": [], "usage": counts})
    done = b"data: [DONE]\n\n"
    return opening, content, ending + b"%x\r\n%b\r\n" % (len(done), done) + LAST
