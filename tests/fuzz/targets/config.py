"""Configuration files. Any bytes either load or are refused with a ConfigError that names a place.

And: a configuration that loads makes a snapshot that can be sent to workers, and no credential is in
the text of an error.
"""

import tempfile
from pathlib import Path

from fastproxy.config.errors import ConfigError
from fastproxy.config.load import load
from fastproxy.config.snapshot import build_snapshot

SECRET = "sk-fuzz-0123456789abcdef"
MUTATIONS = 20  # each reads a file
ENVIRON = {"KEY": SECRET, "NAME": "value", "NUMBER": "5"}
SEEDS = [
    b"model_list:\n- model_name: m\n  litellm_params: {model: openai/x, api_key: os.environ/KEY}\n"
    b"general_settings: {master_key: os.environ/KEY}\n",
    b"model_list: &a\n- model_name: '*'\n  litellm_params:\n    model: '*'\n    rpm: '5'\n    timeout: \"1.5\"\n"
    b"router_settings:\n  model_group_alias: {a: m}\n  num_retries: null\n",
    b"environment_variables: {A: b}\nlitellm_settings:\n  drop_params: 'True'\n  callbacks: [x]\n",
    b"include: [other.yaml]\nmodel_list: []\n",
    b"general_settings:\n  keys:\n  - {key: sk-a-0123456789, models: [m], alias: x}\n  allowed_ips: [10.0.0.0/8]\n",
]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-config-"))


def run(data: bytes) -> None:
    """One input."""
    path = FOLDER / "proxy.yaml"
    path.write_bytes(data)
    try:
        config = load(str(path), environ=ENVIRON)
        snapshot = build_snapshot(config, 1)
    except ConfigError as error:
        assert SECRET not in str(error)
        return
    assert isinstance(snapshot["groups"], list)
