"""An upstream whose every byte a test decides, and the client's side of the same table.

A test queues one script for each request it expects; what arrives is kept by connection. Nothing here
waits for time to pass: `Wire.barrier` tells when the gateway has read what was sent before it.
"""

import array
import contextlib
import fcntl
import os
import queue
import re
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import MASTER, UPSTREAM_KEY, Client, Gateway, until

PATH = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'

CLOSE, RESET, HOLD = "close", "reset", "hold"
Step = bytes | str | Callable[["Connection"], None]


def ok(body: bytes = b"{}", *lines: bytes, kind: bytes = b"application/json") -> bytes:
    """A plain answer with a length."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\n"
    head += b"".join(line + b"\r\n" for line in lines)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def arrive(sock: socket.socket, data: bytes) -> None:
    """Send, and return when the peer's kernel has it all: fixes the order between two sockets."""
    sock.sendall(data)
    unacknowledged = array.array("i", [0])

    def all_there() -> bool:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unacknowledged)
        return unacknowledged[0] == 0

    until(all_there, what="the arrival")


def connected(sock: socket.socket) -> bool:
    """Whether a connect without waiting has come about."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class Connection:
    """One connection that the gateway opened."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number = sock, number
        self.requests: list[bytes] = []
        self.go = threading.Event()
        self.lost = threading.Event()

    def send(self, data: bytes) -> None:
        """Bytes to the gateway, asked for or not."""
        self.sock.sendall(data)

    def gone(self) -> bool:
        """Whether the gateway has closed this connection."""
        return self.lost.is_set()

    def reset(self) -> None:
        """Close with RST."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()


class Upstream:
    """Listens, notes every request, answers with what the test queued (else a plain 200)."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self.listener.getsockname()[1])
        self.connections: list[Connection] = []
        self.scripts: queue.SimpleQueue[Sequence[Step]] = queue.SimpleQueue()
        self.journal: list[tuple[Connection, bytes]] = []  # every request, in the order of arrival
        self.stray: list[bytes] = []  # what came and was no request
        self.deaf = threading.Event()  # set: new requests are not read
        self.always: Step | None = None  # what is answered where nothing is queued
        self.open = threading.Event()
        self.open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> list[bytes]:
        """Every request so far, whole."""
        return [request for _, request in list(self.journal)]

    def play(self, *steps: Step) -> None:
        """The answer to the next request that has none: bytes go out in pieces as given."""
        self.scripts.put(steps)

    def unplayed(self) -> int:
        """How many scripts nobody asked for; they are thrown away."""
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self.scripts.get_nowait()
                count += 1
        return count

    def close(self) -> None:
        self.listener.close()
        for connection in self.connections:
            connection.go.set()
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def crowded(self) -> Iterator[None]:
        """No new connection comes about inside: the queue of the listener is full."""
        self.listener.listen(0)
        self.open.clear()
        crowd: list[socket.socket] = []
        try:
            while not crowd or connected(crowd[-1]):
                crowd.append(socket.socket())
                crowd[-1].setblocking(False)
                crowd[-1].connect_ex(("127.0.0.1", self.port))
            yield
        finally:
            self.listener.listen(64)
            self.open.set()
            for sock in crowd:
                sock.close()

    def _accept(self) -> None:
        while True:
            self.open.wait()
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, len(self.connections))
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        data = bytearray()
        try:
            while True:
                while not (size := self._size(data)) or len(data) < size:
                    while self.deaf.is_set():
                        time.sleep(0.01)
                    piece = connection.sock.recv(1 << 20)
                    if not piece:
                        return
                    data += piece
                request = bytes(data[:size])
                del data[:size]
                connection.requests.append(request)
                self.journal.append((connection, request))
                if not self._answer(connection):
                    return
        except OSError:
            pass
        finally:
            if data:
                self.stray.append(bytes(data))
            connection.lost.set()
            connection.sock.close()

    @staticmethod
    def _size(data: bytearray) -> int:
        """Bytes of the request at the start of the data, 0 as long as its head is not whole."""
        end = data.find(b"\r\n\r\n", 0, 65536)
        if end < 0:
            return 0
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[:end])
        return end + 4 + int(found[1] if found else 0)

    def _answer(self, connection: Connection) -> bool:
        try:
            steps = self.scripts.get_nowait()
        except queue.Empty:
            steps = (self.always or ok(),)
        for step in steps:
            if isinstance(step, bytes):
                connection.sock.sendall(step)
            elif callable(step):
                step(connection)
            elif step == HOLD:
                connection.go.wait(120)  # the test says when; under sanitizers it takes its time
                connection.go.clear()
            elif step == RESET:
                connection.reset()
                return False
            else:
                return False
        return True


def post(body: bytes = BODY, *lines: bytes, key: str = MASTER, path: str = PATH) -> bytes:
    """A well-formed request."""
    return (
        b"POST %b HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer %b\r\n"
        % (path.encode(), key.encode())
        + b"".join(line + b"\r\n" for line in lines)
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


class Wire:
    """The gateway, the upstream behind it, and a connection that tells when bytes were read."""

    def __init__(self, gateway: Gateway, upstream: Upstream) -> None:
        self.gateway, self.upstream = gateway, upstream
        self._side = gateway.client()

    def client(self, timeout: float = 10.0) -> Client:
        return self.gateway.client(timeout)

    def barrier(self) -> None:
        """Returns when the worker has read what any peer had sent before this call.

        There is one worker, and its loop takes ready sockets in the order in which they became ready.
        """
        self._side.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
        assert self._side.answer().status == 200

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The worker stands still inside; what is sent meanwhile is read in one turn of its loop."""
        pid = self.worker()
        os.kill(pid, signal.SIGSTOP)
        try:
            stat = Path(f"/proc/{pid}/stat")
            until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="the stop")
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def worker(self) -> int:
        """The pid of the worker: the younger child of the supervisor."""
        pid = self.gateway.process.pid
        return max(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def pieces(self, client: Client, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
        """Send so that the gateway reads each piece by itself; ends early if it has closed."""
        for piece in pieces:
            try:
                client.send(piece)
            except OSError:
                return
            self.barrier()

    def exchange(self, client: Client, *answer: Step, body: bytes = BODY) -> Connection:
        """A request that is answered as given; the connection it went over. The answer is not read."""
        before = len(self.upstream.requests)
        self.upstream.play(*answer)
        client.send(post(body))
        until(lambda: len(self.upstream.requests) > before, what="the request upstream")
        return self.last()

    def last(self) -> Connection:
        """The connection with the newest request."""
        return self.upstream.journal[-1][0]

    def close(self) -> None:
        self._side.sock.close()


def config(port: int) -> dict[str, Any]:
    """Models in front of the scripted upstream, with limits small enough to be reached in a test."""
    base = {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": UPSTREAM_KEY}
    return {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {"model": "openai/up", "use_in_pass_through": True, **base},
            },
            {"model_name": "w/*", "litellm_params": {"model": "openai/*", **base}},
            {
                "model_name": "quick",
                "litellm_params": {"model": "openai/up", "timeout": 0.3, **base},
            },
        ],
        "router_settings": {"num_retries": 0},  # what is tried again is judged elsewhere
        "general_settings": {"master_key": MASTER, "max_request_size_mb": 1},
    }
