"""Answers other than success, in LiteLLM's shapes."""

from typing import Any

import orjson

from fastproxy import errors


class Refused(Exception):
    """An answer other than success; carries it."""

    def __init__(
        self, status: int, message: str, kind: str | None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = errors.body(status, message, kind, param, False)


class Invalid(Refused):
    """422: a body or a query that does not have the shape of the route's."""

    def __init__(self, where: list[str | int], message: str, kind: str = "value_error") -> None:
        super().__init__(422, message, None)
        detail: list[dict[str, Any]] = [{"type": kind, "loc": where, "msg": message}]
        self.body = orjson.dumps({"detail": detail})


def bad(message: str, param: str | None = None) -> Refused:
    """400: understood and not possible."""
    return Refused(400, message, "bad_request_error", param)


def forbidden(message: str, param: str | None = None) -> Refused:
    """403: understood, possible, not for this caller."""
    return Refused(403, message, "auth_error", param)


def missing(message: str, param: str | None = None) -> Refused:
    """404: what the request names is not there."""
    return Refused(404, message, "not_found_error", param)


def conflict(message: str, param: str | None = None) -> Refused:
    """409: something has this name already."""
    return Refused(409, message, "bad_request_error", param)
