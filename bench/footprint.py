"""What the gateway holds on to: memory per connection and stream, memory over many requests, cost with two workers.

Prints and writes bench/FOOTPRINT.md. Memory is Pss of the whole process tree, from the kernel's own accounting.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import socket
import sys
import tempfile
import time
from pathlib import Path

import fastproxy.load
from fastproxy import __version__, procstat
from fastproxy.loadtest import (
    CLIENT_KEY,
    chat_body,
    start_gateway,
    start_mock,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import certificate

HERE = Path(__file__).resolve().parent
STREAMS = 2000
IDLE = 2000
TLS_CONNECTIONS = 200
STREAM_MODEL = "mock-gap1000-tokens60"
MODELS = ["mock", STREAM_MODEL, "mock-delay1500"]
GENERAL = {"pool_max_idle": 4096, "pool_idle_timeout": 600}


class Gateway:
    """A gateway of its own in front of the mock."""

    def __init__(
        self, mock_port: int, folder: Path, workers: int = 1, cert: Path | None = None
    ) -> None:
        folder.mkdir()
        self.child, self.port, _ = start_gateway(
            mock_port, MODELS, None, folder, GENERAL, certificate=cert, workers=workers
        )
        self.url = f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def kilobytes(self) -> int:
        """Pss of the tree, once it has come to rest."""
        time.sleep(0.5)
        return procstat.pss_kb(self.child.pids())

    def request(self, model: str, stream: bool = False) -> bytes:
        """A request as bytes."""
        return fastproxy.load.request_bytes(self.url, CLIENT_KEY, chat_body(model, 1054, stream))

    def load(self, seconds: float, connections: int = 64) -> tuple[int, float]:
        """(requests, CPU µs of the tree per request) under a closed loop."""
        pids = self.child.pids()
        before = procstat.cpu_ns(pids)
        result = fastproxy.load.run(
            self.url, key=CLIENT_KEY, body=chat_body("mock", 1054, False),
            connections=connections, duration=seconds, warmup=0.5,
        )  # fmt: skip
        return result.total, (procstat.cpu_ns(pids) - before) / 1000 / max(1, result.total)


def connect(port: int, stack: contextlib.ExitStack) -> socket.socket:
    """An open connection, closed with the stack."""
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))


def idle_connections(gateway: Gateway) -> float:
    """KB per idle client connection that has had one answer."""
    with contextlib.ExitStack() as stack:
        before = gateway.kilobytes()
        for _ in range(IDLE):
            sock = connect(gateway.port, stack)
            sock.sendall(gateway.request("mock"))
            sock.recv(65536)
        return (gateway.kilobytes() - before) / IDLE


def streams(gateway: Gateway) -> float:
    """KB per stream in flight, both of its connections."""
    with contextlib.ExitStack() as stack:
        before = gateway.kilobytes()
        socks = [connect(gateway.port, stack) for _ in range(STREAMS)]
        for sock in socks:
            sock.sendall(gateway.request(STREAM_MODEL, True))
        for sock in socks:
            sock.recv(65536)
        return (gateway.kilobytes() - before) / STREAMS


def tls_connections(gateway: Gateway) -> float:
    """KB per idle https connection to the upstream, once its clients have gone."""
    before = gateway.kilobytes()
    with contextlib.ExitStack() as stack:
        socks = [connect(gateway.port, stack) for _ in range(TLS_CONNECTIONS)]
        for sock in socks:
            sock.sendall(gateway.request("mock-delay1500"))
        for sock in socks:
            sock.recv(65536)
    return (gateway.kilobytes() - before) / TLS_CONNECTIONS


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="memory is watched over")
    parser.add_argument("--connections", type=int, default=20_000, help="and over these")
    options = parser.parse_args()
    rows: list[tuple[str, str]] = []

    def row(name: str, value: str) -> None:
        rows.append((name, value))
        print(f"{name:58} {value}", flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="fastproxy-footprint-") as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        mock, mock_port = start_mock(None, folder)
        stack.callback(mock.stop)
        one = Gateway(mock_port, folder / "one")
        stack.callback(one.child.stop)
        row("process tree after its start, one worker", f"{one.kilobytes() / 1024:.1f} MB")
        row(f"per idle client connection ({IDLE:,})", f"{idle_connections(one):.1f} KB")
        row(f"per stream in flight ({STREAMS:,})", f"{streams(one):.1f} KB")
        done, cpu = one.load(10)
        before = one.kilobytes()
        total = 0
        while total < options.requests:
            total += one.load(10)[0]
        row(f"growth over {total:,} more requests", f"{one.kilobytes() - before:+,} KB")
        for _ in range(options.connections):
            socket.create_connection(("127.0.0.1", one.port), 10).close()
        row(
            f"and after {options.connections:,} connections that said nothing",
            f"{one.kilobytes() - before:+,} KB",
        )
        row("CPU per request, one worker", f"{cpu:.1f} µs")
        one.child.stop()
        two = Gateway(mock_port, folder / "two", workers=2)
        stack.callback(two.child.stop)
        done, both = two.load(10)
        row(
            "CPU per request, two workers",
            f"{both:.1f} µs ({done:,} requests): {2 * cpu / both:.2f} times one worker's on twice the CPU",
        )
        two.child.stop()
        tls_mock, tls_port = start_mock(None, folder, certificate(folder))
        stack.callback(tls_mock.stop)
        secure = Gateway(tls_port, folder / "tls", cert=certificate(folder)[0])
        stack.callback(secure.child.stop)
        row(
            f"per idle https connection to the upstream ({TLS_CONNECTIONS})",
            f"{tls_connections(secure):.1f} KB",
        )
    lines = [
        "# Footprint",
        "",
        f"By `python bench/footprint.py`, fastproxy {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. "
        "Generated; not edited by hand. Memory is Pss.",
        "",
        "| | |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    (HERE / "FOOTPRINT.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
