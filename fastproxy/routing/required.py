"""`enforced_params`: what a request's body has to have, by name; dots lead into objects (`metadata.generation_name`)."""

import re
from collections.abc import Iterable
from typing import Any

import orjson

# a part of a form: its head, up to the empty line, and what follows
PART = re.compile(rb"\r\n((?:[^\r\n]+\r\n)+)\r\n(.*)", re.DOTALL)
NAME = re.compile(rb'(?i)^content-disposition:[^\r\n]*;[ \t]*name="([^"]*)"', re.MULTILINE)


def compiled(names: Iterable[str], known: tuple[str, ...]) -> tuple[tuple[Any, ...], ...] | None:
    """(name, index of its first part among the scanner's fields or -1, its parts) of each; None: nothing is required."""
    found = []
    for name in dict.fromkeys(names):
        parts = tuple(name.split("."))
        found.append((name, known.index(parts[0]) if parts[0] in known else -1, parts))
    return tuple(found) or None


def has(raw: bytes, parts: tuple[str, ...]) -> bool:
    """Whether a JSON value leads to something by these names; null is nothing."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    for part in parts:
        if not isinstance(value, dict):
            return False
        value = value.get(part)
    return value is not None


def form_has(raw: bytes, delimiter: bytes, parts: tuple[str, ...]) -> bool:
    """The same of a form's body, whose parts begin with a delimiter; below a field's name it is read as JSON."""
    for piece in (b"\r\n" + raw).split(b"\r\n" + delimiter):
        part = PART.match(piece)
        name = NAME.search(part[1]) if part else None
        if part is not None and name is not None and name[1] == parts[0].encode():
            return len(parts) == 1 or has(part[2].removesuffix(b"\r\n"), parts[1:])
    return False


def message(parts: tuple[str, ...]) -> str:
    """What a client is told, as LiteLLM says it."""
    shown = parts[0] if len(parts) == 1 else "".join(f"[{part}]" for part in parts)
    return f"BadRequest please pass param={shown} in request body. This is a required param"
