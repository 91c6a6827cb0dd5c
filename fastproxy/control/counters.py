"""Which limits have a counter in the workers' shared memory: control gives and takes them.

A counter begins with what the store has of its budget, and is there before a worker sees the record. When the table
gets full, those that nobody has used for a while leave it: their windows are over, and what they have spent is in
the store, once the rings are written.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from fastproxy._gates import Gate
from fastproxy._limits import CAPACITY, boot_seconds
from fastproxy._owners import Owners

log = logging.getLogger("fastproxy.control")

IDLE_SECONDS = 120.0  # a window is over by then, a sliding one too
FULL = CAPACITY * 7 // 8  # from here on room is made
ROOMY = CAPACITY * 3 // 4  # until it is this
PAUSE_SECONDS = 1.0  # between two looks for room that found too little
WARN_SECONDS = 10.0


class Counters:
    """Counters of limits, for their owners."""

    def __init__(self, limits: Owners, write: Callable[[], Awaitable[bool]]) -> None:
        """write: has everything that was spent written to the store; whether it is."""
        self.limits = limits
        self.write = write
        self.making_room = asyncio.Lock()
        self.claimed = CAPACITY  # since they were counted
        self.looked = self.warned = float("-inf")
        limits.stay()  # what a control process before this one was about to take back

    async def claim(self, gates: Iterable[Gate], kept: bool = False, owed: bool = False) -> None:
        """Give each a counter. One that finds no room has none: requests that need it are refused.

        kept: the configuration's, for ever; owed: no store knows what was spent of it."""
        wanted = list(gates)
        if not wanted:
            return
        without = self.limits.claim(wanted, int(time.time()), kept, owed)
        self.claimed += len(wanted)
        if without or self.claimed > CAPACITY - FULL:
            await self.make_room(bool(without))
        if without and self.limits.claim(without, int(time.time()), kept, owed):
            self._warn()

    def claim_now(self, gates: Iterable[Gate]) -> None:
        """The same for limits of the configuration without money, before anybody sees it; what finds no room is
        asked for again by its first request."""
        self.limits.claim(gates, int(time.time()), True)

    async def make_room(self, at_once: bool = True) -> None:
        """Take back those that are longest idle, if too many are taken."""
        async with self.making_room:
            now = time.monotonic()
            if now - self.looked < (0 if at_once else PAUSE_SECONDS):
                return
            taken = self.limits.taken
            self.claimed = max(0, taken - ROOMY)
            if taken <= FULL and not at_once:
                return
            self.looked = now
            leaving = self.limits.leave(
                max(1, taken - ROOMY), IDLE_SECONDS, boot_seconds(), int(time.time())
            )
            with_money = [slot for slot, money in leaving if money]
            try:
                if with_money and not await self.write():
                    self.limits.stay(with_money)  # the store can't say yet what they have spent
            except BaseException:
                self.limits.stay()
                raise
            self.limits.free(slot for slot, _ in leaving)

    def _warn(self) -> None:
        if (now := time.monotonic()) - self.warned > WARN_SECONDS:
            self.warned = now
            log.error(
                "the table of limits is full with %d that were used in the last %d s: requests under further ones are refused",
                CAPACITY,
                IDLE_SECONDS,
            )
