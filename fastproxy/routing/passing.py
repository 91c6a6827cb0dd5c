"""Pass-through routes: which one a path takes, and the target that goes upstream. Pure text, no connection.

Paths are compared raw, as everywhere: what an upstream makes of an encoded slash is its own business, but
dot segments, which would lead out of the target's path, are refused (RFC 3986 5.2.4).
"""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

MODEL = re.compile(rb"/(?:models|deployments)/([^/:?]+)[:/]")
DOTS = re.compile(rb"(?i)(?:^|/|%2f|\\|%5c)(?:\.|%2e){1,2}(?:$|/|%2f|;|\\|%5c)")


class Route:
    """One record of the snapshot's `passthrough` list, in bytes."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.path = record["path"].encode()
        self.below = b"/" if record["path"] == "/" else self.path + b"/"
        self.subpath = bool(record["subpath"])
        self.methods = frozenset(m.encode() for m in record["methods"])
        self.allow = ", ".join(record["methods"]).encode()
        self.auth = bool(record["auth"])
        self.forward_headers = bool(record["forward_headers"])
        self.prefix: str | None = record.get("prefix")
        self.problem: str | None = record.get("problem")
        self.target: bytes = record["target_path"].encode()
        self.target_query = (record.get("target_query") or "").encode()
        self.merge = bool(record.get("merge_query"))
        self.defaults = [(n.encode(), v.encode()) for n, v in record.get("query") or ()]
        self.key_query: bytes | None = (
            record["key_query"].encode() if record.get("key_query") else None
        )
        self.own_headers = frozenset(n.lower().encode() for n, _ in record["headers"])

    def leads(self, path: bytes) -> bool:
        """Whether a path of ours is this route's."""
        return path == self.path or (self.subpath and path.startswith(self.below))

    def upstream(self, path: bytes, query: bytes) -> bytes | None:
        """The request target for the upstream; None: the path would lead out of the target's."""
        rest = path[len(self.path) :] if path != self.path else b""
        if rest and not rest.startswith(b"/"):
            rest = b"/" + rest  # the route is "/"
        if DOTS.search(rest):
            return None
        target = self.target.rstrip(b"/") + rest if rest else self.target
        query = self._query(query)
        return target + b"?" + query if query else target

    def _query(self, query: bytes) -> bytes:
        if query and self.key_query is not None:
            query = b"&".join(p for p in query.split(b"&") if _name(p) != self.key_query)
        if self.target_query and (self.merge or not query):
            query = self.target_query + (b"&" + query if query else b"")
        if self.defaults:
            known = {_name(part) for part in query.split(b"&")}
            more = [n + b"=" + v for n, v in self.defaults if unquote_to_bytes(n) not in known]
            query = b"&".join([query, *more] if query else more)
        return query

    def model_in(self, line: bytes) -> bytes | None:
        """The model that a path names (`/models/<model>:generateContent`), from the request line sent upstream."""
        found = MODEL.search(line.partition(b" HTTP/")[0])
        return unquote_to_bytes(found[1]) if found else None

    def key_of(self, query: bytes) -> bytes | None:
        """The credential that a client sent in the query, as this API's clients do."""
        if self.key_query is None:
            return None
        for part in query.split(b"&"):
            if _name(part) == self.key_query:
                return unquote_to_bytes(part.partition(b"=")[2].replace(b"+", b" "))
        return None


def google_key(query: bytes) -> bytes | None:
    """The credential of `?key=…`, as Google's API has it."""
    for part in query.split(b"&"):
        if _name(part) == b"key":
            return unquote_to_bytes(part.partition(b"=")[2].replace(b"+", b" "))
    return None


def _name(part: bytes) -> bytes:
    return unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" "))
