"""Which deployment an event means, whatever has become of the configuration since its request began."""

from pathlib import Path
from typing import Any

import pytest

from fastproxy.control.served import KEEP, Served


def record(name: str, **more: Any) -> dict[str, Any]:
    return {"id": f"id-{name}", "group": name, "model": name, "provider": "openai", **more}


def name_of(served: Served, version: int, index: int) -> str | None:
    found = served.look_up(version, index)
    return None if found is None else str(found["model"])


def test_a_snapshot_long_ago_is_known_still(tmp_path: Path):
    served = Served(tmp_path / "served")
    names = ["a", "b"]
    served.add(1, [record(name) for name in names])
    for version in range(2, 500):  # models are added, one after the other
        names.append(f"new-{version}")
        served.add(version, [record(name) for name in names])
    served.add(500, [record(name) for name in names[1:]])  # … and the first goes away
    for known in (served, Served(tmp_path / "served")):  # by control that follows, too
        assert (name_of(known, 1, 0), name_of(known, 499, 1)) == ("a", "b")
        assert (name_of(known, 500, 0), name_of(known, 500, 1)) == ("b", "new-2")
        assert (name_of(known, 2, 2), name_of(known, 1, 2)) == ("new-2", None)
        assert name_of(known, 500, len(names) - 1) is None
        assert name_of(known, 1, -1) is None
        assert name_of(known, 1, 10_000) is None


def test_what_does_not_change_takes_no_room(tmp_path: Path):
    served = Served(tmp_path / "served")
    for version in range(1, 1000):
        served.add(version, [record("a", prices={"input": 1})])
    assert served.look_up(1, 0) == record("a", prices={"input": 1})
    assert (tmp_path / "served").stat().st_size < 200


def test_so_many_records_of_a_place_are_kept(tmp_path: Path):
    served = Served(tmp_path / "served")
    for version in range(1, KEEP + 2):
        served.add(version, [record(f"m{version}")])
    assert name_of(served, 1, 0) is None
    assert name_of(served, 2, 0) == "m2"


@pytest.mark.parametrize("content", [b"", b"{", b'{"1": []}', b"[1]", b"[[1]]", b'[[["x", null]]]'])
def test_what_can_not_be_read_is_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "served"
    path.write_bytes(content)
    served = Served(path)
    assert "can't be read" in caplog.text
    served.add(7, [record("a")])
    assert name_of(Served(path), 7, 0) == "a"
