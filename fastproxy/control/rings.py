"""Reads the workers' event rings and counters.

Events are looked at first and let go later: their slots are freed when whoever keeps them says that they are kept
(`release`). Without a keeper they are free at once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastproxy._shared import EVENT_BYTES, Block, attach, decode, epoch

if TYPE_CHECKING:
    from fastproxy._shared import Sum

KEEP = 1000  # newest events kept for a person to look at
BATCH = 2048


@dataclass(frozen=True)
class Batch:
    """Events of one ring, and the position behind them."""

    ring: int
    events: bytes
    upto: int

    @property
    def count(self) -> int:
        """How many events."""
        return len(self.events) // EVENT_BYTES


class Rings:
    """Consumer of all rings of the process tree."""

    def __init__(self, path: str, workers: int = 0, alone: bool = False) -> None:
        """workers: 0 for as many as the file has. alone: none of them lives."""
        self.alone = alone
        mapping = attach(path)
        workers = workers or int.from_bytes(mapping[16:24], "little")
        self.epoch = f"{epoch(mapping):016x}"
        self.blocks = [Block(mapping, index) for index in range(workers)]
        self.seen = [block.released for block in self.blocks]
        self.ends: list[int] | None = None  # where reading stops for now, see `hold`
        self.kept = False  # somebody calls `release`
        self.waiting: deque[Batch] = deque()  # for it; bounded by the rings, whose slots they hold
        self.taken: deque[bytes] = deque()
        self.held = 0
        self.total = 0
        # each sees every batch once, whichever control process that is; not before somebody calls `tell`
        self.watchers: list[Callable[[bytes], None]] = []
        self.telling = False
        self.untold: deque[Batch] = deque()

    def drain(self) -> None:
        """Look at what the workers have published since the last time."""
        for ring, block in enumerate(self.blocks):
            while True:
                seen, told = self.seen[ring], block.told
                most = min(BATCH, told - seen) if told > seen else BATCH
                if self.ends is not None:
                    most = min(most, max(0, self.ends[ring] - seen))
                events, upto = block.peek(seen, most)
                if upto == seen:
                    break
                self.seen[ring] = upto
                batch = Batch(ring, events, upto)
                if self.watchers and upto > told:
                    self.untold.append(batch)
                if self.kept:
                    self.waiting.append(batch)
                else:
                    block.release(upto)
                count = len(events) // EVENT_BYTES
                self.total += count
                self.held += count
                self.taken.append(events)
            if not self.kept and (frozen := block.freeze()) >= 0:
                block.clear(frozen)
        if self.telling:
            self.tell()
        while self.taken and self.held - len(self.taken[0]) // EVENT_BYTES >= KEEP:
            self.held -= len(self.taken.popleft()) // EVENT_BYTES

    def hold(self, positions: Mapping[int, int] | None = None) -> None:
        """Read no further than these positions by ring, another ring than to its newest event; None: nothing more.
        `go_on` has to follow."""
        if positions is None:
            self.ends = list(self.seen)
        else:
            self.ends = [
                positions.get(ring, block.published) for ring, block in enumerate(self.blocks)
            ]

    def go_on(self) -> None:
        """Read everything again."""
        self.ends = None

    def tell(self) -> None:
        """Show the watchers what they have not seen; from now on they see every batch as it comes."""
        self.telling = True
        while self.untold:
            batch = self.untold.popleft()
            for watch in self.watchers:
                watch(batch.events)
            self.blocks[batch.ring].told = batch.upto

    def keep(self, marks: dict[int, int]) -> None:
        """From now on events wait for `release`; what is before the marks has been kept already."""
        self.kept = True
        for ring, position in marks.items():
            if ring < len(self.blocks):
                self.blocks[ring].release(position)
                self.seen[ring] = max(self.seen[ring], self.blocks[ring].released)

    @property
    def filled(self) -> float:
        """Which part of the fullest ring is taken."""
        return max(block.filled for block in self.blocks)

    def folds(self) -> Iterator[tuple[int, int, "list[Sum]"]]:
        """What found its ring nearly full: ring, generation and sums, which wait for `clear`."""
        for ring, block in enumerate(self.blocks):
            while (generation := block.freeze(self.alone)) >= 0:
                yield ring, generation, block.folded(generation)
                if block.freeze(self.alone) == generation:
                    break  # nobody has cleared it

    def clear(self, ring: int, generation: int) -> None:
        """These folds are kept."""
        self.blocks[ring].clear(generation)

    def release(self, batches: list[Batch]) -> None:
        """These, the first of those that wait, are kept: their slots are free."""
        for batch in batches:
            self.blocks[batch.ring].release(batch.upto)
            self.waiting.popleft()

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """The newest events, oldest first."""
        return [event for events in self.taken for event in decode(events)][-limit:]

    def counters(self) -> dict[str, int]:
        """Counters summed over the workers."""
        total: dict[str, int] = {}
        for block in self.blocks:
            for name, value in block.values().items():
                total[name] = total.get(name, 0) + value
        return total
