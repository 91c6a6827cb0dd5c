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
from fastproxy._meter import Meter
from fastproxy.control.rings import Rings
from fastproxy.control.store.engine import Store, Unavailable

log = logging.getLogger("fastproxy.control")

# the record of a deployment, by the snapshot's version and its index there
Deployments = Callable[[int, int], dict[str, Any] | None]
WARN_SECONDS = 10.0
FORGET_SECONDS = 60.0
ROWS_UP_TO = 2000  # events that wait, of all rings; beyond, sums are written without rows


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
        self.meter = Meter(True)
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
            crowded = rings.crowd() > ROWS_UP_TO
            batches = rings.together() if crowded else [rings.waiting[0]]
            if crowded and self.raw_rows:
                self._say_crowded()
            found = [
                one for batch in batches for one in sums(self.meter, batch.events, deployments)
            ]
            events = batches[0].events if self.raw_rows and not crowded else b""
            try:
                await self.store.run(
                    spend.book, rings.epoch, batches[0].ring, batches[-1].upto, found, events
                )
            except Unavailable as error:
                self._say(error)
                return False
            rings.release(batches)
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


def sums(meter: Meter, events: bytes, deployments: Deployments) -> list[dict[str, Any]]:
    """A batch as sums by key, model, outcome and second: what days, budgets and spend are counted from."""
    meter.add(events)
    found = []
    for cell in meter.sums():
        key, group, version, index, status, second, requests, read, written, cost, bare, guessed = (
            cell
        )
        model, model_id, provider = served(group, deployments(version, index))
        found.append(
            {
                "api_key": key,
                "model_group": group,
                "model": model,
                "model_id": model_id,
                "provider": provider,
                "requests": requests,
                "failed": requests if status >= 400 else 0,
                "prompt_tokens": read,
                "completion_tokens": written,
                "spend": cost,
                "unpriced": bare,
                "estimated": guessed,
                "started": second * 1000,
                "snapshot": version,
                "deployment": index,
            }
        )
    return found


def served(group: str, deployment: dict[str, Any] | None) -> tuple[str, str | None, str | None]:
    """(the provider's name of the model, its id, the provider) for what a client asked for."""
    if deployment is None:
        return group, None, None
    model = deployment.get("model", "")
    return (
        group if "*" in model or not model else model,
        deployment.get("id"),
        deployment.get("provider"),
    )
