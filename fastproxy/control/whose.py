"""Under which names a key and its user are shown, in metrics, log lines and answers about spend.

A key is its SHA-256 everywhere but where it is the master key: of that one, which a person may have thought up, the
digest must not lie about in dashboards. LiteLLM shows the same words.
"""

from collections.abc import Mapping
from typing import Any

MASTER_KEY = "litellm_proxy_master_key"
MASTER_USER = "default_user_id"


def shown_key(digest: str, record: Mapping[str, Any]) -> str:
    """The name of a key, by its digest and its record."""
    return MASTER_KEY if record.get("master") else digest


def user_of(record: Mapping[str, Any]) -> str | None:
    """Whose a key is."""
    return MASTER_USER if record.get("master") else record.get("user_id")
