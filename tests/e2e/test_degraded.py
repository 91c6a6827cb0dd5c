"""What a gateway does when the machine runs out of something: a clear word, and on it goes."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import free_port, mock_config
from yaml import safe_dump

from fastproxy import runtime


def has_namespaces() -> bool:
    """Whether a mount of one's own can be made here."""
    return (
        subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
        == 0
    )


def command(directory: Path) -> list[str]:
    path = directory / "proxy.yaml"
    path.write_text(safe_dump(mock_config(9)))
    return [
        sys.executable,
        "-m",
        "fastproxy",
        "--config",
        str(path),
        "--port",
        str(free_port()),
        "--num_workers",
        "2",
    ]


def left(pid: int) -> list[Path]:
    """What lies where runtime directories do, of a process."""
    return list(runtime.base().glob(f"{runtime.PREFIX}{pid}-*"))


# -- shared memory


def test_no_space_for_shared_memory_is_told_at_the_start(tmp_path: Path):
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -f 1024 && exec "$@"', "sh", *command(tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, said = process.communicate(timeout=20)
    assert process.returncode == 4
    assert said.startswith(f"fastproxy: no shared memory in {runtime.base()}: File too large")
    assert said.count("\n") == 1
    assert left(process.pid) == []


@pytest.mark.skipif(not has_namespaces(), reason="no mount can be made here")
def test_a_full_dev_shm_is_told_at_the_start(tmp_path: Path):
    shell = 'mount -t tmpfs -o size=5m none /dev/shm && "$@"; code=$?; ls -A /dev/shm; exit $code'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", *command(tmp_path)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith(
        "fastproxy: no shared memory in /dev/shm: No space left on device"
    )
    assert "df /dev/shm" in done.stderr
    assert done.stdout == ""  # nothing is left lying there
