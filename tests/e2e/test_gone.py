"""Who leaves is not waited for, and an outage is not made worse."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from asking import PATHS, Reply, ask, body, reply
from harness import MASTER, Client, Gateway, request, until
from lab import Lab, mark

ROUTES = ("chat", "responses", "messages", "embeddings")
STREAMS = ROUTES[:3]


def groups(lab: Lab) -> list[dict]:
    made = [lab.deployment(p, provider=p) for p in ("openai", "anthropic")]
    made += [lab.deployment("many", f"many-{n}") for n in range(6)]
    return [*made, lab.deployment("spare"), lab.deployment("slow", timeout=30)]


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    router = {"num_retries": 3, "disable_cooldowns": True, "fallbacks": [{"slow": ["spare"]}]}
    return behind(groups(lab), router_settings=router).wait()


@pytest.fixture(scope="module")
def draining(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    brief = lab.deployment("brief", timeout=0.4, stream_timeout=0.4, stream_idle_timeout=0.4)
    router = {"client_gone": "drain", "num_retries": 0}
    return behind([*groups(lab), brief], router_settings=router).wait()


def model(api: str) -> str:
    return "anthropic" if api == "messages" else "openai"


def begin(gateway: Gateway, api: str, script: str, **more: object) -> Client:
    client = gateway.client()
    client.send(request(PATHS[api], body(api, model(api), script, **more)))
    return client


def at_rest(gateway: Gateway) -> None:
    """Nothing is in flight but the one that asks, so nothing can still come."""
    until(lambda: gateway.counters()["in_flight"] <= 1, what="an end of all exchanges")


def read_so_far(gateway: Gateway) -> None:
    """Returns when the one worker has seen what happened before: it takes sockets in their order."""
    for _ in range(2):
        with gateway.client() as client:
            client.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
            assert client.answer().status == 200


# -- the client leaves


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("api", ROUTES)
def test_before_the_head(lab: Lab, gateway: Gateway, api: str, stream: bool) -> None:
    script = mark("hang")
    client = begin(gateway, api, script, **({"stream": True} if stream else {}))
    hit = lab.stalled(script)
    client.sock.close()
    until(hit.gone.is_set, what="the end upstream")
    at_rest(gateway)
    assert len(lab.of(script)) == 1


@pytest.fixture(scope="module")
def others(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Routes that are no chat: Google's, multipart, and one that is passed through."""
    passing = {
        "path": "/relay",
        "target": f"http://127.0.0.1:{lab.port}/d/relayed/v1/chat/completions",
        "headers": {"authorization": "Bearer upstream"},
    }
    groups = [lab.deployment("gem", provider="gemini"), lab.deployment("openai")]
    general = {"pass_through_endpoints": [passing]}
    return behind(groups, general_settings=general).wait()


MULTIPART = (
    '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nopenai\r\n'
    '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%s\r\n--b--\r\n'
)
GOOGLE = '{"contents":[{"role":"user","parts":[{"text":"%s"}]}]}'
CHAT = '{"model":"openai","messages":[],"prompt":"%s"}'


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/v1beta/models/gem:generateContent", GOOGLE),
        ("/v1beta/models/gem:streamGenerateContent?alt=sse", GOOGLE),
        ("/v1/audio/transcriptions", MULTIPART),
        ("/v1/completions", CHAT),
        ("/engines/openai/chat/completions", CHAT),
        ("/openai/deployments/openai/chat/completions", CHAT),
        ("/relay", CHAT),
    ],
)
@pytest.mark.parametrize("place", ["hang", "mid-stall"])
def test_on_other_routes(lab: Lab, others: Gateway, path: str, template: str, place: str) -> None:
    script = mark(place)
    data = (template % script).encode()
    kind = "multipart/form-data; boundary=b" if template is MULTIPART else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    with others.client() as client:
        client.send(head.encode() + data)
        hit = lab.stalled(script)
    until(hit.gone.is_set, what="the end upstream")
    at_rest(others)
    assert len(lab.of(script)) == 1


@pytest.mark.parametrize("place", ["head-stall", "open-stall", "mid-stall"])
@pytest.mark.parametrize("api", STREAMS)
def test_in_a_stream(lab: Lab, gateway: Gateway, api: str, place: str) -> None:
    """Held back or not."""
    script = mark(place)
    client = begin(gateway, api, script, stream=True)
    hit = lab.stalled(script)
    client.sock.close()
    until(hit.gone.is_set, what="the end upstream")
    at_rest(gateway)
    assert len(lab.of(script)) == 1


@pytest.mark.parametrize("place", ["head-stall", "mid-stall"])
def test_in_a_plain_answer(lab: Lab, gateway: Gateway, place: str) -> None:
    script = mark(place)
    client = begin(gateway, "chat", script)
    hit = lab.stalled(script)
    client.sock.close()
    until(hit.gone.is_set, what="the end upstream")


@pytest.mark.parametrize("api", ROUTES)
def test_in_a_pause_between_two_tries(lab: Lab, gateway: Gateway, api: str) -> None:
    """Nobody is asked on behalf of somebody who has left."""
    script = mark("e429-ra2", "ok")
    client = begin(gateway, api, script)
    hit = lab.hit(script)
    until(hit.done.is_set, what="the failure")
    client.sock.close()
    at_rest(gateway)
    assert len(lab.of(script)) == 1


def test_in_the_second_try(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "hang")
    with gateway.client() as client:
        client.send(request(PATHS["chat"], body("chat", "many", script)))
        hit = lab.stalled(script, 1)
    until(hit.gone.is_set, what="the end upstream")
    at_rest(gateway)
    assert len(lab.of(script)) == 2


def test_in_a_fallback(lab: Lab, gateway: Gateway) -> None:
    script = mark("e500", "hang")
    with gateway.client() as client:
        sent = body("chat", "slow", script, num_retries=0)
        client.send(request(PATHS["chat"], sent))
        hit = lab.stalled(script, 1)
        assert hit.deployment == "spare"
    until(hit.gone.is_set, what="the end upstream")
    at_rest(gateway)


def test_with_a_reset(lab: Lab, gateway: Gateway) -> None:
    import socket
    import struct

    script = mark("mid-stall")
    client = begin(gateway, "chat", script, stream=True)
    hit = lab.stalled(script)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    until(hit.gone.is_set, what="the end upstream")


def test_many_leave_at_once(lab: Lab, gateway: Gateway) -> None:
    scripts = [mark("hang" if n % 2 else "mid-stall") for n in range(50)]
    with ExitStack() as stack:
        for script in scripts:
            client = stack.enter_context(gateway.client())
            client.send(request(PATHS["chat"], body("chat", "many", script, stream=True)))
        hits = [lab.stalled(script) for script in scripts]
    until(lambda: all(hit.gone.is_set() for hit in hits), what="the end of all upstream")
    at_rest(gateway)
    assert [len(lab.of(script)) for script in scripts] == [1] * 50


# -- drain: what was paid for is counted


@pytest.mark.parametrize("place", ["hang", "mid-stall"])
@pytest.mark.parametrize("api", STREAMS)
def test_drain(lab: Lab, draining: Gateway, api: str, place: str) -> None:
    """The answer is read to its end, for its usage, and nobody gets it."""
    script = mark(place)
    call = f"drain-{api}-{place}"
    with draining.client() as client:
        sent = body(api, model(api), script, stream=True)
        client.send(request(PATHS[api], sent, extra=f"x-litellm-call-id: {call}\r\n"))
        hit = lab.stalled(script)
    read_so_far(draining)
    lab.release(hit)
    until(hit.done.is_set, what="the whole answer")
    at_rest(draining)
    assert not hit.gone.is_set()
    event = next(event for event in draining.events() if event["call_id"] == call)
    assert (event["client_gone"], event["usage"], event["output_tokens"]) == (True, True, 4)


@pytest.mark.parametrize("act", ["hang", "open-stall", "mid-stall"])
def test_drain_has_an_end(lab: Lab, draining: Gateway, act: str) -> None:
    """An upstream that stalls is left after its time-out, without anybody to tell."""
    script = mark(act)
    with draining.client() as client:
        client.send(request(PATHS["chat"], body("chat", "brief", script, stream=True)))
        lab.stalled(script)
    until(lab.of(script)[0].gone.is_set, what="the end upstream")
    at_rest(draining)
    assert len(lab.of(script)) == 1


@pytest.mark.parametrize("act", ["gate-reset", "open-cut", "mid-cut", "late-chunk", "late-err"])
def test_drain_of_one_that_breaks(lab: Lab, draining: Gateway, act: str) -> None:
    script = mark(act, "ok")
    with draining.client() as client:
        client.send(request(PATHS["chat"], body("chat", "openai", script, stream=True)))
        hit = lab.hit(script)
        if act.startswith(("gate", "late")):
            lab.stalled(script)
    read_so_far(draining)
    lab.release(hit)
    at_rest(draining)
    assert len(lab.of(script)) == 1


def test_drain_tries_nobody_else(lab: Lab, draining: Gateway) -> None:
    script = mark("gate-e500", "ok")
    with draining.client() as client:
        sent = body("chat", "many", script, num_retries=3)
        client.send(request(PATHS["chat"], sent))
        hit = lab.stalled(script)
    read_so_far(draining)
    lab.release(hit)
    at_rest(draining)
    assert len(lab.of(script)) == 1


# -- an outage is not made worse


def burst(gateway: Gateway, lab: Lab, count: int) -> tuple[int, list[Reply]]:
    """As many requests at once; all fail together, and who is tried again waits. Retries, and the rest."""
    scripts = [mark("gate-e500", "hang") for _ in range(count)]
    passed: list[Reply] = []
    finished: list[Reply] = []
    room = threading.Event()

    def one(script: str) -> None:
        with gateway.client(20) as client:
            client.send(request(PATHS["chat"], body("chat", "many", script)))
            found = reply(client)
        (finished if room.is_set() else passed).append(found)

    threads = [threading.Thread(target=one, args=(script,)) for script in scripts]
    for thread in threads:
        thread.start()
    first = [lab.stalled(script) for script in scripts]
    for hit in first:
        lab.release(hit)

    def again() -> int:
        return sum(len(lab.of(script)) == 2 for script in scripts)

    until(lambda: len(passed) + again() == count, what="an answer or a second try for each")
    retries = again()
    room.set()
    for script in scripts:
        if len(lab.of(script)) == 2:
            lab.release(lab.stalled(script, 1))
    for thread in threads:
        thread.join(10)
    assert all(found.status == 200 for found in finished)
    return retries, passed


def test_retries_in_flight_have_a_bound(lab: Lab, gateway: Gateway) -> None:
    """max(3, a fifth of the group's requests in flight): the others get the upstream's own error."""
    retries, passed = burst(gateway, lab, 30)
    assert 3 <= retries <= 6
    assert {found.status for found in passed} == {500}
    assert {found.message.count("upstream says 500") for found in passed} == {1}


def test_a_few_are_always_tried_again(lab: Lab, gateway: Gateway) -> None:
    retries, passed = burst(gateway, lab, 3)
    assert (retries, passed) == (3, [])


def test_afterwards_the_bound_is_as_before(lab: Lab, gateway: Gateway) -> None:
    """What was taken of it is given back, whichever way a retry ended."""
    for _ in range(3):
        burst(gateway, lab, 8)
        script = mark("e500", "hang")
        with gateway.client() as client:
            client.send(request(PATHS["chat"], body("chat", "many", script)))
            lab.stalled(script, 1)
        at_rest(gateway)
    retries, _ = burst(gateway, lab, 3)
    assert retries == 3


def test_the_upstream_sees_one_request_for_each(lab: Lab, gateway: Gateway) -> None:
    """Without a failure nothing is sent twice, however many at once."""
    scripts = [mark("slow50") for _ in range(40)]
    replies: list[Reply] = []
    threads = [
        threading.Thread(target=lambda s=s: replies.append(ask(gateway, "chat", "many", s)))
        for s in scripts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted((r.status, r.retries) for r in replies) == [(200, 0)] * 40
    assert [len(lab.of(script)) for script in scripts] == [1] * 40
    assert all(json.loads(hit.body) for script in scripts for hit in lab.of(script))
