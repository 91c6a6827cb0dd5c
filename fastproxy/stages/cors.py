"""Cross-origin answers (Fetch standard, CORS protocol). Only requests with an Origin field come here."""

METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY"
EXPOSED = (
    "x-litellm-semantic-filter, x-litellm-semantic-filter-tools, "
    "x-litellm-adaptive-router-model, x-litellm-applied-guardrails, x-litellm-guardrail-scan-id"
)


class Cors:
    """Which origins may read answers; credentials only with an explicit list of origins."""

    def __init__(self, origins: list[str], credentials: bool) -> None:
        self.any = "*" in origins
        self.origins = frozenset(origins)
        self.credentials = credentials and not self.any

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may read our answers."""
        return self.any or origin in self.origins

    def answer_lines(self, origin: bytes) -> bytes:
        """Header lines of an answer to a request that came with this Origin."""
        text = origin.decode("latin-1")
        if not self.allows(text):
            return b""
        allow = "*" if self.any else text
        lines = f"access-control-allow-origin: {allow}\r\n"
        if self.credentials:
            lines += "access-control-allow-credentials: true\r\n"
        return (lines + f"access-control-expose-headers: {EXPOSED}\r\n").encode("latin-1")

    def preflight(self, origin: bytes, headers: bytes) -> tuple[int, bytes, bytes]:
        """(status, body, header lines) of an OPTIONS request that asks before it calls."""
        text = origin.decode("latin-1")
        if not self.allows(text):
            return 400, b"Disallowed CORS origin", b"vary: Origin\r\n"
        lines = [
            f"access-control-allow-origin: {'*' if self.any else text}",
            f"access-control-allow-methods: {METHODS}",
            "access-control-max-age: 600",
            "vary: Origin",
        ]
        if self.credentials:
            lines.append("access-control-allow-credentials: true")
        if headers:
            lines.append(f"access-control-allow-headers: {headers.decode('latin-1')}")
        return 200, b"OK", ("\r\n".join(lines) + "\r\n").encode("latin-1")
