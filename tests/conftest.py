"""Fixtures that start the real process tree: the mock LLM and gateways in front of it."""

import contextlib
import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import UPSTREAM_KEY, Gateway, free_port, listening, mock_config, until


@pytest.fixture(scope="session")
def mock_port() -> Iterator[int]:
    """The mock LLM in a process of its own; it wants UPSTREAM_KEY."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastproxy", "mock", "--port", str(port), "--key", UPSTREAM_KEY],
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: listening(port), 20, "the mock")
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def gateway(mock_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway for the tests that don't change it; at the end nothing may be in flight."""
    running = Gateway(tmp_path_factory.mktemp("gateway"), mock_config(mock_port)).wait()
    try:
        yield running
        counters = until(
            lambda: (c := running.counters())["in_flight"] <= 1 and c, 10, "an end of all exchanges"
        )
        assert counters["in_flight"] <= 1  # the one that asks
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log, running.log
    assert "not allowed" not in running.log, running.log


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway with a config of the test's own."""
    running: list[Gateway] = []

    def begin(config: dict[str, Any] | str, *flags: str, **env: str) -> Gateway:
        directory = tmp_path / str(len(running))
        directory.mkdir()
        running.append(Gateway(directory, config, *flags, **env))
        return running[-1]

    try:
        yield begin
    finally:
        for gateway in running:
            with contextlib.suppress(ProcessLookupError):
                gateway.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and 127.0.0.1, and its key."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file
