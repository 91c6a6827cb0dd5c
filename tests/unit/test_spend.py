"""Spend on its way to the store: who writes it, and when it is tried again."""

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

from fastproxy._shared import EVENT_BYTES
from fastproxy.control.rings import Batch
from fastproxy.control.spend import ROWS, Spend
from fastproxy.control.store.engine import Unavailable


class Waiting:
    """Rings whose events wait: batches of as many as one transaction takes."""

    epoch, total, filled = "e", 0, 0.0

    def __init__(self, batches: int) -> None:
        self.waiting = deque(Batch(0, bytes(ROWS * EVENT_BYTES), i + 1) for i in range(batches))

    def release(self, batches: list[Batch]) -> None:
        for batch in batches:
            assert self.waiting.popleft() is batch  # the one that was written

    def folds(self) -> list[Any]:
        return []


class SlowStore:
    """Takes its time, and remembers what it was given."""

    def __init__(self) -> None:
        self.works = True
        self.tries = 0
        self.written: list[int] = []

    async def run(self, _: Any, __: str, batches: list[Batch], *___: Any) -> list[Any]:
        self.tries += 1
        await asyncio.sleep(0)
        if not self.works:
            raise Unavailable("locked")
        self.written += [batch.upto for batch in batches]
        await asyncio.sleep(0)
        return []


def spending(batches: int) -> tuple[Spend, SlowStore]:
    spend = Spend(Waiting(batches), Path(), lambda *_: None)  # type: ignore[arg-type]  # what it uses of Rings
    store = SlowStore()
    spend.store = store  # type: ignore[assignment]  # … and of Store
    return spend, store


def test_two_who_write_at_once_write_everything_once():
    spend, store = spending(4)

    async def both() -> None:
        await asyncio.gather(spend.flush(), spend.flush(), spend.flush())

    asyncio.run(both())
    assert store.written == [1, 2, 3, 4]


def test_a_store_that_refuses_is_not_asked_at_every_look():
    spend, store = spending(2)
    store.works = False

    async def look() -> None:
        for _ in range(20):
            await spend.flush(at_once=False)

    asyncio.run(look())
    assert (store.tries, spend.behind) == (1, True)
    store.works = True
    asyncio.run(spend.flush())
    assert (store.written, spend.behind) == ([1, 2], False)
