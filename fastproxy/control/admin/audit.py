"""/audit: the entries of the audit log, by page."""

import math
from typing import Any

from fastproxy.control.admin import shapes, values
from fastproxy.control.admin.keys import digest_of
from fastproxy.control.admin.work import Work
from fastproxy.control.store import audit
from fastproxy.control.store.rows import Row

FILTERS = ("changed_by", "action", "table_name", "object_id")


def listed(work: Work, asked: shapes.AuditList) -> Any:
    """Who changed what, the newest first."""
    where = {name: value for name in FILTERS if (value := getattr(asked, name)) is not None}
    if asked.changed_by_api_key is not None:
        where["changed_by_api_key"] = digest_of(asked.changed_by_api_key)
    rows, total = audit.listed(
        work.connection,
        where,
        since=values.moment_of(asked.start_date, "start_date"),
        until=values.moment_of(asked.end_date, "end_date", 1),
        sort_by="at" if asked.sort_by == "updated_at" else asked.sort_by,
        descending=asked.sort_order == "desc",
        number=asked.page,
        size=asked.page_size,
    )
    return {
        "audit_logs": [_entry(row) for row in rows],
        "total": total,
        "page": asked.page,
        "page_size": asked.page_size,
        "total_pages": math.ceil(total / asked.page_size),
    }


def _entry(row: Row) -> Row:
    shown = {name: value for name, value in row.items() if name != "at"}
    return {**shown, "updated_at": values.iso(row["at"])}
