"""The two guarantees over eight workers and 64 connections at once: requests, and requests in flight, are never more
than their limit; tokens and money at most by what requests use beyond what was reserved for them."""

import threading
from collections.abc import Callable

import pytest
from admin import make
from harness import Answer, Client, Gateway, request, until
from spending import CHAT, INPUT, OUTPUT, cost, priced_config, spent

WORKERS, CONNECTIONS = 8, 64


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = priced_config(mock_port)
    config["router_settings"]["disable_cooldowns"] = True
    config["router_settings"]["model_group_limits"] = {
        "gpt-4o-mini": {"rpm_limit": 150, "max_parallel_requests": 40}
    }
    return serve(config, "--num_workers", str(WORKERS))


def flood(gateway: Gateway, ask: Callable[[int], bytes], seen: Callable[[Answer], bool]) -> None:
    """Requests on every connection at once, until `seen` says that this one has had enough."""
    barrier = threading.Barrier(CONNECTIONS)
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            with Client(gateway.port, 30) as client:
                barrier.wait(30)
                while True:
                    client.send(ask(number))
                    if seen(client.answer()):
                        return
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert failed == []


def chat(key: str, **fields: object) -> bytes:
    return request("/v1/chat/completions", {**CHAT, **fields}, key)


def test_requests_of_a_key(gateway: Gateway):
    key = make(gateway, "/key/generate", {"rpm_limit": 200})["key"]
    admitted: list[Answer] = []

    def seen(answer: Answer) -> bool:
        if answer.status == 200:
            admitted.append(answer)
        return answer.status == 429

    flood(gateway, lambda _: chat(key), seen)
    assert len(admitted) == 200


def test_requests_of_a_model_group_are_those_of_all_keys(gateway: Gateway):
    keys = [make(gateway, "/key/generate", {})["key"] for _ in range(4)]
    admitted: list[Answer] = []
    refused: list[Answer] = []

    def seen(answer: Answer) -> bool:
        (admitted if answer.status == 200 else refused).append(answer)
        # in flight may be too many for a moment; that passes
        return answer.header("rate_limit_type") == "requests"

    flood(gateway, lambda number: chat(keys[number % 4], model="gpt-4o-mini"), seen)
    assert len(admitted) == 150
    message = refused[-1].json()["error"]["message"]
    assert message.startswith("Rate limit exceeded for model_group: gpt-4o-mini. Limit type: ")


def test_requests_in_flight(gateway: Gateway):
    key = make(gateway, "/key/generate", {"max_parallel_requests": 7})["key"]
    slow = request("/v1/chat/completions", {**CHAT, "model": "mock/mock-delay20000"}, key)
    clients = [Client(gateway.port, 30) for _ in range(CONNECTIONS)]
    try:
        for client in clients:
            client.send(slow)
        waiting = list(clients)

        def all_but_seven() -> bool:
            for client in list(waiting):
                client.sock.settimeout(0.01)
                try:
                    answer = client.answer()
                except TimeoutError:
                    continue
                assert answer.header("rate_limit_type") == "max_parallel_requests"
                client.sock.settimeout(30)
                waiting.remove(client)
                if len(waiting) < 7:  # refused for a moment, while others were being refused
                    return True
            # who was refused while others were, comes again
            for client in [c for c in clients if c not in waiting]:
                if len(waiting) >= 7:
                    break
                client.send(slow)
                waiting.append(client)
            return len(waiting) == 7

        until(all_but_seven, 20, "the refusal of all but seven")
        assert len(waiting) <= 7
    finally:
        for client in clients:
            client.sock.close()


def test_tokens(gateway: Gateway):
    # what is reserved is no less than what is used, so nothing is used beyond the limit
    key = make(gateway, "/key/generate", {"tpm_limit": 3000})["key"]
    used: list[int] = []

    def seen(answer: Answer) -> bool:
        if answer.status == 200:
            used.append(answer.json()["usage"]["total_tokens"])
        return answer.status == 429

    flood(gateway, lambda _: chat(key, max_tokens=50), seen)
    assert 0 < sum(used) <= 3000


def test_money(gateway: Gateway):
    # … and of money less than what the last one takes, which may go while anything is left
    key = make(gateway, "/key/generate", {"max_budget": 2.0})["key"]
    paid: list[float] = []

    def seen(answer: Answer) -> bool:
        if answer.status == 200:
            paid.append(cost(answer))
        return answer.status == 422

    flood(gateway, lambda _: chat(key, max_tokens=50), seen)
    with gateway.client() as client:
        while True:  # what was reserved is free again
            client.send(chat(key, max_tokens=50))
            if seen(client.answer()):
                break
    dearest = max(paid)
    assert dearest <= (50 * OUTPUT + 100 * INPUT) / 1e9
    assert 2.0 <= sum(paid) < 2.0 + dearest
    until(lambda: spent(gateway, key) == pytest.approx(sum(paid)), what="the store's sum")
