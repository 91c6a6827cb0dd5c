"""Chunked bodies: strict syntax, bounds, and the same result for every way to cut the bytes.

The decoder is fed through py_chunked(), which calls it as a connection does. What the payload means
and where it goes is not known here.
"""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy._chunked import py_chunked

MORE, DONE, ERROR = 0, 1, -1
END = b"0\r\n\r\n"


def bytewise(data: bytes) -> list[bytes]:
    """The data cut at every byte."""
    return [data[i : i + 1] for i in range(len(data))]


def decode(data: bytes) -> bytes:
    """The payload of a whole body; the same for each cut in two and for single bytes."""
    whole = py_chunked([data])
    assert whole[0] == DONE, (data, whole)
    assert whole[2] == len(data)
    assert py_chunked(bytewise(data)) == whole
    for at in range(len(data)):
        assert py_chunked([data[:at], data[at:]]) == whole
        assert py_chunked([data[:at]])[0] == MORE
    return whole[1]


def refused(data: bytes) -> str:
    """The reason, which must not depend on the cuts."""
    whole = py_chunked([data])
    assert whole[0] == ERROR, (data, whole)
    assert whole[3]
    assert py_chunked(bytewise(data)) == whole
    for at in range(len(data)):
        assert py_chunked([data[:at], data[at:]]) == whole
        assert py_chunked([data[:at]])[0] != DONE
    return whole[3]


class TestSyntax:
    @pytest.mark.parametrize(
        ("data", "payload"),
        [
            (END, b""),
            (b"5\r\nhello\r\n" + END, b"hello"),
            (b"5\r\nhello\r\n1\r\n,\r\n6\r\n world\r\n" + END, b"hello, world"),
            (b"a\r\n0123456789\r\n" + END, b"0123456789"),
            (b"A\r\n0123456789\r\n" + END, b"0123456789"),
            (b"0000000000000005\r\nhello\r\n" + END, b"hello"),
            (b"5\r\nhello\r\n0000000000000000\r\n\r\n", b"hello"),
            (b"7\r\n0\r\n\r\n0\r\r\n" + END, b"0\r\n\r\n0\r"),
            (b"4\r\n\r\n\r\n\r\n" + END, b"\r\n\r\n"),
            (b"10\r\n" + b"x" * 16 + b"\r\n" + END, b"x" * 16),
            (b"fF\r\n" + b"x" * 255 + b"\r\n" + END, b"x" * 255),
        ],
    )
    def test_valid(self, data: bytes, payload: bytes) -> None:
        assert decode(data) == payload

    @pytest.mark.parametrize(
        "data",
        [
            b"\r\n",
            b"\n",
            b"\r\n5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"\t5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\t\r\nhello\r\n",
            b"5\x0b\r\nhello\r\n",
            b"5\0\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"-0\r\n\r\n",
            b"0x5\r\nhello\r\n",
            b"0X5\r\nhello\r\n",
            b"x5\r\nhello\r\n",
            b"5h\r\nhello\r\n",
            b"5_0\r\nhello\r\n",
            b"5.0\r\nhello\r\n",
            b"5,5\r\nhello\r\n",
            b"'5'\r\nhello\r\n",
            b'"5"\r\nhello\r\n',
            b"g\r\nhello\r\n",
            b"\xb25\r\nhello\r\n",
            b"\xd9\xa5\r\nhello\r\n",
            b"\xef\xbb\xbf5\r\nhello\r\n",
            b";\r\nhello\r\n",
            b";a=b\r\nhello\r\n",
            b"5\nhello\r\n",
            b"5\n\nhello\r\n",
            b"5\rhello\r\n",
            b"5\r\rhello\r\n",
            b"5\r\r\nhello\r\n",
            b"5\r hello\r\n",
            b"5\n\rhello\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\r\r\n0\r\n\r\n",
            b"5\r\nhello\n\n0\r\n\r\n",
            b"5\r\nhello \r\n0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello\r\n\r\n0\r\n\r\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"5\r\nhelloxx0\r\n\r\n",
            b"0\n\n",
            b"0\r\n\n",
            b"0\n\r\n",
            b"0\r\n\r\r\n",
            b"0\r\n\rX",
            b"0\r\r\n\r\n",
            b"0\r\n \r\n",
        ],
    )
    def test_invalid(self, data: bytes) -> None:
        refused(data)

    def test_every_byte_as_a_size(self) -> None:
        for byte in range(256):
            one = bytes([byte])
            good = one in b"0123456789abcdefABCDEF"
            assert (py_chunked([one])[0] == MORE) == good
            good = good or one in b"\r;"
            assert (py_chunked([b"1" + one])[0] == MORE) == good

    def test_next_message_is_left_alone(self) -> None:
        data = b"5\r\nhello\r\n" + END
        for more in (b"GET / HTTP/1.1\r\n", b"\0", b"5\r\n", b"\r\n"):
            assert py_chunked([data + more]) == (DONE, b"hello", len(data), None)
            pieces = bytewise(data + more)
            assert py_chunked(pieces) == (DONE, b"hello", len(data), None)


class TestSize:
    @pytest.mark.parametrize("text", [b"1000000000000000", b"0fffffffffffffff", b"fffffffffffffff"])
    def test_largest(self, text: bytes) -> None:
        assert py_chunked([text + b"\r\nabc"]) == (MORE, b"abc", len(text) + 5, None)

    @pytest.mark.parametrize(
        "text",
        [
            b"1000000000000001",
            b"2000000000000000",
            b"8000000000000000",
            b"ffffffffffffffff",
            b"10000000000000000",
            b"10000000000000005",
            b"fffffffffffffffff",
            b"00000000000000005",
            b"0" * 17,
            b"1" + b"0" * 32 + b"5",
        ],
    )
    def test_too_large(self, text: bytes) -> None:
        assert refused(text + b"\r\nhello\r\n") == "chunk too large"


class TestExtensions:
    @pytest.mark.parametrize(
        "extension",
        [
            b";a",
            b";a=b",
            b";a;b=c;d",
            b';a="b"',
            b';a=""',
            b';a="b;\\"\\\\ c\t\xc3\xa4"',
            b';a="b";c',
            b";a=5",
            b";!#$%&'*+-.^_`|~=1",
        ],
    )
    def test_skipped(self, extension: bytes) -> None:
        data = b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n"
        assert decode(data) == b"hello"

    @pytest.mark.parametrize(
        "extension",
        [
            b";",
            b";;",
            b";a;",
            b"; a",
            b" ;a",
            b"\t;a",
            b";a =b",
            b";a= b",
            b";a=b ",
            b";a=",
            b";=b",
            b";a=b=c",
            b";a=b\n",
            b";a\nb",
            b";a\rb",
            b";a\0",
            b";a=\0",
            b';a="',
            b';a="b',
            b';a="b\n"',
            b';a="\r\n"',
            b';a="b\r\n',
            b';a="b"c',
            b';a="\\\r\n"',
            b';a="\\\0"',
            b';a="\x7f"',
            b';a=b"c"',
            b';a"b"',
            b";a,b",
            b";\xff",
            b";a=\xff",
            b";a\x7f",
            b";a=b/c",
        ],
    )
    def test_invalid(self, extension: bytes) -> None:
        refused(b"5" + extension + b"\r\nhello\r\n" + END)
        refused(b"0" + extension + b"\r\n\r\n")

    def test_line_is_bounded(self) -> None:
        # 256 bytes with its CRLF; an endless extension was CVE-2024-22019 elsewhere
        line = b"5;" + b"a" * 252 + b"\r\n"
        assert len(line) == 256
        assert py_chunked([line + b"hello\r\n" + END])[:2] == (DONE, b"hello")
        longer = py_chunked([b"5;" + b"a" * 253 + b"\r\n"])
        assert (longer[0], longer[2], longer[3]) == (ERROR, 257, "chunk size line too long")
        assert py_chunked([b"5;"] + [b"a"] * 255)[0] == ERROR
        assert py_chunked([b'5;a="' + b"\\a" * 200])[3] == "chunk size line too long"
        assert py_chunked([line + b"hello\r\n" + line + b"hello\r\n" + END])[0] == DONE


class TestTrailers:
    @pytest.mark.parametrize(
        "trailer",
        [
            b"X: y\r\n",
            b"X:\r\n",
            b"X: y\r\nZ: \xc3\xa4\tz \r\n",
            b"Authorization: Bearer x\r\n",
            b"Host: b\r\n",
            b"Connection: close\r\n",
            b"Content-Lengthx: 5\r\n",
            b"Content-Lengt: 5\r\n",
            b"xContent-Length: 5\r\n",
            b"Content-LengthContent-Length: 5\r\n",
            b"Transfer-Encodin: chunked\r\n",
            b"Transfer-Encodingg: chunked\r\n",
            b"Content-Encoding: chunked\r\n",
            b"C: 1\r\nT: 2\r\n",
        ],
    )
    def test_checked_and_forgotten(self, trailer: bytes) -> None:
        assert decode(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n") == b"hello"

    @pytest.mark.parametrize(
        "trailer",
        [
            b"X\r\n",
            b": y\r\n",
            b":\r\n",
            b"X : y\r\n",
            b"X\t: y\r\n",
            b" X: y\r\n",
            b"\tX: y\r\n",
            b"X: y\r\n z\r\n",
            b"X: y\n",
            b"X: y\rZ: z\r\n",
            b"X: y\r\r\n",
            b"X: y\0\r\n",
            b"X: \x7f\r\n",
            b"X\0: y\r\n",
            b"X\xff: y\r\n",
            b"X Y: z\r\n",
            b"X\n: y\r\n",
            b"\n",
            b"\0",
            b"GET / HTTP/1.1\r\n",
            b"5\r\n",
        ],
    )
    def test_invalid(self, trailer: bytes) -> None:
        refused(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n")

    @pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding"])
    def test_framing_fields(self, name: bytes) -> None:
        for spelled in (name, name.lower(), name.upper()):
            for before in (b"", b"X: y\r\n", b"Content-Lengt: 5\r\n"):
                data = b"0\r\n" + before + spelled + b": 5\r\n\r\n"
                assert refused(data) == "framing field in a trailer"

    def test_section_is_bounded(self) -> None:
        line = b"X: " + b"y" * 1019 + b"\r\n"
        assert len(line) == 1024
        rest = b"X: " + b"y" * 1017 + b"\r\n"
        assert py_chunked([b"0\r\n" + line * 7 + rest + b"\r\n"])[0] == DONE
        longer = py_chunked([b"0\r\n" + line * 8 + b"\r\n"])
        assert (longer[0], longer[3]) == (ERROR, "trailers too large")
        assert py_chunked([b"0\r\nX: "] + [b"y" * 100] * 82)[3] == "trailers too large"
        assert py_chunked([b"0\r\n" + b"a" * 8193])[3] == "trailers too large"
        assert (
            py_chunked([b"5;" + b"a" * 200 + b"\r\nhello\r\n0\r\n" + line * 7 + b"\r\n"])[0] == DONE
        )


class TestState:
    def test_end_and_error_are_final(self) -> None:
        data = b"5\r\nhello\r\n" + END
        assert py_chunked([data, b"5\r\nworld\r\n"]) == (DONE, b"hello", len(data), None)
        broken = py_chunked([b"5\r\nhelloX", b"\r\n" + END])
        assert broken[:3] == (ERROR, b"hello", 9)

    def test_unfinished(self) -> None:
        assert py_chunked([]) == (MORE, b"", 0, None)
        assert py_chunked([b"", b"5", b"", b"\r\nhel", b""])[:3] == (MORE, b"hel", 6)


@settings(max_examples=300, deadline=None)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    after=st.binary(max_size=8),
)
def test_any_payload_any_cuts(chunks: list[bytes], cuts: list[int], after: bytes) -> None:
    """What was encoded comes back, wherever the bytes are cut and whatever follows."""
    data = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + END
    stream = data + after
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert py_chunked(pieces) == (DONE, b"".join(chunks), len(data), None)


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(
        st.sampled_from(
            [
                b"5",
                b"0",
                b"\r\n",
                b"\r",
                b"\n",
                b"hello",
                b";",
                b"a",
                b"=",
                b'"',
                b" ",
                b"X: y",
                b"\xff",
            ]
        ),
        max_size=14,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_any_bytes_any_cuts(data: bytes, cuts: list[int]) -> None:
    """Result, payload, place and reason depend on the bytes alone."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert py_chunked(pieces) == py_chunked([data]) == py_chunked(bytewise(data))
