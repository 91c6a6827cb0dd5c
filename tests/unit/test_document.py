"""/openapi.json is of the whole gateway: no route of control and of the workers is missing."""

from typing import Any

from aiohttp import web

from fastproxy._table import PATHS
from fastproxy.control import drain, explain, health, metrics, reload
from fastproxy.control.admin import openapi
from fastproxy.control.admin.api import Api
from fastproxy.control.app import make_app

ABOUT_ITSELF = {"/", "/openapi.json"}


def test_every_route_is_in_the_document():
    nobody: Any = None
    app: web.Application = make_app(nobody, nobody)
    for module in (drain, health, metrics, reload):
        module.add_routes(app, nobody, nobody)
    explain.add_routes(app, nobody)
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    served |= {("post", f"/v1{path}") for paths in PATHS.values() for path in paths}
    paths = openapi.document(Api(nobody).load())["paths"]
    described = {(method, path) for path, operations in paths.items() for method in operations}
    assert {route for route in served - described if route[1] not in ABOUT_ITSELF} == set()
    workers_own = {"/v1/realtime", "/health/liveliness", "/health/liveness"}
    assert {path for _, path in described - served} == workers_own


def test_where_all_routes_lie_under_a_path():
    described = openapi.document(Api(Any).load(), "/llm")  # type: ignore[arg-type]  # asks no gateway
    assert described["servers"] == [{"url": "/llm"}]
    assert "/llm/v1/models" in openapi.page(described)
