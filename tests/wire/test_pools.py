"""Upstream connections have a bound; who finds none waits for one that comes back, or for its room."""

from harness import until
from wire.scripted import CLOSE, HOLD, Wire, ok, post

GENERAL = {"pool_max_connections": 1, "pool_warm": 1, "connect_timeout": 1}


def test_one_is_kept_ready(wire: Wire) -> None:
    until(lambda: len(wire.upstream.connections) == 1, what="a connection ahead of its need")
    with wire.client() as client:
        client.send(post())
        assert client.answer().status == 200
    assert len(wire.upstream.connections) == 1


def test_the_second_waits_for_the_first(wire: Wire) -> None:
    before = len(wire.upstream.journal)
    with wire.client() as one, wire.client() as two:
        wire.upstream.play(HOLD, ok())
        one.send(post())
        until(lambda: len(wire.upstream.journal) > before, what="the first request")
        first = wire.last()
        two.send(post())
        wire.barrier()
        assert len(wire.upstream.journal) == before + 1
        first.go.set()
        assert [one.answer().status, two.answer().status] == [200, 200]
        assert wire.last() is first


def test_a_lost_connection_makes_room(wire: Wire) -> None:
    before = len(wire.upstream.journal)
    with wire.client() as one, wire.client() as two:
        wire.upstream.play(HOLD, ok(b"{}", b"Connection: close"), CLOSE)
        one.send(post())
        until(lambda: len(wire.upstream.journal) > before, what="the first request")
        first = wire.last()
        two.send(post())
        wire.barrier()
        first.go.set()
        assert [one.answer().status, two.answer().status] == [200, 200]
        assert wire.last() is not first


def test_waiting_has_an_end(wire: Wire) -> None:
    before = len(wire.upstream.journal)
    with wire.client() as one, wire.client() as two:
        wire.upstream.play(HOLD, ok())
        one.send(post())
        until(lambda: len(wire.upstream.journal) > before, what="the first request")
        two.send(post())
        assert two.answer().status == 408
        wire.last().go.set()
        assert one.answer().status == 200
