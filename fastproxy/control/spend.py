"""Spend off the request's path: from the workers' rings into the store, exactly once.

Events stay in the rings until the transaction that holds them is committed. While the store can't take them they
wait there, and the log says so; LLM requests don't notice.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from fastproxy._shared import decode
from fastproxy._table import ENDPOINTS
from fastproxy.control.rings import Batch, Rings
from fastproxy.control.store.engine import Store, Unavailable

log = logging.getLogger("fastproxy.control")

Snapshots = Callable[[int], dict[str, Any] | None]  # by version
WARN_SECONDS = 10.0
FORGET_SECONDS = 60.0
DAY_MS = 86_400_000


class Spend:
    """What is spent, on its way to the store."""

    def __init__(
        self, rings: Rings, deployments: Callable[[int, int], dict[str, Any] | None]
    ) -> None:
        """deployments: the record of one, by the snapshot's version and its index there."""
        self.rings = rings
        self.deployments = deployments
        self.store: Store | None = None
        self.raw_rows = True
        self.retention_ms: int | None = None
        self.behind = False  # the store does not take them
        self.warned = 0.0
        self.forgotten = 0.0

    async def use(self, store: Store) -> None:
        """Write there from now on. Raises Unavailable."""
        if self.store is None:
            from fastproxy.control.store import spend

            self.rings.keep(await store.run(spend.marks, self.rings.epoch))
            self.store = store

    async def flush(self) -> None:
        """Write what waits."""
        if self.store is None:
            return
        from fastproxy.control.store import spend

        while self.rings.waiting:
            batch = self.rings.waiting[0]
            try:
                await self.store.run(
                    spend.book,
                    self.rings.epoch,
                    batch.ring,
                    batch.upto,
                    self.entries(batch),
                    self.raw_rows,
                )
            except Unavailable as error:
                self._say(error)
                return
            self.rings.release([batch])
            self.behind = False
        await self._forget()

    async def _forget(self) -> None:
        from fastproxy.control.store import spend

        now = time.monotonic()
        if self.retention_ms is None or self.store is None or now - self.forgotten < FORGET_SECONDS:
            return
        try:
            before = time.time_ns() // 1_000_000 - self.retention_ms
            if await self.store.run(spend.forget, before) < spend.CHUNK:
                self.forgotten = now
        except Unavailable as error:
            self._say(error)

    def entries(self, batch: Batch) -> list[dict[str, Any]]:
        """A batch's events as rows of spend_logs, without user and team."""
        return [
            entry(event, self.deployments(event["snapshot"], event["deployment"]))
            for event in decode(batch.events)
        ]

    def _say(self, error: Exception) -> None:
        self.behind = True
        if (now := time.monotonic()) - self.warned > WARN_SECONDS:
            self.warned = now
            log.error("spend waits in shared memory, the store can't take it: %s", error)


def entry(event: dict[str, Any], deployment: dict[str, Any] | None) -> dict[str, Any]:
    """An event as a row of spend_logs, without user and team."""
    served = deployment or {}
    model = served.get("model", "")
    return {
        "request_id": event["call_id"],
        "api_key": event["key"],
        "model": event["model"] if "*" in model or not model else model,
        "model_group": event["model"],
        "model_id": served.get("id"),
        "provider": served.get("provider"),
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
