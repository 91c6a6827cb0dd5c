"""Room in the table of limits: who leaves it, and what has to be written before."""

import asyncio
from pathlib import Path

import pytest
from harness import until

from fastproxy import _limits
from fastproxy._gates import Gate
from fastproxy._limits import CAPACITY, Limits, Trial
from fastproxy._owners import Owners
from fastproxy.control import counters
from fastproxy.control.counters import Counters

WALL = 1_800_000_000


class Store:
    """Says whether everything is written."""

    def __init__(self) -> None:
        self.works = True
        self.asked = 0

    async def __call__(self) -> bool:
        self.asked += 1
        return self.works


@pytest.fixture
def limits(tmp_path: Path) -> Owners:
    file = str(tmp_path / "limits")
    _limits.create(file, 1)
    return Owners(file)


def gates(first: int, count: int, **limit: object) -> list[Gate]:
    limit = limit or {"rpm_limit": 1}
    return [Gate("api_key", "", str(i), limit) for i in range(first, first + count)]


def grow_old() -> None:
    begun = _limits.boot_seconds()
    until(lambda: _limits.boot_seconds() > begun + 0.2)


def claim(room: Counters, wanted: list[Gate]) -> int:
    """How many of them have a counter then."""
    asyncio.run(room.claim(wanted))
    return sum(room.limits.has(gate) for gate in wanted)


def test_who_is_idle_makes_room(limits: Owners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counters, "IDLE_SECONDS", 0.1)
    store = Store()
    room = Counters(limits, store)
    assert claim(room, gates(0, CAPACITY * 7 // 8)) == CAPACITY * 7 // 8
    grow_old()
    assert claim(room, gates(100_000, 15_000)) == 15_000
    assert limits.taken <= CAPACITY
    assert store.asked == 0  # no money was counted


def test_who_was_in_use_lately_stays(limits: Owners, caplog: pytest.LogCaptureFixture):
    room = Counters(limits, Store())
    there = claim(room, gates(0, CAPACITY * 2))
    assert CAPACITY - 1000 < there <= CAPACITY
    assert "the table of limits is full" in caplog.text
    assert claim(room, gates(0, 1000)) == 1000
    assert claim(room, gates(CAPACITY * 2, 1000)) < 100


def test_money_leaves_once_it_is_written(limits: Owners, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counters, "IDLE_SECONDS", 0.1)
    store = Store()
    store.works = False
    room = Counters(limits, store)
    count = CAPACITY * 7 // 8
    with_money = gates(0, count, max_budget=100, spend=7)
    assert claim(room, with_money) == count
    grow_old()
    claim(room, gates(100_000, 20_000))
    assert store.asked > 0
    assert sum(limits.has(gate) for gate in with_money) == count
    store.works = True
    assert claim(room, gates(200_000, 5_000)) == 5_000
    assert sum(limits.has(gate) for gate in with_money) < count


def test_a_new_control_process_finds_who_was_about_to_leave(tmp_path: Path, limits: Owners):
    (one,) = wanted = gates(0, 1)
    assert limits.claim(wanted, WALL) == []
    assert len(limits.leave(1, 0, _limits.boot_seconds() + 1, WALL)) == 1
    worker = Limits(str(tmp_path / "limits"), 0)
    now = _limits.boot_seconds()
    assert Trial(worker).enter(wanted, now, WALL, 0, 0) != 0
    Counters(limits, Store())
    assert Trial(worker).enter([one], now, WALL, 0, 0) == 0
