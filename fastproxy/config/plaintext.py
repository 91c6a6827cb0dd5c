"""Secrets that stand in the file itself. Says where, never what."""

import re
from collections.abc import Iterator
from typing import Any

from fastproxy.config.slop import words
from fastproxy.config.source import ENV_PREFIX, PLACEHOLDER, Path_

NAME = re.compile(
    r"(?i)(?:^|[_-])(?:api_?key|master_?key|secret|password|passwd|token|credentials?|access_?key(?:_id)?|"
    r"private_?key|salt_?key|secret_?key|public_key|auth|authorization|webhook_url|database_url|redis_url|dsn)s?$"
)
NOT_SECRET = re.compile(  # names that end like one and hold none
    r"(?i)(?:max|min|num|total|prompt|completion|input|output|context|cached?)_.*tokens?$|per_.*token|^custom_auth$"
)
VALUE = re.compile(
    r"^(?:sk-|gsk_|xai-|hf_|ghp_|github_pat_|AIza|AKIA|Bearer |Basic |eyJ)\S{8,}|://[^/@\s:]*:[^/@\s]+@"
)
# What people write where a key must stand and none is needed.
DUMMY = words(
    "dummy none null not-needed not_needed notneeded no-key nokey anything empty fake fake-key sk-dummy sk-fake "
    "sk-none na n/a ollama vllm lm-studio token placeholder unused sk-no-key-required ignored local"
)
KEY_OF_KEYS = "key"
MIN_LENGTH = 6


def secrets(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Paths of texts that look like a credential and are no `os.environ/` reference."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from secrets(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from secrets(item, (*path, index))
    elif isinstance(value, str) and _is_secret(path, value):
        yield path


def _is_secret(path: Path_, value: str) -> bool:
    if (
        ENV_PREFIX in value
        or PLACEHOLDER.search(value)
        or value.lower() in DUMMY
        or len(value) < MIN_LENGTH
    ):
        return False
    name = next((p for p in reversed(path) if isinstance(p, str)), "")
    if path[:2] == ("general_settings", "keys") and name == KEY_OF_KEYS:
        return True
    if VALUE.search(value):
        return True
    if NOT_SECRET.search(name) or "://" in value:
        return False  # an address is a secret only with a password in it
    return NAME.search(name) is not None
