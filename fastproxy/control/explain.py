"""`GET /explain?model=…&key=…`: where a request would go and what would follow a failure, without sending anything."""

import hashlib
from typing import Any

from aiohttp import web

from fastproxy._table import KeyRecord
from fastproxy.config.patterns import match
from fastproxy.config.registry import STRATEGIES
from fastproxy.config.traffic import CLASSES
from fastproxy.control.app import Admin, Refused

Record = dict[str, Any]


def explain(admin: Admin, model: str, key: Record | None) -> Record:
    """What the newest snapshot and the deployments' traffic say about a model, for this key's record."""
    snapshot = admin.snapshot
    router = snapshot["router"]
    alias = (key or {}).get("aliases", {}).get(model)
    name = alias or model
    allowed = key is None or KeyRecord(key).allows(name.encode())
    group, how = _group(snapshot, name)
    strategy = next(n for n, number in STRATEGIES.items() if number == router["strategy"])
    found: Record = {
        "model": model,
        "allowed": allowed,
        "model_group": group and (group.get("name") or group["pattern"]),
        "reached_by": how if alias is None else f"alias of the key, {how}",
        "strategy": strategy,
        "deployments": [],
        "fallbacks": _fallbacks(router, name, group),
    }
    if group is None:
        return found
    traffic = admin.traffic.describe(group["slot"])
    found["in_flight"] = traffic["in_flight"]
    found["retries_in_flight"] = traffic["retries_in_flight"]
    found["num_retries"] = group["retries"]
    found["retry_policy"] = {
        name: count for name, count in zip(CLASSES, group["policy"], strict=False) if count >= 0
    }
    deployments = [snapshot["deployments"][i] for i in group["deployments"]]
    states = [admin.traffic.describe(d["slot"]) for d in deployments]
    fit = [
        d["unsupported"] is None
        and not s["cooling_seconds"]
        and not (s["unhealthy"] and router["health_routing"])
        and not (d["max_parallel"] and s["in_flight"] >= d["max_parallel"])
        for d, s in zip(deployments, states, strict=True)
    ]
    lowest = min((d["order"] for d, ok in zip(deployments, fit, strict=True) if ok), default=None)
    drawn = [ok and d["order"] == lowest for d, ok in zip(deployments, fit, strict=True)]
    total = sum(d["weight"] for d, ok in zip(deployments, drawn, strict=True) if ok)
    for d, state, ok in zip(deployments, states, drawn, strict=True):
        share = 0.0
        if ok:
            share = d["weight"] / total if total else 1 / sum(drawn)
        found["deployments"].append(
            {
                "id": d["id"],
                "model": d["litellm_model"],
                "api_base": d["api_base"],
                "order": d["order"],
                "weight": d["weight"],
                "share": round(share, 4) if strategy == "simple-shuffle" else None,
                "candidate": ok,
                "unsupported": d["problem"],
                "tags": d["tags"],
                "limits": {k: d[k] for k in ("rpm", "tpm", "max_parallel")},
                **state,
            }
        )
    return found


def _group(snapshot: Record, name: str) -> tuple[Record | None, str]:
    for group in snapshot["groups"]:
        if group["name"] == name:
            return group, "its own name"
    for alias in snapshot["aliases"]:
        if alias["name"] == name:
            return _group(snapshot, alias["group"])[0], f"alias of {alias['group']}"
    for wildcard in snapshot["wildcards"]:
        if match(wildcard["pattern"], name) is not None:
            return wildcard, f"pattern {wildcard['pattern']}"
    return None, "nothing: no group, alias or pattern has this name"


def _fallbacks(router: Record, name: str, group: Record | None) -> Record:
    names = [name, *([group["name"]] if group and "name" in group else []), "*"]
    found: Record = {}
    for kind, lists in router["fallbacks"].items():
        found[kind] = next((lists[n] for n in names if n in lists), [])
    found["fallbacks"] = found["fallbacks"] or router["default_fallbacks"]
    found["max_fallbacks"] = router["max_fallbacks"]
    return found


def add_routes(app: web.Application, admin: Admin) -> None:
    """`GET /explain`."""

    async def route(request: web.Request) -> web.StreamResponse:
        asker = admin.authenticate(request)
        model = request.query.get("model")
        if not model:
            raise Refused(400, "model is missing", "invalid_request_error", "model")
        about: Record | None = None if asker.get("master") else asker
        text = request.query.get("key")
        if text:
            if not asker.get("master"):
                raise Refused(403, "Only the master key may ask about other keys.", "auth_error")
            digest = text if len(text) == 64 else hashlib.sha256(text.encode()).hexdigest()
            about = next((k for k in admin.snapshot["keys"] if k["digest"] == digest), None)
            about = about or admin.stored(digest)
            if about is None:
                raise Refused(404, "There is no such key.", "invalid_request_error", "key")
        found = explain(admin, model, about)
        if not asker.get("master") and not found["allowed"]:
            raise Refused(403, f"The key may not use {model}.", "key_model_access_denied", "model")
        if not asker.get("master"):
            for deployment in found["deployments"]:
                del deployment["api_base"]
        return web.json_response(found)

    app.router.add_get("/explain", route)
