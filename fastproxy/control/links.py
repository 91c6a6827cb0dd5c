"""Control's side of the feed: one link per worker, the newest snapshot to each."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastproxy import feed

log = logging.getLogger("fastproxy.control")


class Links:
    """Connected workers and what they have applied."""

    def __init__(self, workers: int, on_ready: Callable[[str | None], None]) -> None:
        self.workers = workers
        self.on_ready = on_ready
        self.snapshot: dict[str, Any] | None = None
        self.writers: dict[int, asyncio.StreamWriter] = {}
        self.applied: dict[int, int] = {}
        self.announced = False

    def publish(self, snapshot: dict[str, Any]) -> None:
        """Send a new snapshot to every worker, and to those that connect later."""
        self.snapshot = snapshot
        for writer in self.writers.values():
            feed.send(writer, "snapshot", snapshot)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One worker's link, until it ends."""
        index = -1
        try:
            while (message := await feed.receive(reader)) is not None:
                if message[0] == "hello":
                    index = message[1]
                    self.writers[index] = writer
                    if self.snapshot is not None:
                        feed.send(writer, "snapshot", self.snapshot)
                elif message[0] == "applied":
                    self.applied[index] = message[1]
                    self._check_ready()
                elif message[0] == "refused":
                    log.error("worker %s refused snapshot %s: %s", index, message[1], message[2])
                    if not self.announced:
                        self.on_ready(str(message[2]))
        except ValueError:
            log.exception("a worker's link is damaged")
        except asyncio.CancelledError:
            pass  # control ends; Python 3.11 would log a stream's cancelled task as a fault
        finally:
            if self.writers.get(index) is writer:
                del self.writers[index]
                self.applied.pop(index, None)
            writer.close()

    def _check_ready(self) -> None:
        if not self.announced and len(self.applied) == self.workers:
            self.announced = True
            self.on_ready(None)
