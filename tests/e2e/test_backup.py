"""`fastproxy backup` beside a running gateway, `fastproxy restore` in the place of what is there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from admin import call, chat, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {
        k: v for k, v in os.environ.items() if k not in ("FASTPROXY_DATA_DIR", "CONFIG_FILE_PATH")
    }
    return subprocess.run(
        [sys.executable, "-m", "fastproxy", *arguments], env=environ, capture_output=True, text=True, timeout=30, check=False
    )  # fmt: skip


def test_there_and_back(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    gateway = start(mock_config(mock_port)).wait()
    data, copy = str(gateway.path.parent / "fastproxy-data"), tmp_path / "copy.db"
    kept = make(gateway, "/key/generate", {"key_alias": "kept"})["key"]
    params = {
        "model": "openai/up", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY,
    }  # fmt: skip
    make(gateway, "/model/new", {"model_name": "stored", "litellm_params": params})
    done = run("backup", str(copy), "--config", str(gateway.path))
    assert done.returncode == 0, done.stderr
    assert copy.stat().st_mode & 0o777 == 0o600
    assert run("backup", str(copy), "--data-dir", data).returncode == 1  # nothing is overwritten
    later = make(gateway, "/key/generate", {"key_alias": "later"})["key"]
    refused = run("restore", str(copy), "--data-dir", data)
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    assert gateway.stop() == 0
    os.unlink(gateway.path.parent / "fastproxy-data" / "salt.key")
    done = run("restore", str(copy), "--data-dir", data)
    assert done.returncode == 0, done.stderr
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert (chat(again, kept), chat(again, later)) == (200, 401)
    assert chat(again, MASTER, "stored") == 200  # the key file came along
    assert call(again, "GET", "/key/aliases")[1]["aliases"] == ["kept"]
    assert again.stop() == 0, again.log
    before = gateway.path.parent / "fastproxy-data" / "fastproxy.db.before-restore"
    done = run("restore", str(before), "--data-dir", data)
    assert done.returncode == 0, done.stderr
    last = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert chat(last, later) == 200


def test_what_is_no_copy_is_refused(tmp_path: Path):
    (tmp_path / "data").mkdir()
    other = tmp_path / "other"
    other.write_bytes(b"not a database at all" * 100)
    for source in (other, tmp_path / "missing"):
        done = run("restore", str(source), "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 1
        assert str(source) in done.stderr
    assert list((tmp_path / "data").iterdir()) == []
    assert run("backup", str(tmp_path / "x"), "--data-dir", str(tmp_path / "data")).returncode == 1
    assert run("backup", str(tmp_path / "x")).returncode == 2
