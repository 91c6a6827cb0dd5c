"""What a reload tells: names of what was added, removed and changed, never a value."""

from typing import Any

import msgspec
import pytest

from fastproxy import config
from fastproxy.config import source
from fastproxy.config.load import from_document
from fastproxy.control.changes import compare, in_words

SECRET = "sk-hidden-0123456789abcdef"


def loaded(*models: dict[str, Any], **sections: Any) -> "config.Config":
    data = {"model_list": list(models), **sections}
    return from_document(source.Document(data, environ={}, files=["t"]), config.CliOverrides())


def model(
    name: str, upstream: str = "openai/a", *, info: Any = None, **params: Any
) -> dict[str, Any]:
    found = {"model_name": name, "litellm_params": {"model": upstream, "api_key": "k", **params}}
    return found if info is None else {**found, "model_info": info}


def told(old: "config.Config", new: "config.Config") -> dict[str, dict[str, list[str]]]:
    """What is not empty."""
    changes: dict[str, dict[str, list[str]]] = msgspec.to_builtins(compare(old, new))
    full = {kind: {h: n for h, n in change.items() if n} for kind, change in changes.items()}
    return {kind: change for kind, change in full.items() if change}


PAIR = (model("g", api_base="http://a"), model("g", api_base="http://b"))


@pytest.mark.parametrize(
    ("old", "new", "deployments"),
    [
        (PAIR, PAIR[::-1], None),  # the order alone says nothing
        (PAIR, PAIR[:1], {"removed": ["g -> openai/a"]}),
        (PAIR, (*PAIR, model("g", api_base="http://c")), {"added": ["g -> openai/a"]}),
        (
            PAIR,
            (model("g", api_base="http://b", timeout=3), PAIR[0]),
            {"changed": ["g -> openai/a (timeout)"]},
        ),
        ([model("g")], [model("g", api_key=SECRET)], {"changed": ["g -> openai/a (api_key)"]}),
        ([model("g")], [model("g", "openai/b")], {"changed": ["g -> openai/b (model)"]}),
        (
            [model("g", info={"id": "1", "mode": "chat"}), model("g", info={"id": "2"})],
            [model("g", info={"id": "2"}), model("g", "openai/b", info={"id": "1"})],
            {"changed": ["g -> openai/b (model, model_info.mode)"]},
        ),
        (
            [model("g")],
            [model("h")],
            {"added": ["h -> openai/a"], "removed": ["g -> openai/a"]},
        ),
    ],
)
def test_deployments(old: list[Any], new: list[Any], deployments: Any):
    assert told(loaded(*old), loaded(*new)).get("deployments") == deployments


def test_groups_and_keys_and_settings():
    old = loaded(
        model("g"),
        general_settings={
            "master_key": "sk-old-master-0123456789",
            "keys": [
                {"key": SECRET, "alias": "ci", "models": ["g"]},
                {"key_hash": "ab" * 32},
            ],
            "max_connections": 5,
            "pass_through_endpoints": [{"path": "/x", "target": "http://a"}],
        },
        credential_list=[{"credential_name": "eu", "credential_values": {"api_key": "one"}}],
        environment_variables={"A": "1"},
    )
    new = loaded(
        model("h"),
        general_settings={
            "master_key": "sk-new-master-0123456789",
            "keys": [{"key": SECRET + "2", "alias": "ci", "models": ["h"]}],
            "max_connections": None,
            "pass_through_endpoints": [
                {"path": "/x", "target": "http://b"},
                {"path": "/y", "target": "http://b"},
            ],
        },
        credential_list=[{"credential_name": "eu", "credential_values": {"api_key": "two"}}],
        environment_variables={"A": "2", "B": "3"},
        router_settings={"model_group_alias": {"old": "h"}},
    )
    found = told(old, new)
    assert found["groups"] == {"added": ["h"], "removed": ["g"]}
    assert found["keys"] == {"removed": ["abababab…"], "changed": ["ci (key, models)"]}
    assert found["settings"] == {
        "added": [
            "environment_variables.B",
            "router_settings.model_group_alias.old",
            "general_settings.pass_through_endpoints./y",
        ],
        "removed": ["general_settings.max_connections"],
        "changed": [
            "general_settings.master_key",
            "environment_variables.A",
            "credential_list.eu",
            "general_settings.pass_through_endpoints./x",
        ],
    }
    line = in_words(compare(old, new))
    assert "keys changed: ci (key, models)" in line
    assert not any(text in line for text in ("hidden", "master-0", "one", "two", "http"))


def test_nothing():
    assert in_words(compare(loaded(*PAIR), loaded(*PAIR))) == "nothing changed"
