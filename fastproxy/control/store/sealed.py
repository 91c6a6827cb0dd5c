"""Providers' credentials at rest: AES-256-GCM under a key derived from LITELLM_SALT_KEY, or from a key file.

Each value is bound to the row that it belongs to, so that one can't be moved to another model's row.
"""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

KEY_FILE = "salt.key"
VERSION = b"\x01"
NONCE = 12


class Lost(Exception):
    """The salt key is not the one that sealed; str() names what is missing."""


class Sealer:
    """Seals and opens credentials under one salt key."""

    def __init__(self, salt: str, source: str) -> None:
        self.source = source
        # the salt is a long random text: no slow derivation is called for, only a key of the right size
        self.key = hashlib.sha256(b"fastproxy provider credentials\0" + salt.encode()).digest()

    def seal(self, credentials: Mapping[str, Any], owner: str) -> bytes:
        """The credentials of a model, encrypted."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(NONCE)
        data = AESGCM(self.key).encrypt(nonce, orjson.dumps(credentials), owner.encode())
        return VERSION + nonce + data

    def open(self, sealed: bytes, owner: str) -> dict[str, Any]:
        """What seal() was given. Raises Lost."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce, data = sealed[1 : 1 + NONCE], sealed[1 + NONCE :]
        try:
            if sealed[:1] != VERSION:
                raise InvalidTag
            found = orjson.loads(AESGCM(self.key).decrypt(nonce, data, owner.encode()))
        except (InvalidTag, ValueError):
            raise Lost(
                f"the credentials of model {owner} can't be opened: they were sealed under another "
                f"LITELLM_SALT_KEY than {self.source}"
            ) from None
        return dict(found)


def sealer(environ: Mapping[str, str], directory: Path, make: bool) -> Sealer:
    """The sealer of LITELLM_SALT_KEY, else of the key file, which is made if it is missing and `make`.

    Raises Lost where there is neither, OSError where the file can't be made.
    """
    salt = environ.get("LITELLM_SALT_KEY")
    if salt:
        return Sealer(salt, "the one in the environment")
    path = directory / KEY_FILE
    try:
        return Sealer(path.read_text().strip(), f"that of {path}")
    except FileNotFoundError:
        if not make:
            raise Lost(
                f"LITELLM_SALT_KEY is not set and {path} is missing: stored credentials of models "
                "can't be opened"
            ) from None
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return sealer(environ, directory, False)
