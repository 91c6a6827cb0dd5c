"""The load generator: its histogram, its framing, its honesty about errors and late sends."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fastproxy import load, loadtest, mock, procstat
from fastproxy._load import Histogram, LoadProtocol, Runner
from fastproxy._mock import App

BODY = loadtest.chat_body("mock", 300, False)


# --- histogram ---------------------------------------------------------------------------------


def test_percentiles_are_within_one_percent() -> None:
    values = [int(10 ** random.Random(seed).uniform(1, 10)) for seed in range(5000)]
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    values.sort()
    for percent in (1, 50, 90, 99, 99.9, 100):
        true = values[max(0, -(-len(values) * percent // 100).__trunc__() - 1)] / 1000
        assert histogram.percentile(percent) == pytest.approx(true, rel=0.01)
    assert histogram.mean == pytest.approx(sum(values) / len(values) / 1000)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 257, 511, 512, 10**9, 2**43])
def test_single_values(value: int) -> None:
    histogram = Histogram()
    histogram.record(value)
    assert histogram.percentile(50) == pytest.approx(value / 1000, rel=0.01)


def test_odd_values_are_kept_in_the_ends() -> None:
    histogram = Histogram()
    histogram.record(-5)
    histogram.record(2**62)
    assert histogram.count == 2
    assert histogram.percentile(50) == 0
    assert Histogram().percentile(99) == 0


def test_merge() -> None:
    one, two = Histogram(), Histogram()
    for value in range(1000):
        (one if value % 2 else two).record(value * 1000)
    one.merge(two)
    assert one.count == 1000
    assert one.percentile(50) == pytest.approx(499, rel=0.01)


# --- framing -----------------------------------------------------------------------------------


class Transport:
    """A transport that remembers what was done to it."""

    def __init__(self) -> None:
        self.sent = 0
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent += 1

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


def connection(stream: bool = False) -> tuple[Runner, LoadProtocol, Any]:
    """A connection in a closed loop with its first request sent."""
    runner = Runner(b"GET / HTTP/1.1\r\n\r\n", None, stream, 0.0, 0.0, lambda: None)
    one, transport = LoadProtocol(runner), Transport()
    one.connection_made(transport)  # type: ignore[arg-type]
    runner.begin(0.0, 100.0)
    one.begin()
    return runner, one, transport


SSE = "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n"
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0a\r\n0123456789\r\n"
    b"0\r\n\r\n",
    "trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
}


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
@pytest.mark.parametrize("name", list(ANSWERS))
def test_answers_in_any_pieces(name: str, step: int) -> None:
    runner, one, transport = connection()
    wire = ANSWERS[name]
    for _ in range(3):
        for at in range(0, len(wire), step):
            one.data_received(wire[at : at + step])
    assert (runner.total, transport.sent, runner.inflight) == (3, 4, 1)
    assert not transport.aborted


@pytest.mark.parametrize("step", [1, 3, 10_000])
def test_events_are_counted_across_chunks(step: int) -> None:
    runner, one, _ = connection(stream=True)
    parts = [SSE[at : at + 4] for at in range(0, len(SSE), 4)]
    wire = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    wire += "".join(f"{len(part):x}\r\n{part}\r\n" for part in parts) + "0\r\n\r\n"
    data = wire.encode()
    for at in range(0, len(data), step):
        one.data_received(data[at : at + step])
    assert (runner.chunks, runner.total) == (3, 1)


def test_close_ends_an_answer_without_length() -> None:
    runner, one, _ = connection()
    one.data_received(b"HTTP/1.1 500 Oops\r\n\r\nbroken")
    one.connection_lost(None)
    assert (runner.total, runner.not_ok, runner.errors) == (1, 1, 0)
    assert runner.statuses == {500: 1}


def test_connection_close_is_obeyed() -> None:
    _, one, transport = connection()
    one.data_received(b"HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 0\r\n\r\n")
    assert transport.closed
    assert transport.sent == 1


@pytest.mark.parametrize(
    "wire", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"]
)
def test_nonsense_is_an_error(wire: bytes) -> None:
    runner, one, transport = connection()
    one.data_received(wire)
    assert transport.aborted
    one.connection_lost(None)
    assert (runner.errors, runner.total) == (1, 0)


def test_cut_answer_is_an_error() -> None:
    runner, one, _ = connection()
    one.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    one.connection_lost(None)
    assert (runner.errors, runner.inflight, runner.reconnects) == (1, 0, 1)


# --- runs against the mock ---------------------------------------------------------------------


@contextmanager
def mock_thread(key: str | None = None) -> Iterator[str]:
    """A mock in a thread of its own; gives its chat endpoint."""
    loop = asyncio.new_event_loop()
    ready: Any = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        app = App(mock.Planner(), key)
        server = await mock.start("127.0.0.1", 0, app=app)
        stop = asyncio.Event()
        found.extend([server.sockets[0].getsockname()[1], stop])
        ready.set()
        await stop.wait()
        server.close()
        while app.connections:  # noqa: ASYNC110
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{found[0]}/v1/chat/completions"
    finally:
        loop.call_soon_threadsafe(found[1].set)
        thread.join()
        loop.close()


def test_open_loop_sends_what_the_rate_says() -> None:
    with mock_thread("sk-1") as url:
        result = load.run(
            url, key="sk-1", body=BODY, rate=500, connections=4, duration=0.4, warmup=0.1
        )
    assert (result.total, result.completed, result.failed) == (250, 200, 0)
    assert result.percentiles()["p50"] > 0


def test_closed_loop() -> None:
    seen: list[float] = []
    with mock_thread() as url:
        result = load.run(
            url,
            body=BODY,
            connections=4,
            duration=0.4,
            warmup=0.1,
            progress=lambda share, runner: seen.append(share),
        )
    assert result.completed > 100
    assert result.failed == 0
    assert seen[-1] == pytest.approx(1, abs=0.1)


def test_refused_requests_are_counted() -> None:
    with mock_thread("sk-1") as url:
        result = load.run(
            url, key="sk-2", body=BODY, rate=100, connections=2, duration=0.2, warmup=0.0
        )
    assert (result.not_ok, result.statuses) == (20, {401: 20})


def test_latency_counts_from_the_due_time() -> None:
    """One connection, 50 ms answers, due every 10 ms: the queue shows in the latency."""
    with mock_thread() as url:
        body = loadtest.chat_body("mock-delay50", 300, False)
        result = load.run(url, body=body, rate=100, connections=1, duration=0.2, warmup=0.0)
    assert result.completed == 20
    assert result.late >= 15
    assert result.latency.percentile(100) > 500_000


def test_connections_that_die_are_errors_and_replaced() -> None:
    with mock_thread() as url:
        body = loadtest.chat_body("mock-cut", 300, False)
        result = load.run(url, body=body, rate=100, connections=2, duration=0.2, warmup=0.0)
    assert result.errors >= 10
    assert result.reconnects >= 10


def test_stream() -> None:
    with mock_thread() as url:
        body = loadtest.chat_body("mock-gap10-tokens10", 300, True)
        result = load.run(
            url, body=body, connections=4, duration=0.5, warmup=0.0, stream=True, gap=0.01
        )
    assert result.chunks >= 100
    assert result.chunk_delay.count
    assert -3_000 < result.lateness(50) < 20_000
    assert "chunk_delay_us" in result.as_dict()


def test_results_add_up() -> None:
    one, two = load.Result(10, 1, 1.0), load.Result(10, 1, 2.0)
    one.latency.record(1000)
    two.latency.record(3000)
    two.statuses = {500: 2}
    two.not_ok = 2
    one.merge(two)
    assert (one.completed, one.duration, one.failed, one.statuses) == (2, 3.0, 2, {500: 2})


# --- the command -------------------------------------------------------------------------------


def test_body_has_the_size_asked_for() -> None:
    for size in (200, 1054, 100_000):
        body = loadtest.chat_body("mock", size, True)
        assert len(body) == size
        assert json.loads(body)["stream"] is True


def test_bench_of_two_urls(capsys: pytest.CaptureFixture[str]) -> None:
    with mock_thread() as url:
        flags = ["--qps", "200", "--duration", "0.4", "--rounds", "2", "--connections", "2"]
        flags += ["--url", url, "--direct-url", url, "--json", "--pid", str(procstat.os.getpid())]
        assert loadtest.main(flags) == 0
        found = json.loads(capsys.readouterr().out)
        assert loadtest.main(flags[:-3]) == 0
    assert found["through"]["completed"] == found["direct"]["completed"] == 80
    assert set(found["added_us"]) == {"p50", "p90", "p99", "p99.9", "mean"}
    assert found["cpu_us_per_request"] > 0
    assert found["memory_mb"] > 0
    assert "added" in capsys.readouterr().out


def test_bench_fails_on_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with mock_thread("sk-1") as url:
        flags = ["--qps", "100", "--duration", "0.2", "--rounds", "1", "--url", url]
        assert loadtest.main(flags) == 1
    assert "PROBLEM: through" in capsys.readouterr().out


def test_bench_without_anybody_there(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--duration", "0.2", "--url", f"http://127.0.0.1:{loadtest.free_port()}/"]
    assert loadtest.main(flags) == 1
    assert "fastproxy bench:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--qps", "0"], ["--rounds", "0"], ["--url", "nothing"], ["--direct-url", "http://x"]]
)
def test_bench_refuses(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        loadtest.main(flags)
    assert stop.value.code == 2


def test_a_limit_of_the_mock_is_a_problem() -> None:
    options = loadtest.parse(["--qps", "10"])
    sides = [loadtest.Side("direct", "", None), loadtest.Side("through", "", None)]
    for side, limit in zip(sides, (0.99, 0.5), strict=True):
        result = load.Result(10, 1, 1.0)
        result.latency.record(1000)
        side.add(result, 0, limit)
    found = loadtest.report(sides, options, 0)
    assert "were the limit" in found["problems"][0]


# --- process facts -----------------------------------------------------------------------------


def burn(until: Callable[[], bool]) -> None:
    while not until():
        sum(range(1000))


def test_own_cpu_time_and_memory() -> None:
    pid = procstat.os.getpid()
    before = procstat.cpu_ns([pid])
    burn(lambda: procstat.cpu_ns([pid]) > before)
    assert procstat.pss_kb([pid]) > 1000
    assert procstat.rss_kb([pid]) >= procstat.pss_kb([pid])
    assert pid in procstat.tree(procstat.os.getppid())
    assert procstat.machine_busy_ns() > 0


def test_a_process_that_is_gone_has_no_figures() -> None:
    assert procstat.cpu_ns([2**22 + 1]) == 0
    assert procstat.pss_kb([2**22 + 1]) == 0


def test_spinners_come_and_go() -> None:
    spinners = procstat.Spinners()
    spinners.start(procstat.cpus()[:1])
    pids = list(spinners.pids)
    assert all(pid in procstat.tree(procstat.os.getpid()) for pid in pids)
    spinners.stop()
    assert not set(pids) & set(procstat.tree(procstat.os.getpid()))
