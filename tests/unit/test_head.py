"""Request and response heads: the rules of RFC 9110 and 9112 one by one, and ways around them.

Each class is a duty of the parser; names follow the duty, so that a gap shows. What needs a
connection (body handling, early answers, forwarding) is tested elsewhere: here are only bytes in
and spans out.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from fastproxy._head import py_parse_request, py_parse_response

MORE, DONE, ERROR = 0, 1, -1
ROOT = Path(__file__).parents[2]


def name_ids() -> dict[str, int]:
    """H_* by name, in the order of the declaration: tests hold no second list of numbers."""
    source = (ROOT / "fastproxy" / "_head.pxd").read_text()
    names = re.findall(r"^    (H_\w+)", source, re.MULTILINE)
    return {name: number for number, name in enumerate(names)}


IDS = name_ids()


def request(
    *lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"Host: a"
) -> bytes:
    """A request head of these field lines."""
    every = [start, *([] if host is None else [host]), *lines]
    return b"\r\n".join(every) + b"\r\n\r\n"


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response head of these field lines."""
    return b"\r\n".join([start, *lines]) + b"\r\n\r\n"


def accepted(data: bytes, **limits: int) -> dict[str, Any]:
    """Parse a request that must be taken, whole."""
    head = py_parse_request(data, **limits)
    assert head["result"] == DONE, head
    assert head["size"] == len(data)
    return head


def refused(data: bytes, status: int = 400, **limits: int) -> dict[str, Any]:
    """Parse a request that must be refused; its prefixes are never accepted on the way."""
    head = py_parse_request(data, **limits)
    assert head["result"] == ERROR, (data, head)
    assert head["error_status"] == status, (data, head)
    assert head["error"]
    for size in range(len(data)):
        assert py_parse_request(data[:size], **limits)["result"] != DONE
    return head


def answered(data: bytes, to_head_request: bool = False) -> dict[str, Any]:
    """Parse a response that must be taken, whole."""
    head = py_parse_response(data, to_head_request)
    assert head["result"] == DONE, head
    assert head["size"] == len(data)
    return head


def bad_answer(data: bytes, to_head_request: bool = False) -> dict[str, Any]:
    """Parse a response that must be refused: always 502."""
    head = py_parse_response(data, to_head_request)
    assert head["result"] == ERROR, (data, head)
    assert head["error_status"] == 502
    assert head["error"]
    return head


def fields(head: dict[str, Any]) -> dict[bytes, tuple[int, bytes, bool]]:
    """Fields by lower-case name."""
    return {name.lower(): (number, value, hop) for number, name, value, hop in head["fields"]}


class TestRequestLine:
    def test_plain(self) -> None:
        head = accepted(b"POST /v1/chat/completions?x=1&y HTTP/1.1\r\nHost: api.test:8080\r\n\r\n")
        assert head["method"] == b"POST"
        assert head["target"] == b"/v1/chat/completions?x=1&y"
        assert head["path"] == b"/v1/chat/completions"
        assert (head["minor"], head["status"]) == (1, 0)
        assert head["content_length"] == -1
        assert not head["chunked"]

    @pytest.mark.parametrize("target", [b"/", b"//", b"/?", b"/%0d%0aX:y", b"/a?b?c", b"/a/../b"])
    def test_origin_form_is_left_alone(self, target: bytes) -> None:
        head = accepted(request(start=b"GET " + target + b" HTTP/1.1"))
        assert head["target"] == target
        assert head["path"] == target.split(b"?")[0]

    @pytest.mark.parametrize(
        ("target", "left"),
        [
            (b"http://a/", b"/"),
            (b"http://a.b:80/v1?q=/", b"/v1?q=/"),
            (b"HTTPS://[::1]:443/x", b"/x"),
            (b"http://a//b", b"//b"),
        ],
    )
    def test_absolute_form_becomes_origin_form(self, target: bytes, left: bytes) -> None:
        assert accepted(request(start=b"GET " + target + b" HTTP/1.1"))["target"] == left

    @pytest.mark.parametrize(
        "target",
        [
            b"http://a",
            b"http://a?b",
            b"http:///x",
            b"http://u@a/x",
            b"http://u:p@a/x",
            b"http://a:b/x",
            b"http://a:99999/x",
            b"http://a:123456/x",
            b"http://a%/x",
            b"http://[::1/x",
            b"http://a\\b/x",
            b"http:/a/x",
            b"http:a/x",
            b"http",
            b"https://",
            b"ftp://a/x",
            b"httpx://a/x",
            b"ws://a/x",
            b"a:80",
            b"a/b",
            b"x",
            b"?x",
            b"*",
            b"*/",
            b"",
        ],
    )
    def test_other_forms_are_refused(self, target: bytes) -> None:
        refused(request(start=b"GET " + target + b" HTTP/1.1"))

    def test_asterisk_is_for_options(self) -> None:
        assert accepted(request(start=b"OPTIONS * HTTP/1.1"))["target"] == b"*"
        refused(request(start=b"OPTIONS ** HTTP/1.1"))
        refused(request(start=b"options * HTTP/1.1"))

    def test_fragment_in_the_target(self) -> None:
        refused(request(start=b"GET /a#b HTTP/1.1"))
        refused(request(start=b"GET http://a/b# HTTP/1.1"))

    def test_every_byte_of_a_target(self) -> None:
        for size in (1, 40):  # in the tail and in the vector loop
            for byte in range(256):
                target = b"/" + b"a" * size + bytes([byte]) + b"b" * size
                head = py_parse_request(request(start=b"GET " + target + b" HTTP/1.1"))
                good = 0x21 <= byte <= 0x7E and byte != 0x23
                assert (head["result"] == DONE) == good, byte

    def test_every_byte_of_a_method(self) -> None:
        token = set(b"!#$%&'*+-.^_`|~0123456789")
        for byte in range(256):
            head = py_parse_request(request(start=b"G" + bytes([byte]) + b"T / HTTP/1.1"))
            good = byte in token or (chr(byte).isalpha() and byte < 0x80)
            assert (head["result"] == DONE) == good, byte

    def test_method_length(self) -> None:
        assert accepted(request(start=b"M" * 32 + b" / HTTP/1.1"))["method"] == b"M" * 32
        refused(request(start=b"M" * 33 + b" / HTTP/1.1"), 501)
        refused(b"M" * 33, 501)
        refused(request(start=b" / HTTP/1.1"))

    def test_methods_are_the_callers_to_judge(self) -> None:
        assert accepted(request(start=b"TRACE / HTTP/1.1"))["method"] == b"TRACE"
        assert accepted(request(start=b"get / HTTP/1.1"))["method"] == b"get"

    @pytest.mark.parametrize("target", [b"a:443", b"/", b"*", b"http://a/"])
    def test_connect_is_not_implemented(self, target: bytes) -> None:
        refused(request(start=b"CONNECT " + target + b" HTTP/1.1"), 501)

    @pytest.mark.parametrize(
        "version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.1"]
    )
    def test_other_versions(self, version: bytes) -> None:
        refused(request(start=b"GET / " + version), 505)

    @pytest.mark.parametrize(
        "version",
        [
            b"http/1.1",
            b"HTTP/1",
            b"HTTP/1.",
            b"HTTP/11",
            b"HTTP/1.10",
            b"HTTP/1.1 ",
            b"HTTP/2.0 ",
            b"HTTP/1,1",
            b"HTTP /1.1",
            b"HTTP/ 1.1",
            b"HTTP/+1.1",
            b"HTTP/1.1\t",
            b"HTTP/1.1x",
            b"HTTPS/1.1",
            b"ICE/1.0",
            b"RTSP/1.0",
            b"\xff",
            b"",
        ],
    )
    def test_malformed_versions(self, version: bytes) -> None:
        refused(request(start=b"GET / " + version))

    @pytest.mark.parametrize(
        "line",
        [
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET /a b HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET\x0b/ HTTP/1.1",
            b"GET\xa0/ HTTP/1.1",
            b"GET / HTTP/1.1 HTTP/1.1",
            b"GET /",
            b"GET",
            b"GET / ",
            b"GET /HTTP/1.1",
            b"GET / HTTP/1.1\r",
            b"GET / HTTP/1.1\n",
            b"\0GET / HTTP/1.1",
        ],
    )
    def test_separators(self, line: bytes) -> None:
        refused(request(start=line))

    def test_http_0_9_line(self) -> None:
        refused(b"GET /\r\n")
        refused(b"GET /\r\n\r\n")

    def test_one_empty_line_before_it(self) -> None:
        data = b"\r\n" + request(b"Content-Length: 3")
        head = accepted(data)
        assert head["method"] == b"GET"
        assert head["target"] == b"/v1/models"
        assert fields(head)[b"content-length"][1] == b"3"

    @pytest.mark.parametrize("before", [b"\r\n\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\n"])
    def test_other_bytes_before_it(self, before: bytes) -> None:
        refused(before + request())

    def test_target_too_long(self) -> None:
        target = b"/" + b"a" * 99
        data = request(start=b"GET " + target + b" HTTP/1.1")
        assert accepted(data, max_target=100)["target"] == target
        refused(data, 414, max_target=99)
        refused(b"GET /" + b"a" * 99, 414, max_target=99)
        assert py_parse_request(b"GET /" + b"a" * 98, max_target=99)["result"] == MORE


class TestHost:
    def test_missing(self) -> None:
        refused(request(host=None))
        refused(request(b"X-Host: a", host=None))
        refused(request(start=b"GET http://a/ HTTP/1.1", host=None))

    def test_not_needed_in_1_0(self) -> None:
        accepted(request(start=b"GET / HTTP/1.0", host=None))
        accepted(request(start=b"GET / HTTP/1.0", host=b"Host:"))
        refused(request(b"Host: b", start=b"GET / HTTP/1.0"))

    def test_double(self) -> None:
        refused(request(b"Host: a"))
        refused(request(b"X: y", b"hOST: b"))

    @pytest.mark.parametrize(
        "value",
        [
            b"a",
            b"a.b-c_d~e",
            b"A.B:80",
            b"a:",
            b"a:65535",
            b"127.0.0.1:1",
            b"[::1]",
            b"[2001:db8::1]:443",
            b"[::ffff:1.2.3.4]",
            b"%61b",
            b"a!$&'()*+,;=b",
        ],
    )
    def test_valid(self, value: bytes) -> None:
        accepted(request(host=b"Host: " + value))

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b" ",
            b"a b",
            b"a, b",
            b"a\tb",
            b"u@a",
            b"u:p@a",
            b"http://a",
            b"a/",
            b"a/b",
            b"a?b",
            b"a#b",
            b"a\\b",
            b"a:b",
            b"a:-1",
            b"a:+1",
            b"a: 1",
            b"a:1:2",
            b"a:65536",
            b"a:000080",
            b":80",
            b"[::1",
            b"::1",
            b"[]",
            b"[1]",
            b"[::g]",
            b"[::1]x",
            b"[::1]:x",
            b"[::1%25eth0]",
            b"[v1.a:b]",
            b"a[::1]",
            b"%6",
            b"%",
            b"%zz",
            b"a%2",
            b"a\x80",
            b"\xc3\xa4",
            b"a<b",
            b'a"',
            b"a|b",
            b"a^b",
            b"a`b",
            b"{a}",
        ],
    )
    def test_invalid(self, value: bytes) -> None:
        refused(request(host=b"Host: " + value))


class TestFields:
    def test_values_are_trimmed(self) -> None:
        head = accepted(request(b"A:b", b"C: \t d e\t \t", b"E:", b"F:  \t", b"G: \xc3\xa4\tx"))
        found = fields(head)
        assert found[b"a"][1] == b"b"
        assert found[b"c"][1] == b"d e"
        assert found[b"e"][1] == found[b"f"][1] == b""
        assert found[b"g"][1] == b"\xc3\xa4\tx"

    @pytest.mark.parametrize(
        "line",
        [
            b"A : b",
            b"A\t: b",
            b" A: b",
            b"\tA: b",
            b": b",
            b":",
            b"A",
            b"A b: c",
            b"A\0: b",
            b"A\x0b: b",
            b"A\xa0: b",
            b"\xefA: b",
            b"(A): b",
            b"A@B: c",
            b"A[]: c",
            b'"A": b',
            b"A\r: b",
            b"A/B: c",
            b"A,B: c",
            b"A;B: c",
            b"A=B: c",
        ],
    )
    def test_names(self, line: bytes) -> None:
        refused(request(line))
        refused(request(line, b"C: d"))
        bad_answer(response(line))

    def test_every_byte_of_a_name(self) -> None:
        token = set(b"!#$%&'*+-.^_`|~0123456789")
        for size in (1, 20):
            for byte in range(256):
                line = b"a" * size + bytes([byte]) + b"b" * size + b": c"
                good = byte in token or (chr(byte).isalpha() and byte < 0x80)
                want = good or byte == 0x3A  # the colon ends the name earlier
                assert (py_parse_request(request(line))["result"] == DONE) == want, byte
                assert (py_parse_response(response(line))["result"] == DONE) == want, byte

    def test_every_byte_of_a_value(self) -> None:
        for size in (1, 20):
            for byte in range(256):
                line = b"A: " + b"a" * size + bytes([byte]) + b"b" * size
                good = byte == 9 or (byte >= 0x20 and byte != 0x7F)
                assert (py_parse_request(request(line))["result"] == DONE) == good, byte
                assert (py_parse_response(response(line))["result"] == DONE) == good, byte

    @pytest.mark.parametrize(
        "data",
        [
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nA: b\n\nGET / HTTP/1.1",
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\rX",
            b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n\r\n",
            b"GET / HTTP/1.1\rHost: a\r\n\r\n",
            b"GET / HTTP/1.1\n\rHost: a\r\n\r\n",
        ],
    )
    def test_line_ends(self, data: bytes) -> None:
        refused(data)

    @pytest.mark.parametrize("blank", [b" ", b"\t", b"  x", b"\tx: y"])
    def test_obs_fold(self, blank: bytes) -> None:
        refused(request(b"A: b", blank + b"c"))
        refused(request(blank, host=None))
        refused(request(b"A: b\r\n" + blank))
        bad_answer(response(b"A: b", blank + b"c"))

    def test_number_of_fields(self) -> None:
        most = [b"X-%d: y" % i for i in range(127)]
        assert len(accepted(request(*most))["fields"]) == 128
        refused(request(*most, b"Z: y"), 431)
        bad_answer(response(*most, b"Y: y", b"Z: y"))

    def test_head_too_large(self) -> None:
        data = request(b"A: " + b"b" * 100)
        accepted(data, max_head=len(data))
        refused(data, 431, max_head=len(data) - 1)
        refused(data[:50], 431, max_head=50)
        assert py_parse_request(data[:49], max_head=50)["result"] == MORE
        answer = response(b"A: " + b"b" * 100)
        assert py_parse_response(answer, False, len(answer))["result"] == DONE
        for size in (len(answer) - 1, 20, 5):
            head = py_parse_response(answer, False, size)
            assert (head["result"], head["error_status"]) == (ERROR, 502)

    def test_body_is_not_looked_at(self) -> None:
        data = request(b"Content-Length: 5")
        head = py_parse_request(data + b"\0\r\n\n:")
        assert (head["result"], head["size"]) == (DONE, len(data))


class TestNames:
    @pytest.mark.parametrize(
        "known",
        sorted(set(IDS) - {"H_OTHER", "H_OPENAI", "H_ANTHROPIC", "H_X_STAINLESS", "H_X_LITELLM"}),
    )
    def test_known(self, known: str) -> None:
        name = known[2:].replace("_", "-").encode()
        value = {
            "H_CONTENT_LENGTH": b"0",
            "H_TRANSFER_ENCODING": b"chunked",
            "H_EXPECT": b"100-continue",
        }
        for spelled in (name, name.lower(), name.title(), name.swapcase()):
            line = spelled + b": " + value.get(known, b"a")
            head = accepted(request(line, host=None if known == "H_HOST" else b"Host: a"))
            assert head["fields"][-1][0] == IDS[known]
        for near in (
            name + b"x",
            name[:-1],
            b"Q" + name[1:],
            name[:-1] + b"_",
            name.replace(b"-", b"_"),
        ):
            if near != name:
                assert accepted(request(near + b": a"))["fields"][-1][0] != IDS[known]

    @pytest.mark.parametrize(
        ("name", "known"),
        [
            (b"OpenAI-Organization", "H_OPENAI"),
            (b"openai-beta", "H_OPENAI"),
            (b"Anthropic-Version", "H_ANTHROPIC"),
            (b"anthropic-beta", "H_ANTHROPIC"),
            (b"X-Stainless-Retry-Count", "H_X_STAINLESS"),
            (b"x-litellm-tags", "H_X_LITELLM"),
            (b"x-litellm-call-idx", "H_X_LITELLM"),
            (b"x-litellm-timeouts", "H_X_LITELLM"),
            (b"openai", "H_OTHER"),
            (b"anthropics-x", "H_OTHER"),
            (b"x-litellm", "H_OTHER"),
            (b"x-litellm_tags", "H_OTHER"),
            (b"x-" + b"y" * 200, "H_OTHER"),
            (b"x", "H_OTHER"),
        ],
    )
    def test_families(self, name: bytes, known: str) -> None:
        assert accepted(request(name + b": a"))["fields"][-1][0] == IDS[known]


# 73 spellings of Transfer-Encoding that one parser may read as chunked, and another one may not.
TE_LINES = [
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: x chunked",
    b"Transfer-Encoding: chunked x",
    b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: chunked, ",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: , chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: chunked,chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, cow",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: chunked; x",
    b"Transfer-Encoding: chunked;",
    b"Transfer-Encoding: x;chunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding: (x) chunked",
    b"Transfer-Encoding: [chunked]",
    b"Transfer-Encoding: chun ked",
    b"Transfer-Encoding: ch\tunked",
    b"Transfer-Encoding: chunked\t",
    b"Transfer-Encoding: chunked ",
    b"Transfer-Encoding: chunked \t",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: \tchunked",
    b"Transfer-Encoding:\t chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding:\x0cchunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: chunked\x0c",
    b"Transfer-Encoding:\0chunked",
    b"Transfer-Encoding: \0chunked",
    b"Transfer-Encoding: chunked\0",
    b"Transfer-Encoding: chunked\x7f",
    b"Transfer-Encoding: chunked\x01",
    b"Transfer-Encoding:\xa0chunked",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: chunked\xa0",
    b"Transfer-Encoding: \xffchunked",
    b"Transfer-Encoding: chunked\xff",
    b"Transfer-Encoding: \xef\xbb\xbfchunked",
    b"Transfer-Encoding: c\xc4\xb1hunked",
    b"Transfer-Encoding: chun\xe2\x84\xaaed",
    b"Transfer-Encoding: \r\n chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\r\n\tchunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding: \n\tchunked",
    b"Transfer-Encoding: chunked\n",
    b"Transfer-Encoding: chunked\r",
    b"Transfer-Encoding:\rchunked",
    b"Transfer-Encoding: ch\runked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b"Transfer-Encoding\x0b: chunked",
    b"Transfer-Encoding\0: chunked",
    b"Transfer-Encoding\xa0: chunked",
    b"Transfer-Encoding\r: chunked",
    b"Transfer-Encoding\n: chunked",
    b"Transfer-Encoding\r\n: chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"\x0bTransfer-Encoding: chunked",
    b"\xffTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"Transfer Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:",
]

# Names that only look like it: fields of no meaning, that must not frame anything.
TE_LOOKALIKES = [
    b"Transfer_Encoding: chunked",
    b"Transfer-Encodin: chunked",
    b"Transfer-Encodingx: chunked",
    b"xTransfer-Encoding: chunked",
    b"Transfer--Encoding: chunked",
    b"TransferEncoding: chunked",
    b"Transfer.Encoding: chunked",
    b"X-Transfer-Encoding: chunked",
    b"Transfer-Encod^ng: chunked",
    b"Content-Encoding: chunked",
]

CL_LINES = [
    b"Content-Length: +5",
    b"Content-Length: -5",
    b"Content-Length: -0",
    b"Content-Length: +0",
    b"Content-Length: 5,5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5,6",
    b"Content-Length: 5,",
    b"Content-Length: ,5",
    b"Content-Length: 5;5",
    b"Content-Length: 5 5",
    b"Content-Length: 5\t5",
    b"Content-Length: 0x5",
    b"Content-Length: 5h",
    b"Content-Length: 0b101",
    b"Content-Length: 0o5",
    b"Content-Length: 5.0",
    b"Content-Length: 5e0",
    b"Content-Length: 1_0",
    b'Content-Length: "5"',
    b"Content-Length: '5'",
    b"Content-Length: five",
    b"Content-Length:",
    b"Content-Length:  ",
    b"Content-Length: \xb25",
    b"Content-Length: \xd9\xa5",
    b"Content-Length: 5\x00",
    b"Content-Length: \x0b5",
    b"Content-Length: 4611686018427387905",
    b"Content-Length: 9223372036854775808",
    b"Content-Length: 18446744073709551616",
    b"Content-Length: 18446744073709551621",
    b"Content-Length: 99999999999999999999999999999999999999999999",
    b"Content-Length : 5",
    b" Content-Length: 5",
    b"Content-Length\0: 5",
    b"Content-Length\r\n: 5",
    b"Content-Length: \r\n 5",
    b"Content-Length: 5\n",
    b"X: y\nContent-Length: 5",
    b"X: y\rContent-Length: 5",
]


class TestFraming:
    def test_content_length(self) -> None:
        for text, value in [
            (b"0", 0),
            (b"5", 5),
            (b"005", 5),
            (b" 5 \t", 5),
            (b"4611686018427387904", 1 << 62),
        ]:
            head = accepted(request(b"Content-Length:" + text))
            assert (head["content_length"], head["chunked"]) == (value, False)

    @pytest.mark.parametrize("line", CL_LINES)
    def test_content_length_spellings(self, line: bytes) -> None:
        refused(request(line))
        refused(request(line, b"Content-Length: 5"))
        bad_answer(response(line))

    def test_lists_are_long_enough(self) -> None:
        assert len(set(TE_LINES)) == len(TE_LINES) >= 73
        assert len(set(CL_LINES)) == len(CL_LINES) >= 33

    @pytest.mark.parametrize(
        ("one", "two"),
        [(b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b""), (b"", b"5"), (b"05", b"5")],
    )
    def test_two_content_lengths(self, one: bytes, two: bytes) -> None:
        lines = (b"Content-Length: " + one, b"X: y", b"content-length: " + two)
        refused(request(*lines))
        bad_answer(response(*lines))

    def test_chunked(self) -> None:
        for value in (b"chunked", b"Chunked", b"CHUNKED"):
            for before in (b"", b" ", b"   "):
                head = accepted(request(b"Transfer-Encoding:" + before + value))
                assert (head["content_length"], head["chunked"]) == (-1, True)

    @pytest.mark.parametrize("line", TE_LINES)
    def test_transfer_encoding_spellings(self, line: bytes) -> None:
        refused(request(line))
        refused(request(line, b"Content-Length: 5"))
        refused(request(b"Content-Length: 5", line))
        refused(request(b"Transfer-Encoding: chunked", line))
        refused(request(line, b"Transfer-Encoding: chunked"))
        bad_answer(response(line))
        bad_answer(response(b"Content-Length: 5", line))

    @pytest.mark.parametrize("line", TE_LOOKALIKES)
    def test_transfer_encoding_lookalikes(self, line: bytes) -> None:
        head = accepted(request(line, b"Content-Length: 5"))
        assert (head["content_length"], head["chunked"]) == (5, False)
        head = accepted(request(line))
        assert (head["content_length"], head["chunked"]) == (-1, False)

    @pytest.mark.parametrize(
        "value",
        [b"gzip, chunked", b"gzip,chunked", b"identity , chunked", b"gzip, deflate, chunked"],
    )
    def test_other_codings(self, value: bytes) -> None:
        refused(request(b"Transfer-Encoding: " + value), 501)
        bad_answer(response(b"Transfer-Encoding: " + value))

    @pytest.mark.parametrize(
        "value", [b"gzip", b"chunked, gzip", b"gzip, chunked, gzip", b"gzip,,chunked"]
    )
    def test_chunked_is_not_last(self, value: bytes) -> None:
        refused(request(b"Transfer-Encoding: " + value))
        bad_answer(response(b"Transfer-Encoding: " + value))

    def test_two_transfer_encodings(self) -> None:
        for one, two in [(b"chunked", b"chunked"), (b"chunked", b"identity"), (b"chunked", b"")]:
            for first, second in ((one, two), (two, one)):
                lines = (b"Transfer-Encoding: " + first, b"X: y", b"transfer-encoding: " + second)
                refused(request(*lines))
                bad_answer(response(*lines))

    def test_both(self) -> None:
        both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
        refused(request(*both))
        refused(request(*both[::-1]))
        bad_answer(response(*both))
        bad_answer(response(*both[::-1]))

    def test_both_where_connection_names_one(self) -> None:
        both = (b"Content-Length: 5", b"Transfer-Encoding: chunked")
        refused(request(b"Connection: Content-Length", *both))
        refused(request(*both, b"Connection: Transfer-Encoding"))

    def test_transfer_encoding_in_1_0(self) -> None:
        refused(request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"))
        bad_answer(response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK"))


class TestConnection:
    @pytest.mark.parametrize(
        ("version", "lines", "keep"),
        [
            (b"1.1", [], True),
            (b"1.1", [b"Connection: close"], False),
            (b"1.1", [b"Connection: CLOSE"], False),
            (b"1.1", [b"Connection: keep-alive"], True),
            (b"1.1", [b"Connection: keep-alive, close"], False),
            (b"1.1", [b"Connection: keep-alive", b"Connection: x,close"], False),
            (b"1.1", [b"Connection: ,, ,close,"], False),
            (b"1.1", [b"Connection: closed"], True),
            (b"1.1", [b"Connection: close;x"], False),
            (b"1.1", [b"Connection: x close"], False),
            (b"1.1", [b'Connection: "close"'], False),
            (b"1.1", [b"Connection: ;"], False),
            (b"1.1", [b"Connection:"], True),
            (b"1.1", [b"Proxy-Connection: close"], True),
            (b"1.0", [], False),
            (b"1.0", [b"Connection: keep-alive"], True),
            (b"1.0", [b"Connection: Keep-Alive , x"], True),
            (b"1.0", [b"Connection: keep-alive, close"], False),
            (b"1.0", [b"Connection: keep-alive x"], False),
            (b"1.0", [b"Keep-Alive: timeout=5"], False),
        ],
    )
    def test_keep_alive(self, version: bytes, lines: list[bytes], keep: bool) -> None:
        head = accepted(request(*lines, start=b"GET / HTTP/" + version))
        assert head["keep_alive"] is keep
        answer = response(*lines, b"Content-Length: 0", start=b"HTTP/" + version + b" 200 OK")
        assert answered(answer)["keep_alive"] is keep

    def test_hop_by_hop_fields(self) -> None:
        names = (
            b"Connection Keep-Alive Proxy-Connection TE Trailer Upgrade "
            b"Proxy-Authorization Proxy-Authenticate".split()
        )
        head = accepted(request(*[name + b": x" for name in names], b"Via: x", b"Date: x"))
        found = fields(head)
        assert all(found[name.lower()][2] for name in names)
        assert not any(found[name][2] for name in (b"host", b"via", b"date"))
        assert found[b"proxy-authenticate"][0] == IDS["H_OTHER"]
        head = accepted(request(b"Transfer-Encoding: chunked"))
        assert fields(head)[b"transfer-encoding"][2]
        assert fields(answered(response(b"Proxy-Authenticate: x")))[b"proxy-authenticate"][2]

    def test_named_fields(self) -> None:
        head = accepted(
            request(
                b"X-One: 1",
                b"Connection: close, x-TWO ,x-one",
                b"X-Two: 2",
                b"X-Three: 3",
                b"X-One: 4",
            )
        )
        hops = [(name, hop) for _, name, _, hop in head["fields"]]
        assert hops == [
            (b"Host", False),
            (b"X-One", True),
            (b"Connection", True),
            (b"X-Two", True),
            (b"X-Three", False),
            (b"X-One", True),
        ]
        assert fields(answered(response(b"Set-Cookie: a", b"Connection: set-cookie")))[
            b"set-cookie"
        ][2]

    def test_named_fields_still_count(self) -> None:
        names = b"Host, Content-Length, Authorization, Expect, Connection"
        head = accepted(
            request(
                b"Connection: " + names,
                b"Content-Length: 5",
                b"Authorization: x",
                b"Expect: 100-continue",
            )
        )
        assert head["content_length"] == 5
        assert head["expect_continue"]
        assert fields(head)[b"authorization"][0] == IDS["H_AUTHORIZATION"]
        refused(request(b"Connection: Authorization", b"Authorization: x", b"Authorization: y"))
        refused(request(b"Connection: Host", b"Host: b"))
        head = accepted(request(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked"))
        assert head["chunked"]

    def test_number_of_options(self) -> None:
        accepted(request(b"Connection: " + b",".join([b"x"] * 64)))
        refused(request(b"Connection: " + b",".join([b"x"] * 65)))
        refused(request(*[b"Connection: close"] * 65))
        bad_answer(response(b"Connection: " + b",".join([b"x"] * 65)))

    def test_names_are_compared_exactly(self) -> None:
        head = accepted(request(b"Connection: x^y, a_b", b"X~Y: 1", b"A-B: 2"))
        assert not fields(head)[b"x~y"][2]
        assert not fields(head)[b"a-b"][2]


class TestExpect:
    def test_continue(self) -> None:
        assert accepted(request(b"Expect: 100-continue"))["expect_continue"]
        assert accepted(request(b"expect: 100-Continue "))["expect_continue"]
        assert not accepted(request())["expect_continue"]

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"100",
            b"100-continue, x",
            b"x",
            b"100-continue;x",
            b"100-continued",
            b"100 continue",
            b"200-ok",
        ],
    )
    def test_anything_else(self, value: bytes) -> None:
        refused(request(b"Expect: " + value), 417)

    def test_twice(self) -> None:
        refused(request(b"Expect: 100-continue", b"Expect: 100-continue"), 417)
        refused(request(b"Expect: x", b"Expect: 100-continue"), 417)

    def test_ignored_in_1_0(self) -> None:
        for value in (b"100-continue", b"x"):
            head = accepted(request(b"Expect: " + value, start=b"POST / HTTP/1.0"))
            assert not head["expect_continue"]

    def test_framing_errors_come_first(self) -> None:
        refused(request(b"Expect: x", b"Content-Length: 5", b"Content-Length: 5"), 400)


class TestCredentials:
    @pytest.mark.parametrize(
        "name",
        [
            b"Authorization",
            b"x-api-key",
            b"api-key",
            b"x-goog-api-key",
            b"Ocp-Apim-Subscription-Key",
            b"x-litellm-api-key",
        ],
    )
    def test_duplicates(self, name: bytes) -> None:
        refused(request(name + b": a", b"X: y", name.upper() + b": a"))
        accepted(request(name + b": a", b"Authorizatio: x", b"x-api-ke: y"))

    def test_of_different_kinds_are_the_callers_to_judge(self) -> None:
        accepted(request(b"Authorization: a", b"x-api-key: b", b"api-key: c"))

    def test_do_not_matter_in_responses(self) -> None:
        answered(response(b"x-api-key: a", b"x-api-key: b"))


class TestStatusLine:
    @pytest.mark.parametrize(
        ("line", "status", "minor"),
        [
            (b"HTTP/1.1 200 OK", 200, 1),
            (b"HTTP/1.0 599 x", 599, 0),
            (b"HTTP/1.1 404", 404, 1),
            (b"HTTP/1.1 404 ", 404, 1),
            (b"HTTP/1.1 100 Continue", 100, 1),
            (b"HTTP/1.1 200 a\tb \xc3\xa4  c ", 200, 1),
        ],
    )
    def test_valid(self, line: bytes, status: int, minor: int) -> None:
        head = answered(response(b"A: b", start=line))
        assert (head["status"], head["minor"]) == (status, minor)
        assert fields(head)[b"a"][1] == b"b"

    @pytest.mark.parametrize(
        "line",
        [
            b"HTTP/2.0 200 OK",
            b"HTTP/0.9 200 OK",
            b"HTTP/1.2 200 OK",
            b"HTTP/2 200",
            b"http/1.1 200 OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1\t200 OK",
            b"HTTP/1.1 200\tOK",
            b"HTTP/1.1 2000 OK",
            b"HTTP/1.1 20 OK",
            b"HTTP/1.1 20",
            b"HTTP/1.1 +20 OK",
            b"HTTP/1.1 099 x",
            b"HTTP/1.1 600 x",
            b"HTTP/1.1 999 x",
            b"HTTP/1.1 000 x",
            b"HTTP/1.1 2x0 x",
            b"HTTP/1.1 200OK",
            b"HTTP/1.1",
            b"HTTP/1.1 ",
            b"HTTP/1.1 OK",
            b"HTTP/1.1 200 O\0K",
            b"HTTP/1.1 200 O\x7fK",
            b"HTTP/1.1 200 O\rK",
            b"HTTP/1.1 200 OK\nX: y",
            b"HTTP/1.1 200\n",
            b"ICY 200 OK",
            b" HTTP/1.1 200 OK",
            b"\r\nHTTP/1.1 200 OK",
            b"<html>",
            b"\x15\x03\x01\0\x02\x02F",
            b"",
        ],
    )
    def test_invalid(self, line: bytes) -> None:
        bad_answer(response(start=line))

    def test_early(self) -> None:
        for start in (
            b"S",
            b"HTTP/2",
            b"HTTP/1.1 0",
            b"HTTP/1.1 6",
            b"HTTP/1.1 200x",
            b"\r",
            b"HTTP/1.1 200 \0",
        ):
            bad = py_parse_response(start)
            assert bad["result"] == (MORE if start == b"HTTP/2" else ERROR)


class TestResponseBody:
    def test_length(self) -> None:
        head = answered(response(b"Content-Length: 7"))
        assert (head["content_length"], head["chunked"], head["close_delimited"]) == (
            7,
            False,
            False,
        )
        assert head["keep_alive"]

    def test_chunked(self) -> None:
        head = answered(response(b"Transfer-Encoding: chunked"))
        assert (head["content_length"], head["chunked"], head["close_delimited"]) == (
            -1,
            True,
            False,
        )
        assert head["keep_alive"]

    @pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 500 x"])
    def test_to_the_end_of_the_connection(self, line: bytes) -> None:
        head = answered(response(b"Connection: keep-alive", start=line))
        assert head["close_delimited"]
        assert head["content_length"] == -1
        assert not head["keep_alive"]

    @pytest.mark.parametrize(
        "lines", [(), (b"Content-Length: 7",), (b"Transfer-Encoding: chunked",)]
    )
    @pytest.mark.parametrize("status", [b"200 OK", b"304 x", b"404 x"])
    def test_none_for_head_and_304(self, lines: tuple[bytes, ...], status: bytes) -> None:
        data = response(*lines, start=b"HTTP/1.1 " + status)
        head = answered(data, True)
        assert (head["content_length"], head["chunked"], head["close_delimited"]) == (
            0,
            False,
            False,
        )
        assert head["keep_alive"]
        if status.startswith(b"304"):
            assert answered(data) == head

    def test_bad_framing_is_bad_for_head_too(self) -> None:
        both = response(b"Content-Length: 7", b"Transfer-Encoding: chunked")
        bad_answer(both, True)
        bad_answer(response(b"Content-Length: x"), True)
        bad_answer(response(b"Content-Length: 7", b"Content-Length: 7"), True)
        bad_answer(response(b"Content-Length: x", start=b"HTTP/1.1 304 x"))

    @pytest.mark.parametrize("status", [b"100 x", b"101 x", b"103 x", b"199 x", b"204 x"])
    @pytest.mark.parametrize("to_head", [False, True])
    def test_none_for_1xx_and_204(self, status: bytes, to_head: bool) -> None:
        start = b"HTTP/1.1 " + status
        for lines in ((), (b"Content-Length: 0",)):
            head = answered(response(*lines, start=start), to_head)
            assert (head["content_length"], head["chunked"], head["close_delimited"]) == (
                0,
                False,
                False,
            )
            assert head["keep_alive"]
        bad_answer(response(b"Content-Length: 7", start=start), to_head)
        bad_answer(response(b"Transfer-Encoding: chunked", start=start), to_head)

    def test_interim_answers_are_messages_of_their_own(self) -> None:
        final = response(b"Content-Length: 0")
        data = response(b"Link: x", start=b"HTTP/1.1 103 Early Hints") + final
        head = py_parse_response(data)
        assert (head["status"], head["size"]) == (103, len(data) - len(final))
        assert answered(data[head["size"] :])["status"] == 200


LONG = request(
    b"Accept: application/json, text/event-stream",
    b"Connection: keep-alive, X-Gone",
    b"X-Gone: \t a \xc3\xa4 ",
    b"Content-Length: 12",
    b"Expect: 100-continue",
    b"X-Stainless-Arch: x64",
    start=b"\r\nPOST http://b:1/v1/chat?x HTTP/1.1",
)
ANSWER = response(
    b"Content-Type: application/json", b"Transfer-Encoding: chunked", b"X: ", b"Via: 1.1 x"
)


class TestPrefixes:
    def test_no_prefix_is_a_head(self) -> None:
        for size in range(len(LONG)):
            assert py_parse_request(LONG[:size])["result"] == MORE, size
        for size in range(len(ANSWER)):
            assert py_parse_response(ANSWER[:size])["result"] == MORE, size

    def test_what_follows_changes_nothing(self) -> None:
        whole, answer = accepted(LONG), answered(ANSWER)
        for more in (b"\0", b"x" * 100, b"\r\n", LONG):
            assert py_parse_request(LONG + more) == whole
            assert py_parse_response(ANSWER + more) == answer

    @pytest.mark.parametrize(
        ("start", "status"),
        [
            (b"\x16\x03\x01", 400),  # a TLS hello on the plain port
            (b"PROXY\t", 400),
            (b"G\0", 400),
            (b"\n", 400),
            (b"\rG", 400),
            (b"GET x", 400),
            (b"GET /\x80", 400),
            (b"GET / HTTP/1.1x", 400),
            (b"GET / HX", 400),
            (b"PRI * ", 400),  # HTTP/2 with prior knowledge
            (b"GET / HTTP/1.1\r\n ", 400),
            (b"GET / HTTP/1.1\r\nA B", 400),
            (b"GET / HTTP/1.1\r\nA: \0", 400),
            (b"GET / HTTP/1.1\r\nContent-Length: x\r\n", 400),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        ],
    )
    def test_errors_are_early(self, start: bytes, status: int) -> None:
        refused(start, status)
