"""The eleven shapes of configuration that people have, as files of our own, and what becomes of each."""

from pathlib import Path
from typing import Any

import pytest

from fastproxy._pool import Pool
from fastproxy._table import Table
from fastproxy.config import CliOverrides, Config, ConfigError, build_snapshot, load

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
SET = (
    "OPENAI_API_KEY OPENAI_API_KEY_2 OPENAI_GPT4_KEY GEMINI_API_KEY GROQ_API_KEY ANTHROPIC_API_KEY",
    "TOGETHER_API_KEY OPENROUTER_API_KEY XAI_API_KEY ELEVENLABS_API_KEY AZURE_API_KEY AZURE_EU_API_KEY",
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY EU_KEY TEAM_KEY PROXY_MASTER_KEY LITELLM_MASTER_KEY",
    "REDIS_HOST REDIS_PORT REDIS_PASSWORD GOOGLE_APPLICATION_CREDENTIALS",
)
ENV = {
    **{name: f"value-of-{name}" for name in " ".join(SET).split()},
    "AZURE_API_BASE": "https://contoso.openai.azure.com/",
    "AZURE_API_VERSION": "2024-10-21",
    "INTERNAL_OPENAI": "http://llm.internal:9000",
    "AWS_REGION": "us-east-1",
}


def read(name: str, *allow: str, **env: str) -> tuple[Config, dict[str, Any]]:
    """The config of a fixture and its snapshot, which the workers' table must accept."""
    path = next(CONFIGS.glob(f"{name}_*.yaml"))
    config = load(str(path), environ=ENV | env, overrides=CliOverrides(allow_missing=allow))
    snapshot = build_snapshot(config, 1)
    Table(snapshot, Pool({"scheme": "unix", "path": "/control"}, {}), {}, [])
    return config, snapshot


def groups(snapshot: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    rows = snapshot["groups"] + [
        {"name": w["pattern"], "deployments": w["deployments"]}
        for w in snapshot["wildcards"]
        if not w["hidden"]
    ]
    return {r["name"]: [snapshot["deployments"][i] for i in r["deployments"]] for r in rows}


def header(deployment: dict[str, Any], name: str) -> str | None:
    return next((v for n, v in deployment["headers"] if n == name), None)


def test_a_local_pool() -> None:
    config, snapshot = read("a")
    found = groups(snapshot)
    assert [d["api_base"] for d in found["qwen3-8b"]] == [
        "http://10.0.0.11:8080/v1",
        "http://10.0.0.12:8080/v1",
    ]
    assert [d["weight"] for d in found["qwen3-8b"]] == [1.0, 1.0]
    (embed,) = found["nomic-embed"]
    assert embed["api_base"] == "http://10.0.0.11:8081/v1"
    assert embed["targets"]["embeddings"] == "/v1/embeddings"
    assert embed["model"] == "nomic-embed-text-v1.5"
    assert header(embed, "authorization") == "Bearer dummy"
    assert not snapshot["open"]  # LITELLM_MASTER_KEY of the environment
    assert config.warnings == []


def test_b_cloud_keys() -> None:
    config, snapshot = read("b")
    found = groups(snapshot)
    assert {name: d[0]["provider"] for name, d in found.items()} == {
        "gpt-4o": "openai",
        "gpt-4o-mini": "openai",
        "gemini-flash": "gemini",
        "llama-70b": "groq",
    }
    assert header(found["llama-70b"][0], "authorization") == "Bearer value-of-GROQ_API_KEY"
    assert found["gemini-flash"][0]["api_base"].startswith("https://generativelanguage.")
    assert found["gpt-4o-mini"][0]["defaults"] == {"max_tokens": 4096, "temperature": 0.2}
    assert {d["timeout"] for d in snapshot["deployments"]} == {120.0}
    assert config.litellm.drop_params is True
    assert snapshot["keys"][0]["master"]
    assert config.master_key
    assert config.master_key.reveal() == "value-of-LITELLM_MASTER_KEY"


def test_c_azure_only() -> None:
    _, snapshot = read("c")
    found = groups(snapshot)
    for name in ("gpt-4o", "default", "summarise"):
        (d,) = found[name]
        assert d["api_base"] == "https://contoso.openai.azure.com"
        assert (
            d["targets"]["chat"]
            == "/openai/deployments/gpt-4o-prod/chat/completions?api-version=2024-10-21"
        )
        assert header(d, "api-key") == "value-of-AZURE_API_KEY"
        assert header(d, "authorization") is None
    assert found["summarise"][0]["defaults"] == {"max_tokens": 800}
    assert found["default"][0]["defaults"] == {}
    (embed,) = found["text-embedding-3-large"]
    assert embed["targets"]["embeddings"].endswith("/embeddings?api-version=2024-02-01")
    (eu,) = found["gpt-4o-eu"]
    assert eu["api_base"] == "https://contoso-eu.openai.azure.com"
    assert eu["targets"]["chat"].endswith("/gpt-4o/chat/completions?api-version=2024-06-01")


def test_c_azure_without_its_variables_still_loads_what_it_can() -> None:
    path = next(CONFIGS.glob("c_*.yaml"))
    config = load(str(path), environ={"PROXY_MASTER_KEY": "k" * 20, "AZURE_EU_API_KEY": "eu"})
    found = groups(build_snapshot(config, 1))
    assert found["gpt-4o"][0]["unsupported"] == "azure without an api_base"
    assert found["gpt-4o-eu"][0]["unsupported"] is None
    assert any("c_azure_only.yaml:3: " in w and "AZURE_API_BASE" in w for w in config.warnings)


def test_d_ollama_and_prices() -> None:
    config, snapshot = read("d")
    found = groups(snapshot)
    bases = {d["api_base"] for d in snapshot["deployments"]}
    assert bases == {"http://ollama:11434/v1"}
    info = found["llama3.1"][0]["info"]
    assert info["input_cost_per_token"] == 1.2e-07
    assert info["max_input_tokens"] == 131072
    assert found["codellama"][0]["defaults"] == {"keep_alive": "10m"}  # a price is no body field
    assert found["codellama"][0]["params"]["input_cost_per_second"] == 0.0002
    assert header(found["codellama"][0], "authorization") is None
    assert any("well-known" in w for w in config.warnings)


def test_d_weak_key_is_refused_on_a_public_address() -> None:
    path = next(CONFIGS.glob("d_*.yaml"))
    with pytest.raises(ConfigError, match="well-known"):
        load(str(path), environ={}, overrides=CliOverrides(host="0.0.0.0"))


def test_e_router_callbacks() -> None:
    with pytest.raises(ConfigError, match="--allow-missing custom_auth") as refused:
        read("e")
    assert "billing_auth.py is not there" in str(refused.value)
    assert "billing_callback" not in str(refused.value)  # its hook returns the request as it came
    config, snapshot = read("e", "custom_auth")
    found = groups(snapshot)
    first, second = found["groq/meta-llama/llama-4-maverick"]
    assert (first["model"], second["provider"]) == (
        "meta-llama/llama-4-maverick-17b-128e-instruct",
        "together_ai",
    )
    assert (first["weight"], second["weight"]) == (1.0, 1.0)  # each alone in its order
    assert (first["timeout"], first["stream_timeout"]) == (15.0, 60.0)
    assert (second["timeout"], second["stream_timeout"]) == (30.0, None)
    (default,) = found["default"]
    assert default["model"] == "openai/gpt-4o"
    assert header(default, "http-referer") == "https://example.org"
    assert default["extra_body"] == {"provider": {"order": ["azure", "openai"]}}
    assert snapshot["aliases"] == [
        {"name": "gpt-4", "group": "default", "hidden": False},
        {"name": "fast", "group": "groq/meta-llama/llama-4-maverick", "hidden": True},
    ]
    assert snapshot["settings"]["allowed_ips"] is None
    assert any("custom_auth is NOT applied" in w for w in config.warnings)


def test_f_media_mixture() -> None:
    _, snapshot = read("f")
    found = groups(snapshot)
    vertex, gemini = found["gemini-pro"]
    assert (vertex["unsupported"], gemini["unsupported"]) == ("vertex_ai", None)
    assert (vertex["weight"], gemini["weight"]) == (0.0, 1.0)
    assert gemini["defaults"] == {"reasoning_effort": "low"}
    assert vertex["defaults"] == {"reasoning_effort": "low"}  # no vertex_* field in the body
    assert found["claude-bedrock"][0]["unsupported"] == "bedrock"
    assert found["voice"][0]["unsupported"] == "elevenlabs"
    assert found["upscaler"][0]["unsupported"] == "my-images"  # never asked of OpenAI
    (claude,) = found["claude"]
    assert header(claude, "x-api-key") == "value-of-ANTHROPIC_API_KEY"
    assert claude["targets"]["messages"] == "/v1/messages"
    assert found["grok-image"][0]["info"]["mode"] == "image_generation"
    shown = str([d["params"] for d in snapshot["deployments"]])
    assert "value-of-" not in shown


def test_g_cache_langfuse() -> None:
    config, snapshot = read("g")
    found = groups(snapshot)
    one, two = found["gpt-4.1"]
    assert (one["weight"], two["weight"]) == (0.0, 10.0)  # rpm counts before tpm, missing is none
    assert any("picked only when" in w for w in config.warnings)
    assert header(two, "authorization") == "Bearer value-of-OPENAI_API_KEY_2"
    assert one["origin"]["proxy"] == {
        "host": "proxy.internal",
        "port": 3128,
        "authorization": None,
    }
    assert one["defaults"] == {}
    assert found["sonnet"][0]["unsupported"] == "bedrock"


def test_h_nonsense_keys() -> None:
    config, snapshot = read("h")
    found = groups(snapshot)
    assert found["claude-sonnet"][0]["api_base"] == "https://api.anthropic.com"
    assert found["claude-sonnet"][0]["info"]["pricing"] == {"input": 3.0, "output": 15.0}
    assert [d["weight"] for d in found["gpt-4o"]] == [3.0, 0.0]
    assert {d["timeout"] for d in snapshot["deployments"]} == {45.0}
    assert any("placeholder" in w for w in config.warnings)  # ${…} is no secret


def test_h_placeholder_key_is_refused_on_a_public_address() -> None:
    path = next(CONFIGS.glob("h_*.yaml"))
    with pytest.raises(ConfigError, match="placeholder"):
        load(str(path), environ=ENV, overrides=CliOverrides(host="::"))


def test_i_wildcards() -> None:
    config, snapshot = read("i")
    found = groups(snapshot)
    patterns = [w["pattern"] for w in snapshot["wildcards"]]
    assert patterns.index("openai/gpt-4*") < patterns.index("openai/*") < patterns.index("*")
    assert patterns[-1] == "*"
    assert header(found["anthropic/*"][0], "x-api-key") == "value-of-ANTHROPIC_API_KEY"
    assert header(found["openai/gpt-4*"][0], "authorization") == "Bearer value-of-OPENAI_GPT4_KEY"
    assert found["vllm-*"][0]["api_base"] == "http://gpu-1:8000/v1"
    (sonnet,) = found["anthropic/claude-sonnet-4-5"]  # an alias reaches it through the pattern
    assert (sonnet["model"], sonnet["provider"]) == ("claude-sonnet-4-5", "anthropic")
    assert any("alias anything names the pattern anthropic/*" in w for w in config.warnings)


def test_i_catch_all_sends_nothing_to_another_provider() -> None:
    _, snapshot = read("i")
    by_pattern = {w["pattern"]: w for w in snapshot["wildcards"]}

    def first(pattern: str) -> dict[str, Any]:
        row: dict[str, Any] = snapshot["deployments"][by_pattern[pattern]["deployments"][0]]
        return row

    assert first("groq/*")["origin"]["host"] == "api.groq.com"
    assert first("claude-*")["origin"]["host"] == "api.anthropic.com"
    assert first("bedrock/*")["unsupported"] == "bedrock"
    assert first("mistral/*")["unsupported"] == "mistral without an API key"
    assert by_pattern["groq/*"]["hidden"]
    assert first("*")["origin"]["host"] == "api.openai.com"
    assert not by_pattern["anthropic/*"]["hidden"]  # the file's own


def test_j_guardrails_passthrough() -> None:
    with pytest.raises(ConfigError) as refused:
        read("j")
    text = str(refused.value)
    names = ("guardrails", "policies", "default_key_generate_params.guardrails")
    for name in names:
        assert f"--allow-missing {name}" in text
    assert "jwt" not in text  # "False" is off
    assert "j_guardrails_passthrough.yaml:9: guardrails" in text
    config, snapshot = read("j", *names)
    (deployment,) = groups(snapshot)["gpt-4o"]
    assert deployment["defaults"] == {}  # tags are the proxy's
    assert sum("NOT applied" in w for w in config.warnings) == len(names)


def test_k_aliases() -> None:
    config, snapshot = read("k")
    found = groups(snapshot)
    assert set(found) == {"cheap", "strong"}
    assert [d["weight"] for d in found["strong"]] == [1.0, 2.0]
    one, eu = found["strong"]
    assert one["api_base"] == "http://llm.internal:9000/v1"  # environment_variables
    assert (eu["api_base"], header(eu, "authorization")) == (
        "https://eu.internal/openai/v1",
        "Bearer value-of-EU_KEY",
    )
    assert {(a["name"], a["group"], a["hidden"]) for a in snapshot["aliases"]} == {
        ("gpt-4", "strong", False),
        ("gpt-4-turbo", "strong", True),
        ("gpt-3.5-turbo", "cheap", False),
    }
    assert snapshot["settings"]["max_request_bytes"] == 20 * 1048576
    master, ci, team = snapshot["keys"]
    assert master["master"]
    assert not ci["master"]
    assert (ci["models"], ci["expires"]) == (["cheap"], 4102358400.0)
    assert team["aliases"] == {"best": "strong"}
    assert config.environ["STAGE"] == "2"
    assert "sk-9f2c51d7a64e4b0fa8d0" not in str(snapshot)
