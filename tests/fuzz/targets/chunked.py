"""Chunked bodies. What the oracle (llhttp, strict) refuses, we may not accept; both end at the same byte.

And: however the bytes are cut, payload, end and reason are the same. The first byte says where to cut.
"""

from unit.test_head_oracle import compare_chunked

from fastproxy._chunked import py_chunked

SEEDS = [
    b"\x053\r\nabc\r\n0\r\n\r\n",
    b'\x0b5;a=b;c="d\\"e"\r\nhello\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n',
    b"\x021;x\r\n{\r\n0;y\r\nContent-Length: 5\r\n\r\n",
    b"\x01ffffffffffffffff\r\n",
]


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    where, data = data[0], data[1:]
    compare_chunked(data)
    whole = py_chunked([data])
    at = where % (len(data) + 1)
    assert py_chunked([data[:at], data[at:]]) == whole
    assert py_chunked([data[i : i + 1] for i in range(len(data))]) == whole
