"""GET /health, background checks, what the workers are told of them, and the backlog."""

import http.server
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import MASTER, UPSTREAM_KEY, Answer, Gateway, free_port, mock_config, request, until

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
WRONG_KEY = "sk-wrong-upstream-0123456789"


def get(running: Gateway, path: str, key: str | None = MASTER) -> Answer:
    with running.client(20) as client:
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        client.send(f"GET {path} HTTP/1.1\r\nHost: g\r\n{auth}\r\n".encode())
        return client.answer()


def entry(name: str, port: int, model: str = "", info: dict[str, Any] | None = None, **params: Any):
    base = {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": UPSTREAM_KEY}
    return {
        "model_name": name,
        "litellm_params": {"model": model or f"openai/{name}", **base, **params},
        "model_info": info or {},
    }


def serving(*entries: dict[str, Any], **general: Any) -> dict[str, Any]:
    return {"model_list": list(entries), "general_settings": {"master_key": MASTER, **general}}


MODES = [
    "chat", "completion", "responses", "embedding", "moderation", "rerank", "image_generation",
    "audio_speech", "audio_transcription",
]  # fmt: skip


def test_every_mode_is_asked_by_its_own_route(start, mock_port: int):
    config = serving(*(entry(m, mock_port, info={"mode": m, "id": m}) for m in MODES))
    config["model_list"].append(
        entry("claude", mock_port, "anthropic/claude", api_base=f"http://127.0.0.1:{mock_port}")
    )
    found = get(start(config).wait(), "/health").json()
    assert found["unhealthy_endpoints"] == []
    assert found["healthy_count"] == len(MODES) + 1
    assert {e["model_name"] for e in found["healthy_endpoints"]} == {*MODES, "claude"}
    chat = next(e for e in found["healthy_endpoints"] if e["model_name"] == "chat")
    assert chat.pop("latency_ms") > 0
    assert chat.pop("checked_at") > 0
    assert chat == {
        "model": "openai/chat",
        "api_base": f"http://127.0.0.1:{mock_port}/v1",
        "model_name": "chat",
        "model_id": "chat",
    }


def test_what_does_not_answer_is_told_without_secrets(start, mock_port: int):
    nobody = free_port()
    running = start(
        serving(
            entry("good", mock_port),
            entry("broken", mock_port, "openai/mock-e500"),
            entry("echoes", mock_port, api_key=WRONG_KEY),
            entry("gone", nobody),
            entry("slow", mock_port, "openai/mock-hang", {"health_check_timeout": 0.3}),
            entry("cloud", mock_port, "bedrock/some"),
            entry("voice", mock_port, info={"mode": "realtime"}),
            entry("any/*", mock_port, "openai/*"),
            entry("one/*", mock_port, "openai/*", {"health_check_model": "openai/mock-e429"}),
            entry("*", mock_port, "*", api_base=None, api_key=None),
        )
    ).wait()
    answer = get(running, "/health")
    assert answer.status == 200
    found = answer.json()
    assert [e["model_name"] for e in found["healthy_endpoints"]] == ["good"]
    errors = {e["model_name"]: e["error"] for e in found["unhealthy_endpoints"]}
    assert errors.pop("broken").startswith("500: ")
    assert errors.pop("echoes").startswith("401: ")
    assert str(nobody) in errors.pop("gone")
    assert errors.pop("slow") == "no answer within 0.3 s"
    assert errors.pop("cloud").startswith("provider bedrock is not spoken")
    assert errors.pop("one/*").startswith("429: ")
    assert errors == {}
    reasons = {e["model_name"]: e["reason"] for e in found["unchecked_endpoints"]}
    assert "realtime" in reasons.pop("voice")
    assert "health_check_model" in reasons.pop("any/*")
    assert "health_check_model" in reasons.pop("*")
    assert reasons == {}
    assert (found["healthy_count"], found["unhealthy_count"], found["unchecked_count"]) == (1, 6, 3)
    for secret in (UPSTREAM_KEY, WRONG_KEY, MASTER):
        assert secret not in answer.body.decode()
        assert secret not in running.log


def test_one_model_at_a_time(start, mock_port: int):
    running = start(
        serving(
            entry("a", mock_port, info={"id": "first"}), entry("b", mock_port, "openai/mock-e500")
        )
    ).wait()
    for query in ("model=a", "model=openai/a", "model_id=first"):
        found = get(running, f"/health?{query}").json()
        assert (found["healthy_count"], found["unhealthy_count"]) == (1, 0)
    assert get(running, "/health?model=b").json()["unhealthy_count"] == 1
    unknown = get(running, "/health?model=c")
    assert unknown.status == 404
    assert "there is no such model" in unknown.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/health", "/health/backlog"])
@pytest.mark.parametrize(("key", "status"), [(None, 401), ("sk-limited-0123456789", 403)])
def test_only_the_master_key_may_ask(gateway: Gateway, path: str, key: str | None, status: int):
    assert get(gateway, path, key).status == status


# -- in the background


def children(running: Gateway) -> list[int]:
    pid = running.process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Provider(http.server.ThreadingHTTPServer):
    """An upstream whose health the test decides."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.status = 200
        self.asked: list[str] = []
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                provider.asked.append(self.rfile.read(int(self.headers["content-length"])).decode())
                self.send_response(provider.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.shutdown()
    server.server_close()


def test_background_checks(start, provider: Provider):
    config = serving(
        entry("watched", provider.port, info={"id": "watched"}),
        entry("left", provider.port, info={"id": "left", "disable_background_health_check": True}),
        background_health_checks=True,
        health_check_interval=0.2,
        health_check_details=False,
    )
    running = start(config).wait()
    until(lambda: len(provider.asked) >= 2, 10, "two rounds")
    assert all('"watched"' in body for body in provider.asked)
    provider.status = 503
    until(lambda: "health check failed" in running.log, 10, "the log line")
    found = get(running, "/health").json()
    (unhealthy,) = found["unhealthy_endpoints"]
    assert unhealthy.pop("checked_at") > 0
    assert unhealthy == {"model": "openai/watched", "error": "503: {}"}
    assert found["unchecked_endpoints"] == [{"model": "openai/left", "reason": "not checked yet"}]
    provider.status = 200
    until(lambda: "watched -> openai/watched: healthy again" in running.log, 10, "its recovery")


def test_health_with_background_checks_asks_nobody(start, provider: Provider):
    config = serving(
        entry("a", provider.port), background_health_checks=True, health_check_interval=500
    )
    running = start(config).wait()
    until(lambda: len(provider.asked) == 1, 10, "the first round")
    until(lambda: get(running, "/health").json()["healthy_count"] == 1, 10, "its verdict")
    assert len(provider.asked) == 1
    assert get(running, "/health?model=a").json()["healthy_count"] == 1
    assert len(provider.asked) == 2
    # a reload asks who is new, and nobody else
    config["model_list"].append(entry("b", provider.port))
    running.path.write_text(yaml.safe_dump(config))
    with running.client() as client:
        assert client.post("/config/reload", b"").status == 200
    until(lambda: get(running, "/health").json()["healthy_count"] == 2, 10, "the new one")
    assert len(provider.asked) == 3
    assert '"b"' in provider.asked[-1]


def routed(start, provider: Provider, good: int, **router: Any) -> Gateway:
    """A gateway with a group of two, one of them at the provider, that steers by background checks."""
    config = serving(
        entry("pair", provider.port, info={"id": "doubtful"}),
        entry("pair", good, info={"id": "good"}),
        entry("alone", provider.port),
        background_health_checks=True,
        health_check_interval=0.2,
    )
    config["router_settings"] = {"enable_health_check_routing": True, "num_retries": 0, **router}
    return start(config).wait()


def visits(running: Gateway, provider: Provider, model: str) -> int:
    """How many of some requests came to the provider."""
    question = {"model": model, "messages": [{"role": "user", "content": "a visit"}]}
    before = sum("a visit" in body for body in provider.asked)
    with running.client() as client:
        for _ in range(30):
            client.post(CHAT, question)
    return sum("a visit" in body for body in provider.asked) - before


def test_routing_by_background_checks(start, provider: Provider, mock_port: int):
    """Nobody is sent to a deployment that failed its check while another is left; the last is tried."""
    running = routed(start, provider, mock_port, disable_cooldowns=True)
    assert visits(running, provider, "pair") > 0
    provider.status = 503
    until(lambda: running.log.count("health check failed") == 2, 10, "the verdicts")
    until(lambda: visits(running, provider, "pair") == 0, 10, "the workers to know")
    assert visits(running, provider, "alone") == 30
    provider.status = 200
    until(lambda: visits(running, provider, "pair") > 0, 10, "its return")


def test_a_new_control_process_does_not_believe_old_verdicts(
    start, provider: Provider, mock_port: int
):
    running = routed(start, provider, mock_port, disable_cooldowns=True)
    provider.status = 503
    until(lambda: visits(running, provider, "pair") == 0, 10, "the workers to know")
    control = min(children(running))
    os.kill(control, signal.SIGSTOP)
    provider.status = 200
    os.kill(control, signal.SIGKILL)
    until(lambda: visits(running, provider, "pair") > 0, 10, "its return")


def test_busy_deployments_can_be_let_be(start, provider: Provider, mock_port: int):
    provider.status = 429
    ignoring = {"health_check_ignore_transient_errors": True, "disable_cooldowns": True}
    running = routed(start, provider, mock_port, **ignoring)
    until(lambda: get(running, "/health").json()["unhealthy_count"] == 2, 10, "the verdicts")
    assert visits(running, provider, "pair") > 0


# -- taking leave

TOKEN = "drain-token-0123456789"


def drain(running: Gateway, *fields: str) -> Answer:
    with running.client(20) as client:
        head = ["GET /health/drain HTTP/1.1", "Host: g", *fields]
        client.send(("\r\n".join(head) + "\r\n\r\n").encode())
        return client.answer()


def test_drain_waits_for_the_last_and_is_not_ready(start, mock_port: int):
    config = mock_config(mock_port, enable_drain_endpoint=True)
    running = start(config, "--num_workers", "2", DRAIN_ENDPOINT_TOKEN=TOKEN).wait()
    assert get(running, "/health/readiness", None).status == 200
    for wrong in ("", "x-drain-token: no"):
        assert drain(running, *([wrong] if wrong else [])).status == 401
    assert get(running, "/health/readiness", None).status == 200
    answers: list[Answer] = []
    with running.client() as slow:
        slow.send(request(CHAT, {**BODY, "model": "mock/mock-delay1500"}))
        until(lambda: running.counters()["in_flight"] == 2, 5, "the request")
        waiting = threading.Thread(
            target=lambda: answers.append(drain(running, f"X-Drain-Token: {TOKEN}"))
        )
        waiting.start()
        until(lambda: get(running, "/health/readiness", None).status == 503, 5, "readiness")
        assert all(get(running, "/health/readiness", None).status == 503 for _ in range(20))
        assert get(running, "/health/liveliness", None).status == 200
        with running.client() as late:  # the balancer has not heard of it yet
            assert late.post(CHAT, BODY).status == 200
        assert not answers
        assert slow.answer().status == 200
    waiting.join(10)
    assert answers[0].json() == {"status": "drained", "in_flight_requests": 0}
    with running.client() as client:  # it stays so over a reload
        assert client.post("/config/reload", b"").status == 200
    assert get(running, "/health/readiness", None).status == 503
    assert TOKEN not in running.log


def test_drain_has_an_end(start, mock_port: int):
    config = mock_config(mock_port, enable_drain_endpoint=True)
    running = start(config, GRACEFUL_SHUTDOWN_TIMEOUT="0.2").wait()
    assert drain(running).status == 401  # without a token it is the master key's
    with running.client() as slow:
        slow.send(request(CHAT, {**BODY, "model": "mock/mock-hang"}))
        until(lambda: running.counters()["in_flight"] == 2, 5, "the request")
        answer = drain(running, f"Authorization: Bearer {MASTER}")
        assert answer.json() == {"status": "timeout", "in_flight_requests": 1}


def test_no_drain_unasked(gateway: Gateway):
    assert drain(gateway, f"Authorization: Bearer {MASTER}").status == 404


def test_the_backlog_counts_what_is_in_flight(start, mock_port: int):
    running = start(mock_config(mock_port), "--num_workers", "2").wait()
    with running.client() as client:
        client.send(request(CHAT, {**BODY, "model": "mock/mock-delay1500"}))
        until(lambda: get(running, "/health/backlog").json()["in_flight_requests"] == 2, 5, "two")
        backlog = get(running, "/health/backlog").json()
        assert backlog["admitted_requests"] == 2
        assert (backlog["queued_requests"], backlog["rejected_requests"]) == (0, 0)
        assert sum(w["in_flight"] for w in backlog["workers"]) == 2
        assert len(backlog["workers"]) == 2
        assert client.answer().status == 200


def test_certificates_are_checked_as_for_requests(start, certificate: tuple[Path, Path]):
    server = Provider(certificate)
    base = f"https://127.0.0.1:{server.port}/v1"
    try:
        running = start(
            serving(
                entry("trusted", 0, api_base=base, ssl_verify=str(certificate[0])),
                entry("unchecked", 0, api_base=base, ssl_verify=False),
                entry("untrusted", 0, api_base=base),
            )
        ).wait()
        found = get(running, "/health").json()
    finally:
        server.shutdown()
        server.server_close()
    assert {e["model_name"] for e in found["healthy_endpoints"]} == {"trusted", "unchecked"}
    (untrusted,) = found["unhealthy_endpoints"]
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted["error"]
