"""The command line as a person uses it: messages, exit codes, flags, the commands beside serve."""

import datetime
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import MASTER, Client, Gateway, free_port, listening, mock_config, request, until

from fastproxy import cli, takeover

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
SLOW = {**BODY, "model": "mock/mock-delay1500"}


def fastproxy(*arguments: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    environ = {
        k: v for k, v in os.environ.items() if not k.lower().endswith(("_proxy", "_api_key"))
    }
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "fastproxy", *arguments],
        cwd=directory, env=environ | env, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "nope.yaml: no such file"),
        ("model_list:\n  - model_name: [a\n", "nope.yaml:2:17: not valid YAML"),
        ("model_list: 7\n", "model_list"),
        ("model_list:\n- model_name: a\n", "litellm_params"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "nope.yaml").write_text(text)
    done = fastproxy("--config", "nope.yaml", "--port", str(free_port()), directory=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_config_and_no_key_says_what_to_do(tmp_path: Path):
    done = fastproxy("--port", str(free_port()), directory=tmp_path)
    assert done.returncode == 1
    for way in ("--config", "fastproxy init", "OPENAI_API_KEY"):
        assert way in done.stderr


def test_no_master_key_is_refused_off_loopback(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: k}\n"
    )
    done = fastproxy(
        "-c", "a.yaml", "--host", "0.0.0.0", "--port", str(free_port()), directory=tmp_path
    )
    assert done.returncode == 1
    assert "master_key" in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nonsense", "fastproxy: unknown flag: --nonsense"),
        ("--prot 1", "unknown flag: --prot (did you mean --port?)"),
        ("--num-worker=2", "(did you mean --num_workers?)"),
        ("proxy.yaml", "unknown command: proxy.yaml"),
        ("serve proxy.yaml", "unknown argument: proxy.yaml"),
        ("--port x", "a port is a number from 0 to 65535, not 'x'"),
        ("--port 65536", "not '65536'"),
        ("--num-workers 0", "a number from 1 is expected, not '0'"),
        ("--graceful-shutdown-timeout soon", "a number of seconds is expected, not 'soon'"),
        ("--ssl-certfile-path a.pem", "--ssl_certfile_path and --ssl_keyfile_path go together"),
        ("--health", "fastproxy health"),
        ("--setup", "fastproxy init"),
        ("check", "which file?"),
        ("check --fromat=json a.yaml", "fastproxy check: unknown flag: --fromat (did you mean"),
        ("mock --port 65536", "fastproxy mock: argument --port"),
        ("mock --certificate a.pem", "go together"),
        ("bench --qps 0", "must be positive"),
        ("health --url gopher://a", "must begin with"),
    ],
)
def test_a_wrong_command_line(line: str, message: str, monkeypatch, capsys):
    for name in ("CONFIG_FILE_PATH", "PORT", "NUM_WORKERS", "GRACEFUL_SHUTDOWN_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    try:
        code = cli.main(line.split())
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr().err
    assert code == 2
    assert message in shown
    assert len(shown.splitlines()) <= 2


@pytest.mark.parametrize("name", ["PORT", "NUM_WORKERS", "GRACEFUL_SHUTDOWN_TIMEOUT"])
def test_a_wrong_value_in_the_environment(name: str, monkeypatch, capsys):
    monkeypatch.setenv(name, "many")
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2
    assert "'many'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "check", "mock", "bench", "init", "health"])
def test_every_command_explains_itself(command: str, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"usage: fastproxy {command}" in capsys.readouterr().out


def test_flags_of_the_parser_are_the_ones_of_litellm():
    """Every flag that the LiteLLM proxy has is taken, in both spellings."""
    known = (
        "config host port num_workers run_gunicorn run_hypercorn run_granian granian_threads "
        "ssl_keyfile_path ssl_certfile_path ciphers keepalive_timeout max_requests_before_restart "
        "max_requests_before_restart_jitter limit_concurrency timeout_worker_healthcheck log_config "
        "debug detailed_debug health test setup validate_config skip_server_startup "
        "use_prisma_db_push iam_token_db_auth prometheus_metrics_port reload model alias api_base "
        "api_version add_key headers save temperature max_tokens request_timeout drop_params "
        "add_function_to_prompt max_budget telemetry local"
    )
    switches = (
        "run_gunicorn run_hypercorn run_granian debug detailed_debug health test setup "
        "validate_config skip_server_startup use_prisma_db_push iam_token_db_auth reload save "
        "drop_params add_function_to_prompt local"
    )
    for name in known.split():
        values = [] if name in switches.split() else ["1"]
        for spelling in (name, name.replace("_", "-")):
            args = cli.serve_parser().parse_args([f"--{spelling}", *values])
            assert getattr(args, name), name


def test_skip_server_startup_serves_nothing(capfd):
    assert cli.main(["--skip_server_startup"]) == 0
    assert "--skip_server_startup" in capfd.readouterr().err


def test_a_rehearsal_for_another_version_is_refused(tmp_path: Path, mock_port: int):
    """Asked by a gateway whose state this program would not understand."""
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(mock_config(mock_port)))
    for value, code in ((takeover.REHEARSAL, 0), ("rehearsal-999", 1)):
        done = fastproxy("-c", "a.yaml", directory=tmp_path, FASTPROXY_TAKEOVER=value)
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
    assert "can't take over" in done.stderr


def test_init_makes_a_config_that_loads(tmp_path: Path):
    assert fastproxy("init", directory=tmp_path).returncode == 0
    again = fastproxy("init", directory=tmp_path)
    assert again.returncode == 1
    assert "left as it is" in again.stderr
    assert (tmp_path / "proxy.yaml").stat().st_mode & 0o777 == 0o600
    checked = fastproxy("check", "proxy.yaml", directory=tmp_path, OPENAI_API_KEY="k")
    assert checked.returncode == 0, checked.stdout
    master = yaml.safe_load((tmp_path / "proxy.yaml").read_text())["general_settings"]["master_key"]
    assert master.startswith("sk-")
    assert len(master) > 24


def test_flags_that_do_nothing_are_named_once(start, mock_port: int):
    running = start(mock_config(mock_port), "--run_gunicorn", "--telemetry", "False").wait()
    assert running.log.count("these flags have no effect here: --run_gunicorn, --telemetry") == 1


def test_both_spellings_of_a_flag(tmp_path: Path, mock_port: int):
    path = tmp_path / "proxy.yaml"
    path.write_text(yaml.safe_dump(mock_config(mock_port)))
    port = free_port()
    command = [sys.executable, "-m", "fastproxy", "--config", str(path), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*command, "--num-workers", "2"], stdout=log, stderr=log)
    try:
        until(lambda: "is ready on" in (tmp_path / "log").read_text(), 20, "the start")
        assert "(2 workers)" in (tmp_path / "log").read_text()
    finally:
        running.terminate()
        assert running.wait(15) == 0


def test_without_a_config_what_the_environment_offers_is_served(tmp_path: Path):
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    environ |= {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-y"}
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "fastproxy", "--port", str(port), "--num_workers", "1"],
            stdout=log, stderr=log, env=environ,
        )  # fmt: skip
    try:
        until(lambda: "no master key is set" in log_path.read_text(), 20, "the start")
        shown = log_path.read_text()
        assert "gpt-*" in shown
        assert "claude-*" in shown
        assert "sk-x" not in shown
    finally:
        running.terminate()
        assert running.wait(15) == 0


def test_stop_and_continue_from_the_terminal(start, mock_port: int):
    running: Gateway = start(mock_config(mock_port)).wait()
    running.process.send_signal(signal.SIGTSTP)
    running.process.send_signal(signal.SIGCONT)
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200


def test_a_quiet_end(start, mock_port: int):
    """TERM with connections open: exit 0, nothing but the start in the log."""
    running: Gateway = start(mock_config(mock_port)).wait()
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
        assert running.stop() == 0
        assert client.closed()
    assert "Traceback" not in running.log
    assert "ERROR" not in running.log


# -- the end of a process tree


def processes(running: Gateway) -> list[int]:
    """Children of the supervisor."""
    pid = running.process.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process has not ended; nobody may have asked yet how."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def runtime_directories(pid: int) -> list[Path]:
    """What a process tree keeps outside its memory."""
    return list(Path("/dev/shm").glob(f"fastproxy-{pid}-*"))  # noqa: S108


def in_flight(running: Gateway) -> Client:
    """A client whose request has reached the upstream."""
    client = running.client()
    client.send(request(CHAT, SLOW))
    until(lambda: running.counters()["in_flight"] >= 2, 5, "the request")
    return client


def test_nobody_is_accepted_while_the_last_requests_finish(start, mock_port: int):
    """The port is closed in every process, so that a balancer goes elsewhere at once."""
    running = start(mock_config(mock_port), "--num_workers", "2", "--mock", str(free_port())).wait()
    with in_flight(running) as client:
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not listening(running.port), 1.2, "the end of listening")
        assert client.answer().status == 200
    assert running.process.wait(10) == 0


def test_asked_again_it_ends_at_once(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    with running.client() as client:
        client.send(request(CHAT, {**BODY, "model": "mock/mock-hang"}))
        until(lambda: running.counters()["in_flight"] >= 2, 5, "the request")

        def ended() -> bool:
            running.process.send_signal(signal.SIGINT)
            return running.process.poll() is not None

        until(ended, 10, "the end")
    assert running.process.returncode == 1
    assert runtime_directories(running.process.pid) == []


def test_a_drain_has_an_end(start, mock_port: int):
    running = start(mock_config(mock_port), GRACEFUL_SHUTDOWN_TIMEOUT="0.2").wait()
    with in_flight(running):
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 1


def test_a_new_control_process_reads_the_file_and_does_not_introduce_itself(start, mock_port: int):
    config = mock_config(mock_port)
    running = start(config).wait()
    config["model_list"][0]["model_name"] = "renamed"
    running.path.write_text(yaml.safe_dump(config))
    os.kill(processes(running)[0], signal.SIGKILL)
    with running.client() as client:
        renamed = {**BODY, "model": "renamed"}
        until(lambda: client.post(CHAT, renamed).status == 200, 5, "the new snapshot")
    assert running.stop() == 0
    assert running.log.count("is ready on") == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
@pytest.mark.parametrize("listener", ["port", "socket", "tls"])
def test_the_first_request_that_hello_prints(
    start, mock_port: int, tmp_path: Path, certificate, listener: str
):
    flags = {
        "port": [],
        "socket": ["--uds", str(tmp_path / "a socket's path")],
        "tls": ["--ssl_certfile_path", str(certificate[0]), "--ssl_keyfile_path", str(certificate[1])],
    }  # fmt: skip
    config = mock_config(mock_port, master_key='sk-it\'s "quoted" $HOME')
    running = start(config, "--hello", *flags[listener], SERVER_ROOT_PATH="/llm").wait()
    command = running.log.partition("Try it:\n")[2].partition("\n\n")[0]
    assert "curl" in command
    done = subprocess.run(
        ["sh", "-c", f"{command.strip()} --silent --show-error --noproxy '*'"],
        capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "gpt-4o-mini"
    assert "/llm/v1" in running.log.partition("base URL")[2].partition("\n")[0]


def test_a_killed_supervisor_takes_its_mock_along(start, mock_port: int):
    port = free_port()
    running = start(mock_config(mock_port), "--num_workers", "2", "--mock", str(port)).wait()
    assert runtime_directories(running.process.pid)
    running.process.kill()
    running.process.wait()
    until(lambda: not listening(port) and not listening(running.port), 5, "the end of all")
    until(lambda: not runtime_directories(running.process.pid), 5, "tidying up")


def test_what_a_killed_tree_left_is_removed_by_the_next_start(start, mock_port: int):
    living = start(mock_config(mock_port)).wait()
    dead = start(mock_config(mock_port)).wait()
    (left,) = runtime_directories(dead.process.pid)
    all_of_it = [*processes(dead), dead.process.pid]
    for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: nobody sees another's end
        for pid in all_of_it:
            os.kill(pid, number)
    dead.process.wait()
    until(lambda: not any(map(alive, all_of_it)), 10, "their end")  # till then they hold the lock
    start(mock_config(mock_port)).wait()
    assert not left.exists()
    assert runtime_directories(living.process.pid)
    assert living.stop() == 0
    assert not runtime_directories(living.process.pid)


def test_a_stale_unix_socket_is_replaced_and_a_living_one_is_not(
    start, mock_port: int, tmp_path: Path
):
    path = tmp_path / "gateway.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    running = start(mock_config(mock_port), "--uds", str(path)).wait()
    second = start(mock_config(mock_port), "--uds", str(path))
    assert second.process.wait(10) == 3
    assert str(path) in second.log
    assert path.exists()
    assert running.stop() == 0


# -- the listener's TLS


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A new self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    files = directory / f"{name}.pem", directory / f"{name}.key"
    files[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def flags(pair: tuple[Path, Path]) -> list[str]:
    return ["--ssl_certfile_path", str(pair[0]), "--ssl_keyfile_path", str(pair[1])]


def served(port: int) -> str:
    """The certificate that the gateway shows to a new connection."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=5)


def test_a_renewed_certificate_is_served_and_a_wrong_one_is_not(
    start, mock_port: int, tmp_path: Path
):
    old, new = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    texts = [pair[0].read_text() for pair in (old, new)]
    running = start(mock_config(mock_port), *flags(old)).wait()
    assert served(running.port) == texts[0]
    old[0].write_bytes(new[0].read_bytes())  # the key is still the old one's
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "the old one stays" in running.log, 5, "the refusal")
    assert served(running.port) == texts[0]
    old[1].write_bytes(new[1].read_bytes())
    running.process.send_signal(signal.SIGHUP)
    until(lambda: served(running.port) == texts[1], 5, "the new certificate")


def test_tls_that_cannot_be_served_stops_the_start(start, mock_port: int, tmp_path: Path):
    one, other = certificate(tmp_path, "one"), certificate(tmp_path, "other")
    for wrong in ([one[0], other[1]], [one[1], one[0]]):
        running = start(mock_config(mock_port), *flags((wrong[0], wrong[1])))
        assert running.process.wait(10) == 1
        assert "TLS can't be served" in running.log
        assert str(wrong[0]) in running.log
        assert "Traceback" not in running.log
    running = start(mock_config(mock_port), *flags(one), "--ciphers", "nonsense")
    assert running.process.wait(10) == 1
    assert "--ciphers nonsense" in running.log


# -- the other commands


def test_bench_measures_itself(tmp_path: Path):
    done = fastproxy(
        "bench", "--qps", "200", "--duration", "1", "--rounds", "1", "--json", directory=tmp_path
    )
    found = json.loads(done.stdout)
    assert found["qps"] == 200
    assert found["direct"]["not_ok"] == found["through"]["not_ok"] == 0
    assert found["through"]["completed"] > 100


def test_health(start, mock_port: int, monkeypatch, capsys, tmp_path: Path):
    """Asked with the variables of the gateway that it is for, and never by way of a proxy."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("PORT", str(free_port()))
    assert cli.main(["health"]) == 1
    assert "not ready" in capsys.readouterr().err
    tls = flags(certificate(tmp_path, "own"))
    running = start(mock_config(mock_port), *tls, SERVER_ROOT_PATH="/llm").wait()
    assert f"is ready on https://127.0.0.1:{running.port}/llm " in running.log
    monkeypatch.setenv("PORT", str(running.port))
    monkeypatch.setenv("SSL_CERTFILE_PATH", tls[1])
    monkeypatch.setenv("SERVER_ROOT_PATH", "/llm/")
    address = f"https://127.0.0.1:{running.port}"
    for asked in ([], ["--url", f"{address}/llm"], ["--url", f"{address}/llm/"]):
        assert cli.main(["health", *asked]) == 0
        assert "healthy" in capsys.readouterr().out


def test_mock_serves_by_itself(tmp_path: Path):
    port = free_port()
    mock = subprocess.Popen(
        [sys.executable, "-m", "fastproxy", "mock", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def answers() -> bytes:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)):
                    return b""
                sock.sendall(request(CHAT, BODY, MASTER))
                return sock.recv(65536)

        assert until(answers, 10, "the mock").startswith(b"HTTP/1.1 200 OK")
    finally:
        mock.terminate()
        mock.wait(10)
