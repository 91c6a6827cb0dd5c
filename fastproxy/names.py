"""Addresses of names: asked off the loop, remembered for a few seconds, and used on while nobody can be asked.

A resolver that is gone must not take away upstreams that are still there (RFC 8767): the last good answer
serves for a day, unless the resolver says that the name does not exist any more.
"""

import asyncio
import logging
import socket
from typing import Any

log = logging.getLogger("fastproxy.worker")

FRESH_SECONDS = 5.0  # that an answer is used for without asking again
STALE_SECONDS = 86400.0  # … while asking fails
PATIENCE_SECONDS = (
    0.5  # for a new answer before the old one is used: resolvers give up after many seconds
)
LOG_SECONDS = 10.0  # between two lines about the same name
NAMES_MAX = 1024  # names remembered; beyond it the oldest is forgotten
GONE = (socket.EAI_NONAME, socket.EAI_NODATA)

AddrInfo = tuple[int, int, int, str, tuple[Any, ...]]


class Name:
    """What is known of one name and port."""

    def __init__(self) -> None:
        self.infos: list[AddrInfo] = []
        self.at = 0.0  # when they came
        self.asking: asyncio.Future[Any] | None = None
        self.told = float("-inf")


class Names:
    """The resolver of one event loop. One question at a time for each name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.known: dict[tuple[str, int], Name] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfo]:
        """Addresses of a name. Raises OSError where there are none."""
        name = self.known.get((host, port))
        if name is None:
            name = self.known[host, port] = Name()
            if len(self.known) > NAMES_MAX:
                self.known.pop(next(iter(self.known)))
        age = self.loop.time() - name.at
        if name.infos and age < FRESH_SECONDS:
            return name.infos
        patience = PATIENCE_SECONDS if name.infos and age < STALE_SECONDS else None
        try:
            async with asyncio.timeout(patience):
                found: list[AddrInfo] = await asyncio.shield(self._ask(name, host, port))
                return found
        except TimeoutError:
            self._tell(name, host, "no answer yet")
            return name.infos
        except OSError as error:
            if patience is None or error.errno in GONE:
                name.infos = []
                raise
            self._tell(name, host, error.strerror or str(error))
            return name.infos

    def _ask(self, name: Name, host: str, port: int) -> asyncio.Future[Any]:
        if name.asking is None:

            def answered(asked: asyncio.Future[Any]) -> None:
                name.asking = None
                if not asked.cancelled() and asked.exception() is None:
                    name.infos, name.at = asked.result(), self.loop.time()

            name.asking = asyncio.ensure_future(
                self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM), loop=self.loop
            )
            name.asking.add_done_callback(answered)
        return name.asking

    def _tell(self, name: Name, host: str, why: str) -> None:
        now = self.loop.time()
        if now - name.told >= LOG_SECONDS:
            name.told = now
            log.warning(
                "%s can't be resolved (%s): the address of %d s ago is used",
                host,
                why,
                now - name.at,
            )
