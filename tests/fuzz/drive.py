"""Runs one target under libFuzzer: python -m fuzz.drive TARGET CORPUS [libFuzzer arguments]. See run.py."""

import importlib
import sys
from pathlib import Path

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["fastproxy"], enable_loader_override=False):
    target = importlib.import_module(f"fuzz.targets.{name}")
if hasattr(target, "BROKEN"):
    sys.exit(print(f"left out: {target.BROKEN}", file=sys.stderr))
for number, seed in enumerate(target.SEEDS):
    Path(sys.argv[1], f"seed-{number}").write_bytes(seed)
atheris.Setup(sys.argv, target.run)
atheris.Fuzz()
