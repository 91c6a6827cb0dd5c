"""Random processes are killed at random times under load. `make kills` for many of them."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from admin import make
from harness import Client, Gateway, request, until
from spending import CHAT, control_pid, cost, get, priced_config

KILLS = int(os.environ.get("KILLS", "5"))
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1, 2**31)
CLIENTS = 3
PAUSE = 0.005  # of a client: what is to be charged must fit the rings, for a row each


class Load(threading.Thread):
    """A client that goes on whatever happens, and remembers what it saw."""

    def __init__(self, port: int, key: str, stream: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.stream = port, stream
        self.ask = request("/v1/chat/completions", {**CHAT, "stream": stream}, key)
        self.sent = 0
        self.complete: dict[str, float | None] = {}  # cost by call id; of streams unknown
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                with Client(self.port) as client:
                    while not self.over.wait(PAUSE):
                        self.sent += 1
                        client.send(self.ask)
                        answer = client.answer()
                        if answer.status == 200 and (not self.stream or b"[DONE]" in answer.body):
                            self.complete[answer.header("x-litellm-call-id") or ""] = (
                                None if self.stream else cost(answer)
                            )
            except (OSError, EOFError):
                pass  # a worker died


def children(gateway: Gateway) -> list[int]:
    pid = gateway.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.timeout(60 + 3 * KILLS)
def test_every_answer_is_charged_once_whoever_is_killed(mock_port: int, tmp_path: Path):
    luck = random.Random(SEED)
    print(f"SEED={SEED}")
    running = Gateway(tmp_path, priced_config(mock_port), "--num_workers", "2").wait()
    key = make(running, "/key/generate", {})["key"]
    load = [Load(running.port, key, number == 0) for number in range(CLIENTS)]
    for thread in load:
        thread.start()
    killed: dict[str, int] = {"control": 0, "worker": 0}
    for _ in range(KILLS):
        time.sleep(luck.uniform(0.02, 0.6))  # any moment will do
        control = until(lambda: control_pid(running), what="control")
        others = [pid for pid in children(running) if pid != control]
        victim = luck.choice([control, luck.choice(others)])
        killed["control" if victim == control else "worker"] += 1
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(children(running)) >= 3, what="who takes its place")
    before = sum(len(thread.complete) for thread in load)
    until(lambda: sum(len(t.complete) for t in load) > before + 20, what="answers after it all")
    for thread in load:
        thread.over.set()
        thread.join(15)
        assert not thread.is_alive()
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log, running.log
    judge(Gateway(tmp_path, running.path.read_text()).wait(), key, load)
    print(f"killed {killed}, {before} answers")


def flights(gateway: Gateway, key: str) -> list[Client]:
    """Streams of which something has come, and one request that is not answered yet."""
    clients = []
    for stream in (True, True, True, False):
        client = Client(gateway.port)
        model = "mock/mock-gap300" if stream else "mock/mock-ttft9000"
        body = {**CHAT, "model": model, "stream": stream, "max_tokens": 100}
        client.send(request("/v1/chat/completions", body, key))
        if stream:
            client.head()
            next(client.chunks())
        clients.append(client)
    until(lambda: gateway.counters()["in_flight"] == len(clients) + 1)
    return clients


@pytest.mark.parametrize("everybody", [False, True])
def test_what_a_dead_worker_had_under_way_is_charged_as_an_estimate(
    mock_port: int, tmp_path: Path, everybody: bool
):
    config = priced_config(mock_port)
    for entry in config["model_list"]:
        entry["litellm_params"] |= {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    running = Gateway(tmp_path, config).wait()
    key = make(running, "/key/generate", {"max_budget": 10})["key"]
    clients = flights(running, key)
    control = control_pid(running)
    (worker,) = (pid for pid in children(running) if pid != control)
    dead = [worker]
    if everybody:
        assert control is not None
        dead = [running.process.pid, worker, control]
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    for client in clients:
        client.sock.close()
    if everybody:
        running.process.wait(10)
        running = Gateway(tmp_path, running.path.read_text()).wait()
    try:
        found = until(
            lambda: len(r := get(running, f"/spend/logs?api_key={key}")) >= len(clients) and r,
            what="a row for each",
        )
        assert len(found) == len(clients)
        assert all(row["estimated"] and row["status_code"] == 500 for row in found)
        assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] == 100 for row in found)
        total = sum(row["spend"] for row in found)
        until(lambda: abs(get(running, f"/key/info?key={key}")["info"]["spend"] - total) < 1e-9)
    finally:
        assert running.stop() == 0, running.log


def judge(again: Gateway, key: str, load: list[Load]) -> None:
    """What the store says against what the clients saw."""
    try:
        complete: dict[str, float | None] = {}
        for thread in load:
            complete.update(thread.complete)
        found = all_rows(again)
        named = [row for row in found if row["request_id"]]
        by_id = {row["request_id"]: row for row in named}
        assert len(by_id) == len(named), "a row twice"
        for row in found:  # whose client went before it had an id
            assert row["request_id"] or (row["status"] == 499 and row["estimated"])
        (sums,) = [row for row in get(again, "/spend/keys") if row["key_name"][-4:] == key[-4:]]
        sent = sum(thread.sent for thread in load)
        missing = [call for call in complete if call not in by_id]
        # without a row: control was not there for so long that a ring was nearly full, and they are part of a sum
        folded = sums["api_requests"] - len(found)
        assert len(missing) <= folded <= len(missing) + sent - len(complete)
        assert sums["api_requests"] <= sent
        for call, money in complete.items():
            if call in by_id:
                assert not by_id[call]["estimated"]
                assert money is None or by_id[call]["spend"] == money
        assert {(row["provider"], row["model"]) for row in found} == {("openai", "up")}
        total = round(sums["spend"] * 1e9) - sum(round(row["spend"] * 1e9) for row in found)
        each = next(round(money * 1e9) for money in complete.values() if money is not None)
        assert len(missing) * each <= total <= folded * 2 * each  # an estimate is higher
        spent = get(again, f"/key/info?key={key}")["info"]["spend"]
        assert round(spent * 1e9) == round(sums["spend"] * 1e9)
    finally:
        assert again.stop() == 0


def all_rows(gateway: Gateway) -> list[dict[str, Any]]:
    """More than one page has: straight from the file."""
    import sqlite3

    path = gateway.path.parent / "fastproxy-data" / "fastproxy.db"
    with sqlite3.connect(path) as file:
        file.row_factory = sqlite3.Row
        found = [dict(row) for row in file.execute("SELECT * FROM spend_logs")]
    for row in found:
        row["spend"] = None if row["spend"] is None else row["spend"] / 1e9
    return found
