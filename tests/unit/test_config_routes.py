"""Groups, weights, order, aliases and patterns; proxies and TLS of a deployment."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import MASTER, Files, one

from fastproxy._pool import Pool
from fastproxy._table import Table
from fastproxy.config import ConfigError

LOCAL = {"model": "openai/x", "api_base": "http://h/v1", "api_key": "k"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def group(*params: dict[str, Any], **more: Any) -> str:
    models = [{"model_name": "m", "litellm_params": {**LOCAL, **p}} for p in params]
    return yaml.safe_dump({"model_list": models, **more}) + MASTER


@pytest.mark.parametrize(
    ("params", "weights"),
    [
        ([{}, {}], [1, 1]),
        ([{"weight": 3}, {"weight": 1}], [3, 1]),
        ([{"weight": 3}, {}], [3, 0]),
        ([{"weight": 3, "rpm": 1}, {"rpm": 9}], [3, 0]),
        ([{"rpm": 10, "tpm": 1}, {"tpm": 9}], [10, 0]),
        ([{"tpm": 10}, {"tpm": 90}], [10, 90]),
        ([{"weight": 0}, {"weight": 0}], [1, 1]),
        # shares are counted within an order
        ([{"order": 2}, {"order": 1}, {"order": 1}], [1, 1, 1]),
        ([{"order": 1}, {"order": 2, "weight": 9}], [1, 9]),
        ([{"order": 1, "model": "bedrock/x", "api_base": None}, {"order": 1}], [0, 1]),
        (
            [{"order": 1, "weight": 1}, {"order": 1, "weight": 4}, {"weight": 7, "order": 2}],
            [1, 4, 7],
        ),
    ],
)
def test_weights(files: Files, params: list[dict[str, Any]], weights: list[float]) -> None:
    rows = files.snapshot(group(*params))["deployments"]
    assert [d["weight"] for d in rows] == weights


def test_a_missing_order_is_the_lowest(files: Files) -> None:
    rows = files.snapshot(group({"order": 1}, {}))["deployments"]
    assert [d["order"] for d in rows] == [1, 0]


def test_aliases(files: Files) -> None:
    text = yaml.safe_dump(
        {
            "model_list": [
                {"model_name": "m", "litellm_params": LOCAL},
                {"model_name": "grp/*", "litellm_params": {**LOCAL, "model": "openai/pre-*"}},
            ],
            "router_settings": {
                "model_group_alias": {
                    "plain": "m",
                    "hidden": {"model": "m", "hidden": "True"},
                    "through": "grp/large one".replace(" ", "-"),
                    "pattern": "grp/*",
                    "nowhere": "gone",
                    "star*": "m",
                }
            },
        }
    )
    config = files.load(text + MASTER)
    snapshot = files.snapshot(text + MASTER)
    table = Table(snapshot, Pool({"scheme": "unix", "path": "/x"}, {}), {}, [])
    assert {b"plain", b"hidden", b"through", b"grp/large-one"} <= set(table.group_names())
    assert b"nowhere" not in table.group_names()
    row = next(d for d in snapshot["deployments"] if d["group"] == "grp/large-one")
    assert (row["model"], row["params"]["model"]) == ("pre-large-one", "openai/pre-large-one")
    from fastproxy.config import build_snapshot

    build_snapshot(config, 1)
    told = "\n".join(config.warnings)
    assert "alias pattern names the pattern grp/*: name one model of it" in told
    assert "alias nowhere names an unknown model group gone" in told
    assert "alias star*: an alias is one name" in told
    before = list(config.warnings)
    build_snapshot(config, 2)
    assert config.warnings == before  # told once


def test_key_in_the_file_closes_the_gateway_without_a_master(files: Files) -> None:
    text = "general_settings: {keys: [{key: sk-only-this-one}]}\n"
    assert files.snapshot(text)["open"] is False
    assert files.load(text, host="0.0.0.0").warnings == []
    assert files.snapshot("model_list: []\n")["open"] is True


def test_a_function_that_judges_keys_closes_the_gateway_without_a_master(files: Files) -> None:
    files.write("def judge(request, api_key): ...\n", "mine.py")
    text = "general_settings: {custom_auth: mine.judge}\n"
    assert files.snapshot(text)["open"] is False
    assert files.load(text, host="0.0.0.0").warnings == []
    missing = "general_settings: {custom_auth: mine.other}\n"
    with pytest.raises(ConfigError, match="not a loopback address"):
        files.load(missing, "custom_auth", host="0.0.0.0")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "localhost.evil.example"])
def test_no_or_weak_master_key_is_refused_beyond_loopback(files: Files, host: str) -> None:
    keys = ("sk-1234", "'sk-<your-master-key>'", "your-secret-master-key", "sk-your_key_here")
    weak = [f"general_settings: {{master_key: {key}}}\n" for key in keys]
    for text in ("model_list: []\n", *weak):
        files.load(text)
        with pytest.raises(ConfigError, match="not a loopback address"):
            files.load(text, host=host)
        permitted = "general_settings: {dangerously_permit_weak_or_unset_master_key: 'True'}\n"
        assert files.load(permitted, host=host).warnings
        env = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
        assert files.load(text, host=host, **env).warnings


@pytest.mark.parametrize("env", [{}, {"THE_KEY": ""}])
def test_a_master_key_whose_variable_is_not_set_does_not_leave_the_door_open(
    files: Files, env: dict[str, str]
) -> None:
    text = "general_settings: {master_key: os.environ/THE_KEY}\n"
    with pytest.raises(ConfigError, match="THE_KEY is not set or empty"):
        files.load(text, **env)
    assert files.load(text, LITELLM_MASTER_KEY="sk-0123456789abcdef").master_key
    with pytest.raises(ConfigError, match="OFFICE is not set or empty: every address"):
        files.load("general_settings: {allowed_ips: os.environ/OFFICE}\n")


def test_proxies(files: Files) -> None:
    https = one({**LOCAL, "api_base": "https://up.example/v1"})
    env = {"HTTPS_PROXY": "http://me:p%40ss@proxy:8080", "NO_PROXY": "other.example"}
    (row,) = files.snapshot(https, **env)["deployments"]
    assert row["origin"]["proxy"] == {
        "host": "proxy",
        "port": 8080,
        "authorization": "Basic bWU6cEBzcw==",
    }
    assert row["targets"]["chat"] == "/v1/chat/completions"
    (row,) = files.snapshot(https, **{**env, "NO_PROXY": ".example"})["deployments"]
    assert row["origin"]["proxy"] is None
    (row,) = files.snapshot(
        one({**LOCAL, "api_base": "https://up.example", "http_proxy": "direct"}), **env
    )["deployments"]
    assert row["origin"]["proxy"] is None


def test_without_tls_the_proxy_is_told_the_whole_url(files: Files) -> None:
    text = one({**LOCAL, "api_base": "http://up.example:81/v1", "http_proxy": "http://a:b@proxy:3"})
    (row,) = files.snapshot(text)["deployments"]
    assert row["targets"]["chat"] == "http://up.example:81/v1/chat/completions"
    assert ["proxy-authorization", "Basic YTpi"] in row["headers"]


def test_tls_settings(files: Files, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-")
    base = {**LOCAL, "api_base": "https://h/v1"}

    def origin(text: str, **env: str) -> tuple[bool, str | None]:
        row = files.snapshot(text, **env)["deployments"][0]["origin"]
        return row["verify"], row["ca_file"]

    assert origin(one(base)) == (True, None)
    assert origin(one({**base, "ssl_verify": "false"})) == (False, None)
    assert origin(one(base, litellm_settings={"ssl_verify": str(ca)})) == (True, str(ca))
    assert origin(one(base), SSL_VERIFY="False") == (False, None)
    assert origin(one(base), SSL_CERT_FILE=str(ca)) == (True, str(ca))
    assert origin(one({**base, "ssl_verify": True}, litellm_settings={"ssl_verify": False})) == (
        True,
        None,
    )
    config = files.load(one({**base, "ssl_verify": False}))
    from fastproxy.config import build_snapshot

    build_snapshot(config, 1)
    assert any("ssl_verify is off" in w for w in config.warnings)


def test_a_key_of_the_environment_that_goes_to_another_address_is_told(files: Files) -> None:
    from fastproxy.config import build_snapshot

    config = files.load(one({"model": "openai/x", "api_base": "http://h"}), OPENAI_API_KEY="k")
    build_snapshot(config, 1)
    assert any(
        "OPENAI_API_KEY of the environment is sent to its api_base" in w for w in config.warnings
    )
    config = files.load(one({"model": "openai/x"}), OPENAI_API_KEY="k")
    build_snapshot(config, 1)
    assert config.warnings == []


def test_what_stands_in_the_snapshot_holds_no_credential_where_it_is_shown(files: Files) -> None:
    text = one(
        {
            **LOCAL,
            "api_base": "http://me:urlsecret@h/v1?key=querysecret",
            "api_key": "keysecret",
            "extra_headers": {"x-token": "headersecret"},
            "extra_body": {"inner": "bodysecret"},
            "client_secret": "clientsecret",
        }
    )
    (row,) = files.snapshot(text)["deployments"]
    shown = str((row["params"], row["info"], row["api_base"], row["id"]))
    for secret in ("url", "query", "key", "header", "body", "client"):
        assert f"{secret}secret" not in shown
    assert row["params"]["api_base"] == "http://h/v1"


def test_a_config_that_is_printed_shows_no_credential(files: Files) -> None:
    text = one(
        {**LOCAL, "api_key": "os.environ/K", "extra_headers": {"x-a": "printed-secret"}},
        general_settings={
            "master_key": "printed-secret-master",
            "keys": [{"key": "printed-secret-2"}],
        },
        credential_list=[
            {"credential_name": "c", "credential_values": {"api_key": "printed-secret"}}
        ],
        environment_variables={"Z": "printed-secret"},
    )
    assert "printed-secret" not in repr(files.load(text, K="printed-secret-3"))


def test_model_ids_are_stable_and_differ(files: Files) -> None:
    ids = [d["id"] for d in files.snapshot(group({}, {"weight": 2}))["deployments"]]
    assert ids == [d["id"] for d in files.snapshot(group({}, {"weight": 2}))["deployments"]]
    assert len(set(ids)) == 2
    assert all(len(i) == 64 for i in ids)
