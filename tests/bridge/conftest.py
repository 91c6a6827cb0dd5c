"""Gateways with the stand-in for LiteLLM's SDK."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bridged import SECRET, Bridged, environment, served
from harness import Gateway, until


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridged]:
    """One for the tests that don't change it; at the end nothing may be in flight, and no fault in the log."""
    directory = tmp_path_factory.mktemp("bridged")
    journal = directory / "journal"
    running = Bridged(Gateway(directory, served(), **environment(journal)).wait(), journal)
    try:
        yield running
        until(lambda: running.gateway.counters()["in_flight"] <= 1, what="an end of all exchanges")
    finally:
        code = running.gateway.stop()
    assert code == 0, running.gateway.log
    assert "Traceback" not in running.gateway.log, running.gateway.log
    assert SECRET not in running.gateway.log


@pytest.fixture
def begin(start: Callable[..., Gateway], tmp_path: Path) -> Callable[..., Bridged]:
    """Start one with a configuration of the test's own."""

    def begin(config: dict[str, Any], *flags: str, **env: str) -> Bridged:
        journal = tmp_path / "journal"
        return Bridged(start(config, *flags, **environment(journal, **env)), journal)

    return begin
