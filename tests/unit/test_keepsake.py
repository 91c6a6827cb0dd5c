"""The memory that outlives control: what was kept last, whole, whatever its writer died of."""

import os

import pytest

from fastproxy.keepsake import Keepsake


@pytest.fixture
def keepsake():
    made = Keepsake()
    yield made
    made.close()


def test_the_last_one_counts(keepsake: Keepsake):
    assert keepsake.kept() is None
    for data in (b"first", b"", b"x" * 300_000, b"a shorter one"):
        keepsake.keep(data)
        assert keepsake.kept() == data


@pytest.mark.parametrize("cut", [0, 1, 8, 39, 40, 44])
def test_a_writer_killed_in_the_middle_leaves_the_one_before(keepsake: Keepsake, cut: int):
    keepsake.keep(b"first")
    keepsake.keep(b"other")  # 8 + 32 + 5 bytes
    before = [os.pread(copy, 100, 0) for copy in keepsake.copies]
    keepsake.keep(b"third")
    (written,) = [
        c for c, was in zip(keepsake.copies, before, strict=True) if os.pread(c, 100, 0) != was
    ]
    os.ftruncate(written, cut)
    assert keepsake.kept() == b"other"
    os.ftruncate(written, 45)  # its room was reserved, the rest not written yet
    assert keepsake.kept() == b"other"
    keepsake.keep(b"fourth")
    assert keepsake.kept() == b"fourth"


def test_a_forked_process_shares_it(keepsake: Keepsake):
    if os.fork() == 0:
        keepsake.keep(b"from the child")
        os._exit(0)
    os.wait()
    assert keepsake.kept() == b"from the child"
