"""Requests without a single reading: refused with the right status, closed, and nothing goes upstream.

Invariants of every row:
  1. the status is the one of the row, and the connection closes behind the answer;
  2. neither the message nor the request smuggled behind it reaches the upstream;
  3. how the bytes are cut into reads changes nothing.
The rows follow RFC 9112, RFC 9110 and the smuggling techniques that are published for gateways.
"""

import contextlib
import socket

import pytest
from harness import MASTER, Client
from wire.scripted import BODY, Wire, post

from fastproxy._chunked import py_chunked
from fastproxy._head import py_parse_request

KEY = b"Authorization: Bearer " + MASTER.encode() + b"\r\n"
START = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: g\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = post(b'{"model":"m","messages":[],"user":"smuggled"}')


def with_fields(
    *lines: bytes, body: bytes = b"", start: bytes = START, host: bytes = HOST
) -> bytes:
    """A POST with a valid key and these field lines (without their line ends)."""
    return start + host + KEY + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def sized(*lines: bytes, start: bytes = START, host: bytes = HOST) -> bytes:
    """The same with a body that would be accepted."""
    return start + host + KEY + LENGTH + b"".join(x + b"\r\n" for x in lines) + b"\r\n" + BODY


def chunked(body: bytes) -> bytes:
    """The same with a chunked body of these bytes."""
    return with_fields(b"Transfer-Encoding: chunked", body=body)


WHOLE = b"%x\r\n%b\r\n" % (len(BODY), BODY)  # one chunk with an acceptable body

# id, bytes, status
HEADS: list[tuple[str, bytes, int]] = [
    # RFC 9112 3.2: Host
    ("host-missing", sized(host=b""), 400),
    ("host-twice", sized(host=HOST + HOST), 400),
    ("host-twice-different", sized(host=HOST + b"Host: h\r\n"), 400),
    ("host-empty", sized(host=b"Host:\r\n"), 400),
    ("host-userinfo", sized(host=b"Host: u@g\r\n"), 400),
    ("host-slash", sized(host=b"Host: g/x\r\n"), 400),
    ("host-list", sized(host=b"Host: a, b\r\n"), 400),
    ("host-space", sized(host=b"Host: a b\r\n"), 400),
    ("host-port-text", sized(host=b"Host: g:80a\r\n"), 400),
    ("host-port-large", sized(host=b"Host: g:65536\r\n"), 400),
    ("host-nul", sized(host=b"Host: g\0\r\n"), 400),
    ("host-missing-absolute", sized(start=START.replace(b"/v1", b"http://g/v1"), host=b""), 400),
    # RFC 9112 6.1: both framings
    ("cl-te", with_fields(LENGTH[:-2], b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-cl", with_fields(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
    (
        "cl-te-named",
        with_fields(LENGTH[:-2], b"Transfer-Encoding: chunked", b"Connection: content-length", body=b"0\r\n\r\n"),
        400,
    ),
    # RFC 9112 6.3: Content-Length
    ("cl-twice-same", sized(LENGTH[:-2]), 400),
    ("cl-twice", sized(b"Content-Length: 0"), 400),
    ("cl-list-same", with_fields(b"Content-Length: 27, 27", body=BODY), 400),
    ("cl-list", with_fields(b"Content-Length: 27, 0", body=BODY), 400),
    ("cl-plus", with_fields(b"Content-Length: +27", body=BODY), 400),
    ("cl-minus", with_fields(b"Content-Length: -1"), 400),
    ("cl-minus-zero", with_fields(b"Content-Length: -0"), 400),
    ("cl-hex", with_fields(b"Content-Length: 0x1b", body=BODY), 400),
    ("cl-empty", with_fields(b"Content-Length:"), 400),
    ("cl-blank", with_fields(b"Content-Length: \t "), 400),
    ("cl-fraction", with_fields(b"Content-Length: 27.0", body=BODY), 400),
    ("cl-exponent", with_fields(b"Content-Length: 1e1"), 400),
    ("cl-underscore", with_fields(b"Content-Length: 2_7", body=BODY), 400),
    ("cl-inner-space", with_fields(b"Content-Length: 2 7", body=BODY), 400),
    ("cl-quoted", with_fields(b'Content-Length: "27"', body=BODY), 400),
    ("cl-2^64", with_fields(b"Content-Length: 18446744073709551616"), 400),
    ("cl-2^64+27", with_fields(b"Content-Length: 18446744073709551643", body=BODY), 400),
    ("cl-2^63", with_fields(b"Content-Length: 9223372036854775808"), 400),
    ("cl-nul", with_fields(b"Content-Length: 27\0", body=BODY), 400),
    ("cl-wide-digits", with_fields("Content-Length: ２７".encode(), body=BODY), 400),
    ("cl-space-colon", with_fields(b"Content-Length : 27", body=BODY), 400),
    # RFC 9112 6.1, 6.3: Transfer-Encoding
    ("te-twice", with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-identity-twice", with_fields(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-identity", with_fields(b"Transfer-Encoding: identity"), 400),
    ("te-gzip", with_fields(b"Transfer-Encoding: gzip"), 400),
    ("te-gzip-chunked", with_fields(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    ("te-chunked-gzip", with_fields(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"), 400),
    ("te-chunked-chunked", with_fields(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 400),
    ("te-xchunked", with_fields(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
    ("te-chunkedx", with_fields(b"Transfer-Encoding: chunked;q=1", body=b"0\r\n\r\n"), 400),
    ("te-quoted", with_fields(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 400),
    ("te-comma", with_fields(b"Transfer-Encoding: ,chunked", body=b"0\r\n\r\n"), 400),
    ("te-comma-behind", with_fields(b"Transfer-Encoding: chunked,", body=b"0\r\n\r\n"), 400),
    ("te-empty", with_fields(b"Transfer-Encoding:"), 400),
    ("te-tab", with_fields(b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n"), 400),
    ("te-vtab", with_fields(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    ("te-space-behind", with_fields(b"Transfer-Encoding: chunked ", body=b"0\r\n\r\n"), 400),
    ("te-space-colon", with_fields(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"), 400),
    ("te-underscore-with-cl", with_fields(b"Transfer Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-folded", with_fields(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"), 400),
    ("te-bare-cr", with_fields(b"X: a\rTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-bare-lf", with_fields(b"X: a\nTransfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("te-nul", with_fields(b"Transfer-Encoding: chunked\0", body=b"0\r\n\r\n"), 400),
    ("te-high-byte", with_fields(b"Transfer-Encoding: \xff chunked", body=b"0\r\n\r\n"), 400),
    ("te-http-1.0", with_fields(b"Transfer-Encoding: chunked", start=START.replace(b"1.1", b"1.0"), body=b"0\r\n\r\n"), 400),
    # RFC 9110 2.5, 9112 2.3: versions
    ("version-2.0", sized(start=START.replace(b"1.1", b"2.0")), 505),
    ("version-1.2", sized(start=START.replace(b"1.1", b"1.2")), 505),
    ("version-0.9", sized(start=START.replace(b"1.1", b"0.9")), 505),
    ("version-lower", sized(start=START.replace(b"HTTP", b"http")), 400),
    ("version-long", sized(start=START.replace(b"1.1", b"1.10")), 400),
    ("version-comma", sized(start=START.replace(b"1.1", b"1,1")), 400),
    ("version-missing", b"GET /health/liveness\r\n\r\n", 400),
    ("preface-h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    # RFC 9112 2.2, 5.2; 9110 5.5: line ends and forbidden bytes
    ("fold", sized(b"X: a\r\n b"), 400),
    ("fold-tab", sized(b"X: a\r\n\tb"), 400),
    ("fold-first", sized(host=b" Host: g\r\n"), 400),
    ("bare-lf-line", START[:-2] + b"\n" + HOST + KEY + LENGTH + b"\r\n" + BODY, 400),
    ("bare-lf-field", sized(b"X: a\nY: b"), 400),
    ("bare-lf-end", START + HOST + KEY + LENGTH[:-2] + b"\n\n" + BODY, 400),
    ("bare-cr-value", sized(b"X: a\rb"), 400),
    ("bare-cr-end", START + HOST + KEY + LENGTH + b"\rX" + BODY, 400),
    ("crlf-cr-end", START + HOST + KEY + LENGTH + b"\r\r\n" + BODY, 400),
    ("nul-value", sized(b"X: a\0b"), 400),
    ("nul-name", sized(b"X\0: a"), 400),
    ("del-value", sized(b"X: a\x7f"), 400),
    ("space-colon", sized(b"X : a"), 400),
    ("tab-colon", sized(b"X\t: a"), 400),
    ("no-colon", sized(b"X"), 400),
    ("empty-name", sized(b": a"), 400),
    ("name-quote", sized(b'"X": a'), 400),
    ("name-high", sized(b"X\xe9: a"), 400),
    # RFC 9112 3: the request line
    ("line-two-spaces", sized(start=START.replace(b" HTTP", b"  HTTP")), 400),
    ("line-tab", sized(start=START.replace(b"POST ", b"POST\t")), 400),
    ("line-leading-space", sized(start=b" " + START), 400),
    ("line-trailing-space", sized(start=START[:-2] + b" \r\n"), 400),
    ("line-two-empty", b"\r\n\r\n" + sized(), 400),
    ("line-empty-lf", b"\n" + sized(), 400),
    ("line-method-quote", sized(start=START.replace(b"POST", b"PO\"ST")), 400),
    ("target-fragment", sized(start=START.replace(b" HTTP", b"#x HTTP")), 400),
    ("target-space", sized(start=START.replace(b"/v1", b"/ v1")), 400),
    ("target-nul", sized(start=START.replace(b"/v1", b"/\0v1")), 400),
    ("target-high", sized(start=START.replace(b"/v1", b"/\xc0\xafv1")), 400),
    ("target-relative", sized(start=START.replace(b"/v1", b"v1")), 400),
    ("target-authority", sized(start=START.replace(b"/v1/chat/completions", b"g:80")), 400),
    ("target-scheme", sized(start=START.replace(b"/v1", b"ftp://g/v1")), 400),
    ("target-userinfo", sized(start=START.replace(b"/v1", b"http://u:p@g/v1")), 400),
    ("target-star", sized(start=START.replace(b"/v1/chat/completions", b"*")), 400),
    ("connect", b"CONNECT g:443 HTTP/1.1\r\nHost: g:443\r\n\r\n", 501),
    # credentials
    ("two-authorizations", sized(b"Authorization: Bearer other"), 400),
    ("two-api-keys", sized(b"x-api-key: a", b"X-Api-Key: b"), 400),
    # RFC 9110 10.1.1
    ("expect-unknown", sized(b"Expect: 200-ok"), 417),
    ("expect-two", sized(b"Expect: 100-continue", b"Expect: 100-continue"), 417),
    ("expect-obfuscated", sized(b"Expect: y 100-continue"), 417),
    # limits
    ("target-long", sized(start=START.replace(b"/v1", b"/v1?" + b"a" * 9000)), 414),
    ("method-long", sized(start=START.replace(b"POST", b"A" * 1000)), 501),
    ("fields-many", sized(*(b"A%d: b" % i for i in range(200))), 431),
    ("field-long", sized(b"A: " + b"b" * 33000), 431),
    ("target-256k", sized(start=START.replace(b"/v1", b"/v1?" + b"a" * 262144)), 414),
    ("method-100k", sized(start=START.replace(b"POST", b"A" * 100_000)), 501),
    ("fields-20000", sized(*(b"A%d: b" % i for i in range(20_000))), 431),
    ("field-256k", sized(b"A: " + b"b" * 262144), 431),
    ("name-long", sized(b"A" * 33000 + b": b"), 431),
]  # fmt: skip

BODIES: list[tuple[str, bytes, int]] = [
    # RFC 9112 7.1 and its published misreadings; the head is good, so the fault is in the body
    ("chunk-size-empty", chunked(b"\r\n" + WHOLE + b"0\r\n\r\n"), 400),
    ("chunk-size-prefix-0x", chunked(b"0x" + WHOLE + b"0\r\n\r\n"), 400),
    ("chunk-size-plus", chunked(b"+" + WHOLE + b"0\r\n\r\n"), 400),
    ("chunk-size-minus", chunked(b"-1\r\n\r\n0\r\n\r\n"), 400),
    ("chunk-size-space", chunked(b" " + WHOLE + b"0\r\n\r\n"), 400),
    ("chunk-size-space-behind", chunked(b"1b \r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-size-underscore", chunked(b"1_b\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-size-overflow", chunked(b"1000000000000001b\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-size-overflow-long", chunked(b"f" * 40 + b"\r\n"), 400),
    ("chunk-size-zeros", chunked(b"0" * 40 + WHOLE + b"0\r\n\r\n"), 400),
    ("chunk-bare-lf-size", chunked(b"1b\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-bare-cr-size", chunked(b"1b\r" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-bare-lf-data", chunked(b"1b\r\n" + BODY + b"\n0\r\n\r\n"), 400),
    ("chunk-data-long", chunked(b"1b\r\n" + BODY + b"x\r\n0\r\n\r\n"), 400),
    ("chunk-data-short", chunked(b"1c\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-no-crlf-behind-data", chunked(b"1b\r\n" + BODY + b"0\r\n\r\n"), 400),
    ("chunk-spill", chunked(b"5\r\n{    XX0\r\n\r\n"), 400),
    ("chunk-ext-bare-lf", chunked(b"1b;a\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-ext-bare-cr", chunked(b"1b;a\rb\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-ext-term", chunked(b"2;\n{}\r\n0\r\n\r\n"), 400),
    ("chunk-ext-nul", chunked(b"1b;\0\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-ext-quote-crlf", chunked(b'1b;a="\r\n' + BODY + b"\r\n0\r\n\r\n"), 400),
    ("chunk-ext-long", chunked(b"1b;" + b"a" * 300 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), 400),
    ("trailer-bare-lf", chunked(WHOLE + b"0\r\nA: b\n\r\n"), 400),
    ("trailer-fold", chunked(WHOLE + b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    ("trailer-content-length", chunked(WHOLE + b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    ("trailer-transfer-encoding", chunked(WHOLE + b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    ("trailer-no-colon", chunked(WHOLE + b"0\r\nA\r\n\r\n"), 400),
    ("trailer-large", chunked(WHOLE + b"0\r\n" + b"A: b\r\n" * 4000 + b"\r\n"), 400),
    ("end-bare-lf", chunked(WHOLE + b"0\r\n\n"), 400),
    ("end-bare-cr", chunked(WHOLE + b"0\r\n\rX"), 400),
    ("body-declared-10-gb", with_fields(b"Content-Length: 10000000000"), 413),
    ("body-chunk-10-gb", chunked(b"2540be400\r\n" + b"{" + b" " * 1100000), 413),
    ("body-chunked-endless", chunked(b"100000\r\n{" + b" " * 1048575 + b"\r\n4000\r\n" + b" " * 100), 413),
]  # fmt: skip

ROWS = HEADS + BODIES


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(sized(b"X: a\0b"), id="head"),
        pytest.param(chunked(b"0x" + WHOLE), id="chunk"),
        pytest.param(with_fields(b"Content-Length: 10000000000"), id="length"),
    ],
)
def test_closes_by_itself(wire: Wire, message: bytes) -> None:
    with wire.client() as client:
        client.send(message)
        assert client.answer().status in (400, 413)
        assert client.closed()


def refused(wire: Wire, message: bytes, status: int, cut: bool) -> None:
    """Send the row; see the status, the end of the connection, and nothing upstream."""
    before = len(wire.upstream.requests)
    with wire.client() as client:
        data = message + SMUGGLED
        if cut:
            wire.pieces(client, [data[i : i + 1] for i in range(len(data))])
        else:
            client.send(data)
        answer = client.answer()
        assert answer.status == status
        assert answer.header("connection") == "close"
        with contextlib.suppress(OSError):  # else the gateway may linger for the rest of a body
            client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
        assert client.buffer == b""
    wire.barrier()
    assert len(wire.upstream.requests) == before


@pytest.mark.parametrize(("message", "status"), [pytest.param(m, s, id=i) for i, m, s in ROWS])
def test_refused(wire: Wire, message: bytes, status: int) -> None:
    refused(wire, message, status, cut=False)


@pytest.mark.parametrize(
    ("message", "status"), [pytest.param(m, s, id=i) for i, m, s in ROWS if len(m) < 1000]
)
def test_refused_byte_by_byte(wire: Wire, message: bytes, status: int) -> None:
    refused(wire, message, status, cut=True)


@pytest.mark.parametrize(("message", "status"), [pytest.param(m, s, id=i) for i, m, s in HEADS])
def test_heads_cut_at_every_byte(message: bytes, status: int) -> None:
    """The parser's view: a prefix is either unfinished or refused for the reason of the whole."""
    whole = py_parse_request(message)
    assert (whole["result"], whole["error_status"]) == (-1, status)
    for end in range(len(message)):
        part = py_parse_request(message[:end])
        if part["result"]:
            assert part["error_status"] == status
            assert part["error"] == whole["error"]
            break


@pytest.mark.parametrize(
    "message", [pytest.param(m, id=i) for i, m, s in BODIES if b"\r\n\r\n" in m and s == 400]
)
def test_bodies_cut_at_every_byte(message: bytes) -> None:
    body = message.partition(b"\r\n\r\n")[2]
    whole = py_chunked([body])
    assert whole[0] == -1
    for at in range(len(body)):
        assert py_chunked([body[:at], body[at:]])[::3] == whole[::3]


def skip_interim(client: Client) -> None:
    """Past a 100 answer, which comes only where the body was not there yet."""
    while len(client.buffer) < 25:
        assert client.fill()
    client.buffer = client.buffer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


GOOD = [
    pytest.param(post(), id="length"),
    pytest.param(chunked(WHOLE + b"0\r\n\r\n"), id="chunked"),
    pytest.param(chunked(b"1\r\n{\r\n1a;x=\"y\"\r\n" + BODY[1:] + b"\r\n0\r\nA: b\r\n\r\n"), id="trailers"),
    pytest.param(post() + post(), id="pipelined"),
    pytest.param(chunked(WHOLE + b"0\r\n\r\n") + post(), id="pipelined-chunked"),
    pytest.param(b"\r\n" + post(), id="empty-line-before"),
    pytest.param(post(BODY, b"Expect: 100-continue"), id="expect"),
]  # fmt: skip


@pytest.mark.parametrize("message", GOOD)
def test_accepted_however_cut(wire: Wire, message: bytes) -> None:
    """Two reads, cut at every byte; then one read for each byte."""
    count = message.count(b"HTTP/1.1")
    before = len(wire.upstream.requests)
    with wire.client() as client:

        def answers() -> None:
            for _ in range(count):
                skip_interim(client)
                answer = client.answer()
                assert (answer.status, answer.body) == (200, b"{}")

        for at in range(1, len(message)):
            wire.pieces(client, [message[:at], message[at:]])
            answers()
        wire.pieces(client, [message[i : i + 1] for i in range(len(message))])
        answers()
        assert client.buffer == b""
    new = wire.upstream.requests[before:]
    assert len(new) == count * len(message)
    body = BODY.replace(b'"m"', b'"up"')
    assert {request.partition(b"\r\n\r\n")[2] for request in new} == {body}
