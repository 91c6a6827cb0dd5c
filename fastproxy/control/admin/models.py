"""/model/new, update, delete: models beside those of the file. Their credentials are sealed before they are stored."""

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from fastproxy import config
from fastproxy.config.credentials import is_secret, without_userinfo
from fastproxy.control.admin import shapes, values
from fastproxy.control.admin.refused import Refused, bad
from fastproxy.control.admin.work import Work
from fastproxy.control.store import models, sealed
from fastproxy.control.store.rows import Row

log = logging.getLogger("fastproxy.admin")

TABLE = "models"
ADDRESSES = ("api_base", "base_url")  # shown, but for the credentials in them
REFERENCE = "os.environ/"


def new(work: Work, asked: shapes.NewModel) -> Any:
    """Add a model; workers serve it when this is answered."""
    info = dict(asked.model_info or {})
    model_id = str(info.get("id") or uuid.uuid4())
    if not 0 < len(model_id) <= 256 or models.get(work.connection, model_id) is not None:
        raise bad(f"A model with id {model_id[:256]} exists already", "model_info.id")
    row = _row(work, model_id, asked.model_name, asked.litellm_params, info)
    stored = models.insert(work.connection, row, work.by)
    work.models_changed = True
    work.note("created", TABLE, model_id, None, stored)
    return _shown(stored)


def update(work: Work, asked: shapes.UpdateModel) -> Any:
    """Change a stored model: given parameters replace those of the same name, null takes one away."""
    model_id = str(asked.model_info.get("id") or "")
    old = _named(work, model_id)
    params = {
        **entry(work.around.environ, work, old)["litellm_params"],
        **(asked.litellm_params or {}),
    }
    params = {name: value for name, value in params.items() if value is not None}
    info = {**old["info"], **asked.model_info}
    row = _row(work, model_id, asked.model_name or old["model_name"], params, info)
    stored = models.update(work.connection, model_id, row, work.by)
    work.models_changed = True
    work.note("updated", TABLE, model_id, old, stored)
    return _shown(stored)


def delete(work: Work, asked: shapes.OneId) -> Any:
    """Take a stored model away."""
    old = _named(work, asked.id)
    models.delete(work.connection, asked.id)
    work.models_changed = True
    work.note("deleted", TABLE, asked.id, old, None)
    return {"message": f"Model: {asked.id} deleted successfully"}


def entry(environ: Mapping[str, str], work: Work, row: Row) -> dict[str, Any]:
    """A stored model as an entry of model_list, with its credentials. Raises Refused."""
    try:
        return _entry(row, sealed.sealer(environ, work.around.directory, False))
    except sealed.Lost as error:
        raise Refused(500, str(error), "internal_server_error") from None


def entries(connection: Any, environ: Mapping[str, str], directory: Any) -> list[dict[str, Any]]:
    """All stored models as entries of model_list. One whose credentials can't be opened is left out, and named."""
    rows = models.every(connection)
    found = []
    for row in rows:
        try:
            found.append(
                _entry(row, sealed.sealer(environ, directory, False) if row["sealed"] else None)
            )
        except sealed.Lost as error:
            log.error("%s; it is not served", error)
    return found


def _entry(row: Row, sealer: sealed.Sealer | None) -> dict[str, Any]:
    params = dict(row["params"])
    if row["sealed"] and sealer is not None:
        params |= sealer.open(row["sealed"], row["model_id"])
    info = {**row["info"], "id": row["model_id"], "db_model": True}
    return {"model_name": row["model_name"], "litellm_params": params, "model_info": info}


def _row(
    work: Work, model_id: str, name: str, params: Mapping[str, Any], info: Mapping[str, Any]
) -> dict[str, Any]:
    where = _reference(params)
    if where is not None:
        # who may add models over HTTP is not thereby who may read this machine's environment
        raise bad(
            f"{where}: os.environ/ is read from the configuration file only: give the value", where
        )
    if info.get("team_id"):
        raise bad(
            "team_id is not applied to models by this gateway yet, so it can't be set",
            "model_info.team_id",
        )
    try:
        work.around.judge_model(
            {
                "model_name": name,
                "litellm_params": dict(params),
                "model_info": {**info, "id": model_id},
            }
        )
    except config.ConfigError as error:
        text = str(error).partition(": ")[2] or str(error)
        raise bad(text, "litellm_params") from None
    secret = {k: v for k, v in params.items() if is_secret(k, v)}
    shown = {k: without_userinfo(secret[k]) for k in ADDRESSES if k in secret}
    row: Row = {
        "model_id": model_id,
        "model_name": name,
        "params": {k: v for k, v in params.items() if k not in secret} | shown,
        "info": {k: v for k, v in info.items() if k not in ("id", "db_model")},
        "sealed": None,
    }
    if secret:
        row["sealed"] = _sealer(work, model_id).seal(secret, model_id)
    return row


def _sealer(work: Work, model_id: str) -> sealed.Sealer:
    """The sealer for a model's credentials. Raises Refused while another model's can't be opened: a second key beside a
    lost one would be lost with its return."""
    others = (r for r in models.every(work.connection) if r["sealed"] and r["model_id"] != model_id)
    old = next(others, None)
    try:
        sealer = sealed.sealer(work.around.environ, work.around.directory, old is None)
        if old is not None:
            sealer.open(old["sealed"], old["model_id"])
    except sealed.Lost as error:
        message = f"{error}. Bring the key back, or delete what it sealed"
        raise Refused(500, message, "internal_server_error") from None
    except OSError as error:
        raise Refused(500, f"the key file can't be made: {error.strerror}", None) from None
    return sealer


def _reference(value: Any, path: str = "litellm_params") -> str | None:
    if isinstance(value, str):
        return path if REFERENCE in value else None
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, item in items:
        found = _reference(item, f"{path}.{name}")
        if found is not None:
            return found
    return None


def _named(work: Work, model_id: str) -> Row:
    if not model_id:
        raise bad("model_info.id is expected: which model", "model_info.id")
    row = models.get(work.connection, model_id)
    if row is None:
        message = f"Model with id={model_id[:256]} not found in db"
        raise Refused(400, message, "not_found_error", "model_info.id")
    return row


def _shown(row: Row) -> Row:
    shown = values.shown(row)
    had = shown.pop("sealed") is not None
    shown["litellm_params"] = shown.pop("params")
    shown["model_info"] = {**shown.pop("info"), "id": row["model_id"], "db_model": True}
    return {**shown, "credentials": "stored, sealed" if had else None}
