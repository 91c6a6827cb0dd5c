"""Limits and budgets in the real process tree, exact over all workers."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin import make
from harness import Answer, Client, Gateway, mock_config, request, until
from spending import OUTPUT, cost, priced_config

WORKERS = 4


@pytest.fixture(scope="module")
def limited(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    return serve(mock_config(mock_port), "--num_workers", str(WORKERS))


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


# -- limit_mode: strict


@pytest.fixture(scope="module")
def strict(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = priced_config(mock_port)
    config["general_settings"]["limit_mode"] = "strict"
    priced = dict(config["model_list"][-1]["litellm_params"], model="openai/mock-echo")
    config["model_list"].append({"model_name": "priced-echo", "litellm_params": priced})
    return serve(config)


def sent(gateway: Gateway, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
    """The body that the upstream got."""
    with gateway.client() as client:
        client.send(request(path, body, key))
        answer = client.answer()
    assert answer.status == 200, answer.body
    echo = json.loads(answer.json()["choices"][0]["message"]["content"])
    return dict(json.loads(echo["body"]))


def test_strict_gives_a_maximum_to_who_has_none(strict: Gateway):
    key = make(strict, "/key/generate", {"tpm_limit": 4000})["key"]
    body = {"messages": CHAT["messages"], "model": "mock/mock-echo"}
    got = sent(strict, "/v1/chat/completions", body, key)
    assert (got["max_tokens"], got["model"], got["messages"]) == (
        1000, "mock-echo", CHAT["messages"],
    )  # fmt: skip
    body["max_tokens"] = 7
    assert sent(strict, "/v1/chat/completions", body, key)["max_tokens"] == 7
    free = make(strict, "/key/generate", {"rpm_limit": 4000})["key"]
    del body["max_tokens"]
    assert "max_tokens" not in sent(strict, "/v1/chat/completions", body, free)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages[0].content[0].image_url.url",
         {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]}),
        ("messages[0].content[0].file.file_id",
         {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}),
        ("tools[0]", {"tools": [{"type": "web_search"}]}),
    ],
)  # fmt: skip
def test_strict_refuses_what_nobody_can_bound(strict: Gateway, field: str, value: dict[str, Any]):
    key = make(strict, "/key/generate", {"max_budget": 1})["key"]
    answer = ask(strict, key, **value)
    assert (answer.status, answer.json()["error"]["param"]) == (400, field)
    free = make(strict, "/key/generate", {})["key"]
    assert ask(strict, free, **value).status == 200


def test_strict_lets_data_and_large_bodies_pass(strict: Gateway):
    key = make(strict, "/key/generate", {"max_budget": 1})["key"]
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 600_000}}
    assert ask(strict, key, messages=[{"role": "user", "content": [part]}]).status == 200
    with strict.client() as client:
        body = {"model": "claude", "messages": CHAT["messages"]}
        client.send(request("/v1/messages", body, key))
        assert client.answer().status == 200
        client.send(request("/v1/images/generations", {"model": "gpt-4o-mini", "prompt": "x"}, key))
        assert client.answer().status == 400


def test_strict_asks_for_no_more_than_the_budget_pays_for(strict: Gateway):
    key = make(strict, "/key/generate", {"max_budget": 0.2})["key"]
    body = {"model": "priced-echo", "messages": CHAT["messages"]}
    most = sent(strict, "/v1/chat/completions", body, key)["max_tokens"]
    assert 50 < most < 0.2e9 / OUTPUT
    answer = ask(strict, key, model="priced-echo", max_tokens=101)
    assert answer.status == 422
    message = answer.json()["error"]["message"]
    assert "limit_mode is strict: a smaller maximum of output tokens would do" in message
    assert ask(strict, key, model="priced-echo", max_tokens=10).status == 200


def test_a_provider_s_budget_is_not_passed_by_many_at_once(mock_port: int, tmp_path: Path):
    config = priced_config(mock_port)
    config["router_settings"] = {
        "provider_budget_config": {"openai": {"budget_limit": 0.5, "time_period": "30d"}},
        "disable_cooldowns": True,
    }
    config["model_list"] = [m for m in config["model_list"] if m["model_name"] == "priced"]
    running = Gateway(tmp_path, config, "--num_workers", "2").wait()
    try:
        key = make(running, "/key/generate", {})["key"]
        paid: list[float] = []

        def run() -> None:
            with Client(running.port) as client:
                for _ in range(10):
                    client.send(request("/v1/chat/completions", {**CHAT, "model": "priced"}, key))
                    answer = client.answer()
                    if answer.status == 200:
                        paid.append(cost(answer))
                    else:
                        assert answer.json()["error"]["type"] == "budget_exceeded", answer.body

        threads = [threading.Thread(target=run) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        while ask(running, key, model="priced").status == 200:  # what was reserved is free again
            paid.append(paid[0])
        assert 0.5 <= sum(paid) < 0.5 + paid[0]
    finally:
        assert running.stop() == 0, running.log
