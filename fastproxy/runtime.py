"""The runtime directory of one process tree: private sockets and shared memory, and who takes them away.

Every process of the tree holds a shared lock on it. Who gets the lock alone knows that nobody else is
left: the supervisor at its end, the processes that outlive a killed supervisor at theirs, or the next
start, which looks at every directory that was left behind. It stays where what was spent can't be saved.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from fastproxy import leftover

PREFIX = "fastproxy-"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # memory by name; writable where the root is not


def base() -> Path:
    """Where runtime directories lie."""
    fits = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    return SHARED_MEMORY if fits else Path(tempfile.gettempdir())


class RuntimeDirectory:
    """A directory of our own, locked from before it has the name by which others look for it."""

    def __init__(self) -> None:
        parent = base()
        sweep(parent)
        unnamed = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        self.path = parent / f"{PREFIX}{os.getpid()}-{unnamed.name.rpartition('-')[2]}"
        self.lock = _locked(unnamed)
        os.rename(unnamed, self.path)

    @classmethod
    def adopt(cls, path: Path, lock: int) -> "RuntimeDirectory":
        """The one that the image of the program before us has made; its lock came with it."""
        directory = cls.__new__(cls)
        directory.path, directory.lock = path, lock
        return directory

    def join(self) -> None:
        """A forked child takes a hold of its own: the inherited one is its parent's."""
        inherited, self.lock = self.lock, _locked(self.path)
        os.close(inherited)

    def leave(self, wait: bool = False) -> None:
        """Give up the hold; the last one takes the directory away. An orphan waits for the others to
        give up theirs, so that there is a last one."""
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self.lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if leftover.rescue(self.path):
                shutil.rmtree(self.path, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what trees have left behind that died as a whole (SIGKILL of all, out of memory)."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if leftover.rescue(path):
                        shutil.rmtree(path)
            finally:
                os.close(fd)


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd
