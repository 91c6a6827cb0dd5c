# Only what tests and benchmarks use: the proxy's own modules cimport _head.pxd.
from typing import Any

def py_parse_request(
    data: bytes, max_head: int = 32768, max_target: int = 8192
) -> dict[str, Any]: ...
def py_parse_response(
    data: bytes, to_head_request: bool = False, max_head: int = 32768
) -> dict[str, Any]: ...
def py_repeat(data: bytes, times: int, response: bool = False) -> int: ...
