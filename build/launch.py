"""Entry point of the frozen program: what only one file or one folder needs, then the command line.

One file means that every start unpacks into a directory of its own, `_MEI…` under $TMPDIR. Its boot
process removes it at the end, and the supervisor does when the boot process was killed. Only when all
of them are killed at once is nobody left: then the next start removes it. A lock tells which
directories are in use; it is shared with all forked processes and ends with the last of them.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import sys

from fastproxy.__main__ import main

MARK = "fastproxy.lock"  # other programs of PyInstaller have none, and are left alone
# Where distributions keep the certificates of authorities, as one file: Debian, Fedora, SUSE, Alpine.
AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def hold(directory: str) -> None:
    """Lock `directory` for as long as this process or one forked from it lives."""
    mark = os.path.join(directory, MARK)
    if os.path.exists(mark):
        return  # started by another process of ours, out of the same directory, which it holds
    early = f"{mark}.{os.getpid()}"
    handle = os.open(early, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_SH)
    os.rename(early, mark)  # seen only once it is locked


def sweep(directory: str) -> None:
    """Remove what killed programs of this user left beside `directory`."""
    for entry in os.scandir(os.path.dirname(directory)):
        if not entry.name.startswith("_MEI") or entry.path == directory:
            continue
        with contextlib.suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            handle = os.open(os.path.join(entry.path, MARK), os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path)
            finally:
                os.close(handle)


def find_authorities() -> None:
    """The packed OpenSSL looks where its build host keeps certificates; elsewhere it must be told."""
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return
    for name in AUTHORITIES:
        if os.path.isfile(name):
            os.environ[paths.openssl_cafile_env] = name
            return


if __name__ == "__main__":
    unpacked = str(getattr(sys, "_MEIPASS", ""))
    if os.path.basename(unpacked).startswith("_MEI"):
        with contextlib.suppress(OSError):  # housekeeping never stops a start
            hold(unpacked)
            sweep(unpacked)
    with contextlib.suppress(OSError):
        find_authorities()
    sys.exit(main())
