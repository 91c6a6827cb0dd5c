"""The data directory: where it is, that it is ours alone, and that nobody else uses it at the same time."""

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

DATABASE = "fastproxy.db"
DEFAULT_NAME = "fastproxy-data"  # beside the configuration


class Unusable(Exception):
    """The data directory can't be used; str() says why, for a person."""

    def __init__(self, message: str, busy: bool = False) -> None:
        super().__init__(message)
        self.busy = busy  # somebody else has it now


def choose(asked: str | None, config: str | None, environ: Mapping[str, str]) -> Path | None:
    """The data directory of a start: --data-dir, FASTPROXY_DATA_DIR, systemd's StateDirectory, else beside the
    configuration. None: there is no configuration file to be beside of."""
    named = asked or environ.get("FASTPROXY_DATA_DIR") or environ.get("STATE_DIRECTORY")
    if named:
        return Path(named.partition(":")[0] if not asked else named).absolute()
    return Path(config).absolute().parent / DEFAULT_NAME if config else None


def judge(path: Path) -> str | None:
    """Why the directory could not be written to, without touching anything; None: it could."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} can't be written to"
    database = path / DATABASE
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        return f"{database} can't be written to"
    return None


class DataDirectory:
    """The directory in use: made if need be, for this user only, and locked.

    The lock is one process tree's, which has two control processes for a while after USR2: it is shared, and
    the file says by whom. Nobody holds it alone for longer than it takes to write that.
    """

    def __init__(self, path: Path, tree: str = "") -> None:
        """`tree` names the process tree; an empty one shares with nobody. Raises Unusable."""
        self.path = path
        try:
            fresh = not path.exists()
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if fresh:  # hashes and sealed keys don't belong into somebody's repository
                (path / ".gitignore").write_text("*\n")
            self.lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror}") from None
        if not self._take(tree.encode()):
            os.close(self.lock)
            raise Unusable(f"{path} is used by another fastproxy", True)

    def _take(self, tree: bytes) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not tree:
                return False
        else:
            os.ftruncate(self.lock, 0)
            os.pwrite(self.lock, tree, 0)
            if not tree:
                return True
        try:
            fcntl.flock(self.lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return os.pread(self.lock, 4096, 0) == tree

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / DATABASE

    def close(self) -> None:
        """Let others have it."""
        os.close(self.lock)
