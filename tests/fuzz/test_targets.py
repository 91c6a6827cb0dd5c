"""The fuzz targets without libFuzzer: every kept input, the seeds, and some mutations of them.

Quick and the same in every run; `make fuzz` is the search, this is the proof that what it found stays
mended and that no target has rotted. What each target promises stands at its top.
"""

import importlib
import random
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("*.py"))
BITS = [b"\r\n", b"\r", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"\0", b"\xff", b"\xc3"]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The input with a few bytes changed, put in, doubled or taken away."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randint(0, len(out))
        end = min(len(out), at + draw.choice([0, 0, 1, 2, 5]))
        other = draw.randint(0, len(out))
        out[at:end] = draw.choice(
            [draw.choice(BITS), bytes([draw.randrange(256)]), b"", bytes(out[other : other + 9])]
        )
    return bytes(out)


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds(name: str) -> None:
    target = importlib.import_module(f"fuzz.targets.{name}")
    if hasattr(target, "BROKEN"):
        with pytest.raises(AssertionError):  # else the line is to be taken out
            for data in target.SEEDS:
                target.run(data)
        pytest.xfail(target.BROKEN)
    kept = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    draw = random.Random(name)
    for data in [*kept, *target.SEEDS]:
        target.run(data)
        for _ in range(getattr(target, "MUTATIONS", 150)):
            changed = mutated(data, draw)
            try:
                target.run(changed)
            except Exception as error:
                error.add_note(f"input: {changed!r}")
                raise
