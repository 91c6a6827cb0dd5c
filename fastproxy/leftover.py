"""Usage events that nobody has written to the store when their rings go: kept in the data directory.

Control says in the runtime directory where that is. Whoever takes the rings away, be it the next start after a
power cut of a whole tree, copies what still waits; the next control writes it and deletes the copy.
"""

import contextlib
import os
import shutil
from pathlib import Path

NAME = "data"  # in the runtime directory: the path of the data directory
RINGS = "rings"  # in the data directory
SERVED = ".served"  # behind the rings' name: which deployments their events mean


def tell(runtime: Path, data: Path) -> None:
    """Events of the rings in `runtime` belong to the store in `data`."""
    (runtime / NAME).write_text(str(data))


def rescue(runtime: Path) -> None:
    """Copy the rings in which something waits. What can't be read or written is left to its fate."""
    from fastproxy import _shared

    with contextlib.suppress(OSError, ValueError):
        place = Path((runtime / NAME).read_text()) / RINGS
        for path in runtime.glob("shared*"):
            if "." in path.name:
                continue  # what control keeps beside them
            with contextlib.suppress(OSError, ValueError):
                mapping = _shared.attach(str(path))
                if not _shared.waiting(mapping):
                    continue
                place.mkdir(mode=0o700, exist_ok=True)
                name = f"{_shared.epoch(mapping):016x}"
                with contextlib.suppress(OSError):
                    shutil.copyfile(f"{path}{SERVED}", served(place / name))
                shutil.copyfile(path, place / f".{name}")
                os.rename(place / f".{name}", place / name)


def served(copy: Path) -> Path:
    """What belongs to a copy."""
    return copy.with_name(f".{copy.name}{SERVED}")


def found(data: Path) -> list[Path]:
    """The copies in a data directory."""
    with contextlib.suppress(OSError):
        return sorted(p for p in (data / RINGS).iterdir() if not p.name.startswith("."))
    return []
