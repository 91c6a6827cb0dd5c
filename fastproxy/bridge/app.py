"""What the bridge answers: one POST route per endpoint, below the handle of the deployment that is meant."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from fastproxy.bridge import sdk
from fastproxy.bridge.faults import Fault, secrets_of
from fastproxy.bridge.fields import FieldError, arguments
from fastproxy.providers.extra import TAILS

log = logging.getLogger("fastproxy.bridge")

UNKNOWN_SECONDS = 2.0  # a worker may know a new snapshot before this process does


@dataclass
class Deployment:
    """What the SDK is told for one deployment."""

    params: dict[str, Any]
    timeout: float
    secrets: list[str]


class Deployments:
    """Deployments by handle: those of the newest snapshot and, for requests under way, of the one before."""

    def __init__(self) -> None:
        self.newest: dict[str, Deployment] = {}
        self.before: dict[str, Deployment] = {}
        self.news = asyncio.Condition()

    async def use(self, told: dict[str, dict[str, Any]]) -> None:
        """Take those of a new snapshot."""
        self.before, self.newest = (
            self.newest,
            {
                handle: Deployment(one["params"], one["timeout"], secrets_of(one["params"]))
                for handle, one in told.items()
            },
        )
        async with self.news:
            self.news.notify_all()

    async def find(self, handle: str) -> Deployment | None:
        """The deployment of a handle; waits a moment for one that is not known yet."""

        def known() -> Deployment | None:
            return self.newest.get(handle) or self.before.get(handle)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNKNOWN_SECONDS), self.news:
                await self.news.wait_for(known)
        return known()


class Bridge:
    """Requests to calls of the SDK."""

    def __init__(self, deployments: Deployments, call: sdk.Sdk) -> None:
        self.deployments = deployments
        self.call = call

    def app(self) -> web.Application:
        """The aiohttp application. Sizes are the gateway's to limit."""
        app = web.Application(client_max_size=1 << 40)
        for endpoint, tail in TAILS.items():
            app.router.add_post(f"/{{handle}}{tail}", self._route(endpoint))
        app.on_response_prepare.append(_leave_out)
        return app

    def _route(self, endpoint: str) -> Any:
        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve(endpoint, request)

        return serve

    async def _serve(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        deployment = await self.deployments.find(request.match_info["handle"])
        if deployment is None:
            return _refusal(endpoint, 503, "this deployment is not known here yet", None, 1)
        try:
            body = orjson.loads(await request.read())
            if not isinstance(body, dict):
                raise FieldError("Invalid JSON payload: an object is expected", "request_body")
            named = arguments(endpoint, body, deployment.params, deployment.timeout)
        except orjson.JSONDecodeError as error:
            return _refusal(endpoint, 400, f"Invalid JSON payload: {error}", "request_body")
        except FieldError as error:
            return _refusal(endpoint, 400, str(error), error.field)
        try:
            # a client that is gone cancels this task, and with it the call to the provider
            result = await self.call(endpoint, named)
            if sdk.is_stream(result):
                return await self._stream(endpoint, request, deployment, result)
            return web.Response(
                body=sdk.document(result),
                content_type="application/json",
                headers=sdk.told(result),
            )
        except Exception as error:
            fault = Fault(error, deployment.secrets)
            log.debug("%s failed with status %s", endpoint, fault.status)
            return _failure(endpoint, fault)

    async def _stream(
        self, endpoint: str, request: web.Request, deployment: Deployment, result: Any
    ) -> web.StreamResponse:
        events = sdk.events(endpoint, result)
        try:
            # what fails before the first chunk is an answer with a status
            first = await anext(events, b"")
            response = web.StreamResponse(
                headers={"content-type": "text/event-stream", **sdk.told(result)}
            )
            await response.prepare(request)
            await response.write(first)
            await _write_rest(endpoint, response, events, deployment)
            return response
        finally:
            # also when the client is gone: unread, the provider would go on
            await asyncio.shield(sdk.close(result))


async def _leave_out(request: web.Request, response: web.StreamResponse) -> None:
    # the gateway would hand them on as the provider's
    for name in ("server", "date"):
        response.headers.popall(name, None)


async def _write_rest(
    endpoint: str,
    response: web.StreamResponse,
    events: AsyncIterator[bytes],
    deployment: Deployment,
) -> None:
    try:
        async for event in events:
            await response.write(event)
    except ConnectionError:
        raise
    except Exception as error:
        await response.write(Fault(error, deployment.secrets).event(endpoint))
    await response.write_eof()


def _failure(endpoint: str, fault: Fault) -> web.Response:
    return web.Response(
        status=fault.status,
        body=fault.body(endpoint),
        content_type="application/json",
        headers=fault.headers,
    )


def _refusal(
    endpoint: str, status: int, message: str, param: str | None, retry_after: int | None = None
) -> web.Response:
    fault = Fault(RuntimeError(message))
    fault.status, fault.code, fault.param = status, str(status), param
    fault.kind = "invalid_request_error" if status == 400 else None
    if retry_after is not None:
        fault.headers["retry-after"] = str(retry_after)
    return _failure(endpoint, fault)
