"""When watched files count as changed."""

import os
from pathlib import Path

import pytest

from fastproxy.control.watch import Watch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text("one")
    return path


def reread(watch: Watch, *files: Path) -> None:
    watch.after_reading(map(str, files), watch.before_reading())


def test_two_looks_must_agree(file: Path):
    watch = Watch([str(file)])
    assert not watch.changed()
    file.write_text("one, and")
    assert not watch.changed()
    file.write_text("one, and the rest of it")  # somebody is writing
    assert not watch.changed()
    assert watch.changed()
    reread(watch, file)
    assert not watch.changed()


def test_a_change_while_it_is_read_is_seen_afterwards(file: Path):
    watch = Watch([str(file)])
    before = watch.before_reading()
    file.write_text("while it was read")
    watch.after_reading([str(file)], before)
    assert not watch.changed()
    assert watch.changed()


def test_the_same_size_and_time_in_another_file(file: Path, tmp_path: Path):
    """A swapped symbolic link, as a ConfigMap is updated; both files may be of one second."""
    other, link = tmp_path / "b.yaml", tmp_path / "link"
    other.write_text("two")
    os.utime(file, (1, 1))
    os.utime(other, (1, 1))
    link.symlink_to(file)
    watch = Watch([str(link)])
    link.unlink()
    link.symlink_to(other)
    assert not watch.changed()
    assert watch.changed()


def test_files_come_and_go(file: Path, tmp_path: Path):
    missing = tmp_path / "later.yaml"
    watch = Watch([str(file), str(missing)])
    assert not watch.changed()
    missing.write_text("here")
    assert not watch.changed()
    assert watch.changed()
    reread(watch, file, missing)
    file.unlink()
    assert not watch.changed()
    assert watch.changed()
    reread(watch, missing)  # it is no longer asked for
    assert not watch.changed()
