"""The lab, and gateways in front of it that must leave nothing in flight and no fault in the log."""

from collections.abc import Callable, Iterator
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
        if gateway.stop() or any(word in gateway.log for word in ("Traceback", "not allowed")):
            problems.append(gateway.log)
    assert problems == []
