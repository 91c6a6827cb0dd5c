"""Limits and budgets in the real process tree, exact over all workers."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from admin import make
from harness import Answer, Client, Gateway, mock_config, request, until

WORKERS = 4


@pytest.fixture(scope="module")
def limited(mock_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(
        tmp_path_factory.mktemp("limited"), mock_config(mock_port), "--num_workers", str(WORKERS)
    ).wait()
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log, running.log


def ask(gateway: Gateway, key: str, **body: Any) -> Answer:
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", {**CHAT, **body}, key))
        return client.answer()


CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def flood(gateway: Gateway, key: str, clients: int, each: int) -> Counter[int]:
    """Statuses of `each` requests of every client, all at once."""
    seen: list[int] = []
    barrier = threading.Barrier(clients)

    def run() -> None:
        with Client(gateway.port) as client:
            barrier.wait()
            for _ in range(each):
                client.send(request("/v1/chat/completions", CHAT, key))
                seen.append(client.answer().status)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return Counter(seen)


def test_requests_are_admitted_exactly_over_all_workers(limited: Gateway):
    key = make(limited, "/key/generate", {"rpm_limit": 100})["key"]
    assert flood(limited, key, 32, 8) == {200: 100, 429: 156}


def test_the_answer_says_which_limit_and_until_when(limited: Gateway):
    made = make(limited, "/key/generate", {"rpm_limit": 1})
    assert ask(limited, made["key"]).status == 200
    answer = ask(limited, made["key"])
    assert answer.status == 429
    error = answer.json()["error"]
    assert error["type"] == "rate_limit_error"
    assert error["code"] == "429"
    assert error["message"].startswith(
        f"Rate limit exceeded for api_key: {made['key_name']}. Limit type: requests. "
        "Current limit: 1, Remaining: 0. Limit resets at: "
    )
    assert 1 <= int(answer.header("retry-after") or 0) <= 60
    assert answer.header("rate_limit_type") == "requests"
    assert answer.header("x-ratelimit-limit-requests") == "1"
    assert answer.header("x-ratelimit-remaining-requests") == "0"


def test_parallel_requests_are_bounded_and_free_again_at_their_end(limited: Gateway):
    key = make(limited, "/key/generate", {"max_parallel_requests": 2})["key"]
    slow = {**CHAT, "model": "mock/mock-delay20000"}
    with limited.client() as one, limited.client() as two:
        for client in (one, two):
            client.send(request("/v1/chat/completions", slow, key))
        until(
            lambda: limited.counters()["in_flight"] >= 3,
            what="two requests in flight, and the one that asks",
        )
        answer = ask(limited, key)
        assert answer.status == 429
        assert answer.header("rate_limit_type") == "max_parallel_requests"
    # both have hung up
    until(lambda: ask(limited, key).status == 200, what="the places")


def test_a_spent_budget_is_422(limited: Gateway):
    made = make(limited, "/key/generate", {"max_budget": 0})
    answer = ask(limited, made["key"])
    assert answer.status == 422
    assert answer.json()["error"]["type"] == "budget_exceeded"
    assert answer.json()["error"]["message"].startswith("Budget has been exceeded! Current cost: 0")


def test_tokens_of_a_key_run_out(limited: Gateway):
    key = make(limited, "/key/generate", {"tpm_limit": 60})["key"]
    statuses = [ask(limited, key).status for _ in range(6)]
    assert statuses[0] == 200
    assert statuses[-1] == 429, statuses


def test_a_team_bounds_all_its_keys(limited: Gateway):
    team = make(limited, "/team/new", {"rpm_limit": 3})["team_id"]
    keys = [make(limited, "/key/generate", {"team_id": team})["key"] for _ in range(2)]
    assert [ask(limited, keys[i % 2]).status for i in range(4)] == [200, 200, 200, 429]


def test_a_model_of_a_key_has_its_own_limit(limited: Gateway):
    key = make(limited, "/key/generate", {"model_rpm_limit": {"gpt-4o-mini": 1}})["key"]
    assert [ask(limited, key).status for _ in range(2)] == [200, 429]
    assert ask(limited, key, model="mock/other").status == 200
