"""Names and addresses while the resolver answers, is slow, is gone, or says that the name is gone."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from fastproxy import names
from fastproxy.names import Names

HERE = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]
THERE = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.2", 80))]
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Loop(asyncio.SelectorEventLoop):
    """A loop whose resolver and clock a test decides."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0
        self.asked = 0
        self.answer: Any = HERE
        self.held: asyncio.Event | None = None

    def time(self) -> float:
        return super().time() + self.ahead

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def ask(loop: Loop, known: Names) -> Any:
    return loop.run_until_complete(known.resolve("up.test", 80))


def test_a_burst_asks_once_and_again_after_a_while(loop: Loop):
    known = Names(loop)

    async def burst() -> list[Any]:
        return await asyncio.gather(*(known.resolve("up.test", 80) for _ in range(20)))

    assert loop.run_until_complete(burst()) == [HERE] * 20
    assert ask(loop, known) == HERE
    assert loop.asked == 1
    loop.ahead += names.FRESH_SECONDS
    loop.answer = THERE
    assert ask(loop, known) == THERE
    assert loop.asked == 2


def test_known_addresses_are_used_on_while_the_resolver_is_gone(loop: Loop, caplog):
    known = Names(loop)
    assert ask(loop, known) == HERE
    loop.answer = AGAIN
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            loop.ahead += 6
            assert ask(loop, known) == HERE
    assert loop.asked == 31  # it is asked every time: back at once when the resolver is
    assert 1 <= len(caplog.records) <= 1 + 30 * 6 / names.LOG_SECONDS
    assert "up.test can't be resolved (Temporary failure" in caplog.text
    loop.answer = THERE
    loop.ahead += 6
    assert ask(loop, known) == THERE


def test_a_resolver_that_takes_its_time_holds_nobody_up(loop: Loop):
    known = Names(loop)
    ask(loop, known)
    loop.ahead += 6
    loop.answer, loop.held = THERE, asyncio.Event()

    async def some() -> None:
        for _ in range(3):
            waiting = asyncio.ensure_future(known.resolve("up.test", 80))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loop.ahead += names.PATIENCE_SECONDS
            assert await waiting == HERE
        assert loop.asked == 2  # the question is still under way, and the only one
        assert loop.held is not None
        loop.held.set()
        while known.known["up.test", 80].asking is not None:  # noqa: ASYNC110  # turns of the loop
            await asyncio.sleep(0)
        assert await known.resolve("up.test", 80) == THERE

    loop.run_until_complete(some())


@pytest.mark.parametrize("answer", [AGAIN, NO_NAME])
def test_what_was_never_known_is_an_error(loop: Loop, answer: OSError):
    known = Names(loop)
    loop.answer = answer
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            ask(loop, known)
    assert loop.asked == 2  # a failure is not remembered
    loop.answer = HERE
    assert ask(loop, known) == HERE


def test_a_name_that_is_gone_is_gone(loop: Loop):
    known = Names(loop)
    ask(loop, known)
    loop.ahead += 6
    for answer in (NO_NAME, AGAIN):  # and what it was is not taken up again
        loop.answer = answer
        with pytest.raises(socket.gaierror):
            ask(loop, known)


def test_an_address_gets_old(loop: Loop):
    known = Names(loop)
    ask(loop, known)
    loop.ahead += names.STALE_SECONDS
    loop.answer = AGAIN
    with pytest.raises(socket.gaierror):
        ask(loop, known)


def test_names_are_bounded(loop: Loop):
    known = Names(loop)

    async def many() -> None:
        for port in range(names.NAMES_MAX + 10):
            await known.resolve("up.test", port)

    loop.run_until_complete(many())
    assert len(known.known) == names.NAMES_MAX
