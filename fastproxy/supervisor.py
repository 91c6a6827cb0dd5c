"""The process tree: binds sockets, forks, restarts, forwards signals. No requests, no config logic.

Children are forked before any loop or thread exists here; the listening sockets live in this process,
one per worker (SO_REUSEPORT), so a connection that arrives while a worker is being replaced waits in
its backlog instead of being refused. For a new program, or to begin anew, this process becomes it by
execve with the sockets open, starts a new generation of children beside the old, and sees the old off
when the new one serves.
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
from pathlib import Path
from typing import Any, NoReturn

from fastproxy import __version__, takeover
from fastproxy.runtime import RuntimeDirectory
from fastproxy.tree import (
    AUTH,
    BRIDGE,
    EXIT_PORT_TAKEN,
    EXIT_WORKERS_FAIL,
    GENERATIONS,
    HELPERS,
    RESTART_SECONDS,
    Child,
    Generation,
    StartError,
    bind_unix,
    limits_path,
    no_room,
)

log = logging.getLogger("fastproxy.supervisor")

# USR1 is control's: it has said something
SIGNALS = {
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
EXIT_CONFIG = 1
EXIT_CUT_SHORT = 1  # requests in flight were not finished
RESTART_MAX_SECONDS = 5.0
DESCRIPTORS_MIN = 64  # a worker's own, and those of two generations in the supervisor
IDLE_SECONDS = 60.0  # between looks when nothing happens
HELPERS_SECONDS = 5.0  # for control and mock to end after the workers
KEEPALIVE_SECONDS = 60  # of a client's silence before TCP asks whether it is still there
SAME_WISH_SECONDS = 0.5  # between two signals that ask for the end once
PATIENCE_SECONDS = 60.0  # for a trial of the program to end, for a new generation to be ready
ADOPTED_LOOK_SECONDS = 0.2  # between two looks whether a process that is no child of ours has ended
READY_LOOK_SECONDS = 0.05  # between two looks whether it is
TITLES = {BRIDGE: "LiteLLM's SDK", AUTH: "custom_auth"}
BIND_ADVICE = {
    errno.EADDRINUSE: "another program uses it; choose one with --port",
    errno.EACCES: "low ports are for root; choose another with --port",
    errno.EADDRNOTAVAIL: "--host must be an address of this machine",
    socket.EAI_NONAME: "--host must be an address of this machine",
}


@dataclass
class ServeOptions:
    """What the command line says about serving."""

    config: str | None = None
    data_dir: str | None = None
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


class Supervisor:
    """Owns sockets, shared memory, the runtime directory and the children."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.mock: Child | None = None
        self.serving: Generation | None = None
        self.coming: Generation | None = None  # after a restart: not ready yet
        self.leaving: list[Generation] = []  # finish what they have
        self.rehearsal: Child | None = None  # tries whether the program on the disk would start
        self.stopping = False
        self.asked = 0.0  # when somebody asked for the end
        self.deadline = 0.0  # while stopping: when those who are left are killed
        self.exit_code = 0
        self.unpacked = takeover.unpacked_directory()
        # of a one-file program: the process that unpacked it and will tidy up
        self.boot = os.getppid()
        self.outer: dict[
            int, int
        ] = {}  # those of the images before us, and descriptors that tell their end
        self.unix: socket.socket | None = None
        self.probed = False
        self.replaced = ""  # version of the image before us
        self.pid = os.getpid()

    def run(self) -> int:
        """Serve until a signal ends it; the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self.options.debug:
            # keys and prompts lie in memory: nothing of it may end in a core file
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _allow_descriptors(self.options.workers)
        inherited = takeover.handed_over()
        if inherited is None:
            self.sockets = [self._bind() for _ in range(self.options.workers)]
            try:
                self.runtime = RuntimeDirectory()
            except OSError as error:
                raise no_room(error) from None
            self.alive_read, self.alive_write = os.pipe()
        try:
            if inherited is None:
                self._start()
            else:
                self._take_over(inherited)
            self._watch()
        finally:
            self._clean_up()
        return self.exit_code

    # -- what outlives the children

    def _bind(self) -> list[socket.socket]:
        options = self.options
        if options.uds:
            if self.unix is None:
                self.unix = bind_unix(options.uds)
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
            # what is accepted has it too: a client that is gone without a word is noticed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
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

    def _clean_up(self) -> None:
        self.runtime.leave()
        if self._orphaned():
            shutil.rmtree(str(self.unpacked), ignore_errors=True)
        if self.options.uds:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.options.uds)

    # -- children

    def _start(self) -> None:
        self._ready_to_fork()
        if self.options.mock_port is not None:
            self.mock = self._mock_child(_listen_mock(self.options.mock_port))
        self.serving = self._new_generation(0)
        for child in self._children():  # all are known: each closes what is only for others
            if child.name not in HELPERS:  # control says whether it is needed
                self._fork(child)

    def _ready_to_fork(self) -> None:
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

    def _new_generation(self, number: int) -> Generation:
        generation = Generation.begin(number, self.runtime.path, len(self.sockets))
        generation.children = self._children_of(generation)
        return generation

    def _children_of(self, generation: Generation) -> list[Child]:
        from fastproxy import worker as worker_module

        children = [
            Child(
                "control",
                lambda: self._run_control(generation),
                [generation.feed, generation.control],
            )
        ]
        for index, sockets in enumerate(self.sockets):
            options = self._worker_options(worker_module, generation, index)
            children.append(
                Child(f"worker-{index}", _worker_runner(worker_module, options), sockets)
            )
        children.append(Child(BRIDGE, lambda: self._run_bridge(generation), [generation.bridge]))
        children.append(Child(AUTH, lambda: self._run_auth(generation), [generation.auth]))
        return children

    def _worker_options(self, module: Any, generation: Generation, index: int) -> Any:
        return module.WorkerOptions(
            index=index,
            sockets=self.sockets[index],
            feed_path=generation.feed_path,
            control_path=generation.control_path,
            auth_path=generation.auth_path,
            shared_path=generation.shared_path,
            traffic_path=generation.traffic_path,
            limits_path=limits_path(self.runtime.path, len(self.sockets)),
            limits_index=self._column(generation, index),
            alive_fd=self.alive_read,
            ssl_certfile=self.options.ssl_certfile,
            ssl_keyfile=self.options.ssl_keyfile,
            ciphers=self.options.ciphers,
            drain_seconds=self.options.drain_seconds,
        )

    def _column(self, generation: Generation, index: int) -> int:
        # of a worker in the file of limits
        return index + generation.number % GENERATIONS * len(self.sockets)

    def _sweep(self, generation: Generation, index: int) -> None:
        """What a worker that is gone had in flight is free at once, whenever it gets a successor, if ever."""
        from fastproxy._limits import Limits

        try:
            limits = Limits(limits_path(self.runtime.path, len(self.sockets)))
            limits.sweep(self._column(generation, index))
        except (OSError, ValueError) as error:
            log.error("what worker-%d had in flight stays counted: %s", index, error)

    def _run_control(self, generation: Generation) -> int:
        from fastproxy.control.main import ControlOptions, main

        return main(
            ControlOptions(
                serve=self.options,
                feed_socket=generation.feed,
                http_socket=generation.control,
                shared_path=generation.shared_path,
                traffic_path=generation.traffic_path,
                bridge_path=generation.bridge_path,
                serving_fd=generation.serving_read,
                kept=generation.kept,
                ready_fd=generation.ready_write,
                supervisor=self.pid,
            )
        )

    def _run_bridge(self, generation: Generation) -> int:
        from fastproxy.bridge.main import BridgeOptions, main

        return main(
            BridgeOptions(
                http_socket=generation.bridge,
                feed_path=generation.feed_path,
                serving_fd=generation.serving_read,
                drain_seconds=self.options.drain_seconds,
            )
        )

    def _run_auth(self, generation: Generation) -> int:
        from fastproxy.auth.main import AuthOptions, main

        return main(
            AuthOptions(
                socket=generation.auth,
                feed_path=generation.feed_path,
                serving_fd=generation.serving_read,
            )
        )

    def _mock_child(self, sock: socket.socket) -> Child:
        def run() -> int:
            from fastproxy.mock import serve_socket

            serve_socket(sock, self.alive_read)
            return 0

        return Child("mock", run, [sock])

    def _generations(self) -> list[Generation]:
        return [g for g in (self.serving, self.coming, *self.leaving) if g is not None]

    def _children(self) -> list[Child]:
        """In the order in which they are told things: mock, control, workers."""
        single = [c for c in (self.mock, self.rehearsal) if c is not None]
        return [*single, *(c for g in self._generations() for c in g.children)]

    def _fork(self, child: Child) -> None:
        pid = os.fork()
        if pid == 0:
            _become(child, self)
        child.pid = pid
        child.started = time.monotonic()
        child.restart_at = 0.0

    def let_go(self, child: Child) -> None:
        """In a child: close what only others use, so that their closing it is its end."""
        for other in self._children():
            for sock in other.keeps:
                if sock not in child.keeps:
                    sock.close()
        os.close(self.alive_write)
        for generation in self._generations():
            generation.leave_to(child)
        self.runtime.join()

    def has_ended(self, child: Child) -> None:
        """In a child: tell who ends after it, and leave the runtime directory."""
        for generation in self._generations():
            if child.serves and child in generation.children:
                os.close(generation.serving_write)
        orphaned = bool(select.select([self.alive_read], [], [], 0)[0])  # end of file
        self.runtime.leave(wait=orphaned)

    def _watch(self) -> None:
        self._reap()  # who died while this process changed its program
        while any(
            child.pid or (child.restart_at and not self.stopping) for child in self._children()
        ):
            # An interrupted wait may come back with no signal in it.
            info = signal.sigtimedwait(SIGNALS, self._due())
            number = info.si_signo if info is not None else 0
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR2:
                self._asked_to_restart()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._asked_to_stop()
            self._reap_adopted()
            self._look_at_rehearsal()
            if self._orphaned():
                self._stop()
            if self.stopping:
                self._see_out()
            else:
                self._look_at_coming()
                self._see_off()
                self._look_at_helpers()

    def _look_at_helpers(self) -> None:
        """Start the LiteLLM SDK's process and that of custom_auth where control needs them, end them where not."""
        for generation in (self.serving, self.coming):
            if generation is None:
                continue
            generation.hear()
            for helper in generation.children:
                if helper.name not in HELPERS:
                    continue
                wanted = helper.name in generation.wanted
                if wanted and not helper.pid and not helper.restart_at:
                    log.info("%s is started in a process of its own", TITLES[helper.name])
                    self._fork(helper)
                elif not wanted:
                    helper.restart_at = 0.0
                    self._signal([helper], signal.SIGTERM)

    def _reload(self) -> None:
        for generation in (self.serving, self.coming):
            if generation is not None:
                self._signal(generation.children, signal.SIGHUP)

    def _orphaned(self) -> bool:
        if self.unpacked is None:
            return False
        gone = self.outer and select.select(self.outer.values(), [], [], 0)[0]
        return bool(gone) or os.getppid() != self.boot

    def _due(self) -> float:
        """Start what is due; seconds until the next look."""
        now = time.monotonic()
        wait = 1.0 if self.unpacked is not None else IDLE_SECONDS
        if any(child.pidfd >= 0 for child in self._children()):
            wait = min(wait, ADOPTED_LOOK_SECONDS)  # no signal tells their end
        if self.stopping:
            return min(wait, max(0.0, self.deadline - now))
        if self.coming is not None:
            wait = min(wait, READY_LOOK_SECONDS)
        elif self.rehearsal is not None:
            wait = min(wait, 1.0)
        for generation in self.leaving:
            wait = min(wait, max(0.0, generation.deadline - now))
        for child in self._children():
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
            for child in self._children():
                if child.pid == pid:
                    self._ended(child, os.waitstatus_to_exitcode(status))
                    break

    def _reap_adopted(self) -> None:
        for child in self._children():
            if child.lost():
                self._ended(child, 0)

    def _ended(self, child: Child, code: int) -> None:
        pid, child.pid = child.pid, 0
        if self.stopping:
            # TERM ends a worker that has not begun to serve just like that
            if child.serves and code not in (0, -signal.SIGTERM):
                self.exit_code = self.exit_code or EXIT_CUT_SHORT
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if child is self.rehearsal:
            self._rehearsed(code, how)
            return
        generation = next((g for g in self._generations() if child in g.children), None)
        if generation is not None and child.serves:
            self._sweep(generation, int(child.name.removeprefix("worker-")))
        if generation in self.leaving:
            if code:
                log.warning("%s (pid %s) of before the restart ended by %s", child.name, pid, how)
            return
        if generation is not None and child.name in HELPERS:
            generation.hear()
            if child.name in generation.wanted:
                self._again(child, pid, how)
            return
        if generation is not None and not generation.is_ready():
            if generation is self.coming:
                self._give_up(f"the new {child.name} ended by {how}")
                return
            # It has never worked: control has said why (a broken config), or a worker can't run here.
            self.exit_code = code if child.name == "control" and code > 0 else EXIT_WORKERS_FAIL
            self._stop()
            return
        self.options.quiet = True  # its successor need not introduce itself
        self._again(child, pid, how)

    def _again(self, child: Child, pid: int, how: str) -> None:
        if time.monotonic() - child.started > 30:
            child.delay = RESTART_SECONDS
        log.error("%s (pid %s) ended by %s; starting another", child.name, pid, how)
        child.restart_at = time.monotonic() + child.delay
        child.delay = min(child.delay * 2, RESTART_MAX_SECONDS)

    # -- a restart: the same process, the program on the disk, a new generation of children

    def _asked_to_restart(self) -> None:
        if self.stopping:
            return
        if self.rehearsal is not None or self.coming is not None:
            log.warning("a restart is under way: asked again for nothing")
        elif self.serving is None or not self.serving.is_ready():
            log.warning("restart refused: not all workers serve yet")
        else:
            self.rehearsal = Child("rehearsal", _rehearse, [])
            self._fork(self.rehearsal)

    def _look_at_rehearsal(self) -> None:
        trial = self.rehearsal
        if trial is not None and time.monotonic() - trial.started >= PATIENCE_SECONDS:
            self._signal([trial], signal.SIGKILL)

    def _rehearsed(self, code: int, how: str) -> None:
        self.rehearsal = None
        if code:
            log.error(
                "restart refused, nothing has changed: a trial of the program ended by %s", how
            )
            return
        assert self.serving is not None  # noqa: S101  # only a serving tree rehearses
        mock = self.mock
        if self.unpacked is not None:
            # This process becomes the one that unpacks, which hands on what signals it gets: so that it
            # gets them, and lives until it does.
            for number in SIGNALS - {signal.SIGCHLD, signal.SIGTERM}:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        error = takeover.hand_over(
            takeover.Tree(
                version=__version__,
                sockets=[[sock.fileno() for sock in sockets] for sockets in self.sockets],
                directory=str(self.runtime.path),
                lock=self.runtime.lock,
                alive=(self.alive_read, self.alive_write),
                mock=(mock.keeps[0].fileno(), mock.pid) if mock is not None else None,
                boots=[self.boot, *self.outer] if self.unpacked is not None else [],
                serving=self.serving.state(),
                leaving=[generation.state() for generation in self.leaving],
            )
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        log.error("restart refused, nothing has changed: %s", error)

    def _take_over(self, tree: takeover.Tree) -> None:
        """Go on where the image before us stopped."""
        known = {fd: socket.socket(fileno=fd) for fds in tree.sockets for fd in set(fds)}
        self.sockets = [[known[fd] for fd in fds] for fds in tree.sockets]
        first = self.sockets[0][0]
        self.options.workers = len(
            self.sockets
        )  # each has a queue of its own, which must not be lost
        self.options.quiet = True
        if first.family == socket.AF_UNIX:
            self.unix = first
        else:
            self.options.port = first.getsockname()[1]
        self.runtime = RuntimeDirectory.adopt(Path(tree.directory), tree.lock)
        self.alive_read, self.alive_write = tree.alive
        for pid in tree.boots:
            with contextlib.suppress(ProcessLookupError):
                self.outer[pid] = os.pidfd_open(pid)
        if tree.mock is not None:
            self.mock = self._mock_child(socket.socket(fileno=tree.mock[0]))
            self.mock.adopt(tree.mock[1])
        self.serving = self._adopt(tree.serving)
        for state in tree.leaving:
            generation = self._adopt(state)
            self.leaving.append(generation)
            self._grant(generation)
        self.replaced = tree.version
        try:
            self._ready_to_fork()
            number = max(g.number for g in self._generations()) + 1
            self.coming = self._new_generation(number)
            self.coming.deadline = time.monotonic() + PATIENCE_SECONDS
            for child in self.coming.children:
                if child.name not in HELPERS:
                    self._fork(child)
        except (StartError, OSError) as error:
            log.error("restart refused, the old processes go on: %s", error)

    def _adopt(self, state: takeover.Generation) -> Generation:
        generation = Generation.adopt(state)
        generation.children = self._children_of(generation)
        for child in generation.children:
            child.adopt(state.pids.get(child.name, 0))
        return generation

    def _look_at_coming(self) -> None:
        coming = self.coming
        if coming is None:
            return
        if not coming.is_ready():
            if time.monotonic() >= coming.deadline:
                self._give_up(f"the new processes were not ready within {PATIENCE_SECONDS:g} s")
            return
        old, self.serving, self.coming = self.serving, coming, None
        log.warning(
            "restarted: fastproxy %s serves, the processes of %s finish what they have",
            __version__,
            self.replaced,
        )
        if old is not None:
            self._leave(old, signal.SIGUSR2)

    def _give_up(self, why: str) -> None:
        log.error("restart refused, the old processes go on: %s", why)
        if self.coming is not None:
            coming, self.coming = self.coming, None
            self._leave(coming, signal.SIGTERM)

    def _leave(self, generation: Generation, number: signal.Signals) -> None:
        self.leaving.append(generation)
        self._grant(generation)
        self._signal([c for c in generation.children if c.serves], number)

    def _grant(self, generation: Generation) -> None:
        # its workers drain by themselves; this is for one that hangs
        generation.deadline = time.monotonic() + self.options.drain_seconds + HELPERS_SECONDS

    def _see_off(self) -> None:
        """Of each leaving generation the workers end first, so that control sees their last events."""
        now = time.monotonic()
        for generation in list(self.leaving):
            workers = [c for c in generation.children if c.pid and c.serves]
            others = [c for c in generation.children if c.pid and not c.serves]
            late = now >= generation.deadline
            if late:
                self._signal(workers or others, signal.SIGKILL)
                generation.deadline = now + HELPERS_SECONDS
            elif not workers and others and not generation.dismissed:
                generation.dismissed = True
                generation.deadline = now + HELPERS_SECONDS
                self._signal(others, signal.SIGTERM)
            if not workers and not others:
                self.leaving.remove(generation)
                generation.close()
                log.info("what was to leave after the restart has ended")

    # -- the end

    def _asked_to_stop(self) -> None:
        if self.stopping:
            # `timeout` and terminals signal a whole process group: what comes at once is one wish
            if time.monotonic() > self.asked + SAME_WISH_SECONDS:
                log.warning("asked again: requests in flight are cut")
                self._signal(self._children(), signal.SIGKILL)
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
                if self.outer:  # those processes hold it too, and do nothing with it
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self.deadline = time.monotonic() + self.options.drain_seconds + HELPERS_SECONDS
        self._signal(
            [c for c in self._children() if c.serves or c is self.rehearsal], signal.SIGTERM
        )

    def _see_out(self) -> None:
        """Workers end first, so that control sees their last events; then the others."""
        late = time.monotonic() >= self.deadline
        workers = [c for c in self._children() if c.pid and c.serves]
        if workers:
            if late:
                self._signal(workers, signal.SIGKILL)
                self.deadline += HELPERS_SECONDS
        elif late:
            self._signal(self._children(), signal.SIGKILL)
            self.deadline += HELPERS_SECONDS
        else:
            self._signal(self._children(), signal.SIGTERM)

    def _signal(self, children: list[Child], number: signal.Signals) -> None:
        for child in children:
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)


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
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
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
            supervisor.has_ended(child)
        os._exit(code)


def _allow_descriptors(workers: int) -> None:
    # Each connection takes one. The soft limit is low for the sake of programs that use select(); we poll.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = DESCRIPTORS_MIN + workers
    if most != resource.RLIM_INFINITY and most < needed:
        raise StartError(
            f"{most} open files are allowed and {needed} needed before the first connection: "
            "raise the limit (ulimit -Hn, LimitNOFILE)",
            EXIT_WORKERS_FAIL,
        )


def _rehearse() -> int:
    """In a child: would the program on the disk start with this command line and configuration?"""
    command = takeover.program()
    os.execve(command[0], command, takeover.environment(takeover.REHEARSAL))  # noqa: S606  # no shell is wanted


def _listen_mock(port: int) -> socket.socket:
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
    return sock


def _probe(family: int, address: Any) -> None:
    # SO_REUSEPORT would let us share a port with another fastproxy of the same user unnoticed.
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
