"""Gateways whose LiteLLM is a stand-in, and what its journal tells."""

import json
import os
from pathlib import Path
from typing import Any

from harness import MASTER, Gateway

STUB = Path(__file__).parent / "bridge" / "stub"
SECRET = "AKIASECRETSECRET"


class Bridged:
    """A gateway with the stand-in behind it."""

    def __init__(self, gateway: Gateway, journal: Path) -> None:
        self.gateway, self.journal = gateway, journal

    def notes(self, kind: str) -> list[list[Any]]:
        """Lines of the journal of one kind."""
        if not self.journal.exists():
            return []
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line for line in lines if line[0] == kind]

    def calls(self, what: str) -> list[list[Any]]:
        """Calls for the model of this name."""
        return [line for line in self.notes("call") if line[2]["model"].endswith(f"/{what}")]


def served(**more: Any) -> dict[str, Any]:
    """A configuration whose models the SDK serves, beside one that nobody serves."""
    cloud = {"aws_secret_access_key": SECRET, "aws_region_name": "eu-west-1"}
    return {
        "model_list": [
            {
                "model_name": "m/*",
                "litellm_params": {
                    "model": "bedrock/*",
                    "temperature": 0.5,
                    "rpm": 100000,
                    "extra_headers": {"x-team": "blue"},
                    "allowed_openai_params": ["odd_param"],
                    **cloud,
                },
            },
        ],
        "litellm_settings": {"drop_params": True},
        "environment_variables": {"FROM_THE_FILE": "told"},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": MASTER},
        **more,
    }


def environment(journal: Path, **more: str) -> dict[str, str]:
    """Variables by which the gateway finds the stand-in."""
    path = os.pathsep.join(p for p in (str(STUB), os.environ.get("PYTHONPATH", "")) if p)
    return {"PYTHONPATH": path, "STUB_JOURNAL": str(journal), **more}
