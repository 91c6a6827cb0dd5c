"""Falling back to another group: when, to which, for whom, and what a client may say about it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask
from harness import MASTER, Gateway, until
from lab import Lab, mark

APIS = ("chat", "responses", "messages")
NARROW = "sk-narrow-0123456789abcdef"
NO_FALLBACKS = "sk-nofallbacks-0123456789"
ALIASED = "sk-aliased-0123456789abcdef"
KEYS = [
    {"key": NARROW, "alias": "narrow", "models": ["main", "alone", "list"]},
    {"key": NO_FALLBACKS, "alias": "nofallbacks", "metadata": {"disable_fallbacks": True}},
    {"key": ALIASED, "alias": "aliased", "aliases": {"mine": "main"}},
]
GROUPS = ("main", "spare", "list", "first", "second", "alone", "big", "safe", "tidy", "other")
CHAIN = 9


def groups(lab: Lab) -> list[dict[str, Any]]:
    made = [lab.deployment(name) for name in GROUPS]
    made += [lab.deployment("pair", f"pair-{n}") for n in "ab"]
    made += [lab.deployment(f"chain{n}") for n in range(CHAIN)]
    made += [lab.deployment(f"loop{n}") for n in range(3)]
    made += [lab.deployment(name, provider="anthropic") for name in ("claude", "claude-spare")]
    made += [lab.deployment(name, provider="anthropic") for name in ("claude-big", "claude-safe")]
    return made


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    chain: list[dict[str, list[str]]] = [{f"chain{n}": [f"chain{n + 1}"]} for n in range(CHAIN - 1)]
    chain += [{f"loop{n}": [f"loop{(n + 1) % 3}"]} for n in range(3)]
    router = {
        "num_retries": 0,
        "disable_cooldowns": True,
        "fallbacks": [
            {"main": ["spare"]},
            {"list": ["first", "second", "spare"]},
            {"pair": ["spare"]},
            {"claude": ["claude-spare"]},
            {"tidy": ["spare"]},
            *chain,
        ],
        "context_window_fallbacks": [{"main": ["big"]}, {"claude": ["claude-big"]}],
        "content_policy_fallbacks": [{"main": ["safe"]}, {"claude": ["claude-safe"]}],
        "model_group_alias": {"nick": "main"},
    }
    return behind(groups(lab), router_settings=router, general_settings={"keys": KEYS}).wait()


def where(lab: Lab, script: str) -> list[str]:
    return [hit.deployment for hit in lab.of(script)]


# -- when, and to which


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_spare_group_answers(lab: Lab, gateway: Gateway, api: str, stream: bool) -> None:
    main, spare = ("claude", "claude-spare") if api == "messages" else ("main", "spare")
    script = mark("e500", "ok")
    found = ask(gateway, api, main, script, **({"stream": True} if stream else {}))
    assert where(lab, script) == [main, spare]
    assert (found.status, found.text) == (200, f"pong from {spare}")
    assert (found.retries, found.fallbacks) == (0, 1)
    assert (found.group, found.deployment) == (spare, spare)
    assert found.headers["x-litellm-model-name"].endswith(f"/up-{spare}")


def test_one_after_the_other(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "e503", "ok")
    found = ask(gateway, "chat", "list", script)
    assert where(lab, script) == ["list", "first", "second"]
    assert (found.status, found.fallbacks, found.group) == (200, 2, "second")


def test_when_all_fail_the_client_hears_of_it(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "e500", "e500", "e503")
    found = ask(gateway, "chat", "list", script)
    assert where(lab, script) == ["list", "first", "second", "spare"]
    assert found.status in (500, 503)
    assert found.json()["error"]["code"] == str(found.status)
    assert found.headers["x-should-retry"] == "false"


def test_retries_come_first(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "e500", "ok")
    found = ask(gateway, "chat", "pair", script, num_retries=1)
    assert sorted(where(lab, script)[:2]) == ["pair-a", "pair-b"]
    assert where(lab, script)[2:] == ["spare"]
    assert (found.status, found.fallbacks) == (200, 1)


def test_each_group_has_tries_of_its_own(lab: Lab, gateway: Gateway) -> None:
    """With one retry: both of the pair, then the spare one, and that once more."""
    script = mark("e500", "e500", "e500", "ok")
    found = ask(gateway, "chat", "pair", script, num_retries=1)
    assert where(lab, script)[2:] == ["spare", "spare"]
    assert (found.status, found.fallbacks) == (200, 1)


def test_a_full_deployment_is_left_at_once(lab: Lab, gateway: Gateway) -> None:
    """A 429 with nobody else in the group: no pause, as there is a fallback."""
    script = mark("e429-ra30", "ok")
    found = ask(gateway, "chat", "main", script, num_retries=2)
    assert where(lab, script) == ["main", "spare"]
    assert found.status == 200


def test_an_alias_falls_back_like_its_group(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "nick", script).status == 200
    assert where(lab, script) == ["main", "spare"]


def test_a_good_answer_asks_nobody_else(lab: Lab, gateway: Gateway) -> None:
    script = mark("ok")
    found = ask(gateway, "chat", "main", script)
    assert where(lab, script) == ["main"]
    assert (found.fallbacks, found.group) == (0, "main")


@pytest.mark.parametrize("size", [100, 500_000])
def test_the_body_is_the_clients(lab: Lab, gateway: Gateway, size: int) -> None:
    """But for the model, which is the fallback's."""
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "main", script, pad="x" * size).status == 200
    first, second = lab.of(script)
    sent, again = json.loads(first.body), json.loads(second.body)
    assert (sent.pop("model"), again.pop("model")) == ("up-main", "up-spare")
    assert sent == again


# -- classes of 400


@pytest.mark.parametrize(("act", "kind"), [("ctx", "big"), ("policy", "safe"), ("filter", "safe")])
@pytest.mark.parametrize("api", APIS)
def test_a_class_has_its_own_fallback(
    lab: Lab, gateway: Gateway, api: str, act: str, kind: str
) -> None:
    """At once: the same again would fail the same way."""
    main, spare = ("claude", f"claude-{kind}") if api == "messages" else ("main", kind)
    script = mark(act, "ok")
    found = ask(gateway, api, main, script, num_retries=2)
    assert where(lab, script) == [main, spare]
    assert (found.status, found.fallbacks, found.group) == (200, 1, spare)


@pytest.mark.parametrize("act", ["ctx", "policy"])
def test_a_class_without_its_fallback_is_told(lab: Lab, gateway: Gateway, act: str) -> None:
    script = mark(act, "ok")
    found = ask(gateway, "chat", "alone", script)
    assert where(lab, script) == ["alone"]
    assert found.status == 400
    kind = {"ctx": "ContextWindowExceededError", "policy": "ContentPolicyViolationError"}[act]
    assert f"litellm.{kind}" in found.message


def test_words_of_the_prompt_are_no_class(lab: Lab, gateway: Gateway) -> None:
    """A 400 of another kind that repeats what the client wrote stays what it is."""
    script = mark("e400", "ok")
    found = ask(gateway, "chat", "alone", script, note="context_length_exceeded")
    assert (found.status, where(lab, script)) == (400, ["alone"])
    assert "ContextWindow" not in found.message


# -- bounds


def test_a_chain_has_an_end(lab: Lab, gateway: Gateway) -> None:
    """Five fallbacks and no more (`max_fallbacks`)."""
    script = mark("e500")
    assert ask(gateway, "chat", "chain0", script).status == 500
    assert where(lab, script) == [f"chain{n}" for n in range(6)]


def test_a_circle_has_an_end(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500")
    assert ask(gateway, "chat", "loop0", script).status == 500
    assert where(lab, script)[:3] == ["loop0", "loop1", "loop2"]
    assert len(where(lab, script)) <= 6


def test_a_configured_depth(lab: Lab, behind: Callable[..., Gateway]) -> None:
    chain = [{f"chain{n}": [f"chain{n + 1}"]} for n in range(CHAIN - 1)]
    router = {"num_retries": 0, "fallbacks": chain, "max_fallbacks": 2}
    gateway = behind(groups(lab), router_settings=router).wait()
    script = mark("e500")
    assert ask(gateway, "chat", "chain0", script).status == 500
    assert where(lab, script) == ["chain0", "chain1", "chain2"]


# -- from which part of the file


@pytest.fixture(scope="module")
def generic(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    settings = {"fallbacks": [{"main": ["first"]}, {"*": ["spare"]}], "num_retries": 0}
    return behind(groups(lab), litellm_settings=settings).wait()


@pytest.mark.parametrize(("model", "spare"), [("main", "first"), ("other", "spare")])
def test_litellm_settings_and_the_star(lab: Lab, generic: Gateway, model: str, spare: str) -> None:
    script = mark("e500", "ok")
    found = ask(generic, "chat", model, script)
    assert (found.status, where(lab, script)) == (200, [model, spare])


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
def test_default_fallbacks(lab: Lab, behind: Callable[..., Gateway], section: str) -> None:
    settings = {
        "fallbacks": [{"main": ["first"]}],
        "default_fallbacks": ["second", "spare"],
        "num_retries": 0,
    }
    gateway = behind(groups(lab), **{section: settings}).wait()
    script = mark("e500", "e500", "ok")
    found = ask(gateway, "chat", "other", script)
    assert (found.status, where(lab, script)) == (200, ["other", "second", "spare"])
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "main", script).status == 200
    assert where(lab, script) == ["main", "first"]


def test_a_fallback_that_is_no_model_is_told_at_the_start(
    lab: Lab, behind: Callable[..., Gateway]
) -> None:
    """And passed over when it is its turn."""
    router = {"fallbacks": [{"main": ["nowhere", "spare"]}], "num_retries": 0}
    gateway = behind(groups(lab), router_settings=router).wait()
    until(lambda: "nowhere" in gateway.log, what="a word about it")
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "main", script).status == 200
    assert where(lab, script) == ["main", "spare"]


# -- who wants none


def test_a_request_can_do_without(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "main", script, disable_fallbacks=True)
    assert (found.status, where(lab, script)) == (500, ["main"])
    assert "disable_fallbacks" not in json.loads(lab.of(script)[0].body)


def test_false_is_the_default(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "main", script, disable_fallbacks=False).status == 200
    assert "disable_fallbacks" not in json.loads(lab.of(script)[1].body)


@pytest.mark.parametrize("act", ["e500", "ctx", "policy"])
def test_a_key_can_do_without(lab: Lab, gateway: Gateway, act: str) -> None:
    script = mark(act, "ok")
    found = ask(gateway, "chat", "main", script, key=NO_FALLBACKS)
    assert (found.status, where(lab, script)) == (400 if act != "e500" else 500, ["main"])


# -- what a client may say


def test_a_client_names_groups(lab: Lab, gateway: Gateway) -> None:
    """Instead of those of the file; and they are not sent upstream."""
    script = mark("e500", "e500", "ok")
    found = ask(gateway, "chat", "main", script, fallbacks=["other", "second"])
    assert where(lab, script) == ["main", "other", "second"]
    assert (found.status, found.fallbacks) == (200, 2)
    for hit in lab.of(script):
        assert "fallbacks" not in json.loads(hit.body)


@pytest.mark.parametrize(
    "value",
    [
        [{"model": "spare", "api_base": "http://evil.example/v1"}],
        [{"model": "spare"}],
        [{"spare": ["other"]}],
        ["spare", {"model": "spare", "api_key": "k"}],
        [["spare"]],
        [1],
        [None],
        {"model": "spare"},
        1,
        True,
    ],
    ids=json.dumps,
)
def test_a_client_names_nothing_else(lab: Lab, gateway: Gateway, value: object) -> None:
    """Not a destination (SSRF), whatever it looks like; and it is told before anything is sent."""
    for api in APIS:
        script = mark("ok")
        found = ask(
            gateway, api, "claude" if api == "messages" else "main", script, fallbacks=value
        )
        assert found.status == 400
        assert "fallbacks" in found.message
        assert where(lab, script) == []


@pytest.mark.parametrize("value", [None, []])
def test_none_is_none(lab: Lab, gateway: Gateway, value: object) -> None:
    script = mark("ok")
    assert ask(gateway, "chat", "main", script, fallbacks=value).status == 200


@pytest.mark.parametrize("name", ["context_window_fallbacks", "content_policy_fallbacks"])
def test_other_lists_go_nowhere(lab: Lab, gateway: Gateway, name: str) -> None:
    script = mark("ok")
    evil = [{"main": [{"model": "x", "api_base": "http://evil.example"}]}]
    found = ask(gateway, "chat", "main", script, **{name: evil})
    assert found.status in (200, 400)
    assert not any(name in json.loads(hit.body) for hit in lab.of(script))


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "mock_response"])
def test_a_client_chooses_no_destination(lab: Lab, gateway: Gateway, name: str) -> None:
    script = mark("ok")
    found = ask(gateway, "chat", "main", script, **{name: "http://evil.example"})
    assert (found.status, where(lab, script)) == (400, [])


def test_a_clients_fallback_needs_the_keys_right(lab: Lab, gateway: Gateway) -> None:
    """What the key may not use is not used, whether that is refused or passed over."""
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "alone", script, key=NARROW, fallbacks=["other"])
    assert (found.status in (403, 500), "other" in where(lab, script)) == (True, False)
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "alone", script, key=NARROW, fallbacks=["other", "list"])
    assert (found.status in (200, 403), "other" in where(lab, script)) == (True, False)
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "alone", script, key=NARROW, fallbacks=["list"])
    assert (found.status, where(lab, script)) == (200, ["alone", "list"])


def test_the_administrators_fallback_needs_no_right(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "main", script, key=NARROW)
    assert (found.status, where(lab, script)) == (200, ["main", "spare"])


def test_a_clients_list_is_bounded(lab: Lab, gateway: Gateway) -> None:
    """One request of a client can't become a hundred upstream."""
    script = mark("e500")
    found = ask(gateway, "chat", "other", script, fallbacks=["first", "second"] * 50)
    assert found.status in (400, 500)
    assert len(where(lab, script)) <= 6


@pytest.mark.parametrize("name", ["nowhere", "", "x" * 5000, "up-spare", "*", "spare\x00"])
def test_a_name_that_is_none(lab: Lab, gateway: Gateway, name: str) -> None:
    script = mark("e500")
    found = ask(gateway, "chat", "other", script, fallbacks=[name])
    assert found.status in (400, 500)
    assert set(where(lab, script)) <= {"other"}


def test_an_alias_of_the_key_is_a_name(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "ok")
    found = ask(gateway, "chat", "other", script, key=ALIASED, fallbacks=["mine"])
    assert (found.status, where(lab, script)) == (200, ["other", "main"])


# -- what is written down


def test_the_event_names_who_answered(lab: Lab, gateway: Gateway) -> None:
    """One event for the request, by the deployment that answered."""
    call = "fallback-event-1"
    script = mark("e500", "ok")
    ask(gateway, "chat", "main", script, key=MASTER, headers={"x-litellm-call-id": call})
    events = [event for event in gateway.events() if event["call_id"] == call]
    assert [(e["deployment"], e["status"]) for e in events if e["status"] == 200] == [
        ("spare", 200)
    ]
    assert events[-1]["attempts"] == 2
