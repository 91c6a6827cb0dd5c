"""Configurations as text, read the way the gateway does."""

from pathlib import Path
from typing import Any

import yaml

from fastproxy.config import CliOverrides, Config, build_snapshot, check_file, load

MASTER = "general_settings: {master_key: sk-0123456789abcdef}\n"


class Files:
    """Config files in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str, name: str = "proxy.yaml") -> str:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    def load(self, text: str, *allow: str, host: str = "127.0.0.1", **env: str) -> Config:
        overrides = CliOverrides(host=host, allow_missing=allow)
        return load(self.write(text), environ=env, overrides=overrides)

    def snapshot(self, text: str, *allow: str, **env: str) -> dict[str, Any]:
        return build_snapshot(self.load(text, *allow, **env), 1)

    def check(self, text: str, **options: Any) -> tuple[str, int]:
        env = options.pop("env", {})
        return check_file(self.write(text), env, **options)


def one(params: dict[str, Any] | str, **more: Any) -> str:
    """A config of one deployment, `m`."""
    if isinstance(params, str):
        params = yaml.safe_load(params)
    entry = {"model_name": "m", "litellm_params": params}
    return yaml.safe_dump({"model_list": [entry], **more}) + (
        "" if "general_settings" in more else MASTER
    )
