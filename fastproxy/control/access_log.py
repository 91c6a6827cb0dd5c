"""One line for each request, from the rings' events: written when the answer is long under way."""

import errno
import json
import logging
import os
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from fastproxy import logs
from fastproxy._shared import decode
from fastproxy._table import ENDPOINTS
from fastproxy.control.served import upstream_model
from fastproxy.control.whose import MASTER_KEY, shown_key, user_of

log = logging.getLogger("fastproxy.control")

STDOUT = 1
FLAGS = ("stream", "fallback", "client_gone", "cut", "estimated")


class AccessLog:
    """Where the lines go, and what they say."""

    def __init__(
        self,
        deployments: Callable[[int, int], dict[str, Any] | None],
        records: Callable[[str], dict[str, Any]],
    ) -> None:
        """deployments: by snapshot and index; records: a key's by its digest."""
        self.deployments = deployments
        self.records = records
        self.fd: int | None = None
        self.text = False
        self.piecemeal = False
        self.redact = False
        self.whole = False
        self.lost = 0

    def use(self, target: bool | str | None, redact: bool, whole: bool) -> None:
        """Write to standard output (True) or a file, which is opened anew: whoever rotates it sends HUP.

        redact: leave out whose key it was. whole: a client's `no-log` does not count.
        """
        if self.fd is not None and self.fd != STDOUT:
            os.close(self.fd)
        self.fd = STDOUT if target is True else None
        self.text = self.fd == STDOUT and sys.stdout.isatty()
        self.redact, self.whole = redact, whole
        if isinstance(target, str):
            try:
                self.fd = _open(target)
            except OSError as error:
                log.error("access_log: %s can't be written: %s", target, error.strerror)
        # a file takes a batch at once; of what goes elsewhere each line arrives whole or not at all
        self.piecemeal = self.fd is not None and not stat.S_ISREG(os.fstat(self.fd).st_mode)

    def take(self, events: bytes) -> None:
        """A batch of the rings."""
        if self.fd is None or not events:
            return
        keys: dict[str, dict[str, Any]] = {}
        lines = []
        for event in decode(events):
            # a request is one line, however often it was tried
            if event["attempt"] or (event["no_log"] and not self.whole):
                continue
            digest = event["key"]
            if digest not in keys:
                keys[digest] = self.records(digest)
            entry = self._entry(event, keys[digest])
            lines.append(_text(entry) if self.text else _json(entry))
        if not lines:
            return
        # it takes what it has room for, and is never waited for
        if self.piecemeal:
            lost = sum(not logs.say(line, self.fd) for line in lines)
        else:
            lost = 0 if logs.say("\n".join(lines), self.fd) else len(lines)
        if self.lost and not lost:
            log.warning("%d lines of the access log could not be written", self.lost)
        self.lost = self.lost + lost if lost else 0

    def _entry(self, event: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
        deployment = self.deployments(event["snapshot"], event["deployment"]) or {}
        # of another group's name a pattern knows nothing
        asked = str(deployment.get("group")) if event["fallback"] else event["model"]
        model = upstream_model(deployment, asked) or None
        endpoint = event["endpoint"]
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(event["started_ns"] / 1e9, UTC).isoformat(
                timespec="milliseconds"
            ),
            "call_id": event["call_id"],
            "status": event["status"],
            "call_type": ENDPOINTS[endpoint] if endpoint < len(ENDPOINTS) else "",
            "model": event["model"],
            "deployment": deployment.get("id"),
            "upstream_model": model,
            "duration_ms": event["duration_us"] / 1000,
            "first_byte_ms": event["first_byte_us"] / 1000,
            "overhead_ms": event["overhead_us"] / 1000,
            "input_tokens": event["input_tokens"],
            "output_tokens": event["output_tokens"],
            "cost": None if event["cost"] < 0 else event["cost"] / 1e9,
            "attempts": event["attempts"],
            "client": event["client"],
        }
        if not self.redact:
            entry["key"] = shown_key(event["key"], key)
            whose = {
                "key_alias": key.get("alias"),
                "user": user_of(key),
                "team": key.get("team_id"),
            }
            entry |= {name: value for name, value in whose.items() if value}
            if event["end_user"]:
                entry["end_user"] = event["end_user"]
        if event["queued_us"]:
            entry["queued_ms"] = event["queued_us"] / 1000
        if event["trace_id"]:
            entry["trace_id"] = event["trace_id"]
        return entry | {name: True for name in FLAGS if event[name]}


def _text(entry: dict[str, Any]) -> str:
    """For a person's terminal."""
    flags = "".join(f" {name}" for name in FLAGS if entry.get(name))
    tokens = f"{entry['input_tokens']}+{entry['output_tokens']} tokens"
    key = str(entry.get("key", "-"))
    who = entry.get("key_alias") or (key if key == MASTER_KEY else key[:8])
    return logs.plain(
        f"{entry['time']} {entry['status']} {entry['call_type']} {entry['model']} {tokens} "
        f"{entry['duration_ms']:.1f} ms (ours {entry['overhead_ms']:.2f}) {who} {entry['client']}{flags}"
    )


def _json(entry: dict[str, Any]) -> str:
    line = orjson.dumps(entry).decode()
    if line.isprintable():
        return line
    # beyond what JSON escapes there are letters that a terminal obeys, should somebody look at the file with one
    return json.dumps(entry).replace("\x7f", "\\u007f")


def _open(path: str) -> int:
    # without waiting, neither now for whoever reads a FIFO nor later for whoever is slow to
    flags = os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_WRONLY, 0o640)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        # nobody reads it yet: what it has room for waits there
        return os.open(path, flags | os.O_RDWR)
