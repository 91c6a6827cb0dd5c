"""Looks whether files have changed: by polling, which sees every file system and every way of replacing a file."""

import os
from collections.abc import Iterable

Mark = (
    tuple[int, int, int] | None
)  # of a file: modification time, inode, size; None: it is not there


def mark(path: str) -> Mark:
    """What changes when the file does. A symbolic link is followed, as Kubernetes swaps one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class Watch:
    """Files as they were when they were read, and as they were at the last look."""

    def __init__(self, files: Iterable[str]) -> None:
        self.taken = {path: mark(path) for path in files}
        self.seen = dict(self.taken)

    def changed(self) -> bool:
        """Whether the files differ from what was read, and nobody is writing any more: they are as at
        the last look. Half a file can be a whole configuration."""
        last, self.seen = self.seen, {path: mark(path) for path in self.taken}
        return self.seen == last != self.taken

    def before_reading(self) -> dict[str, Mark]:
        """To be handed to `after_reading`: what is written in between is seen as a change then."""
        return {path: mark(path) for path in self.taken}

    def after_reading(self, files: Iterable[str], before: dict[str, Mark]) -> None:
        """These files were read (or not found): other includes, perhaps, than the last time."""
        self.taken = {path: before[path] if path in before else mark(path) for path in files}
        self.seen = dict(self.taken)
