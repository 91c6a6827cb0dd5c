"""/budget/*: terms that several keys share."""

import uuid
from typing import Any

from fastproxy.control.admin import roles, shapes, values
from fastproxy.control.admin.refused import bad, forbidden, missing
from fastproxy.control.admin.work import Work
from fastproxy.control.store import budgets, keys
from fastproxy.control.store.rows import Row

TABLE = "budgets"


def new(work: Work, asked: shapes.NewBudget) -> Any:
    """Make a budget."""
    budget_id = asked.budget_id or str(uuid.uuid4())
    if budgets.get(work.connection, budget_id) is not None:
        raise bad(f"Budget with id '{budget_id}' already exists.", "budget_id")
    wanted = values.given(asked, "budget_id")
    values.set_reset(wanted, work.now)
    stored = budgets.insert(work.connection, {"budget_id": budget_id, **wanted}, work.by)
    work.note("created", TABLE, budget_id, None, stored)
    return values.shown(stored)


def update(work: Work, asked: shapes.UpdateBudget) -> Any:
    """Change a budget, and so the terms of its keys."""
    old = _named(work, asked.budget_id)
    change = values.given(asked, "budget_id")
    field = roles.exceeded(change, work.caller.ceiling or {})
    if field is not None:
        raise forbidden(f"{field} grants its keys more than yours has: a key never does", field)
    values.set_reset(change, work.now)
    stored = budgets.update(work.connection, asked.budget_id, change, work.by)
    if "budget_duration" in change:  # periods of its keys that began under the old terms
        for key in keys.of_budget(work.connection, asked.budget_id):
            if key["budget_duration"] is None:
                keys.update(work.connection, key["token"], {"budget_reset_at": None}, work.by)
    _touch_keys(work, asked.budget_id)
    work.note("updated", TABLE, asked.budget_id, old, stored)
    return values.shown(stored)


def info(work: Work, asked: shapes.Budgets) -> Any:
    """Several budgets."""
    if not asked.budgets:
        raise bad("Specify list of budget id's to query. Passed in=[]", "budgets")
    found = [budgets.get(work.connection, budget_id) for budget_id in asked.budgets]
    return [values.shown(row) for row in found if row is not None]


def listed(work: Work, asked: shapes.Nothing) -> Any:
    """All budgets."""
    return [values.shown(row) for row in budgets.every(work.connection)]


def delete(work: Work, asked: shapes.OneId) -> Any:
    """Delete a budget that no key has."""
    old = _named(work, asked.id)
    used = len(keys.of_budget(work.connection, asked.id))
    if used:
        raise bad(f"Budget {asked.id} is that of {used} keys: they would be without one", "id")
    budgets.delete(work.connection, asked.id)
    work.note("deleted", TABLE, asked.id, old, None)
    return values.shown(old)


def _named(work: Work, budget_id: str) -> Row:
    row = budgets.get(work.connection, budget_id)
    if row is None:
        raise missing(f"Budget {budget_id} not found", "budget_id")
    return row


def _touch_keys(work: Work, budget_id: str) -> None:
    work.touched |= {row["token"] for row in keys.of_budget(work.connection, budget_id)}
