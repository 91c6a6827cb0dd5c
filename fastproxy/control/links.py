"""Control's side of the feed: one link per worker, the newest snapshot and the newest keys to each.

Of the stored keys control knows those that workers have asked for, up to KNOWN_MAX, and no worker knows one that
control does not: so a change reaches every worker that has to hear of it, and a hundred thousand keys that nobody
uses cost nothing.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import orjson

from fastproxy import feed
from fastproxy.control.store.engine import Unavailable

# (records of those keys that exist, by digest; digests of those that don't). Raises Unavailable.
Find = Callable[[Collection[str]], Awaitable[tuple[dict[str, bytes], list[str]]]]

# Counters for the limits of a key, whose record is told if control can't know it. False: it is to be looked up anew.
GiveCounters = Callable[[str, dict[str, Any] | None], Awaitable[bool]]

log = logging.getLogger("fastproxy.control")

KNOWN_MAX = (
    16384  # stored keys in the workers; the longest known ones are forgotten, and asked for again
)
ACKNOWLEDGE_SECONDS = 2.0  # a worker that takes longer serves nobody meanwhile


@dataclass
class Reading:
    """Keys that are being read from the store, and those of all keys that have changed meanwhile."""

    asked: set[str]
    changed: set[str] = field(default_factory=set)


class Links:
    """Connected workers and what they have applied."""

    def __init__(
        self,
        workers: int,
        on_ready: Callable[[str | None], None],
        find: Find,
        give_counters: GiveCounters,
    ) -> None:
        self.workers = workers
        self.find = find
        self.give_counters = give_counters
        self.giving: set[asyncio.Task[None]] = set()
        self.on_ready = on_ready
        self.snapshot: dict[str, Any] | None = None
        self.hear: Callable[..., None] = lambda *_: None  # what was asked and said, see texts.py
        # stored keys that workers may know: digest -> record for them, as JSON; the longest known first
        self.keys: dict[str, bytes] = {}
        self.wanted: dict[str, set[asyncio.StreamWriter]] = {}  # keys to be looked up, and for whom
        self.readings: list[Reading] = []  # under way
        self.looker: asyncio.Task[None] | None = None
        self.writers: dict[int, asyncio.StreamWriter] = {}
        self.bridges: set[asyncio.StreamWriter] = set()
        self.auths: set[asyncio.StreamWriter] = set()
        self.auth: dict[str, Any] | None = None  # what custom_auth's process has to know
        self.custom: dict[str, dict[str, Any]] = {}  # keys that it has told of, by digest
        self.bridge: dict[str, Any] = {}  # what the LiteLLM SDK's process has to know
        self.applied: dict[int, int] = {}
        self.refused: dict[int, tuple[int, str]] = {}
        self.news = asyncio.Condition()
        self.announced = False
        self.number = 0  # of the newest "keys" message
        # By link, also of a worker that has a successor and finishes what it has: the newest that it has applied.
        self.reached: dict[asyncio.StreamWriter, int] = {}
        # by number of a message that is waited for: where the rings of those stood that have applied it
        self.positions: dict[int, dict[int, int]] = {}

    async def complete(self, seconds: float) -> None:
        """Wait until every worker is there and its keys are known again, but no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self.news:
                await self.news.wait_for(lambda: len(self.applied) == self.workers)

    def publish(self, snapshot: dict[str, Any]) -> None:
        """Send a new snapshot to every worker, and to those that connect later."""
        self.snapshot = snapshot
        for writer in self.writers.values():
            self._send_snapshot(writer)

    def _send_snapshot(self, writer: asyncio.StreamWriter) -> None:
        if self.snapshot is not None:
            # of two records of one key the last one counts: that of the file
            keys = [*map(orjson.Fragment, self.keys.values()), *self.snapshot["keys"]]
            feed.send(writer, "snapshot", {**self.snapshot, "keys": keys})

    def record(self, digest: str) -> dict[str, Any] | None:
        """A stored key as the workers know it."""
        found = self.keys.get(digest)
        return self.custom.get(digest) if found is None else dict(orjson.loads(found))

    def custom_owner(self, digest: str) -> tuple[str | None, str | None] | None:
        """User and team of a key of custom_auth; None: it has not told of such a key."""
        found = self.custom.get(digest)
        return None if found is None else (found["user_id"], found["team_id"])

    def _send_keys(
        self, upserts: dict[str, bytes], deletes: list[str]
    ) -> tuple[int, list[asyncio.StreamWriter]]:
        self.number += 1
        records = [orjson.Fragment(record) for record in upserts.values()]
        forgotten = self._too_many()
        for writer in self.reached:
            feed.send(writer, "keys", self.number, records, deletes, forgotten)
        return self.number, list(self.reached)

    def known(self, digests: Collection[str]) -> list[str]:
        """Those that a worker may know, or will shortly: they have changed, and it must hear of it."""
        asked: set[str] = set()
        for reading in self.readings:
            reading.changed.update(digests)
            asked |= reading.asked
        return [digest for digest in digests if digest in self.keys or digest in asked]

    def every(self) -> set[str]:
        """All stored keys that a worker may know, or will shortly."""
        return set(self.keys).union(*(reading.asked for reading in self.readings))

    async def push_keys(self, upserts: dict[str, bytes], deletes: list[str]) -> dict[int, int]:
        """Put keys in force: returns when every worker has applied them, and what was sent before them. Of each ring
        whose worker has: the position behind the last event of the records before.

        A worker that connects meanwhile gets all keys with its snapshot; one that goes needs none. Sending
        happens before the first wait, so the order of calls is the order on every link."""
        self.keys.update(upserts)
        for digest in deletes:
            self.keys.pop(digest, None)
        number, sent = self._send_keys(upserts, deletes)
        applied: dict[int, int] = {}
        self.positions[number] = applied

        def late() -> int:
            return sum(self.reached.get(writer, number) < number for writer in sent)

        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS), self.news:
                await self.news.wait_for(lambda: not late())
        except TimeoutError:
            log.error("%s workers have not applied a change of keys yet: they don't answer", late())
        finally:
            del self.positions[number]
        return applied

    def _too_many(self) -> list[str]:
        oldest = list(itertools.islice(self.keys, max(0, len(self.keys) - KNOWN_MAX)))
        for digest in oldest:
            del self.keys[digest]
        return oldest

    # -- keys that a worker asks for

    def _want(self, digest: str, writer: asyncio.StreamWriter, anew: bool = False) -> None:
        if digest in self.keys and not anew:
            self._answer(digest, {writer}, False)
            return
        self.wanted.setdefault(digest, set()).add(writer)
        if self.looker is None:
            self.looker = asyncio.get_running_loop().create_task(self._look_up())

    async def _give(
        self, digest: str, record: dict[str, Any] | None, writer: asyncio.StreamWriter
    ) -> None:
        """A worker has met a limit without a counter: one that was not used for long, or a key of custom_auth."""
        try:
            given = await self.give_counters(digest, record)
        except Unavailable:
            given = True  # or not: its requests will see
        if not given:
            self._want(digest, writer, anew=True)
        elif writer in self.reached:
            feed.send(writer, "counted", digest)

    async def _look_up(self) -> None:
        """Answer what is wanted, all at once, until nothing is."""
        try:
            while self.wanted:
                wanted, self.wanted = self.wanted, {}
                changed = await self._read(wanted)
                for digest, writers in wanted.items():
                    if changed is not None and digest in changed:
                        self.wanted.setdefault(digest, set()).update(writers)
                    else:
                        self._answer(digest, writers, changed is None)
                if len(self.keys) > KNOWN_MAX:
                    self._send_keys({}, [])
        finally:
            self.looker = None

    async def _read(self, digests: Collection[str]) -> set[str] | None:
        """Know these keys: those that have changed meanwhile, so that they must be read again. None: it can't be done."""
        reading = Reading(set(digests))
        self.readings.append(reading)
        try:
            found, _ = await self.find(digests)
        except Unavailable:
            return None
        finally:
            self.readings.remove(reading)
        for digest, record in found.items():
            # what a worker has may be older than this, and only `push_keys` changes it for all of them
            if digest not in reading.changed:
                self.keys.setdefault(digest, record)
        return reading.changed

    def _answer(self, digest: str, writers: set[asyncio.StreamWriter], away: bool) -> None:
        record = self.keys.get(digest)
        for writer in writers:
            if writer in self.reached:
                told = None if record is None else orjson.Fragment(record)
                feed.send(writer, "key", digest, told, away)

    async def _recall(self, digests: list[str]) -> None:
        """Know again what a worker knows, after a restart of control."""
        # what can't be read now the snapshot is without, and is asked for anew
        await self._read([digest for digest in digests if digest not in self.keys])

    def tell_bridge(self, news: dict[str, Any]) -> None:
        """Send its deployments to the LiteLLM SDK's process, now and when it connects."""
        self.bridge = news
        for writer in self.bridges:
            feed.send(writer, "bridge", news)

    def tell_auth(self, news: dict[str, Any] | None) -> None:
        """Say to custom_auth's process which function it is, now and when it connects."""
        self.auth = news
        if news is None:
            self.custom.clear()  # the store's keys count again
        for writer in self.auths:
            feed.send(writer, "auth", news)

    async def settled(self, version: int, seconds: float) -> str | None:
        """Wait until every connected worker has answered to a snapshot; why one can't use it."""

        def answered() -> bool:
            return all(
                self.applied.get(index) == version or self.refused.get(index, (0,))[0] == version
                for index in self.writers
            )

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self.news:
                await self.news.wait_for(answered)
        return next((why for told, why in self.refused.values() if told == version), None)

    def count_applied(self, version: int) -> int:
        """How many workers use a snapshot."""
        return sum(applied == version for applied in self.applied.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One worker's link, until it ends."""
        index = -1
        try:
            while (message := await feed.receive(reader)) is not None:
                if message[0] == "hello":
                    index = message[1]
                    self.writers[index] = writer
                    self.reached[writer] = 0
                    if message[3]:
                        await self._recall(message[3])
                    self._send_snapshot(writer)
                elif message[0] == "bridge":
                    self.bridges.add(writer)
                    feed.send(writer, "bridge", self.bridge)
                elif message[0] == "auth":
                    self.auths.add(writer)
                    feed.send(writer, "auth", self.auth)
                elif message[0] == "custom":
                    if len(self.custom) >= KNOWN_MAX:
                        self.custom.clear()
                    self.custom[message[1]["digest"]] = message[1]
                elif message[0] == "applied":
                    self.applied[index] = message[1]
                    self.refused.pop(index, None)
                    self._check_ready()
                    await self._tell()
                elif message[0] == "key":
                    self._want(message[1], writer)
                elif message[0] == "text":
                    self.hear(*message[1:])
                elif message[0] == "counters":
                    giving = asyncio.create_task(self._give(message[1], message[2], writer))
                    self.giving.add(giving)
                    giving.add_done_callback(self.giving.discard)
                elif message[0] == "keys-applied":
                    self.reached[writer] = message[1]
                    if message[1] in self.positions:
                        self.positions[message[1]][message[2]] = message[3]
                    await self._tell()
                elif message[0] == "refused":
                    self.refused[index] = (message[1], str(message[2]))
                    await self._tell()
                    log.error("worker %s refused snapshot %s: %s", index, message[1], message[2])
                    if not self.announced:
                        self.on_ready(str(message[2]))
        except ValueError:
            log.exception("a worker's link is damaged")
        except asyncio.CancelledError:
            pass  # control ends; Python 3.11 would log a stream's cancelled task as a fault
        finally:
            self.bridges.discard(writer)
            self.auths.discard(writer)
            self.reached.pop(writer, None)
            if self.writers.get(index) is writer:
                del self.writers[index]
                self.applied.pop(index, None)
                self.refused.pop(index, None)
            await self._tell()
            writer.close()

    async def _tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    def _check_ready(self) -> None:
        if not self.announced and len(self.applied) == self.workers:
            self.announced = True
            self.on_ready(None)
