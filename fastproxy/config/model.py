"""What a loaded configuration is made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastproxy.config import schema, source
from fastproxy.config.secret import Secret
from fastproxy.config.slop import listing


@dataclass(frozen=True)
class CliOverrides:
    """What the command line adds to the file."""

    host: str = "127.0.0.1"
    allow_missing: tuple[str, ...] = ()
    environment_counts: bool = True  # False: `check` reads the file away from where it will run


@dataclass
class Entry:
    """One deployment as configured."""

    index: int
    name: str
    params: schema.LitellmParams = field(repr=False)
    raw: dict[str, Any] = field(repr=False)  # litellm_params as they stand, references resolved
    info: dict[str, Any]
    unset_key: bool = False  # api_key names an environment variable that is not set


@dataclass
class Config:
    """A loaded configuration."""

    document: source.Document
    environ: Mapping[str, str] = field(repr=False)
    general: schema.GeneralSettings = field(repr=False)
    litellm: schema.LitellmSettings
    router: schema.RouterSettings
    entries: list[Entry]
    keys: list[schema.KeyEntry] = field(repr=False)
    master_key: Secret | None
    credentials: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    left_out: list[tuple[int, str]] = field(default_factory=list)  # index in model_list, why
    warnings: list[str] = field(default_factory=list)

    @property
    def custom_providers(self) -> set[str]:
        """Providers that a custom handler would serve."""
        settings = self.document.data.get("litellm_settings")
        entries = settings.get("custom_provider_map") if isinstance(settings, dict) else None
        return {str(e.get("provider")) for e in listing(entries) if isinstance(e, dict)}

    def warn(self, text: str) -> None:
        """Note something to tell at the start, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    @property
    def deployments(self) -> list[dict[str, Any]]:
        """Group and model of each deployment, for messages."""
        return [{"group": e.name, "model": e.params.model} for e in self.entries]
