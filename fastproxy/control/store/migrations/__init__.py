"""How the tables came to be: one module a step, in order. A released step is never changed."""

from types import ModuleType

from fastproxy.control.store.migrations import (
    v0001_first,
    v0002_spend,
    v0003_tags,
    v0004_served,
    v0005_end_user,
    v0006_counted_as,
    v0007_whose_texts,
)

STEPS: tuple[ModuleType, ...] = (
    v0001_first,
    v0002_spend,
    v0003_tags,
    v0004_served,
    v0005_end_user,
    v0006_counted_as,
    v0007_whose_texts,
)
HEAD: str = STEPS[-1].revision
