"""What is reserved bounds what a request may use: its maxima and multipliers, as the upstream will read them."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from admin import make
from asking import Reply, reply
from harness import Gateway, request
from lab import Lab, mark

PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-5}
BUDGET = 0.02  # 2,000 tokens of output
GOOGLE = "/v1beta/models/gem:streamGenerateContent?alt=sse"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
Serve = Callable[..., Gateway]


def groups(lab: Lab) -> list[dict[str, Any]]:
    return [
        lab.deployment("m", **PRICES),
        lab.deployment("gem", provider="gemini", **PRICES),
        lab.deployment("slow", timeout=0.3, stream_timeout=0.3, **PRICES),
    ]


@pytest.fixture(scope="module")
def plain(lab: Lab, behind: Serve) -> Gateway:
    return behind(groups(lab), router_settings={"num_retries": 0}).wait()


@pytest.fixture(scope="module")
def strict(lab: Lab, behind: Serve) -> Gateway:
    return behind(
        groups(lab),
        router_settings={"num_retries": 3, "disable_cooldowns": True},
        general_settings={"limit_mode": "strict"},
    ).wait()


def body(path: str, script: str, **more: Any) -> dict[str, Any]:
    """A streamed request."""
    if path == GOOGLE:
        return {"contents": [{"role": "user", "parts": [{"text": script}]}], **more}
    if path == COMPLETIONS:
        return {"model": "m", "user": script, "prompt": "hi", "stream": True, **more}
    said = [{"role": "user", "content": script}]
    return {"model": "m", "messages": said, "stream": True, **more}


def ask(gateway: Gateway, key: str, path: str, sent: dict[str, Any] | bytes) -> Reply:
    with gateway.client() as client:
        client.send(request(path, sent, key))
        return reply(client)


@pytest.mark.parametrize(
    ("path", "fields", "output"),
    [
        (CHAT, {"max_tokens": 5000, "max_completion_tokens": 1}, 5000),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 5000}, 5000),
        (CHAT, {"max_tokens": 100, "n": 200}, 20_000),
        (CHAT, {"max_tokens": -1}, 1024),
        (CHAT, {"max_tokens": 0}, 1024),
        (CHAT, {"max_tokens": 10**12}, 1024),
        (CHAT, {"max_tokens": 5000, "max_output_tokens": 1, "max_completion_tokens": None}, 5000),
        (COMPLETIONS, {"max_tokens": 100, "prompt": ["a"] * 50}, 5000),
        (COMPLETIONS, {"max_tokens": 100, "prompt": [[1, 2], [3]], "n": 2, "best_of": 5}, 1000),
        (COMPLETIONS, {"max_tokens": 100, "prompt": [1, 2, 3]}, 100),
        (GOOGLE, {"generationConfig": {"maxOutputTokens": 5000}}, 5000),
        (GOOGLE, {"generationConfig": {"candidateCount": 8, "maxOutputTokens": 1000}}, 8000),
        (GOOGLE, {"generation_config": {"max_output_tokens": 900, "candidate_count": 2}}, 1800),
        (GOOGLE, {"contents": [{"generationConfig": {"maxOutputTokens": 5}}]}, 1024),
    ],
)
def test_what_is_reserved(plain: Gateway, path: str, fields: dict[str, Any], output: int):
    key = make(plain, "/key/generate", {"tpm_limit": 200_000})["key"]
    answer = ask(plain, key, path, body(path, mark(), **fields))
    reserved = 200_000 - (answer.number("x-ratelimit-api_key-remaining-tokens") or 0)
    assert answer.status == 200
    assert output < reserved < output + 200


def sent(lab: Lab, gateway: Gateway, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What the upstream gets of a request that a budget concerns."""
    key = make(gateway, "/key/generate", {"max_budget": BUDGET})["key"]
    script = mark()
    answer = ask(gateway, key, path, body(path, script, **fields))
    assert answer.status == 200, answer.body
    return dict(json.loads(lab.of(script)[0].body))


@pytest.mark.parametrize("bad", [-1, 0, 10**12, 250.0, "250", True])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_strict_replaces_a_maximum_that_is_none(lab: Lab, strict: Gateway, name: str, bad: Any):
    got = sent(lab, strict, CHAT, {name: bad})
    assert 900 < got[name] < 1100
    assert len({"max_tokens", "max_completion_tokens"} & set(got)) == 1


def test_strict_replaces_one_beside_a_good_one_by_that(lab: Lab, strict: Gateway):
    got = sent(lab, strict, CHAT, {"max_completion_tokens": -1, "max_tokens": 20})
    assert (got["max_tokens"], got["max_completion_tokens"]) == (20, 20)


def test_strict_leaves_null_beside_a_maximum(lab: Lab, strict: Gateway):
    got = sent(lab, strict, CHAT, {"max_tokens": None, "max_completion_tokens": 20})
    assert (got["max_tokens"], got["max_completion_tokens"]) == (None, 20)
    assert 900 < sent(lab, strict, CHAT, {"max_tokens": None})["max_tokens"] < 1100


@pytest.mark.parametrize(
    ("fields", "others"),
    [
        ({}, {}),
        ({"generationConfig": None}, {}),
        ({"generationConfig": {}}, {}),
        ({"generationConfig": {"topK": 1}}, {"topK": 1}),
        ({"generationConfig": {"maxOutputTokens": -1, "topK": 1}}, {"topK": 1}),
        ({"generationConfig": {"topK": 1, "maxOutputTokens": None}}, {"topK": 1}),
    ],
)
def test_strict_gives_google_s_a_maximum(
    lab: Lab, strict: Gateway, fields: dict[str, Any], others: dict[str, Any]
):
    found = sent(lab, strict, GOOGLE, fields)["generationConfig"]
    assert 900 < found.pop("maxOutputTokens") < 1100
    assert found == others
    got = sent(lab, strict, GOOGLE, {"generation_config": {"max_output_tokens": 9}})
    assert got["generation_config"] == {"max_output_tokens": 9}


@pytest.mark.parametrize(
    ("field", "bounded"),
    [(b"", rb'"max_tokens":\d+,'), (b' "max_tokens" : -1,', rb' "max_tokens" : \d+,')],
)
def test_strict_changes_no_other_byte(lab: Lab, strict: Gateway, field: bytes, bounded: bytes):
    key = make(strict, "/key/generate", {"max_budget": BUDGET})["key"]
    script = mark()
    rest = b' "seed": 123456789012345678901234567890, "temperature":1.50,\n"model":"m", '
    rest += b'"messages":[{"role":"user","content":"%s"}]}' % script.encode()
    assert ask(strict, key, CHAT, b"{" + field + rest).status == 200
    got = re.fullmatch(rb"\{" + bounded + rb"(.*)", lab.of(script)[0].body, re.DOTALL)
    assert got is not None
    assert got[1] == rest.replace(b'"m"', b'"up-m"')


def test_strict_finds_the_model_again(lab: Lab, strict: Gateway):
    key = make(strict, "/key/generate", {"max_budget": BUDGET})["key"]
    script = mark()
    path = "/engines/m/chat/completions"  # the body's is replaced, too
    assert ask(strict, key, path, body(CHAT, script, model="other")).status == 200
    assert json.loads(lab.of(script)[0].body)["model"] == "up-m"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"max_tokens": 5000, "max_completion_tokens": 1}),
        (CHAT, {"max_tokens": 100, "n": 200}),
        (COMPLETIONS, {"max_tokens": 100, "prompt": ["a"] * 50}),
        (COMPLETIONS, {"max_tokens": 250, "best_of": 20, "n": 1}),
        (GOOGLE, {"generationConfig": {"maxOutputTokens": 5000}}),
        (GOOGLE, {"generationConfig": {"maxOutputTokens": 1000, "candidateCount": 8}}),
    ],
)
def test_strict_refuses_what_the_budget_does_not_pay(
    lab: Lab, strict: Gateway, path: str, fields: dict[str, Any]
):
    key = make(strict, "/key/generate", {"max_budget": BUDGET})["key"]
    script = mark()
    assert ask(strict, key, path, body(path, script, **fields)).status == 422
    assert lab.of(script) == []


def test_strict_divides_what_is_left_among_the_answers(lab: Lab, strict: Gateway):
    assert 150 < sent(lab, strict, CHAT, {"n": 10})["max_tokens"] < 201
    assert 35 < sent(lab, strict, COMPLETIONS, {"prompt": ["a"] * 50})["max_tokens"] < 41


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        (CHAT, {"n": 10**12}, "n"),
        (CHAT, {"n": "2"}, "n"),
        (COMPLETIONS, {"best_of": 2.0}, "best_of"),
        (GOOGLE, {"generationConfig": {"candidateCount": "8"}}, "generationConfig.candidateCount"),
        (GOOGLE, {"generationConfig": 5}, "generationConfig"),
        (GOOGLE, {"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        (CHAT, {"web_search_options": {}}, "web_search_options"),
    ],
)
def test_strict_refuses_by_name(strict: Gateway, path: str, fields: dict[str, Any], name: str):
    key = make(strict, "/key/generate", {"max_budget": BUDGET})["key"]
    answer = ask(strict, key, path, body(path, mark(), **fields))
    assert answer.status == 400
    assert f"; {name}: " in answer.json()["error"]["message"]


def test_strict_refuses_a_maximum_that_stands_there_twice(strict: Gateway):
    key = make(strict, "/key/generate", {"max_budget": BUDGET})["key"]
    raw = b'{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9000}}'
    answer = ask(strict, key, GOOGLE, raw)
    assert answer.status == 400
    assert b"generationConfig.maxOutputTokens: it stands there twice" in answer.body


def test_a_retry_has_to_fit_beside_what_was_lost(lab: Lab, strict: Gateway):
    # a try that times out is charged 250 tokens: 0.0025
    for budget, tries in ((0.004, 1), (0.006, 2)):
        key = make(strict, "/key/generate", {"max_budget": budget})["key"]
        script = mark("hang")
        answer = ask(strict, key, CHAT, body(CHAT, script, model="slow", max_tokens=250))
        assert (answer.status, len(lab.of(script))) == (408, tries)
