"""A running process tree handed from one image of the program to the next (execve): same process, same sockets.

What the new image needs to know travels as JSON in a nameless file whose descriptor an environment variable
names; the descriptors in it stay open across the exec. Knows nothing of what the processes do.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "FASTPROXY_TAKEOVER"
FORMAT = 4  # of the state below; a program that reads another one refuses the rehearsal
REHEARSAL = f"rehearsal-{FORMAT}"


@dataclass
class Generation:
    """Control and workers of one image, and what only they share."""

    number: int
    feed: tuple[int, str]  # descriptor and path
    control: tuple[int, str]
    bridge: tuple[int, str]
    auth: tuple[int, str]
    shared: str
    traffic: str
    ready: tuple[int, int]  # both ends of the pipe on which control says that all workers serve
    serving: tuple[int, int]  # both ends of the pipe that tells control that no worker is left
    kept: tuple[int, ...]  # what control keeps for its successor
    pids: dict[str, int]  # by the children's names


@dataclass
class Tree:
    """Everything that a supervisor must not lose."""

    version: str  # of the program that hands over
    sockets: list[list[int]]  # what each worker listens on
    directory: str
    lock: int
    alive: tuple[int, int]
    mock: tuple[int, int] | None  # descriptor and pid
    boots: list[int]  # of a one-file program: the processes that have unpacked it, the newest first
    serving: Generation
    leaving: list[Generation]


def program() -> list[str]:
    """The command that started this process, to be started again."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


def environment(value: str) -> dict[str, str]:
    """For a program that is started by `program()`; it reads `value` in VARIABLE."""
    found = {**os.environ, VARIABLE: value}
    if getattr(sys, "frozen", False):
        # it must look for its own files (and unpack them, if it is one file), not take ours
        found["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
        found.pop("LD_LIBRARY_PATH", None)
        if original := found.pop("LD_LIBRARY_PATH_ORIG", ""):
            found["LD_LIBRARY_PATH"] = original
    return found


def unpacked_directory() -> str | None:
    """Where a one-file program has unpacked itself; None for any other kind of installation."""
    directory = getattr(sys, "_MEIPASS", None)
    name = os.path.basename(directory) if isinstance(directory, str) else ""
    return directory if name.startswith("_MEI") else None


def hand_over(tree: Tree) -> OSError:
    """Become the program that now lies where ours lay. Returns only if that fails, with the reason."""
    descriptors = _descriptors(tree)
    state = os.memfd_create("fastproxy-takeover")
    try:
        os.write(state, json.dumps(asdict(tree)).encode())
        for fd in (*descriptors, state):
            os.set_inheritable(fd, True)
        command = program()
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment(str(state)))  # noqa: S606  # no shell is wanted
    except OSError as error:
        for fd in descriptors:
            os.set_inheritable(fd, False)
        os.close(state)
        return error


def handed_over() -> Tree | None:
    """What the image before us has left, if we are not the first. The descriptors are ours from now on."""
    fd = os.environ.pop(VARIABLE, None)
    if fd is None:
        return None
    with open(int(fd), "rb") as file:
        file.seek(0)
        data: dict[str, Any] = json.load(file)
    data["serving"] = _generation(data["serving"])
    data["leaving"] = [_generation(entry) for entry in data["leaving"]]
    tree = Tree(**data)
    for descriptor in _descriptors(tree):
        os.set_inheritable(descriptor, False)
    return tree


def _generation(data: dict[str, Any]) -> Generation:
    return Generation(**data)


def _descriptors(tree: Tree) -> set[int]:
    found = {fd for sockets in tree.sockets for fd in sockets}
    found |= {tree.lock, *tree.alive}
    if tree.mock is not None:
        found.add(tree.mock[0])
    for generation in (tree.serving, *tree.leaving):
        found |= {
            fd
            for fd, _ in (generation.feed, generation.control, generation.bridge, generation.auth)
        }
        found |= {*generation.ready, *generation.serving, *generation.kept}
    return found
