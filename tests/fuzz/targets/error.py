"""Error answers of an upstream. Whatever it says, the client gets JSON without the upstream's key, or, where
answers are passed on as they come, the same bytes without it.

The key is written where the input has `K`, and JSON-escaped where it has `E` (one character) or `F` (all of them).
"""

import re

import orjson

from fastproxy import errors

SECRET = b"sk-upstream-fedcba9876543210"
ESCAPED = SECRET.replace(b"-", b"\\u002d")
ALL_ESCAPED = b"".join(b"\\u00%02X" % byte for byte in SECRET)
SEEDS = [
    b'\x00{"error":{"code":400,"message":"F","status":"INVALID_ARGUMENT"}}',
    b'\x01{"error":{"message":"F","other":["E",{"F":"K"}]}}',
    b'\x00{"error":{"message":"\\\\F \\\\\\\\F"}}',
    b'\x00{"error":{"message":"bad K","type":"x","param":null,"code":"K"}}',
    b'\x01{"error":{"message":"bad E"}}',
    b'\x00[{"error":{"message":"K","status":"UNAUTHENTICATED"}}]',
    b'\x01{"type":"error","error":{"type":"authentication_error","message":"E"}}',
    b"\x00<html>K</html>",
    b'\x00{"detail":[{"msg":"E"}]}',
]
STATUSES = (400, 401, 403, 404, 408, 413, 418, 429, 500, 502, 503, 504, 529, 599)


def unescaped(data: bytes) -> bytes:
    """With JSON's escapes of ASCII undone, as a reader would."""
    return re.sub(
        rb"\\(?:u00([0-7][0-9a-fA-F])|([\"/\\]))",
        lambda m: bytes([int(m[1], 16)]) if m[1] else m[2],
        data,
    )


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    anthropic, status = bool(data[0] & 1), STATUSES[(data[0] >> 1) % len(STATUSES)]
    raw = data[1:].replace(b"K", SECRET).replace(b"E", ESCAPED)
    raw = raw.replace(b"F", ALL_ESCAPED)
    out = errors.upstream(status, raw, "openai", "group", anthropic, (SECRET,))
    assert SECRET not in out
    document = orjson.loads(out)
    assert SECRET.decode() not in str(document)
    assert isinstance(document["error"]["message"], str)
    assert SECRET.decode() not in str(orjson.loads(errors.google_upstream(status, raw, (SECRET,))))
    passed = errors.redact_bytes(raw, (SECRET,))
    assert SECRET not in passed
    assert unescaped(raw) == raw or SECRET not in unescaped(passed)
    if SECRET not in unescaped(raw):
        assert passed == raw
