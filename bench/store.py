"""What requests notice of the store: nothing while it is locked or its disk is full, nothing of how many keys it holds;
and how soon all workers know of a change.

Prints and writes bench/STORE.md. The store lies on a small file system of its own, in memory, which is filled up: that takes
root, or user namespaces (the script starts itself anew in one).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import http.client
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

import fastproxy.load
from fastproxy import __version__, procstat
from fastproxy.loadtest import (
    CLIENT_KEY,
    chat_body,
    start_gateway,
    start_mock,
)

HERE = Path(__file__).resolve().parent
RATE = 1000
PRICES = {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-9}
LIMITS = {
    "rpm_limit": 10**9,
    "tpm_limit": 10**12,
    "max_parallel_requests": 1000,
    "max_budget": 10**6,
}
BODY = chat_body("mock", 1054, False)
DISK = 256 << 20
RECOVERY = 120.0  # seconds in which what has waited must be written
FIRST_USES = 500
CHANGES = 500
CHANGE_RATE = 20  # a second


class Gateway:
    """With a store in `data`."""

    def __init__(self, mock_port: int, folder: Path, data: Path, workers: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        self.child, self.port, self.started = start_gateway(
            mock_port, ["mock"], None, folder, params=PRICES, workers=workers, data=data
        )
        self.url = f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the admin API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"authorization": f"Bearer {CLIENT_KEY}", "content-type": "application/json"}
        try:
            connection.request(method, path, orjson.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {raw[:300]!r}")
        return orjson.loads(raw)

    def counters(self) -> dict[str, int]:
        """Of all workers."""
        return dict(self.ask("GET", "/fastproxy/counters"))

    def written(self) -> int:
        """Requests that the store knows of."""
        return int(self.ask("GET", "/global/spend")["api_requests"])

    def memory(self) -> tuple[int, int]:
        """Pss of the worker and of control, in KB. Control is the child whose memory grows with imports: the larger."""
        children = [pid for pid in self.child.pids() if pid != self.child.process.pid]
        sizes = sorted(procstat.pss_kb([pid]) for pid in children)
        return sizes[0], sizes[-1]

    def load(self, key: str, seconds: float) -> fastproxy.load.Result:
        """RATE requests a second, on a schedule."""
        return fastproxy.load.run(
            self.url, key=key, body=BODY, rate=RATE, connections=64, duration=seconds, warmup=0.5
        )


@contextlib.contextmanager
def untouched(data: Path) -> Iterator[None]:
    """The store works."""
    yield


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Somebody else holds the file's lock for writing."""
    database = sqlite3.connect(data / "fastproxy.db", isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        database.execute("ROLLBACK")
        database.close()


@contextlib.contextmanager
def disk_full(data: Path) -> Iterator[None]:
    """No byte is free on the file system."""
    filler = data / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    try:
        yield
    finally:
        filler.unlink()


def stopped(folder: Path, mock_port: int, seconds: float, rounds: int) -> Iterator[tuple[str, ...]]:
    """Latency while the store works, is locked, has no disk; rounds in turn, medians."""
    data = folder / "disk"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(data)], check=True)
    gateway = Gateway(mock_port, folder / "stopped", data)
    try:
        key = gateway.ask("POST", "/key/generate", LIMITS)["key"]
        sent = gateway.load(key, 2).total
        kinds = {"the store works": untouched, "locked": locked, "disk full": disk_full}
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
        failed, waited = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
        for _ in range(rounds):
            for name, condition in kinds.items():
                before = gateway.counters()["events_folded"]
                with condition(data):
                    result = gateway.load(key, seconds)
                seen[name].append(result.percentiles())
                failed[name] += result.failed
                sent += result.total
                settle(gateway, sent)
                waited[name] += gateway.counters()["events_folded"] - before
        for name in kinds:
            values = [
                f"{statistics.median(one[p] for one in seen[name]):,.0f}"
                for p in ("p50", "p90", "p99", "p99.9")
            ]
            yield (name, *values, str(failed[name]), f"{waited[name]:,}")
        lost = gateway.counters()["events_dropped"]
        text = f"{sent:,} requests sent, {gateway.written():,} in the store, {lost:,} events lost"
        yield (text, "", "", "", "", "", "")
    finally:
        gateway.child.stop()
        subprocess.run(["umount", str(data)], check=True)


def settle(gateway: Gateway, sent: int) -> None:
    """Wait until what has waited is written: all of it."""
    deadline = time.monotonic() + RECOVERY
    while time.monotonic() < deadline:
        time.sleep(1.5)
        if gateway.written() >= sent:
            return
    raise SystemExit(f"what has waited was not written in {RECOVERY:g} s")


def raw_key(number: int) -> str:
    """One of many keys."""
    return f"sk-bench-{number:08d}"


def fill(data: Path, count: int) -> None:
    """So many copies of the one key that is there."""
    with contextlib.closing(sqlite3.connect(data / "fastproxy.db")) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(keys)")]
        columns = ", ".join(f'"{name}"' for name in names if name not in ("token", "key_alias"))
        database.executemany(
            f"INSERT INTO keys (token, {columns}) SELECT ?, {columns} FROM keys WHERE key_alias = 'one'",  # noqa: S608
            ((hashlib.sha256(raw_key(number).encode()).hexdigest(),) for number in range(count)),
        )


def first_uses(gateway: Gateway) -> tuple[list[float], list[float]]:
    """Milliseconds of the first and of the second request of FIRST_USES keys, on one connection."""
    first: list[float] = []
    second: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        for number in range(FIRST_USES):
            headers = {
                "authorization": f"Bearer {raw_key(number)}",
                "content-type": "application/json",
            }
            for times in (first, second):
                begun = time.perf_counter()
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                answer = connection.getresponse()
                answer.read()
                times.append(1000 * (time.perf_counter() - begun))
                if answer.status != 200:
                    raise SystemExit(f"a stored key is answered {answer.status}")
    finally:
        connection.close()
    return first, second


def many_keys(folder: Path, mock_port: int, count: int, rounds: int) -> Iterator[tuple[str, ...]]:
    """Start and memory with few and with many keys, and what the first use of one costs."""
    places: dict[int, Path] = {}
    for number in (FIRST_USES, count):
        data = places[number] = folder / f"keys-{number}"
        gateway = Gateway(mock_port, folder / f"made-{number}", data)
        gateway.ask("POST", "/key/generate", {"key_alias": "one", **LIMITS})
        gateway.child.stop()
        fill(data, number)
    for number, data in places.items():
        starts, workers, controls = [], [], []
        first: list[float] = []
        second: list[float] = []
        for turn in range(rounds):
            gateway = Gateway(mock_port, folder / f"run-{number}-{turn}", data)
            try:
                starts.append(gateway.started)
                time.sleep(1)
                worker, control = gateway.memory()
                workers.append(worker / 1024)
                controls.append(control / 1024)
                ones, twos = first_uses(gateway)
                first += ones
                second += twos
            finally:
                gateway.child.stop()
        yield (
            f"{number:,}",
            f"{statistics.median(starts):.2f} s",
            f"{statistics.median(workers):.1f} MB",
            f"{statistics.median(controls):.1f} MB",
            f"{statistics.median(first):.2f}, {quantile(first):.2f}, {max(first):.2f} ms",
            f"{statistics.median(second):.2f}, {quantile(second):.2f}, {max(second):.2f} ms",
        )


def changes(folder: Path, mock_port: int) -> Iterator[tuple[str, ...]]:
    """Milliseconds until a change of a key is acknowledged: it is on disk, and all workers have it."""
    for workers in (1, 8):
        place = folder / f"changes-{workers}"
        gateway = Gateway(mock_port, place, place, workers)
        try:
            keys = [gateway.ask("POST", "/key/generate", LIMITS)["key"] for _ in range(2)]
            idle = acknowledged(gateway, keys[0])
            with ThreadPoolExecutor(1) as pool:
                load = pool.submit(gateway.load, keys[1], CHANGES / CHANGE_RATE + 2)
                loaded = acknowledged(gateway, keys[0])
                failed = load.result().failed
        finally:
            gateway.child.stop()
        for name, found in (("idle", idle), (f"{RATE:,} requests/s", loaded)):
            values = (statistics.median(found), quantile(found), max(found))
            texts = [f"{value:.1f} ms" for value in values]
            yield (f"{workers} workers, {name}", *texts, str(failed if found is loaded else 0))


def acknowledged(gateway: Gateway, key: str) -> list[float]:
    """Milliseconds of a key's blocking and unblocking, in turn."""
    times: list[float] = []
    for number in range(CHANGES):
        begun = time.perf_counter()
        gateway.ask("POST", f"/key/{'un' if number % 2 else ''}block", {"key": key})
        took = time.perf_counter() - begun
        times.append(1000 * took)
        time.sleep(max(0.0, 1 / CHANGE_RATE - took))
    return times


def quantile(values: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(values, n=100)[98]


def table(lines: list[str], head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> None:
    """Add a table, printed row by row."""
    lines += [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    print(" | ".join(head), flush=True)
    for row in rows:
        lines.append(f"| {' | '.join(row)} |")
        print(" | ".join(row), flush=True)
    lines.append("")


def main() -> int:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="of each run under load (30)")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over these (3)")
    parser.add_argument("--keys", type=int, default=100_000, help="in the store (100,000)")
    parser.add_argument("--print-only", action="store_true", help="leave bench/STORE.md as it is")
    options = parser.parse_args()
    if os.geteuid() and shutil.which("unshare"):
        command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, check=False).returncode
    lines = [
        "# What requests notice of the store",
        "",
        f"By `python bench/store.py`, fastproxy {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. "
        "Generated; not edited by hand.",
        "",
        f"A key with limits and a budget, {RATE:,} requests/s on a schedule for {options.seconds:g} s, one worker; µs. Folded: "
        "kept as sums, because a ring was nearly full.",
        "",
    ]
    with tempfile.TemporaryDirectory(prefix="fastproxy-store-") as name:
        folder = Path(name)
        mock, mock_port = start_mock(None, folder)
        try:
            latency = ("", "p50", "p90", "p99", "p99.9", "failed", "events folded")
            table(lines, latency, stopped(folder, mock_port, options.seconds, options.rounds))
            lines += [
                f"The first and the second request of each of {FIRST_USES} keys, one after the other: median, p99, most. "
                "Memory is Pss after the start.",
                "",
            ]
            keys = ("keys in the store", "start", "worker", "control", "first use", "second use")
            table(lines, keys, many_keys(folder, mock_port, options.keys, options.rounds))
            lines += [
                f"A key blocked and unblocked, {CHANGE_RATE} times a second, until that is acknowledged: it is on disk then, "
                "and every worker has it.",
                "",
            ]
            head = ("", "median", "p99", "most", "requests failed")
            table(lines, head, changes(folder, mock_port))
        finally:
            mock.stop()
    if not options.print_only:
        (HERE / "STORE.md").write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
