"""A client of the admin API for tests: JSON in, (status, JSON) out."""

import http.client
import json
from typing import Any

from harness import MASTER, Gateway

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def call(
    gateway: Gateway, method: str, path: str, body: Any = None, key: str | None = MASTER
) -> tuple[int, Any]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    data = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers["content-type"] = "application/json"
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        raw = answer.read()
    finally:
        connection.close()
    return answer.status, json.loads(raw) if raw[:1] in b'{["0123456789' else raw.decode()


def make(gateway: Gateway, path: str, body: dict[str, Any], key: str = MASTER) -> Any:
    """A POST that must succeed; its answer."""
    status, answer = call(gateway, "POST", path, body, key)
    assert status == 200, answer
    return answer


def chat(gateway: Gateway, key: str, model: str = "gpt-4o-mini") -> int:
    """Status of an LLM request with a key."""
    return call(gateway, "POST", "/v1/chat/completions", {**CHAT, "model": model}, key)[0]
