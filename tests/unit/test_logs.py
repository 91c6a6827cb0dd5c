"""Log lines: written whole, dropped where they can't be, counted, never waited for."""

import fcntl
import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fastproxy.logs import JsonFormatter, LineHandler, plain, say


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 2 * select.PIPE_BUF)
    yield ends
    for end in ends:
        os.close(end)


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, __file__, 1, text, arguments, None)


@pytest.mark.parametrize("text", ["a b/ü", "", "名前"])
def test_text_stays_what_it_is(text: str):
    assert plain(text) == text


@pytest.mark.parametrize(
    "order", ["\n", "\r", "\x1b[2J", "\x7f", "\x9b2J", "\u2028", "\u202e", "\ud800"]
)
def test_what_a_terminal_obeys_is_text(order: str):
    said = plain(f"é{order}!")
    assert said.isprintable()
    assert said.startswith("é\\")


def test_a_reader_that_does_not_read_costs_lines_and_no_time(pipe: tuple[int, int]):
    handler = LineHandler(pipe[1])
    for number in range(40):
        handler.emit(record("%s " + "x" * 400, number))
    read = os.read(pipe[0], 65536).decode()
    assert read.startswith("0 xxx")
    assert read.endswith("x\n")
    written = read.count("\n")
    assert 0 < written < 40
    handler.emit(record("again"))
    handler.emit(record("and again"))
    assert (
        os.read(pipe[0], 65536).decode()
        == f"{40 - written} lines could not be written here\nagain\nand again\n"
    )


def test_nobody_there_and_no_space():
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    for fd in (write, full):
        handler = LineHandler(fd)
        handler.emit(record("one"))
        handler.emit(record("two"))
        assert handler.lost == 2
        assert not say("three", fd)
        os.close(fd)
    assert not say("to a descriptor that is not open", fd)


def test_what_cannot_be_formatted_is_still_a_line(pipe: tuple[int, int]):
    LineHandler(pipe[1]).emit(record("%d", "no number"))
    assert os.read(pipe[0], 4096).startswith(b"name: '%d' can't be formatted: TypeError")


def test_lone_surrogates_and_long_lines(pipe: tuple[int, int]):
    assert say("a\udcff", pipe[1])
    assert os.read(pipe[0], 4096) == b"a\\udcff\n"
    assert not say("x" * 3 * select.PIPE_BUF, pipe[1])  # as much as there is room for


def test_closed_descriptors_are_opened_on_nothing():
    code = (
        "import os; from fastproxy import logs; logs.open_missing(); "
        "assert os.open('/', os.O_RDONLY) > 2; print('x'); "
        "import sys; sys.exit([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)] != ['/dev/null'] * 3)"
    )
    shell = 'exec "$@" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", code], check=False)
    assert done.returncode == 0


def test_json_is_an_object_a_line_whatever_is_said(pipe: tuple[int, int]):
    handler = LineHandler(pipe[1])
    handler.setFormatter(JsonFormatter())
    handler.lost = 3
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        handler.emit(
            logging.LogRecord("n", logging.ERROR, "", 0, 'a "b"\n%s', ("c",), sys.exc_info())
        )
    lost, said = map(json.loads, os.read(pipe[0], 65536).decode().splitlines())
    assert lost["message"].startswith("3 lines")
    assert (said["level"], said["logger"], said["message"]) == ("ERROR", "n", 'a "b"\nc')
    assert "RuntimeError: two\nlines" in said["stacktrace"]
    assert said["timestamp"].endswith("+00:00")
