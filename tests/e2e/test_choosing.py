"""Which deployment of a group: weights, order, and the strategies, as a client meets them."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from asking import PATHS, ask, body
from harness import MASTER, Gateway, request, until
from lab import Hit, Lab, mark

ROUNDS = 120
# the number of hits of one of two equal deployments in ROUNDS is outside once in 10 million times
LOW, HIGH = 31, 89


def begin(lab: Lab, behind: Callable[..., Gateway], groups: list[dict], **router: Any) -> Gateway:
    return behind(groups, router_settings={"num_retries": 0, **router}).wait()


def asked(lab: Lab, gateway: Gateway, group: str, count: int, act: str = "ok") -> Counter[str]:
    """Who was asked, one request after the other."""
    scripts = [mark(act) for _ in range(count)]
    for script in scripts:
        assert ask(gateway, "chat", group, script).status == 200
    return Counter(lab.of(script)[0].deployment for script in scripts)


def in_flight(lab: Lab, gateway: Gateway, group: str, count: int, stack: ExitStack) -> list[Hit]:
    """So many requests that stay in flight, each on a connection of its own."""
    hits = []
    for _ in range(count):
        script = mark("hang")
        client = stack.enter_context(gateway.client())
        client.send(request(PATHS["chat"], body("chat", group, script)))
        hits.append(lab.stalled(script))
    return hits


# -- simple-shuffle


@pytest.fixture(scope="module")
def shuffled(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [lab.deployment("even", f"even-{n}") for n in "ab"]
    for unit in ("weight", "rpm", "tpm"):
        groups.append(lab.deployment(unit, f"{unit}-a", **{unit: 9000}))
        groups.append(lab.deployment(unit, f"{unit}-b", **{unit: 1000}))
        groups.append(lab.deployment(unit, f"{unit}-none"))
    groups.append(lab.deployment("first", "first-a", weight=1, rpm=9))
    groups.append(lab.deployment("first", "first-b", rpm=9000))
    return begin(lab, behind, groups)


def test_without_weights_all_are_equal(lab: Lab, shuffled: Gateway) -> None:
    assert LOW <= asked(lab, shuffled, "even", ROUNDS)["even-a"] <= HIGH


@pytest.mark.parametrize("unit", ["weight", "rpm", "tpm"])
def test_shares_follow_the_weights(lab: Lab, shuffled: Gateway, unit: str) -> None:
    """Nine to one; who has none while others have is not asked."""
    found = asked(lab, shuffled, unit, ROUNDS)
    assert found[f"{unit}-none"] == 0
    assert 0 < found[f"{unit}-b"] < 36
    assert found.total() == ROUNDS


def test_the_first_unit_that_anybody_has(lab: Lab, shuffled: Gateway) -> None:
    assert asked(lab, shuffled, "first", 30) == {"first-a": 30}


# -- order


def test_order(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """The lowest as long as one of it is in service; then the next."""
    groups = [lab.deployment("o", f"o-{n}", order=n) for n in (2, 1, 3)]
    gateway = begin(lab, behind, groups, cooldown_time=300, num_retries=1)
    assert asked(lab, gateway, "o", 20) == {"o-1": 20}
    script = mark("e429", "ok")
    assert ask(gateway, "chat", "o", script).status == 200
    assert asked(lab, gateway, "o", 20) == {"o-2": 20}


# -- least-busy


@pytest.mark.parametrize("workers", [1, 2])
def test_least_busy(lab: Lab, behind: Callable[..., Gateway], workers: int) -> None:
    """All workers see what is in flight with all of them."""
    name = f"lb{workers}"
    groups = [lab.deployment(name, f"{name}-{n}") for n in range(4)]
    flags = ("--num_workers", str(workers))
    router = {"routing_strategy": "least-busy", "num_retries": 0}
    gateway = behind(groups, *flags, router_settings=router).wait()
    with ExitStack() as stack:
        hits = in_flight(lab, gateway, name, 24, stack)
        assert set(Counter(hit.deployment for hit in hits).values()) == {6}
        first = [hit for hit in hits if hit.deployment == f"{name}-0"]
        for hit in first:
            lab.release(hit)
        until(lambda: all(hit.done.is_set() for hit in first), what="room at one of them")
        until(lambda: gateway.counters()["in_flight"] <= 19, what="its answers")
        again = in_flight(lab, gateway, name, 6, stack)
        assert {hit.deployment for hit in again} == {f"{name}-0"}


def test_who_left_is_not_busy(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """However a request ended, it is not counted any more."""
    groups = [lab.deployment("gone", f"gone-{n}", timeout=0.3) for n in "ab"]
    gateway = begin(lab, behind, groups, routing_strategy="least-busy", disable_cooldowns=True)
    for act in ("hang", "reset", "close", "e500", "half-head"):
        for _ in range(3):
            ask(gateway, "chat", "gone", mark(act))
    with ExitStack() as stack:
        in_flight(lab, gateway, "gone", 7, stack)
    until(lambda: gateway.counters()["in_flight"] <= 1, what="an end of all")
    with ExitStack() as stack:
        hits = in_flight(lab, gateway, "gone", 8, stack)
        assert Counter(hit.deployment for hit in hits) == {"gone-a": 4, "gone-b": 4}


def test_what_a_dead_worker_had_is_forgotten(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Its requests are over, whether it could say so or not."""
    groups = [lab.deployment("dead", f"dead-{n}") for n in "ab"]
    gateway = begin(lab, behind, groups, routing_strategy="least-busy")
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    with ExitStack() as stack:
        hits = in_flight(lab, gateway, "dead", 7, stack)
        worker = max(map(int, children.read_text().split()))
        os.kill(worker, signal.SIGKILL)
        until(lambda: all(hit.gone.is_set() for hit in hits), what="the end of its connections")

    def served() -> bool:
        with suppress(OSError, EOFError):
            return ask(gateway, "chat", "dead", mark("ok")).status == 200
        return False

    until(served, 20, "another worker")
    with ExitStack() as stack:
        again = in_flight(lab, gateway, "dead", 8, stack)
        assert Counter(hit.deployment for hit in again) == {"dead-a": 4, "dead-b": 4}


# -- the others


def test_latency(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Once it has met both, it goes to the quick one; `lowest_latency_buffer` is narrow here."""
    groups = [lab.deployment("lat", f"lat-{n}") for n in ("slow", "quick")]
    args = {"lowest_latency_buffer": 0.1, "ttl": 3600}
    gateway = begin(
        lab, behind, groups, routing_strategy="latency-based-routing", routing_strategy_args=args
    )
    lab.moods["lat-slow"] = "slow150"
    try:
        until(
            lambda: asked(lab, gateway, "lat", 1) and {"lat-slow", "lat-quick"} <= met(lab, "lat"),
            what="a meeting with both",
        )
        assert asked(lab, gateway, "lat", 20)["lat-quick"] >= 19
    finally:
        lab.moods.clear()


def met(lab: Lab, group: str) -> set[str]:
    return {hit.deployment for hit in lab.hits if hit.deployment.startswith(f"{group}-")}


@pytest.mark.parametrize("strategy", ["usage-based-routing", "usage-based-routing-v2"])
def test_usage(lab: Lab, behind: Callable[..., Gateway], strategy: str) -> None:
    """The fewest tokens of this minute: equal answers, so they take turns."""
    name = strategy.replace("based-routing", "")
    groups = [lab.deployment(name, f"{name}-{n}") for n in "abc"]
    gateway = begin(lab, behind, groups, routing_strategy=strategy)
    found = asked(lab, gateway, name, 90)
    assert max(found.values()) - min(found.values()) <= 2  # the minute may change on the way


def test_cost(lab: Lab, behind: Callable[..., Gateway]) -> None:
    prices = {"dear": 9e-6, "cheap": 1e-6, "middle": 4e-6}
    groups = [
        lab.deployment("cost", f"cost-{n}", input_cost_per_token=p, output_cost_per_token=p)
        for n, p in prices.items()
    ]
    gateway = begin(lab, behind, groups, routing_strategy="cost-based-routing", num_retries=1)
    assert asked(lab, gateway, "cost", 15) == {"cost-cheap": 15}
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "cost", script).status == 200
    assert [hit.deployment for hit in lab.of(script)] == ["cost-cheap", "cost-middle"]


# -- tags


@pytest.fixture(scope="module")
def tagged(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [
        lab.deployment("t", "t-free", tags=["free"]),
        lab.deployment("t", "t-paid", tags=["paid", "eu"]),
        lab.deployment("t", "t-default", tags=["default"]),
        lab.deployment("strict", "strict-paid", tags=["paid"]),
    ]
    return begin(lab, behind, groups, enable_tag_filtering=True)


@pytest.mark.parametrize(
    ("how", "deployment"),
    [
        ({"tags": ["free"]}, "t-free"),
        ({"metadata": {"tags": ["paid"]}}, "t-paid"),
        ({"headers": {"x-litellm-tags": "paid"}}, "t-paid"),
        ({"headers": {"x-litellm-tags": "unknown"}}, "t-default"),
        ({}, "t-default"),
    ],
    ids=str,
)
def test_tags(lab: Lab, tagged: Gateway, how: dict[str, Any], deployment: str) -> None:
    for _ in range(5):
        script = mark("ok")
        assert ask(tagged, "chat", "t", script, **how).status == 200
        (hit,) = lab.of(script)
        assert hit.deployment == deployment
        assert b'"tags"' not in hit.body
        assert hit.line("x-litellm-tags") is None


def test_no_deployment_with_that_tag(lab: Lab, tagged: Gateway) -> None:
    script = mark("ok")
    found = ask(tagged, "chat", "strict", script, tags=["free"])
    assert (found.status, lab.of(script)) == (401, [])
    assert "Not allowed to access model due to tags configuration" in found.message


# -- what would be done


def test_explain(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Candidates with their shares, what is out of service, and where a failure leads; nothing is sent."""
    groups = [
        lab.deployment("g", "g-a", weight=3),
        lab.deployment("g", "g-b", weight=1),
        lab.deployment("g", "g-c", order=2),
        lab.deployment("spare"),
    ]
    router = {"fallbacks": [{"g": ["spare"]}], "num_retries": 0, "cooldown_time": 300}
    keys = [{"key": "sk-few-0123456789", "models": ["spare"]}]
    gateway = behind(groups, router_settings=router, general_settings={"keys": keys}).wait()

    def explained(query: str, key: str = MASTER) -> tuple[int, Any]:
        with gateway.client() as client:
            line = f"GET /explain?{query} HTTP/1.1\r\nHost: g\r\n"
            client.send(f"{line}Authorization: Bearer {key}\r\n\r\n".encode())
            answer = client.answer()
        return answer.status, json.loads(answer.body)

    status, found = explained("model=g")
    assert status == 200
    shares = {d["id"]: d["share"] for d in found["deployments"]}
    assert shares == {"g-a": 0.75, "g-b": 0.25, "g-c": 0.0}
    assert found["fallbacks"]["fallbacks"] == ["spare"]
    assert lab.at("g-a") + lab.at("g-b") == []
    lab.moods |= {"g-a": "e429", "g-b": "e429"}
    for _ in range(20):
        ask(gateway, "chat", "g", mark("ok"))
    lab.moods.clear()
    cold = {d["id"]: d["cooling_seconds"] > 0 for d in explained("model=g")[1]["deployments"]}
    assert cold == {"g-a": True, "g-b": True, "g-c": False}
    assert explained("model=g&key=sk-few-0123456789")[1]["allowed"] is False
    assert explained("model=g", "sk-few-0123456789")[0] == 403
    assert explained("model=spare", "sk-few-0123456789")[0] == 200
    assert explained("")[0] == 400
    assert explained("model=nobody")[1]["model_group"] is None


def test_tags_come_before_order(lab: Lab, behind: Callable[..., Gateway]) -> None:
    groups = [
        lab.deployment("t", "t-free", tags=["free"], order=1),
        lab.deployment("t", "t-paid", tags=["paid"], order=2),
    ]
    gateway = begin(lab, behind, groups, enable_tag_filtering=True)
    for tag in ("paid", "free"):
        script = mark("ok")
        assert ask(gateway, "chat", "t", script, tags=[tag]).status == 200
        assert lab.of(script)[0].deployment == f"t-{tag}"
