"""The process tree: binds sockets, forks, restarts what dies, forwards signals. No requests, no config logic.

Children are forked before any loop or thread exists here; the listening sockets live in this process,
one per worker (SO_REUSEPORT), so a connection that arrives while a worker is being replaced waits in
its backlog instead of being refused.
"""

import contextlib
import errno
import gc
import logging
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fastproxy.runtime import RuntimeDirectory

log = logging.getLogger("fastproxy.supervisor")

RING_SLOTS = 16384  # usage events per worker that wait for control
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
EXIT_CONFIG = 1
EXIT_CUT_SHORT = 1  # requests in flight were not finished
EXIT_PORT_TAKEN = 3
EXIT_WORKERS_FAIL = 4
# seconds between the death of a child and its successor, doubled while it keeps dying
RESTART_SECONDS = 0.2
RESTART_MAX_SECONDS = 5.0
IDLE_SECONDS = 60.0  # between looks when nothing happens
HELPERS_SECONDS = 5.0  # for control and mock to end after the workers
SAME_WISH_SECONDS = 0.5  # between two signals that ask for the end once
BIND_ADVICE = {
    errno.EADDRINUSE: "another program uses it; choose one with --port",
    errno.EACCES: "low ports are for root; choose another with --port",
    errno.EADDRNOTAVAIL: "--host must be an address of this machine",
    socket.EAI_NONAME: "--host must be an address of this machine",
}


class StartError(Exception):
    """The tree can't start; str() is for a person, `exit_code` for the shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class ServeOptions:
    """What the command line says about serving."""

    config: str | None = None
    host: str = "127.0.0.1"
    port: int = 4000
    uds: str | None = None
    workers: int = 1
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ciphers: str | None = None
    drain_seconds: float = 30.0
    mock_port: int | None = None
    allow_missing: list[str] = field(default_factory=list)
    debug: bool = False
    quiet: bool = False
    hello: bool = False
    reload_config: bool = False

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the gateway."""
        if self.uds:
            return f"unix:{self.uds}"
        scheme = "https" if self.ssl_certfile else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        root = os.environ.get("SERVER_ROOT_PATH", "").strip("/")
        authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        return f"{scheme}://{authority}/{root}".rstrip("/")


@dataclass
class Child:
    """A process of the tree and how to make it again."""

    name: str
    run: Callable[[], int]
    keeps: list[socket.socket]  # what it listens on; of the tree's other sockets it holds none
    pid: int = 0
    started: float = 0.0
    delay: float = RESTART_SECONDS
    restart_at: float = 0.0

    @property
    def serves(self) -> bool:
        """Whether it is a worker, with requests to finish."""
        return self.name.startswith("worker")


class Supervisor:
    """Owns sockets, shared memory, the runtime directory and the children."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.children: list[Child] = []
        self.stopping = False
        self.asked = 0.0  # when somebody asked for the end
        self.deadline = 0.0  # while stopping: when those who are left are killed
        self.exit_code = 0
        self.ready = False
        self.unpacked = unpacked_directory()
        # of a one-file program: the process that unpacked it and will tidy up
        self.boot = os.getppid()
        self.unix: socket.socket | None = None
        self.probed = False

    def run(self) -> int:
        """Serve until a signal ends it; the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self.options.debug:
            # keys and prompts lie in memory: nothing of it may end in a core file
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self.sockets = [self._bind() for _ in range(self.options.workers)]
        self.runtime = RuntimeDirectory()
        try:
            self._prepare()
            self._start_children()
            self._watch()
        finally:
            self._clean_up()
        return self.exit_code

    # -- what outlives the children

    def _bind(self) -> list[socket.socket]:
        options = self.options
        if options.uds:
            if self.unix is None:
                self.unix = _bind_unix(options.uds)
            return [self.unix]
        try:
            infos = socket.getaddrinfo(
                options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = infos[0]
            if not self.probed:
                self.probed = True
                _probe(family, address)
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            if options.port == 0:
                options.port = sock.getsockname()[1]
        except OSError as error:
            advice = BIND_ADVICE.get(error.errno or 0)
            raise StartError(
                f"can't listen on {options.host}:{options.port}: {error.strerror or error}"
                + (f" ({advice})" if advice else ""),
                EXIT_PORT_TAKEN,
            ) from None
        return [sock]

    def _prepare(self) -> None:
        from fastproxy import _shared

        directory = self.runtime.path
        self.feed_path = str(directory / "feed.sock")
        self.control_path = str(directory / "control.sock")
        self.shared_path = str(directory / "shared")
        self.feed_socket = _bind_unix(self.feed_path)
        self.control_socket = _bind_unix(self.control_path)
        _shared.create(self.shared_path, self.options.workers, RING_SLOTS)
        self.alive_read, self.alive_write = os.pipe()
        self.ready_read, self.ready_write = os.pipe()
        os.set_blocking(self.ready_read, False)

    def _clean_up(self) -> None:
        self.runtime.leave()
        if self._orphaned():
            shutil.rmtree(str(self.unpacked), ignore_errors=True)
        if self.options.uds:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.options.uds)

    # -- children

    def _start_children(self) -> None:
        # Imported here, before the fork: the pages are shared by all children.
        from fastproxy import worker as worker_module

        options = self.options
        if options.ssl_certfile:
            try:
                worker_module.tls_context(
                    options.ssl_certfile, options.ssl_keyfile, options.ciphers
                )
            except ValueError as error:
                raise StartError(f"TLS can't be served: {error}", EXIT_CONFIG) from None
        gc.collect()
        gc.freeze()
        if options.mock_port is not None:
            self.children.append(self._mock_child(options.mock_port))
        control = [self.feed_socket, self.control_socket]
        self.children.append(Child("control", self._run_control, control))
        for index, sockets in enumerate(self.sockets):
            run = _worker_runner(worker_module, self._worker_options(worker_module, index))
            self.children.append(Child(f"worker-{index}", run, sockets))
        for child in self.children:
            self._fork(child)

    def _worker_options(self, module: Any, index: int) -> Any:
        return module.WorkerOptions(
            index=index,
            sockets=self.sockets[index],
            feed_path=self.feed_path,
            control_path=self.control_path,
            shared_path=self.shared_path,
            alive_fd=self.alive_read,
            ssl_certfile=self.options.ssl_certfile,
            ssl_keyfile=self.options.ssl_keyfile,
            ciphers=self.options.ciphers,
            drain_seconds=self.options.drain_seconds,
        )

    def _run_control(self) -> int:
        from fastproxy.control.main import ControlOptions, main

        return main(
            ControlOptions(
                serve=self.options,
                feed_socket=self.feed_socket,
                http_socket=self.control_socket,
                shared_path=self.shared_path,
                alive_fd=self.alive_read,
                ready_fd=self.ready_write,
            )
        )

    def _mock_child(self, port: int) -> Child:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise StartError(
                f"the mock LLM can't listen on 127.0.0.1:{port}: {error.strerror} "
                "(choose another port with --mock PORT)",
                EXIT_PORT_TAKEN,
            ) from None
        sock.listen(1024)

        def run() -> int:
            from fastproxy.mock import serve_socket

            serve_socket(sock, self.alive_read)
            return 0

        return Child("mock", run, [sock])

    def _fork(self, child: Child) -> None:
        pid = os.fork()
        if pid == 0:
            _become(child, self)
        child.pid = pid
        child.started = time.monotonic()
        child.restart_at = 0.0

    def let_go(self, child: Child) -> None:
        """In a child: close what only others use, so that their closing it is its end."""
        for other in self.children:
            for sock in other.keeps:
                if sock not in child.keeps:
                    sock.close()
        os.close(self.alive_write)
        os.close(self.ready_read)
        if child.name != "control":
            os.close(self.ready_write)
        self.runtime.join()

    def _watch(self) -> None:
        while any(child.pid for child in self.children):
            # An interrupted wait may come back with no signal in it.
            info = signal.sigtimedwait(SIGNALS, self._due())
            number = info.si_signo if info is not None else 0
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._signal_children(signal.SIGHUP, lambda child: child.name != "mock")
            elif number in SIGNALS:
                self._asked_to_stop()
            if self._orphaned():
                self._stop()
            if self.stopping:
                self._see_out()

    def _orphaned(self) -> bool:
        return self.unpacked is not None and os.getppid() != self.boot

    def _due(self) -> float:
        """Start what is due; seconds until the next look."""
        now = time.monotonic()
        wait = 1.0 if self.unpacked is not None else IDLE_SECONDS
        if self.stopping:
            return min(wait, max(0.0, self.deadline - now))
        for child in self.children:
            if child.pid or not child.restart_at:
                continue
            if child.restart_at <= now:
                self._fork(child)
            else:
                wait = min(wait, child.restart_at - now)
        return wait

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self.children:
                if child.pid == pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        pid, child.pid = child.pid, 0
        if self.stopping:
            # TERM ends a worker that has not begun to serve just like that
            if child.serves and code not in (0, -signal.SIGTERM):
                self.exit_code = self.exit_code or EXIT_CUT_SHORT
            return
        with contextlib.suppress(BlockingIOError):
            self.ready = self.ready or bool(os.read(self.ready_read, 1))
        if not self.ready:
            # It has never worked: control has said why (a broken config), or a worker can't run here.
            self.exit_code = code if child.name == "control" and code > 0 else EXIT_WORKERS_FAIL
            self._stop()
            return
        self.options.quiet = True  # its successor need not introduce itself
        if time.monotonic() - child.started > 30:
            child.delay = RESTART_SECONDS
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("%s (pid %s) ended by %s; starting another", child.name, pid, how)
        child.restart_at = time.monotonic() + child.delay
        child.delay = min(child.delay * 2, RESTART_MAX_SECONDS)

    # -- the end

    def _asked_to_stop(self) -> None:
        if self.stopping:
            # `timeout` and terminals signal a whole process group: what comes at once is one wish
            if time.monotonic() > self.asked + SAME_WISH_SECONDS:
                log.warning("asked again: requests in flight are cut")
                self._signal_children(signal.SIGKILL)
            return
        self.asked = time.monotonic()
        seconds = self.options.drain_seconds
        log.info("stopping: requests in flight have %g s; once more ends them at once", seconds)
        self._stop()

    def _stop(self) -> None:
        """No new connections from now on; `_see_out` does the rest."""
        if self.stopping:
            return
        self.stopping = True
        for sockets in self.sockets:
            for sock in sockets:
                sock.close()
        self.deadline = time.monotonic() + self.options.drain_seconds + HELPERS_SECONDS
        self._signal_children(signal.SIGTERM, lambda child: child.serves)

    def _see_out(self) -> None:
        """Workers end first, so that control sees their last events; then the others."""
        late = time.monotonic() >= self.deadline
        if any(child.pid for child in self.children if child.serves):
            if late:
                self._signal_children(signal.SIGKILL, lambda child: child.serves)
                self.deadline += HELPERS_SECONDS
        elif late:
            self._signal_children(signal.SIGKILL)
            self.deadline += HELPERS_SECONDS
        else:
            self._signal_children(signal.SIGTERM)

    def _signal_children(
        self, number: int, wanted: Callable[[Child], bool] = lambda child: True
    ) -> None:
        for child in self.children:
            if child.pid and wanted(child):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)


def unpacked_directory() -> str | None:
    """Where a one-file program has unpacked itself; None for any other kind of installation."""
    directory = getattr(sys, "_MEIPASS", None)
    name = os.path.basename(directory) if isinstance(directory, str) else ""
    return directory if name.startswith("_MEI") else None


def _worker_runner(module: Any, options: Any) -> Callable[[], int]:
    return lambda: int(module.main(options))


def _become(child: Child, supervisor: Supervisor) -> NoReturn:
    """The child's life: never returns into the supervisor's code."""
    code = 1
    try:
        supervisor.let_go(child)
        # the terminal's ^C is the supervisor's to handle; HUP until the child says what it does with it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = child.run()
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        log.exception("%s failed", child.name)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            orphaned = bool(select.select([supervisor.alive_read], [], [], 0)[0])  # end of file
            supervisor.runtime.leave(wait=orphaned)
        os._exit(code)


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.path.exists(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise StartError(f"another program listens on {path}", EXIT_PORT_TAKEN)
        os.unlink(path)  # left behind by a process that is gone
    try:
        sock.bind(path)
    except OSError as error:
        raise StartError(f"can't listen on {path}: {error.strerror}", EXIT_PORT_TAKEN) from None
    os.chmod(path, 0o600)
    sock.listen(1024)
    return sock


def _probe(family: int, address: Any) -> None:
    # SO_REUSEPORT would let us share a port with another fastproxy of the same user unnoticed.
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
