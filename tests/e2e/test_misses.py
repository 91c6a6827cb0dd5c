"""Stored keys that a worker meets for the first time: looked up once, bounded whoever asks, never let in unseen."""

import contextlib
import os
import re
import secrets
import select
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from admin import CHAT, chat, make
from harness import MASTER, Client, Gateway, mock_config, request, until
from spending import control_pid, worker_pids

MANY = 100_000
FLOOD, FLOODERS, AT_ONCE = 50_000, 4, 100


@pytest.fixture
def gateway(start: Callable[..., Gateway], mock_port: int, tmp_path: Path) -> Gateway:
    """One worker and a store."""
    return start(mock_config(mock_port), "--data-dir", str(tmp_path / "data")).wait()


@contextlib.contextmanager
def control_stands_still(gateway: Gateway) -> Iterator[None]:
    pid = control_pid(gateway)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def lookups(gateway: Gateway) -> int:
    return gateway.counters()["key_lookups"]


def test_a_key_is_looked_up_once_and_its_request_is_none_the_worse(gateway: Gateway):
    key = make(gateway, "/key/generate", {})["key"]
    large = request("/v1/chat/completions", {**CHAT, "user": "x" * 300_000}, key)
    with (
        gateway.client() as client
    ):  # three at once, the first of them unknown and larger than what is held back
        client.send(large + request("/v1/chat/completions", CHAT, key) * 2)
        assert [client.answer().status for _ in range(3)] == [200, 200, 200]
    assert chat(gateway, key) == 200
    assert lookups(gateway) == 1
    counters = gateway.counters()
    assert counters["in_flight"] == 1  # the one that asks
    assert counters["unauthorized"] == 0


def test_a_head_that_comes_in_pieces_behind_an_unknown_key(gateway: Gateway):
    key = make(gateway, "/key/generate", {})["key"]
    raw = request("/v1/chat/completions", CHAT, key)
    with control_stands_still(gateway), gateway.client() as client:
        client.send(raw[:-10])
        client.send(raw[-10:] + raw[:50])
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.answer()
        client.sock.settimeout(10)
        pid = control_pid(gateway)
        assert pid is not None
        os.kill(pid, signal.SIGCONT)
        assert client.answer().status == 200
        client.send(raw[50:])
        assert client.answer().status == 200


def test_an_unknown_key_is_remembered_until_it_is_made(gateway: Gateway):
    make(gateway, "/key/generate", {})
    mine = "sk-" + secrets.token_hex(16)
    before = lookups(gateway)
    assert [chat(gateway, mine) for _ in range(3)] == [401, 401, 401]
    assert lookups(gateway) == before + 1
    make(gateway, "/key/generate", {"key": mine})
    assert chat(gateway, mine) == 200
    make(gateway, "/key/delete", {"keys": [mine]})
    assert chat(gateway, mine) == 401


def test_what_can_be_no_key_is_not_looked_up(gateway: Gateway):
    before = lookups(gateway)
    for odd in ("hello", "sk-short", "pk-" + "a" * 30, "sk-" + "a" * 300, "sk-aaaa bbbb cccc"):
        assert chat(gateway, odd) == 401, odd
    assert lookups(gateway) == before


def test_an_address_with_many_unknown_keys_is_held_off_and_known_keys_go_on(gateway: Gateway):
    key = make(gateway, "/key/generate", {})["key"]
    assert chat(gateway, key) == 200
    with gateway.client() as client:
        seen = []
        for _ in range(600):
            client.send(request("/v1/chat/completions", CHAT, f"sk-{secrets.token_hex(16)}"))
            answer = client.answer()
            seen.append(answer.status)
    assert set(seen) == {401, 429}
    assert seen.index(429) == 500
    assert answer.header("retry-after") is not None
    assert chat(gateway, key) == 200
    assert chat(gateway, MASTER) == 200


def test_behind_a_proxy_of_ours_clients_are_told_apart(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    trust = {"use_x_forwarded_for": True, "trusted_proxy_ranges": ["127.0.0.0/8"]}
    gateway = start(mock_config(mock_port, **trust), "--data-dir", str(tmp_path / "data")).wait()
    key = make(gateway, "/key/generate", {})["key"]

    def first_use(client: Client, address: str) -> int:
        unknown = f"sk-{secrets.token_hex(16)}"
        return client.post(
            "/v1/chat/completions", CHAT, unknown, f"X-Forwarded-For: {address}\r\n"
        ).status

    with gateway.client() as client:
        # one network of IPv6 is one client
        seen = [first_use(client, f"2001:db8::{i:x}") for i in range(501)]
        assert seen == [401] * 500 + [429]
        assert first_use(client, "2001:db8:0:1::1") == 401
        assert first_use(client, "192.0.2.1") == 401
        assert client.post("/v1/chat/completions", CHAT, key).status == 200


def test_fifty_thousand_random_keys_cost_a_few_look_ups_and_known_keys_go_on(gateway: Gateway):
    known = make(gateway, "/key/generate", {})["key"]
    assert chat(gateway, known) == 200
    before = lookups(gateway)
    seen: Counter[bytes] = Counter()

    def flood() -> None:
        with gateway.client(30) as client:
            for _ in range(FLOOD // FLOODERS // AT_ONCE):
                keys = [f"sk-{secrets.token_hex(16)}" for _ in range(AT_ONCE)]
                client.send(
                    b"".join(
                        request("/v1/chat/completions", b"{}", k, "X-Forwarded-For: " + k + "\r\n")
                        for k in keys
                    )
                )
                got = b""
                while got.count(b"\r\n\r\n") < AT_ONCE or not got.endswith(b"}"):
                    got += client.sock.recv(1 << 20)
                seen.update(re.findall(rb"HTTP/1.1 (\d+) ", got))

    with ThreadPoolExecutor() as pool:
        floods = [pool.submit(flood) for _ in range(FLOODERS)]
        asked = 0
        while not all(one.done() for one in floods):
            assert chat(gateway, known) == 200
            asked += 1
        for one in floods:
            one.result()
    assert asked > 10  # beside the flood
    assert set(seen) == {b"401", b"429"}
    assert seen.total() == FLOOD
    assert lookups(gateway) - before < FLOOD // 10  # 500 in 10 s, and those under way


def test_no_more_than_256_wait_and_those_are_served(gateway: Gateway):
    keys = [make(gateway, "/key/generate", {})["key"] for _ in range(3)]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(300)]
        with control_stands_still(gateway):
            for at, client in enumerate(clients):
                client.send(request("/v1/chat/completions", CHAT, keys[at % 3]))
            refused = [client for client in clients[256:] if client.answer().status == 503]
            assert len(refused) == 44
        assert {client.answer().status for client in clients[:256]} == {200}
    assert lookups(gateway) == 3


def test_clients_that_leave_while_they_wait_are_forgotten(gateway: Gateway):
    key = make(gateway, "/key/generate", {})["key"]
    with control_stands_still(gateway):
        for _ in range(300):  # more than may wait at once
            with gateway.client() as client:
                client.send(request("/v1/chat/completions", CHAT, key))
        with gateway.client() as client:
            client.send(request("/v1/chat/completions", CHAT, key))
            client.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):  # it waits, so there was a place
                client.answer()
    until(lambda: chat(gateway, key) == 200)
    until(lambda: gateway.counters()["connections"] == 1)


def test_without_control_unknown_keys_are_told_to_come_again_and_known_ones_go_on(
    gateway: Gateway,
):
    known, fresh = (make(gateway, "/key/generate", {})["key"] for _ in range(2))
    assert chat(gateway, known) == 200
    with control_stands_still(gateway), gateway.client() as client:
        client.send(request("/v1/chat/completions", CHAT, fresh))
        began = time.monotonic()
        answer = client.answer()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        assert 1.5 < time.monotonic() - began < 4
        assert chat(gateway, known) == 200
    until(lambda: chat(gateway, fresh) == 200)
    # and killed, with nobody to start it again
    pid = control_pid(gateway)
    assert pid is not None
    gateway.process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    unseen = f"sk-{secrets.token_hex(16)}"
    until(lambda: chat(gateway, unseen) == 503, 5, "503")
    assert [chat(gateway, key) for key in (known, fresh, MASTER)] == [200, 200, 200]
    gateway.process.send_signal(signal.SIGCONT)
    until(lambda: chat(gateway, unseen) == 401, 10, "a new control process")
    before = lookups(gateway)
    assert chat(gateway, known) == 200  # it was told again what the worker knows
    assert lookups(gateway) == before


def test_a_hundred_thousand_keys_cost_the_workers_nothing(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    data = tmp_path / "data"
    gateway = start(mock_config(mock_port), "--data-dir", str(data)).wait()
    key = make(gateway, "/key/generate", {"key_alias": "the one"})["key"]
    gateway.stop()
    with contextlib.closing(sqlite3.connect(data / "fastproxy.db")) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(keys)")]
        others = [name for name in names if name not in ("token", "key_alias")]
        columns = ", ".join(f'"{name}"' for name in others)
        database.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) "  # noqa: S608
            f"INSERT INTO keys (token, {columns}) SELECT printf('%064x', i), {columns} FROM n, "
            "(SELECT * FROM keys WHERE key_alias = 'the one')"
        )
    gateway = start(mock_config(mock_port), "--data-dir", str(data)).wait()
    assert chat(gateway, key) == 200
    assert chat(gateway, key) == 200
    assert lookups(gateway) == 1
    assert worker_memory(gateway) < 64 << 20
    make(gateway, "/key/block", {"key": key})
    assert chat(gateway, key) == 401


def worker_memory(gateway: Gateway) -> int:
    """Resident bytes of the worker."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
    control = control_pid(gateway)
    (worker,) = (pid for pid in map(int, children.read_text().split()) if pid != control)
    status = Path(f"/proc/{worker}/smaps_rollup").read_text()
    return 1024 * int(status.split("Pss:")[1].split()[0])


def test_a_change_while_the_key_is_being_read_is_not_lost(gateway: Gateway):
    """Blocked again and again while a worker that does not know it yet asks for it: no 200 after the block's answer."""
    for _ in range(20):
        key = make(gateway, "/key/generate", {})["key"]
        with Client(gateway.port) as client:
            client.send(request("/v1/chat/completions", CHAT, key))
            make(gateway, "/key/block", {"key": key})
            assert client.answer().status in (200, 401)
        assert chat(gateway, key) == 401


def test_a_worker_that_stood_still_lets_no_blocked_key_in(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    """Control waits for it two seconds, and then says that the change is in force."""
    flags = ("--num_workers", "2", "--data-dir", str(tmp_path / "data"))
    gateway = start(mock_config(mock_port), *flags).wait()
    key = make(gateway, "/key/generate", {})["key"]
    ask = request("/v1/chat/completions", CHAT, key)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(12)]
        for client in clients:
            client.send(ask)
            assert client.answer().status == 200
        others = [stack.enter_context(gateway.client()) for _ in range(24)]  # on both workers
        worker = worker_pids(gateway)[0]
        os.kill(worker, signal.SIGSTOP)
        try:
            assert who_answers(others).post("/key/block", {"key": key}).status == 200
            for client in clients:
                client.send(ask)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert {client.answer().status for client in clients} == {401}
        make(gateway, "/key/unblock", {"key": key})
        for client in clients:
            client.send(ask)
            assert client.answer().status == 200
        looked_up = lookups(gateway)
        for client in clients:
            client.send(ask)
            assert client.answer().status == 200
        assert lookups(gateway) == looked_up


def who_answers(clients: list[Client]) -> Client:
    """One whose worker does not stand still."""
    for client in clients:
        client.send(b"GET /health/liveliness HTTP/1.1\r\nhost: x\r\n\r\n")
    ready, _, _ = select.select([client.sock for client in clients], [], [], 10)
    found = next(client for client in clients if client.sock in ready)
    assert found.answer().status == 200
    return found
