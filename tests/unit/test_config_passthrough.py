"""Pass-through routes: from the file and the environment to the snapshot's records."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fastproxy import config

MASTER = "sk-master-0123456789abcdef"
Record = dict[str, Any]


@pytest.fixture
def load(tmp_path: Path):
    """A file with these endpoints and models, loaded; its records by path, and the Config."""

    def begin(
        *endpoints: Record, models: tuple[Record, ...] = (), env: dict[str, str] | None = None
    ) -> tuple[dict[str, Record], config.Config]:
        path = tmp_path / "proxy.yaml"
        general = {"master_key": MASTER, "pass_through_endpoints": list(endpoints)}
        path.write_text(yaml.safe_dump({"model_list": list(models), "general_settings": general}))
        loaded = config.load(str(path), environ=env or {})
        records = config.build_snapshot(loaded, 1)["passthrough"]
        return {record["path"]: record for record in records}, loaded

    return begin


def model(name: str, **params: Any) -> Record:
    return {
        "model_name": "m",
        "litellm_params": {"model": name, "use_in_pass_through": True, **params},
    }


def test_an_endpoint_with_everything(load):
    records, loaded = load(
        {
            "path": "/v1/rerank-direct",
            "target": "https://api.cohere.com:8443/v2/rerank?v=1",
            "headers": {
                "Authorization": "bearer os.environ/COHERE_API_KEY",
                "X-Team": 7,
                "content-type": "application/json",
            },
            "include_subpath": "True",
            "auth": True,
            "methods": "post",
            "default_query_params": {"lang": "a b", "n": 3, "flag": True, "no": None},
            "merge_query_params": True,
            "forward_headers": True,
            "cost_per_request": "0.25",
            "timeout": 12,
        },
        env={"COHERE_API_KEY": "co-secret"},
    )
    record = records["/v1/rerank-direct"]
    origin = record.pop("origin")
    assert (origin["scheme"], origin["host"], origin["port"]) == ("https", "api.cohere.com", 8443)
    assert (origin["verify"], origin["proxy"]) == (True, None)
    assert record == {
        "path": "/v1/rerank-direct",
        "subpath": True,
        "methods": ["POST"],
        "auth": True,
        "target_path": "/v2/rerank",
        "target_query": "v=1",
        "query": [["flag", "true"], ["lang", "a%20b"], ["n", "3"]],
        "merge_query": True,
        "key_query": None,
        "headers": [
            ["authorization", "bearer co-secret"],
            ["x-team", "7"],
            ["content-type", "application/json"],
        ],
        "forward_headers": True,
        "timeout": 12.0,
        "cost_per_request": 0.25,
        "provider": "cohere",
        "prefix": None,
        "problem": None,
    }
    assert loaded.warnings == []


def test_what_is_left_out_has_litellms_default(load):
    records, _ = load({"path": "/x", "target": "http://10.0.0.1/a/"})
    record = records["/x"]
    assert record["auth"] is True
    assert record["subpath"] is record["merge_query"] is record["forward_headers"] is False
    assert record["methods"] == ["GET", "POST", "PUT", "PATCH", "DELETE"]
    assert (record["target_path"], record["headers"], record["query"]) == ("/a/", [], [])
    assert (record["timeout"], record["provider"]) == (6000.0, None)


@pytest.mark.parametrize(
    ("target", "subpath", "path"),
    [
        ("https://h", False, "/"),
        ("https://h/", False, "/"),
        ("https://h/", True, "/"),
        ("https://h/a/", True, "/a"),
        ("https://h/a", True, "/a"),
    ],
)
def test_target_paths(load, target: str, subpath: bool, path: str):
    records, _ = load({"path": "/x", "target": target, "include_subpath": subpath})
    assert records["/x"]["target_path"] == path


def test_langfuses_keys_become_basic(load):
    headers = {"LANGFUSE_PUBLIC_KEY": "os.environ/PUB", "LANGFUSE_SECRET_KEY": "os.environ/SEC"}
    records, _ = load(
        {"path": "/langfuse", "target": "https://l/api", "headers": headers},
        env={"PUB": "pk", "SEC": "sk"},
    )
    assert records["/langfuse"]["headers"] == [["authorization", "Basic cGs6c2s="]]


def test_a_plain_proxy_is_asked_for_the_whole_url(load):
    records, _ = load(
        {"path": "/x", "target": "http://h:81/a", "headers": {"a": "b"}},
        env={"HTTP_PROXY": "http://u:p@proxy:3128"},
    )
    assert records["/x"]["target_path"] == "http://h:81/a"
    assert records["/x"]["origin"]["proxy"]["host"] == "proxy"
    assert dict(records["/x"]["headers"])["proxy-authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ({"target": "https://h"}, "`path` is missing"),
        ({"path": "/x"}, "target: a URL such as"),
        ({"path": "/x", "target": "my_module.adapter"}, "adapters are not supported"),
        ({"path": "/x", "target": "ftp://h/"}, "target: a URL such as"),
        ({"path": "/x", "target": "https://h:port/"}, "can't be read"),
        ({"path": "/x", "target": "https://user:hunter2@h/"}, "Authorization header"),
        ({"path": "x", "target": "https://h"}, "path: a path such as"),
        ({"path": "/x?a=b", "target": "https://h"}, "path: a path such as"),
        ({"path": "/x/*", "target": "https://h"}, "path: a path such as"),
        ({"path": "/x/{id}", "target": "https://h"}, "path: a path such as"),
        ({"path": "/a/../b", "target": "https://h"}, "path: a path such as"),
        ({"path": "//x", "target": "https://h"}, "path: a path such as"),
        ({"path": "/x y", "target": "https://h"}, "path: a path such as"),
        ({"path": "/x/", "target": "https://h"}, "without the slash at the end"),
        ({"path": "/x", "target": "https://h", "methods": ["POST", "BREW"]}, "not BREW"),
        ({"path": "/x", "target": "https://h", "methods": [7]}, "methods"),
        ({"path": "/x", "target": "https://h", "headers": {"a b": "c"}}, "is not a header name"),
        ({"path": "/x", "target": "https://h", "headers": {"a": "b\nc"}}, "can't carry"),
        ({"path": "/x", "target": "https://h", "timeout": "soon"}, "timeout"),
        ({"path": "/x", "target": "https://h", "auth": "perhaps"}, "auth"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(load, endpoint: Record, reason: str):
    with pytest.raises(config.ConfigError) as caught:
        load({"path": "/first", "target": "https://h"}, endpoint)
    assert "pass_through_endpoints.1" in str(caught.value)
    assert reason in str(caught.value)
    assert "proxy.yaml:" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_the_same_path_twice(load):
    one = {"path": "/x", "target": "https://a", "methods": ["GET"]}
    records, _ = load(one, {**one, "target": "https://b", "methods": ["POST"]})
    assert "/x" in records
    with pytest.raises(config.ConfigError, match="stands twice"):
        load(one, {**one, "target": "https://b", "methods": ["POST", "GET"]})


def test_guardrails_of_an_endpoint_protect(load):
    with pytest.raises(
        config.ConfigError, match=r"allow-missing pass_through_endpoints[.]guardrails"
    ):
        load({"path": "/x", "target": "https://h", "guardrails": {"pii": None}})


@pytest.mark.parametrize(
    ("endpoint", "warning"),
    [
        ({"headers": {"a": "Bearer os.environ/NOPE"}}, "NOPE, which a header names, is not set"),
        ({"headers": {"a": "os.environ/NOPE"}}, "NOPE, which a header names, is not set"),
        ({"target": "os.environ/NOPE"}, "the variable that its target names is not set"),
        ({"headers": {"Host": "other"}}, "header Host is the gateway's to write"),
        ({"auth": False, "headers": {"authorization": "x"}}, "everybody who reaches the gateway"),
        ({"path": "/v1/embeddings"}, "the gateway serves /v1/embeddings itself"),
        ({"path": "/", "include_subpath": True}, "every path that the gateway does not know"),
    ],
)
def test_what_is_doubtful_is_told(load, endpoint: Record, warning: str):
    records, loaded = load({"path": "/x", "target": "https://h", **endpoint})
    assert any(warning in told for told in loaded.warnings), loaded.warnings
    record = records[endpoint.get("path", "/x")]
    assert (record["problem"] is not None) == ("NOPE" in str(endpoint))
    assert "host" not in dict(record["headers"])


# -- prefixes of providers

KEYS = {
    "OPENAI_API_KEY": "k-openai",
    "ANTHROPIC_API_KEY": "k-anthropic",
    "GEMINI_API_KEY": "k-gemini",
    "AZURE_API_KEY": "k-azure",
    "AZURE_API_BASE": "https://c.openai.azure.com/openai/v1",
    "COHERE_API_KEY": "k-cohere",
    "MISTRAL_API_KEY": "k-mistral",
    "HOSTED_VLLM_API_BASE": "http://10.0.0.2:8000/v1",
    "OPENROUTER_API_KEY": "k-router",
    "DEEPGRAM_API_KEY": "k-deepgram",
}


@pytest.mark.parametrize(
    ("path", "host", "target", "header"),
    [
        ("/openai", "api.openai.com", "/v1", ["authorization", "Bearer k-openai"]),
        ("/openai/v1", "api.openai.com", "/v1", ["authorization", "Bearer k-openai"]),
        ("/openai_passthrough", "api.openai.com", "/v1", ["authorization", "Bearer k-openai"]),
        ("/anthropic", "api.anthropic.com", "/", ["x-api-key", "k-anthropic"]),
        ("/gemini", "generativelanguage.googleapis.com", "/", ["x-goog-api-key", "k-gemini"]),
        ("/azure", "c.openai.azure.com", "/", ["api-key", "k-azure"]),
        ("/cohere", "api.cohere.com", "/", ["authorization", "Bearer k-cohere"]),
        ("/mistral", "api.mistral.ai", "/", ["authorization", "Bearer k-mistral"]),
        ("/vllm", "10.0.0.2", "/", None),
        ("/openrouter", "openrouter.ai", "/api", ["authorization", "Bearer k-router"]),
        ("/deepgram", "api.deepgram.com", "/", ["authorization", "Token k-deepgram"]),
    ],
)
def test_prefixes_by_the_environment(load, path: str, host: str, target: str, header: list[str]):
    records, loaded = load(env=KEYS)
    record = records[path]
    assert record["origin"]["host"] == host
    assert record["target_path"] == target
    assert record["headers"] == ([] if header is None else [header])
    assert record["problem"] is None
    assert (record["subpath"], record["auth"], record["forward_headers"]) == (True, True, True)
    assert record["merge_query"] is True
    assert record["key_query"] == ("key" if path == "/gemini" else None)
    assert record["prefix"] == path[1:].removesuffix("/v1")
    assert loaded.warnings == []


def test_without_a_credential_a_prefix_says_what_is_missing(load):
    records, loaded = load()
    assert "OPENAI_API_KEY" in records["/openai"]["problem"]
    assert "ANTHROPIC_API_KEY" in records["/anthropic"]["problem"]
    assert "AZURE_API_BASE" in records["/azure"]["problem"]
    assert "HOSTED_VLLM_API_BASE" in records["/vllm"]["problem"]
    assert all(record["headers"] == [] for record in records.values())
    assert loaded.warnings == []  # nobody has asked for them


@pytest.mark.parametrize("variable", ["OPENAI_API_BASE", "OPENAI_BASE_URL"])
@pytest.mark.parametrize("base", ["https://eu.api/v1", "https://eu.api", "https://eu.api/v1/"])
def test_a_base_of_the_environment(load, variable: str, base: str):
    records, _ = load(env={"OPENAI_API_KEY": "k", variable: base})
    assert records["/openai"]["origin"]["host"] == "eu.api"
    assert records["/openai"]["target_path"] == "/v1"


def test_a_base_that_is_no_url_stops_nobody(load):
    records, _ = load(env={"OPENAI_API_KEY": "k", "OPENAI_API_BASE": "localhost:8000"})
    assert "can't be reached" in records["/openai"]["problem"]


def test_a_deployment_wins_over_the_environment(load):
    records, loaded = load(
        models=(
            model("anthropic/claude", api_key="k-own", api_base="https://a.internal/v1/messages"),
            model(
                "openai/gpt",
                api_key="os.environ/OWN",
                api_base="http://o.internal:99/v1",
                organization="org-1",
                extra_headers={"X-A": "b"},
                timeout=5,
                ssl_verify=False,
            ),
            model("hosted_vllm/q", api_base="http://v:8000/v1"),
            model("gemini/g"),
        ),
        env={**KEYS, "OWN": "k-mine"},
    )
    anthropic, openai = records["/anthropic"], records["/openai"]
    assert anthropic["origin"]["host"] == "a.internal"
    assert (anthropic["target_path"], anthropic["headers"]) == ("/", [["x-api-key", "k-own"]])
    assert (openai["origin"]["host"], openai["origin"]["port"]) == ("o.internal", 99)
    assert openai["headers"] == [
        ["authorization", "Bearer k-mine"],
        ["openai-organization", "org-1"],
        ["x-a", "b"],
    ]
    assert (openai["target_path"], openai["timeout"]) == ("/v1", 5.0)
    assert records["/vllm"]["origin"]["host"] == "v"
    assert records["/gemini"]["headers"] == [["x-goog-api-key", "k-gemini"]]
    assert not any("use_in_pass_through" in told for told in loaded.warnings)


def test_deployments_that_can_stand_for_nothing_are_told(load):
    records, loaded = load(
        models=(
            model("openai/a", api_key="k-first"),
            model("openai/b", api_key="k-second"),
            model("groq/c", api_key="k"),
            model("bedrock/d"),
        )
    )
    assert records["/openai"]["headers"] == [["authorization", "Bearer k-first"]]
    told = "\n".join(loaded.warnings)
    assert "stands for /openai already" in told
    assert "there is no prefix for groq: pass_through_endpoints reaches any address" in told
    assert "there is no prefix for bedrock: its requests have to be signed" in told


def test_the_order_of_the_list(tmp_path: Path):
    """The first record that fits is the right one: longest first, the file's before a provider's."""
    path = tmp_path / "proxy.yaml"
    endpoints = [
        {"path": "/", "target": "https://all", "include_subpath": True},
        {"path": "/openai", "target": "https://mine", "include_subpath": True},
        {"path": "/openai/special", "target": "https://special"},
    ]
    path.write_text(yaml.safe_dump({"general_settings": {"pass_through_endpoints": endpoints}}))
    loaded = config.load(str(path), environ={})
    records = config.build_snapshot(loaded, 1)["passthrough"]
    paths = [(r["path"], r["prefix"]) for r in records if r["path"].startswith("/openai")]
    assert paths == [
        ("/openai_passthrough/v1", "openai_passthrough"),
        ("/openai_passthrough", "openai_passthrough"),
        ("/openai/special", None),
        ("/openai/v1", "openai"),
        ("/openai", None),
        ("/openai", "openai"),
    ]
    assert records[-1]["path"] == "/"


def test_check_explains_every_key_of_an_endpoint(tmp_path: Path):
    path = tmp_path / "proxy.yaml"
    endpoint = {
        "path": "/x",
        "target": "https://h",
        "headers": {"authorization": "Bearer os.environ/KEY"},
        "inclde_subpath": True,
        "id": "7",
    }
    path.write_text(yaml.safe_dump({"general_settings": {"pass_through_endpoints": [endpoint]}}))
    report, _ = config.check_file(str(path), {})
    assert "KEY, which a header names, is not set" in report
    report, _ = config.check_file(str(path), {"KEY": "k"})
    lines = {line.split()[1 + ("warning" in line)]: line for line in report.splitlines()[:-1]}
    at = "general_settings.pass_through_endpoints.0"
    assert "honoured" in lines[f"{at}.target"]
    assert "did you mean include_subpath?" in lines[f"{at}.inclde_subpath"]
    assert "ignored" in lines[f"{at}.id"]
    assert not any("not replaced" in line for line in lines.values())


def test_no_credential_is_shown(load):
    _, loaded = load(
        {"path": "/x", "target": "https://h", "headers": {"a": "os.environ/K"}},
        env={"K": "hidden-7"},
    )
    assert "hidden-7" not in repr(loaded)
