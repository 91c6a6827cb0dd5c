"""The lab, and gateways that live as long as a module and must leave nothing in flight and no fault in the log."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import MASTER, Gateway, until
from lab import Lab

Groups = list[dict[str, Any]]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    running = Lab()
    yield running
    running.close()


def stopped(gateways: list[Gateway]) -> list[str]:
    """Stop them; the logs of those that do not end well or tell of a fault."""
    problems: list[str] = []
    for gateway in gateways:
        code: object
        try:
            code = gateway.stop()
        except subprocess.TimeoutExpired as late:  # it is killed, and the others have yet to end
            code = late
        if code != 0 or any(word in gateway.log for word in ("Traceback", "not allowed")):
            problems.append(f"{code}: {gateway.log}")
    return problems


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """A gateway with this config, ready; it lives as long as the module.

    `folder` is for one that finds something there: a file, or what an earlier gateway left.
    """
    running: list[Gateway] = []

    def begin(
        config: dict[str, Any] | str, *flags: str, folder: Path | None = None, **env: str
    ) -> Gateway:
        place = folder or tmp_path_factory.mktemp("serve")
        running.append(Gateway(place, config, *flags, **env))
        return running[-1].wait()

    yield begin
    assert stopped(running) == []


@pytest.fixture(scope="module")
def behind(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway with these deployments and settings; it lives as long as the module."""
    running: list[Gateway] = []

    def begin(groups: Groups, *flags: str, **sections: Any) -> Gateway:
        general = {"master_key": MASTER, **sections.pop("general_settings", {})}
        config = {"model_list": groups, "general_settings": general, **sections}
        running.append(Gateway(tmp_path_factory.mktemp("lab"), config, *flags))
        return running[-1]

    yield begin
    problems: list[str] = []
    for gateway in running:
        try:
            assert gateway.process.poll() is None
            until(lambda g=gateway: g.counters()["in_flight"] <= 1, what="an end of all exchanges")
        except (AssertionError, OSError, EOFError) as problem:
            problems.append(f"{problem}: {gateway.log}")
    # whatever was found, none may outlive the tests
    assert problems + stopped(running) == []
