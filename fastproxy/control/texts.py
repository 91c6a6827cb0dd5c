"""Prompts and answers on their way to the store, for who wants them kept: never on a request's way, and never waited for.

They come over the links of the workers and wait here for the next transaction. What is more than WAITING bytes,
because the store can't take them as fast or at all, is dropped and counted: they are a convenience, what was spent is not.
"""

import logging
import time
from collections import deque
from typing import NamedTuple

from fastproxy.control.store.engine import Store, Unavailable

log = logging.getLogger("fastproxy.control")

WAITING = 32 * 1024 * 1024  # characters of them
ONCE = 64  # in one transaction, so that what is spent waits for few
WRITE_SECONDS = 0.9
WARN_SECONDS = 10.0
LONGEST = 2048  # characters of one string, as LiteLLM's MAX_STRING_LENGTH_PROMPT_IN_DB


class Text(NamedTuple):
    """One request's."""

    api_key: str
    request_id: str
    started: int  # milliseconds since 1970
    question: str
    answer: str


class Texts:
    """What waits to be written."""

    def __init__(self) -> None:
        self.waiting: deque[Text] = deque()
        self.size = 0
        self.dropped = 0
        self.longest = LONGEST
        self.written_at = 0.0
        self.warned = 0.0

    def hear(self, *told: str | int) -> None:
        """A worker tells of one."""
        text = Text(*told)  # type: ignore[arg-type]  # as core/texts.pxi sends them
        size = len(text.question) + len(text.answer)
        if self.size + size > WAITING:
            self.dropped += 1
            if (now := time.monotonic()) - self.warned > WARN_SECONDS:
                self.warned = now
                log.warning("prompts come faster than they can be stored: some are left out")
            return
        self.size += size
        self.waiting.append(text)

    async def flush(self, store: Store | None, at_once: bool = False) -> None:
        """Write a part of what waits; all of it `at_once`."""
        now = time.monotonic()
        if not self.waiting or store is None or (now - self.written_at < WRITE_SECONDS and not at_once
                                                 and len(self.waiting) < ONCE):  # fmt: skip
            return
        from fastproxy.control.store import texts

        self.written_at = now
        while self.waiting:
            some = [self.waiting[at] for at in range(min(ONCE, len(self.waiting)))]
            try:
                await store.run(texts.write, some, self.longest)
            except Unavailable:
                return  # said by those who write what is spent
            except Exception:
                log.exception("prompts can't be written: some are left out")
                self.dropped += len(some)
            for text in some:
                self.size -= len(text.question) + len(text.answer)
                self.waiting.popleft()
            if not at_once:
                return
