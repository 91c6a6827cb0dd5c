"""What waits in rings whose processes are gone: it is saved, or stays where it is."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastproxy import _shared, leftover


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A runtime directory with an event in its rings, and the data directory that it belongs to."""
    directory = tmp_path / "runtime"
    directory.mkdir()
    (tmp_path / "data").mkdir()
    leftover.tell(directory, tmp_path / "data")
    ring = directory / "shared"
    _shared.Block(_shared.create(str(ring), 1, 16), 0).put(cost=1)
    leftover.served(ring).write_text("[]")
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def epoch(rings: Path) -> str:
    return f"{_shared.epoch(_shared.attach(str(rings))):016x}"


def test_a_copy_that_fails_leaves_no_part_of_itself(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    copy, rings = shutil.copyfile, runtime.parent / "data" / leftover.RINGS

    def full(source: Path, target: Path) -> Any:
        copy(source, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        assert not leftover.rescue(runtime)
    assert names(rings) == []
    assert f"stays in {runtime / 'shared'}" in caplog.text
    assert "No space left" in caplog.text
    assert leftover.rescue(runtime)
    name = epoch(runtime / "shared")
    assert names(rings) == [name, f"{name}.served"]
    assert leftover.found(rings) == [rings / name]


def test_of_a_tree_that_goes_on_rings_stay_in_memory(runtime: Path):
    name = epoch(runtime / "shared")
    leftover.hand_on(runtime / "shared")
    assert names(runtime) == ["data", f"left-{name}", f"left-{name}.served"]
    assert leftover.rescue(runtime)  # … and are copied at its end, if nobody has written them
    assert names(runtime.parent / "data" / leftover.RINGS) == [name, f"{name}.served"]


def test_what_belongs_to_nobody_goes(runtime: Path):
    (runtime.parent / "data").rmdir()
    assert leftover.rescue(runtime)
    (runtime / leftover.NAME).unlink()
    leftover.hand_on(runtime / "shared")
    assert (runtime / "shared").exists()
    assert leftover.rescue(runtime)


def test_rings_that_are_empty_are_not_copied(runtime: Path):
    block = _shared.Block(_shared.attach(str(runtime / "shared")), 0)
    block.release(block.peek(0, 100)[1])
    assert leftover.rescue(runtime)
    assert names(runtime.parent / "data") == []
