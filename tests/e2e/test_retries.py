"""Trying again: how often, after what, where, and with which bytes."""

import json
import re
from collections.abc import Callable

import pytest
from asking import PATHS, Reply, ask, body
from harness import MASTER, Gateway, request
from lab import Hit, Lab, mark, upstream_key

APIS = ("chat", "responses", "messages", "embeddings")
MANY = 6  # deployments of a group: more than any number of tries here, so that none waits


def many(lab: Lab, group: str, count: int = MANY, **params: object) -> list[dict]:
    return [lab.deployment(group, f"{group}-{n}", **params) for n in range(count)]


def names(hits: list[Hit]) -> list[str]:
    return [hit.deployment for hit in hits]


# -- how often


@pytest.fixture(scope="module")
def unset(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Nothing is said about retries."""
    groups = many(lab, "g") + many(lab, "a", provider="anthropic")
    return behind(groups, router_settings={"disable_cooldowns": True}).wait()


@pytest.fixture(scope="module")
def low(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Only `litellm_settings` says how often."""
    sections = {"router_settings": {"disable_cooldowns": True}}
    return behind(many(lab, "g"), litellm_settings={"num_retries": 3}, **sections).wait()


@pytest.fixture(scope="module")
def full(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """All places say it, each another number."""
    groups = many(lab, "g") + many(lab, "own") + many(lab, "zero") + many(lab, "part")
    router = {
        "disable_cooldowns": True,
        "num_retries": 1,
        "retry_policy": {"InternalServerErrorRetries": 2, "BadRequestErrorRetries": 1},
        "model_group_retry_policy": {
            "own": {"InternalServerErrorRetries": 4, "RateLimitErrorRetries": 0},
            "zero": {"InternalServerErrorRetries": 0},
            "part": {"TimeoutErrorRetries": 3},
        },
    }
    return behind(groups, router_settings=router, litellm_settings={"num_retries": 3}).wait()


@pytest.mark.parametrize("api", APIS[:2])
def test_the_default_is_two(lab: Lab, unset: Gateway, api: str) -> None:
    script = mark("e500")
    found = ask(unset, api, "g", script)
    assert (found.status, found.retries, len(lab.of(script))) == (500, 2, 3)


def test_litellm_settings(lab: Lab, low: Gateway) -> None:
    script = mark("e500")
    assert ask(low, "chat", "g", script).status == 500
    assert len(lab.of(script)) == 4


def test_router_settings_win(lab: Lab, full: Gateway) -> None:
    """Over `litellm_settings`; of 503 no policy says anything else."""
    script = mark("e429")
    assert ask(full, "chat", "g", script).status == 429
    assert len(lab.of(script)) == 2


@pytest.mark.parametrize(
    ("group", "act", "tries"),
    [
        ("g", "e500", 3),  # the policy for all groups
        ("g", "e503", 3),
        ("g", "e400", 2),  # a policy makes even that worth another try
        ("own", "e500", 5),
        ("own", "e429", 1),
        ("zero", "e500", 1),
        ("part", "e429", 2),  # its policy is silent: the router's number
    ],
)
def test_policies(lab: Lab, full: Gateway, group: str, act: str, tries: int) -> None:
    script = mark(act)
    assert ask(full, "chat", group, script).status == int(act[1:])
    assert len(lab.of(script)) == tries


@pytest.mark.parametrize("group", ["g", "own", "zero"])
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("how", ["header", "body"])
def test_the_request_says_how_often(
    lab: Lab, full: Gateway, how: str, count: int, group: str
) -> None:
    script = mark("e500")
    headers = {"x-litellm-num-retries": str(count)} if how == "header" else {}
    more = {"num_retries": count} if how == "body" else {}
    found = ask(full, "chat", group, script, headers=headers, **more)
    hits = lab.of(script)
    assert (found.status, len(hits)) == (500, count + 1)
    for hit in hits:
        assert "num_retries" not in json.loads(hit.body)
        assert hit.line("x-litellm-num-retries") is None


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "99999999999999999999", "0x2"])
def test_a_number_that_is_none(lab: Lab, unset: Gateway, value: str) -> None:
    """Either refused or without effect: the client can't have more tries than there are deployments."""
    script = mark("e500")
    found = ask(unset, "chat", "g", script, headers={"x-litellm-num-retries": value})
    assert found.status in (400, 500)
    assert len(lab.of(script)) <= MANY


# -- after what


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_retried(lab: Lab, unset: Gateway, status: int) -> None:
    script = mark(f"e{status}", "ok")
    found = ask(unset, "chat", "g", script)
    hits = lab.of(script)
    assert (found.status, found.retries, len(set(names(hits)))) == (200, 1, 2)
    assert found.text == f"pong from {hits[1].deployment}"
    assert found.deployment == hits[1].deployment


@pytest.mark.parametrize("status", [400, 404, 405, 413, 415, 422])
@pytest.mark.parametrize("api", APIS)
def test_not_retried(lab: Lab, unset: Gateway, api: str, status: int) -> None:
    """The fault is the request's: it would fail the same way everywhere."""
    script = mark(f"e{status}", "ok")
    found = ask(unset, api, "a" if api == "messages" else "g", script)
    assert (found.status, len(lab.of(script))) == (status, 1)
    assert f"upstream says {status}" in found.message


@pytest.mark.parametrize("act", ["ctx", "policy"])
def test_classes_of_400_are_not_retried(lab: Lab, unset: Gateway, act: str) -> None:
    script = mark(act, "ok")
    found = ask(unset, "chat", "g", script)
    assert (found.status, len(lab.of(script))) == (400, 1)
    kind = {"ctx": "ContextWindowExceededError", "policy": "ContentPolicyViolationError"}[act]
    assert f"litellm.{kind}" in found.message


@pytest.fixture(scope="module")
def few(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Groups of one, two and three."""
    groups = many(lab, "one", 1) + many(lab, "two", 2) + many(lab, "three", 3)
    groups += many(lab, "claude", 2, provider="anthropic")
    slow = lab.deployment("slow", timeout=0.3, stream_timeout=0.3)
    router = {"disable_cooldowns": True, "num_retries": 2}
    return behind([*groups, slow], router_settings=router).wait()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential(lab: Lab, few: Gateway, status: int) -> None:
    """Another deployment has another one; the same would be refused again."""
    script = mark(f"e{status}", "ok")
    assert ask(few, "chat", "two", script).status == 200
    assert len(set(names(lab.of(script)))) == 2
    script = mark(f"e{status}", "ok")
    assert ask(few, "chat", "one", script).status == status
    assert len(lab.of(script)) == 1


@pytest.fixture(scope="module")
def unreachable(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Pairs of which the first can't be reached, each in another way, and such ones alone."""
    groups = []
    for name, base in unreachable_bases(lab).items():
        first = lab.deployment(f"{name}-pair", f"{name}-1", api_base=base, order=1)
        alone = lab.deployment(f"{name}-alone", f"{name}-3", api_base=base)
        groups += [first, lab.deployment(f"{name}-pair", f"{name}-2", order=2), alone]
    sections = {"general_settings": {"connect_timeout": 0.5}}
    router = {"num_retries": 1, "disable_cooldowns": True}
    return behind(groups, router_settings=router, **sections).wait()


def unreachable_bases(lab: Lab) -> dict[str, str]:
    return {
        "refused": f"http://127.0.0.1:{lab.dead_port}/v1",
        "name": "http://no-such-host.invalid:9/v1",
        "tls": f"https://127.0.0.1:{lab.port}/d/tls/v1",  # where plain HTTP is spoken
    }


@pytest.mark.parametrize("how", ["refused", "name", "tls"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_no_connection(lab: Lab, unreachable: Gateway, how: str, stream: bool) -> None:
    script = mark("ok")
    found = ask(unreachable, "chat", f"{how}-pair", script, stream=stream)
    assert (found.status, found.retries, found.text) == (200, 1, f"pong from {how}-2")
    found = ask(unreachable, "chat", f"{how}-alone", mark("ok"), stream=stream, num_retries=0)
    assert found.status in (408, 500)
    assert found.json()["error"]["code"] == str(found.status)


# -- where


def test_no_deployment_twice_while_another_is_left(lab: Lab, few: Gateway) -> None:
    for _ in range(20):
        script = mark("e500")
        assert ask(few, "chat", "three", script).status == 500
        assert sorted(names(lab.of(script))) == ["three-0", "three-1", "three-2"]


def test_when_none_is_left_it_starts_over(lab: Lab, few: Gateway) -> None:
    script = mark("e500", "e500", "ok")
    found = ask(few, "chat", "two", script)
    hits = names(lab.of(script))
    assert (found.status, found.retries) == (200, 2)
    assert sorted(hits[:2]) == ["two-0", "two-1"]


def test_on_the_same_deployment_it_waits(lab: Lab, few: Gateway) -> None:
    """And the pause grows."""
    script = mark("e500", "e500", "ok")
    found = ask(few, "chat", "one", script)
    at = [hit.at for hit in lab.of(script)]
    assert (found.status, found.retries, len(at)) == (200, 2, 3)
    assert at[1] - at[0] > 0.1
    assert at[2] - at[1] > at[1] - at[0]


def test_order_is_kept(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """A lower order is tried out first, then the next."""
    groups = [lab.deployment("o", f"o-{n}", order=order) for n, order in enumerate((2, 1, 1, 3))]
    router = {"num_retries": 3, "disable_cooldowns": True}
    gateway = behind(groups, router_settings=router).wait()
    for _ in range(5):
        script = mark("e500")
        assert ask(gateway, "chat", "o", script).status == 500
        tried = names(lab.of(script))
        assert sorted(tried[:2]) == ["o-1", "o-2"]
        assert tried[2:] == ["o-0", "o-3"]


# -- when


def test_the_upstreams_retry_after(lab: Lab, few: Gateway) -> None:
    script = mark("e429-ra1", "ok")
    assert ask(few, "chat", "one", script).status == 200
    at = [hit.at for hit in lab.of(script)]
    assert at[1] - at[0] >= 0.99


def test_retry_after_is_about_that_deployment(lab: Lab, few: Gateway) -> None:
    """Another one is asked at once: a client that gives up after 20 s gets its answer."""
    script = mark("e429-ra50", "ok")
    found = ask(few, "chat", "two", script)
    assert (found.status, found.retries) == (200, 1)


def test_a_retry_after_too_long_to_wait_for(lab: Lab, few: Gateway) -> None:
    """More than 60 s: the client hears of it instead, or the gateway goes by its own pause."""
    script = mark("e429-ra3600", "e429-ra3600", "e429-ra3600", "ok")
    found = ask(few, "chat", "one", script)
    assert found.status == 429
    assert found.headers["retry-after"] == "3600"


def test_a_configured_pause(lab: Lab, behind: Callable[..., Gateway]) -> None:
    router = {"num_retries": 1, "retry_after": 1, "disable_cooldowns": True}
    gateway = behind(many(lab, "one", 1), router_settings=router).wait()
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "one", script).status == 200
    at = [hit.at for hit in lab.of(script)]
    assert at[1] - at[0] >= 0.99


def test_one_deadline_over_all_tries(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Each attempt may take 0.3 s, all of them and the pauses 0.7 s."""
    groups = many(lab, "g", 6, timeout=0.3)
    fallbacks = [{"g": ["h"]}, {"h": ["i"]}]
    groups += many(lab, "h", 3, timeout=0.3) + many(lab, "i", 3, timeout=0.3)
    router = {"num_retries": 5, "total_timeout": 0.7, "fallbacks": fallbacks}
    gateway = behind(groups, router_settings=router).wait()
    script = mark("hang")
    found = ask(gateway, "chat", "g", script)
    assert found.status == 408
    assert len(lab.of(script)) <= 3
    assert "total" in found.message


def test_a_time_out_is_one_of_each_attempt(lab: Lab, few: Gateway) -> None:
    script = mark("hang", "ok")
    found = ask(few, "chat", "slow", script)
    assert (found.status, found.retries) == (200, 1)


def test_a_request_may_set_its_time_out(lab: Lab, few: Gateway) -> None:
    """A header or a field; 408 says the limit when no try is left."""
    for how in ({"headers": {"x-litellm-timeout": "0.3"}}, {"timeout": 0.3}):
        script = mark("hang")
        found = ask(few, "chat", "three", script, num_retries=1, **how)
        hits = lab.of(script)
        assert (found.status, len(hits)) == (408, 2)
        assert float(found.headers["x-litellm-timeout"]) == 0.3
        assert "timeout" not in json.loads(hits[0].body)


# -- what the client is told


def test_spent_tries_say_so(lab: Lab, few: Gateway) -> None:
    """The SDKs obey it: they don't multiply our tries by theirs."""
    found = ask(few, "chat", "two", mark("e500"))
    assert found.headers["x-should-retry"] == "false"


def test_a_429_with_retry_after_may_be_tried_again(lab: Lab, few: Gateway) -> None:
    found = ask(few, "chat", "three", mark("e429-ra7"))
    assert (found.status, found.headers["retry-after"]) == (429, "7")
    assert found.headers.get("x-should-retry") != "false"
    assert found.headers["x-ratelimit-remaining-requests"] == "0"


def test_the_last_error_is_the_one_told(lab: Lab, few: Gateway) -> None:
    found = ask(few, "chat", "three", mark("e500", "e503", "e429"))
    assert found.status == 429


def test_a_good_answer_says_nothing_of_that(lab: Lab, few: Gateway) -> None:
    found = ask(few, "chat", "two", mark("ok"))
    assert (found.retries, found.fallbacks) == (0, 0)
    assert "x-should-retry" not in found.headers


def test_no_byte_of_a_failed_attempt_shows(lab: Lab, few: Gateway) -> None:
    """Neither its headers: an answer's fields are those of the upstream that gave it."""
    found = ask(few, "chat", "two", mark("e429-ra7", "ok"))
    assert found.status == 200
    for name in ("retry-after", "x-ratelimit-remaining-requests"):
        assert name not in found.headers
        assert f"llm_provider-{name}" not in found.headers


# -- with which bytes


def sent_bodies(lab: Lab, script: str) -> list[bytes]:
    """What each attempt sent, with the one difference that is allowed taken out."""
    hits = lab.of(script)
    bodies = [hit.body.replace(f'"up-{hit.deployment}"'.encode(), b'"?"') for hit in hits]
    assert all(b'"?"' in one for one in bodies)
    return bodies


ODD = (
    b' {\n"model" : "two" ,"big":123456789012345678901234567890,"messages":[{"role":"user",'
    b'"content":"%b \\u00e9 \xc3\xa9 \\"model\\""}], "x":1e400 , "e":""}  '
)


@pytest.mark.parametrize("act", ["e500", "close", "reset", "half-head"])
def test_the_body_stays_what_it_was(lab: Lab, few: Gateway, act: str) -> None:
    script = mark(act, "ok")
    raw = ODD % script.encode()
    found = send(few, raw)
    first, second = sent_bodies(lab, script)
    assert found.status == 200
    assert first == second == raw.replace(b'"two"', b'"?"')


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("size", [1000, 100_000, 3_000_000])
@pytest.mark.parametrize("where", ["front", "back"])
def test_a_body_of_any_size_is_kept(
    lab: Lab, few: Gateway, size: int, stream: bool, where: str
) -> None:
    """Also one that was on its way upstream before all of it was here: that may have had spaces in it."""
    script = mark("e500", "ok")
    model, said = b'"model":"two"', b'"messages":[{"role":"user","content":"%b"}]'
    said %= script.encode() + b"x" * size
    parts = [model, said] if where == "front" else [said, model]
    raw = b"{" + b",".join(parts) + (b',"stream":true}' if stream else b"}")
    found = send(few, raw)
    first, second = sent_bodies(lab, script)
    assert found.status == 200
    assert json.loads(first) == json.loads(second)
    assert json.loads(first)["messages"] == json.loads(raw)["messages"]
    assert (b"include_usage" in second) == stream


def test_a_chunked_body_is_kept(lab: Lab, few: Gateway) -> None:
    script = mark("e500", "ok")
    raw = json.dumps(body("chat", "two", script)).encode()
    head = f"POST {PATHS['chat']} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
    with few.client() as client:
        client.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(raw), 9):
            client.send(b"%x\r\n%b\r\n" % (len(raw[at : at + 9]), raw[at : at + 9]))
        client.send(b"0\r\n\r\n")
        assert client.answer().status == 200
    first, second = sent_bodies(lab, script)
    assert first == second == raw.replace(b'"two"', b'"?"')


def test_a_multipart_body_is_kept(lab: Lab, few: Gateway) -> None:
    script = mark("e500", "ok")
    part = "--b\r\nContent-Disposition: form-data; name="
    text = f'{part}"model"\r\n\r\ntwo\r\n{part}"file"; filename="a.wav"\r\n\r\n{script}\0\xff\r\n--b--\r\n'
    raw = text.encode("latin-1")
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
    )
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(raw)}\r\n\r\n"
    with few.client() as client:
        client.send(head.encode() + raw)
        assert client.answer().status == 200
    first, second = (
        hit.body.replace(f"up-{hit.deployment}".encode(), b"?") for hit in lab.of(script)
    )
    assert first == second == raw.replace(b"\r\ntwo\r\n", b"\r\n?\r\n")


def test_defaults_of_a_deployment_are_its_own(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """What one deployment adds to the body is not sent to the next."""
    groups = [
        lab.deployment("d", "d-a", temperature=0.25, order=1),
        lab.deployment("d", "d-b", top_p=0.5, extra_headers={"x-only": "b"}, order=2),
    ]
    gateway = behind(groups, router_settings={"num_retries": 1}).wait()
    script = mark("e500", "ok")
    assert ask(gateway, "chat", "d", script).status == 200
    first, second = lab.of(script)
    assert (json.loads(first.body)["temperature"], first.line("x-only")) == (0.25, None)
    assert "temperature" not in json.loads(second.body)
    assert (json.loads(second.body)["top_p"], second.line("x-only")) == (0.5, "b")


@pytest.mark.parametrize("api", APIS)
def test_each_deployment_gets_its_own_credential(lab: Lab, few: Gateway, api: str) -> None:
    """And all other lines of the head are the same."""
    group = "claude" if api == "messages" else "two"
    script = mark("e500", "ok")
    headers = {"x-request-id": "r1", "anthropic-beta": "b1"}
    assert ask(few, api, group, script, headers=headers).status == 200
    hits = lab.of(script)
    assert len(hits) == 2
    for hit in hits:
        given = hit.line("x-api-key" if api == "messages" else "authorization")
        assert given is not None
        assert given.removeprefix("Bearer ") == upstream_key(hit.deployment)
        assert MASTER.encode() not in hit.head + hit.body
    heads = [
        re.sub(rf"/d/{hit.deployment}/|-{hit.deployment}\b".encode(), b"", hit.head) for hit in hits
    ]
    assert heads[0] == heads[1]


def send(gateway: Gateway, raw: bytes) -> Reply:
    with gateway.client(20) as client:
        client.send(request(PATHS["chat"], raw))
        answer = client.answer()
    return Reply(answer.status, dict(answer.headers), answer.body)
