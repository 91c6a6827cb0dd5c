"""Rings and folds of shared memory: nothing is lost or counted twice, whoever dies where."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy import _shared
from fastproxy._shared import Block
from fastproxy.control.rings import Rings

SLOTS = 16
FOLDS = 1024


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[mmap.mmap]:
    yield _shared.create(str(tmp_path / "shared"), 2, SLOTS)


def put(block: Block, count: int, key: bytes = b"k" * 32, **fields: int | bytes) -> None:
    for _ in range(count):
        block.put(**{"key": key, "model": b"m", "input_tokens": 3, "cost": 7, **fields})


def take_folds(block: Block) -> "list[_shared.Sum]":
    found = []
    while (generation := block.freeze()) >= 0:
        found += block.folded(generation)
        block.clear(generation)
    return found


def test_from_seven_eighths_on_events_are_sums(mapping: mmap.mmap):
    block = Block(mapping, 1)
    put(block, 14)
    assert (block.unread, block.freeze()) == (14, -1)
    put(block, 5)
    put(block, 2, key=b"other", cost=-1, status=500)
    assert block.unread == 14
    assert {fold[0]: fold[4][:6] for fold in take_folds(block)} == {
        b"k" * 32: (5, 0, 15, 0, 35, 0),
        b"other".ljust(32, b"\0"): (2, 2, 6, 0, 0, 0),
    }
    assert block.values()["events_folded"] == 7
    assert block.values()["events_dropped"] == 0
    assert Block(mapping, 0).freeze() == -1


def test_what_is_frozen_is_not_written_to(mapping: mmap.mmap):
    block = Block(mapping, 0)
    put(block, 15)
    generation = block.freeze()
    before = block.folded(generation)
    put(block, 3)
    assert block.freeze() == generation, "until it is cleared"
    assert block.folded(generation) == before
    again = Block(mapping, 0)  # the next control process finds it as it was
    assert (again.freeze(), again.folded(generation)) == (generation, before)
    again.clear(generation)
    again.clear(generation)
    assert [fold[4][0] for fold in take_folds(again)] == [3]


def test_without_a_free_fold_the_rest_of_the_ring_is_used_then_events_are_dropped(
    mapping: mmap.mmap,
):
    block = Block(mapping, 0)
    put(block, 14)
    for number in range(FOLDS + 4):
        assert block.refusing == (number >= FOLDS - FOLDS // 8)
        put(block, 1, key=number.to_bytes(32, "big"))
    assert block.unread == SLOTS
    assert block.values()["events_dropped"] == 2
    put(block, 1, key=bytes(32))
    assert block.values()["events_dropped"] == 2, "a known one finds its fold"
    assert len(take_folds(block)) == FOLDS
    assert not block.refusing


def test_a_refusal_does_not_take_the_last_places(mapping: mmap.mmap):
    block = Block(mapping, 0)
    put(block, 14)
    for number in range(FOLDS):
        put(block, 1, key=number.to_bytes(32, "big"))
    nothing = {"status": 503, "input_tokens": 0, "cost": 0}
    put(block, 5, key=b"other", **nothing)
    assert (block.unread, block.values()["events_dropped"]) == (14, 5)
    put(block, 1, key=b"other", status=503)  # a try that may have been worked on
    put(block, 1, key=b"other")
    assert (block.unread, block.values()["events_dropped"]) == (16, 5)


def test_models_with_long_names_have_sums_of_their_own(mapping: mmap.mmap):
    block = Block(mapping, 0)
    names = [b"m" * 127 + end for end in (b"a", b"b")]
    put(block, 14)
    for name in names:
        put(block, 2, model=name)
    assert {fold[1]: fold[4][0] for fold in take_folds(block)} == dict.fromkeys(names, 2)


def test_a_ring_that_is_released_takes_events_again(mapping: mmap.mmap):
    block = Block(mapping, 0)
    put(block, 20)
    events, upto = block.peek(0, 100)
    block.release(upto)
    put(block, 1)
    assert len(events) // _shared.EVENT_BYTES == 14
    assert block.unread == 1


event = st.fixed_dictionaries(
    {
        "key": st.sampled_from([b"a" * 32, b"b" * 32]),
        "model": st.sampled_from([b"", b"m", b"m" * 64]),
        "deployment": st.integers(-1, 1),
        "started_ns": st.integers(0, 3 * 10**9),
        "input_tokens": st.integers(0, 2**40),
        "output_tokens": st.integers(0, 2**40),
        "cost": st.integers(-1, 2**40),
        "status": st.sampled_from([200, 429, 500]),
        "tags": st.sampled_from([b"", b"x", b"x,y"]),
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(event, max_size=60))
def test_sums_and_rows_say_the_same(tmp_path_factory: pytest.TempPathFactory, events: list):
    path = tmp_path_factory.mktemp("shared") / "shared"
    block = Block(_shared.create(str(path), 1, 128), 0)
    path.unlink()
    for one in events:
        block.put(**one)
    taken, _ = block.peek(0, 128)
    sums, numbers = _shared.fold(taken)
    expected: dict[tuple, list[int]] = {}
    for one in events:
        name = (one["key"], one["model"], one["deployment"], one["started_ns"] // 10**9)
        total = expected.setdefault(name, [0] * 6)
        failed = one["status"] >= 400
        for at, value in enumerate(
            (1, failed, one["input_tokens"], one["output_tokens"], max(one["cost"], 0),
             one["cost"] < 0 and not failed)
        ):  # fmt: skip
            total[at] += value
    found = [(key, model, index, totals[7] // 1000) for key, model, _, index, totals in sums]
    assert len(set(found)) == len(found)
    assert {name: list(one[4][:6]) for name, one in zip(found, sums, strict=True)} == expected
    shared = [(one[0].hex(), None, None, "", "", None, None) for one in sums]
    rows = _shared.rows(taken, numbers, shared, ("chat",))
    assert [(row[1], row[10], row[13], row[14]) for row in rows] == [
        (one["key"].hex(), one["started_ns"] // 10**6, one["input_tokens"], one["output_tokens"])
        for one in events
    ]
    tagged = _shared.fold_tags(taken)
    assert sum(totals[0] for totals in tagged.values()) == sum(bool(one["tags"]) for one in events)


@pytest.mark.parametrize("added", [False, True])
def test_a_worker_that_dies_while_it_folds_is_counted_once(tmp_path: Path, added: bool):
    """Whether its event is in the sums already is seen by the sums."""
    slots = 16
    mapping = _shared.create(str(tmp_path / "shared"), 1, slots)
    block = Block(mapping, 0)
    block.restart()
    for _ in range(slots):  # from 7/8 on into one fold
        block.put(key=b"k" * 32, model=b"m", cost=5, started_ns=1)
    assert block.values()["events_folded"] == 2
    # as the flight of its try would stand: to be added to that fold
    flights = 4096
    folds = (len(mapping) - 64 - 4096 - (slots + flights) * _shared.EVENT_BYTES) // 2048
    base = 64 + 4096 + slots * _shared.EVENT_BYTES
    (number,) = (
        n for n in range(1024) if mapping[base + n * folds : base + n * folds + 8] != bytes(8)
    )
    flight = base + 2048 * folds
    before = 1 if added else 2
    mapping[flight : flight + 8] = (1 << 63 | number << 48 | before).to_bytes(8, "little")
    mapping[flight + 8 : flight + 16] = (1).to_bytes(8, "little")
    block.restart()
    assert block.values()["events_folded"] == (2 if added else 3)
    assert mapping[flight : flight + 8] == bytes(8)
    block.restart()  # whoever follows finds nothing
    assert block.values()["events_folded"] == (2 if added else 3)


def test_rings_that_are_held_are_read_up_to_there(tmp_path: Path):
    path = str(tmp_path / "shared")
    mapping = _shared.create(path, 2, SLOTS)
    blocks = [Block(mapping, ring) for ring in range(2)]
    rings = Rings(path)

    def read() -> tuple[int, int]:
        """Events of each ring that have been read."""
        rings.drain()
        return rings.seen[0], rings.seen[1]

    for block in blocks:
        put(block, 2)
    assert read() == (2, 2)
    rings.hold()
    for block in blocks:
        put(block, 3)
    assert read() == (2, 2)
    at = blocks[0].published
    assert at == 5
    put(blocks[0], 1)
    rings.hold({0: at})  # the other one's worker has said nothing
    put(blocks[1], 1)
    assert read() == (5, 5)
    rings.go_on()
    assert read() == (6, 6)
