"""What control must not forget when it dies: the configuration in use, in memory that no path leads to.

The supervisor makes it and hands it to each control process in turn; it never looks inside. There are two
copies, written in turn, so that a writer who is killed leaves the one before. Credentials lie in it: it is
never a file that somebody could open, and the workers close it.
"""

import hashlib
import os
from collections.abc import Sequence

FRAME = 8 + hashlib.sha256().digest_size  # which write it was, and the digest of number and content


class Keepsake:
    """One value of bytes that outlives its writer. It is as large as what is kept, twice."""

    def __init__(self, copies: Sequence[int] = ()) -> None:
        """A new one, or one of another image of the program by its descriptors."""
        self.copies = list(copies) or [
            os.memfd_create("fastproxy-config", os.MFD_CLOEXEC) for _ in range(2)
        ]

    def keep(self, data: bytes) -> None:
        """Replace what is kept. Raises OSError where there is no memory; the value before stays."""
        newest, _ = self._newest()
        number = (newest + 1).to_bytes(8, "big")
        copy = self.copies[(newest + 1) % 2]
        record = number + hashlib.sha256(number + data).digest() + data
        os.ftruncate(copy, 0)
        os.posix_fallocate(copy, 0, len(record))
        while record:
            record = record[os.pwrite(copy, record, os.fstat(copy).st_size - len(record)) :]

    def kept(self) -> bytes | None:
        """What was kept last, whole; None before that."""
        return self._newest()[1]

    def close(self) -> None:
        """Let go of it in this process."""
        for copy in self.copies:
            os.close(copy)

    def _newest(self) -> tuple[int, bytes | None]:
        found: tuple[int, bytes | None] = (0, None)
        for copy in self.copies:
            size, record = os.fstat(copy).st_size, b""
            while len(record) < size and (piece := os.pread(copy, size, len(record))):
                record += piece
            number, digest, data = record[:8], record[8:FRAME], record[FRAME:]
            if hashlib.sha256(number + data).digest() == digest:
                found = max(found, (int.from_bytes(number, "big"), data), key=lambda f: f[0])
        return found
