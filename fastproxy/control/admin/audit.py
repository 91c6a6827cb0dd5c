"""/audit: the newest entries of the audit log."""

from typing import Any

from fastproxy.control.admin import shapes, values
from fastproxy.control.admin.work import Work
from fastproxy.control.store import audit


def listed(work: Work, asked: shapes.AuditList) -> Any:
    """Who changed what, newest first."""
    rows = audit.recent(work.connection, asked.page_size)
    return {"audit_logs": [{**row, "at": values.iso(row["at"])} for row in rows]}
