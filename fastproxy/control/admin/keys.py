"""/key/*: virtual keys. The key itself is answered once, at its making; stored is its SHA-256."""

import hashlib
import math
import re
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy import durations
from fastproxy.control.admin import callers, roles, shapes, values
from fastproxy.control.admin.refused import Refused, bad, forbidden, missing
from fastproxy.control.admin.roles import Caller, Role
from fastproxy.control.admin.work import Work, refuse_unapplied
from fastproxy.control.store import budgets, keys, teams, users
from fastproxy.control.store.money import to_dollars, to_nano
from fastproxy.control.store.rows import Row

TABLE = "keys"
KEY_BYTES = 24  # of randomness in a key made here: 192 bits
CUSTOM_KEY = re.compile(r"sk-[\x21-\x7e]{8,250}")
DIGEST = re.compile(r"[0-9a-f]{64}")
EMPTY: dict[str, Any] = {
    "models": [],
    "aliases": {},
    "config": {},
    "permissions": {},
    "metadata": {},
    "allowed_routes": [],
    "allowed_cache_controls": [],
}
NEW: Row = dict.fromkeys((*callers.LIMITS, "budget_id"))
# what an answer shows besides the row, as LiteLLM's clients expect it
ALWAYS = (
    "agent_id",
    "litellm_budget_table",
    "object_permission",
    "guardrails",
    "policies",
    "prompts",
)


def generate(work: Work, asked: shapes.GenerateKey) -> Any:
    """Make a key."""
    return make(work, asked)


def generate_for_service(work: Work, asked: shapes.GenerateKey) -> Any:
    """Make a key that belongs to a team and to nobody in it."""
    if not asked.team_id:
        raise bad("team_id is required for service account keys", "team_id")
    asked.user_id = None
    return make(work, asked, for_service=True)


def make(work: Work, asked: shapes.GenerateKey, for_service: bool = False) -> Row:
    """A new key within its maker's rights; the answer with the key in it."""
    refuse_unapplied(asked, shapes.UNAPPLIED)
    caller = work.caller
    wanted = values.given(asked, "key", "key_type", *shapes.UNAPPLIED)
    _defaults(work, wanted)
    _upper_bounds(work, wanted, fill=True)
    wanted["expires"] = values.moment(wanted.pop("duration", None), work.now)
    wanted["allowed_routes"] = _routes(asked.key_type, wanted.get("allowed_routes"))
    if caller.role is not Role.ADMIN:
        if not for_service and not wanted.get("user_id"):
            wanted["user_id"] = caller.user_id
        wanted["team_id"] = wanted.get("team_id") or roles.team_of(caller)
    user, team = _parents(work, wanted)
    if not roles.may_create_key(
        caller, wanted.get("user_id"), wanted.get("team_id"), _people(work, team)
    ):
        raise forbidden("You may not create a key for this user or team")
    _judge_alias(work, wanted.get("key_alias"), None)
    if caller.role is not Role.ADMIN:
        judge_fields(caller, wanted, {}, asked.key)
    if caller.ceiling is not None:
        roles.inherited(wanted, caller.ceiling)
        _within(work, _with_budget(work, wanted), caller.ceiling)
    for parent in (user, team):
        if parent is not None and caller.role is not Role.ADMIN:
            _within(work, wanted, _without_none(parent, team), enforced=True)
    key = asked.key or f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    token = _new_token(work, key)
    values.set_reset(wanted, work.now)
    values.fold(wanted, None)
    row = {**EMPTY, **{n: v for n, v in wanted.items() if v is not None}}
    row |= {"token": token, "key_name": key_name(key), "spend": 0, "model_spend": {}}
    stored = keys.insert(work.connection, row, work.by)
    _judge_holder(work, stored)
    work.touched.add(token)
    work.note("created", TABLE, token, None, stored)
    return {**_answer(work, stored), "key": key, "key_type": asked.key_type or "default"}


def update(work: Work, asked: shapes.UpdateKey) -> Any:
    """Change a key; what is left out stays, null clears."""
    refuse_unapplied(asked, shapes.UNAPPLIED)
    caller = work.caller
    alias = asked.key_alias if isinstance(asked.key_alias, str) else None
    old = _named(work, asked.key, alias, "/key/update")
    wanted = values.given(asked, "key", *shapes.UNAPPLIED)
    change = {n: v for n, v in wanted.items() if n != "key_alias" or v != old["key_alias"]}
    _upper_bounds(work, change, fill=False)
    if "duration" in change:
        change["expires"] = values.moment(change.pop("duration"), work.now)
    if change.get("spend", 0) is None:
        del change["spend"]
    if "spend" in change:
        work.respent.add(("api_key", old["token"]))
    if "key_alias" in change:
        _judge_alias(work, change["key_alias"], old["token"])
    after = {**old, **change}
    user, team = _parents(work, after)
    moved = any(after[name] != old[name] for name in ("user_id", "team_id"))
    if moved and not (
        roles.may_move_key(caller, old, after["team_id"])
        and roles.may_create_key(caller, after["user_id"], after["team_id"], _people(work, team))
    ):
        raise forbidden("You may not give this key to this user or team")
    if caller.role is not Role.ADMIN:
        judge_fields(caller, change, old)
        switched = change.get("blocked", old["blocked"]) != old["blocked"]
        if switched and not roles.may_change_key(caller, old, "/key/block"):
            raise forbidden("You may not block or unblock this key", "blocked")
        for parent in (user, team):
            if parent is not None:
                _within(work, change, _without_none(parent, team), enforced=True)
    own = caller.token == old["token"]
    terms = callers.with_terms(work.connection, old)
    granted = _with_budget(work, change, old)
    if own or not (caller.role is Role.ADMIN or old["team_id"] in caller.admin_of):
        # limits on one's own key are somebody else's to raise
        _within(work, granted, terms)
    if own:
        _judge_own_spend(work, change)
    elif caller.ceiling is not None:
        _within(work, granted, caller.ceiling)
    values.set_reset(change, work.now, terms)
    if "budget_id" in change and not after["budget_duration"]:
        change["budget_reset_at"] = None  # the period is the budget's
    values.fold(change, old)
    for name, empty in EMPTY.items():
        if name in change and change[name] is None:
            change[name] = empty
    stored = keys.update(work.connection, old["token"], change, work.by)
    if moved:
        _judge_holder(work, stored)
    work.touched.add(old["token"])
    work.note("updated", TABLE, old["token"], old, stored)
    return {"key": asked.key or stored["token"], **_answer(work, stored)}


def update_many(work: Work, asked: shapes.UpdateKeys) -> Any:
    """Change several keys, each for itself: one that can't be changed does not keep the others."""
    changed, failed = [], []
    for body in asked.keys:
        key = body.get("key") if isinstance(body.get("key"), str) else None
        try:
            one = msgspec.convert(
                values.hoist(body, shapes.UpdateKey), shapes.UpdateKey, strict=False
            )
            with work.connection.begin_nested():
                changed.append({"key": key, "key_info": update(work, one)})
        except (Refused, msgspec.ValidationError) as error:
            failed.append({"key": key, "key_info": None, "failed_reason": str(error)})
    return {
        "total_requested": len(asked.keys),
        "successful_updates": changed,
        "failed_updates": failed,
    }


def delete(work: Work, asked: shapes.DeleteKeys) -> Any:
    """Delete keys, all of them or none."""
    if not asked.keys and not asked.key_aliases:
        raise bad("keys or key_aliases is expected", "keys")
    found = [_named(work, key, None, "/key/delete") for key in asked.keys or []]
    if not asked.keys:
        found = [_named(work, None, alias, "/key/delete") for alias in asked.key_aliases or []]
    for row in found:
        keys.delete(work.connection, [row["token"]])
        work.touched.add(row["token"])
        work.note("deleted", TABLE, row["token"], row, None)
    return {"deleted_keys": asked.keys or asked.key_aliases}


def block(work: Work, asked: shapes.OneKey) -> Any:
    """No request with this key from now on."""
    return _set_blocked(work, asked.key, True, "/key/block")


def unblock(work: Work, asked: shapes.OneKey) -> Any:
    """Requests with this key again."""
    return _set_blocked(work, asked.key, False, "/key/unblock")


def regenerate(work: Work, asked: shapes.RegenerateKey) -> Any:
    """A new key in place of the old one, which is known no more."""
    old = _named(work, work.path.get("key") or asked.key, None, "/key/regenerate", own=True)
    if work.caller.role is not Role.ADMIN and asked.new_key:
        raise forbidden("Only a proxy admin may choose a key", "new_key")
    refuse_unapplied(asked, shapes.UNAPPLIED)
    if values.given(asked, "key", "new_key", *shapes.UNAPPLIED):
        changes = shapes.UpdateKey(key=old["token"])
        for name in shapes.KeyFields.__struct_fields__:
            setattr(changes, name, getattr(asked, name))
        update(work, changes)
    key = asked.new_key or f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    token = _new_token(work, key)
    moved = {
        "token": token,
        "key_name": key_name(key),
        "rotation_count": old["rotation_count"] + 1,
    }
    stored = keys.update(work.connection, old["token"], moved, work.by)
    _judge_holder(work, stored)
    work.touched |= {old["token"], token}
    work.note("rotated", TABLE, old["token"], old, stored)
    return {**_answer(work, stored), "key": key}


def reset_spend(work: Work, asked: shapes.ResetSpend) -> Any:
    """Set what a key has spent, to less than it is."""
    old = _named(work, work.path["key"], None, "/key/reset_spend")
    if work.caller.role is not Role.ADMIN and old["team_id"] not in work.caller.admin_of:
        raise forbidden("Only proxy admins and team admins may reset a key's spend")
    terms = callers.with_terms(work.connection, old)
    spent = values.in_period(old, work.now, terms)["spend"]
    change = {"spend": to_nano(asked.reset_to)}
    if old["token"] == work.caller.token:
        _judge_own_spend(work, change)
    if change["spend"] > spent:
        raise bad("reset_to is more than the key has spent", "reset_to")
    values.set_reset(change, work.now, terms)
    stored = keys.update(work.connection, old["token"], change, work.by)
    work.touched.add(old["token"])
    work.respent.add(("api_key", old["token"]))
    work.note("updated", TABLE, old["token"], old, stored)
    return {**_answer(work, stored), "previous_spend": to_dollars(spent)}


def info(work: Work, asked: shapes.KeyInfo) -> Any:
    """One key's record."""
    token = digest_of(asked.key) if asked.key else work.caller.token
    row = keys.get(work.connection, token)
    if row is None or not roles.may_see_key(work.caller, row):
        if row is not None and work.caller.role is not Role.KEY:
            raise forbidden(
                f"You are not allowed to access this key's info. Your role={work.caller.role.value}"
            )
        raise missing("Key not found in database", "key")
    answer = _answer(work, row)
    del answer["token"], answer["token_id"]
    return {"key": asked.key or token, "info": answer}


def info_of_many(work: Work, asked: shapes.DeleteKeys) -> Any:
    """Records of several keys; those that may not be seen are left out."""
    rows = [keys.get(work.connection, digest_of(key)) for key in asked.keys or []]
    rows += [keys.by_alias(work.connection, alias) for alias in asked.key_aliases or []]
    seen = [_answer(work, r) for r in rows if r is not None and roles.may_see_key(work.caller, r)]
    for answer in seen:
        del answer["token"], answer["token_id"]
    return {"key": asked.keys, "info": seen}


def listed(work: Work, asked: shapes.KeyList) -> Any:
    """One page of keys: digests, or whole records."""
    names = ("user_id", "team_id", "organization_id", "project_id", "key_alias")
    filters = {n: v for n in names if (v := getattr(asked, n)) is not None}
    if asked.key_hash is not None:
        filters["token"] = digest_of(asked.key_hash)
    if asked.status == "deleted":
        filters["token"] = None
    seen = None
    if work.caller.role not in roles.READERS:
        led = work.caller.admin_of if asked.include_team_keys or asked.team_id else ()
        seen = keys.seen_by(
            work.caller.user_id, work.caller.token, led, asked.include_created_by_keys
        )
    rows, total = keys.listed(
        work.connection,
        visible=seen,
        filters=filters,
        exact=not (asked.substring_matching and work.caller.role in roles.READERS),
        expires=asked.expires,
        now=work.now,
        sort_by=asked.sort_by,
        descending=asked.sort_order == "desc",
        number=asked.page,
        size=asked.size,
    )
    return {
        "keys": [_answer(work, row) if asked.return_full_object else row["token"] for row in rows],
        "total_count": total,
        "current_page": asked.page,
        "total_pages": math.ceil(total / asked.size),
    }


def aliases(work: Work, asked: shapes.KeyAliases) -> Any:
    """One page of key aliases."""
    seen = None
    if work.caller.role not in roles.READERS:
        seen = keys.seen_by(work.caller.user_id, work.caller.token, work.caller.admin_of, False)
    found, total = keys.aliases(
        work.connection, seen, asked.search, asked.team_id, asked.page, asked.size
    )
    return {
        "aliases": found,
        "total_count": total,
        "current_page": asked.page,
        "total_pages": math.ceil(total / asked.size),
        "size": asked.size,
    }


def digest_of(key: str) -> str:
    """The digest of a key, or the digest itself. Raises Refused (400) for what is neither."""
    if key.startswith("sk-"):
        return hashlib.sha256(key.encode()).hexdigest()
    if DIGEST.fullmatch(key):
        return key
    raise bad("Invalid key format: sk-… or a key's hash is expected", "key")


def key_name(key: str) -> str:
    """What a key is shown as."""
    return f"sk-...{key[-4:]}"


def shown(work: Work, row: Row) -> Row:
    """A key's record as other entities' answers show it."""
    return _answer(work, row)


def judge_fields(caller: Caller, wanted: dict[str, Any], old: Row, key: str | None = None) -> None:
    """Raises Refused where a field is not for this caller at all; what is as it was is no change, but for what is
    spent: the store has it a moment later than the workers, whose count would be set back."""
    if key is not None:
        raise forbidden("Only a proxy admin may choose a key", "key")
    for name in roles.FOR_ADMINS:
        same = name != "spend" and (wanted.get(name) or None) == (old.get(name) or None)
        if name in wanted and not same:
            raise forbidden(
                f"Only a proxy admin may set {name}. Your role={caller.role.value}", name
            )


def _within(work: Work, wanted: dict[str, Any], ceiling: roles.Row, enforced: bool = False) -> None:
    field = roles.exceeded(wanted, ceiling, enforced, work.around.groups)
    if field is not None:
        raise forbidden(f"{field} grants more than you have: a key never does", field)


def _judge_holder(work: Work, key: Row) -> None:
    """The rule above all others, for a key that somebody is about to hold, or to act by: raises Refused where it can do
    more than the caller."""
    if work.caller.master:
        return
    holder = callers.holder(work.connection, key, work.around.groups)
    field = roles.beyond(holder, work.caller, work.around.groups)
    if field == "user_id":
        raise forbidden("This key's user may do more than you: it is not yours to hold", field)
    if field is not None:
        raise forbidden(
            f"{field} of this key is more than you have: it is not yours to hold", field
        )


def _judge_own_spend(work: Work, change: Row) -> None:
    """What is spent counts against one's own budget: it is somebody else's to set back."""
    own = work.caller.key or {}
    if "spend" in change and (own.get("max_budget") is not None or own.get("model_max_budget")):
        raise forbidden("You may not set what your own key has spent of its budget", "spend")


def _with_budget(work: Work, change: Row, old: Row = NEW) -> Row:
    """A change, and what follows for a key's terms if it names another shared budget."""
    if "budget_id" not in change:
        return change
    after = callers.with_terms(work.connection, {**old, **change})
    return {**change, **{name: after[name] for name in callers.LIMITS}}


def _without_none(parent: Row, team: Row | None) -> Row:
    if "user_role" in parent and team is not None and roles.NO_MODEL in parent["models"]:
        return {**parent, "models": []}  # a user whose models are those of the teams
    return parent


def _parents(work: Work, wanted: Row) -> tuple[Row | None, Row | None]:
    user_id, team_id = wanted.get("user_id"), wanted.get("team_id")
    team = teams.get(work.connection, team_id) if team_id else None
    if team_id and team is None:
        raise bad(f"Team doesn't exist in db. Team={team_id}. Create it via `/team/new`", "team_id")
    budget_id = wanted.get("budget_id")
    if budget_id and budgets.get(work.connection, budget_id) is None:
        message = f"Budget doesn't exist in db. Budget={budget_id}. Create it via `/budget/new`"
        raise bad(message, "budget_id")
    return users.get(work.connection, user_id) if user_id else None, team


def _people(work: Work, team: Row | None) -> set[str]:
    if team is None:
        return set()
    return {m["user_id"] for m in teams.members_of(work.connection, team["team_id"])}


def _defaults(work: Work, wanted: dict[str, Any]) -> None:
    """default_key_generate_params: for what a request leaves out."""
    for name, value in _configured(work.around.defaults, "default_key_generate_params").items():
        if wanted.get(name) in (None, [], {}):
            wanted[name] = value


def _upper_bounds(work: Work, wanted: dict[str, Any], fill: bool) -> None:
    """upperbound_key_generate_params: what is above is refused, what is left out becomes the bound if `fill`."""
    for name, bound in _configured(
        work.around.upper_bounds, "upperbound_key_generate_params"
    ).items():
        value, over = wanted.get(name), False
        if value is None:
            # null in an update lifts the limit, which is above every bound
            over = not fill and name in wanted
            if fill:
                wanted[name] = bound
        elif name in ("duration", "budget_duration"):
            over = _length(value) > _length(bound)
        elif isinstance(value, int | float):
            over = value > bound
        if over:
            raise bad(
                f"{name} is over max limit set in config - user_value={_as_written(value, name)}; "
                f"max_value={_as_written(bound, name)}",
                name,
            )


def _configured(params: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """Fields of /key/generate as the file has them. Raises Refused where one has another type."""
    return values.configured(params, shapes.KeyFields, setting)


def _as_written(value: Any, name: str) -> str:
    return str(values.shown({name: value})[name])


def _length(duration: str) -> float:
    if duration == "-1":
        return math.inf
    try:
        return durations.seconds(duration)
    except ValueError as error:
        raise bad(str(error), "duration") from None


def _routes(kind: str | None, routes: list[str] | None) -> list[str]:
    return list(routes or roles.KEY_TYPES[kind or "default"])


def _judge_alias(work: Work, alias: str | None, token: str | None) -> None:
    taken = keys.by_alias(work.connection, alias) if alias else None
    if taken is not None and taken["token"] != token:
        raise bad(
            f"Key with alias '{alias}' already exists. Unique key aliases across all keys are required.",
            "key_alias",
        )


def _new_token(work: Work, key: str) -> str:
    if not CUSTOM_KEY.fullmatch(key):
        raise bad("A key begins with sk- and has 8 to 250 printable characters behind it", "key")
    token = hashlib.sha256(key.encode()).hexdigest()
    if token in work.around.configured or keys.get(work.connection, token) is not None:
        raise bad("This key exists already", "key")
    return token


def _named(work: Work, key: str | None, alias: str | None, route: str, own: bool = False) -> Row:
    """The key that a request means, if the caller may change it by this route."""
    if not key and not alias:
        if not own or work.caller.key is None:
            raise Refused(
                422, "either key or key_alias must be provided", "bad_request_error", "key"
            )
        key = work.caller.token
    row = (
        keys.get(work.connection, digest_of(key))
        if key
        else keys.by_alias(work.connection, alias or "")
    )
    if row is None:
        raise missing("Key not found.", "key")
    allowed = roles.may_change_key(work.caller, row, route)
    if allowed and work.caller.role is not Role.ADMIN and route not in roles.TAKING:
        holder = callers.holder(work.connection, row, work.around.groups)
        allowed = not roles.outranks(holder, work.caller)
    if not allowed:
        raise forbidden(
            f"You may not call {route} for this key. Your role={work.caller.role.value}"
        )
    return row


def _set_blocked(work: Work, key: str, blocked: bool, route: str) -> Row:
    old = _named(work, key, None, route)
    stored = keys.update(work.connection, old["token"], {"blocked": blocked}, work.by)
    work.touched.add(old["token"])
    work.note("blocked" if blocked else "updated", TABLE, old["token"], old, stored)
    return _answer(work, stored)


def _answer(work: Work, row: Row) -> Row:
    row = values.in_period(row, work.now, callers.with_terms(work.connection, row))
    found = {**dict.fromkeys(ALWAYS), **values.shown(row)}
    if row["budget_id"] and (budget := budgets.get(work.connection, row["budget_id"])) is not None:
        found["litellm_budget_table"] = values.shown(budget)
    for name in shapes.IN_METADATA:
        found[name] = row["metadata"].get(name)
    found["token_id"] = row["token"]
    del found["counted_as"]  # the store's business
    return found


def request_for(**fields: Any) -> shapes.GenerateKey:
    """A body of /key/generate, for the key that comes with a new user."""
    return msgspec.convert(fields, shapes.GenerateKey)
