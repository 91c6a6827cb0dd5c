"""Every byte arrives, whatever the sizes, framings and cuts: random, but the same in each run.

Invariants:
  1. the upstream reads the client's document with nothing changed but `model` (and blanks);
  2. the client reads the upstream's body byte for byte, but for `model`;
  3. requests of several clients, pipelined, large and small, over shared upstream connections, never mix.
Under the sanitizers this is also the test that walks through most of the buffers.
"""

import json
import random
import threading

import pytest
from harness import MASTER, Client
from wire.scripted import CLOSE, PATH, Connection, Wire, ok, post

GENERAL = {"max_request_size_mb": 64}
SIZES = [0, 1, 100, 4_000, 16_000, 16_384, 17_000, 65_536, 70_000, 262_144, 300_000, 1_500_000]
SECRET_WORDS = ["model", '"model":"x"', "\\", '"', "é", "😀", "data: ", "\r\n\r\n", "0\r\n\r\n"]


def text(draw: random.Random, size: int) -> str:
    """Text of about this size with what could be mistaken for syntax."""
    out = []
    while size > 0:
        piece = (
            draw.choice(SECRET_WORDS)
            if draw.random() < 0.2
            else "a" * min(size, draw.randint(1, 5000))
        )
        out.append(piece)
        size -= len(piece)
    return "".join(out)


def document(draw: random.Random, number: str) -> bytes:
    """A request's body, with `model` somewhere in it."""
    fields = [("messages", []), ("user", number), ("x", text(draw, draw.choice(SIZES)))]
    fields += [("y", {"model": "no", "z": text(draw, draw.choice(SIZES[:6]))})]
    draw.shuffle(fields)
    fields.insert(
        draw.randint(0, len(fields)),
        ("model", draw.choice(["m", "w/" + "n" * draw.randint(1, 90)])),
    )
    separators = draw.choice([(",", ":"), (", ", ": ")])
    return json.dumps(
        dict(fields), separators=separators, ensure_ascii=draw.random() < 0.5
    ).encode()


def in_chunks(draw: random.Random, data: bytes) -> bytes:
    """The same as a chunked body."""
    out, at = [], 0
    while at < len(data):
        size = draw.choice([1, 2, 100, 5000, 70_000]) if len(out) < 200 else len(data)
        size = min(size, len(data) - at)
        out.append(
            b"%x%b\r\n%b\r\n" % (size, draw.choice([b"", b"", b";a=b"]), data[at : at + size])
        )
        at += size
    return b"".join(out) + draw.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"])


def message(draw: random.Random, start: str, fields: list[str], body: bytes) -> bytes:
    """A message with this body, in either framing."""
    if draw.random() < 0.4:
        lines, body = [*fields, "Transfer-Encoding: chunked"], in_chunks(draw, body)
    else:
        lines = [*fields, f"Content-Length: {len(body)}"]
    return "\r\n".join([start, *lines, "", ""]).encode() + body


def pieces(draw: random.Random, data: bytes) -> list[bytes]:
    """The bytes in a few random cuts."""
    cuts = sorted(draw.randint(0, len(data)) for _ in range(draw.choice([0, 0, 1, 2, 6])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


def echo(seed: int, last: dict[str, bytes]):
    """An upstream that answers with what it read, in a random framing."""

    def answer(connection: Connection) -> None:
        head, _, body = connection.requests[-1].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        read = json.loads(body)
        draw = random.Random(f"{seed} {read['user']}")
        last[read["user"]] = body
        kind = draw.choice(["application/json", "text/plain", "application/octet-stream"])
        if kind == "application/json":
            body = json.dumps(
                {"model": "up", "echo": read, "more": text(draw, draw.choice(SIZES))}
            ).encode()
        for piece in pieces(
            draw, message(draw, "HTTP/1.1 200 OK", [f"Content-Type: {kind}"], body)
        ):
            connection.send(piece)

    return answer


def talk(wire: Wire, name: str, rounds: int, seen: dict[str, bytes], faults: list[str]) -> None:
    """One client: requests, pipelined up to three, and its answers compared."""
    draw = random.Random(name)
    try:
        with wire.client(30) as client:
            for turn in range(rounds):
                numbers = [f"{name}-{turn}-{i}" for i in range(draw.choice([1, 1, 2, 3]))]
                bodies = [document(draw, number) for number in numbers]
                fields = [
                    "Host: g",
                    f"Authorization: Bearer {MASTER}",
                    "Content-Type: application/json",
                ]
                data = b"".join(message(draw, f"POST {PATH} HTTP/1.1", fields, b) for b in bodies)
                sender = threading.Thread(target=send, args=(client, pieces(draw, data)))
                sender.start()
                for number, body in zip(numbers, bodies, strict=True):
                    compare(client, number, body, seen)
                sender.join()
            assert client.buffer == b""
    except Exception as error:
        faults.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")


def send(client: Client, parts: list[bytes]) -> None:
    for part in parts:
        client.send(part)


def compare(client: Client, number: str, body: bytes, seen: dict[str, bytes]) -> None:
    """One answer, against what was asked and what the upstream read."""
    answer = client.answer()
    assert answer.status == 200, answer.body[:300]
    asked = json.loads(body)
    read = json.loads(seen[number])
    upstream_model = "up" if asked["model"] == "m" else asked["model"].removeprefix("w/")
    assert read == {**asked, "model": upstream_model}
    assert list(read) == list(asked)
    if answer.header("content-type") == "application/json":
        got = answer.json()
        assert got["model"] == asked["model"]
        assert got["echo"] == read
    else:
        assert answer.body == seen[number]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_changed_or_mixed(wire: Wire, seed: int) -> None:
    seen: dict[str, bytes] = {}
    faults: list[str] = []
    answer = echo(seed, seen)
    clients, rounds = 4, 12
    wire.upstream.always = answer
    try:
        threads = [
            threading.Thread(target=talk, args=(wire, f"{seed}-{n}", rounds, seen, faults))
            for n in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        wire.upstream.always = None
    assert faults == []
    assert len(seen) >= clients * rounds


def test_a_large_upload_goes_on_after_the_race(wire: Wire) -> None:
    """The pooled connection dies unread with megabytes waiting: all of it goes out again."""
    body = b'{"model":"m","messages":[],"user":"' + b"a" * 60_000_000 + b'"}'

    def stand_and_die(connection: Connection) -> None:
        # the request of `wire.exchange` was answered; the upload comes next and is not read
        connection.go.wait(20)
        connection.reset()

    with wire.client(20) as client:
        connection = wire.exchange(client, ok(b"{}"), stand_and_die, CLOSE)
        assert client.answer().status == 200
        head = post(body)[: -len(body)]
        client.sock.settimeout(0.2)
        sent = 0
        client.send(head)
        try:
            while sent < len(body):
                sent += client.sock.send(body[sent : sent + 65536])
        except TimeoutError:
            pass  # held back: the upstream does not read
        assert 0 < sent < len(body)
        wire.upstream.play(ok(b'{"n":2}'))
        connection.go.set()
        client.sock.settimeout(20)
        client.send(body[sent:])
        answer = client.answer()
    assert (answer.status, answer.body) == (200, b'{"n":2}')
    received = wire.upstream.requests[-1].partition(b"\r\n\r\n")[2]
    assert json.loads(received) == {**json.loads(body), "model": "up"}
