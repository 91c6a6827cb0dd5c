"""Forgiving readers: configs in the wild hold scalars for lists and words for booleans."""

from typing import Any

from fastproxy.config.errors import ConfigError

TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0", "", "none", "null"}


def listing(value: Any) -> list[Any]:
    """A list; a scalar is a list of one, nothing is none."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def boolean(value: Any, place: str, name: str, default: bool = False) -> bool:
    """True, "True", "yes", 1 …"""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ConfigError(f"{place}: {name}: true or false is expected, not {kind(value)}")


def kind(value: Any) -> str:
    """What a value is, for a message; never the value itself, it could be a secret."""
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "a mapping", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), "nothing" if value is None else type(value).__name__)


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables of names."""
    return frozenset(text.split())
