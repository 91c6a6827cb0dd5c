"""The ends of a WebSocket that Python judges: openings, answers, Close frames, usage."""

import base64
import json

import pytest

from fastproxy.providers import websocket

# The example of RFC 6455 1.3.
NONCE, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
FIELDS = [
    (b"upgrade", b"WebSocket"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", NONCE),
]


def opening(
    *more: tuple[bytes, bytes], query: bytes = b"model=m", **how: bool
) -> websocket.Opening:
    return websocket.read_opening([*FIELDS, *more], query, how.get("keep_organization", False))


def test_the_example_of_the_rfc() -> None:
    assert opening().accept() == ACCEPT


def test_protocols_of_several_fields() -> None:
    name = b"sec-websocket-protocol"
    read = opening((name, b"a,, b"), (name, b"openai-organization.o, openai-insecure-api-key.sk-1"))
    assert (read.protocols, read.credential) == ([b"a", b"b"], b"sk-1")
    read = opening((name, b"openai-organization.o"), keep_organization=True)
    assert (read.protocols, read.credential) == ([b"openai-organization.o"], None)
    assert b"sec-websocket-protocol: openai-organization.o\r\n" in read.lines()


@pytest.mark.parametrize(
    ("query", "model", "carried"),
    [
        (b"model=a%2Fb+c", b"a/b c", b""),
        (b"model=a&intent=x%0d%0ay&z=1", b"a", b"&intent=x%0D%0Ay"),
        (b"model", None, b""),
        (b"", None, b""),
        (b"MODEL=a", None, b""),
    ],
)
def test_query(query: bytes, model: bytes | None, carried: bytes) -> None:
    read = opening(query=query)
    assert (read.model, read.query) == (model, carried)


@pytest.mark.parametrize(
    "query", [b"model=a&model=a", b"model=a&mode%6c=b", b"&".join([b"a=1"] * 99)]
)
def test_queries_with_two_readings(query: bytes) -> None:
    with pytest.raises(websocket.Refused) as caught:
        opening(query=query)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "nonce", [b"", NONCE[:-4], NONCE + b"AAAA", b"=" * 24, base64.b64encode(bytes(17))]
)
def test_nonces(nonce: bytes) -> None:
    fields = [(n, nonce if n == b"sec-websocket-key" else v) for n, v in FIELDS]
    with pytest.raises(websocket.Refused) as caught:
        websocket.read_opening(fields, b"", False)
    assert caught.value.param == "sec-websocket-key"


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (b"https://A.example:8", b"a.example:8", True),
        (b"https://a.example", b"a.example.evil", False),
        (b"https://a.example.evil", b"a.example", False),
        (b"https://a.example@evil", b"a.example", False),
        (b"https://a.example:8", b"a.example", False),
        (b"https://[::1", b"::1", False),
        (b"null", b"null", False),
        (b"null", b"", False),
        (b"", b"", False),
    ],
)
def test_same_site(origin: bytes, host: bytes, same: bool) -> None:
    assert websocket.same_site(origin, host) is same


@pytest.mark.parametrize("reason", ["", "why", "x" * 200, "é" * 100])
def test_close_frames(reason: str) -> None:
    """Never longer than a control frame may be, never half a character; a client's is masked."""
    plain = websocket.close_frame(1001, reason, None)
    assert plain[0] == 0x88
    assert plain[1] == len(plain) - 2 <= 125
    assert plain[2:4] == b"\x03\xe9"
    assert reason.startswith(plain[4:].decode())
    assert len(plain) == 4 + len(reason.encode()) or len(plain) > 125
    masked = websocket.close_frame(1001, reason, 0xFFFF_0102_0304)
    assert (masked[0], masked[1]) == (0x88, 0x80 | plain[1])
    key = masked[2:6]
    assert key == b"\x01\x02\x03\x04"
    assert bytes(b ^ key[i % 4] for i, b in enumerate(masked[6:])) == plain[2:]


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        ({"input_tokens": 3, "output_tokens": 4}, (3, 4, 0, 0, 0, 0)),
        (
            {
                "input_tokens": 3,
                "input_token_details": {"cached_tokens": 2},
                "output_token_details": 7,
            },
            (3, 0, 2, 0, 0, 0),
        ),
        (
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "input_token_details": {
                    "audio_tokens": 7,
                    "cached_tokens": 5,
                    "cached_tokens_details": {"audio_tokens": 4},
                },
                "output_token_details": {"audio_tokens": 3},
            },
            (9, 4, 5, 0, 3, 3),
        ),
        ({"input_tokens": True, "output_tokens": 1.5}, (0, 0, 0, 0, 0, 0)),
        ({"input_tokens": -1, "output_tokens": 1 << 53}, (0, 0, 0, 0, 0, 0)),
        ({}, None),
        ([1], None),
        (None, None),
    ],
)
def test_usage(usage: object, found: tuple[int, ...] | None) -> None:
    event = {"type": "response.done", "response": {"usage": usage}}
    assert websocket.usage(json.dumps(event).encode()) == found
