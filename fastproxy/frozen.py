"""Every import that compiled code makes, named once where packaging tools can see it.

PyInstaller follows imports in Python files only. tests/unit/test_imports.py keeps this list complete.
"""

# ruff: noqa: F401
import fnmatch
import hashlib
import mmap
import ssl
import struct
import time
import urllib.parse
from collections import OrderedDict, deque

from fastproxy import (
    _chunked,
    _cost,
    _fields,
    _head,
    _json,
    _limits,
    _link,
    _meter,
    _multipart,
    _pool,
    _routing,
    _scan,
    _shared,
    _table,
    _tap,
    _traffic,
    _usage,
    durations,
    errors,
    money,
    prices,
)
from fastproxy.providers import body, websocket
from fastproxy.routing import (
    continuation,
    first_token,
    options,
    passing,
    required,
    response_ids,
    strict,
)
from fastproxy.stages import addresses, cors
