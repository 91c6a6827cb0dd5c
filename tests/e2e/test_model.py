"""Random requests, held against a model of the rules that was written on its own.

The model predicts from the script of a request which groups are asked in which order, and the status that
the client gets. Groups are large enough that no try has to wait for a deployment that failed already.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from asking import ask
from harness import Gateway
from lab import Lab, mark

SIZE = 6
MOST_FALLBACKS = 5


@dataclass
class Rules:
    """What the configuration says about a group."""

    size: int = SIZE
    fallbacks: list[str] = field(default_factory=list)
    context: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    policy: dict[str, int] = field(default_factory=dict)


GROUPS = {
    "lone": Rules(size=1),
    "plain": Rules(),
    "last": Rules(),
    "listed": Rules(fallbacks=["plain", "last"]),
    "nested": Rules(fallbacks=["listed", "safe"]),
    "classed": Rules(fallbacks=["plain"], context=["big", "last"], content=["safe"]),
    "big": Rules(fallbacks=["last"], content=["safe"]),
    "safe": Rules(fallbacks=["classed"]),
    "strict": Rules(policy={"internal": 3, "rate": 0, "auth": 1}),
}
DEFAULT_RETRIES = 1
POLICY_KEYS = {"internal": "InternalServerErrorRetries", "rate": "RateLimitErrorRetries"}
POLICY_KEYS |= {"auth": "AuthenticationErrorRetries"}
# act: its status when it is the last one (0: some 5xx), its class, whether it is worth another try
ACTS: dict[str, tuple[int, str, bool]] = {
    "e500": (500, "internal", True),
    "e503": (503, "internal", True),
    "html502": (502, "internal", True),
    "e429": (429, "rate", True),
    "e408": (408, "timeout", True),
    "e409": (409, "conflict", True),
    "e400": (400, "request", False),
    "e404": (404, "request", False),
    "e422": (422, "request", False),
    "e401": (401, "auth", True),  # where the group has another deployment
    "ctx": (400, "context", False),
    "policy": (400, "content", False),
    "reset": (500, "connect", True),
    "mid-json": (0, "internal", True),
    "open-cut": (0, "connect", True),
    "open-err": (503, "internal", True),
}
STREAM_ONLY = frozenset({"open-cut", "open-err"})
PLAIN_ONLY = frozenset({"mid-json"})


@dataclass
class Case:
    """A request."""

    group: str
    acts: list[str]
    retries: int | None
    fallbacks: list[str] | None
    disabled: bool
    stream: bool


def predict(case: Case) -> tuple[list[str], int]:
    """The groups that are asked, and the status."""
    asked: list[str] = []
    pending: list[str] = []
    visited = {case.group}
    group, used, tries = case.group, 0, 0
    while True:
        asked.append(group)
        act = case.acts[min(len(asked) - 1, len(case.acts) - 1)]
        if act == "ok":
            return asked, 200
        rules = GROUPS[group]
        status, kind, again = ACTS[act]
        if kind == "auth" and rules.size == 1:
            again = False
        limit = DEFAULT_RETRIES if case.retries is None else case.retries
        if case.retries is None:
            limit = rules.policy.get(kind, limit)
        if again and tries < limit:
            tries += 1
            continue
        if case.disabled:
            return asked, status
        special = {"context": rules.context, "content": rules.content}.get(kind, [])
        general = rules.fallbacks if case.fallbacks is None else case.fallbacks
        pending = [*(special or general), *pending]
        while pending and (pending[0] in visited):
            pending.pop(0)
        if not pending or used == MOST_FALLBACKS:
            return asked, status
        group = pending.pop(0)
        visited.add(group)
        used, tries = used + 1, 0


def draw(source: random.Random) -> Case:
    """A random request that the rules say something definite about."""
    group = source.choice(list(GROUPS))
    stream = source.random() < 0.3
    kinds = [a for a in ACTS if a not in (PLAIN_ONLY if stream else STREAM_ONLY)]
    acts = source.choices(kinds, k=source.randint(1, 6))
    if source.random() < 0.6:
        acts.append("ok")
    retries = source.choice([None, None, 0, 1, 3])
    fallbacks = source.choice([None, None, None, ["last"], ["big", "plain"]])
    if group == "strict":
        acts, fallbacks = (
            [acts[0]] * 6,
            None,
        )  # mixed classes: whose number counts is nobody's promise
    if group == "lone":
        retries = 0  # it would have to wait
    return Case(group, acts, retries, fallbacks, source.random() < 0.2, stream)


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    deployments = [
        lab.deployment(name, f"{name}-{n}")
        for name, rules in GROUPS.items()
        for n in range(rules.size)
    ]
    router: dict[str, Any] = {"num_retries": DEFAULT_RETRIES, "disable_cooldowns": True}
    for key, attribute in (
        ("fallbacks", "fallbacks"),
        ("context_window_fallbacks", "context"),
        ("content_policy_fallbacks", "content"),
    ):
        named = {name: getattr(rules, attribute) for name, rules in GROUPS.items()}
        router[key] = [{name: groups} for name, groups in named.items() if groups]
    router["model_group_retry_policy"] = {
        name: {POLICY_KEYS[kind]: count for kind, count in rules.policy.items()}
        for name, rules in GROUPS.items()
        if rules.policy
    }
    return behind(deployments, router_settings=router).wait()


@pytest.mark.parametrize("seed", range(20))
def test_as_predicted(lab: Lab, gateway: Gateway, seed: int) -> None:
    """Forty requests of each seed."""
    source = random.Random(seed)
    for _ in range(40):
        case = draw(source)
        script = mark(*case.acts)
        more: dict[str, Any] = {"stream": case.stream}
        if case.retries is not None:
            more["num_retries"] = case.retries
        if case.fallbacks is not None:
            more["fallbacks"] = case.fallbacks
        if case.disabled:
            more["disable_fallbacks"] = True
        found = ask(gateway, "chat", case.group, script, **more)
        hits = [hit.deployment for hit in lab.of(script)]
        asked, status = predict(case)
        assert [name.rpartition("-")[0] for name in hits] == asked, (case, found)
        assert found.status == status or (status == 0 and 500 <= found.status < 600), (case, found)
        # a group's deployments are never asked twice by one request here
        assert len(set(hits)) == len(hits), (case, hits)
        if found.status == 200:
            assert found.text == f"pong from {hits[-1]}"
            assert found.group == asked[-1]
