# Only what tests use: the proxy's own modules cimport _chunked.pxd.
from collections.abc import Iterable

def py_chunked(pieces: Iterable[bytes]) -> tuple[int, bytes, int, str | None]: ...
