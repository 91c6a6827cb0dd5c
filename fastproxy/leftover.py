"""Usage events that nobody has written to the store when the processes that share their rings go.

Control says in the runtime directory where its data directory is. Of a tree that goes on, the rings of a generation
that has ended stay where they are, for the control that serves. If the tree is gone, whoever takes the runtime
directory away, be it the next start after a power cut of a whole tree, copies what still waits to the data directory;
where that fails the directory stays for the start after. Control writes what it finds in both places, and deletes it.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger("fastproxy.supervisor")

NAME = "data"  # in the runtime directory: the path of the data directory
LEFT = "left-"  # in the runtime directory, before the name: rings of a generation that has ended
RINGS = "rings"  # in the data directory: copies of rings of trees that are gone
SERVED = ".served"  # behind the rings' name: which deployments their events mean


def tell(runtime: Path, data: Path) -> None:
    """Events of the rings in `runtime` belong to the store in `data`."""
    (runtime / NAME).write_text(str(data))


def hand_on(shared: Path) -> None:
    """The processes of these rings have ended, the tree goes on: what waits in them is its control's."""
    if (shared.parent / NAME).exists() and (name := _waiting(shared)):
        left = shared.with_name(f"{LEFT}{name}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(served(shared), served(left))
        os.rename(shared, left)


def rescue(runtime: Path) -> bool:
    """Copy the rings in which something waits; whether they may go now. What can't be read is left to its fate."""
    try:
        data = Path((runtime / NAME).read_text())
    except OSError:
        return True  # there is no store
    rings = (*found(runtime, "shared*"), *found(runtime, f"{LEFT}*"))
    saved = [_copy(path, data) for path in rings]
    return all(saved)


def _copy(rings: Path, data: Path) -> bool:
    name = _waiting(rings)
    if not name:
        return True
    if not data.is_dir():
        log.error("what was spent and is not written is lost: %s is gone", data)
        return True
    place = data / RINGS
    part = place / f"{name}.part"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(served(rings), served(place / name))
        shutil.copyfile(rings, part)
        os.rename(part, place / name)
    except OSError as error:
        for path in (part, served(place / name)):
            with contextlib.suppress(OSError):
                path.unlink()
        log.error(
            "what was spent and is not written stays in %s for the next start, it can't be copied to %s: %s",
            rings, place, error.strerror or error,
        )  # fmt: skip
        return False
    return True


def _waiting(rings: Path) -> str:
    # a name that no other rings have, where something waits in them; else ""
    from fastproxy import _shared

    try:
        mapping = _shared.attach(str(rings))
    except (OSError, ValueError) as error:
        log.error("what waited to be written of what was spent is lost: %s", error)
        return ""
    return f"{_shared.epoch(mapping):016x}" if _shared.waiting(mapping) else ""


def served(rings: Path) -> Path:
    """What belongs to rings."""
    return Path(f"{rings}{SERVED}")


def found(directory: Path, pattern: str = "*") -> list[Path]:
    """The rings that lie in a directory."""
    return sorted(path for path in directory.glob(pattern) if "." not in path.name)
