"""The ends of a WebSocket (RFC 6455) that are worth words: the opening handshake, Close frames, usage.

Called once or twice for each connection, and once for each `response.done`; what happens to every frame is
compiled. Knows no connection.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote_plus, urlsplit

import orjson

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
KEY_TOKEN = b"openai-insecure-api-key."  # how a browser, which can set no header, brings its key
ORGANIZATION_TOKEN = b"openai-organization."
CARRIED = (b"intent",)  # of the query; the rest could steer the upstream
REASON_MAX = 123  # bytes of a Close frame's reason: a control frame's payload without the code
LARGEST = 1 << 53  # a number of tokens beyond it is none

Fields = Iterable[tuple[bytes, bytes]]


class Refused(ValueError):
    """An opening handshake that is answered with `status`; str() is for the client."""

    def __init__(self, status: int, message: str, param: str, lines: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.param, self.lines = status, param, lines


@dataclass
class Opening:
    """A client's opening handshake, judged."""

    key: bytes
    protocols: list[bytes]  # as they are offered upstream
    credential: bytes | None  # taken out of the protocols
    model: bytes | None
    query: bytes  # what is added to the upstream's target

    def lines(self) -> bytes:
        """The handshake's header lines upstream. No extension is offered, so that frames stay readable."""
        offered = b", ".join(self.protocols)
        return (
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: "
            + self.key
            + (b"\r\nsec-websocket-protocol: " + offered if offered else b"")
            + b"\r\n"
        )

    def accept(self) -> bytes:
        """The value by which a server shows that it has understood (RFC 6455 4.2.2)."""
        return base64.b64encode(hashlib.sha1(self.key + MAGIC).digest())  # noqa: S324  # no secret

    def agree(self, fields: Fields) -> bytes:
        """Our lines of the 101 for an upstream's. Raises ValueError when its handshake is not right."""
        values = _by_name(fields)
        if _tokens(values.get(b"upgrade", [])) != [b"websocket"] or b"upgrade" not in _tokens(
            values.get(b"connection", [])
        ):
            raise ValueError("its 101 is not for a WebSocket")
        accept = self.accept()
        if values.get(b"sec-websocket-accept") != [accept]:
            raise ValueError("its Sec-WebSocket-Accept is not the one for this handshake")
        if values.get(b"sec-websocket-extensions"):
            raise ValueError("it chose an extension that was not offered")
        chosen = values.get(b"sec-websocket-protocol", [])
        if chosen and (len(chosen) > 1 or chosen[0] not in self.protocols):
            raise ValueError("it chose a subprotocol that was not offered")
        lines = (
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: "
            + accept
            + b"\r\n"
        )
        return lines + (b"sec-websocket-protocol: " + chosen[0] + b"\r\n" if chosen else b"")


def read_opening(fields: Fields, query: bytes, keep_organization: bool) -> Opening:
    """Judge a client's opening handshake. Raises Refused."""
    values = _by_name(fields)
    if b"websocket" not in _tokens(values.get(b"upgrade", [])) or b"upgrade" not in _tokens(
        values.get(b"connection", [])
    ):
        lines = b"upgrade: websocket\r\nconnection: Upgrade\r\n"
        raise Refused(
            426, "This route is a WebSocket: a GET with Upgrade: websocket", "upgrade", lines
        )
    if values.get(b"sec-websocket-version") != [b"13"]:
        name = "sec-websocket-version"
        raise Refused(426, f"{name} 13 is expected", name, name.encode() + b": 13\r\n")
    keys = values.get(b"sec-websocket-key", [])
    if len(keys) != 1 or not _is_nonce(keys[0]):
        name = "sec-websocket-key"
        raise Refused(400, f"one {name} of 16 bytes in base64 is expected", name)
    protocols: list[bytes] = []
    credentials: list[bytes] = []
    for token in _listed(values.get(b"sec-websocket-protocol", [])):
        if token.startswith(KEY_TOKEN):
            credentials.append(token.removeprefix(KEY_TOKEN))
        elif keep_organization or not token.startswith(ORGANIZATION_TOKEN):
            protocols.append(token)
    if len(credentials) > 1:
        raise Refused(
            400, "more than one API key in sec-websocket-protocol", "sec-websocket-protocol"
        )
    try:
        asked = parse_qsl(query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise Refused(400, "the query has too many parameters", "query") from None
    models = [value for name, value in asked if name == b"model"]
    if len(models) > 1:
        raise Refused(400, "model is given more than once", "model")
    carried = "".join(
        f"&{name.decode()}={quote_plus(value)}" for name, value in asked if name in CARRIED
    )
    return Opening(
        keys[0],
        protocols,
        credentials[0] if credentials else None,
        (models[0] or None) if models else None,
        carried.encode(),
    )


def same_site(origin: bytes, host: bytes) -> bool:
    """Whether a page of this Origin came from the Host that it asks."""
    try:
        return bool(host) and urlsplit(origin.lower()).netloc == host.lower()
    except ValueError:
        return False


def close_frame(code: int, reason: str, mask: int | None) -> bytes:
    """A Close frame; `mask` of a client's, None for a server's."""
    text = reason.encode()[:REASON_MAX].decode(errors="ignore").encode()
    payload = struct.pack("!H", code) + text
    if mask is None:
        return bytes([0x88, len(payload)]) + payload
    key = struct.pack("!I", mask & 0xFFFFFFFF)
    masked = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    return bytes([0x88, 0x80 | len(payload)]) + key + masked


def usage(message: bytes) -> tuple[int, int, int, int, int, int] | None:
    """(input, output, cached, reasoning, audio input that was not cached, audio output) tokens of a `response.done`
    event; None: it is none, or tells none."""
    try:
        event = orjson.loads(message)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict) or event.get("type") != "response.done":
        return None
    found = _inner(_inner(event, "response"), "usage")
    if not found:
        return None
    given, made = _inner(found, "input_token_details"), _inner(found, "output_token_details")
    return (
        _count(found, "input_tokens"),
        _count(found, "output_tokens"),
        _count(given, "cached_tokens"),
        _count(made, "reasoning_tokens"),
        max(
            0,
            _count(given, "audio_tokens")
            - _count(_inner(given, "cached_tokens_details"), "audio_tokens"),
        ),
        _count(made, "audio_tokens"),
    )


def _inner(value: dict[str, object], name: str) -> dict[str, object]:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def _count(value: dict[str, object], name: str) -> int:
    count = value.get(name)
    return count if type(count) is int and 0 <= count < LARGEST else 0


def _by_name(fields: Fields) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        found.setdefault(name, []).append(value)
    return found


def _listed(values: list[bytes]) -> list[bytes]:
    return [item for value in values for part in value.split(b",") if (item := part.strip(b" \t"))]


def _tokens(values: list[bytes]) -> list[bytes]:
    return [item.lower() for item in _listed(values)]


def _is_nonce(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False
