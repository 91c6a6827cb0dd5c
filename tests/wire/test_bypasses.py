"""Ways around the key, the route and the model: every spelling but the right one is refused.

Invariants:
  1. a path is matched raw and whole: no normalisation, so no second component can disagree;
  2. only the raw key, in one known field, opens; neither its hash nor any part or pattern of it does;
  3. where the request says two things (query, header, second field), the checked one is the used one.
"""

import hashlib
import json

import pytest
from harness import MASTER, UPSTREAM_KEY
from wire.scripted import BODY, PATH, Wire, ok, post

ALIVE = b'"I\'m alive!"'
PATHS = [
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat/completions/",
    "/v1/chat/completions//",
    "/V1/chat/completions",
    "/v1/Chat/Completions",
    "/./v1/chat/completions",
    "/v1/./chat/completions",
    "/v1/x/../chat/completions",
    "/health/../v1/chat/completions",
    "/health/liveness/../../v1/chat/completions",
    "/health/liveness/..;/..;/v1/chat/completions",
    "/v1/chat/completions;x=y",
    "/v1/chat/completions;.js",
    "/v1/chat/completions.js",
    "/v1/chat%2fcompletions",
    "/v1/chat%2Fcompletions",
    "/%76%31/chat/completions",
    "/v1/ch%61t/completions",
    "/v1/chat/completions%20",
    "/v1/chat/completions%00",
    "/v1/chat/completions%00.js",
    "/v1/chat/completions%0d%0aX:%20y",
    "/v1/chat/completions%3f",
    "/v1/chat/completions%252f",
    "/%2e/v1/chat/completions",
    "/%2e%2e/v1/chat/completions",
    "/health/%2e%2e/v1/chat/completions",
    "/health/%252e%252e/v1/chat/completions",
    "\\v1\\chat\\completions",
    "/v1\\chat\\completions",
    "/health/liveness\\..\\..\\v1\\chat\\completions",
    "/%c0%af/v1/chat/completions",
    "/v1/chat/completions&x=y",
    "/v1/chat",
    "/",
    "/chat/completions/v1",
    "/http://g/v1/chat/completions",
    "http://g//v1/chat/completions",
    "http://g/health/../v1/chat/completions",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", [MASTER, None], ids=["key", "no-key"])
def test_other_spellings_of_a_path_are_other_paths(wire: Wire, path: str, key: str | None) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        answer = client.post(path, BODY, key=key)
    assert answer.status in (400, 404, 405)
    assert len(wire.upstream.requests) == before


PUBLIC = [
    "/health/liveness?x=/v1/chat/completions",
    "/health/liveness?",
    "http://evil/health/liveness",
    "https://g:443/health/liveness",
]


@pytest.mark.parametrize("path", PUBLIC)
def test_public_paths_are_an_exact_set(wire: Wire, path: str) -> None:
    with wire.client() as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        assert client.answer().body == ALIVE
        for tail in ("/", "/x", ";x", "%00", "."):
            client.send(f"GET /health/liveness{tail} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            assert client.answer().status == 404


@pytest.mark.parametrize(
    "line",
    [
        "GET /v1/models",
        "GET /v1/models?/health/liveness",
        "GET /v1/models/x",
        "GET /v1/models/../../health/liveness",
        "GET /v1/models/../../fastproxy/events",
        "GET /v1/models/%2e%2e/%2e%2e/fastproxy/events",
        "GET /v1/models/..%2f..%2ffastproxy%2fevents",
        "GET /fastproxy/events",
        "GET /fastproxy/counters",
        "GET /v1/model/info",
        "GET http://health/v1/models",
    ],
)
@pytest.mark.parametrize("host", ["g", "localhost", "127.0.0.1", "health", "unix"])
def test_no_host_and_no_spelling_opens_the_control_plane(wire: Wire, line: str, host: str) -> None:
    fields = (
        "X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /health/liveness\r\nX-Rewrite-Url: /\r\n"
    )
    with wire.client() as client:
        client.send(f"{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        answer = client.answer()
    assert answer.status in (401, 404)
    assert b"data" not in answer.body


DIGEST = hashlib.sha256(MASTER.encode()).hexdigest()
KEYS = [
    ("digest", f"Authorization: Bearer {DIGEST}"),
    ("digest-upper", f"Authorization: Bearer {DIGEST.upper()}"),
    ("prefix", f"Authorization: Bearer {MASTER[:-1]}"),
    ("suffix", f"Authorization: Bearer {MASTER[1:]}"),
    ("longer", f"Authorization: Bearer {MASTER}x"),
    ("upper", f"Authorization: Bearer {MASTER.upper()}"),
    ("comma", f"Authorization: Bearer {MASTER}, Bearer x"),
    ("comma-before", f"Authorization: Bearer x, Bearer {MASTER}"),
    ("two-keys", f"Authorization: Bearer x {MASTER}"),
    ("quoted", f'Authorization: Bearer "{MASTER}"'),
    ("scheme-twice", f"Authorization: Bearer Bearer {MASTER}"),
    ("no-scheme", f"Authorization: {MASTER}"),
    ("basic", f"Authorization: Basic {MASTER}"),
    ("scheme-prefix", f"Authorization: Bearerx {MASTER}"),
    ("tab", f"Authorization: Bearer\t{MASTER}"),
    ("empty", "Authorization: Bearer "),
    ("null", "Authorization: Bearer null"),
    ("none", "Authorization: Bearer None"),
    ("sql", "Authorization: Bearer ' OR '1'='1"),
    ("like", "Authorization: Bearer sk-%"),
    ("star", "Authorization: Bearer *"),
    ("default", "Authorization: Bearer sk-1234"),
    ("upstream-key", f"Authorization: Bearer {UPSTREAM_KEY}"),
    ("cookie", f"Cookie: token={MASTER}; Authorization=Bearer {MASTER}"),
    ("proxy", f"Proxy-Authorization: Bearer {MASTER}"),
    ("underscore", f"x_api_key: {MASTER}"),
    ("other-field", f"X-Authorization: Bearer {MASTER}"),
    ("x-forwarded", f"X-Forwarded-Authorization: Bearer {MASTER}"),
    ("percent", f"Authorization: Bearer {MASTER.replace('-', '%2d')}"),
    ("basic-colon", "Authorization: Basic c2stdGVzdC1tYXN0ZXItMDEyMzQ1Njc4OWFiY2RlZjo="),
]


@pytest.mark.parametrize("line", [pytest.param(line, id=name) for name, line in KEYS])
def test_only_the_raw_key_opens(wire: Wire, line: str) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        for path in (PATH, f"{PATH}?key={MASTER}&api_key={MASTER}"):
            answer = client.post(path, BODY, key=None, extra=line + "\r\n")
            assert answer.status == 401
            assert answer.header("www-authenticate")
            assert MASTER not in answer.body.decode()
        client.send(f"GET /v1/models HTTP/1.1\r\nHost: g\r\n{line}\r\n\r\n".encode())
        assert client.answer().status == 401
    assert len(wire.upstream.requests) == before


def test_a_key_in_a_trailer_does_not_count(wire: Wire) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(
            b"POST %b HTTP/1.1\r\nHost: g\r\nTrailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\nAuthorization: Bearer %b\r\n\r\n"
            % (PATH.encode(), len(BODY), BODY, MASTER.encode())
        )
        assert client.answer().status == 401
    assert len(wire.upstream.requests) == before


def test_naming_the_key_in_connection_hides_nothing(wire: Wire) -> None:
    """Connection-named fields are not sent on, but they are still checked (and checked alike)."""
    with wire.client() as client:
        answer = client.post(PATH, BODY, key="sk-wrong", extra="Connection: authorization\r\n")
        assert answer.status == 401


def test_where_two_say_different_things(wire: Wire) -> None:
    """The body's model is used: query, path-like fields and headers choose nothing."""
    with wire.client() as client:
        answer = client.post(
            f"{PATH}?model=w/other&deployment=w/other",
            BODY,
            extra="X-Model: w/other\r\nX-LiteLLM-Model: w/other\r\nOpenAI-Model: w/other\r\n",
        )
        assert answer.status == 200
    assert b'{"model":"up","messages":[]}' in wire.upstream.requests[-1]


CLIENT_FIELDS = [
    "Connection: X-Private, keep-alive",
    "X-Private: p1",
    "Keep-Alive: timeout=600",
    "Proxy-Connection: keep-alive",
    "Proxy-Authorization: Basic p2",
    "TE: trailers, deflate",
    "Trailer: X-T",
    "Upgrade: h2c",
    "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Cookie: session=p3",
    "X-Forwarded-Host: p4",
    "Forwarded: for=p5",
    "X-Api-Key: p6",
    "Api-Key: p7",
    "X-Goog-Api-Key: p8",
    "Ocp-Apim-Subscription-Key: p9",
    "X-Real-Ip: p10",
    "Content-Encoding: identity",
    "Max-Forwards: 0",
]


def test_what_a_client_sends_and_no_upstream_sees(wire: Wire) -> None:
    with wire.client() as client:
        answer = client.post(PATH, BODY, extra="".join(f + "\r\n" for f in CLIENT_FIELDS))
        assert answer.status == 200
    head = wire.upstream.requests[-1].partition(b"\r\n\r\n")[0].decode().lower()
    names = [line.partition(":")[0] for line in head.split("\r\n")[1:]]
    assert MASTER not in head
    for number in range(1, 11):
        assert f"p{number}\r" not in head + "\r"
    for field in CLIENT_FIELDS:
        name = field.partition(":")[0].lower()
        assert name not in names or name == "connection", name
    assert names.count("host") == names.count("content-length") == 1
    assert names.count("authorization") == 1
    assert "g" not in [
        v.partition(":")[2].strip() for v in head.split("\r\n") if v.startswith("host")
    ]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "h2c, websocket"])
def test_no_tunnel(wire: Wire, upgrade: str) -> None:
    """An Upgrade is ignored: the message is answered as HTTP/1.1 and nothing is switched."""
    with wire.client() as client:
        extra = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAA\r\n"
        answer = client.post(PATH, BODY, extra=extra)
        assert answer.status == 200
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert client.answer().status == 400
        assert client.closed()
    assert b"upgrade" not in wire.upstream.requests[-1].lower()


SPLITTING = [
    ("call-id", "X-LiteLLM-Call-Id: a%0d%0aX-Evil: 1"),
    ("idempotency", "Idempotency-Key: a%0d%0aX-Evil: 1"),
    ("accept", "Accept: a\\r\\nX-Evil: 1"),
]


@pytest.mark.parametrize("line", [pytest.param(line, id=name) for name, line in SPLITTING])
def test_encoded_line_ends_stay_encoded(wire: Wire, line: str) -> None:
    with wire.client() as client:
        answer = client.post(PATH, BODY, extra=line + "\r\n")
    assert answer.status == 200
    assert answer.header("x-evil") is None
    assert b"\r\nx-evil" not in wire.upstream.requests[-1].lower()


@pytest.mark.parametrize(
    "name",
    ["w/a\\r\\nx-evil: 1", "w/a\\u0000", "w/a\\u2028", "w/a b", "w/..\\/..", "w/a%0d%0ab", "w/é"],
)
def test_a_model_name_makes_no_header_line(wire: Wire, name: str) -> None:
    """A name that matches a pattern goes into answer lines: one printable line, or refused."""
    with wire.client() as client:
        answer = client.post(PATH, f'{{"model":"{name}","messages":[]}}'.encode())
    assert answer.status in (200, 400)
    assert answer.header("x-evil") is None
    assert all(32 <= byte < 127 or byte >= 160 or byte in b"\r\n" for byte in answer.raw)


def test_the_answers_model_is_one_json_string(wire: Wire) -> None:
    """The name that the client asked for comes back escaped, whatever it holds."""
    asked = 'w/"},{\\"a\\":\\"'
    body = json.dumps({"model": asked, "messages": []}).encode()
    with wire.client() as client:
        wire.upstream.play(ok(b'{"model":"x","a":1}'))
        answer = client.post(PATH, body)
    if answer.status == 200:
        assert answer.json() == {"model": asked, "a": 1}
    else:
        assert answer.status == 400
        wire.upstream.unplayed()


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405), ("HEAD", 405), ("TRACE", 405), ("FOO", 405), ("post", 405)],
)  # fmt: skip
def test_other_methods(wire: Wire, method: str, status: int) -> None:
    with wire.client() as client:
        client.send(
            f"{method} {PATH} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        answer = client.answer(head_request=method == "HEAD")
    assert answer.status == status
    assert answer.header("allow") == "POST"
    assert MASTER.encode() not in answer.raw + answer.body


def test_the_upstreams_key_is_for_the_upstream_alone(wire: Wire) -> None:
    with wire.client() as client:
        answer = client.post(PATH, BODY)
        assert UPSTREAM_KEY.encode() not in answer.raw + answer.body
        for path in ("/v1/model/info", "/v1/models", "/fastproxy/events"):
            client.send(
                f"GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            assert UPSTREAM_KEY.encode() not in client.answer().body
    assert UPSTREAM_KEY.encode() in wire.upstream.requests[-1]
    assert UPSTREAM_KEY not in wire.gateway.log


def test_a_form_with_two_models(wire: Wire) -> None:
    """Multipart: a second `model` part is refused."""
    part = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    body = part % b"m" + part % b"w/other" + b"--b--\r\n"
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(
            post(body, path="/v1/audio/transcriptions").replace(
                b"Content-Length",
                b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length",
            )
        )
        assert client.answer().status == 400
    assert len(wire.upstream.requests) == before
