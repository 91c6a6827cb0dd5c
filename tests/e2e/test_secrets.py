"""No secret in any sink: everything at debug level, every way of failing, then every place is searched.

A piece of ten characters of a secret counts as the secret: a cut or masked one must not tell more than
its last four.
"""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from harness import Client, Gateway, free_port, request, until

from fastproxy.runtime import base as runtime_base

CHAT = "/v1/chat/completions"
PIECE = 10
SECRETS = {
    "master key": "sk-MaStEr7Qm2Xw9Zk4Lp8Vt3",
    "virtual key": "sk-vIrTuAl6Hn1Rb5Jd0Fy2Gs",
    "key of the file": "sk-pRoVfIlE4Tc8Wm3Nx7Bq1K",
    "key of the environment": "sk-eNvIrOn9Ya2Ue6Io0Pl5Dh",
    "key of environment_variables": "sk-sEcTiOn3Gf7Jk1Mz8Cv4Rx",
    "key of a credential": "sk-cReDeNt5Wq0Ez6Rt2Yu9Ui",
    "extra header": "tok-hEaDeR1Oa7Sd3Fg8Hj4Kl6",
    "header of a pass-through": "sk-pAsSiNg4Lk2Jh9Gf7Ds5Aq",
    "password of a proxy": "pw-pRoXy2Zx9Cv5Bn0Mq3We7R",
    "password of an address": "pw-aDdReS8Ty4Ui1Op6As2Df9",
    "wrong key of a client": "sk-wRoNgKe0Gh5Jk9Lz3Xc7Vb",
    "misplaced key": "sk-mIsPlAc6Nm2Qw8Er4Ty1Ui",
}
# Leaks that are known and not mended yet: the test fails when one is mended until its line goes. Empty is the aim.
KNOWN = {
    ("header of a pass-through", "answer: passed moved"),
}


def pieces(secret: str) -> list[bytes]:
    """What of a secret nobody may see: any ten characters of it, and its coded forms."""
    raw = secret.encode()
    cuts = [raw[i : i + PIECE] for i in range(len(raw) - PIECE + 1)]
    basic = base64.b64encode(b"user:" + raw)[
        8:-4
    ]  # as Basic's password: its first group holds the user
    return [*cuts, base64.b64encode(raw)[: 4 * (len(raw) // 3)], basic]


def unescaped(data: bytes) -> bytes:
    """`data` with JSON's escapes undone."""
    return re.sub(rb"\\u00([0-9a-fA-F]{2})", lambda m: bytes([int(m.group(1), 16)]), data)


def found_in(sinks: dict[str, bytes]) -> set[tuple[str, str]]:
    """(secret, sink) wherever one shows."""
    searched = {sink: data + b"\n" + unescaped(data) for sink, data in sinks.items()}
    return {
        (name, sink)
        for sink, data in searched.items()
        for name, secret in SECRETS.items()
        if any(piece in data for piece in pieces(secret))
    }


class Echo:
    """An upstream, and a proxy, that repeats every header it was sent, in the way the model's name asks for."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.seen = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                conn, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with conn, suppress(OSError), conn.makefile("rb") as stream:
            while line := stream.readline():
                head = line
                while line not in (b"\r\n", b""):
                    line = stream.readline()
                    head += line
                self.seen += head
                if head.startswith(b"CONNECT"):
                    conn.sendall(b"HTTP/1.1 407 No " + head.replace(b"\r\n", b" ") + b"\r\n\r\n")
                    return
                size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                body = stream.read(int(size.group(1))) if size else b""
                answer = self.answer(head, self.way(head, body))
                conn.sendall(answer)
                if b"content-length" not in answer:
                    return

    @staticmethod
    def way(head: bytes, body: bytes) -> str:
        """How to answer: the end of the model's name, in the body or in the target."""
        asked = (
            re.search(rb'"model": ?"[^"]*?(\w+)"', body)
            or re.search(rb"^\S+ \S*[?&]model=(\w+)", head)
            or re.search(rb"/models/(\w+):", head)
        )
        return asked.group(1).decode() if asked else "plain"

    @staticmethod
    def answer(head: bytes, how: str) -> bytes:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        repeated = b" ".join(lines.values()).decode("latin-1")
        message = json.dumps({"error": {"message": f"Incorrect: {repeated}", "type": repeated,
                                        "param": repeated, "code": repeated}})  # fmt: skip
        body, status, extra = message.encode(), "400 Bad Request", b""
        if how == "escaped":
            body = re.sub(r"[A-Za-z]", lambda m: f"\\u{ord(m.group()):04x}", repeated).encode()
            body = b'{"error": {"message": "' + body + b'"}}'
        elif how == "text":
            body = b"<p>" + repeated.encode()
        elif how.isdecimal():
            status = f"{how} Status"
            extra = b"".join(b"x-repeated-%d: %s\r\n" % pair for pair in enumerate(lines.values()))
            extra += b"x-request-id: " + repeated.encode() + b"\r\nretry-after: 1\r\n"
        elif how == "moved":
            status, extra = "302 Found", b"location: http://x/" + repeated.encode() + b"\r\n"
        elif how == "broken":
            return b"HTTP/1.1 200 " + repeated.encode() + b"\r\nbad " + head + b"\r\n\r\n"
        elif how == "cut":
            start = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            return start + b"8\r\ndata: 1\n\r\nzz" + repeated.encode()
        elif how == "ok":
            status, body = "200 OK", b'{"model":"up","choices":[],"usage":{"prompt_tokens":1}}'
        return (
            f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n".encode()
            + extra
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )


@pytest.fixture
def echo() -> Iterator[Echo]:
    upstream = Echo()
    yield upstream
    upstream.listener.close()


WAYS = ("ok", "plain", "escaped", "text", "moved", "broken", "cut", "401", "403", "404", "429", "500", "503")  # fmt: skip


def config(port: int) -> dict:
    base = {"api_base": f"http://127.0.0.1:{port}/v1"}
    keys = {
        "first": {**base, "api_key": SECRETS["key of the file"], "num_retries": 1},
        "file": {**base, "api_key": SECRETS["key of the file"]},
        "environ": {**base, "api_key": "os.environ/ECHO_KEY"},
        "section": {**base, "api_key": "os.environ/SECTION_KEY"},
        "credential": {**base, "litellm_credential_name": "stored"},
        "header": {**base, "api_key": "k", "extra_headers": {"x-token": SECRETS["extra header"]}},
        "proxied": {
            "api_base": f"http://127.0.0.1:{port}/v1", "api_key": SECRETS["key of the file"],
            "http_proxy": f"http://user:{SECRETS['password of a proxy']}@127.0.0.1:{port}",
        },
        "tunnel": {
            "api_base": "https://upstream.invalid/v1", "api_key": SECRETS["key of the file"],
            "http_proxy": f"http://user:{SECRETS['password of a proxy']}@127.0.0.1:{port}",
        },
        "address": {
            "api_base": f"http://user:{SECRETS['password of an address']}@127.0.0.1:{port}/v1",
            "api_key": SECRETS["key of the file"],
        },
        "refused": {
            "api_base": f"http://127.0.0.1:{free_port()}/v1", "api_key": SECRETS["key of the file"],
        },
    }  # fmt: skip
    models = [
        {"model_name": f"{name}/*", "litellm_params": {"model": "openai/*", **params}}
        for name, params in keys.items()
    ]
    claude = {"api_base": f"http://127.0.0.1:{port}", "api_key": SECRETS["key of the file"]}
    probed = {**base, "api_key": SECRETS["key of a credential"], "model": "openai/up-401"}
    models.append({"model_name": "probed", "litellm_params": probed})
    models.append({"model_name": "google/*", "litellm_params": {"model": "gemini/*", **claude}})
    models.append({"model_name": "claude/*", "litellm_params": {"model": "anthropic/*", **claude}})
    return {
        "model_list": models,
        "environment_variables": {"SECTION_KEY": SECRETS["key of environment_variables"]},
        "credential_list": [
            {
                "credential_name": "stored",
                "credential_values": {**base, "api_key": SECRETS["key of a credential"]},
            }
        ],
        "router_settings": {
            "num_retries": 0,
            "disable_cooldowns": True,
            "fallbacks": [{"first/500": ["credential/500"]}, {"first/429": ["refused/x"]}],
        },
        "general_settings": {
            "master_key": SECRETS["master key"],
            "keys": [{"key": SECRETS["virtual key"], "alias": "one", "models": ["file/*"]}],
            "pass_through_endpoints": [
                {
                    "path": "/passed",
                    "target": f"http://127.0.0.1:{port}/up",
                    "headers": {"Authorization": f"Bearer {SECRETS['header of a pass-through']}"},
                }
            ],
        },
    }


# Files that are refused, with a key where none belongs: messages quote places, not values.
BROKEN = {
    "no YAML": "model_list:\n- api_key: {key}: x\n",
    "unclosed": 'general_settings:\n  master_key: "{key}\n',
    "a list for a key": "general_settings:\n  master_key: [{key}]\n",
    "a key for a number": "model_list:\n- model_name: a\n  litellm_params: {{model: openai/x, timeout: {key}}}\n",
    "a key for a section": "model_list: {key}\n",
    "a key for a list": "general_settings:\n  master_key: sk-x-0123456789\n  keys: [{key}]\n",
    "a key for an address": "model_list:\n- model_name: a\n  litellm_params: {{model: openai/x, api_base: '{key}'}}\n",
    "a key with a line end": 'model_list:\n- model_name: a\n  litellm_params: {{model: openai/x, api_key: "{key}\\n{key}"}}\n',
    "a hash that is a key": "general_settings:\n  keys: [{{key_hash: {key}}}]\n",
    "twice": "general_settings:\n  master_key: {key}\n  keys: [{{key: {key}}}, {{key: {key}}}]\n",
}  # fmt: skip


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
)


def get(target: str, key: str | None, extra: str = "Connection: close\r\n") -> bytes:
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {target} HTTP/1.1\r\nHost: g\r\n{auth}{extra}\r\n".encode()


def ask(running: Gateway, data: bytes) -> bytes:
    """All that comes back."""
    with Client(running.port) as client:
        if b"Connection: " not in data:
            data = data.replace(b"Host: ", b"Connection: close\r\nHost: ", 1)
        client.send(data)
        if UPGRADE.encode() in data:  # refused, and then it may go on
            answer = client.answer()
            return answer.raw + answer.body
        assert client.closed()
        return client.buffer


def processes(running: Gateway) -> list[int]:
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def talk(running: Gateway) -> dict[str, bytes]:
    """Every way of asking; the answers, head and body."""
    answers = {}
    master, virtual = SECRETS["master key"], SECRETS["virtual key"]
    names = [
        entry["model_name"] for entry in yaml.safe_load(running.path.read_text())["model_list"]
    ]
    groups = [name.removesuffix("/*") for name in names if name.endswith("/*")]
    for way in WAYS:
        answers[f"passed {way}"] = ask(running, request("/passed", {"model": f"x-{way}"}, master))
        for road, data in {
            "realtime": get(f"/v1/realtime?model=file/{way}", master, UPGRADE),
            "google": request(
                f"/v1beta/models/google%2F{way}:generateContent", {"contents": []}, master
            ),
            "responses": request("/v1/responses", {"model": f"file/{way}", "input": "x"}, master),
            "completions": request(
                "/v1/completions", {"model": f"file/{way}", "prompt": "x"}, master
            ),
            "path": request(f"/openai/deployments/file%2F{way}/embeddings", {"input": "x"}, master),
        }.items():
            answers[f"{road} {way}"] = ask(running, data)
    for group in groups:
        for way in ("ok", "429", "500") if group == "first" else WAYS:
            for stream in (False, True):
                body = {
                    "model": f"{group}/{way}",
                    "messages": [],
                    "stream": stream,
                    "max_tokens": 1,
                }
                paths = ["/v1/messages", CHAT] if group == "claude" else [CHAT]
                for path in paths:
                    answers[f"{group} {way} {stream} {path}"] = ask(
                        running, request(path, body, master)
                    )
    body = {"model": "file/ok", "messages": []}
    wrong = SECRETS["wrong key of a client"]
    for name, key, sent, extra in (
        ("virtual", virtual, body, ""),
        ("forbidden model", virtual, {**body, "model": "environ/ok"}, ""),
        ("unknown model", master, {**body, "model": "nothing"}, ""),
        ("wrong key", wrong, body, ""),
        ("wrong key elsewhere", None, body, f"x-api-key: {wrong}\r\nCookie: a={wrong}\r\n"),
        ("basic", None, body, f"Authorization: Basic {base64.b64encode(wrong.encode()).decode()}\r\n"),
        ("twice", master, body, f"Authorization: Bearer {wrong}\r\n"),
        ("not JSON", master, b"{", ""),
        ("api_key in the body", master, {**body, "api_key": wrong}, ""),
        ("bad head", master, body, "bad line\r\n"),
    ):  # fmt: skip
        answers[name] = ask(running, request(CHAT, sent, key, extra))
    for path in (
        "/", "/v1/models", "/v1/models/file/ok", "/model/info", "/v1/model/info", "/metrics", "/metrics/",
        "/explain?model=file/ok", "/explain?model=file/ok&key=" + virtual, "/explain?model=x&key=" + wrong,
        "/fastproxy/events", "/fastproxy/events?limit=x", "/fastproxy/counters", "/health",
        "/health/readiness", "/health/backlog", "/key/info", "/config/yaml", "/debug",
    ):  # fmt: skip
        for name, key in (("master", master), ("virtual", virtual), ("wrong", wrong), ("no", None)):
            answers[f"GET {path} {name} key"] = ask(running, get(path, key))
    return answers


def test_no_secret_in_any_sink(start, tmp_path: Path, echo: Echo):
    written = tmp_path / "written"
    written.mkdir()
    running = start(
        config(echo.port), "--detailed_debug", "--num_workers", "2",
        ECHO_KEY=SECRETS["key of the environment"], LITELLM_LOG="DEBUG", TMPDIR=str(written),
        PYTHONASYNCIODEBUG="1",
    ).wait()  # fmt: skip
    sinks = {f"answer: {name}": data for name, data in talk(running).items()}
    assert sinks["answer: file ok False /v1/chat/completions"].startswith(b"HTTP/1.1 200")
    assert b"file/*" in sinks["answer: GET /model/info master key"]
    for name in ("key of the file", "key of the environment", "key of environment_variables",
                 "key of a credential", "extra header", "header of a pass-through"):  # fmt: skip
        assert SECRETS[name].encode() in echo.seen, name  # else it could not have been repeated
    assert base64.b64encode(f"user:{SECRETS['password of a proxy']}".encode()) in echo.seen

    good = running.path.read_text()
    for text in BROKEN.values():
        running.path.write_text(text.format(key=SECRETS["misplaced key"]))
        refused = running.log.count("reload refused") + running.log.count("configuration reloaded")
        running.process.send_signal(signal.SIGHUP)
        until(
            lambda told=refused: running.log.count("reload refused")
            + running.log.count("configuration reloaded") > told, 5, "the reload"
        )  # fmt: skip
    sinks["answer: reload refused"] = ask(
        running, request("/config/reload", b"", SECRETS["master key"])
    )
    running.path.write_text(good)
    sinks["answer: reload"] = ask(running, request("/config/reload", b"", SECRETS["master key"]))
    assert b'"version"' in sinks["answer: reload"]
    os.kill(processes(running)[2], signal.SIGKILL)
    until(lambda: "ended by signal 9" in running.log, 5, "the worker's end")
    until(lambda: len(processes(running)) == 4, 5, "a new worker")

    for pid in processes(running):
        for file in ("cmdline", "comm", "environ"):
            data = Path(f"/proc/{pid}/{file}").read_bytes()
            if file == "environ":  # what was handed over in the environment stands there
                data = data.replace(f"ECHO_KEY={SECRETS['key of the environment']}".encode(), b"")
            sinks[f"/proc/{file} of {pid}"] = data
    runtime = [
        p for p in runtime_base().glob(f"fastproxy-{running.process.pid}-*/*") if p.is_file()
    ]
    sinks |= {str(path): path.read_bytes() for path in runtime}
    assert any(b"file/ok" in sinks[str(path)] for path in runtime)  # an event in its ring
    assert running.stop() == 0
    sinks["standard output and error"] = running.log_path.read_bytes()
    mine = {running.path, running.log_path}
    sinks |= {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p not in mine}
    assert found_in(sinks) == KNOWN


@pytest.mark.parametrize("text", [None, *BROKEN.values()], ids=["good", *BROKEN])
def test_no_secret_in_what_check_says(tmp_path: Path, text: str | None):
    path = tmp_path / "proxy.yaml"
    good = yaml.safe_dump(config(9))
    path.write_text(good if text is None else text.format(key=SECRETS["misplaced key"]))
    environ = {**os.environ, "ECHO_KEY": SECRETS["key of the environment"]}
    sinks = {}
    for flags in (["check", str(path)], ["check", "--format", "json", str(path)],
                  ["--config", str(path), "--validate_config", "--debug"]):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "fastproxy", *flags], capture_output=True, env=environ,
            check=False, timeout=50,
        )  # fmt: skip
        assert done.stdout
        sinks[" ".join(flags)] = done.stdout + done.stderr
    assert found_in(sinks) == set()


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_the_search_would_find_it(secret: str):
    escaped = "".join(f"\\u{ord(c):04x}" for c in secret).encode()
    coded = base64.b64encode(secret.encode())
    basic = base64.b64encode(f"user:{secret}".encode())
    for leak in (
        secret.encode(),
        secret[:12].encode(),
        secret[-12:].encode(),
        escaped,
        coded,
        basic,
    ):
        assert found_in({"sink": b"before " + leak + b" after"})
    assert not found_in({"sink": f"sk-…{secret[-4:]}".encode()})
