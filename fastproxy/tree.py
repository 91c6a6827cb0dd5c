"""What a process tree is made of: children, and generations of them that one image of the program has started."""

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastproxy import leftover, runtime, takeover
from fastproxy.keepsake import Keepsake

# What control says to the supervisor, a byte each: all workers serve; the LiteLLM SDK is needed, or not any more.
READY, BRIDGE_WANTED, BRIDGE_UNWANTED, AUTH_WANTED, AUTH_UNWANTED = b"RBbAa"
BRIDGE, AUTH = HELPERS = (
    "bridge",
    "auth",
)  # processes that run where control says that they are needed
GENERATIONS = 2  # that may run at once, during a restart
RING_SLOTS = 16384  # usage events per worker that wait for control
EXIT_PORT_TAKEN = 3
EXIT_WORKERS_FAIL = 4
# seconds between the death of a child and its successor, doubled while it keeps dying
RESTART_SECONDS = 0.2


class StartError(Exception):
    """The tree can't start; str() is for a person, `exit_code` for the shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def limits_path(directory: Path, workers: int) -> str:
    """The file of limits and budgets: it outlives a generation, as long as its layout and the number of workers stay."""
    from fastproxy._limits import LAYOUT

    return str(directory / f"limits-{LAYOUT}-{workers}")


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
    pidfd: int = -1  # of a process that is no child of ours: tells its end

    @property
    def serves(self) -> bool:
        """Whether it is a worker, with requests to finish."""
        return self.name.startswith("worker")

    def adopt(self, pid: int) -> None:
        """Go on with a process that the image of the program before us has started."""
        self.pid, self.started = pid, time.monotonic()
        try:
            if pid:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # we are a child of what it is a child of: a one-file program
            try:
                self.pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                self.pid = 0

    def lost(self) -> bool:
        """Whether an adopted process that is no child of ours has ended."""
        if self.pidfd < 0 or not select.select([self.pidfd], [], [], 0)[0]:
            return False
        os.close(self.pidfd)
        self.pidfd = -1
        return True


@dataclass
class Generation:
    """Control, workers and helpers of one image of the program, and what only they share."""

    number: int
    feed: socket.socket
    feed_path: str
    control: socket.socket
    control_path: str
    bridge: socket.socket
    bridge_path: str
    auth: socket.socket
    auth_path: str
    shared_path: str
    traffic_path: str
    ready_read: int
    ready_write: int
    serving_read: int  # end of file here: the supervisor and all workers are gone
    serving_write: int
    kept: Keepsake  # for the next control process, should this one die
    ready: bool = False
    wanted: set[str] = field(default_factory=set)  # those of HELPERS that the configuration needs
    dismissed: bool = False  # leaving: its control has been told to end
    deadline: float = 0.0  # coming: to be ready; leaving: when those who are left are killed
    children: list[Child] = field(default_factory=list)

    @classmethod
    def begin(cls, number: int, directory: Path, workers: int) -> "Generation":
        """A new one in the runtime directory. Raises StartError, and leaves nothing there."""
        from fastproxy import _limits, _shared, _traffic

        suffix = f"-{number}" if number else ""
        feed, control, bridge, auth = (
            str(directory / f"{name}{suffix}.sock")
            for name in ("feed", "control", "bridge", "auth")
        )
        shared = str(directory / f"shared{suffix}")
        traffic = str(directory / f"traffic{suffix}")
        try:
            _shared.create(shared, workers, RING_SLOTS)
            _traffic.create(traffic, workers)
            limits = limits_path(directory, workers)
            if not os.path.exists(limits):  # the generation before has it, and both count in it
                _limits.create(limits, workers * GENERATIONS)
        except OSError as error:
            for path in (shared, traffic):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            raise no_room(error) from None
        read, write = os.pipe()
        os.set_blocking(read, False)
        serving_read, serving_write = os.pipe()
        return cls(
            number=number,
            feed=bind_unix(feed),
            feed_path=feed,
            control=bind_unix(control),
            control_path=control,
            bridge=bind_unix(bridge),
            bridge_path=bridge,
            auth=bind_unix(auth),
            auth_path=auth,
            shared_path=shared,
            traffic_path=traffic,
            ready_read=read,
            ready_write=write,
            serving_read=serving_read,
            serving_write=serving_write,
            kept=Keepsake(),
        )

    @classmethod
    def adopt(cls, state: takeover.Generation) -> "Generation":
        """One that the image before us has started."""
        return cls(
            number=state.number,
            feed=socket.socket(fileno=state.feed[0]),
            feed_path=state.feed[1],
            control=socket.socket(fileno=state.control[0]),
            control_path=state.control[1],
            bridge=socket.socket(fileno=state.bridge[0]),
            bridge_path=state.bridge[1],
            auth=socket.socket(fileno=state.auth[0]),
            auth_path=state.auth[1],
            wanted={name for name in HELPERS if name in state.pids},
            shared_path=state.shared,
            traffic_path=state.traffic,
            ready_read=state.ready[0],
            ready_write=state.ready[1],
            serving_read=state.serving[0],
            serving_write=state.serving[1],
            kept=Keepsake(state.kept),
            ready=True,
        )

    def state(self) -> takeover.Generation:
        """For the image after us."""
        return takeover.Generation(
            number=self.number,
            feed=(self.feed.fileno(), self.feed_path),
            control=(self.control.fileno(), self.control_path),
            bridge=(self.bridge.fileno(), self.bridge_path),
            auth=(self.auth.fileno(), self.auth_path),
            shared=self.shared_path,
            traffic=self.traffic_path,
            ready=(self.ready_read, self.ready_write),
            serving=(self.serving_read, self.serving_write),
            kept=tuple(self.kept.copies),
            pids={child.name: child.pid for child in self.children if child.pid},
        )

    def leave_to(self, child: Child) -> None:
        """In a forked child: close what it has no part in."""
        member = child in self.children
        os.close(self.ready_read)
        if not member or not child.serves:
            os.close(self.serving_write)
        if not member or child.serves:
            os.close(self.serving_read)
        if not member or child.name != "control":
            os.close(self.ready_write)
            self.kept.close()

    def is_ready(self) -> bool:
        """Whether control has ever said that all workers serve."""
        self.hear()
        return self.ready

    def hear(self) -> None:
        """Take in what control has said; the last word about a helper counts."""
        with contextlib.suppress(BlockingIOError):
            for word in os.read(self.ready_read, 4096):
                if word == READY:
                    self.ready = True
                else:
                    name = BRIDGE if word in (BRIDGE_WANTED, BRIDGE_UNWANTED) else AUTH
                    if word in (BRIDGE_WANTED, AUTH_WANTED):
                        self.wanted.add(name)
                    else:
                        self.wanted.discard(name)

    def close(self) -> None:
        """After the end of its processes: what they shared goes."""
        self.feed.close()
        self.control.close()
        self.bridge.close()
        self.auth.close()
        os.close(self.ready_read)
        os.close(self.ready_write)
        os.close(self.serving_read)
        os.close(self.serving_write)
        self.kept.close()
        shared = Path(self.shared_path)
        leftover.hand_on(shared)
        beside = shared.parent.glob(f"{shared.name}.*")  # what control keeps there
        traffic = Path(self.traffic_path)
        sockets = (self.feed_path, self.control_path, self.bridge_path, self.auth_path)
        for path in (*map(Path, sockets), shared, traffic, *beside):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def no_room(error: OSError) -> StartError:
    """What to say where shared memory can't be had."""
    place = runtime.base()
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = f" (14 MB and 13 MB for each worker are needed; see `df {place}`)" if full else ""
    return StartError(
        f"no shared memory in {place}: {error.strerror or error}{advice}", EXIT_WORKERS_FAIL
    )


def bind_unix(path: str) -> socket.socket:
    """A listening Unix socket that only this user may reach. Raises StartError."""
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
