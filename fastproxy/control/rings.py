"""Reads the workers' event rings and counters. A later store takes the events from here."""

from collections import deque
from typing import Any

from fastproxy._shared import EVENT_BYTES, Block, attach, decode

KEEP = 1000  # newest events kept for a person to look at
BATCH = 2048


class Rings:
    """Consumer of all rings of the process tree."""

    def __init__(self, path: str, workers: int) -> None:
        mapping = attach(path)
        self.blocks = [Block(mapping, index) for index in range(workers)]
        self.taken: deque[bytes] = deque()
        self.held = 0
        self.total = 0

    def drain(self) -> None:
        """Take what the workers have published since the last time."""
        for block in self.blocks:
            while events := block.take(BATCH):
                count = len(events) // EVENT_BYTES
                self.total += count
                self.held += count
                self.taken.append(events)
        while self.taken and self.held - len(self.taken[0]) // EVENT_BYTES >= KEEP:
            self.held -= len(self.taken.popleft()) // EVENT_BYTES

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
