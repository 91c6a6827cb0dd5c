"""/openapi.json, made from the routes and the shapes that check them, and the page that shows it.

The page is one file without scripts from elsewhere: it works where there is no Internet, and loads nothing.
"""

import html
from types import ModuleType
from typing import Any

import msgspec

from fastproxy import __version__
from fastproxy.control.admin.routes import ROUTES, Route

# What is no route of the admin API is named here, so that the document is of the whole gateway. LLM routes are the
# workers'; all but Anthropic's also go without /v1.
LLM = (
    ("/v1/chat/completions", "OpenAI chat completions"),
    ("/v1/completions", "OpenAI completions"),
    ("/v1/embeddings", "OpenAI embeddings"),
    ("/v1/responses", "OpenAI responses"),
    ("/v1/messages", "Anthropic messages"),
    ("/v1/messages/count_tokens", "tokens of Anthropic messages"),
    ("/v1/moderations", "OpenAI moderations"),
    ("/v1/images/generations", "OpenAI images"),
    ("/v1/images/edits", "changes of images (multipart)"),
    ("/v1/audio/speech", "text to speech"),
    ("/v1/audio/transcriptions", "speech to text (multipart)"),
    ("/v1/audio/translations", "speech to English text (multipart)"),
    ("/v1/rerank", "order of documents by relevance"),
)
OTHERS = (
    ("GET", "/v1/models", "models", "models that the key may use"),
    ("GET", "/v1/models/{model}", "models", "one of them"),
    ("GET", "/v1/model/info", "models", "their deployments: `litellm_model_id`"),
    ("GET", "/models", "models", "as /v1/models"),
    ("GET", "/models/{model}", "models", "as /v1/models/{model}"),
    ("GET", "/model/info", "models", "as /v1/model/info"),
    ("GET", "/v1/realtime", "models", "OpenAI realtime (WebSocket)"),
    ("GET", "/explain", "models", "what becomes of a request for `model`: `key` (master key)"),
    ("GET", "/health", "operation", "asks every deployment: `model`"),
    ("GET", "/health/liveliness", "operation", "whether the gateway lives; without a key, as /health/liveness"),
    ("GET", "/health/liveness", "operation", "the same"),
    ("GET", "/health/readiness", "operation", "whether it is ready; without a key"),
    ("GET", "/health/backlog", "operation", "requests in flight and waiting"),
    ("GET", "/health/drain", "operation", "takes leave of a balancer; 404 unless enabled"),
    ("POST", "/health/drain", "operation", "the same"),
    ("POST", "/config/reload", "operation", "reads the configuration anew (master key)"),
    ("GET", "/metrics", "operation", "Prometheus' text or OpenMetrics"),
    ("GET", "/fastproxy/counters", "operation", "the workers' counters (master key)"),
    ("GET", "/fastproxy/events", "operation", "the newest requests: `limit` (master key)"),
)  # fmt: skip
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
INVALID: dict[str, Any] = {
    "anyOf": [
        ERROR,
        {
            "type": "object",
            "required": ["detail"],
            "properties": {
                "detail": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "loc", "msg"],
                        "properties": {
                            "type": {"type": "string"},
                            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                            "msg": {"type": "string"},
                        },
                    },
                }
            },
        },
    ]
}
REFUSALS = {
    "400": "understood, and not possible",
    "401": "no key, or one that is not valid",
    "403": "not for this key",
    "404": "what is named is not there",
    "409": "something has this name already",
    "413": "the body is larger than 1 MB",
    "414": "the address is longer than 8 KB",
    "500": "the store is off",
    "503": "the store, or the control plane, can't answer now",
}


def document(modules: dict[str, ModuleType], root: str = "") -> dict[str, Any]:
    """The OpenAPI document; root: the path that all routes lie under."""
    found = {route: modules["work"].handler_of(modules, route) for route in ROUTES}
    shapes = list(dict.fromkeys(shape for _, shape in found.values()))
    schemas, components = msgspec.json.schema_components(
        shapes, ref_template="#/components/schemas/{name}"
    )
    by_shape = dict(zip(shapes, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, summary in LLM:
        paths.setdefault(path, {})["post"] = _llm(summary)
    for method, path, tag, summary in OTHERS:
        paths.setdefault(path, {})[method.lower()] = _other(path, tag, summary)
    for route, (handler, shape) in found.items():
        schema = components[by_shape[shape]["$ref"].rpartition("/")[2]]
        operation = _operation(route, str(handler.__doc__), shape, schema)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastproxy",
            "version": __version__,
            "description": "An LLM gateway: LiteLLM's paths for models, keys, users, teams and budgets.",
        },
        **({"servers": [{"url": root}]} if root else {}),
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": ERROR, "Invalid": INVALID},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _llm(summary: str) -> dict[str, Any]:
    body = {"type": "object", "required": ["model"], "properties": {"model": {"type": "string"}}}
    return {
        "tags": ["models"],
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"default": {"description": "the provider's answer, or an error"}},
    }


def _other(path: str, tag: str, summary: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "responses": {"default": {"description": "the answer, or an error"}},
    }
    if "{model}" in path:
        operation["parameters"] = [
            {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation


def _operation(
    route: Route, summary: str, shape: type[msgspec.Struct], schema: dict[str, Any]
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "done", "content": {"application/json": {"schema": {}}}}
    }
    for status, text in REFUSALS.items():
        responses[status] = _response(text, "Error")
    responses["422"] = _response("not of the shape below", "Invalid")
    roles = ", ".join(sorted(role.value for role in route.who))
    operation: dict[str, Any] = {
        "tags": [route.tag],
        "summary": summary,
        "description": f"For {roles}.",
        "operationId": route.path.strip("/").replace("/", "_").replace("{key}", "of")
        + "_"
        + route.method.lower(),
        "responses": responses,
    }
    parameters = []
    if "{key}" in route.path:
        pattern = {"type": "string", "pattern": "^(sk-[!-~]{8,250}|[0-9a-f]{64})$"}
        parameters.append({"name": "key", "in": "path", "required": True, "schema": pattern})
    if route.method == "GET":
        needed = schema.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in needed, "schema": field}
            for name, field in schema.get("properties", {}).items()
        ]
    else:
        content = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}
        }
        operation["requestBody"] = {"required": bool(schema.get("required")), "content": content}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _response(text: str, name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fastproxy {version}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
code {{ font: 13px ui-monospace, monospace; }} summary {{ cursor: pointer; padding: .2rem 0; }}
td, th {{ text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; }} .m {{ display: inline-block; width: 3.5rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd; }} a {{ color: #8bf; }} }}
</style></head><body>
<h1>fastproxy {version}</h1>
<p>An LLM gateway. OpenAI API at <code>{root}/v1</code>, models at <code>{root}/v1/models</code>. This page is
<a href="openapi.json"><code>openapi.json</code></a>, to read.</p>
{sections}
</body></html>
"""


def page(described: dict[str, Any]) -> str:
    """The document as a page for a person."""
    sections: dict[str, list[str]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            lines = sections.setdefault(operation["tags"][0], [])
            lines.append(_entry(described, path, method, operation))
    text = "".join(
        f"<h2>{html.escape(tag)}</h2>{''.join(lines)}" for tag, lines in sections.items()
    )
    root = described.get("servers", [{"url": ""}])[0]["url"]
    return PAGE.format(version=html.escape(__version__), root=html.escape(root), sections=text)


def _entry(described: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    fields = [(p["name"], p["schema"], p["required"]) for p in operation.get("parameters", ())]
    body = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
    )
    if "$ref" in body:
        body = described["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    needed = body.get("required", ())
    fields += [
        (name, schema, name in needed) for name, schema in body.get("properties", {}).items()
    ]
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_type(schema))}</td>"
        f"<td>{'required' if required else ''}</td></tr>"
        for name, schema, required in fields
    )
    head = f"<span class=m>{method.upper()}</span> <code>{html.escape(path)}</code> {html.escape(operation['summary'])}"
    about = html.escape(operation.get("description", ""))
    return f"<details><summary>{head}</summary><p>{about}</p><table>{rows}</table></details>"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    return str(schema.get("type", "anything"))
