"""Gates: what one entity may use, as a worker asks for it; made from the records of keys and groups.

A gate's name says whose counter it has in the table of limits (_limits.pyx), wherever that lies.
"""

import hashlib

from fastproxy.durations import began, next_reset
from fastproxy.money import nano


def counter_name(str kind, str owner, str model, str duration):
    """Which counter is whose: 62 bits of a hash between two ones."""
    text = "\0".join((kind, owner, model or "", duration or ""))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") | 1 << 63 | 1


cdef long long limit_of(value):
    return -1 if value is None else max(0, min(int(value), 1 << 62))


cdef class Gate:
    """The limits of one entity, or of one model of it; made from a record's `limits`."""

    def __init__(self, str scope, str value, str owner, dict limits, str model=None):
        self.scope = scope
        self.value = value
        self.model = None if model is None else model.encode()
        self.rpm = limit_of(limits.get("rpm_limit"))
        self.tpm = limit_of(limits.get("tpm_limit"))
        self.parallel = limit_of(limits.get("max_parallel_requests"))
        self.budget = limit_of(limits.get("max_budget"))
        self.spend = limits.get("spend") or 0
        self.duration = limits.get("budget_duration")
        self.ends = int(limits.get("budget_reset_at") or 0) if self.duration else 0
        self.begins = began(self.duration, self.ends * 1000) // 1000 if self.ends else 0
        self.name = counter_name(scope, owner, model, self.duration)
        self.slot = -1
        self.estimates = self.tpm >= 0 or self.budget >= 0
        self.requests_line = self._line("requests", self.rpm)
        self.tokens_line = self._line("tokens", self.tpm)
        self.key_lines = None
        if scope == "api_key":
            lines = [f"x-litellm-key-{name}-limit: {limit}\r\n" for name, limit in (("tpm", self.tpm), ("rpm", self.rpm))
                     if limit >= 0]
            if self.budget >= 0:
                lines.append(f"x-litellm-key-max-budget: {self.budget / 1e9!r}\r\n")
            self.key_lines = "".join(lines).encode()

    def _line(self, str what, limit):
        return f"x-ratelimit-{self.scope}-limit-{what}: {limit}\r\n" \
            f"x-ratelimit-{self.scope}-remaining-{what}: ".encode()

    def begin(self, long long wall, long long spent):
        """`spent` has been spent in the period that `wall` lies in, when its counter begins."""
        if self.duration is not None and wall >= <long long>self.ends:
            self.move_on(wall)
        self.spend = spent

    cdef void move_on(self, long long wall):
        # The period that `wall` lies in.
        self.ends = next_reset(self.duration, wall * 1000) // 1000
        self.begins = began(self.duration, self.ends * 1000) // 1000
        self.spend = 0                        # the store's was of the period before


def owner_of(dict record):
    """As whom a key is counted: one that was made anew goes on with the counters of the one before."""
    return record.get("counted_as") or record["digest"]


def gates_of(dict record, dict defaults=None):
    """The gates of a key's record, in the order in which they are passed; () without limits.

    defaults: {model: {"rpm_limit": …, "tpm_limit": …}} of each key that says nothing of these models itself."""
    found = []
    owners = (("key", "api_key", owner_of(record), record.get("name") or ""),
              ("member", "team_member", f"{record.get('team_id')}\0{record.get('user_id')}",
               f"{record.get('team_id')}:{record.get('user_id')}"),
              ("user", "user", record.get("user_id") or "", record.get("user_id") or ""),
              ("team", "team", record.get("team_id") or "", record.get("team_id") or ""))
    for part, scope, owner, value in owners:
        limits = (record.get("limits") or {}).get(part) or {}
        if any(limits.get(name) is not None
               for name in ("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget")):
            found.append(Gate(scope, value, owner, limits))
        models = {}
        for name, limit in (("model_rpm_limit", "rpm_limit"), ("model_tpm_limit", "tpm_limit")):
            for model, number in (limits.get(name) or {}).items():
                models.setdefault(model, {})[limit] = number
        if defaults is not None and part == "key" and not record.get("master"):
            for model, own in defaults.items():
                models.setdefault(model, own)
        for model, budget in (limits.get("model_max_budget") or {}).items():
            models[model] = {**models.get(model, {}), **_budget(budget),
                             "spend": (limits.get("model_spend") or {}).get(model, 0)}
        found += [Gate("model_per_" + part, f"{value}:{model}", owner, limit, model)
                  for model, limit in models.items()]
    return tuple(found)


def group_gate(dict group):
    """The gate of a snapshot's model group, for all keys together; None: it has no limit."""
    limits = group.get("limits")
    if not limits:
        return None
    name = group.get("name") or group["pattern"]
    return Gate("model_group", name, name, limits)


def _budget(budget):
    # `model_max_budget`: {model: {budget_limit, time_period}}, dollars; the store's are nano-dollars.
    if not isinstance(budget, dict):
        budget = {"max_budget": budget}
    amount = budget.get("budget_limit", budget.get("max_budget"))
    duration = budget.get("time_period", budget.get("budget_duration"))
    return {"max_budget": None if amount is None else nano(amount),
            "budget_duration": duration}
