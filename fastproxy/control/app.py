"""The HTTP routes of the control plane, on a private Unix socket behind the workers.

The worker authenticates, as it does for every route, and says whose key it was; what that key may see and
do is decided here.
"""

import logging
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from typing import Any

import orjson
from aiohttp import web

from fastproxy import errors, prices
from fastproxy._table import ENDPOINTS
from fastproxy._traffic import Traffic
from fastproxy.config import Config
from fastproxy.control.admin.api import KEY_HEADER, RECORD_HEADER, Api, Gateway
from fastproxy.control.admin.refused import Refused
from fastproxy.control.admin.roles import route_allowed
from fastproxy.control.admin.routes import ROUTES
from fastproxy.control.rings import Rings
from fastproxy.control.served import upstream_model
from fastproxy.control.store.engine import Unavailable

__all__ = ["Admin", "Refused", "make_app"]

log = logging.getLogger("fastproxy.control")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# beside those of the admin API, what `admin_only_routes` can keep for proxy admins
LISTS = ("/models", "/v1/models", "/model/info", "/v1/model/info", "/explain", "/metrics")
LINES = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}  # by status
MODES = (  # by a part of a model's name, for deployments that don't say theirs
    ("embed", "embedding"), ("rerank", "rerank"), ("moderation", "moderation"), ("realtime", "realtime"),
    ("transcribe", "audio_transcription"), ("whisper", "audio_transcription"), ("tts", "audio_speech"),
    ("dall-e", "image_generation"), ("image", "image_generation"),
)  # fmt: skip
MODELS_CREATED = 1677610602  # the constant that clients of the LiteLLM proxy see


class Admin:
    """The state behind the routes: the newest snapshot, the stored keys as workers know them, the rings and
    the deployments' traffic."""

    def __init__(
        self, rings: Rings, traffic: Traffic, stored: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self.rings = rings
        self.traffic = traffic
        self.stored = stored
        self.snapshot: dict[str, Any] = {}
        self.started = time.time()

    def routes(self, app: web.Application) -> list[tuple[str, str]]:
        """(method, path) pairs that workers pass through to here; POST paths may have one parameter."""
        found = []
        for route in app.router.routes():
            path = route.resource.canonical if route.resource is not None else ""
            if route.method == "POST" or ("{" not in path and route.method != "HEAD"):
                found.append((route.method, path))
        return found

    def authenticate(self, request: web.Request) -> dict[str, Any]:
        """The record of the key that the worker has checked. Raises Refused when there was none."""
        record = self._record(request)
        routes = record.get("routes")
        path = _without_model(request.path)
        if routes and not route_allowed(path, routes):
            raise Refused(
                403,
                "Virtual key is not allowed to call this route. Only allowed to call routes: "
                f"{routes}. Tried to call route: {path}",
                "auth_error",
            )
        kept = path in self.snapshot["settings"]["admin_only_routes"]
        if kept and not (record.get("master") or record.get("admin")):
            raise Refused(
                403, f"Only proxy admins may call {path} (admin_only_routes).", "auth_error"
            )
        return record

    def _record(self, request: web.Request) -> dict[str, Any]:
        digest = request.headers.get(KEY_HEADER)
        if digest is None:
            if _without_model(request.path) in self.snapshot["settings"]["public_routes"]:
                return {"models": None}
            raise Refused(401, "Authentication Error, No api key passed in.", "auth_error", "None")
        if self.snapshot["open"]:
            return {"master": True, "models": None}
        for record in self.snapshot["keys"]:
            if record["digest"] == digest:
                found: dict[str, Any] = record
                return found
        if (custom := request.headers.get(RECORD_HEADER)) is not None:  # of custom_auth
            return dict(orjson.loads(b64decode(custom)))
        if (stored := self.stored(digest)) is not None:
            return stored
        raise Refused(
            401, "Authentication Error, The key is no longer known.", "auth_error", "None"
        )

    def authenticate_master(self, request: web.Request, deed: str) -> dict[str, Any]:
        """As `authenticate`, for what only the master key may do."""
        record = self.authenticate(request)
        if not record.get("master"):
            raise Refused(403, f"Only the master key may {deed}.", "auth_error")
        return record

    def visible_groups(self, record: dict[str, Any]) -> list[str]:
        """Model names that a key may use and see, in the order of the configuration."""
        snapshot = self.snapshot
        names = [group["name"] for group in snapshot["groups"]]
        names += [a["name"] for a in snapshot.get("aliases", ()) if not a.get("hidden")]
        names += [w["pattern"] for w in snapshot.get("wildcards", ()) if not w.get("hidden")]
        allowed = record.get("models") or []
        names = list(dict.fromkeys(names))
        if not allowed or "all-proxy-models" in allowed or "*" in allowed:
            return names
        return [n for n in names if any(fnmatchcase(n, pattern) for pattern in allowed)]


def make_app(admin: Admin, gateway: Gateway) -> web.Application:
    """The aiohttp application."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return web.Response(
                status=refused.status,
                body=refused.body,
                content_type="application/json",
                headers=LINES.get(refused.status),
            )
        except Unavailable as error:
            return web.Response(
                status=503,
                body=errors.body(
                    503,
                    f"The store can't answer now: {error}",
                    "service_unavailable",
                    None,
                    False,
                ),
                content_type="application/json",
                headers=LINES[503],
            )
        except web.HTTPException as error:
            return web.Response(
                status=error.status,
                body=errors.detail(error.reason),
                content_type="application/json",
            )
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return web.Response(
                status=500,
                body=errors.body(
                    500, "Internal server error", "internal_server_error", None, False
                ),
                content_type="application/json",
            )

    async def models(request: web.Request) -> web.StreamResponse:
        record = admin.authenticate(request)
        data = [_model(name) for name in admin.visible_groups(record)]
        return web.json_response({"data": data, "object": "list"})

    async def model(request: web.Request) -> web.StreamResponse:
        record = admin.authenticate(request)
        name = request.match_info["model"]
        if name not in admin.visible_groups(record):
            message = f"The model `{name}` does not exist or is not accessible"
            return web.json_response({"detail": message}, status=404)
        return web.json_response(_model(name))

    async def model_info(request: web.Request) -> web.StreamResponse:
        visible = set(admin.visible_groups(admin.authenticate(request)))
        wanted = request.query.get("litellm_model_id")
        data = [
            {"model_name": d["group"], "litellm_params": d["params"], "model_info": _info(d)}
            for d in admin.snapshot["deployments"]
            if d["group"] in visible and wanted in (None, "", d["id"])
        ]
        if wanted and not data:
            message = f"Model id = {wanted[:256]} not found on litellm proxy"
            raise Refused(400, message, "not_found_error", "litellm_model_id")
        return web.json_response({"data": data})

    async def events(request: web.Request) -> web.StreamResponse:
        admin.authenticate_master(request, "read usage events")
        admin.rings.drain()
        asked = request.query.get("limit", "100")
        if not asked.isdecimal() or not 0 < int(asked[:9]) <= 1000:
            raise Refused(
                400, "limit must be a number from 1 to 1000", "invalid_request_error", "limit"
            )
        limit = int(asked)
        rows = [_event(admin.snapshot, row) for row in admin.rings.recent(limit)]
        return web.json_response({"data": rows, "total": admin.rings.total})

    async def counters(request: web.Request) -> web.StreamResponse:
        admin.authenticate_master(request, "read counters")
        return web.json_response(admin.rings.counters())

    app = web.Application(middlewares=[guard])
    for prefix in ("", "/v1"):
        app.router.add_get(f"{prefix}/models", models)
        app.router.add_get(prefix + "/models/{model:.+}", model)
        app.router.add_get(f"{prefix}/model/info", model_info)
    Api(gateway).add_to(app)
    app.router.add_get("/fastproxy/events", events)
    app.router.add_get("/fastproxy/counters", counters)
    return app


def not_kept(loaded: Config) -> list[str]:
    """Those of `admin_only_routes` that everybody may call all the same, or nobody but the master key."""
    kept = {*LISTS, *(route.path for route in ROUTES)}
    return [route for route in loaded.general.admin_only_routes or () if route not in kept]


def _without_model(path: str) -> str:
    """A path as a route's name: /v1/models/{model} is one of /v1/models."""
    before, found, _ = path.partition("/models/")
    return f"{before}/models" if found else path


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODELS_CREATED, "owned_by": "openai"}


def _info(deployment: dict[str, Any]) -> dict[str, Any]:
    """What a client may want to know of a deployment: what its author says of it wins over what is known anyway."""
    known = {
        "db_model": False,
        "key": deployment["model"],
        "litellm_provider": deployment["provider"],
        "mode": _mode(deployment["model"]),
        **prices.shown(deployment.get("prices") or {}),
    }
    return {**known, **deployment["info"]}


def _mode(model: str) -> str:
    name = model.lower()
    return next((mode for part, mode in MODES if part in name), "chat")


def _event(snapshot: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A ring event with names instead of numbers, as far as they are still known."""
    known = row["snapshot"] == snapshot["version"] and row["deployment"] >= 0
    deployment = snapshot["deployments"][row["deployment"]] if known else None
    return {
        **row,
        "endpoint": ENDPOINTS[row["endpoint"]],
        "deployment": deployment and deployment["id"],
        "upstream_model": deployment and upstream_model(deployment, row["model"]),
    }
