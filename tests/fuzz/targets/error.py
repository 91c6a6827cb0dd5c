"""Error answers of an upstream. Whatever it says, the client gets JSON without the upstream's key.

The key is written where the input has `K`, and JSON-escaped where it has `E`.
"""

import orjson

from fastproxy import errors

SECRET = b"sk-upstream-fedcba9876543210"
ESCAPED = SECRET.replace(b"-", b"\\u002d")
SEEDS = [
    b'\x00{"error":{"message":"bad K","type":"x","param":null,"code":"K"}}',
    b'\x01{"error":{"message":"bad E"}}',
    b'\x00[{"error":{"message":"K","status":"UNAUTHENTICATED"}}]',
    b'\x01{"type":"error","error":{"type":"authentication_error","message":"E"}}',
    b"\x00<html>K</html>",
    b'\x00{"detail":[{"msg":"E"}]}',
]
STATUSES = (400, 401, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 529, 599)


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    anthropic, status = bool(data[0] & 1), STATUSES[(data[0] >> 1) % len(STATUSES)]
    raw = data[1:].replace(b"K", SECRET).replace(b"E", ESCAPED)
    out = errors.upstream(status, raw, "openai", "group", anthropic, (SECRET,))
    assert SECRET not in out
    document = orjson.loads(out)
    assert SECRET.decode() not in str(document)
    assert isinstance(document["error"]["message"], str)
