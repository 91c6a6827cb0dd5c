"""Between aiohttp and the handlers: which key asks, what it asks for, and the workers' acknowledgement.

A handler runs in the store's thread, in one transaction. An answer goes out when the change is on disk and in
force in every worker.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection
from types import ModuleType
from typing import Any, Protocol

import msgspec
import orjson
from aiohttp import web

from fastproxy.control.admin.refused import Invalid, Refused
from fastproxy.control.admin.routes import ROUTES, Route
from fastproxy.control.store.engine import Store

log = logging.getLogger("fastproxy.admin")

KEY_HEADER = "x-fastproxy-key"  # digest of the key that the worker accepted; no client can send it
RECORD_HEADER = "x-fastproxy-record"  # of a key that only custom_auth knows
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
MAX_DEPTH = 32  # of a body's lists and mappings: they are stored, and answered, as they came
NO_STORE = (
    "DB not connected. This endpoint needs the store, which is off: {reason}. "
    "Start with --data-dir DIRECTORY, a place that can be written to"
)


class Gateway(Protocol):
    """What the admin API needs of the control process."""

    async def store(self) -> Store:
        """The open store. Raises NoStore, Unavailable."""

    def public_routes(self) -> Collection[str]:
        """Paths that want no key."""

    def surroundings(self) -> Any:
        """work.Surroundings of now."""

    async def in_force(
        self,
        touched: Collection[str],
        models: bool,
        respent: Collection[tuple[str, str]] = (),
    ) -> None:
        """Bring a change of `touched` keys to every worker; respent: (scope, a key of it) whose spend was set."""


class NoStore(Exception):
    """There is no store; str() says why."""


class Api:
    """The admin API as aiohttp handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.modules: dict[str, ModuleType] = {}
        self.document: dict[str, Any] | None = None

    def add_to(self, app: web.Application) -> None:
        """Register every route."""
        for route in ROUTES:
            app.router.add_route(route.method, route.path, self._serve(route))
        app.router.add_get("/openapi.json", self.describe)
        app.router.add_get("/", self.show)

    async def describe(self, request: web.Request) -> web.Response:
        """/openapi.json, without a key, as LiteLLM has it: it says nothing about this installation."""
        if self._docs_off():
            raise web.HTTPNotFound
        return web.Response(
            body=orjson.dumps(await self._document()), content_type="application/json"
        )

    async def show(self, request: web.Request) -> web.Response:
        """The page at /."""
        if self._docs_off():
            return web.Response(
                text="fastproxy: an LLM gateway. OpenAI API at /v1, models at /v1/models.\n"
            )
        from fastproxy.control.admin import openapi

        headers = {"content-security-policy": PAGE_POLICY}
        text = openapi.page(await self._document())
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _document(self) -> dict[str, Any]:
        if self.document is None:
            from fastproxy.control.admin import openapi

            root = os.environ.get("SERVER_ROOT_PATH", "").strip("/")
            self.document = openapi.document(await self.loaded(), f"/{root}" if root else "")
        return self.document

    def _docs_off(self) -> bool:
        return os.environ.get("NO_DOCS", "").lower() in ("true", "1")

    def _serve(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            return await self.handle(route, request)

        return answer

    async def handle(self, route: Route, request: web.Request) -> web.Response:
        """Answer one request. Raises Refused, Unavailable."""
        digest = request.headers.get(KEY_HEADER)
        if digest is None and route.path not in self.gateway.public_routes():
            raise Refused(401, "Authentication Error, No api key passed in.", "auth_error", "None")
        if RECORD_HEADER in request.headers:
            raise Refused(403, "Keys of custom_auth may use models, not manage.", "auth_error")
        raw = (
            await request.read()
        )  # before anything is judged: what is left unread would end the connection
        try:
            store = await self.gateway.store()
            modules = await self.loaded()
            handler, shape = modules["work"].handler_of(modules, route)

            def asked() -> Any:
                if route.method == "GET":
                    return _query(request, shape)
                return _body(raw, shape, modules)

            done = await store.run(
                modules["work"].perform,
                digest,
                self.gateway.surroundings(),
                route,
                handler,
                asked,
                dict(request.match_info),
            )
        except NoStore as error:
            message = NO_STORE.format(reason=error)
            raise Refused(500, message, "internal_server_error") from None
        if done.touched or done.models_changed:
            await self.gateway.in_force(done.touched, done.models_changed, done.respent)
        return web.Response(body=orjson.dumps(done.answer), content_type="application/json")

    async def loaded(self) -> dict[str, ModuleType]:
        """The modules behind the routes, imported beside the loop when the first request has come."""
        return self.modules or await asyncio.to_thread(self.load)

    def load(self) -> dict[str, ModuleType]:
        """The modules behind the routes; they bring SQLAlchemy with them."""
        if not self.modules:
            from fastproxy.control.admin import (
                audit,
                budgets,
                keys,
                models,
                spend,
                teams,
                users,
                values,
                work,
            )

            found = (audit, budgets, keys, models, spend, teams, users, values, work)
            self.modules = {module.__name__.rpartition(".")[2]: module for module in found}
        return self.modules


def _body(raw: bytes, shape: type[msgspec.Struct], modules: dict[str, ModuleType]) -> Any:
    try:
        body = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError as error:
        raise Invalid(["body"], f"JSON decode error: {error}", "json_invalid") from None
    if not isinstance(body, dict):
        raise Invalid(["body"], "Input should be a valid dictionary", "dict_type")
    if _deeper(body, MAX_DEPTH):
        raise Invalid(["body"], f"nested deeper than {MAX_DEPTH} levels")
    return _convert(modules["values"].hoist(body, shape), shape, "body")


def _query(request: web.Request, shape: type[msgspec.Struct]) -> Any:
    query = {name: value for name, value in request.query.items() if value != ""}
    return _convert(query, shape, "query")


def _convert(value: dict[str, Any], shape: type[msgspec.Struct], where: str) -> Any:
    try:
        return msgspec.convert(value, shape, strict=False)
    except msgspec.ValidationError as error:
        # the message holds a type and a place, never the value: it could be a key
        text, _, path = str(error).partition(" - at `$")
        place = [
            part for part in path.rstrip("`").replace("[", ".").replace("]", "").split(".") if part
        ]
        raise Invalid([where, *place], text) from None


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_deeper(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_deeper(item, levels - 1) for item in value)
    return False
