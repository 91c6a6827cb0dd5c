"""The compiled head scanner against httptools (llhttp, strict): what the oracle refuses we refuse.

The invariant of every test here:
  1. ours accepts  =>  the oracle accepts the same bytes and reads the same message out of them;
  2. ours refuses what the oracle accepts  =>  the reason is one of STRICTER_*, each with its why;
  3. ours wants more  =>  the oracle has not seen the end either.
Inputs are seeds, all their one-byte changes, and mutations drawn by hypothesis.
This file must not know how the scanner works inside.
"""

from collections.abc import Iterator
from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy._chunked import py_chunked
from fastproxy._head import py_parse_request, py_parse_response

MORE, DONE, ERROR = 0, 1, -1

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
OK = b"HTTP/1.1 200 OK\r\n"

# What we refuse on purpose though llhttp takes it: reason, why, and bytes that show it.
STRICTER_REQUESTS = [
    ("Host is missing", "RFC 9112 3.2", b"GET / HTTP/1.1\r\n\r\n"),
    ("more than one Host", "RFC 9112 3.2", GET + b"Host: a\r\n\r\n"),
    ("invalid Host", "RFC 9112 3.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    (
        "Transfer-Encoding in HTTP/1.0",
        "RFC 9112 6.1: the framing is faulty",
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "transfer coding not implemented",
        "llhttp leaves the coding before chunked to its user; we cannot undo it",
        GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ),
    (
        "invalid Transfer-Encoding",
        "llhttp looks for chunked at the end of a list, even a malformed one, or behind blanks",
        GET + b"Transfer-Encoding: , chunked\r\n\r\n",
    ),
    ("HTTP version not supported", "RFC 9110 2.5", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    ("no HTTP version", "llhttp takes HTTP/0.9 lines", b"GET /\r\n\r\n"),
    (
        "more than one space before the HTTP version",
        "RFC 9112 3: exactly one",
        b"GET /  HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    ("line end before the request", "RFC 9112 2.2: one CRLF at most", b"\r\n\n" + GET + b"\r\n"),
    (
        "fragment in the target",
        "RFC 9112 3.2: no form of target has one",
        b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    (
        "invalid target",
        "llhttp takes every scheme, and * with every method",
        b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    (
        "invalid authority in the target",
        "RFC 9110 4.2.4: userinfo is an error; llhttp does not look at ports",
        b"GET http://u@a/ HTTP/1.1\r\n" + HOST + b"\r\n",
    ),
    ("target without a path", "no route of ours", b"GET http://a HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("CONNECT is not implemented", "no tunnels", b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n"),
    (
        "more than one of a credential field",
        "two components could check different ones",
        GET + b"Authorization: a\r\nAuthorization: b\r\n\r\n",
    ),
    ("unknown expectation", "RFC 9110 10.1.1: 417", GET + b"Expect: x\r\n\r\n"),
    ("too many fields", "a bound", GET + b"A: b\r\n" * 128 + b"\r\n"),
    ("too many Connection options", "a bound", GET + b"Connection: a" + b",a" * 64 + b"\r\n\r\n"),
    ("head too large", "a bound", GET + b"A: " + b"b" * 32768 + b"\r\n\r\n"),
    ("target too long", "a bound", b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
]
STRICTER_RESPONSES = [
    ("line end before the response", "RFC 9112 2.2 is about requests", b"\r\n" + OK + b"\r\n"),
    ("HTTP version not supported", "RFC 9110 2.5", b"HTTP/2.0 200 OK\r\n\r\n"),
    ("invalid status", "RFC 9110 15: 100 to 599", b"HTTP/1.1 999 OK\r\n\r\n"),
    (
        "control byte in the reason",
        "RFC 9112 4: HTAB, SP, visible and obs-text",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
    ),
    (
        "body announced where none can be",
        "RFC 9110 8.6, RFC 9112 6.1: no framing fields in 1xx and 204",
        b"HTTP/1.1 204 OK\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        "Transfer-Encoding in HTTP/1.0",
        "RFC 9112 6.1: the framing is faulty",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "transfer coding not implemented",
        "llhttp leaves the coding before chunked to its user",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    ),
    (
        "invalid Transfer-Encoding",
        "llhttp reads to the end of the connection for other codings",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
    ),
    (
        "more than one Transfer-Encoding",
        "llhttp joins the fields to a list",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    ("too many fields", "a bound", OK + b"A: b\r\n" * 129 + b"\r\n"),
    ("too many Connection options", "a bound", OK + b"Connection: a" + b",a" * 64 + b"\r\n\r\n"),
    ("head too large", "a bound", OK + b"A: " + b"b" * 32768 + b"\r\n\r\n"),
]
STRICTER_BODIES = [
    (
        "invalid chunk extension",
        "RFC 9112 7.1.1: a name, `=` with a value, quotes around the whole value",
        b"0;a=\r\n\r\n",
    ),
    ("chunk size line too long", "a bound (CVE-2024-22019)", b"0;" + b"a" * 300 + b"\r\n\r\n"),
    ("chunk too large", "16 digits at most", b"0" * 17 + b"\r\n\r\n"),
    ("trailers too large", "a bound", b"0\r\nA: " + b"b" * 8192 + b"\r\n\r\n"),
]


def reasons(listed: list[tuple[str, str, bytes]]) -> set[str]:
    """The reasons alone."""
    return {reason for reason, _, _ in listed}


# Names httptools knows; it refuses all others. A method is no framing, and the caller's list of
# methods decides (501, 405): the oracle is asked about the rest of the head.
METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"}


class Oracle:
    """Collects what httptools says about the messages in the bytes it is fed."""

    def __init__(self, data: bytes, response: bool = False) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.heads = 0
        self.messages = 0
        self.keep_alive = False
        self.refused = False
        self.upgraded = False
        kind = httptools.HttpResponseParser if response else httptools.HttpRequestParser
        self.parser: Any = kind(self)
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """More bytes of the connection."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.upgraded = True  # taken; it leaves us with what follows
        except httptools.HttpParserError as why:
            # 101 without fitting fields: llhttp only stops here, it has not refused anything
            self.refused = str(why) != "Pause on CONNECT/Upgrade"

    def on_url(self, data: bytes) -> None:
        if not self.heads:
            self.url += data

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.heads:  # later ones are trailers
            self.headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.heads += 1
        self.keep_alive = self.parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.messages += 1


def for_oracle(data: bytes, head: dict[str, Any]) -> bytes:
    """The bytes of an accepted request head, with a method that httptools knows."""
    if head["method"] in METHODS:
        return data[: head["size"]]
    at = data.index(head["method"])
    return data[:at] + b"GET" + data[at + len(head["method"]) : head["size"]]


def body_for(head: dict[str, Any]) -> tuple[bytes, bytes]:
    """Some body of the framing that we found, and its payload."""
    if head["chunked"]:
        return b"3\r\nabc\r\n0\r\n\r\n", b"abc"
    size = min(max(head["content_length"], 0), 100)
    return b"x" * size, b"x" * size


def compare(data: bytes, response: bool = False) -> int:
    """Hold one input against the oracle; our result."""
    head = py_parse_response(data) if response else py_parse_request(data)
    if head["result"] == DONE:
        seen = Oracle(data[: head["size"]] if response else for_oracle(data, head), response)
        assert not seen.refused, (data, head)
        assert seen.heads == 1, (data, head)
        assert [(name, value) for _, name, value, _ in head["fields"]] == seen.headers, data
        assert seen.parser.get_http_version() == f"1.{head['minor']}"
        if response:
            assert seen.parser.get_status_code() == head["status"]
        else:
            assert seen.url.endswith(head["target"])
        assert seen.keep_alive or not head["keep_alive"], (data, head)
        if head["status"] != 101 and not seen.upgraded:
            # we never upgrade: the message ends by its framing (RFC 9110 7.8 lets a server go on)
            compare_body(head, seen, data)
    else:
        seen = Oracle(data, response)
        if seen.heads and not seen.refused:
            assert head["result"] == ERROR, (data, head)
            stricter = STRICTER_RESPONSES if response else STRICTER_REQUESTS
            assert head["error"] in reasons(stricter), (data, head)
    return int(head["result"])


def compare_body(head: dict[str, Any], seen: Oracle, data: bytes) -> None:
    """The oracle ends the message where we do."""
    body, payload = body_for(head)
    if body:
        assert seen.messages == 0, (data, head)
        seen.feed(body[:-1])
        assert (seen.messages, seen.refused) == (0, False), (data, head)
        seen.feed(body[-1:])
    if head["close_delimited"]:
        seen.feed(b"more")
        assert (seen.messages, seen.body, seen.refused) == (0, b"more", False), (data, head)
    else:
        whole = head["content_length"] <= 100
        assert seen.messages == whole, (data, head)
        assert (seen.body, seen.refused) == (payload, False), (data, head)


CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def compare_chunked(data: bytes) -> int:
    """Hold one chunked body against the oracle; our result."""
    got, payload, used, error = py_chunked([data])
    if got == DONE:
        seen = Oracle(CHUNKED_HEAD + data[: used - 1])
        assert (seen.messages, seen.refused) == (0, False), data
        seen.feed(data[used - 1 : used])
        assert (seen.messages, seen.refused, seen.body) == (1, False, payload), data
    else:
        seen = Oracle(CHUNKED_HEAD + data)
        if seen.messages:
            assert got == ERROR, data
            assert error in reasons(STRICTER_BODIES), (data, error)
    return got


REQUESTS = [
    b"POST /v1/chat?a=b HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 5\r\n"
    b"X-Y: z w\t\x80 \r\nConnection: keep-alive, x-y\r\n\r\n",
    b"GET http://a.b/c HTTP/1.0\r\nAccept: */*\r\nE:\r\nConnection: keep-alive\r\n\r\n",
    b"\r\nOPTIONS * HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: [::1]:1\r\n"
    b"Expect: 100-continue\r\n\r\n",
    b"PUT / HTTP/1.1\r\nhost:a\r\nConnection:close\r\nUpgrade: h2c\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK fine\r\nContent-Length: 5\r\nX-Y: z w\t\x80 \r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 404 \r\nX:\r\nConnection: keep-alive\r\n\r\n",
    b"HTTP/1.1 304 Not\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
]
BODIES = [
    b'5;a=b;c="d\\"e"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n',
    b"1\r\nx\r\n0;a\r\nX-Y: z w\t\x80 \r\nE:\r\n\r\n",
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
]

INSERTED = [bytes([byte]) for byte in range(256)] + [b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\n ", b", "]


def changes(data: bytes) -> Iterator[bytes]:
    """The data, and everything one byte (or one line end) away from it."""
    yield data
    for at in range(len(data)):
        yield data[:at] + data[at + 1 :]
        for byte in range(256):
            yield data[:at] + bytes([byte]) + data[at + 1 :]
        for more in INSERTED:
            yield data[:at] + more + data[at:]


def prefixes_agree(data: bytes, response: bool = False) -> None:
    """A prefix is unfinished or refused, and a refusal is final: same status, reason and place."""
    parse = py_parse_response if response else py_parse_request
    whole = parse(data)
    for size in range(len(data)):
        head = parse(data[:size])
        if head["result"] == ERROR or (whole["result"] == DONE and size >= whole["size"]):
            assert head == whole, (data, size)
        else:
            assert head["result"] == MORE, (data, size)


class TestStricter:
    """Each reason by which we refuse more than the oracle, shown once."""

    @pytest.mark.parametrize(("reason", "_why", "data"), STRICTER_REQUESTS)
    def test_requests(self, reason: str, _why: str, data: bytes) -> None:
        seen = Oracle(data)
        assert (seen.heads, seen.refused) == (1, False)
        assert py_parse_request(data)["error"] == reason

    @pytest.mark.parametrize(("reason", "_why", "data"), STRICTER_RESPONSES)
    def test_responses(self, reason: str, _why: str, data: bytes) -> None:
        seen = Oracle(data, response=True)
        assert (seen.heads, seen.refused) == (1, False)
        assert py_parse_response(data)["error"] == reason

    @pytest.mark.parametrize(("reason", "_why", "data"), STRICTER_BODIES)
    def test_bodies(self, reason: str, _why: str, data: bytes) -> None:
        seen = Oracle(CHUNKED_HEAD + data)
        assert (seen.messages, seen.refused) == (1, False)
        assert py_chunked([data])[3] == reason


class TestOneByteAway:
    @pytest.mark.parametrize("seed", REQUESTS)
    def test_requests(self, seed: bytes) -> None:
        results = [compare(data) for data in changes(seed)]
        assert results[0] == DONE
        assert {MORE, DONE, ERROR} == set(results)

    @pytest.mark.parametrize("seed", RESPONSES)
    def test_responses(self, seed: bytes) -> None:
        results = [compare(data, True) for data in changes(seed)]
        assert results[0] == DONE
        assert {MORE, DONE, ERROR} == set(results)

    @pytest.mark.parametrize("seed", BODIES)
    def test_chunked(self, seed: bytes) -> None:
        results = [compare_chunked(data) for data in changes(seed)]
        assert {MORE, DONE, ERROR} == set(results)


class TestSplitAtEveryByte:
    @pytest.mark.parametrize("seed", REQUESTS)
    def test_requests(self, seed: bytes) -> None:
        for at in range(len(seed)):
            for byte in b"\0\n\r :a\xff":
                prefixes_agree(seed[:at] + bytes([byte]) + seed[at + 1 :] + b"GET")

    @pytest.mark.parametrize("seed", RESPONSES)
    def test_responses(self, seed: bytes) -> None:
        for at in range(len(seed)):
            for byte in b"\0\n\r :a\xff":
                prefixes_agree(seed[:at] + bytes([byte]) + seed[at + 1 :] + b"HTTP", True)


PIECES = [
    *(bytes([byte]) for byte in b'\0\t\n\v\f\r !"#%()*+,-./0159:;=?@AZ[\\]_az{|}~\x7f\x80\xa0\xff'),
    *(b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\r\r\n", b"\n\r\n"),
    *(
        b"chunked",
        b"gzip",
        b"identity",
        b"close",
        b"keep-alive",
        b"upgrade",
        b"HTTP/1.0",
        b"HTTP/1.1",
    ),
    *(b"HTTP/2.0", b" /", b"http://", b"00", b"18446744073709551616", b"0x5", b"GET ", b"CONNECT "),
    *(b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: gzip, chunked"),
    *(b"\r\nTransfer-Encoding:", b"\r\nTransfer-Encoding : chunked", b"\r\nContent-Length: 5"),
    *(b"\r\nContent-Length: 0", b"\r\nContent-Length:", b"\r\nConnection: close", b"\r\nHost: b"),
    *(b"\r\nConnection: keep-alive", b"\r\nExpect: 100-continue", b"\r\nUpgrade: h2c", b"\r\nA: b"),
    *(b"5\r\nhello\r\n", b"0\r\n\r\n", b";a=b", b';a="b"', b"\r\nhello\r\n"),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed after up to six cuts, insertions, copies and replacements."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from("icrd"))
        if kind == "i":
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[at:]
        elif kind == "r":
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[end:]
        elif kind == "c":
            data = data[:end] + data[at:]
        else:
            data = data[:at] + data[end:]
    return data


EXAMPLES = settings(max_examples=1000, deadline=None)


@EXAMPLES
@given(mutated(REQUESTS))
def test_mutated_requests(data: bytes) -> None:
    compare(data)
    prefixes_agree(data)


@EXAMPLES
@given(mutated(RESPONSES))
def test_mutated_responses(data: bytes) -> None:
    compare(data, True)
    prefixes_agree(data, True)


@EXAMPLES
@given(mutated(BODIES))
def test_mutated_bodies(data: bytes) -> None:
    compare_chunked(data)


LINES = [
    *(b"Host: a", b"Host: b", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 05"),
    *(b"Content-Length: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked"),
    *(b"Transfer-Encoding: chunked, gzip", b"Connection: close", b"Connection: keep-alive"),
    *(b"Connection: upgrade", b"Connection: Content-Length", b"Upgrade: websocket", b"A: b", b"A:"),
    *(b"Expect: 100-continue", b"Expect: x", b"TE: trailers", b"Trailer: A", b"Authorization: a"),
]


@EXAMPLES
@given(
    st.sampled_from([b"GET / HTTP/1.1", b"POST /a HTTP/1.0", b"FOO /a HTTP/1.1"]),
    st.lists(st.sampled_from(LINES), max_size=6),
)
def test_any_fields_in_requests(start: bytes, lines: list[bytes]) -> None:
    compare(b"\r\n".join([start, *lines]) + b"\r\n\r\n")


@EXAMPLES
@given(
    st.sampled_from([b"200 OK", b"204 x", b"304 x", b"100 x", b"101 x", b"103 x", b"500 x"]),
    st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.0 "]),
    st.lists(st.sampled_from(LINES), max_size=6),
)
def test_any_fields_in_responses(status: bytes, version: bytes, lines: list[bytes]) -> None:
    compare(b"\r\n".join([version + status, *lines]) + b"\r\n\r\n", True)
