"""The soak's clients: an open loop of requests at a rate, each answer held against what was done upstream."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import orjson
from soak_upstream import GOOD, LATE, Journal, text

from fastproxy.loadtest import CLIENT_KEY

LEAVING = 0.02  # share of clients that go away before the end
LEAVE_WITHIN = (0.02, 1.0)  # seconds: half of them soon
CLOSED_WITHIN = 5.0  # seconds in which the upstream of a client that left must be closed
ANSWER_WITHIN = 30.0  # seconds: far more than all tries may take
STALL = 0.3  # seconds without a turn of our own loop: the upstreams were late then, not the gateway
TRIES = 6  # of one request: three in its group, three in the fallback
KEPT = 2  # examples of each kind of violation
STATUSES = frozenset({408, 429, 500, 502, 503})
HEADER = re.compile(rb"\r\nx-litellm-attempted-(retries|fallbacks): (\d+)")
DELTA = re.compile(rb'"(?:content|text)": ?"([^"]*)"')
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")
PADDING = "x" * 600


@dataclass
class Findings:
    """What came of all requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)  # by kind
    examples: dict[str, list[str]] = field(default_factory=dict)
    retries: int = 0
    fallbacks: int = 0
    excused: int = 0  # would be violations, but the machine stood still meanwhile
    unmentioned: int = 0  # arrivals after a lost pooled connection, that no header tells
    sent: int = 0
    latencies: list[float] = field(default_factory=list)  # of good answers without a retry, ms

    def violation(self, kind: str, example: str) -> None:
        """A rule is broken."""
        self.violations[kind] += 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < KEPT:
            kept.append(example)


class Load:
    """The open loop."""

    def __init__(self, port: int, journal: Journal) -> None:
        self.port, self.journal = port, journal
        self.found = Findings()
        self.idle: list[Client] = []
        self.busy: set[Client] = set()
        self.beat_at = time.monotonic()  # the last turn of our own loop,
        self.stalled_at = 0.0  # and when the last late one was: the machine kept us from running

    async def beat(self) -> None:
        """Notice for ever when the loop, and so the upstreams, stood still."""
        while True:
            await asyncio.sleep(STALL / 6)
            if self.late():
                self.stalled_at = time.monotonic()
            self.beat_at = time.monotonic()

    def late(self) -> bool:
        """Whether the loop stands still, or has only just gone on."""
        return time.monotonic() - self.beat_at > STALL

    async def run(self, rate: float, seconds: float) -> None:
        """Send at the rate, whatever becomes of the answers; ends when all have one."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            while self.found.sent < passed * rate:
                self.found.sent += 1
                await self.start(self.found.sent)
            await asyncio.sleep(0.002)
        deadline = time.monotonic() + ANSWER_WITHIN
        while self.busy and time.monotonic() < deadline:  # noqa: ASYNC110 - many may end
            await asyncio.sleep(0.05)
        for client in list(self.busy):
            self.found.violation("no answer", client.about())
            self.found.outcomes["no answer"] += 1
            client.gone = True
            client.transport.abort()
        for client in self.idle:
            client.transport.close()
        await asyncio.sleep(CLOSED_WITHIN + 0.5)  # until those that left are judged

    async def start(self, number: int) -> None:
        """One more request, on a free connection or a new one."""
        if self.idle:
            client = self.idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
        client.ask(number)

    def left(self, number: int) -> None:
        """Some time after the client of this request has gone."""
        hits = self.journal.hits.pop(number, [])
        if any(not hit.over for hit in hits):
            self.found.violation("goes on upstream after the client left", f"soak-{number} {hits}")
        self.found.outcomes["client left"] += 1


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.data = bytearray()
        self.number = 0
        self.api, self.stream = "chat", False
        self.begun = 0.0
        self.leaving: asyncio.TimerHandle | None = None
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway may close an idle connection, but not one that waits for its answer."""
        if self in self.load.idle:
            self.load.idle.remove(self)
        if self.number and not self.gone:
            if self.data and complete(self.data, True):
                self.judge()
            else:
                said = f"{self.about()} {bytes(self.data)[-200:]!r}"
                self.load.found.violation("closed without a whole answer", said)
                self.load.found.outcomes["lost"] += 1
                if self.leaving is not None:
                    self.leaving.cancel()
        self.load.busy.discard(self)

    def about(self) -> str:
        """For a report."""
        hits = self.load.journal.hits.get(self.number, [])
        acts = [f"{hit.deployment}:{hit.act}" for hit in hits]
        return f"soak-{self.number} {self.api}{' stream' * self.stream} {acts}"

    def ask(self, number: int) -> None:
        """Send a request."""
        self.number, self.begun = number, time.monotonic()
        self.api = random.choice(("chat", "chat", "messages"))
        self.stream = random.random() < 0.5
        self.data.clear()
        said = f"soak-{number}- {PADDING}"
        body = {"model": "claude" if self.api == "messages" else "main", "max_tokens": 16}
        request = body | {"messages": [{"role": "user", "content": said}], "stream": self.stream}
        data = orjson.dumps(request)
        path = "/v1/messages" if self.api == "messages" else "/v1/chat/completions"
        head = f"POST {path} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {CLIENT_KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)
        self.load.busy.add(self)
        if random.random() < LEAVING:
            loop = asyncio.get_running_loop()
            within = random.uniform(0, random.choice(LEAVE_WITHIN))
            self.leaving = loop.call_later(within, self.leave)

    def leave(self) -> None:
        """Go away without a word."""
        self.gone = True
        self.transport.abort()
        asyncio.get_running_loop().call_later(CLOSED_WITHIN, self.load.left, self.number)

    def data_received(self, data: bytes) -> None:
        """More of the answer."""
        self.data += data
        if complete(self.data, False):
            self.judge()

    def judge(self) -> None:
        """The answer is whole: may it be what it is?"""
        found, journal = self.load.found, self.load.journal
        if self.leaving is not None:
            self.leaving.cancel()
            self.leaving = None
        head, _, body = bytes(self.data).partition(b"\r\n\r\n")
        status = int(head[9:12])
        attempts = {name: int(value) for name, value in HEADER.findall(head)}
        retries, fallbacks = attempts.get(b"retries", 0), attempts.get(b"fallbacks", 0)
        acts = [hit.act for hit in journal.hits.get(self.number, [])]
        # a pooled connection that closes may not have been read: then it goes out again unmentioned
        lost = sum(act in ("close", "reset") for act in acts[:-1])
        found.unmentioned += status == 200 and not fallbacks and len(acts) > 1 + retries
        outcome, problem = self.outcome(status, body, acts)
        if any(act in GOOD for act in acts[:-1]):
            problem = "sent again after a good answer"
        elif any(act in LATE for act in acts[:-1]) and outcome == "cut, in-band error":
            problem = "sent again after content"
        elif len(acts) > TRIES + lost:
            problem = "too many tries"
        elif status == 200 and not fallbacks and len(acts) > 1 + retries + lost:
            problem = "more arrivals than the headers tell"
        if problem and (self.load.late() or self.load.stalled_at > self.begun):
            found.excused += 1
        elif problem:
            said = f"{status}, {retries} retries, {fallbacks} fallbacks; {body[-300:]!r}"
            found.violation(problem, f"{self.about()} {said}")
        found.outcomes[outcome] += 1
        found.retries += retries
        found.fallbacks += fallbacks
        if (
            outcome == "good"
            and not self.stream
            and acts == ["ok"]
            and len(found.latencies) < 1_000_000
        ):
            found.latencies.append((time.monotonic() - self.begun) * 1000)
        journal.hits.pop(self.number, None)
        self.number = 0
        self.load.busy.discard(self)
        if b"\r\nconnection: close" in head or self.transport.is_closing():
            self.transport.close()
        else:
            self.load.idle.append(self)

    def outcome(self, status: int, body: bytes, acts: list[str]) -> tuple[str, str]:
        """A word for it, and what is wrong with it."""
        last = acts[-1] if acts else "nobody asked"
        if status != 200:
            if status not in STATUSES:
                return f"status {status}", "a status that no upstream and no policy gave"
            if b'"error"' not in body or b'"message"' not in body:
                return f"status {status}", "not an error's shape"
            if last in GOOD:
                return f"status {status}", "an error though the upstream answered well"
            return f"status {status}", ""
        said = text(self.number)
        if not self.stream:
            right = said.encode() in body and last in GOOD
            return "good", "" if right else "not the answer to this request"
        ended = b"[DONE]" in body or b"message_stop" in body
        words = b"".join(DELTA.findall(body)).decode()
        if ended:
            right = words == said.replace(" ", "") and last in GOOD and b'"error"' not in body
            return "good", "" if right else "not the answer to this request"
        cut = b'"error"' in body and said.replace(" ", "").startswith(words) and bool(words)
        right = cut and last in LATE
        return (
            "cut, in-band error",
            "" if right else "a stream without end that was not cut upstream",
        )


def complete(data: bytearray, closed: bool) -> bool:
    """Whether an answer is whole."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return False
    if b"\r\ntransfer-encoding: chunked" in data[:head]:
        return data.endswith(b"\r\n0\r\n\r\n")
    length = CONTENT_LENGTH.search(data, 0, head + 2)
    if length is None:
        return closed
    return len(data) >= head + 4 + int(length[1])
