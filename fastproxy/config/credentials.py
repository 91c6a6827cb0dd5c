"""Which parameters of a deployment hold credentials, or could: those are not shown, and sealed where they are stored."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastproxy.config import registry

WORDS = ("key", "secret", "token", "password", "credential", "headers")
PLAIN = ("max_tokens", "max_completion_tokens")  # and prices
FREE = ("extra_body", "http_proxy")  # what is in them is the provider's, so it may be a credential


def is_secret(name: str, value: Any) -> bool:
    """Whether a parameter is not to be told, for its name or for what is in it."""
    if name in PLAIN or registry.is_price(name):
        return False
    return name in FREE or any(word in name.lower() for word in WORDS) or _holds_secret(value)


def without_userinfo(address: str) -> str:
    """An address without what it may hold of credentials: a user, a query."""
    url = urlsplit(address)
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="").geturl()


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(is_secret(str(name), item) for name, item in value.items())
    if isinstance(value, list):
        return any(map(_holds_secret, value))
    if not isinstance(value, str) or "://" not in value:
        return False
    try:
        url = urlsplit(value)
    except ValueError:
        return True  # not one that anybody could have looked into
    return "@" in url.netloc or bool(url.query)
