"""Spend off the request's path: from the workers' rings into the store, exactly once.

Events stay in the rings until the transaction that holds them is committed. While the store can't take them they
wait there, and the log says so; LLM requests don't notice.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fastproxy import leftover
from fastproxy.control.rings import Batch, Rings
from fastproxy.control.served import Served, upstream_model
from fastproxy.control.soft_budgets import SoftBudgets
from fastproxy.control.store.engine import Store, Unavailable

log = logging.getLogger("fastproxy.control")

# the record of a deployment, by the snapshot's version and its index there
Deployments = Callable[[int, int], dict[str, Any] | None]
# user and team of a key of custom_auth, by its digest; None: it is none
Custom = Callable[[str], tuple[str | None, str | None] | None]
WARN_SECONDS = 10.0
FORGET_SECONDS = 60.0
ROWS_PER_SECOND = 15_000  # where more come, sums are written instead of rows
STALL_SECONDS = 0.5  # between two looks; what came meanwhile says nothing of the rate
ROWS = 4096  # events in one transaction
SUMMED = 65_536  # the same without rows
MUCH = 1024  # events that are written at the next look
QUICK_SECONDS = 0.02  # between two looks at rings that fill; else LOOK_SECONDS
LOOK_SECONDS = 0.1
BOOK_SECONDS = 0.9  # between two transactions where little comes: each keeps a core busy for a millisecond or two
RETRY_SECONDS = 0.5  # between two tries that the store refuses
ADOPT_SECONDS = 2.0  # the same with what others have left, which is read anew each time
FILLING = 0.125


class Spend:
    """What is spent, on its way to the store."""

    def __init__(self, rings: Rings, runtime: Path, deployments: Deployments) -> None:
        """runtime: the directory of the tree's shared memory."""
        self.rings = rings
        self.runtime = runtime
        self.deployments = deployments
        self.custom: Custom = lambda digest: None
        self.store: Store | None = None
        self.soft = SoftBudgets()
        self.raw_rows = True
        self.retention_ms: int | None = None
        self.writing = asyncio.Lock()  # what waits is written, and let go, by one at a time
        self.behind = False  # the store does not take them …
        self.trust = ROWS  # … and how many events it is tried with: a refusal costs the workers' cores what they take
        self.warned = 0.0
        self.forgotten = 0.0
        self.counted = 0  # events until the last look, and when that was
        self.counted_at = 0.0
        self.booked_at = 0.0
        self.adopt_at = 0.0
        self.unreadable: set[Path] = set()

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
        """Write what the rings of processes that are gone have left. Raises Unavailable."""
        if self.store is None or time.monotonic() < self.adopt_at:
            return
        from fastproxy.control.store import spend

        for path in (
            *leftover.found(self.store.directory.path / leftover.RINGS),
            *leftover.found(self.runtime, f"{leftover.LEFT}*"),
        ):
            try:
                rings = Rings(str(path), alone=True)
            except (OSError, ValueError) as error:
                if path in self.unreadable:
                    continue
                self.unreadable.add(path)
                log.error("%s holds events that can't be read: %s", path, error)
                continue
            rings.keep(await self.store.run(spend.marks, rings.epoch))
            rings.drain()
            of_then = leftover.served(path)
            if await self._book(rings, Served(of_then).look_up):
                log.warning("%d events of an earlier run are written", rings.total)
                path.unlink(missing_ok=True)
                of_then.unlink(missing_ok=True)
            else:
                self.adopt_at = time.monotonic() + ADOPT_SECONDS

    @property
    def pause(self) -> float:
        """Seconds until the rings are to be looked at again."""
        return QUICK_SECONDS if self.rings.filled > FILLING and not self.behind else LOOK_SECONDS

    async def flush(self, at_once: bool = True) -> None:
        """Write what waits; if not at once, what has waited for a second, or is much."""
        now = time.monotonic()
        much = sum(batch.count for batch in self.rings.waiting) >= MUCH
        pause = RETRY_SECONDS if self.behind else 0.0 if much else BOOK_SECONDS
        if not at_once and now - self.booked_at < pause:
            return
        async with self.writing:
            if self.rings.waiting:
                self.booked_at = time.monotonic()
            if self.store is not None and await self._book(self.rings, self.deployments):
                await self._forget()

    async def _book(self, rings: Rings, deployments: Deployments) -> bool:
        from fastproxy.control.store import spend

        if self.store is None:
            return True

        def served(asked: str, version: int, index: int) -> tuple[str, str | None, str | None]:
            known = deployments(version, index) or {}
            model = upstream_model(known, asked, "model") or asked
            return model, known.get("id"), known.get("provider")

        sums_only = self._crowded(rings)
        try:
            while rings.waiting:
                most = SUMMED if sums_only else ROWS
                batches = list(_some(rings.waiting, min(most, self.trust)))
                raw = self.raw_rows and not sums_only
                crossed = await self.store.run(
                    spend.book, rings.epoch, batches, served, raw, self.custom
                )
                self.soft.tell(crossed)
                rings.release(batches)
                self.behind = False
                self.trust = min(SUMMED, 4 * self.trust)
            for ring, generation, found in rings.folds():
                crossed = await self.store.run(
                    spend.book_folds, rings.epoch, ring, generation, found, served, self.custom
                )
                self.soft.tell(crossed)
                rings.clear(ring, generation)
                self.behind = False
        except Unavailable as error:
            self._say(error)
            return False
        except (
            Exception
        ) as error:  # a fault of ours: what waits is not lost by it, and readiness says so
            if time.monotonic() - self.warned > WARN_SECONDS:
                log.exception("spend can't be written")
            self._say(error)
            return False
        return True

    def _crowded(self, rings: Rings) -> bool:
        # More come than rows can be written for, at the rate of the moment; what has waited for the store or for us
        # is no such rate.
        if rings is not self.rings:
            return False
        now = time.monotonic()
        seconds, self.counted_at = now - self.counted_at, now
        came, self.counted = rings.total - self.counted, rings.total
        if self.behind or seconds > STALL_SECONDS:
            return False
        crowded = came > ROWS_PER_SECOND * max(seconds, QUICK_SECONDS)
        if crowded and now - self.warned > WARN_SECONDS:
            self.warned = now
            log.warning("more requests than single rows can be written for: sums are kept")
        return crowded

    async def _forget(self) -> None:
        from fastproxy.control.store import spend

        now = time.monotonic()
        if self.retention_ms is None or self.store is None:
            return
        if now - self.forgotten < min(FORGET_SECONDS, self.retention_ms / 1000):
            return
        try:
            before = time.time_ns() // 1_000_000 - self.retention_ms
            if await self.store.run(spend.forget, before) < spend.CHUNK:
                self.forgotten = now
        except Unavailable as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        self.behind, self.trust = True, 1
        if (now := time.monotonic()) - self.warned > WARN_SECONDS:
            self.warned = now
            log.error("spend waits in shared memory, the store can't take it: %s", error)


def _some(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    # the first ones, up to so many events
    for batch in batches:
        yield batch
        most -= batch.count
        if most <= 0:
            return
