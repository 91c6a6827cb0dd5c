"""Facts about process trees for the benchmarks: CPU time, memory, pinning, cores kept awake.

All from /proc; on a system without it the figures are zero.
It must not know who is measured or why.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(") ")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_ns(pids: list[int]) -> int:
    """CPU time of all threads in nanoseconds. Threads that ended are not in it."""
    total = 0
    for pid in pids:
        for entry in (PROC / str(pid) / "task").glob("*/schedstat"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                total += int(entry.read_text().split()[0])
    return total


def pss_kb(pids: list[int]) -> int:
    """Proportional memory in KiB: pages shared by n processes count 1/n in each."""
    return sum(_rollup(pid, "Pss:") for pid in pids)


def rss_kb(pids: list[int]) -> int:
    """Resident memory in KiB; pages that processes share count in each of them."""
    return sum(_rollup(pid, "Rss:") for pid in pids)


def _rollup(pid: int, name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def machine_busy_ns() -> int:
    """CPU time that all processes of the machine took, in nanoseconds (steps of a clock tick)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = [int(one) for one in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _, _, irq, softirq, _ = fields
        ticks = user + nice + system + irq + softirq
        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return 0


def cpus() -> list[int]:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(where: set[int] | None) -> None:
    """Bind this process (and what it starts from now on) to some CPUs."""
    if where and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, where)


def end_with_parent() -> None:
    """Ask the kernel to send this process a SIGTERM when its parent ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


class Spinners:
    """A SCHED_IDLE busy loop on each CPU: a virtual core that never halts wakes up at once.

    They are plain forks of this process, in the same session as the peers, because the scheduler's
    autogroups would otherwise share the core between sessions first.
    """

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, where: list[int]) -> None:
        """Fork one for every CPU; does nothing where SCHED_IDLE is not known."""
        if not hasattr(os, "SCHED_IDLE"):
            return
        parent = os.getpid()
        for cpu in where:
            pid = os.fork()
            if pid == 0:
                _spin(cpu, parent)
            self.pids.append(pid)

    def stop(self) -> None:
        """End them."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self.pids = []


def _spin(cpu: int, parent: int) -> None:
    """Burn the idle time of a CPU until the parent is gone."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.sched_setaffinity(0, {cpu})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        while os.getppid() == parent:
            for _ in range(2_000_000):
                pass
    finally:
        os._exit(0)
