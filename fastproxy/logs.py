"""Lines for a person, on standard output and standard error: written whole, and never waited for.

Who reads them may be slow, gone, or a full disk; no process may stop or die of that. A line that can't be
written is dropped, and the next one that can says how many were. Nothing is buffered here.
"""

import json
import logging
import os
import select
import sys
from datetime import UTC, datetime

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
PIECE = (
    select.PIPE_BUF
)  # goes into a pipe whole or not at all, and does not wait where there is room


def set_up(level: int, as_json: bool = False) -> None:
    """Log records of `level` and above go to standard error, as text or a JSON object each."""
    handler = LineHandler(2)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(FORMAT))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def say(text: str, fd: int = 2) -> bool:
    """Write `text` and a line end to standard error (or 1, standard output); whether that was possible."""
    return _write(fd, text + "\n")


def plain(text: str) -> str:
    """What others have written, as one line that is nothing but text to a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_missing() -> None:
    """Open what was closed of the descriptors 0 to 2: the next file or socket would take its place and be written to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class JsonFormatter(logging.Formatter):
    """One line, under the names that LiteLLM's have."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object."""
        found = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False)


class LineHandler(logging.Handler):
    """Writes records to a descriptor; counts what could not be written."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One line, with its traceback if it has one."""
        try:
            text = self.format(record)
        except (
            Exception
        ) as error:  # arguments that do not fit: the fault is the caller's, and visible
            text = f"{record.name}: {record.msg!r} can't be formatted: {error!r}"
        if self.lost:
            text = f"{self._loss()}\n{text}"
        self.lost = 0 if _write(self.fd, text + "\n") else self.lost + 1

    def _loss(self) -> str:
        text = f"{self.lost} lines could not be written here"
        if not isinstance(self.formatter, JsonFormatter):
            return text
        return self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None))


def _write(fd: int, text: str) -> bool:
    data = text.encode("utf-8", "backslashreplace")
    room = select.poll()
    room.register(fd, select.POLLOUT)
    try:
        while data and room.poll(0):
            data = data[os.write(fd, data[:PIECE]) :]
    except OSError:
        return False
    return not data
