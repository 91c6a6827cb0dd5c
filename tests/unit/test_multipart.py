"""The form scanner: what it finds, what it refuses, and that no split of a body changes either."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy._multipart import MultipartScan, boundary_of

MORE, DONE, ERROR = 0, 1, -1
BOUNDARY = b"xYz-42"


def scan(*parts: bytes, boundary: bytes = BOUNDARY) -> tuple[int, dict[str, Any]]:
    """Result and state after these feeds and the end."""
    scanner = MultipartScan(boundary)
    for part in parts:
        if scanner.py_feed(part) == ERROR:
            break
    return scanner.py_finish(), scanner.py_state()


def part(name: bytes, value: bytes, more: bytes = b"", lines: bytes = b"") -> bytes:
    head = b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n" + lines
    return head + b"\r\n" + value


def form(*parts: bytes, boundary: bytes = BOUNDARY) -> bytes:
    """A body of these parts, as every client writes it."""
    start = b"--" + boundary
    return b"".join(start + b"\r\n" + p + b"\r\n" for p in parts) + start + b"--\r\n"


def file(data: bytes) -> bytes:
    return part(b"file", data, b'; filename="a.wav"', b"Content-Type: audio/wav\r\n")


def error(body: bytes) -> str:
    """What the scanner says about a body that has to be wrong, in any split."""
    whole = scan(body)
    assert whole[0] == ERROR, body
    assert scan(*(body[i : i + 1] for i in range(len(body)))) == whole
    return str(whole[1]["error"])


class TestBoundary:
    @pytest.mark.parametrize(
        ("content_type", "boundary"),
        [
            (b"multipart/form-data; boundary=abc", b"abc"),
            (b"Multipart/Form-Data;BOUNDARY=abc", b"abc"),
            (b'multipart/form-data; boundary="a b:c"', b"a b:c"),
            (b"multipart/form-data; charset=utf-8; boundary=abc", b"abc"),
            (b'multipart/form-data ; x="; boundary=no" ; boundary=abc ', b"abc"),
            (b"multipart/form-data; boundary=" + b"-" * 70, b"-" * 70),
            (b"multipart/form-data; boundary=====1==", b"====1=="),
            (b"multipart/form-data; boundary=" + b"-" * 71, None),
            (b"multipart/form-data; boundary=", None),
            (b'multipart/form-data; boundary=""', None),
            (b'multipart/form-data; boundary="a "', None),
            (b'multipart/form-data; boundary="a', None),
            (b'multipart/form-data; boundary="a\\b"', None),
            (b'multipart/form-data; boundary="a"b', None),
            (b"multipart/form-data; boundary=a b", None),
            (b"multipart/form-data; boundary=a,b", None),
            (b"multipart/form-data; boundary=a\xe4", None),
            (b"multipart/form-data; boundary=a\r\n", None),
            (b"multipart/form-data; boundary=a; boundary=b", None),
            (b"multipart/form-data; boundary = a", None),
            (b"multipart/form-data; boundary*=a", None),
            (b"multipart/form-data", None),
            (b"multipart/form-data, boundary=a", None),
            (b"multipart/form-database; boundary=a", None),
            (b"multipart/mixed; boundary=a", None),
            (b"application/json; boundary=a", None),
            (b"", None),
        ],
    )
    def test_boundary_of(self, content_type: bytes, boundary: bytes | None) -> None:
        assert boundary_of(content_type) == boundary

    @pytest.mark.parametrize("boundary", [b"", b"-" * 71])
    def test_length(self, boundary: bytes) -> None:
        with pytest.raises(ValueError, match="boundary"):
            MultipartScan(boundary)


class TestFields:
    def test_model(self) -> None:
        body = form(file(b"RIFF\0\r\n--xYz\r\n\n"), part(b"model", b"whisper-1"), part(b"n", b""))
        result, state = scan(body)
        assert (result, state["model"], state["stream_true"]) == (DONE, b"whisper-1", False)
        assert body[state["model_start"] : state["model_end"]] == b"whisper-1"
        assert state["complete"] is True

    def test_model_is_known_before_the_end(self) -> None:
        scanner = MultipartScan(BOUNDARY)
        body = form(part(b"model", b"m"), file(b"x" * 100))
        assert scanner.py_feed(body[:60]) == MORE
        assert scanner.py_state()["model_start"] == -1
        assert scanner.py_feed(body[60:80]) == MORE
        assert scanner.py_state()["model"] == b"m"
        assert scanner.py_feed(body[80:]) == DONE
        assert scanner.py_feed(b"\r\n") == DONE

    @pytest.mark.parametrize(
        "head",
        [
            b"Content-Disposition: form-data; name=model\r\n",
            b'content-disposition:form-data;name="model"\r\n',
            b'CONTENT-DISPOSITION: \tForm-Data ; NAME="model" \r\n',
            b'X-Y: z\r\nContent-Disposition: form-data; x=";"; name="model"\r\n',
            b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n',
            b'Content-Disposition: form-data; name="model"\r\n'
            b'Content-Type: text/plain; charset="UTF-8"\r\nContent-Transfer-Encoding: 8bit\r\n',
        ],
    )
    def test_spellings(self, head: bytes) -> None:
        assert scan(form(head + b"\r\ngpt"))[1]["model"] == b"gpt"

    @pytest.mark.parametrize(
        "name", [b"Model", b"model ", b" model", b"models", b"model[]", b"", b"m", b"mod%65l"]
    )
    def test_near_names_are_not_it(self, name: bytes) -> None:
        assert scan(form(part(name, b"x")))[1]["model"] is None

    @pytest.mark.parametrize("value", [b"", b"a", "mödel-漢😀".encode(), b"x" * 256, b"--x", b"-"])
    def test_values(self, value: bytes) -> None:
        body = form(part(b"model", value))
        result, state = scan(body)
        assert (result, state["model"]) == (DONE, value)
        assert body[state["model_start"] : state["model_end"]] == value

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(b"true", 1), (b"True", 1), (b"1", 1), (b"on", 1), (b"false", 0), (b"", 0), (b"truer", 0)],
    )
    def test_stream(self, value: bytes, expected: int) -> None:
        assert scan(form(part(b"stream", value)))[1]["stream_true"] is bool(expected)

    def test_no_parts(self) -> None:
        assert scan(b"--" + BOUNDARY + b"--")[0] == DONE


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "the final boundary is missing"),
            (form(file(b"x"))[:-4], "the final boundary is missing"),
            (form(file(b"x"))[:-3], "the final boundary is missing"),
            (b"preamble\r\n" + form(file(b"x")), "the body does not begin with the boundary"),
            (b"\r\n" + form(file(b"x")), "the body does not begin with the boundary"),
            (b"--other--", "the body does not begin with the boundary"),
            (form(part(b"model", b"a"), part(b"model", b"b")), "two parts are named model"),
            (form(part(b"stream", b"1"), part(b"stream", b"1")), "two parts are named stream"),
            (form(part(b"model", b"a", b'; filename="x"')), "model and stream may not be files"),
            (
                form(part(b"model", b"a", b"; filename*=utf-8''x")),
                "model and stream may not be files",
            ),
            (
                form(part(b"model", b"x" * 257)),
                "model and stream may not be longer than 256 bytes",
            ),
            (form(part(b"model", b"a\r\nb")), "line end in model or stream"),
            (form(part(b"model", b"a\rb")), "line end in model or stream"),
            (form(part(b"model", b"a\nb")), "model and stream have to be plain UTF-8"),
            (form(part(b"model", b"a\0")), "model and stream have to be plain UTF-8"),
            (form(part(b"model", b"\xff")), "model and stream have to be plain UTF-8"),
            (form(part(b"model", b"\xe4\xb8")), "model and stream have to be plain UTF-8"),
            (form(part(b"model", b"\xed\xa0\x80")), "model and stream have to be plain UTF-8"),
            (form(part(b"model", b"\xc0\xaf")), "model and stream have to be plain UTF-8"),
            (
                form(part(b"model", b"YQ==", lines=b"Content-Transfer-Encoding: base64\r\n")),
                "model and stream have to be plain UTF-8",
            ),
            (
                form(part(b"model", b"a", lines=b"Content-Type: text/plain; charset=utf-16\r\n")),
                "model and stream have to be plain UTF-8",
            ),
            (form(part(b"_charset_", b"utf-7")), "a _charset_ part is not supported"),
            (form(part(b'model"; name="file', b"a")), "a part has two names"),
            (form(part(b"file", b"a", b"; name*=utf-8''model")), "a part has an extended name"),
            (form(part(b"mod\\el", b"a")), "backslash in a part's name"),
            (
                form(part(b"f", b"a", b'; filename="a\\"; name=\\"model"')),
                "backslash before a quote or backslash in a part's Content-Disposition",
            ),
            (form(b"\r\nx"), "a part has no Content-Disposition"),
            (form(b"Content-Disposition: form-data\r\n\r\nx"), "a part has no name"),
            (form(b"Content-Disposition: file; name=a\r\n\r\nx"), "a part is not form-data"),
            (
                form(b"Content-Disposition: form-data; name\r\n\r\nx"),
                "malformed Content-Disposition in a part",
            ),
            (
                form(b"Content-Disposition: form-data; name=\r\n\r\nx"),
                "malformed Content-Disposition in a part",
            ),
            (
                form(b'Content-Disposition: form-data; name="a\r\n\r\nx'),
                "malformed Content-Disposition in a part",
            ),
            (
                form(b'Content-Disposition: form-data; name="a"b\r\n\r\nx'),
                "malformed Content-Disposition in a part",
            ),
            (
                form(b"Content-Disposition: form-data; name=a,b\r\n\r\nx"),
                "malformed Content-Disposition in a part",
            ),
            (
                form(b"Content-Disposition: form-datax; name=a\r\n\r\nx"),
                "malformed Content-Disposition in a part",
            ),
            (
                form(part(b"a", b"x", lines=b"content-disposition: form-data; name=model\r\n")),
                "a part has two Content-Disposition lines",
            ),
            (
                form(part(b"a", b"x", lines=b"Content-Type: a/b\r\nContent-Type: c/d\r\n")),
                "a part has two Content-Type lines",
            ),
            (form(b"Content-Disposition : form-data; name=a\r\n\r\nx"), "malformed head of a part"),
            (
                form(b"Content-Disposition: form-data;\r\n name=a\r\n\r\nx"),
                "malformed Content-Disposition in a part",
            ),
            (form(part(b"a", b"x", lines=b" folded\r\n")), "malformed head of a part"),
            (form(part(b"a", b"x", lines=b"no colon\r\n")), "malformed head of a part"),
            (form(part(b"a", b"x", lines=b": x\r\n")), "malformed head of a part"),
            (
                form(b"Content-Disposition: form-data; name=a\n\nx"),
                "control character in the head of a part",
            ),
            (form(part(b"a\0", b"x")), "control character in the head of a part"),
            (form(part(b"a", b"x", b"\rb")), "control character in the head of a part"),
            (
                form(part(b"a", b"x", lines=b"x: " + b"y" * 8192 + b"\r\n")),
                "the head of a part is too long",
            ),
            (b"--" + BOUNDARY + b"-" * 1000, "bytes behind the final boundary"),
            (b"--" + BOUNDARY + b"-x", "unexpected byte behind a boundary"),
            (b"--" + BOUNDARY + b" \r\n", "unexpected byte behind a boundary"),
            (b"--" + BOUNDARY + b"\n", "unexpected byte behind a boundary"),
            (b"--" + BOUNDARY + b"\rx", "unexpected byte behind a boundary"),
            (form(file(b"x\r\n--" + BOUNDARY + b"2\r\n")), "unexpected byte behind a boundary"),
            (form(file(b"x")) + b"x", "bytes behind the final boundary"),
            (form(file(b"x")) + form(file(b"x")), "bytes behind the final boundary"),
            (form(file(b"a\n--" + BOUNDARY + b"\r\nb")), "no line end before a boundary"),
            (form(file(b"--" + BOUNDARY + b"\r\nb")), "no line end before a boundary"),
            (form(part(b"model", b"--" + BOUNDARY)), "no line end before a boundary"),
            (form(*[part(b"a", b"")] * 1001), "too many parts"),
        ],
    )
    def test_refused(self, body: bytes, message: str) -> None:
        assert error(body) == message

    def test_limits_that_fit(self) -> None:
        assert scan(form(*[part(b"a", b"")] * 1000))[0] == DONE
        head = len(part(b"a", b"", lines=b"x: \r\n"))
        assert scan(form(part(b"a", b"", lines=b"x: " + b"y" * (8192 - head) + b"\r\n")))[0] == DONE

    def test_error_stays(self) -> None:
        scanner = MultipartScan(BOUNDARY)
        assert scanner.py_feed(b"x") == ERROR
        assert scanner.py_feed(b"") == ERROR
        assert scanner.py_feed(form()) == ERROR
        assert scanner.py_finish() == ERROR
        assert scanner.py_state()["error_at"] == 0

    @pytest.mark.parametrize("unit", [b"\n", b"\r\n", b"\r\n--xYz-4", b"-", b"\n-"])
    def test_time_is_linear(self, unit: bytes) -> None:
        body = form(file(unit * (4_000_000 // len(unit))))
        start = time.process_time()
        assert scan(body)[0] == DONE
        assert time.process_time() - start < 1


names = st.sampled_from([b"model", b"stream", b"file", b"a", b"prompt"])
content = st.lists(
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b"--", b"-", BOUNDARY, BOUNDARY[:-1], b"x", b"\0", b"true"]
    ),
    max_size=8,
).map(b"".join)
parts = st.builds(part, names, st.one_of(content, st.just(b"gpt-4o"), st.binary(max_size=20)))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Forms, some of them damaged."""
    body = bytearray(form(*draw(st.lists(parts, max_size=4))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(body)))
        bits = st.sampled_from([b"", b"\r", b"\n", b"-", b'"', b";", b" ", b"\\"])
        body[at : at + draw(st.integers(0, 2))] = draw(bits)
    return bytes(body)


class TestProperties:
    @given(bodies(), st.lists(st.integers(0, 1 << 16), max_size=8))
    @settings(max_examples=400)
    def test_no_split_changes_the_result(self, body: bytes, where: list[int]) -> None:
        whole = scan(body)
        at = sorted(cut % (len(body) + 1) for cut in where)
        pieces = [body[a:b] for a, b in zip([0, *at], [*at, len(body)], strict=True)]
        assert scan(*pieces) == whole
        assert scan(*(body[i : i + 1] for i in range(len(body)))) == whole

    @given(st.lists(st.tuples(names, st.binary(max_size=40)), max_size=5))
    def test_finds_the_model(self, fields: list[tuple[bytes, bytes]]) -> None:
        body = form(*(part(name, value) for name, value in fields))
        result, state = scan(body)
        if result == DONE:
            assert [v for n, v in fields if n == b"model"] == [state["model"]] * (
                state["model"] is not None
            )
