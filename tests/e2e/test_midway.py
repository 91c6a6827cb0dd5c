"""What else happens while a request is between two tries: more requests, a reload, the end of the gateway."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from asking import PATHS, Reply, ask, body, reply
from harness import MASTER, Gateway, request, until
from lab import Lab, mark


def config(groups: list[dict[str, Any]], **router: Any) -> dict[str, Any]:
    return {
        "model_list": groups,
        "router_settings": {"num_retries": 2, "disable_cooldowns": True, **router},
        "general_settings": {"master_key": MASTER},
    }


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [lab.deployment("one")] + [lab.deployment("two", f"two-{n}") for n in "ab"]
    return behind(groups, router_settings={"num_retries": 2, "disable_cooldowns": True}).wait()


def post(model: str, script: str, **more: Any) -> bytes:
    return request(PATHS["chat"], body("chat", model, script, **more))


# -- the same connection


@pytest.mark.parametrize(("model", "act"), [("one", "e500"), ("two", "e500"), ("two", "half-head")])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_requests_behind_it_wait_their_turn(
    lab: Lab, gateway: Gateway, model: str, act: str, stream: bool
) -> None:
    """Pipelined: their answers come in order, whatever the first one goes through."""
    scripts = [mark(act, "ok"), mark("ok"), mark(act, "ok")]
    with gateway.client(20) as client:
        client.send(b"".join(post(model, script, stream=stream) for script in scripts))
        found = [reply(client) for _ in scripts]
    assert [(r.status, r.retries) for r in found] == [(200, 1), (200, 0), (200, 1)]
    assert [r.text for r in found] == [
        f"pong from {lab.of(script)[-1].deployment}" for script in scripts
    ]


def test_bytes_that_come_in_a_pause(lab: Lab, gateway: Gateway) -> None:
    """They are the next request's, and change nothing about the one that waits."""
    first, second = mark("e429-ra1", "ok"), mark("ok")
    with gateway.client(20) as client:
        client.send(post("one", first))
        until(lab.hit(first).done.is_set, what="the failure")
        for byte in post("one", second):
            client.send(bytes([byte]))
        assert reply(client).retries == 1
        assert reply(client).retries == 0


def test_a_broken_request_that_comes_in_a_pause(lab: Lab, gateway: Gateway) -> None:
    """It costs the connection, but only after the answer that is owed."""
    script = mark("e429-ra1", "ok")
    with gateway.client(20) as client:
        client.send(post("one", script))
        until(lab.hit(script).done.is_set, what="the failure")
        client.send(b"garbage\r\n\r\n")
        assert reply(client).status == 200
        assert reply(client).status == 400
        assert client.closed()


# -- reload and end


def test_a_reload_in_a_pause(lab: Lab, start: Callable[..., Gateway]) -> None:
    """The request goes on with the settings it began with; the next one has the new ones."""
    gateway = start(config([lab.deployment("old"), lab.deployment("both", "both-1")])).wait()
    script = mark("e429-ra2", "ok")
    with gateway.client(20) as client:
        client.send(post("old", script))
        until(lab.hit(script).done.is_set, what="the failure")
        changed = config([lab.deployment("new"), lab.deployment("both", "both-2")])
        gateway.path.write_text(yaml.safe_dump(changed))
        gateway.process.send_signal(signal.SIGHUP)
        until(
            lambda: ask(gateway, "chat", "new", mark("ok")).status == 200, what="the new settings"
        )
        assert len(lab.of(script)) == 1
        assert reply(client).text == "pong from old"
    assert ask(gateway, "chat", "both", mark("ok")).text == "pong from both-2"
    assert ask(gateway, "chat", "old", mark("ok")).status == 400
    assert gateway.counters()["in_flight"] <= 1


def test_cooldowns_outlive_a_reload(lab: Lab, start: Callable[..., Gateway]) -> None:
    """A deployment that is still there stays cold; another new one begins warm."""
    pair = [lab.deployment("pair", f"warm-{n}") for n in "ab"]
    router = {"disable_cooldowns": False, "cooldown_time": 300}
    gateway = start(config(pair, **router)).wait()
    lab.moods["warm-a"] = "e429"
    try:
        until(
            lambda: ask(gateway, "chat", "pair", mark("ok")).status == 200 and lab.at("warm-a"),
            what="a meeting with it",
        )
        changed = config([*pair, lab.deployment("fresh")], **router)
        gateway.path.write_text(yaml.safe_dump(changed))
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: ask(gateway, "chat", "fresh", mark("ok")).status == 200, what="the reload")
        for _ in range(30):
            assert ask(gateway, "chat", "pair", mark("ok")).text == "pong from warm-b"
        assert len(lab.at("warm-a")) == 1
    finally:
        lab.moods.clear()


@pytest.mark.parametrize(
    "acts", [("e429-ra1", "ok"), ("e500", "slow300"), ("open-stall",)], ids=str
)
def test_the_end_waits_for_it(lab: Lab, start: Callable[..., Gateway], acts: tuple[str]) -> None:
    """A stop lets requests end that are in a pause, in a second try, or held back."""
    gateway = start(config([lab.deployment("one")])).wait()
    script = mark(*acts)
    with gateway.client(20) as client:
        client.send(post("one", script, stream=True))
        hit = lab.hit(script)
        until(lambda: hit.done.is_set() or hit.waiting.is_set(), what="the first try")
        gateway.process.send_signal(signal.SIGTERM)
        if not hit.done.is_set():
            lab.release(hit)
        found = reply(client)
    assert (found.status, found.text) == (200, "pong from one")
    assert gateway.process.wait(15) == 0
    assert "Traceback" not in gateway.log


# -- an upload that is still under way


def test_a_refused_connection_in_the_middle_of_an_upload(
    lab: Lab, behind: Callable[..., Gateway]
) -> None:
    """What came so far is kept, and goes to the one that was not tried yet."""
    groups = [lab.deployment("up", "up-dead", dead=True), lab.deployment("up", "up-alive")]
    gateway = behind(groups, router_settings={"num_retries": 1, "disable_cooldowns": True}).wait()
    retries = 0
    for _ in range(30):
        script = mark("ok")
        sent = post("up", script, pad="x" * 200_000)
        with gateway.client(20) as client:
            client.send(sent[:150_000])
            # the head and half of the body are read, and acted upon
            with gateway.client() as other:
                other.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
                assert other.answer().status == 200
            client.send(sent[150_000:])
            found = reply(client)
        assert (found.status, found.text) == (200, "pong from up-alive")
        assert len(lab.of(script)) == 1
        retries += found.retries or 0
    assert 0 < retries < 30


def halves(gateway: Gateway, sent: bytes) -> Reply:
    """A request in two parts, the second only when the gateway has acted upon the first."""
    with gateway.client(20) as client:
        client.send(sent[:-100])
        with gateway.client() as other:
            other.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
            assert other.answer().status == 200
        client.send(sent[-100:])
        return reply(client)


@pytest.fixture(scope="module")
def late(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [lab.deployment("up", f"up-{n}", timeout=5) for n in "abc"]
    groups += [lab.deployment("spare"), lab.deployment("other")]
    router = {"num_retries": 1, "disable_cooldowns": True, "fallbacks": [{"up": ["spare"]}]}
    return behind(groups, router_settings=router).wait()


@pytest.mark.parametrize(
    ("more", "acts", "status", "arrivals"),
    [
        ({"num_retries": 0}, ("e500", "ok"), 200, 2),  # the fallback's
        ({"num_retries": 2}, ("e500", "e500", "e500", "ok"), 200, 4),
        ({"disable_fallbacks": True}, ("e500", "e500", "ok"), 500, 2),
        ({"fallbacks": ["other"]}, ("e500", "e500", "ok"), 200, 3),
        ({"fallbacks": [{"model": "x", "api_base": "http://evil.example"}]}, ("ok",), 400, 0),
        ({"api_base": "http://evil.example"}, ("ok",), 400, 0),
        ({"timeout": 0.3}, ("hang", "ok"), 200, 2),
        ({"stream": True}, ("open-cut", "ok"), 200, 2),
        ({"stream": True, "num_retries": 0, "disable_fallbacks": True}, ("e503", "ok"), 503, 1),
    ],
    ids=str,
)
def test_options_at_the_end_of_a_large_body(
    lab: Lab, late: Gateway, more: dict[str, Any], acts: tuple[str, ...], status: int, arrivals: int
) -> None:
    """They come after the request has been sent on as far as it was known, and hold all the same."""
    script = mark(*acts)
    found = halves(late, post("up", script, pad="x" * 300_000, **more))
    hits = lab.of(script)
    assert (found.status, len(hits)) == (status, arrivals)
    for hit in hits:
        fields = json.loads(hit.body)
        assert len(fields["pad"]) == 300_000
        assert not {"num_retries", "disable_fallbacks", "fallbacks", "timeout"} & fields.keys()


# -- one request after the other on one connection


def test_nothing_of_a_request_is_left_for_the_next(
    lab: Lab, behind: Callable[..., Gateway]
) -> None:
    """Options, tries and groups are those of one request."""
    groups = [lab.deployment(name) for name in ("plain", "other", "spare")]
    groups += [lab.deployment("pair", f"pair-{n}", timeout=5) for n in "ab"]
    router = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": [{"pair": ["spare"]}]}
    gateway = behind(groups, router_settings=router).wait()
    table: list[tuple[str, tuple[str, ...], dict[str, Any], dict[str, str], int, int]] = [
        # model, acts, body, headers -> status, arrivals
        ("plain", ("e500", "ok"), {"fallbacks": ["other"]}, {}, 200, 2),
        ("plain", ("e500", "ok"), {}, {}, 500, 1),
        ("pair", ("e500", "e500", "ok"), {"num_retries": 1}, {}, 200, 3),
        ("pair", ("e500", "ok"), {}, {}, 200, 2),
        ("pair", ("e500", "ok"), {"disable_fallbacks": True}, {}, 500, 1),
        ("pair", ("e500", "ok"), {"stream": True}, {}, 200, 2),
        ("pair", ("hang",), {}, {"x-litellm-timeout": "1", "x-litellm-num-retries": "1"}, 408, 4),
        ("pair", ("slow400",), {}, {}, 200, 1),
        ("pair", ("open-err", "head-cut", "ok"), {"stream": True, "num_retries": 1}, {}, 200, 3),
        ("plain", ("e429-ra9",), {}, {}, 429, 1),
        ("plain", ("ok",), {}, {}, 200, 1),
    ]
    with gateway.client(20) as client:
        for model, acts, more, headers, status, arrivals in [*table, table[0], table[3], table[1]]:
            script = mark(*acts)
            extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            sent = body("chat", model, script, **more)
            client.send(request(PATHS["chat"], sent, extra=extra))
            found = reply(client)
            where = [hit.deployment for hit in lab.of(script)]
            assert (found.status, len(where)) == (status, arrivals), (model, acts, more)
            if status == 200:
                assert found.text == f"pong from {where[-1]}"
                assert "retry-after" not in found.headers


# -- what was begun before


def test_an_old_answer_does_not_end_a_cooldown(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """A request from before the failure that ends well says nothing about how it is now."""
    groups = [lab.deployment("old", "old-1", order=1), lab.deployment("old", "old-2", order=2)]
    gateway = behind(groups, router_settings={"num_retries": 1, "cooldown_time": 300}).wait()
    with gateway.client(20) as client:
        before = mark("hang")
        client.send(post("old", before))
        begun = lab.stalled(before)
        assert begun.deployment == "old-1"
        found = ask(gateway, "chat", "old", mark("e429", "ok"))
        assert (found.status, found.deployment) == (200, "old-2")
        lab.release(begun)
        assert reply(client).text == "pong from old-1"
    for _ in range(10):
        assert ask(gateway, "chat", "old", mark("ok")).deployment == "old-2"


# -- a machine that stood still


def test_what_came_in_time_is_not_late(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """The worker stands still for longer than the time-out, the answer has come meanwhile: it is read first."""
    one = lab.deployment("still", timeout=0.5, stream_timeout=0.5)
    gateway = behind([one], router_settings={"num_retries": 0}).wait()
    pid = gateway.process.pid
    worker = max(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    script = mark("hang")
    with gateway.client() as client:
        client.send(post("still", script))
        hit = lab.stalled(script)
        os.kill(worker, signal.SIGSTOP)
        try:
            lab.release(hit)
            until(hit.done.is_set, what="the answer")
            until(lambda: time.monotonic() > hit.at + 1, what="the end of the time-out")
        finally:
            os.kill(worker, signal.SIGCONT)
        assert reply(client).text == "pong from still"
