"""Ids of the Responses API that say which deployment they came from, so that what follows lands there.

`resp_fp<8 hex digits>_` stands before the provider's own id. The digits are the beginning of the SHA-256 of
the deployment's id: they survive restarts and reloads, and name nothing to a client.
"""

import hashlib
import re

PREFIX = re.compile(rb"resp_fp([0-9a-f]{8})_(.+)", re.DOTALL)
TAIL = re.compile(rb"/([^/]+)(|/cancel|/input_items)")
ACTIONS = {b"": (b"GET", b"DELETE"), b"/cancel": (b"POST",), b"/input_items": (b"GET",)}


def mark(identity: str) -> bytes:
    """What is put before the ids of a deployment's answers."""
    return b"resp_fp" + hashlib.sha256(identity.encode()).hexdigest()[:8].encode() + b"_"


def split(value: bytes) -> tuple[bytes | None, bytes]:
    """(mark, the provider's id) of an id that a client sent; the mark is None if it has none of ours."""
    found = PREFIX.fullmatch(value)
    if found is None:
        return None, value
    return b"resp_fp" + found[1] + b"_", found[2]


def follow_up(rest: bytes) -> tuple[bytes, bytes, tuple[bytes, ...]] | None:
    """(id, action, methods) of what stands behind `/responses` in a path; None: no such route."""
    found = TAIL.fullmatch(rest)
    if found is None:
        return None
    return found[1], found[2], ACTIONS[found[2]]
