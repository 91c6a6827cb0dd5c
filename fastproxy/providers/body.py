"""The JSON path of a request body: taken only by requests and deployments that need it.

Defaults fill what the client left out, `extra_body` wins over everything, dropped and proxy-only
fields go. What is not touched keeps its place and value; numbers keep theirs to orjson's precision.
"""

import gzip
import zlib
from typing import Any

import orjson

from fastproxy.routing import response_ids

# Fields that steer the proxy and are not part of the provider's API.
PROXY_ONLY = (
    "tags",
    "cache",
    "fallbacks",
    "num_retries",
    "timeout",
    "disable_fallbacks",
    "no-log",
    "context_window_fallback_dict",
)


class BodyError(ValueError):
    """The body can't be sent on; str() is for the client."""


class TooLarge(BodyError):
    """The decoded body is beyond a limit."""


def rewrite(
    raw: bytes, record: dict[str, Any], model: str, *, keep_metadata: bool, ask_usage: bool
) -> bytes:
    """The body as `record`'s deployment wants it.

    `record` is the snapshot's deployment; `ask_usage` adds stream_options.include_usage for metering.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BodyError(f"Invalid JSON payload: {error}") from None
    body["model"] = model
    previous = body.get("previous_response_id")
    if isinstance(previous, str):
        body["previous_response_id"] = response_ids.split(previous.encode())[1].decode()
    for name in PROXY_ONLY:
        body.pop(name, None)
    if not keep_metadata:
        body.pop("metadata", None)
    for name in [n for n in body if n.startswith("litellm_")]:
        del body[name]
    for name in record.get("drop_params") or ():
        body.pop(name, None)
    for name, value in (record.get("defaults") or {}).items():
        body.setdefault(name, value)
    body.update(record.get("extra_body") or {})
    if ask_usage:
        options = body.get("stream_options")
        body["stream_options"] = {
            **(options if isinstance(options, dict) else {}),
            "include_usage": True,
        }
    try:
        return orjson.dumps(body)
    except (TypeError, RecursionError) as error:  # nested too deep to be written
        raise BodyError(f"Invalid JSON payload: {error}") from None


def wants_usage(raw: bytes) -> bool:
    """Whether a raw `stream_options` value asks for the usage chunk."""
    try:
        options = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False  # rewrite() says what is wrong with it
    return isinstance(options, dict) and options.get("include_usage") is True


def decompress(raw: bytes, coding: str, limit: int) -> bytes:
    """The decoded body, at most `limit` bytes and 200 times its size.

    Raises BodyError on an unknown coding, damaged data or one of the limits.
    """
    bound = min(limit, max(len(raw) * 200, 65536))
    try:
        if coding in ("gzip", "x-gzip"):
            engine = zlib.decompressobj(wbits=31)
        elif coding == "deflate":
            # RFC 9110 8.4.1.2 means zlib; some senders leave its header out
            engine = zlib.decompressobj(wbits=15 if raw[:1] == b"\x78" else -15)
        elif coding == "zstd":
            return _zstd(raw, bound)
        else:
            raise BodyError(f"unsupported content-encoding {coding!r}: use gzip, deflate or zstd")
        out = engine.decompress(raw, bound + 1)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise BodyError(f"the {coding} body is damaged: {error}") from None
    if len(out) > bound:
        raise TooLarge(f"the {coding} body is larger than {bound} bytes when decoded")
    if not engine.eof or engine.unused_data:
        raise BodyError(f"the {coding} body is truncated or has bytes behind its end")
    return out


def _zstd(raw: bytes, bound: int) -> bytes:
    import zstandard

    try:
        engine = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        out = b""
        for at in range(0, len(raw), 16384):
            out += engine.decompress(raw[at : at + 16384])
            if len(out) > bound:
                raise TooLarge(f"the zstd body is larger than {bound} bytes when decoded")
        if not engine.eof or engine.unused_data:
            raise BodyError("the zstd body is truncated or has bytes behind its end")
    except zstandard.ZstdError as error:
        raise BodyError(f"the zstd body is damaged: {error}") from None
    return out
