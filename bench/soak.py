"""A soak: upstreams that fail, stall, reset, go away and come back, and reloads, for as long as it takes.

Shown at the end: every client had an answer that its policy allows, no request went upstream twice without
a reason, memory and descriptors are flat, and nothing is in flight. Exits with 1 where one of these is not so.
`--seconds` (1800), `--qps` (1000), `--workers` (2). Prints and writes bench/SOAK.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import http.client
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent))

from soak_client import Load
from soak_upstream import Deployment, Journal

from fastproxy import __version__, procstat
from fastproxy.loadtest import CLIENT_KEY, UPSTREAM_KEY, Child, free_port, own_command

HERE = Path(__file__).resolve().parent
LIMIT = 2.0  # seconds: every time-out of the deployments
POOL_IDLE = 3.0  # seconds until an idle upstream connection is closed
REST = POOL_IDLE + 5.0
SAMPLE_EVERY = 2.0
RELOAD_EVERY = 15.0
GROWTH = 0.10  # of memory, between the second and the last third, and
GROWTH_KB = 3072  # so much besides


def deployments(journal: Journal) -> dict[str, list[Deployment]]:
    """Groups: two that are tried, and what they fall back to."""
    groups = {
        "main": [Deployment(f"main-{n}", "chat", journal) for n in range(4)],
        "spare": [Deployment(f"spare-{n}", "chat", journal) for n in range(2)],
        "claude": [Deployment(f"claude-{n}", "messages", journal) for n in range(3)],
        "claude-spare": [Deployment("claude-spare-0", "messages", journal, steady=True)],
    }
    return groups


def config(groups: dict[str, list[Deployment]]) -> dict[str, Any]:
    """The gateway's configuration."""
    models = []
    for group, members in groups.items():
        for one in members:
            base = f"http://127.0.0.1:{one.port}"
            anthropic = one.api == "messages"
            params = {
                "model": f"{'anthropic' if anthropic else 'openai'}/{one.name}",
                "api_base": base if anthropic else f"{base}/v1",
                "api_key": UPSTREAM_KEY,
                "timeout": LIMIT,
                "stream_timeout": LIMIT,
                "stream_idle_timeout": LIMIT,
            }
            info = {"id": one.name}
            models.append({"model_name": group, "litellm_params": params, "model_info": info})
    router = {
        "num_retries": 2,
        "cooldown_time": 1,
        "total_timeout": 14,
        "fallbacks": [{"main": ["spare"]}, {"claude": ["claude-spare"]}],
    }
    general = {"master_key": CLIENT_KEY, "pool_idle_timeout": POOL_IDLE}
    return {"model_list": models, "router_settings": router, "general_settings": general}


class Watch:
    """Memory and descriptors of the gateway's process tree over time."""

    def __init__(self, gateway: Child) -> None:
        self.gateway = gateway
        self.memory: list[int] = []
        self.files: list[int] = []
        self.died = False

    def descriptors(self) -> int:
        """Open descriptors of all processes."""
        total = 0
        for pid in self.gateway.pids():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/fd"))
        return total

    async def run(self) -> None:
        """Sample for ever."""
        begin = set(self.gateway.pids())
        while True:
            await asyncio.sleep(SAMPLE_EVERY)
            pids = self.gateway.pids()
            self.died = self.died or not begin <= set(pids)
            self.memory.append(procstat.pss_kb(pids))
            self.files.append(self.descriptors())


async def reload(gateway: Child, path: Path, groups: dict[str, list[Deployment]]) -> None:
    """Change the configuration a little now and then, for ever: nobody may notice."""
    for number in itertools.count():
        await asyncio.sleep(RELOAD_EVERY)
        changed = config(groups)
        changed["router_settings"]["cooldown_time"] = 1 + number % 2
        await asyncio.to_thread(path.write_bytes, orjson.dumps(changed))
        gateway.process.send_signal(signal.SIGHUP)


def thirds(values: list[int]) -> tuple[float, float]:
    """Medians of the second and of the last third."""
    third = max(1, len(values) // 3)
    return statistics.median(values[third : 2 * third] or values), statistics.median(
        values[-third:]
    )


def get(port: int, path: str) -> tuple[int, bytes]:
    """A request with the master key."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {CLIENT_KEY}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def in_flight(port: int) -> dict[str, int]:
    """What the gateway itself counts, besides the request that asks."""
    found = {}
    _, body = get(port, "/fastproxy/counters")
    found["counters"] = int(orjson.loads(body)["in_flight"]) - 1
    status, body = get(port, "/health/backlog")
    if status == 200:
        found["/health/backlog"] = max(0, int(orjson.loads(body)["in_flight_requests"]) - 1)
    return found


async def soak(options: argparse.Namespace, folder: Path) -> tuple[list[str], list[str]]:
    """Run it; the lines of the report, and what is wrong."""
    journal = Journal()
    groups = deployments(journal)
    everyone = [one for members in groups.values() for one in members]
    for one in everyone:
        await one.open()
    path = folder / "gateway.yaml"
    path.write_bytes(orjson.dumps(config(groups)))
    port = free_port()
    flags = ["--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    command = own_command(*flags, "--num_workers", str(options.workers))
    gateway = Child("gateway", command, None, folder)
    tasks: list[asyncio.Task[None]] = []
    try:
        await asyncio.to_thread(gateway.wait_ready, port, "/health/readiness")
        watch = Watch(gateway)
        files_before = watch.descriptors()
        load = Load(port, journal)
        tasks = [asyncio.create_task(one.live()) for one in everyone]
        tasks += [asyncio.create_task(watch.run()), asyncio.create_task(load.beat())]
        tasks.append(asyncio.create_task(reload(gateway, path, groups)))
        cpu = procstat.cpu_ns(gateway.pids())
        begun = time.monotonic()
        await load.run(options.qps, options.seconds)
        seconds = time.monotonic() - begun
        cpu = procstat.cpu_ns(gateway.pids()) - cpu
        for task in tasks:
            task.cancel()
        await asyncio.sleep(REST)
        files_after = watch.descriptors()  # before the control plane is asked, which opens some
        left = await asyncio.to_thread(in_flight, port)
        open_upstream = sum(len(one.sessions) for one in everyone)
        log = gateway.log.read_text(errors="replace")
    finally:
        gateway.stop()
        for one in everyone:
            one.leave()
    found = load.found
    early, late = thirds(watch.memory)
    files_early, files_late = thirds(watch.files)
    answered = sum(found.outcomes.values())
    problems = [
        f"{count} × {kind}: {' | '.join(found.examples[kind])}"
        for kind, count in found.violations.most_common()
    ]
    if late > early * (1 + GROWTH) + GROWTH_KB:
        problems.append(f"memory grew from {early:,.0f} to {late:,.0f} KB")
    if files_after > files_before + 2:
        problems.append(f"descriptors at rest: {files_before} before, {files_after} after")
    if any(left.values()):
        problems.append(f"in flight at the end: {left}")
    if open_upstream:
        problems.append(f"{open_upstream} upstream connections are open after their idle time")
    if watch.died:
        problems.append("a process of the gateway ended")
    if answered != found.sent:
        problems.append(f"{found.sent} requests, {answered} outcomes")
    words = [word for word in ("Traceback", "not allowed") if word in log]
    problems += [f"the log has {word!r}: {log[log.index(word) :][:600]}" for word in words]
    quick = sorted(found.latencies) or [0.0]
    rows = [
        ("requests", f"{found.sent:,} in {seconds:,.0f} s"),
        *((f"… {name}", f"{count:,}") for name, count in found.outcomes.most_common()),
        ("arrivals upstream", f"{journal.total:,}"),
        *((f"… {act}", f"{count:,}") for act, count in journal.acts.most_common()),
        ("retries and fallbacks by the headers", f"{found.retries:,} and {found.fallbacks:,}"),
        ("sent again unmentioned, after a lost pooled connection", f"{found.unmentioned:,}"),
        (
            "good plain answers at the first try, p50 and p99",
            f"{at(quick, 0.5)} and {at(quick, 0.99)} ms",
        ),
        ("CPU per request", f"{cpu / 1000 / max(1, found.sent):.0f} µs"),
        ("memory, second and last third", f"{early:,.0f} and {late:,.0f} KB"),
        ("descriptors, second and last third", f"{files_early:,.0f} and {files_late:,.0f}"),
        ("descriptors at rest, before and after", f"{files_before} and {files_after}"),
        ("in flight at the end", ", ".join(f"{n}: {v}" for n, v in left.items())),
        ("not judged: the machine stood still", str(found.excused)),
        ("violations", str(found.violations.total())),
    ]
    return [f"| {name} | {value} |" for name, value in rows], problems


def at(values: list[float], share: float) -> str:
    """A quantile of sorted values."""
    return f"{values[min(len(values) - 1, int(len(values) * share))]:.2f}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Soak the gateway with faulty upstreams.")
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long (1800)")
    parser.add_argument("--qps", type=float, default=1000.0, help="requests per second (1000)")
    parser.add_argument("--workers", type=int, default=2, help="of the gateway (2)")
    parser.add_argument("--write", action="store_true", help="write bench/SOAK.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastproxy-soak-") as name:
        rows, problems = uvloop.run(soak(options, Path(name)))
    lines = [
        "# Soak",
        "",
        f"By `make soak`, fastproxy {__version__}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: "
        f"{options.qps:g} requests/s for {options.seconds:g} s, {options.workers} workers, upstreams that fail, "
        "stall, reset, go away and come back at random. Generated; not edited by hand.",
        "",
        "| | |",
        "|---|---:|",
        *rows,
        "",
        *(f"**{problem}**" for problem in problems),
    ]
    report = "\n".join(lines).rstrip() + "\n"
    print(report)
    if options.write:
        (HERE / "SOAK.md").write_text(report)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
