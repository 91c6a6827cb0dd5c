"""Control's side of the feed: one link per worker, the newest snapshot and the newest keys to each."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import orjson

from fastproxy import feed

log = logging.getLogger("fastproxy.control")

ACKNOWLEDGE_SECONDS = 2.0  # a worker that takes longer serves nobody meanwhile


class Links:
    """Connected workers and what they have applied."""

    def __init__(self, workers: int, on_ready: Callable[[str | None], None]) -> None:
        self.workers = workers
        self.on_ready = on_ready
        self.snapshot: dict[str, Any] | None = None
        self.keys: dict[str, bytes] = {}  # of the store: digest -> record for the workers, as JSON
        self.writers: dict[int, asyncio.StreamWriter] = {}
        self.bridges: set[asyncio.StreamWriter] = set()
        self.bridge: dict[str, Any] = {}  # what the LiteLLM SDK's process has to know
        self.applied: dict[int, int] = {}
        self.refused: dict[int, tuple[int, str]] = {}
        self.news = asyncio.Condition()
        self.announced = False
        self.number = 0  # of the newest "keys" message
        # By link, also of a worker that has a successor and finishes what it has: the newest that it has applied.
        self.reached: dict[asyncio.StreamWriter, int] = {}

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
        return None if found is None else dict(orjson.loads(found))

    async def push_keys(self, upserts: dict[str, bytes], deletes: list[str]) -> None:
        """Put keys in force: returns when every worker has applied them, and what was sent before them.

        A worker that connects meanwhile gets all keys with its snapshot; one that goes needs none. Sending
        happens before the first wait, so the order of calls is the order on every link."""
        self.keys.update(upserts)
        for digest in deletes:
            self.keys.pop(digest, None)
        self.number += 1
        number = self.number
        sent = list(self.reached)
        fixed = {record["digest"] for record in self.snapshot["keys"]} if self.snapshot else set()
        records = [orjson.Fragment(r) for digest, r in upserts.items() if digest not in fixed]
        deletes = [digest for digest in deletes if digest not in fixed]
        for writer in sent:
            feed.send(writer, "keys", number, records, deletes)

        def late() -> int:
            return sum(self.reached.get(writer, number) < number for writer in sent)

        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS), self.news:
                await self.news.wait_for(lambda: not late())
        except TimeoutError:
            log.error("%s workers have not applied a change of keys yet: they don't answer", late())

    def tell_bridge(self, news: dict[str, Any]) -> None:
        """Send its deployments to the LiteLLM SDK's process, now and when it connects."""
        self.bridge = news
        for writer in self.bridges:
            feed.send(writer, "bridge", news)

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
                    self._send_snapshot(writer)
                elif message[0] == "bridge":
                    self.bridges.add(writer)
                    feed.send(writer, "bridge", self.bridge)
                elif message[0] == "applied":
                    self.applied[index] = message[1]
                    self.refused.pop(index, None)
                    self._check_ready()
                    await self._tell()
                elif message[0] == "keys-applied":
                    self.reached[writer] = message[1]
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
