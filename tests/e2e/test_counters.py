"""Limits in front of groups that fail, limits that the file sets for all, and counters that leave and come back."""

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from admin import call, make
from asking import ask
from harness import Gateway, request, until
from lab import Lab, mark
from spending import control_pid, limits_of

from fastproxy._gates import Gate
from fastproxy._limits import boot_seconds

KEYS = [
    {"key": f"sk-{name}-0123456789abcdef", "alias": name, **limits}
    for name, limits in {
        "one": {"rpm_limit": 1},
        "poor": {"max_budget": 0.2},
        "other": {"max_budget": 1.0},
        "defaults": {},
        "second": {},
        "both": {"rpm_limit": 100, "max_budget": 1.0},
    }.items()
]
CHAT = "/v1/chat/completions"
ONE, POOR, OTHER, DEFAULTS, SECOND, BOTH = (str(entry["key"]) for entry in KEYS)


def priced(lab: Lab, group: str, dollars: float, **params: Any) -> dict[str, Any]:
    params |= {"input_cost_per_token": 0, "output_cost_per_token": dollars}
    return lab.deployment(group, **params)


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [
        priced(lab, "cheap", 0.001),
        priced(lab, "dear", 0.01),
        priced(lab, "spare", 0.001),
        priced(lab, "tight", 0.001),
        priced(lab, "default", 0.0, default_api_key_rpm_limit=2),
    ]
    router = {
        "num_retries": 0,
        "disable_cooldowns": True,
        "fallbacks": [{"cheap": ["dear"]}, {"tight": ["spare"]}, {"spare": ["tight"]}],
        "default_fallbacks": ["spare"],
        "model_group_limits": {"tight": {"rpm_limit": 2}},
    }
    general = {"keys": KEYS, "global_max_parallel_requests": 3}
    return behind(groups, router_settings=router, general_settings=general).wait()


def test_an_unknown_model_with_a_fallback_counts(gateway: Gateway):
    found = [ask(gateway, "chat", "nobody-serves-it", mark("ok"), key=ONE) for _ in range(2)]
    assert [(one.status, one.group) for one in found] == [(200, "spare"), (429, None)]


def test_a_group_at_its_limit_is_left_out_as_a_fallback(lab: Lab, gateway: Gateway):
    for _ in range(2):  # the master key is not limited
        assert ask(gateway, "chat", "tight", mark("ok")).group == "tight"
    assert [ask(gateway, "chat", "tight", mark("ok"), key=SECOND).group for _ in range(2)] == [
        "tight",
        "tight",
    ]
    refused = ask(gateway, "chat", "tight", mark("ok"), key=SECOND)
    assert (refused.status, refused.headers["rate_limit_type"]) == (429, "requests")
    assert refused.message.startswith("Rate limit exceeded for model_group: tight.")
    failed = mark("e500", "ok")
    assert ask(gateway, "chat", "spare", failed, key=SECOND).status == 500
    assert [hit.deployment for hit in lab.of(failed)] == ["spare"]
    failed = mark("e500", "ok")
    assert ask(gateway, "chat", "spare", failed).group == "tight"


def test_a_dearer_fallback_is_reserved_at_its_price(gateway: Gateway, lab: Lab):
    # 10 tokens: a cent at `cheap`, ten at `dear`
    stall = mark("e500", "hang")
    with gateway.client() as client:
        client.send(_request("cheap", stall, POOR))
        until(lambda: len(lab.of(stall)) == 2, what="the request at `dear`")
        state = limits_of(gateway).describe(_gate(POOR))
        assert state["reserved"] == 100_000_000
    until(lambda: limits_of(gateway).describe(_gate(POOR))["reserved"] == 0, what="the end")


def test_a_maximum_at_the_end_of_a_large_body_is_reserved(gateway: Gateway, lab: Lab):
    hang = mark("hang")
    text = [{"role": "user", "content": hang}, {"role": "user", "content": "x" * 1_000_000}]
    body = json.dumps({"model": "dear", "messages": text, "max_tokens": 80}).encode()
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", body, OTHER))
        until(lambda: lab.of(hang), what="the request")
        assert limits_of(gateway).describe(_gate(OTHER))["reserved"] == 800_000_000
    until(lambda: limits_of(gateway).describe(_gate(OTHER))["reserved"] == 0, what="the end")


def test_every_key_has_the_model_s_default_limit(gateway: Gateway):
    assert [ask(gateway, "chat", "default", mark("ok"), key=DEFAULTS).status for _ in range(3)] == [
        200,
        200,
        429,
    ]
    made = make(gateway, "/key/generate", {"model_rpm_limit": {"default": 3}})["key"]
    assert [ask(gateway, "chat", "default", mark("ok"), key=made).status for _ in range(4)] == [
        200,
        200,
        200,
        429,
    ]
    assert ask(gateway, "chat", "default", mark("ok"), key=SECOND).status == 200


def test_all_keys_together_have_so_many_in_flight(gateway: Gateway, lab: Lab):
    stall = mark("hang")
    clients = [gateway.client() for _ in range(3)]
    try:
        for client, key in zip(clients, (SECOND, DEFAULTS, OTHER), strict=True):
            client.send(_request("spare", stall, key))
        until(lambda: len(lab.of(stall)) == 3, what="three in flight")
        refused = ask(gateway, "chat", "spare", mark("ok"), key=SECOND)
        assert (refused.status, refused.headers["rate_limit_type"]) == (
            429,
            "max_parallel_requests",
        )
        assert ask(gateway, "chat", "spare", mark("ok")).status == 200  # the master key
    finally:
        for client in clients:
            client.sock.close()
    until(
        lambda: ask(gateway, "chat", "spare", mark("ok"), key=SECOND).status == 200,
        what="free places",
    )


def test_counters_that_were_taken_back_are_given_again(gateway: Gateway):
    made = make(gateway, "/key/generate", {"rpm_limit": 100, "max_budget": 1.0})["key"]
    team = make(gateway, "/team/new", {"rpm_limit": 100})["team_id"]
    of_team = make(gateway, "/key/generate", {"team_id": team})["key"]
    for key in (made, of_team, BOTH):
        assert ask(gateway, "chat", "spare", mark("ok"), key=key, max_tokens=10).status == 200
    spent = until(lambda: _spend(gateway, made), what="what it has spent")
    limits = limits_of(gateway)
    until(lambda: limits.describe(_gate(made))["in_flight"] == 0, what="the end of the request")
    before = limits.taken
    left = limits.leave(1000, 0, boot_seconds() + 1000, 0)
    limits.free(slot for slot, _ in left)
    # those of the configuration stay; of the others nothing is left
    assert limits.describe(_gate(made)) == {}
    assert limits.describe(_gate(BOTH))["spent"] > 0
    assert 0 < limits.taken == before - len(left)
    with gateway.client() as client:  # also on a connection that has used its key before
        for key in (made, of_team, made):
            assert (
                client.post("/v1/chat/completions", _body("spare", mark("ok")), key).status == 200
            )
            again = limits.leave(1000, 0, boot_seconds() + 1000, 0)
            limits.free(slot for slot, _ in again)
    assert ask(gateway, "chat", "spare", mark("ok"), key=made, max_tokens=10).status == 200
    # what was spent before is in the new counter: none of it is free again
    assert limits.describe(_gate(made))["spent"] > spent


def test_while_control_stands_still_who_has_lost_a_counter_is_told_to_wait(gateway: Gateway):
    made = make(gateway, "/key/generate", {"rpm_limit": 100})["key"]
    assert ask(gateway, "chat", "spare", mark("ok"), key=made).status == 200
    limits = limits_of(gateway)
    until(lambda: limits.describe(_gate(made))["in_flight"] == 0, what="the end of the request")
    limits.free(slot for slot, _ in limits.leave(1000, 0, boot_seconds() + 1000, 0))
    pid = control_pid(gateway)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        late = ask(gateway, "chat", "spare", mark("ok"), key=made)
        assert (late.status, late.headers["retry-after"]) == (503, "5")
        assert ask(gateway, "chat", "spare", mark("ok"), key=BOTH).status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ask(gateway, "chat", "spare", mark("ok"), key=made).status == 200


def _gate(key: str) -> Any:
    return Gate("api_key", "", hashlib.sha256(key.encode()).hexdigest(), {"rpm_limit": 1})


def _body(model: str, script: str) -> dict[str, Any]:
    text = [{"role": "user", "content": script}]
    return {"model": model, "messages": text, "max_tokens": 10}


def _request(model: str, script: str, key: str) -> bytes:
    return request("/v1/chat/completions", _body(model, script), key)


def _spend(gateway: Gateway, key: str) -> int:
    status, found = call(gateway, "GET", f"/key/info?key={key}")
    assert status == 200
    return round(float(found["info"]["spend"]) * 1e9)


def test_money_that_others_have_reserved_is_there_again_in_a_moment(
    lab: Lab, behind: Callable[..., Gateway]
):
    running = behind([priced(lab, "slow", 0.001)]).wait()
    key = make(running, "/key/generate", {"max_budget": 0.01, "budget_duration": "30d"})["key"]
    held = mark("gate-ok")
    body = {"model": "slow", "max_tokens": 100}
    with running.client() as first, running.client() as second:
        first.send(request(CHAT, {**body, "messages": [{"role": "user", "content": held}]}, key))
        hit = lab.stalled(held)
        quick = request(CHAT, {**body, "messages": [{"role": "user", "content": mark("ok")}]}, key)
        second.send(quick)
        refused = second.answer()
        assert (refused.status, refused.header("retry-after")) == (429, "1"), refused.body
        lab.release(hit)
        assert first.answer().status == 200
        second.send(quick)
        assert second.answer().status == 200


def test_a_fallback_that_the_client_names_has_its_own_limits(
    lab: Lab, behind: Callable[..., Gateway]
):
    running = behind([priced(lab, "front", 0.001), priced(lab, "back", 0.001)]).wait()
    limits = {"model_rpm_limit": {"back": 1}, "model_max_budget": {"front": {"budget_limit": 5}}}
    key = make(running, "/key/generate", limits)["key"]

    def through() -> int:
        body = {"model": "front", "fallbacks": ["back"], "num_retries": 0}
        body["messages"] = [{"role": "user", "content": mark("e500", "ok")}]
        with running.client() as client:
            client.send(request(CHAT, body, key))
            return client.answer().status

    assert [through() for _ in range(3)] == [200, 500, 500]
    assert len(lab.at("back")) == 1


def test_money_of_a_dearer_fallback(lab: Lab, behind: Callable[..., Gateway]):
    """What a request needs of another group has to be there, too: one may go while something is left."""
    pricey = {"input_cost_per_token": 1e-5, "output_cost_per_token": 2e-2}
    groups = [
        lab.deployment("modest", input_cost_per_token=1e-6, output_cost_per_token=1e-4),
        lab.deployment("pricey", **pricey),
        lab.deployment("gift", input_cost_per_token=0, output_cost_per_token=0),
    ]
    settings = {"num_retries": 0, "fallbacks": [{"modest": ["pricey"]}], "disable_cooldowns": True}
    running = behind(groups, router_settings=settings).wait()
    key = make(running, "/key/generate", {"max_budget": 0.05})["key"]

    def body(model: str, script: str) -> bytes:
        messages = [{"role": "user", "content": mark(script, "gate-ok")}]
        return request(CHAT, {"model": model, "messages": messages, "max_tokens": 50}, key)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.client()) for _ in range(5)]
        for client in clients:
            client.send(body("modest", "e500"))
        until(lambda: len(lab.at("pricey")) == 1, what="the one that may")
        lab.release(lab.at("pricey")[0])
        statuses = sorted(client.answer().status for client in clients)
    assert statuses == [200, 500, 500, 500, 500]
    assert len(lab.at("pricey")) == 1
    with running.client() as client:
        client.send(body("modest", "ok"))
        refused = client.answer()
        assert refused.status == 422, refused.body
        client.send(body("gift", "ok"))
        assert client.answer().status == 200  # a spent budget does not concern it
