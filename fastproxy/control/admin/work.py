"""One admin request at work: its transaction, its caller, and what it has touched.

A handler is `handler(work, asked) -> answer` and runs in the store's thread, inside one transaction with the
look-up of its caller: rights are judged on the rows that are changed. What it raises undoes everything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from fastproxy.control.admin import callers, roles
from fastproxy.control.admin.refused import Refused, bad
from fastproxy.control.admin.roles import Caller, Role
from fastproxy.control.admin.routes import Route
from fastproxy.control.store import audit
from fastproxy.control.store.rows import Row, now_ms
from fastproxy.control.whose import MASTER_KEY


@dataclass(frozen=True)
class Surroundings:
    """What a handler may know of the gateway around it."""

    configured: Mapping[str, Mapping[str, Any]]  # keys of the file, by digest
    groups: Mapping[str, list[str]]  # access group -> model names
    defaults: Mapping[str, Any]  # default_key_generate_params
    upper_bounds: Mapping[str, Any]  # upperbound_key_generate_params
    default_team: Mapping[str, Any]
    default_user: Mapping[str, Any]
    max_budget: int | None  # nano-dollars, of all keys together
    admin_only: frozenset[str]  # general_settings.admin_only_routes
    price_of: Callable[[str], Mapping[str, int] | None]  # of a model that clients ask for
    environ: Mapping[str, str]
    directory: Path
    # raises ConfigError for an entry of model_list that can't be used
    judge_model: Callable[[dict[str, Any]], Any]


@dataclass
class Work:
    """A request's state while its handler runs."""

    connection: Connection
    caller: Caller
    around: Surroundings
    path: Mapping[str, str]  # parameters of the path
    touched: set[str] = field(default_factory=set)  # keys whose records must reach the workers
    # (scope, key): whose spend was set, and a key of theirs, whose record has it
    respent: set[tuple[str, str]] = field(default_factory=set)
    models_changed: bool = False
    now: int = field(default_factory=now_ms)

    @property
    def by(self) -> str:
        """For created_by and updated_by."""
        return self.caller.name

    def note(
        self, action: str, table: str, object_id: str, before: Row | None, after: Row | None
    ) -> None:
        """Write to the audit log, in the same transaction."""
        audit.record(
            self.connection,
            by=self.by,
            key=MASTER_KEY if self.caller.master else self.caller.token,
            action=action,
            table=table,
            object_id=object_id,
            before=before,
            after=after,
        )


@dataclass(frozen=True)
class Done:
    """A committed request: its answer and what follows from it."""

    answer: Any
    touched: frozenset[str]  # digests of keys whose records have changed
    models_changed: bool
    respent: frozenset[tuple[str, str]]


Handler = Callable[[Work, Any], Any]


def perform(
    connection: Connection,
    digest: str | None,
    around: Surroundings,
    route: Route,
    handler: Handler,
    asked: Callable[[], Any],
    path: Mapping[str, str],
) -> Done:
    """Do a request; `asked` reads it, once the caller may try the route. Raises Refused; the transaction is the
    caller's. No digest: the route is public."""
    caller = Caller(Role.KEY, "")
    if digest is not None:
        caller = callers.load(connection, digest, around.configured, around.groups)
    if route.path in around.admin_only and caller.role is not Role.ADMIN:
        raise Refused(
            403, f"Only proxy admins may call {route.path} (admin_only_routes).", "auth_error"
        )
    if caller.role in route.who and not roles.may_try(caller, route.who, route.path):
        allowed = (caller.key or {}).get("allowed_routes")
        raise Refused(
            403,
            f"Virtual key is not allowed to call this route. Only allowed to call routes: {allowed}. "
            f"Tried to call route: {route.path}",
            "auth_error",
        )
    if not roles.may_try(caller, route.who, route.path):
        raise Refused(
            403,
            f"Only {', '.join(sorted(route.who))} may call {route.path}. Your role={caller.role.value}",
            "auth_error",
        )
    work = Work(connection, caller, around, path)
    answer = handler(work, asked())
    return Done(answer, frozenset(work.touched), work.models_changed, frozenset(work.respent))


def refuse_unapplied(asked: Any, names: tuple[str, ...]) -> None:
    """Raises Refused where a request sets a protection that is not applied."""
    for name in names:
        metadata = getattr(asked, "metadata", None)
        inside = metadata.get(name) if isinstance(metadata, dict) else None
        if getattr(asked, name, None) or inside:
            raise bad(f"{name} is not applied by this gateway yet, so it can't be set", name)


def handler_of(modules: Mapping[str, Any], route: Route) -> tuple[Handler, type[Any]]:
    """The function behind a route, and the type of what it is asked."""
    module, _, name = route.handler.partition(".")
    handler = getattr(modules[module], name)
    return handler, handler.__annotations__["asked"]
