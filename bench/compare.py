"""fastproxy beside nginx and HAProxy doing the same job, in one run.

Rounds are interleaved (direct A B C, direct A B C, …), peers that are not measured are stopped,
medians and their spread are kept. See docs/benchmarking.md for the method. `--quick` prints a short
table; a full run writes bench/results/<date>.json and renders bench/RESULTS.md from it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import orjson

import fastproxy.load
from fastproxy import procstat
from fastproxy.loadtest import (
    SATURATED,
    UPSTREAM_KEY,
    BenchError,
    Child,
    chat_body,
    start_mock,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers import FEATURES, PEERS, TLS, Peer, certificate, installed
from report import markdown, text_table

HERE = Path(__file__).resolve().parent
NOISE = 0.08  # share of a core that strangers may use in a round
REPEATS = 2  # times that a noisy or failed round is done again


@dataclass(frozen=True)
class Scenario:
    """One kind of load."""

    name: str
    connections: int
    rate: float | None = None
    model: str = "mock"
    size: int = 1054
    stream: bool = False
    gap: float = 0.0


def scenarios(options: argparse.Namespace) -> list[Scenario]:
    """What is measured. The streams' gap and number make the chunk rate."""
    gap = 0.010
    streams = max(1, round(options.chunk_rate * gap))
    return [
        Scenario("closed", options.connections),
        Scenario("open", 32, rate=options.qps),
        # 400 events of 10 ms: a stream takes 4 s, so that the events are what is measured.
        Scenario("sse", streams, model="mock-gap10-tokens400", stream=True, gap=gap),
        Scenario("body100k", 16, size=100_000),
        Scenario("body10m", 4, size=10_000_000),
    ]


@dataclass
class Machine:
    """The measuring side: the mock and what keeps the cores awake."""

    mock: Child
    spinners: procstat.Spinners
    peers: list[Peer]

    def ours(self) -> list[int]:
        """All processes that belong to the measurement."""
        found = [os.getpid(), *self.mock.pids(), *self.spinners.pids]
        for peer in self.peers:
            found += peer.pids()
        return found


def one_round(machine: Machine, peer: Peer, scenario: Scenario, seconds: float) -> dict[str, Any]:
    """Run one scenario over one peer; the figures of this round."""
    body = chat_body(scenario.model, scenario.size, scenario.stream)
    own = [os.getpid(), *machine.mock.pids()]
    watched, everyone = peer.pids(), machine.ours()
    busy, mine = procstat.machine_busy_ns(), procstat.cpu_ns(everyone)
    cpu, own_cpu = procstat.cpu_ns(watched), procstat.cpu_ns(own)
    result = fastproxy.load.run(
        peer.url,
        key=peer.key,
        body=body,
        rate=scenario.rate,
        connections=scenario.connections,
        duration=seconds,
        stream=scenario.stream,
        warmup=min(0.5, seconds / 4),
        gap=scenario.gap,
    )
    cpu = procstat.cpu_ns(watched) - cpu
    own_cpu = procstat.cpu_ns(own) - own_cpu
    mine = procstat.cpu_ns(everyone) - mine
    busy = procstat.machine_busy_ns() - busy
    row: dict[str, Any] = {
        "throughput": round(result.throughput, 1),
        "cpu_us": round(cpu / 1000 / max(1, result.total), 3),
        "own_core": round(own_cpu / 1e9 / result.elapsed, 3),
        "peer_core": round(cpu / 1e9 / result.elapsed, 3),
        "others_core": round(max(0, busy - mine) / 1e9 / result.elapsed, 3),
        "p50": round(result.latency.percentile(50), 1),
        "p99": round(result.latency.percentile(99), 1),
        "p999": round(result.latency.percentile(99.9), 1),
        "failed": result.failed,
        "late": result.late,
        "reconnects": result.reconnects,
    }
    if scenario.stream:
        row["chunks_per_second"] = round(result.chunks / result.elapsed, 1)
        row["cpu_us_per_chunk"] = round(cpu / 1000 / max(1, result.chunks), 3)
        row["chunk_p50"] = round(result.lateness(50), 1)
        row["chunk_p99"] = round(result.lateness(99), 1)
    return row


def measure(
    machine: Machine, wanted: list[Scenario], options: argparse.Namespace
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """All rounds: scenario, peer, rows."""
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {
        scenario.name: {peer.name: [] for peer in machine.peers} for scenario in wanted
    }
    for number in range(options.rounds):
        for scenario in wanted:
            for peer in machine.peers:
                if peer.only and scenario.name not in peer.only:
                    continue
                note(f"round {number + 1}/{options.rounds} {scenario.name} {peer.name}")
                if peer.child:
                    peer.child.signal(signal.SIGCONT)
                    if peer.child.process.poll() is not None:
                        raise BenchError(f"{peer.name} has ended:\n{peer.child.tail()}")
                for attempt in range(1 if options.quick else REPEATS + 1):
                    try:
                        row = one_round(machine, peer, scenario, options.seconds)
                    except OSError as error:
                        shown = peer.child.tail() if peer.child else ""
                        raise BenchError(
                            f"{peer.name}, {scenario.name}: {error}\n{shown}"
                        ) from error
                    row["repeated"] = attempt
                    if row["others_core"] <= NOISE and not row["failed"]:
                        break
                rows[scenario.name][peer.name].append(row)
                if peer.child:
                    peer.child.signal(signal.SIGSTOP)
    note("")
    return rows


def note(text: str) -> None:
    """Say where we are, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="" if text else "\r", file=sys.stderr, flush=True)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds, with the least and the most of each."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in ("failed", "late", "reconnects", "repeated"):
            found[name] = sum(values)
        else:
            found[name] = round(median(values), 2)
            found[f"{name}_range"] = [min(values), max(values)]
    found["generator_bound"] = found["own_core"] > SATURATED and found["peer_core"] < SATURATED
    found["noisy"] = sum(row["others_core"] > NOISE for row in rows)
    return found


def memory(peers: list[Peer]) -> dict[str, dict[str, float]]:
    """Pss and Rss of each peer in MB."""
    found = {}
    for peer in peers:
        pids = peer.pids()
        rss, pss = procstat.rss_kb(pids) / 1024, procstat.pss_kb(pids) / 1024
        found[peer.name] = {"pss": round(pss, 1), "rss": round(rss, 1), "processes": len(pids)}
    return found


def machine_facts() -> dict[str, Any]:
    """What the figures were made on."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cpus": len(procstat.cpus()),
        "kernel": platform.release().split("-")[0],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole comparison as plain data."""
    cores = procstat.cpus()
    peer_cpus, own_cpus = ({cores[0]}, {cores[1]}) if len(cores) > 1 else (None, None)
    wanted = [one for one in scenarios(options) if one.name in options.scenarios]
    models = sorted({one.model for one in wanted})
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastproxy-compare-"))
        folder = Path(name)
        # A master that runs as root starts its workers as another user.
        folder.chmod(0o755)
        mock, mock_port = start_mock(own_cpus, folder)
        stack.callback(mock.stop)
        tls_port = 0
        if any(one in TLS and installed(one) for one in options.peers):
            tls_mock, tls_port = start_mock(own_cpus, folder, certificate(folder))
            stack.callback(tls_mock.stop)
        direct = Peer("direct", "", "the generator on the mock", mock_port, UPSTREAM_KEY)
        peers = [direct]
        skipped = []
        for one in options.peers:
            if not installed(one):
                skipped.append(f"{one}: not installed (bench/setup)")
                continue
            try:
                starter = (PEERS | TLS | FEATURES)[one]
                peer = starter(tls_port if one in TLS else mock_port, models, peer_cpus, folder)
            except BenchError as error:
                skipped.append(f"{one}: {error}")
                continue
            assert peer.child is not None  # noqa: S101 - only `direct` has none
            stack.callback(peer.child.stop)
            peers.append(peer)
        # Started before the peers are stopped: a stopped peer may owe nothing to its start.
        idle = memory(peers)
        for peer in peers:
            if peer.child:
                peer.child.signal(signal.SIGSTOP)
        procstat.pin(own_cpus)
        stack.callback(procstat.pin, set(cores))
        spinners = procstat.Spinners()
        stack.callback(spinners.stop)
        spinners.start(cores[:2])
        machine = Machine(mock, spinners, peers)
        rows = measure(machine, wanted, options)
        loaded = memory(peers)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": machine_facts(),
        "pinned": peer_cpus is not None,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "qps": options.qps,
        "chunk_rate": options.chunk_rate,
        "connections": options.connections,
        "took_seconds": round(time.monotonic() - began),
        "skipped": skipped,
        "peers": {
            peer.name: {
                "version": peer.version,
                "notes": peer.notes,
                "start_seconds": round(peer.start_seconds, 2),
                "idle": idle[peer.name],
                "loaded": loaded[peer.name],
                "scenarios": {
                    scenario: summary(by_peer[peer.name])
                    for scenario, by_peer in rows.items()
                    if by_peer[peer.name]
                },
            }
            for peer in peers
        },
        "rows": rows,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    known = ["closed", "open", "sse", "body100k", "body10m"]
    parser = argparse.ArgumentParser(prog="bench/compare.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, only prints")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (5; quick: 1)")
    parser.add_argument("--seconds", type=float, default=0, help="of a round (5; quick: 2)")
    parser.add_argument("--qps", type=float, default=1000, help="open loop's rate (1000)")
    parser.add_argument("--chunk-rate", type=float, default=32_000, help="SSE events/s (32000)")
    parser.add_argument("--connections", type=int, default=64, help="of the closed loop (64)")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=[*PEERS, *TLS, *FEATURES],
        default=[*PEERS, *TLS, *FEATURES],
        help="who is measured; the last ones are fastproxy with a feature off, or with limits and spend",
    )
    parser.add_argument("--scenarios", nargs="+", choices=known, default=known)
    parser.add_argument("--render", type=Path, help="only render RESULTS.md from this JSON")
    options = parser.parse_args(argv)
    if options.quick and options.peers == [*PEERS, *TLS, *FEATURES]:
        options.peers = list(PEERS)
        options.scenarios = [one for one in options.scenarios if one != "body10m"]
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (2.0 if options.quick else 5.0)
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure (or only render), print, write."""
    options = parse(argv)
    if options.render:
        found = orjson.loads(options.render.read_bytes())
        (HERE / "RESULTS.md").write_text(markdown(found, options.render.name))
        return 0
    try:
        found = run(options)
    except BenchError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(text_table(found))
    if not options.quick:
        target = HERE / "results" / f"{found['date']}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
        (HERE / "RESULTS.md").write_text(markdown(found, target.name))
    failed = sum(
        one["failed"] for peer in found["peers"].values() for one in peer["scenarios"].values()
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
