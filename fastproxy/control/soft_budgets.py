"""Soft budgets: nobody is refused for them, somebody is told. One line and one count each time one is crossed.

The transaction that writes what was spent sees a sum pass the mark, so it is said once in a period, whatever dies.
"""

import logging
from collections.abc import Iterable

from fastproxy import logs
from fastproxy.control.store.rows import Row

log = logging.getLogger("fastproxy.budgets")

SCOPES = ("key", "user", "team", "member")


class SoftBudgets:
    """What was crossed since control began."""

    def __init__(self) -> None:
        self.crossed = dict.fromkeys(SCOPES, 0)
        self.nameless = False  # redact_user_api_key_info

    def tell(self, crossings: Iterable[Row]) -> None:
        """Rows of entities with their `scope`, `name`, and spend as it is now."""
        for one in crossings:
            self.crossed[one["scope"]] += 1
            log.warning(
                "soft budget of %s crossed: %.6g of %.6g dollars are spent",
                one["scope"] if self.nameless else logs.plain(f"{one['scope']} {one['name']}"),
                one["spend"] / 1e9,
                one["soft_budget"] / 1e9,
            )
