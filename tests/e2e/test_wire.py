"""Bytes in, bytes out: the gateway over raw sockets."""

import itertools
import json
import socket
import threading
import time

import pytest
from harness import (
    MASTER,
    UPSTREAM_KEY,
    Gateway,
    mock_config,
    request,
    until,
)

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def chat(model: str = "gpt-4o-mini", **more):
    return {"model": model, "messages": HI, **more}


def echo(gateway: Gateway, body, extra: str = "", path: str = CHAT) -> dict:
    """What arrived at the upstream."""
    with gateway.client() as client:
        answer = client.post(path, body, extra=extra)
        assert answer.status == 200, answer.body
        return json.loads(answer.json()["choices"][0]["message"]["content"])


# -- authentication


@pytest.mark.parametrize(
    ("header", "status", "kind"),
    [
        ("", 401, "auth_error"),
        ("Authorization: Bearer \r\n", 401, "auth_error"),
        (f"Authorization: {MASTER}\r\n", 401, "auth_error"),
        ("Authorization: Bearer sk-nope\r\n", 401, "token_not_found_in_db"),
        ("Authorization: Bearer sk-blocked-0123456789\r\n", 401, "auth_error"),
        (f"Authorization: Bearer {MASTER}\r\n", 200, None),
        (f"authorization: bearer {MASTER}\r\n", 200, None),
        (f"x-api-key: {MASTER}\r\n", 200, None),
        (f"api-key: {MASTER}\r\n", 200, None),
        (f"x-goog-api-key: {MASTER}\r\n", 200, None),
        (f"Ocp-Apim-Subscription-Key: {MASTER}\r\n", 200, None),
        (f"x-litellm-api-key: Bearer {MASTER}\r\n", 200, None),
        (f"x-api-key: {MASTER[:-1]}\r\n", 401, "token_not_found_in_db"),
    ],
)
def test_credentials(gateway: Gateway, header: str, status: int, kind: str | None):
    with gateway.client() as client:
        answer = client.post(CHAT, chat(), key=None, extra=header)
    assert answer.status == status
    if kind:
        assert answer.json()["error"]["type"] == kind
        assert answer.json()["error"]["code"] == "401"
        assert answer.header("www-authenticate")


def test_the_same_connection_does_not_remember_a_key(gateway: Gateway):
    with gateway.client() as client:
        assert client.post(CHAT, chat()).status == 200
        assert client.post(CHAT, chat(), key=None).status == 401
        assert client.post(CHAT, chat(), key="sk-nope").status == 401
        assert client.post(CHAT, chat()).status == 200


def test_model_access(gateway: Gateway):
    with gateway.client() as client:
        assert client.post(CHAT, chat(), key="sk-limited-0123456789").status == 200
        answer = client.post(CHAT, chat("mock/other"), key="sk-limited-0123456789")
    assert answer.status == 403
    assert answer.json()["error"]["type"] == "key_model_access_denied"


# -- the request's body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"mock/mock-echo","messages":[]}',
        b'{"messages":[],"model":"mock/mock-echo"}',
        b'  {\n"messages" : [ ] ,\t"m\\u006fdel" : "mock\\/mock-\\u0065cho" } \n',
        b'{"messages":[{"model":"no","content":"\\"model\\": \\"x\\""}],"model":"mock/mock-echo"}',
    ],
)
def test_model_is_replaced_in_place(gateway: Gateway, raw: bytes):
    seen = echo(gateway, raw)
    assert json.loads(seen["body"]) == {**json.loads(raw), "model": "mock-echo"}
    # all other bytes are as they were
    assert len(seen["body"]) - len("mock-echo") == len(raw) - len(
        raw.split(b'del" : "')[1].split(b'"')[0] if b"u006f" in raw else b"mock/mock-echo"
    )


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b'{"model":"gpt-4o-mini","model":"x","messages":[]}', "duplicate"),
        (b'{"model":"gpt-4o-mini","m\\u006fdel":"x","messages":[]}', "duplicate"),
        (b'\xef\xbb\xbf{"model":"gpt-4o-mini"}', "byte order mark"),
        (b'{"model":"gpt-4o-mini"}{}', "byte"),
        (b'{"model":"gpt-4o-mini"', "byte"),
        (b'{"model":"gpt-4o-mini","a":NaN}', "byte"),
        (b"[]", "object"),
        (b"", "empty"),
        (b'{"model":["gpt-4o-mini"]}', "string"),
        (b'{"model":"gpt-4o-mini","messages":[],"api_base":"http://evil"}', "api_base"),
        (b'{"model":"gpt-4o-mini","messages":[],"guardrails":["pii"]}', "guardrails"),
        (b'{"model":"gpt-4o-mini","a":"\xff"}', "UTF-8"),
    ],
)
def test_bodies_with_more_than_one_reading(gateway: Gateway, raw: bytes, word: str):
    with gateway.client() as client:
        answer = client.post(CHAT, raw)
    assert answer.status == 400
    assert word in answer.json()["error"]["message"]


def test_chunked_request(gateway: Gateway):
    raw = json.dumps(chat("mock/mock-echo")).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    with gateway.client() as client:
        client.send(head)
        for at in range(0, len(raw), 7):
            piece = raw[at : at + 7]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        answer = client.answer()
    seen = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert json.loads(seen["body"])["model"] == "mock-echo"
    assert ["content-length", str(len(seen["body"]))] in [
        [n.lower(), v] for n, v in seen["headers"]
    ]


def test_every_split_of_a_request(gateway: Gateway):
    raw = request(CHAT, chat())
    with gateway.client() as client:
        for at in range(1, len(raw)):
            client.send(raw[:at])
            client.send(raw[at:])
            assert client.answer().status == 200


def test_pipelined_requests_are_answered_in_order(gateway: Gateway):
    models = ["mock/mock-delay30", "gpt-4o-mini", "nope", "mock/x"]
    with gateway.client() as client:
        client.send(b"".join(request(CHAT, chat(m)) for m in models))
        answers = [client.answer() for _ in models]
    assert [a.status for a in answers] == [200, 200, 400, 200]
    assert [answers[i].json()["model"] for i in (0, 1, 3)] == [models[0], models[1], models[3]]


def test_json_path_merges_and_strips(gateway: Gateway):
    seen = echo(
        gateway, chat("mock/mock-echo", metadata={"a": 1}, tags=["t"], num_retries=1, foo=1)
    )
    body = json.loads(seen["body"])
    assert body == {"model": "mock-echo", "messages": HI, "foo": 1}


def test_deployment_defaults(start, mock_port: int):
    config = mock_config(mock_port)
    config["model_list"][0]["litellm_params"].update(
        model="openai/mock-echo",
        temperature=0.2,
        extra_body={"top_k": 5},
        extra_headers={"x-extra": "yes"},
    )
    running = start(config).wait()
    seen = echo(running, chat(top_p=1))
    body = json.loads(seen["body"])
    assert (body["temperature"], body["top_k"], body["top_p"]) == (0.2, 5, 1)
    assert ["x-extra", "yes"] in [[n.lower(), v] for n, v in seen["headers"]]


def test_only_allowed_headers_and_never_the_clients_key_go_upstream(gateway: Gateway):
    seen = echo(
        gateway,
        chat("mock/mock-echo"),
        "Cookie: a=b\r\nX-Secret: 1\r\nTraceparent: " + TRACE + "\r\nOpenAI-Beta: assistants=v2\r\n"
        "Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nAccept-Encoding: gzip\r\n",
    )
    names = {n.lower(): v for n, v in seen["headers"]}
    assert names["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert names["traceparent"] == TRACE
    assert names["openai-beta"] == "assistants=v2"
    assert not {"cookie", "x-secret", "x-hop", "connection", "accept-encoding"} & set(names)
    assert MASTER not in json.dumps(seen)


def test_compressed_bodies(gateway: Gateway):
    import gzip
    import zlib

    import zstandard

    raw = json.dumps(chat("mock/mock-echo")).encode()
    for coding, data in (
        ("gzip", gzip.compress(raw)),
        ("deflate", zlib.compress(raw)),
        ("zstd", zstandard.compress(raw)),
    ):
        seen = echo(gateway, data, f"Content-Encoding: {coding}\r\n")
        assert json.loads(seen["body"])["model"] == "mock-echo"
        assert "content-encoding" not in {n.lower() for n, _ in seen["headers"]}
    with gateway.client() as client:
        answer = client.post(CHAT, raw, extra="Content-Encoding: br\r\n")
    assert answer.status == 415


def test_large_body_goes_on_before_its_end(gateway: Gateway):
    body = json.dumps(chat("mock/mock-echo", pad="x" * 3_000_000, stream=False)).encode()
    body = body.replace(b'{"model"', b'{"model"', 1)
    seen = echo(gateway, body)
    assert len(seen["body"]) >= len(body) - 20
    assert json.loads(seen["body"])["pad"] == "x" * 3_000_000
    with gateway.client() as client:
        answer = client.post(CHAT, chat(pad="y" * 3_000_000, stream=True))
    events = [e[6:] for e in answer.body.decode().split("\n\n") if e.startswith("data: {")]
    assert all("usage" not in json.loads(e) or not json.loads(e)["usage"] for e in events)


def test_large_body_with_a_late_fault(gateway: Gateway):
    good = json.dumps(chat("mock/mock-echo", pad="x" * 3_000_000)).encode()
    with gateway.client() as client:
        answer = client.post(CHAT, good[:-1] + b',"model":"x"}')
    assert answer.status == 400
    seen = echo(gateway, good[:-1] + b',"metadata":{"a":1}}')
    assert "metadata" not in json.loads(seen["body"])


# -- answers


def test_stream_leaves_as_it_arrives(gateway: Gateway):
    with gateway.client() as client:
        client.send(request(CHAT, chat("mock/mock-ttft10-gap40-tokens8", stream=True)))
        client.head()
        times = [time.monotonic() for _ in client.chunks()]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert sum(gap > 0.02 for gap in gaps) >= 6


def test_client_gone_closes_the_upstream(gateway: Gateway):
    before = gateway.counters()["client_gone"]
    with gateway.client() as client:
        client.send(request(CHAT, chat("mock/mock-ttft10-gap50-tokens1000", stream=True)))
        client.head()
    until(lambda: gateway.counters()["client_gone"] > before, 3, "the end of the upstream request")
    with gateway.client() as client:
        client.send(request(CHAT, chat("mock/mock-hang")))
        until(lambda: gateway.counters()["in_flight"] >= 2, 3, "the hanging request")
    until(lambda: gateway.counters()["client_gone"] > before + 1, 3, "its end")


def test_usage_lands_in_the_ring(gateway: Gateway):
    with gateway.client() as client:
        client.post(CHAT, chat(), extra="x-litellm-call-id: call-one\r\n")
        client.post(CHAT, chat(stream=True), extra="x-litellm-call-id: call-two\r\n")

    def rows():
        found = {e["call_id"]: e for e in gateway.events()}
        return found if {"call-one", "call-two"} <= set(found) else None

    found = until(rows, 5, "the events")
    for name, stream in (("call-one", False), ("call-two", True)):
        row = found[name]
        assert row["status"] == 200
        assert row["stream"] is stream
        assert row["model"] == "gpt-4o-mini"
        assert row["input_tokens"] > 0
        assert row["output_tokens"] > 0
        assert row["duration_us"] > 0


def test_answer_headers(gateway: Gateway):
    with gateway.client() as client:
        answer = client.post(CHAT, chat())
    for name in (
        "x-litellm-call-id",
        "x-litellm-model-id",
        "x-litellm-model-group",
        "x-litellm-model-api-base",
        "x-litellm-version",
        "x-litellm-overhead-duration-ms",
        "x-litellm-attempted-retries",
        "llm_provider-content-type",
        "via",
        "date",
    ):
        assert answer.header(name) is not None, name
    assert 0 <= float(answer.header("x-litellm-overhead-duration-ms")) < 1000


def test_minimal_headers(start, mock_port: int):
    running = start(mock_config(mock_port, header_profile="min")).wait()
    with running.client() as client:
        answer = client.post(CHAT, chat())
    assert answer.header("llm_provider-content-type") is None
    assert answer.header("x-litellm-call-id")


@pytest.mark.parametrize("fault", ["rst", "badjson", "cut", "html502", "e401", "e503"])
def test_upstream_faults_reach_the_client_as_errors(gateway: Gateway, fault: str):
    with gateway.client() as client:
        client.send(request(CHAT, chat(f"mock/mock-{fault}")))
        try:
            answer = client.answer()
        except EOFError:
            assert fault == "cut"
            return
    if fault == "badjson":
        return  # relayed as it is: not ours to judge
    assert answer.status in (401, 500, 502, 503)
    assert answer.json()["error"]["message"].startswith("litellm.")
    assert UPSTREAM_KEY not in answer.body.decode()


def test_a_stream_that_is_cut_ends_with_an_error_event(gateway: Gateway):
    with gateway.client() as client:
        answer = client.post(CHAT, chat("mock/mock-cut", stream=True))
    assert b"[DONE]" not in answer.body
    last = answer.body.decode().strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "500"


def test_connections_that_the_upstream_closed_are_not_used(start):
    """The stale-pool race: an upstream that closes each connection right after its answer."""
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                conn, _ = server.accept()
            except OSError:
                return
            with conn:
                data = b""
                while b"messages" not in data:
                    piece = conn.recv(65536)
                    if not piece:
                        break
                    data += piece
                else:
                    conn.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        b"content-length: 2\r\n\r\n{}"
                    )

    threading.Thread(target=serve, daemon=True).start()
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "openai/m",
                    "api_base": f"http://127.0.0.1:{port}/v1",
                    "api_key": "sk-x",
                },
            }
        ],
        "general_settings": {"master_key": MASTER},
    }
    running = start(config).wait()
    with running.client() as client:
        for _ in range(300):
            assert client.post(CHAT, chat("m")).status == 200
    server.close()


def test_slow_reader_holds_the_upstream_back(gateway: Gateway):
    with gateway.client(30) as client:
        client.send(request(CHAT, chat("mock/mock-tokens20000-size2000", stream=True)))
        client.head()
        # nothing is read until the gateway stops taking more from the upstream
        counts = [-1, 0]
        while counts[-1] - counts[-2] > 50_000 or counts[-1] < 50_000:
            time.sleep(0.1)
            counts.append(gateway.counters()["bytes_out"])
        received = sum(len(c) for c in client.chunks())
    assert received > 40_000_000


# -- routes


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        ("GET /health/liveliness", 200, b'"I\'m alive!"'),
        ("GET /health/liveness", 200, b'"I\'m alive!"'),
        ("GET /health/readiness", 200, b'{"status":"healthy","db":"Not connected"}'),
        ("GET /v1/nope", 404, b'{"detail":"Not Found"}'),
        ("GET /v1/chat/completions", 405, b'{"detail":"Method Not Allowed"}'),
        ("GET //v1/models", 404, b'{"detail":"Not Found"}'),
        ("GET /v1/models/", 404, None),
        ("GET /health/../v1/models", 404, b'{"detail":"Not Found"}'),
    ],
)
def test_service_routes(gateway: Gateway, line: str, status: int, body: bytes | None):
    with gateway.client() as client:
        client.send(
            f"{line} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        answer = client.answer()
    assert answer.status == status
    assert body is None or answer.body == body


def test_head_root_needs_no_key(gateway: Gateway):
    with gateway.client() as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.answer(head_request=True).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/chat/completions",
        "/v1/chat/completions?api-version=1",
        "/engines/gpt-4o-mini/chat/completions",
        "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-02-01",
    ],
)
def test_spellings_of_the_chat_route(gateway: Gateway, path: str):
    body = chat() if "gpt" not in path else {"messages": HI}
    with gateway.client() as client:
        assert client.post(path, body).status == 200


def test_cors(gateway: Gateway):
    with gateway.client() as client:
        client.send(
            b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: g\r\nOrigin: http://a\r\n"
            b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-a\r\n\r\n"
        )
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"OK")
        assert answer.header("access-control-allow-headers") == "x-a"
        answer = client.post(CHAT, chat(), extra="Origin: http://a\r\n")
        assert answer.header("access-control-allow-origin") == "*"
        assert answer.header("access-control-allow-credentials") is None
        assert client.post(CHAT, chat()).header("access-control-allow-origin") is None


# -- what is refused


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01", 400),
    ],
)
def test_heads_without_a_single_reading(gateway: Gateway, raw: bytes, status: int):
    with gateway.client() as client:
        client.send(raw)
        assert client.answer().status == status
        assert client.closed()


def test_early_answers_do_not_desynchronise(gateway: Gateway):
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n"
    for path in ("/v1/nope", "/health/liveness", CHAT, "/v1/messages"):
        with gateway.client() as client:
            client.send(
                f"POST {path} HTTP/1.1\r\nHost: g\r\nContent-Length: {len(smuggled)}\r\n\r\n".encode()
                + smuggled
                + b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n"
            )
            assert client.answer().status in (401, 404, 405)
            assert client.answer().body == b'"I\'m alive!"'


def test_body_too_large(start, mock_port: int):
    running = start(mock_config(mock_port, max_request_size_mb=1)).wait()
    with running.client() as client:
        client.send(
            f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
            "Content-Length: 2000000\r\n\r\n".encode()
        )
        assert client.answer().status == 413


def test_expect_continue(gateway: Gateway):
    raw = json.dumps(chat()).encode()
    with gateway.client() as client:
        client.send(
            f"POST {CHAT} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
            f"Expect: 100-continue\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
        )
        assert client.head()[0] == 100
        client.send(raw)
        assert client.answer().status == 200


def test_http_1_0(gateway: Gateway):
    raw = json.dumps(chat(stream=True)).encode()
    with gateway.client() as client:
        client.send(
            f"POST {CHAT} HTTP/1.0\r\nAuthorization: Bearer {MASTER}\r\n"
            f"Content-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        answer = client.answer()
    assert answer.header("transfer-encoding") is None
    assert b"[DONE]" in answer.body
