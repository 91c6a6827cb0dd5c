import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from fastproxy._limits import Limits
from fastproxy._pool import Pool
from fastproxy._shared import Block
from fastproxy._table import Table
from fastproxy._traffic import Traffic

class Gateway:
    table: Table
    draining: bool
    loop: asyncio.AbstractEventLoop
    living_pools: dict[str, Pool]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        block: Block,
        traffic: Traffic,
        limits: Limits,
        dial: Callable[[Pool], Awaitable[tuple[int, Any]]],
        log: logging.Logger,
        version: str,
    ) -> None: ...
    def swap(self, table: Table) -> None: ...
    def change_keys(self, upserts: list[dict[str, Any]], deletes: list[str]) -> None: ...
    def look_up_by(
        self,
        ask: Callable[[bytes], None] | None,
        ask_counters: Callable[[bytes, dict[str, Any] | None], None] | None = None,
    ) -> None: ...
    def counted(self, digest: bytes) -> None: ...
    def found(self, digest: bytes, record: dict[str, Any] | None, away: bool = False) -> None: ...
    def tell_by(self, tell: Callable[..., bool] | None) -> None: ...
    def judge_by(
        self, ask: Callable[[int, str, str, str, list[tuple[str, str]], str], None] | None
    ) -> None: ...
    def judged(
        self,
        number: int,
        record: dict[str, Any] | None,
        refusal: list[Any] | None,
        ttl: float,
    ) -> None: ...
    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None: ...
    def tick(self) -> None: ...
    def retire(self) -> int: ...
    def drain(self) -> int: ...
    def counts(self) -> dict[str, Any]: ...
