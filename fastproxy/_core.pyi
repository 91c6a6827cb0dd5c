import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastproxy._pool import Pool
from fastproxy._shared import Block
from fastproxy._table import Table

class Gateway:
    table: Table
    draining: bool
    loop: asyncio.AbstractEventLoop
    living_pools: dict[str, Pool]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        block: Block,
        dial: Callable[[Pool, Callable[[], Any]], Awaitable[None]],
        log: logging.Logger,
        version: str,
    ) -> None: ...
    def swap(self, table: Table) -> None: ...
    def tick(self) -> None: ...
    def drain(self) -> int: ...
    def counts(self) -> dict[str, Any]: ...

class Downstream(asyncio.Protocol):
    peer: str
    def __init__(self, gateway: Gateway) -> None: ...

class Upstream(asyncio.Protocol):
    def __init__(self, gateway: Gateway, pool: Pool) -> None: ...
