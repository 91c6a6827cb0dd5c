"""Configuration: LiteLLM's config.yaml read, explained, validated and made into snapshots."""

from fastproxy.config.budgets import wants_store
from fastproxy.config.check import check_file
from fastproxy.config.discover import discover
from fastproxy.config.errors import ConfigError
from fastproxy.config.load import load, with_models
from fastproxy.config.metrics import Selection
from fastproxy.config.metrics import select as select_metrics
from fastproxy.config.model import CliOverrides, Config
from fastproxy.config.schema_json import json_schema
from fastproxy.config.secret import Secret
from fastproxy.config.snapshot import build_snapshot
from fastproxy.config.summary import summary

__all__ = [
    "CliOverrides",
    "Config",
    "ConfigError",
    "Secret",
    "Selection",
    "build_snapshot",
    "check_file",
    "discover",
    "json_schema",
    "load",
    "select_metrics",
    "summary",
    "wants_store",
    "with_models",
]
