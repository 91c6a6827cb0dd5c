"""What is held back of a stream, for how long, and what a group's policy makes of one that breaks."""

import json
from collections.abc import Callable, Iterator

import pytest
from asking import PATHS, ask, body, reply
from harness import Client, Gateway, request, until
from lab import Lab, mark
from lab_acts import ERROR_WORDS

APIS = ("chat", "responses", "messages")


def deployments(lab: Lab, **params: object) -> list[dict]:
    """A pair and a spare of each provider."""
    made = []
    for provider in ("openai", "anthropic"):
        made += [lab.deployment(provider, f"{provider}-{n}", provider, **params) for n in "ab"]
        made.append(lab.deployment(f"{provider}-spare", provider=provider))
    return made


def router(**more: object) -> dict[str, object]:
    fallbacks = [{p: [f"{p}-spare"]} for p in ("openai", "anthropic")]
    # so that one test's failures don't steer the next
    return {"fallbacks": fallbacks, "num_retries": 1, "disable_cooldowns": True, **more}


def group(api: str) -> str:
    return "anthropic" if api == "messages" else "openai"


def begin(client: Client, api: str, script: str, **more: object) -> None:
    client.send(request(PATHS[api], body(api, group(api), script, stream=True, **more)))


def started(client: Client) -> bytes:
    """Everything up to the end of the head and the first piece of the body."""
    status, _, head = client.head()
    assert status == 200
    while b"\n\n" not in client.buffer:
        assert client.fill()
    return head


# -- how long it is held


@pytest.fixture(scope="module")
def patient(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Holds for as long as the defaults say."""
    return behind(deployments(lab), router_settings=router()).wait()


@pytest.fixture(scope="module")
def hasty(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Holds for a moment."""
    return behind(deployments(lab), router_settings=router(stream_hold=0.2)).wait()


@pytest.mark.parametrize("place", ["head", "open", "ping"])
@pytest.mark.parametrize("api", APIS)
def test_nothing_goes_out_before_the_first_content(
    lab: Lab, patient: Gateway, api: str, place: str
) -> None:
    """Comments, pings, `message_start` and a role alone are no content."""
    script = mark(f"{place}-stall")
    with patient.client() as client:
        begin(client, api, script)
        hit = lab.stalled(script)
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.fill()
        client.sock.settimeout(10)
        lab.release(hit)
        found = reply(client)
    assert found.text == f"pong from {hit.deployment}"
    assert (len(found.ends), found.errors, found.whole) == (1, [], True)


@pytest.mark.parametrize("api", APIS)
def test_a_hold_ends_after_its_time(lab: Lab, hasty: Gateway, api: str) -> None:
    """Then what was held goes out, keep-alives follow as they come, and it can't be taken back."""
    script = mark("ping-stall", "ok")
    with hasty.client() as client:
        begin(client, api, script)
        hit = lab.stalled(script)
        started(client)
        lab.release(hit)
        rest = b"".join(client.chunks())
    assert b"pong " in rest
    assert len(lab.of(script)) == 1


@pytest.mark.parametrize("api", APIS)
def test_after_the_hold_an_early_fault_is_in_band(lab: Lab, hasty: Gateway, api: str) -> None:
    """The head is out, so nobody else is asked, though there was no content yet."""
    script = mark("open-stall", "ok")
    with hasty.client() as client:
        begin(client, api, script)
        hit = lab.stalled(script)
        client.head()
        lab.cut(hit)
        found = [piece for piece in chunks_until_the_end(client) if piece]
    text = b"".join(found).decode()
    assert "error" in text.rstrip().rpartition("\n\n")[2]
    assert not any(end in text for end in ("[DONE]", "response.completed", "message_stop"))
    assert len(lab.of(script)) == 1


def chunks_until_the_end(client: Client) -> Iterator[bytes]:
    try:
        yield from client.chunks()
    except EOFError:
        return


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/chat/completions", "chat"),
        ("/engines/openai/chat/completions", "chat"),
        ("/openai/deployments/openai/chat/completions?api-version=2024-02-01", "chat"),
        ("/responses", "responses"),
        ("/openai/v1/responses", "responses"),
        ("/v1/messages?beta=true", "messages"),
    ],
)
@pytest.mark.parametrize("fault", ["open-cut", "open-err"])
def test_other_spellings_of_a_route(
    lab: Lab, patient: Gateway, path: str, api: str, fault: str
) -> None:
    script = mark(fault, "ok")
    with patient.client() as client:
        client.send(request(path, body(api, group(api), script, stream=True)))
        found = reply(client)
    hits = lab.of(script)
    assert (found.status, len(hits)) == (200, 2)
    assert found.text == f"pong from {hits[1].deployment}"


def test_a_hold_has_a_size(lab: Lab, patient: Gateway) -> None:
    """64 KB without content: what came goes out, though the time is not over."""
    script = mark("comments-stall")
    with patient.client() as client:
        begin(client, "chat", script)
        hit = lab.stalled(script)
        client.sock.settimeout(4)  # a hold takes 5 s
        started(client)
        lab.release(hit)
        assert b"pong" in b"".join(client.chunks())


def test_nothing_is_held_when_that_is_asked_for(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """`stream_hold: 0`: the head at once, so that an early fault is in band."""
    gateway = behind(deployments(lab), router_settings=router(stream_hold=0)).wait()
    script = mark("head-stall", "ok")
    with gateway.client() as client:
        begin(client, "chat", script)
        hit = lab.stalled(script)
        client.head()
        lab.cut(hit)
        text = b"".join(chunks_until_the_end(client))
    assert b'"error"' in text
    assert b"[DONE]" not in text
    assert len(lab.of(script)) == 1


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_the_keys_of_an_error_event_are_not_content(
    lab: Lab, patient: Gateway, api: str, stream: bool
) -> None:
    """An answer that talks about errors is an answer."""
    script = mark("ok-error-words")
    found = ask(patient, api, group(api), script, **({"stream": True} if stream else {}))
    assert found.status == 200
    assert len(lab.of(script)) == 1
    assert found.text == ERROR_WORDS


# -- error events keep their status


@pytest.mark.parametrize("place", ["head", "open"])
def test_an_early_error_event_tells_its_status(lab: Lab, patient: Gateway, place: str) -> None:
    """It names 503, and so does the answer when all tries are spent."""
    script = mark(f"{place}-err")
    found = ask(patient, "chat", "openai-spare", script, stream=True, num_retries=0)
    assert found.status == 503
    assert "upstream says 503" in found.message


def test_an_early_error_event_that_is_the_clients_fault(lab: Lab, patient: Gateway) -> None:
    """A 400 in an event is a 400: nobody else is asked."""
    script = mark("head-err400", "ok")
    found = ask(patient, "chat", "openai-spare", script, stream=True)
    assert found.status == 400
    assert len(lab.of(script)) == 1


# -- policies


@pytest.fixture(scope="module")
def plain_errors(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    return behind(deployments(lab), router_settings=router(stream_policy="error_event")).wait()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("fault", ["open-cut", "late-cut"])
def test_error_event_asks_nobody_else(
    lab: Lab, plain_errors: Gateway, api: str, fault: str
) -> None:
    """Once the upstream has begun to stream, its fault is told as such."""
    script = mark(fault, "ok")
    late = lab if fault == "late-cut" else None
    found = ask(plain_errors, api, group(api), script, stream=True, late=late)
    assert len(lab.of(script)) == 1
    assert found.ends == []
    assert found.status >= 500 or len(found.errors) == 1


@pytest.mark.parametrize("api", APIS)
def test_error_event_is_about_streams_only(lab: Lab, plain_errors: Gateway, api: str) -> None:
    script = mark("e500", "ok")
    found = ask(plain_errors, api, group(api), script, stream=True)
    assert (found.status, found.retries) == (200, 1)


@pytest.fixture(scope="module")
def carrying_on(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    return behind(
        deployments(lab, stream_idle_timeout=0.5), router_settings=router(stream_policy="continue")
    ).wait()


@pytest.mark.parametrize("fault", ["late-cut", "late-reset", "mid-stall", "late-err", "late-chunk"])
@pytest.mark.parametrize("api", ["chat", "messages"])
def test_continue(lab: Lab, carrying_on: Gateway, api: str, fault: str) -> None:
    """The second upstream gets what was said so far, and the client one stream with one end."""
    script = mark(fault, "ok")
    late = None if fault == "mid-stall" else lab
    found = ask(carrying_on, api, group(api), script, stream=True, late=late)
    hits = lab.of(script)
    assert len(hits) == 2
    prefix, _, _ = found.text.partition("pong from " + hits[1].deployment)
    assert prefix
    assert f"pong from {hits[0].deployment} ".startswith(prefix)
    assert (len(found.ends), found.errors, found.whole) == (1, [], True)
    ids = {d["id"] for _, d in found.events if isinstance(d, dict) and "id" in d}
    assert len(ids) <= 1
    starts = [
        d for _, d in found.events if isinstance(d, dict) and d.get("type") == "message_start"
    ]
    assert len(starts) == (api == "messages")
    last = json.loads(hits[1].body)["messages"][-1]
    assert last["role"] == "assistant"
    assert prefix.strip() in json.dumps(last["content"])


@pytest.mark.parametrize("api", APIS)
def test_continue_from_nothing_is_a_retry(lab: Lab, carrying_on: Gateway, api: str) -> None:
    script = mark("open-cut", "ok")
    found = ask(carrying_on, api, group(api), script, stream=True)
    hits = lab.of(script)
    assert found.text == f"pong from {hits[1].deployment}"
    assert (found.status, len(found.ends), len(hits)) == (200, 1, 2)


def test_continue_leaves_a_begun_tool_call_alone(lab: Lab, carrying_on: Gateway) -> None:
    script = mark("tool-cut", "ok")
    found = ask(carrying_on, "chat", "openai", script, stream=True, late=lab)
    assert (found.status, len(lab.of(script))) == (200, 1)
    assert (found.ends, len(found.errors)) == ([], 1)


@pytest.mark.parametrize(
    "acts",
    [
        ("mid-cut", "mid-cut", "ok"),
        ("mid-cut", "open-cut", "ok"),
        ("mid-cut", "e500", "ok"),
        ("mid-stall", "mid-reset", "ok"),
        ("mid-err", "ok"),
        ("late-err", "e500", "ok"),
        ("mid-cut", "ctx"),
        ("mid-cut", "e400"),
        ("mid-cut", "mid-cut", "mid-cut", "mid-cut", "mid-cut", "mid-cut"),
    ],
    ids="+".join,
)
@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_continued_stream_has_one_end(
    lab: Lab, carrying_on: Gateway, api: str, acts: tuple[str, ...]
) -> None:
    """Good or bad, but one, and the last thing; and never more tries than without."""
    script = mark(*acts)
    late = lab if acts[0].startswith("late") else None
    found = ask(carrying_on, api, group(api), script, stream=True, late=late)
    hits = lab.of(script)
    assert len(hits) <= 4  # a pair, and a spare one twice
    assert found.whole
    if found.status != 200:
        assert found.json()["error"]["message"]
        return
    assert len(found.ends) + len(found.errors) == 1
    last = found.events[-1][1]
    assert last in found.errors or found.ends == [last if api == "chat" else last["type"]]
    if found.ends:
        assert found.text.endswith(f"pong from {hits[-1].deployment}")
    if api == "messages":
        kinds = [d["type"] for _, d in found.events if isinstance(d, dict)]
        assert kinds.count("message_start") == 1
        indexes = [d["index"] for _, d in found.events if d["type"] == "content_block_start"]
        assert indexes == sorted(set(indexes))


# -- the time between two tokens


def test_a_first_token_in_time_starts_no_other_clock(
    lab: Lab, behind: Callable[..., Gateway]
) -> None:
    """`stream_timeout` is about the first token, not about the pause behind it."""
    one = lab.deployment("prompt", stream_timeout=0.3, timeout=10)
    gateway = behind([one], router_settings={"num_retries": 0}).wait()
    script = mark("mid-w800")
    found = ask(gateway, "chat", "prompt", script, stream=True)
    assert (found.text, found.errors) == ("pong from prompt", [])


def test_the_limits_are_told_apart(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """The error of a stall says which limit it was: first token, or between two."""
    one = lab.deployment("timed", stream_timeout=0.3, stream_idle_timeout=0.4, timeout=10)
    gateway = behind([one], router_settings={"num_retries": 0}).wait()
    early = ask(gateway, "chat", "timed", mark("open-stall"), stream=True)
    late = ask(gateway, "chat", "timed", mark("mid-stall"), stream=True)
    assert early.status == 408
    assert "stream_timeout" in early.message or "first" in early.message
    assert late.status == 200
    assert len(late.errors) == 1
    assert "idle" in str(late.errors[0]) or "between" in str(late.errors[0])


def test_a_stream_that_ends_well_is_not_touched(lab: Lab, patient: Gateway) -> None:
    """Held and relayed bytes together are the upstream's, but for the model's name."""
    for api in APIS:
        script = mark("ok")
        found = ask(patient, api, group(api), script, stream=True)
        hit = lab.of(script)[0]
        until(hit.done.is_set, what="the end of the answer")
        assert found.text == f"pong from {hit.deployment}"
        assert len(found.ends) == 1
