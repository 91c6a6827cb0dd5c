"""Types of the mock LLM's compiled connection (see _mock.pyx)."""

import asyncio
from collections.abc import Callable

KEEP: int
CLOSE: int
RESET: int
STALL: int

class Rate:
    """Fails an even, always equal share of the requests."""

    def __init__(self, percent: int) -> None: ...

class Plan:
    """Pieces of an answer, their times in seconds and the ending."""

    cacheable: bool
    def __init__(
        self,
        pieces: list[bytes],
        first: float = 0.0,
        gap: float = 0.0,
        ending: int = 0,
        cacheable: bool = True,
        rate: Rate | None = None,
        failure: Plan | None = None,
    ) -> None: ...
    @property
    def wire(self) -> bytes: ...

class App:
    """What the connections of one mock share."""

    requests: int
    connections: int
    def __init__(
        self, planner: Callable[[bool, bytes, bytes, bytes], Plan], key: str | None = None
    ) -> None: ...

class MockProtocol(asyncio.Protocol):
    """One connection of the mock."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None: ...
