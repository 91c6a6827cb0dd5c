"""WebSocket by the byte (RFC 6455): frames, handshakes, and a link of which a test holds both ends."""

import base64
import hashlib
import re
import struct
from typing import Any

from harness import MASTER, Client, until
from wire.scripted import HOLD, Connection, Wire

NONCE = base64.b64encode(b"0123456789abcdef").decode()
TEXT, BINARY, CLOSING, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, mask: bool = False, fin: bool = True) -> bytes:
    """One frame; masked as a client's."""
    head = bytes([opcode | (0x80 if fin else 0)])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(payload))
    if not mask:
        return head + payload
    key = b"\x11\x22\x33\x44"
    pad = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return head + key + masked.to_bytes(len(payload), "big")


def closing(code: int, reason: str = "", *, mask: bool = False) -> bytes:
    return frame(CLOSING, struct.pack("!H", code) + reason.encode(), mask=mask)


def handshake(
    path: str = "/v1/realtime?model=m", key: str | None = MASTER, **lines: str | None
) -> bytes:
    """A client's opening; `lines` replace or (None) remove fields, _ for -."""
    fields: dict[str, str | None] = {
        "Host": "g",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": NONCE,
        "Authorization": f"Bearer {key}" if key else None,
    }
    fields.update({name.replace("_", "-"): value for name, value in lines.items()})
    head = "".join(f"{n}: {v}\r\n" for n, v in fields.items() if v is not None)
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


def accept(request: bytes) -> bytes:
    """The Sec-WebSocket-Accept of an opening."""
    found = re.search(rb"(?i)\r\nsec-websocket-key: *([^\r]*)", request)
    assert found, request
    return base64.b64encode(
        hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    )


def switch(connection: Connection, *more: bytes) -> None:
    """The upstream's good 101."""
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n"
    answer += b"Sec-WebSocket-Accept: " + accept(connection.requests[-1]) + b"\r\n"
    connection.sock.sendall(answer + b"".join(line + b"\r\n" for line in more) + b"\r\n")


class Pair:
    """Both ends of a WebSocket through the gateway."""

    def __init__(
        self, wire: Wire, path: str = "/v1/realtime?model=m", *more: bytes, **lines: Any
    ) -> None:
        self.wire = wire
        before = len(wire.upstream.requests)
        wire.upstream.play(lambda c: switch(c, *more), HOLD, "close")
        self.client: Client = wire.client()
        self.client.send(handshake(path, **lines))
        until(lambda: len(wire.upstream.requests) > before, what="the handshake upstream")
        self.server = wire.last()
        self.server.sock.settimeout(10)
        self.status, headers, self.head = self.client.head()
        self.headers = dict(headers)
        assert self.status == 101, self.head

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.sock.close()
        self.server.go.set()

    def to_server(self, data: bytes, want: bytes | None = None) -> None:
        """What the client sends is what the upstream gets."""
        self.client.send(data)
        assert self.at_server(len(data if want is None else want)) == (
            data if want is None else want
        )

    def to_client(self, data: bytes) -> None:
        self.server.send(data)
        assert self.at_client(len(data)) == data

    def at_server(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self.server.sock.recv(min(size - len(data), 1 << 16))
            if not piece:
                break
            data += piece
        return bytes(data)

    def at_client(self, size: int) -> bytes:
        data = bytearray(self.client.buffer)
        self.client.buffer = b""
        while len(data) < size and self.client.fill():
            data += self.client.buffer
            self.client.buffer = b""
        self.client.buffer = bytes(data[size:])
        return bytes(data[:size])

    def rest_at_client(self) -> bytes:
        """Everything up to the end of the connection."""
        assert self.client.closed()
        return self.client.buffer

    def rest_at_server(self) -> bytes:
        data = b""
        try:
            while piece := self.server.sock.recv(1 << 16):
                data += piece
        except ConnectionResetError:
            pass
        return data
