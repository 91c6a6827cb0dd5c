"""The JSON Schema of a configuration, for editors: what is honoured with its type, the rest with its fate.

As lax as the loader: a number may stand as text, one name instead of a list, nothing instead of a section.
"""

from typing import Any

import msgspec

from fastproxy.config import registry, schema

REFERENCE = r"^os\.environ/.+"
SECTIONS = {  # the schema's names of the sections
    "GeneralSettings": registry.GENERAL,
    "LitellmSettings": registry.LITELLM,
    "RouterSettings": registry.ROUTER,
    "LitellmParams": registry.PARAMS,
    "ModelInfo": registry.INFO,
    "KeyEntry": registry.KEY,
    "PassThroughEndpoint": registry.PASS_THROUGH,
    "File": registry.TOP,
}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration."""
    found = msgspec.json.schema(schema.File)
    shape: dict[str, Any] = _lax(found)
    dates = {"type": ["number", "string", "null"]}  # a person writes a date
    shape["$defs"]["KeyEntry"]["properties"]["expires"] = dates
    for name, table in SECTIONS.items():
        properties = shape["$defs"][name].setdefault("properties", {})
        for key, fate in table.items():
            text = f"{fate.status}: {fate.why}" if fate.why else fate.status
            text = text.replace("protects: ", "refused where it protects: ")
            properties[key] = {**properties.get(key, {}), "description": text}
    params = shape["$defs"]["LitellmParams"]["properties"]
    for name in sorted(registry.REQUEST_FIELDS - params.keys()):
        params[name] = {"description": "default of the request's body"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fastproxy configuration (LiteLLM's format)",
        **shape,
    }


def _lax(node: Any) -> Any:
    if isinstance(node, list):
        return [_lax(item) for item in node]
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if kind in ("number", "integer", "boolean"):
        return {"anyOf": [node, *([{"enum": [0, 1]}] if kind == "boolean" else []), _as_text(kind)]}
    found = {key: _lax(value) if key != "default" else value for key, value in node.items()}
    if kind == "array":
        items = found.get("items", {})
        return {"anyOf": [found, items]} if items and "$ref" not in items else found
    return found


def _as_text(kind: str) -> dict[str, Any]:
    number = r"^\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*$"
    own = r"^\s*([Tt]rue|TRUE|[Ff]alse|FALSE|0|1)\s*$" if kind == "boolean" else number
    return {"type": "string", "anyOf": [{"pattern": own}, {"pattern": REFERENCE}, {"maxLength": 0}]}
