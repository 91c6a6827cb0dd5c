"""W3C Trace Context: what is valid goes on as it came, what is not goes nowhere; nothing is made up."""

import pytest
from harness import until
from wire.scripted import BODY, PATH, Wire, ok, post

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"
STATE = "tracestate: a=1,b=2"


def sent(wire: Wire, *lines: str, path: str = PATH) -> list[bytes]:
    """The field lines about tracing that the upstream got."""
    wire.upstream.play(ok())
    seen = len(wire.upstream.journal)
    with wire.client() as client:
        client.send(post(BODY, *(line.encode() for line in lines), path=path))
        assert client.answer().status == 200
    (request,) = [request for _, request in wire.upstream.journal[seen:]]
    head = request.partition(b"\r\n\r\n")[0]
    return [line for line in head.split(b"\r\n") if line.lower().startswith(b"trace")]


def trace_id(wire: Wire, *lines: str) -> str:
    """What the event of such a request says."""
    before = len(wire.gateway.events())
    sent(wire, *lines)
    until(lambda: len(wire.gateway.events()) > before)
    return str(wire.gateway.events()[-1]["trace_id"])


@pytest.mark.parametrize(
    "parent",
    [PARENT, f"00-{ID}-{SPAN}-00", f"00-{ID}-{SPAN}-ff", f"cc-{ID}-{SPAN}-01-what-will-be"],
)
def test_a_valid_one_goes_on_with_its_state(wire: Wire, parent: str) -> None:
    line = f"traceparent: {parent}"
    for lines in ((line, STATE), (STATE, line)):
        assert sorted(sent(wire, *lines)) == [line.encode(), STATE.encode()]
    assert trace_id(wire, line) == ID


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00-1",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-0",
        f"00-{ID}-{SPAN}-01-more",
        f"cc-{ID}-{SPAN}-01more",
        f"ff-{ID}-{SPAN}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID}-{SPAN.upper()}-01",
        f"0G-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00_{ID}_{SPAN}_01",
        f"00-{ID[:-1]}-{SPAN}0-01",
    ],
)
def test_an_invalid_one_goes_nowhere_nor_does_its_state(wire: Wire, parent: str) -> None:
    assert sent(wire, f"traceparent: {parent}", STATE) == []
    assert trace_id(wire, f"traceparent: {parent}") == ""


def test_two_are_none_and_none_is_none(wire: Wire) -> None:
    assert sent(wire, *[f"traceparent: {PARENT}"] * 2) == []
    assert sent(wire, STATE) == []
    assert sent(wire) == []


def test_on_pass_through_routes_too(wire: Wire) -> None:
    path = "/openai/v1/chat/completions"
    line = f"traceparent: {PARENT}"
    assert sorted(sent(wire, line, STATE, path=path)) == [line.encode(), STATE.encode()]
    assert sent(wire, "traceparent: 00-1", STATE, path=path) == []
