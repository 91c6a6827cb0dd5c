"""The store is locked or its disk is full: requests don't notice, and what they cost is written afterwards, exactly."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin import call, make
from harness import Gateway, request, until
from spending import (
    CHAT,
    children,
    control_pid,
    cost,
    get,
    locked,
    priced_config,
    rows,
    worker_pids,
)

from fastproxy import runtime

REQUEST_BURST = 100


def readiness(gateway: Gateway) -> str:
    status, answer = call(gateway, "GET", "/health/readiness", key=None)
    assert status == 200
    return str(answer["status"])


def send(gateway: Gateway, key: str, count: int) -> float:
    """So many requests, in bursts on one connection; what they cost."""
    one = request("/v1/chat/completions", CHAT, key)
    paid = 0.0
    with gateway.client() as client:
        for at in range(0, count, REQUEST_BURST):
            burst = min(REQUEST_BURST, count - at)
            client.send(one * burst)
            for _ in range(burst):
                answer = client.answer()
                assert answer.status == 200
            paid += burst * cost(answer)
    return paid


def booked(gateway: Gateway, key: str, count: int, paid: float) -> bool:
    found = [row for row in get(gateway, "/spend/keys") if row["key_name"] == f"sk-...{key[-4:]}"]
    if not found or found[0]["api_requests"] < count:
        return False
    assert found[0]["api_requests"] == count
    assert found[0]["spend"] == pytest.approx(paid, abs=1e-9)
    spent = get(gateway, f"/key/info?key={key}")["info"]["spend"]
    assert spent == pytest.approx(paid, abs=1e-9)
    return True


@contextlib.contextmanager
def disk_full(gateway: Gateway) -> Iterator[None]:
    pid = control_pid(gateway)
    assert pid is not None
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def kill_all(running: Gateway) -> None:
    pids = [running.process.pid, *children(running)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait(10)
    # who is not dead yet holds what they shared
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="their end")


@pytest.mark.parametrize("trouble", [locked, disk_full])
def test_what_is_spent_waits_for_the_store(start, mock_port: int, trouble: Any):
    running = start(priced_config(mock_port)).wait()
    key = make(running, "/key/generate", {})["key"]
    paid = send(running, key, 3)
    until(lambda: booked(running, key, 3, paid), what="the store's first sums")
    assert readiness(running) == "healthy"
    with trouble(running):
        paid += send(running, key, 300)
        until(lambda: readiness(running) == "degraded", what="readiness to say so")
        paid += send(running, key, 200)
        if trouble is locked:  # the log is a file that can't grow either
            assert "spend waits in shared memory" in running.log
    until(lambda: booked(running, key, 503, paid), what="all that waited")
    until(lambda: readiness(running) == "healthy", what="readiness to say so")
    found = rows(running, f"api_key={key}&page_size=1000")
    assert len({row["request_id"] for row in found}) == len(found) == 503


def test_what_finds_the_ring_full_is_a_sum(start, mock_port: int):
    running = start(priced_config(mock_port)).wait()
    count = 16_384 + 1000
    key = make(running, "/key/generate", {})["key"]
    with locked(running):
        paid = send(running, key, count)
        pid = control_pid(running)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: control_pid(running) not in (None, pid), what="the next control")
        paid += send(running, key, 100)
    until(lambda: booked(running, key, count + 100, paid), what="all that waited")
    counters = running.counters()
    assert counters["events_folded"] > 1000
    assert counters["events_dropped"] == 0


def test_sums_in_shared_memory_outlive_the_whole_tree(start, serve, mock_port: int):
    running = start(priced_config(mock_port)).wait()
    count = 16_384 + 500
    key = make(running, "/key/generate", {})["key"]
    with locked(running):
        paid = send(running, key, count)
        kill_all(running)
    again = serve(running.path.read_text(), folder=running.path.parent)
    until(lambda: booked(again, key, count, paid), what="what an earlier run left")


def stop(running: Gateway) -> None:
    assert running.stop() == 0


@pytest.mark.parametrize("end", [stop, kill_all])
def test_what_finds_no_room_on_the_disk_waits_in_memory_for_a_later_start(
    start, serve, mock_port: int, end: Callable[[Gateway], None]
):
    running = start(priced_config(mock_port)).wait()
    key = make(running, "/key/generate", {})["key"]
    (directory,) = runtime.base().glob(f"{runtime.PREFIX}{running.process.pid}-*")
    rings = running.path.parent / "fastproxy-data" / "rings"
    rings.write_text("")  # where copies were to lie: as on a full disk none can be made
    with locked(running):
        paid = send(running, key, 30)
        end(running)
    config = running.path.read_text()
    assert end is kill_all or f"stays in {directory}" in running.log
    assert Gateway(running.path.parent, config).wait().stop() == 0  # can't copy it either
    assert (directory / "shared").exists()
    rings.unlink()
    again = serve(config, folder=running.path.parent)
    until(lambda: booked(again, key, 30, paid), what="what an earlier run left")
    assert not directory.exists()
    until(lambda: not list(rings.iterdir()), what="the end of the copy")


def test_what_a_generation_has_left_is_written_by_the_next(start, mock_port: int):
    running = start(priced_config(mock_port)).wait()
    key = make(running, "/key/generate", {})["key"]
    old = children(running)
    (control,) = {*old} - {*worker_pids(running)}
    resource.prlimit(
        control, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY)
    )  # its disk is full
    paid = send(running, key, 30)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: " serves, the processes of " in running.log, 20, "the new workers")
    until(lambda: not {*old} & {*children(running)}, 20, "the end of the old ones")
    until(lambda: booked(running, key, 30, paid), what="what the old ones left")


def test_old_rows_are_deleted_and_sums_stay(start, serve, mock_port: int):
    config = priced_config(mock_port)
    running = start(config).wait()
    key = make(running, "/key/generate", {})["key"]
    paid = send(running, key, 5)
    until(lambda: booked(running, key, 5, paid), what="the sums")
    assert len(rows(running, f"api_key={key}")) == 5
    assert running.stop() == 0
    config["general_settings"]["maximum_spend_logs_retention_period"] = "1s"
    again = serve(config, folder=running.path.parent)
    until(lambda: rows(again, f"api_key={key}") == [], what="an end of the rows")
    assert booked(again, key, 5, paid)
