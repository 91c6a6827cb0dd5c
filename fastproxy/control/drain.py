"""`/health/drain`: not ready any more, for a balancer to see; answers when nothing is in flight.

For what calls it before it sends TERM, such as a preStop hook: TERM closes the port at once, and a balancer
that has not heard of it yet would meet closed doors. Who still comes is served.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from fastproxy import config
from fastproxy.control.app import Admin, Refused

log = logging.getLogger("fastproxy.control")

READINESS = "/health/readiness"
TOKEN_HEADER = "x-drain-token"  # noqa: S105  # its name
TOKEN_VARIABLE = "DRAIN_ENDPOINT_TOKEN"  # noqa: S105  # its name
LOOK_SECONDS = 0.05


class Drain:
    """Whether this gateway takes leave."""

    def __init__(
        self, admin: Admin, seconds: float, publish: Callable[[], Awaitable[None]]
    ) -> None:
        self.admin = admin
        self.seconds = seconds  # for requests in flight
        self.publish = publish  # the snapshot anew, with the routes as they are now
        self.enabled = False
        self.token: config.Secret | None = None
        self.begun = False
        self.asking = 0  # drain requests, which are in flight themselves
        self.degraded = False  # spend waits for the store; requests don't

    def use(self, loaded: "config.Config") -> None:
        """Go by this configuration."""
        self.enabled = bool(loaded.general.enable_drain_endpoint)
        token = loaded.environ.get(TOKEN_VARIABLE)
        self.token = config.Secret(token) if token else None

    def routes(self, known: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """What the workers pass to control: readiness, which they answer themselves, only while there is news of it."""
        told = self.begun or self.degraded
        return [route for route in known if told or route[1] != READINESS]

    async def degrade(self, degraded: bool) -> None:
        """Readiness says whether the store takes what is spent."""
        if degraded != self.degraded:
            self.degraded = degraded
            await self.publish()

    def authorize(self, request: web.Request) -> None:
        """Raises Refused: there is no such route, or not for this request."""
        if not self.enabled:
            raise web.HTTPNotFound
        if self.token is None:
            self.admin.authenticate_master(request, f"drain without {TOKEN_VARIABLE}")
            return
        given = request.headers.get(TOKEN_HEADER, "")
        if not hmac.compare_digest(given.encode(), self.token.reveal().encode()):
            raise Refused(
                401, f"Authentication Error, {TOKEN_HEADER} is missing or wrong.", "auth_error"
            )

    async def __call__(self) -> int:
        """Begin, if nobody has, and wait for the end; how many requests are left."""
        if not self.begun:
            self.begun = True
            log.warning("draining: /health/readiness answers 503 from now on")
            await self.publish()
        self.asking += 1
        try:
            deadline = asyncio.get_running_loop().time() + self.seconds
            # the workers keep counts, not events
            while (left := self._left()) > 0 and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self.asking -= 1
        return left

    def _left(self) -> int:
        return self.admin.rings.counters()["in_flight"] - self.asking


def add_routes(app: web.Application, admin: Admin, drain: Drain) -> None:
    """`/health/drain`, and readiness while it goes on."""

    async def begin(request: web.Request) -> web.StreamResponse:
        drain.authorize(request)
        left = max(0, await drain())
        status = "timeout" if left else "drained"
        return web.json_response({"status": status, "in_flight_requests": left})

    async def readiness(request: web.Request) -> web.StreamResponse:
        if drain.begun:
            return web.json_response({"status": "draining"}, status=503)
        # not 503: what a balancer would send elsewhere is served here as well as ever
        db = "connected" if admin.snapshot["settings"]["store"] else "Not connected"
        return web.json_response({"status": "degraded" if drain.degraded else "healthy", "db": db})

    app.router.add_get("/health/drain", begin)
    app.router.add_post("/health/drain", begin)
    app.router.add_get(READINESS, readiness)
