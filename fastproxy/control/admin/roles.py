"""Who may do what: pure functions over rows, no query and no request in them. What is not allowed here is refused.

Three questions in this order: may a caller of this role try the route (`may_try`), may it touch this object
(`may_see_key`, `may_change_key`, …), may it set this field to that value (`exceeded`). Then the rule above them
all, `beyond`: no key that comes out of a request can do more than its caller. That is as much as both the
caller's role and the caller's own key allow, a proxy admin's key too: models, routes, limits, budgets, expiry.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from fastproxy import durations
from fastproxy.control.whose import MASTER_USER

Row = Mapping[str, Any]
Groups = Mapping[str, list[str]]  # access group -> model names
NO_GROUPS: Groups = {}


class Role(StrEnum):
    """What a caller is to the whole gateway. Team admins are so by team, see `Caller.admin_of`."""

    ADMIN = "proxy_admin"
    VIEWER = "proxy_admin_viewer"
    USER = "internal_user"
    USER_VIEWER = "internal_user_viewer"
    KEY = "key"  # a key without a user of the store: it may use models, not manage


ADMINS = frozenset({Role.ADMIN})
READERS = frozenset({Role.ADMIN, Role.VIEWER})
USERS = frozenset({Role.ADMIN, Role.USER})
PEOPLE = frozenset({Role.ADMIN, Role.VIEWER, Role.USER, Role.USER_VIEWER})
EVERYBODY = frozenset(Role)
# what a role has of others': what it may therefore act as, and let others act as
COVERS = {
    Role.ADMIN: EVERYBODY,
    Role.VIEWER: frozenset({Role.VIEWER, Role.USER_VIEWER, Role.KEY}),
    Role.USER: frozenset({Role.USER, Role.USER_VIEWER, Role.KEY}),
    Role.USER_VIEWER: frozenset({Role.USER_VIEWER, Role.KEY}),
    Role.KEY: frozenset({Role.KEY}),
}

# What `allowed_routes` may name besides paths, and the paths that each stands for.
LLM_ROUTES = (
    "/chat/completions", "/completions", "/embeddings", "/responses", "/moderations", "/images/generations",
    "/images/edits", "/audio/speech", "/audio/transcriptions", "/audio/translations", "/rerank", "/messages",
    "/messages/count_tokens",
)  # fmt: skip
INFO_ROUTES = (
    "/key/info", "/v2/key/info", "/key/list", "/key/aliases", "/team/info", "/team/list", "/v2/team/list",
    "/user/info", "/model/info", "/v1/model/info", "/models", "/v1/models", "/explain",
)  # fmt: skip
MANAGEMENT = ("/key/*", "/v2/key/*", "/user/*", "/team/*", "/v2/team/*", "/budget/*", "/model/*")
GROUPS: dict[str, tuple[str, ...]] = {
    "llm_api_routes": (*LLM_ROUTES, *(f"/v1{p}" for p in LLM_ROUTES), "/v2/rerank", "/openai/*", "/engines/*",
                       "/models", "/v1/models", "/model/info", "/v1/model/info", "/explain"),
    "info_routes": INFO_ROUTES,
    "management_routes": MANAGEMENT,
}  # fmt: skip
GROUPS["openai_routes"] = GROUPS["llm_api_routes"]
KEY_TYPES = {
    "default": [],
    "llm_api": ["llm_api_routes"],
    "management": ["management_routes"],
    "read_only": ["info_routes"],
}
CALLS = (*LLM_ROUTES, *(f"/v1{p}" for p in LLM_ROUTES), "/v2/rerank", "/openai/*", "/engines/*")
EVERY_MODEL = ("all-proxy-models", "*")
NO_MODEL = "no-default-models"
TEAM_MODELS = "all-team-models"
LEADING = ("/key/*", "/team/*")  # routes of those who lead a team
# changes of a key that give nobody anything
TAKING = ("/key/delete", "/key/block")


@dataclass(frozen=True)
class Caller:
    """Whoever holds a key, that of a request or another. A key of a team acts in this team: what its user is in
    others, and the user's other keys, are not its to manage."""

    role: Role
    token: str  # the key's digest
    user_id: str | None = None
    # of the store, with the terms that hold for it; None for the master key and keys of the file
    key: Row | None = None
    user: Row | None = None
    admin_of: frozenset[str] = frozenset()  # teams
    permissions: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # by team: member's routes
    master: bool = False

    @property
    def name(self) -> str:
        """For the audit log."""
        return self.user_id or (MASTER_USER if self.master else self.token)

    @property
    def ceiling(self) -> Row | None:
        """What it can give to a key at most; None: anything. That is what its own key has; but the routes of models are a
        proxy admin's to give by a key that only manages: such a key is there to make those that call."""
        routes = (self.key or {}).get("allowed_routes")
        if self.key is None or not routes or self.role is not Role.ADMIN:
            return self.key
        return {**self.key, "allowed_routes": [*routes, "llm_api_routes"]}


# -- routes


def may_try(caller: Caller, who: Iterable[Role], path: str) -> bool:
    """Whether a caller may call a route at all: by its role and by its key's `allowed_routes`."""
    routes = (caller.key or {}).get("allowed_routes")
    return caller.role in who and (not routes or route_allowed(path, routes))


def route_allowed(path: str, routes: Iterable[str]) -> bool:
    """Whether `allowed_routes` has a path: by name, by a pattern that ends in *, by a named group."""
    for route in routes:
        for one in GROUPS.get(route, (route,)):
            if path == one or (one.endswith("*") and path.startswith(one[:-1])):
                return True
    return False


def routes_within(wanted: Iterable[str], allowed: Iterable[str]) -> bool:
    """Whether everything that `wanted` lets through is let through by `allowed`."""
    names = [one for route in allowed for one in GROUPS.get(route, (route,))]
    for route in wanted:
        for one in GROUPS.get(route, (route,)):
            fits = any(
                one == name or (name.endswith("*") and one.startswith(name[:-1])) for name in names
            )
            if not fits:
                return False
    return True


# -- the rule above


def beyond(holder: Caller, caller: Caller, groups: Groups = NO_GROUPS) -> str | None:
    """The first thing that the holder of a key can do and the caller can't; such a key is not the caller's to make, to
    take over, or to give to another user."""
    if outranks(holder, caller):
        return "user_id"
    if caller.ceiling is None:
        return None
    return exceeded(holder.key or ANYTHING, caller.ceiling, groups=groups)


def outranks(holder: Caller, caller: Caller) -> bool:
    """Whether somebody has a role, or rights in a team, that a caller does not have."""
    if caller.role is Role.ADMIN:
        return False
    more = (
        team not in caller.admin_of and not routes <= caller.permissions.get(team, frozenset())
        for team, routes in holder.permissions.items()
    )
    return (
        holder.role not in COVERS[caller.role]
        or not holder.admin_of <= caller.admin_of
        or any(more)
    )


def may_hand_out(caller: Caller, routes: Iterable[str]) -> bool:
    """Whether a caller's key lets others use these routes: only such as it may use itself."""
    own = (caller.key or {}).get("allowed_routes")
    return not own or routes_within(routes, own)


def may_appoint(caller: Caller, role: Role) -> bool:
    """Whether a caller may give this role: who sees or manages everything is not bounded by the key of whoever said so,
    so that one must not be bounded either."""
    bounded = caller.key is not None and exceeded(ANYTHING, caller.key) is not None
    return caller.role is Role.ADMIN and not (bounded and role in READERS)


# -- objects


def may_see_key(caller: Caller, key: Row) -> bool:
    """Whether a caller may read a key's record."""
    return (
        caller.role in READERS
        or key["token"] == caller.token
        or _owns(caller, key)
        or _leads(caller, key["team_id"])
        or _permitted(caller, key["team_id"], "/key/info")
    )


def may_change_key(caller: Caller, key: Row, route: str) -> bool:
    """Whether a caller may change or delete a key by a route, unless its user `outranks` the caller. To block a key, or
    let it go, is for who stands above its user."""
    if caller.role is Role.ADMIN:
        return True
    if caller.role is not Role.USER:
        return False
    if _leads(caller, key["team_id"]):
        return True
    if route in ("/key/block", "/key/unblock"):
        return False
    own = _owns(caller, key) and team_of(caller) in (None, key["team_id"])
    return own or _permitted(caller, key["team_id"], route)


def may_create_key(
    caller: Caller, user_id: str | None, team_id: str | None, members: Iterable[str]
) -> bool:
    """Whether a caller may make a key for a user and a team; `members` are the team's. A key without a user has none
    of a user's limits, so plain members need more than the right to make keys."""
    if caller.role is Role.ADMIN:
        return True
    if caller.role is not Role.USER:
        return False
    if team_id is None:
        return user_id is not None and user_id == caller.user_id and team_of(caller) is None
    if _leads(caller, team_id):
        return user_id is None or user_id == caller.user_id or user_id in members
    if user_id is None:
        return _permitted(caller, team_id, "/key/service-account/generate")
    return _permitted(caller, team_id, "/key/generate") and user_id == caller.user_id


def may_move_key(caller: Caller, key: Row, team_id: str | None) -> bool:
    """Whether a caller may let a key be of this team (None: of none): what a team bounds is taken out of it by proxy
    admins only."""
    return caller.role is Role.ADMIN or key["team_id"] in (None, team_id)


def may_see_user(caller: Caller, user_id: str | None) -> bool:
    """Whether a caller may read a user's record."""
    return caller.role in READERS or (user_id is not None and user_id == caller.user_id)


def may_see_team(caller: Caller, team_id: str) -> bool:
    """Whether a caller may read a team's record: its members may."""
    return (
        caller.role in READERS
        or team_id in caller.permissions
        or team_id in caller.admin_of
        or team_of(caller) == team_id
    )


def may_lead_team(caller: Caller, team_id: str) -> bool:
    """Whether a caller may change who is in a team and what plain members may do."""
    return caller.role is Role.ADMIN or (caller.role is Role.USER and _leads(caller, team_id))


def team_of(caller: Caller) -> str | None:
    """The team of a caller's key."""
    team_id: str | None = (caller.key or {}).get("team_id")
    return team_id


def _owns(caller: Caller, key: Row) -> bool:
    return caller.user_id is not None and key["user_id"] == caller.user_id


def _leads(caller: Caller, team_id: str | None) -> bool:
    return team_id is not None and team_id in caller.admin_of


def _permitted(caller: Caller, team_id: str | None, route: str) -> bool:
    return team_id is not None and route in caller.permissions.get(team_id, ())


# -- fields

NUMBERS = ("max_budget", "tpm_limit", "rpm_limit", "max_parallel_requests")
MAPPINGS = ("model_max_budget", "model_rpm_limit", "model_tpm_limit")
# a key without any bound, which exceeds every ceiling
ANYTHING: Row = {
    "models": [], "expires": None, "allowed_routes": [], "enforced_params": [], **dict.fromkeys((*NUMBERS, *MAPPINGS)),
}  # fmt: skip
FOR_ADMINS = (
    "spend",
    "permissions",
    "config",
    "budget_id",
    "organization_id",
    "project_id",
    "router_settings",
)


def model_covered(model: str, allowed: Iterable[str]) -> bool:
    """Whether a list of models, none of which is special, has a model or a whole pattern of models."""
    for name in allowed:
        if name == model:
            return True
        if "*" in name and ("*" not in model or narrower(model, name)) and fnmatchcase(model, name):
            return True
    return False


def narrower(pattern: str, than: str) -> bool:
    """Whether all that a pattern matches is matched by `than`: only patterns with one * at the end, or equal ones,
    are compared; of others it is not known, so no."""
    if pattern == than:
        return True
    if any(letter in "?[" for letter in pattern + than):
        return False
    plain = (
        pattern.count("*") == than.count("*") == 1 and pattern.endswith("*") and than.endswith("*")
    )
    return plain and pattern.startswith(than[:-1])


def unrestricted(models: Iterable[str] | None) -> bool:
    """Whether a list of models means all of them."""
    names = list(models or ())
    return not names or any(name in EVERY_MODEL for name in names)


def models_within(
    wanted: Iterable[str], allowed: Iterable[str] | None, groups: Groups = NO_GROUPS
) -> bool:
    """Whether `wanted`, a key's list of models, is within `allowed`. An access group is so by its own name only: what
    it holds may change, and no pattern of models means it."""
    if unrestricted(allowed):
        return True
    names = list(wanted)
    if unrestricted(names):
        return False
    known = list(allowed or ())
    models = expanded(known, groups) or ()
    return all(
        name in known or name == NO_MODEL or (name not in groups and model_covered(name, models))
        for name in names
    )


def expanded(models: Iterable[str] | None, groups: Groups) -> list[str] | None:
    """A list of models with access groups replaced by what they hold; a group of nothing is no model."""
    if models is None:
        return None
    names = list(models)
    found = [model for name in names for model in groups.get(name, [name])]
    return list(dict.fromkeys(found)) or ([NO_MODEL] if names else [])


def intersect(first: Iterable[str] | None, second: Iterable[str] | None) -> list[str] | None:
    """The models that both lists have; None: all of them. Two patterns that overlap without one holding the
    other have nothing in common here: a right that can't be written down is not given."""
    if unrestricted(first):
        return None if unrestricted(second) else list(second or ())
    if unrestricted(second):
        return list(first or ())
    left, right = list(first or ()), list(second or ())
    both = [name for name in left if model_covered(name, right)]
    both += [name for name in right if name not in both and model_covered(name, left)]
    return both or [NO_MODEL]


def exceeded(
    values: Row, ceiling: Row, enforced: bool = False, groups: Groups = NO_GROUPS
) -> str | None:
    """The first field of `values` that grants more than `ceiling` has. A field that is not in `values` is not
    judged: see `inherited`. None as a value is "without a limit", so it exceeds any limit; but not where the
    ceiling is `enforced` beside the key at every request (its user's, its team's): there only a larger number
    or another model is a mistake worth a refusal."""
    left_open = enforced and unrestricted(values.get("models"))
    if (
        "models" in values
        and not left_open
        and not models_within(values["models"] or [], ceiling.get("models"), groups)
    ):
        return "models"
    for name in NUMBERS if enforced else (*NUMBERS, "soft_budget"):  # who is watched moves no mark
        limit = ceiling.get(name)
        if limit is None or name not in values:
            continue
        if values[name] > limit if values[name] is not None else not enforced:
            return name
    if enforced:
        return None
    renewed = ceiling.get("max_budget") is not None and "budget_duration" in values
    if renewed and _shorter(values["budget_duration"], ceiling.get("budget_duration")):
        return "budget_duration"
    ends, wanted = ceiling.get("expires"), values.get("expires")
    if ends is not None and "expires" in values and (wanted is None or wanted > ends):
        return "expires"
    routes, wanted = ceiling.get("allowed_routes"), values.get("allowed_routes")
    if routes and "allowed_routes" in values and not (wanted and routes_within(wanted, routes)):
        return "allowed_routes"
    required, wanted = field_of(ceiling, "enforced_params"), values.get("enforced_params")
    if required and "enforced_params" in values and not set(required) <= set(wanted or ()):
        return "enforced_params"
    for name in MAPPINGS:
        limits = field_of(ceiling, name)
        if limits and name in values:
            wanted = values[name] or {}
            for model, limit in limits.items():
                if model not in wanted or not _at_most(wanted[model], limit):
                    return name
    return None


def inherited(values: dict[str, Any], ceiling: Row) -> None:
    """Fill what `values` leaves open with the ceiling's, so that leaving a limit out does not lift it."""
    if not values.get("models") and not unrestricted(ceiling.get("models")):
        values["models"] = list(ceiling["models"])
    for name in (*NUMBERS, "soft_budget", "expires"):
        if values.get(name) is None and ceiling.get(name) is not None:
            values[name] = ceiling[name]
            if name == "max_budget" and not values.get("budget_duration"):
                values["budget_duration"] = ceiling.get("budget_duration")
    if not values.get("allowed_routes") and ceiling.get("allowed_routes"):
        values["allowed_routes"] = list(ceiling["allowed_routes"])
    required = field_of(ceiling, "enforced_params")
    if required:
        values["enforced_params"] = list(
            dict.fromkeys([*required, *(values.get("enforced_params") or ())])
        )
    for name in MAPPINGS:
        limits = field_of(ceiling, name)
        if limits:
            values[name] = {**limits, **(values.get(name) or {})}


def field_of(row: Row, name: str) -> Any:
    """A field that may lie in a row's metadata, where LiteLLM keeps it."""
    value = row.get(name)
    return value if value is not None else (row.get("metadata") or {}).get(name)


def _shorter(wanted: str | None, limit: str | None) -> bool:
    if limit is None:  # a budget for ever: any period would renew it
        return wanted is not None
    try:
        return wanted is not None and durations.seconds(wanted) < durations.seconds(limit)
    except ValueError:
        return True


def _at_most(wanted: Any, limit: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(limit, bool):
        return False
    if isinstance(wanted, int | float) and isinstance(limit, int | float):
        return wanted <= limit
    return bool(wanted == limit)
