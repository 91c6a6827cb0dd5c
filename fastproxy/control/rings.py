"""Reads the workers' event rings and counters. A later store takes the events from here."""

from collections import deque
from typing import Any

from fastproxy._shared import Block, attach

KEEP = 1000  # newest events kept for a person to look at
BATCH = 2048


class Rings:
    """Consumer of all rings of the process tree."""

    def __init__(self, path: str, workers: int) -> None:
        mapping = attach(path)
        self.blocks = [Block(mapping, index) for index in range(workers)]
        self.recent: deque[dict[str, Any]] = deque(maxlen=KEEP)
        self.total = 0

    def drain(self) -> None:
        """Take what the workers have published since the last time."""
        for block in self.blocks:
            while events := block.drain(BATCH):
                self.recent.extend(events)
                self.total += len(events)

    def counters(self) -> dict[str, int]:
        """Counters summed over the workers."""
        total: dict[str, int] = {}
        for block in self.blocks:
            for name, value in block.values().items():
                total[name] = total.get(name, 0) + value
        return total
