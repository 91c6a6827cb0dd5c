"""Spend off the request's path: from the workers' rings into the store, exactly once.

Events stay in the rings until the transaction that holds them is committed. While the store can't take them they
wait there, and the log says so; LLM requests don't notice.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastproxy import leftover
from fastproxy._shared import decode, fold
from fastproxy._table import ENDPOINTS
from fastproxy.control.rings import Batch, Rings
from fastproxy.control.store.engine import Store, Unavailable

log = logging.getLogger("fastproxy.control")

# the record of a deployment, by the snapshot's version and its index there
Deployments = Callable[[int, int], dict[str, Any] | None]
WARN_SECONDS = 10.0
FORGET_SECONDS = 60.0
ROWS_UP_TO = 3  # batches that wait; beyond, sums are written instead of rows


class Spend:
    """What is spent, on its way to the store."""

    def __init__(self, rings: Rings, runtime: Path, deployments: Deployments) -> None:
        """runtime: the directory of the tree's shared memory."""
        self.rings = rings
        self.runtime = runtime
        self.deployments = deployments
        self.store: Store | None = None
        self.raw_rows = True
        self.retention_ms: int | None = None
        self.behind = False  # the store does not take them
        self.warned = 0.0
        self.forgotten = 0.0

    async def use(self, store: Store) -> None:
        """Write there from now on. Raises Unavailable."""
        if self.store is not None:
            return
        from fastproxy.control.store import spend

        self.rings.keep(await store.run(spend.marks, self.rings.epoch))
        self.store = store
        with contextlib.suppress(OSError):
            leftover.tell(self.runtime, store.directory.path)
        await self.adopt()

    async def adopt(self) -> None:
        """Write what the rings of a tree that is gone have left. Raises Unavailable."""
        if self.store is None:
            return
        from fastproxy.control.store import spend

        for path in leftover.found(self.store.directory.path):
            try:
                rings = Rings(str(path))
            except (OSError, ValueError) as error:
                log.error("%s holds events that can't be read: %s", path, error)
                continue
            rings.keep(await self.store.run(spend.marks, rings.epoch))
            rings.drain()
            if await self._book(rings, lambda version, index: None):
                log.warning("%d events of an earlier run are written", rings.total)
                path.unlink(missing_ok=True)

    async def flush(self) -> None:
        """Write what waits."""
        if self.store is not None and await self._book(self.rings, self.deployments):
            await self._forget()

    async def _book(self, rings: Rings, deployments: Deployments) -> bool:
        from fastproxy.control.store import spend

        while rings.waiting and self.store is not None:
            batch = rings.waiting[0]
            crowded = len(rings.waiting) > ROWS_UP_TO
            rows = sums(batch, deployments) if crowded else entries(batch, deployments)
            if crowded:
                self._say_crowded()
            try:
                await self.store.run(
                    spend.book,
                    rings.epoch,
                    batch.ring,
                    batch.upto,
                    rows,
                    self.raw_rows and not crowded,
                )
            except Unavailable as error:
                self._say(error)
                return False
            rings.release([batch])
            self.behind = False
        return True

    async def _forget(self) -> None:
        from fastproxy.control.store import spend

        now = time.monotonic()
        if self.retention_ms is None or self.store is None:
            return
        if now - self.forgotten < FORGET_SECONDS:
            return
        try:
            before = time.time_ns() // 1_000_000 - self.retention_ms
            if await self.store.run(spend.forget, before) < spend.CHUNK:
                self.forgotten = now
        except Unavailable as error:
            self._say(error)

    def _say_crowded(self) -> None:
        if (now := time.monotonic()) - self.warned > WARN_SECONDS:
            self.warned = now
            log.warning("more requests than single rows can be written for: sums are kept")

    def _say(self, error: Exception) -> None:
        self.behind = True
        if (now := time.monotonic()) - self.warned > WARN_SECONDS:
            self.warned = now
            log.error("spend waits in shared memory, the store can't take it: %s", error)


def entries(batch: Batch, deployments: Deployments) -> list[dict[str, Any]]:
    """A batch's events as rows of spend_logs, without user and team."""
    return [
        entry(event, deployments(event["snapshot"], event["deployment"]))
        for event in decode(batch.events)
    ]


def sums(batch: Batch, deployments: Deployments) -> list[dict[str, Any]]:
    """A batch's events as sums by key, model and day: what there are too many of for a row each."""
    found = []
    for (key, model, snapshot, index, _), total in fold(batch.events).items():
        event = {
            "snapshot": snapshot,
            "deployment": index,
            "model": model.decode("utf-8", "replace"),
        }
        requests, failed, read, written, cost, unpriced, estimated, last = total
        found.append(
            {
                **_served(event, deployments(snapshot, index)),
                "api_key": key.hex(),
                "requests": requests,
                "failed": failed,
                "prompt_tokens": read,
                "completion_tokens": written,
                "spend": cost,
                "unpriced": unpriced,
                "estimated": estimated,
                "started": last,
                "status": 200,
            }
        )
    return found


def _served(event: dict[str, Any], deployment: dict[str, Any] | None) -> dict[str, Any]:
    served = deployment or {}
    model = served.get("model", "")
    return {
        "model": event["model"] if "*" in model or not model else model,
        "model_group": event["model"],
        "model_id": served.get("id"),
        "provider": served.get("provider"),
    }


def entry(event: dict[str, Any], deployment: dict[str, Any] | None) -> dict[str, Any]:
    """An event as a row of spend_logs, without user and team."""
    return {
        **_served(event, deployment),
        "request_id": event["call_id"],
        "api_key": event["key"],
        "call_type": ENDPOINTS[event["endpoint"]] if event["endpoint"] < len(ENDPOINTS) else "",
        "status": event["status"],
        "started": event["started_ns"] // 1_000_000,
        "duration": event["duration_us"],
        "first_byte": event["first_byte_us"],
        "prompt_tokens": event["input_tokens"],
        "completion_tokens": event["output_tokens"],
        "cached_tokens": event["cached_tokens"],
        "reasoning_tokens": event["reasoning_tokens"],
        "spend": None if event["cost"] < 0 else event["cost"],
        "estimated": event["estimated"],
        "stream": event["stream"],
        "attempts": event["attempts"],
        "client": event["client"] or None,
        "trace_id": event["trace_id"] or None,
    }
