"""Heads. What the oracle (llhttp, strict) refuses, we may not accept; what both accept, both read alike.

And: a prefix of a refused head is unfinished or refused for the same reason; what follows a head changes
nothing. The first byte says whether a request or an answer comes.
"""

from unit.test_head_oracle import compare

from fastproxy._head import py_parse_request, py_parse_response

DONE, ERROR = 1, -1
SEEDS = [
    b"qGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"qPOST http://a/b?c HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\nConnection: close, x\r\nX: y\r\n\r\n",
    b"qPOST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"qOPTIONS * HTTP/1.0\r\nAuthorization: Bearer k\r\nKeep-Alive: 5\r\n\r\n",
    b"aHTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Request-Id: a\r\n\r\n",
    b"aHTTP/1.1 204 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    b"aHTTP/1.0 500\r\n\r\n",
    b"aHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n",
]


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    response, data = data[0] == ord("a"), data[1:]
    compare(data, response)
    parse = py_parse_response if response else py_parse_request
    whole = parse(data)
    if whole["result"] == DONE:
        assert parse(data[: whole["size"]]) == whole
        assert parse(data + b"\0") == whole
        assert parse(data[: whole["size"] - 1])["result"] == 0
    elif whole["result"] == ERROR:
        assert parse(data + b"\r\n\r\n") == whole
        for cut in (len(data) // 2, len(data) - 1):
            part = parse(data[:cut])
            assert part["result"] == 0 or part == whole
