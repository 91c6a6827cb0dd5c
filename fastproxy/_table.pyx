# cython: wraparound=True
# (load-time code: clarity before nanoseconds)
"""Routes, keys, groups and deployments of one snapshot, in the form that a request looks them up.

Everything that can be decided at load time is decided here: the upstream head of every deployment and
endpoint is one bytes object, and so are the lines that its answers carry. This module makes no
decision about a request beyond a look-up and a weighted draw; it holds no connection.
"""

import fnmatch

from fastproxy import durations, prices
from fastproxy._cost cimport Prices
from fastproxy._fields import FIELD_NAMES
from fastproxy._gates import gates_of, group_gate, owner_of
from fastproxy._pool cimport Pool
from fastproxy._shared import joined_tags

from fastproxy.routing import required
from fastproxy.routing.response_ids import follow_up, mark

ENDPOINTS = (
    "chat", "completions", "embeddings", "responses", "moderations", "images_generations",
    "images_edits", "audio_speech", "audio_transcriptions", "audio_translations", "rerank",
    "messages", "count_tokens", "pass_through",
    "generate_content", "stream_generate_content", "stream_generate_content_array", "google_count_tokens",
    "realtime",
)
# Client paths of each endpoint, without the optional /v1.
PATHS = {
    "chat": ("/chat/completions",),
    "completions": ("/completions",),
    "embeddings": ("/embeddings",),
    "responses": ("/responses",),
    "moderations": ("/moderations",),
    "images_generations": ("/images/generations",),
    "images_edits": ("/images/edits",),
    "audio_speech": ("/audio/speech",),
    "audio_transcriptions": ("/audio/transcriptions",),
    "audio_translations": ("/audio/translations",),
    "rerank": ("/rerank",),
    "messages": ("/messages",),
    "count_tokens": ("/messages/count_tokens",),
}
GOOGLE_ACTIONS = {
    b"generateContent": EP_GENERATE_CONTENT,
    b"streamGenerateContent": EP_STREAM_GENERATE_CONTENT_ARRAY,
    b"countTokens": EP_GOOGLE_COUNT_TOKENS,
}
GOOGLE_PREFIXES = (b"/v1beta/models/", b"/v1/models/", b"/v1alpha/models/", b"/models/")
ALL_ROUTES = frozenset(["llm_api_routes", "openai_routes"])     # names in allowed_routes for every route of models
FOR_PAGES = ("/", "/openapi.json", "/models", "/v1/models", "/model/info", "/v1/model/info")
MULTIPART = {"images_edits", "audio_transcriptions", "audio_translations"}
ANTHROPIC = {"messages", "count_tokens"}
WILDCARD_NAMES_MAX = 4096   # names that matched a pattern and are remembered; beyond it they are matched anew


def json_name(str name):
    """A model name as the inside of a JSON string."""
    import orjson
    return orjson.dumps(name)[1:-1]


cdef class Plan:
    """What a route needs; a field that is off costs nothing."""

    def __init__(self, int kind, int endpoint, str path, bytes body=None,
                 bytes content_type=b"application/json"):
        self.kind = kind
        self.endpoint = endpoint
        self.path = path
        self.body = body
        self.content_type = content_type
        self.anthropic = endpoint in (EP_MESSAGES, EP_COUNT_TOKENS)
        self.google = EP_GENERATE_CONTENT <= endpoint <= EP_GOOGLE_COUNT_TOKENS
        self.streams_usage = endpoint in (EP_CHAT, EP_COMPLETIONS)


cdef bint is_measured(tuple gates):
    return any((<Gate>gate).estimates for gate in gates)


cdef class KeyRecord:
    """What a virtual key may do. Holds no raw credential."""

    def __init__(self, dict record, dict defaults=None, enforced=()):
        """defaults: limits of keys for models of which the record says nothing, by model. enforced: what the
        configuration has every request bring."""
        self.digest = bytes.fromhex(record["digest"])
        self.counted_as = bytes.fromhex(owner_of(record))
        self.name = record.get("name") or "sk-...."
        self.alias = record.get("alias") or ""
        self.master = bool(record.get("master"))
        self.stored = bool(record.get("stored"))
        self.blocked = bool(record.get("blocked"))
        self.expires = record.get("expires") or 0.0
        names = [m for m in record.get("models") or ()
                 if m not in ("all-proxy-models", "*")]
        everything = not record.get("models") or len(names) != len(record["models"])
        self.models = None if everything else frozenset(
            m.encode() for m in names if "*" not in m)
        self.model_patterns = () if everything else tuple(m for m in names if "*" in m)
        self.bounds = tuple((whose, tuple(names)) for whose, names in record.get("bounds") or ())
        self.no_fallbacks = bool((record.get("metadata") or {}).get("disable_fallbacks"))
        self.tags = frozenset(record.get("tags") or ()) or None
        self.tags_text = None if self.tags is None else joined_tags(self.tags)
        aliases = record.get("aliases") or {}
        self.aliases = {k.encode(): v.encode() for k, v in aliases.items()} or None
        self.user_id = record.get("user_id")
        self.team_id = record.get("team_id")
        routes = tuple(record.get("routes") or ())
        self.routes = None if not routes or ALL_ROUTES.intersection(routes) else routes
        self.gates = gates_of(record, defaults)
        self.measured = is_measured(self.gates)
        self.required = required.compiled([*enforced, *(record.get("required") or ())], FIELD_NAMES)
        self.custom = _shown(record) if record.get("custom") else None
        self.asked = None if self.custom is None else {
            name: record.get(name) for name in ("digest", "name", "user_id", "team_id", "limits")}

    cdef void retire(self) noexcept:
        # A connection remembers the record of the key that it showed last, unless the record can expire.
        self.retired = True
        self.expires = 1.0

    def allows_route(self, str path):
        """Whether `allowed_routes` has a route of models: by its path, or by a pattern that ends in *."""
        if self.routes is None:
            return True
        spellings = (path, "/v1" + path, "/v1beta" + path)
        return any(
            route in spellings or route.endswith("*") and any(p.startswith(route[:-1]) for p in spellings)
            for route in self.routes)

    def allows(self, bytes name):
        """Whether the key may call the model group of this name."""
        if self.models is None or name in self.models:
            return True
        text = name.decode("utf-8", "replace")
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in self.model_patterns)

    def refusal(self, str name):
        """(key, team or user: whose models are without this group, these models); the key's where several are."""
        for whose, names in self.bounds:
            if not any(n == name or "*" in n and fnmatch.fnmatchcase(name, n) for n in names):
                return whose, names
        return "key", sorted(m.decode() for m in self.models or ()) + list(self.model_patterns)


cdef class Deployment:
    """One way to serve a model: destination and credential are one object."""

    def __init__(self, int index, dict record, Pool pool, str matched=None):
        self.index = index
        self.raw = record
        self.id = record["id"]
        self.group = record["group"]
        self.provider = record["provider"]
        self.model = record["model"] if matched is None else \
            record["model"].replace("*", matched, 1)
        self.model_json = json_name(self.model)
        self.model_raw = self.model.encode()
        self.pool = pool
        self.api_base = record["api_base"]
        self.stream_usage = bool(record.get("stream_usage", True))
        self.timeout = record.get("timeout") or 6000.0
        self.stream_timeout = record.get("stream_timeout") or self.timeout
        self.weight = record.get("weight", 1.0)
        self.unsupported = record.get("unsupported")
        self.edits = bool(record.get("defaults") or record.get("extra_body")
                          or record.get("drop_params"))
        headers = record["headers"]
        names = {name for name, _ in headers}
        self.own_anthropic_version = "anthropic-version" in names
        self.mark = mark(self.id)
        self.secrets = _secrets(headers, record["origin"])
        targets = record["targets"]
        self.heads = tuple(
            None if name not in targets else
            _upstream_head(record["origin"], _substitute(targets[name], matched),
                           _google_headers(headers) if "content" in name or "google" in name else headers,
                           "GET" if name == "realtime" else "POST")
            for name in ENDPOINTS)
        shown = record.get("litellm_model") or self.model
        if matched is not None:
            shown = shown.replace("*", matched, 1)
        self.slot = record.get("slot", 0)
        self.order = record.get("order", 0)
        self.tags = frozenset(record.get("tags") or ())
        self.max_parallel = record.get("max_parallel", 0)
        self.price = record.get("price", 0.0)
        self.budgets = tuple(
            Gate(one["scope"], one["value"], one["owner"], one["limits"])
            for one in record.get("budgets") or ()) or None
        found = record.get("prices")
        if found is None and matched is not None:
            found = prices.look_up(f"{self.provider}/{self.model}")
        self.prices = Prices(found)
        self.rpm = record.get("rpm", 0)
        self.tpm = record.get("tpm", 0)
        self.enforce_rates = record.get("enforce_rates", False)
        self.max_input = record.get("max_input_tokens", 0)
        self.cooldown = record.get("cooldown_time", 5.0)
        self.idle_timeout = record.get("idle_timeout") or self.timeout
        self.allowed_fails = record.get("allowed_fails", -1)
        for i, count in enumerate(record.get("fails_by_class") or [-1] * 8):
            self.fails_by_class[i] = count
        self.answer_head = (
            f"x-litellm-model-id: {self.id}\r\nx-litellm-model-name: {_visible(shown)}\r\n"
            f"x-litellm-model-api-base: {_visible(self.api_base)}\r\n").encode("latin-1")

    def pair(self, Pool pool, matched=None):
        """Make the twin: another way to the same deployment, so it shares the slot and so every count and limit."""
        twin = Deployment(self.index, {**self.raw["twin"], "slot": self.slot}, pool, matched)
        self.twin, (<Deployment>twin).main = twin, self


cdef class Router:
    """router_settings: what all groups share. config/traffic.py says what each means."""

    def __init__(self, dict record):
        self.strategy = record.get("strategy", 0)
        self.latency_buffer = record.get("latency_buffer", 0.0)
        self.latency_ttl = min(int(record.get("latency_ttl", 3600)), 1 << 31)
        self.max_fallbacks = record.get("max_fallbacks", 5)
        self.cooldowns = record.get("cooldowns", True)
        self.tag_filtering = record.get("tag_filtering", False)
        self.tag_match_any = record.get("tag_match_any", True)
        self.health_routing = record.get("health_routing", False)
        self.retry_after = record.get("retry_after", 0.0)
        self.stream_hold = record.get("stream_hold", 5.0)
        self.stream_again = record.get("stream_policy", "fallback") != "error_event"
        self.stream_continue = record.get("stream_policy") == "continue"
        self.drain = record.get("client_gone") == "drain"
        self.total_timeout = record.get("total_timeout", 0.0)
        self.max_in_flight = record.get("max_in_flight", 0)
        self.max_queued = record.get("max_queued", 0)
        self.queue_timeout = record.get("queue_timeout", 30.0)
        self.fallbacks = record.get("fallbacks") or {}
        self.default_fallbacks = record.get("default_fallbacks") or []

    def named(self, str kind, names):
        """Where a group's requests go when it fails: the list of the first of `names` that has one."""
        lists = self.fallbacks.get(kind) or {}
        for name in (*names, "*"):
            if name in lists:
                return lists[name]
        return self.default_fallbacks if kind == "fallbacks" else None


cdef class Group:
    """Deployments that share a model name."""

    def __init__(self, bytes name, list deployments, dict record, Router router, str alias_of=None):
        cdef Deployment d
        text = name.decode("utf-8", "replace")
        self.name = name
        self.name_json = json_name(text)
        self.head_line = f"x-litellm-model-group: {_visible(text)}\r\n".encode("latin-1")
        self.deployments = deployments
        self.alias_of = alias_of
        self.slot = record.get("slot", 0)
        self.retries = record.get("retries", 0)
        for i, count in enumerate(record.get("policy") or [-1] * 8):
            self.policy[i] = count
        self.has_fallbacks = bool(router.named("fallbacks", self.names()))
        self.gate = group_gate(record)
        d = deployments[0]
        self.plain = len(deployments) == 1 and not router.tag_filtering and not router.health_routing \
            and not d.max_parallel and not d.enforce_rates and not d.max_input

    def names(self):
        """The client's name and, for an alias, the group's."""
        own = self.name.decode("utf-8", "replace")
        return (own,) if self.alias_of is None else (own, self.alias_of)


cdef class Table:
    """One snapshot, compiled. Immutable once made, but for remembered wildcard names and stored keys."""

    def __init__(self, dict snapshot, Pool control, dict pools, list control_routes):
        """`pools` maps origins to living pools and is extended: a reload keeps connections."""
        settings = snapshot["settings"]
        self.version = snapshot["version"]
        self.settings = settings
        self.open = snapshot["open"]
        self.root_path = (settings.get("root_path") or "").encode()
        self.header_full = settings.get("header_profile", "full") == "full"
        self.max_request_bytes = settings["max_request_bytes"]
        self.max_answer_bytes = settings.get("max_answer_bytes", 0)
        key_header = settings.get("key_header")
        self.key_header = key_header.lower().encode() if key_header else None
        self.forward_client_headers = bool(settings.get("forward_client_headers"))
        self.forward_openai_organization = bool(settings.get("forward_openai_org_id"))
        self.custom_auth = bool(snapshot.get("custom_auth"))
        self.sliding_limits = settings.get("limit_window") == "sliding"
        self.strict_limits = settings.get("limit_mode") == "strict"
        self.unseen_reserved = settings.get("unseen_output") == "reserved"
        self.budget_status = settings.get("budget_exceeded_status", 422)
        self.always_usage = bool(settings.get("always_include_stream_usage"))
        self.keep_texts = bool(settings.get("keep_texts"))
        self.texts_of_all = bool(settings.get("texts_of_all"))
        self.usage_cost = bool(settings.get("usage_cost", True))
        self.end_users = bool(settings.get("end_users"))
        self.agents = bool(settings.get("user_agents"))
        user_header = settings.get("user_header") if self.end_users else None
        self.user_header = user_header.lower().encode() if user_header else None
        self.keepalive_timeout = settings.get("keepalive_timeout", 75.0)
        self.head_timeout = settings.get("head_timeout", 30.0)
        self.body_timeout = settings.get("body_timeout", 60.0)
        self.write_timeout = settings.get("write_timeout", 300.0)
        self.websocket_idle = settings.get("websocket_idle_timeout", 900.0)
        self.websocket_message = settings.get("websocket_max_message", 33554432)
        self.max_connections = settings.get("max_connections", 16384)
        self.max_per_address = settings.get("max_connections_per_address", 0)
        self.control = control
        durations.use_zone(settings.get("timezone"))
        budget = snapshot.get("budget")
        self.budget = None if budget is None else Gate("proxy", "all keys together", "", budget)
        self.key_limits = snapshot.get("key_limits")
        self.enforced_params = tuple(settings.get("enforced_params") or ())
        self.keys, self.anew = {}, {}
        for record in snapshot["keys"]:
            self._keep(self._key(record))
        self.anonymous = KeyRecord({"digest": "00" * 32, "name": "anonymous", "master": True}, None, self.enforced_params)
        self.deployments = []
        for index, record in enumerate(snapshot["deployments"]):
            deployment = Deployment(
                index, record, self._pool(record, pools, record.get("unsupported") is None))
            if record.get("twin"):
                deployment.pair(self._pool(record["twin"], pools))
            self.deployments.append(deployment)
        self.marked = {(<Deployment>d).mark: d for d in self.deployments}
        self.router = Router(snapshot.get("router") or {})
        self._make_groups(snapshot)
        self._make_routes(control_routes)
        self._make_passes(snapshot.get("passthrough") or (), pools)
        self.cors = _cors(settings.get("cors"))
        self.address_rule = _address_rule(settings)
        self.client_rule = _client_rule(settings)

    def stored_keys(self):
        """Hex digests of those keys that are not the configuration's."""
        return [digest.hex() for digest, key in self.keys.items() if (<KeyRecord>key).stored]

    def set_keys(self, list upserts, list deletes):
        """Keys of the store that are new or changed, by record, and those to be forgotten, by hex digest.

        What is in flight goes on with the record that it began with; the next request of any connection
        meets the new one. A key that the configuration has too is the configuration's."""
        cdef KeyRecord key
        for record in upserts:
            key = self._key(record)
            if self._forget(key.digest):
                self._keep(key)
        for digest in deletes:
            self._forget(bytes.fromhex(digest))

    cdef KeyRecord in_force(self, KeyRecord key):
        """The record that is there now instead of one of before, also of a key that was made anew; None: there is none."""
        found = self.keys.get(key.digest)
        return <KeyRecord>(self.anew.get(key.counted_as) if found is None else found)

    cdef void _keep(self, KeyRecord key):
        self.keys[key.digest] = key
        if key.counted_as != key.digest:
            self.anew[key.counted_as] = key

    cdef KeyRecord _key(self, dict record):
        cdef KeyRecord key = KeyRecord(record, self.key_limits, self.enforced_params)
        if self.budget is not None and not key.master:
            key.gates += (self.budget,)
            key.measured = is_measured(key.gates)
        return key

    cdef bint _forget(self, bytes digest):
        # Whether there is no such key now.
        old = self.keys.get(digest)
        if old is None:
            return True
        if not (<KeyRecord>old).stored:
            return False
        del self.keys[digest]
        (<KeyRecord>old).retire()
        if self.anew.get((<KeyRecord>old).counted_as) is old:
            del self.anew[(<KeyRecord>old).counted_as]
        return True

    def _pool_key(self, record):
        return repr(sorted(record["origin"].items(), key=str))

    def _pool(self, record, pools, warm=False):
        origin = record["origin"]
        key = self._pool_key(record)
        if key not in pools:
            pools[key] = Pool(origin, self.settings)
        pools[key].configure(self.settings, warm)
        return pools[key]

    def _make_groups(self, dict snapshot):
        self.groups = {}
        for group in snapshot["groups"]:
            name = group["name"].encode()
            self.groups[name] = Group(
                name, [self.deployments[i] for i in group["deployments"]], group, self.router)
        records = {group["name"]: group for group in snapshot["groups"]}
        for alias in snapshot.get("aliases", ()):
            target = self.groups.get(alias["group"].encode())
            if target is not None:
                name = alias["name"].encode()
                self.groups[name] = Group(
                    name, (<Group>target).deployments, records[alias["group"]], self.router, alias["group"])
        self.wildcards = [(w["pattern"], w) for w in snapshot.get("wildcards", ())]
        limits = [group.get("limits") or {} for group in (*snapshot["groups"], *snapshot.get("wildcards", ()))]
        self.measured = any("tpm_limit" in limit for limit in limits) \
            or any((<Deployment>d).budgets is not None for d in self.deployments)

    def _make_routes(self, list control_routes):
        root = self.root_path.decode()
        self.routes, self.methods, self.suffixes = {}, {}, {}
        for endpoint, name in enumerate(ENDPOINTS):
            kind = PLAN_MULTIPART if name in MULTIPART else PLAN_LLM
            for path in PATHS.get(name, ()):
                plan = Plan(kind, endpoint, path)
                self._add("POST", f"{root}/v1{path}", plan)
                if name not in ANTHROPIC:
                    self._add("POST", f"{root}{path}", plan)
                    self.suffixes[path.encode()] = plan
                if name == "responses":
                    self._add("POST", f"{root}/openai/v1{path}", plan)
                if name == "rerank":
                    self._add("POST", f"{root}/v2{path}", plan)
        for prefix in ("/v1", "", "/openai/v1"):
            self._add("GET", f"{root}{prefix}/realtime", Plan(PLAN_TUNNEL, EP_REALTIME, "/realtime"))
        for path in ("/health/liveliness", "/health/liveness"):
            self._add("GET", root + path, Plan(PLAN_FIXED, EP_COUNT, path, b'"I\'m alive!"'))
        db = b"connected" if self.settings.get("store") else b"Not connected"
        self._add("GET", root + "/health/readiness", Plan(
            PLAN_FIXED, EP_COUNT, "/health/readiness", b'{"status":"healthy","db":"%s"}' % db))
        self._add("HEAD", root + "/", Plan(PLAN_FIXED, EP_COUNT, "/", b""))
        self.patterns = []
        self.admin_paths = frozenset(
            (root + path).encode() for _, path in control_routes
            if path not in FOR_PAGES and not path.startswith("/health"))
        for method, path in control_routes:
            plan = Plan(PLAN_CONTROL, EP_COUNT, path)
            if "{" in path:              # one segment of a client's choosing, as in /key/{key}/regenerate
                before, _, after = (root + path).partition("{")
                self.patterns.append((before.encode(), after.partition("}")[2].encode(), plan))
            else:
                self._add(method, root + path, plan)
        for line in list(self.routes):      # HEAD wherever there is GET
            if line.startswith(b"GET ") and (<Plan>self.routes[line]).kind != PLAN_TUNNEL:
                self.routes.setdefault(b"HEAD" + line[3:], self.routes[line])

    def _make_passes(self, records, dict pools):
        from fastproxy.routing.passing import Route
        cdef Plan plan
        self.passes = []
        for record in records:
            plan = Plan(PLAN_PASS, EP_PASS_THROUGH, record["path"])
            plan.route = Route(record)
            known = self._pool_key(record) in pools
            plan.deployment = _pass_deployment(record, pools[self._pool_key(record)] if known
                                               else self._pool(record, pools))
            plan.anthropic = record.get("provider") == "anthropic"
            self.passes.append(plan)

    def pass_plan(self, bytes method, bytes path):
        """The plan of a path that leads elsewhere, or None. Looked for once nothing else knows the path."""
        other = None
        if self.root_path:
            if not path.startswith(self.root_path):
                return None
            path = path[len(self.root_path):]
        for plan in self.passes:
            route = (<Plan>plan).route
            if route.leads(path):
                if method in route.methods:
                    return plan
                other = other or plan          # one path may lead to several places, by method
        return other

    def _add(self, str method, str path, Plan plan):
        self.routes[f"{method} {path}".encode()] = plan
        allowed = self.methods.get(path.encode(), b"")
        self.methods[path.encode()] = (allowed + b", " if allowed else b"") + method.encode()

    cdef Plan plan(self, bytes method_and_path):
        return <Plan>self.routes.get(method_and_path)

    cdef Group group(self, bytes name):
        found = self.groups.get(name)
        if found is not None or not self.wildcards:
            return <Group>found
        return self._match(name)

    def _match(self, bytes name):
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        for pattern, record in self.wildcards:
            before, _, after = pattern.partition("*")
            if len(text) < len(before) + len(after) or not text.startswith(before) \
                    or not text.endswith(after):
                continue
            matched = text[len(before):len(text) - len(after)]
            if not matched.isprintable() or " " in matched:
                return None
            members = []
            for i in record["deployments"]:
                d = <Deployment>self.deployments[i]
                member = Deployment(i, d.raw, d.pool, matched)
                if d.twin is not None:
                    (<Deployment>member).pair((<Deployment>d.twin).pool, matched)
                members.append(member)
            group = Group(name, members, record, self.router)
            if len(self.groups) < WILDCARD_NAMES_MAX:
                self.groups[name] = group
            return group
        return None

    def allowed_methods(self, bytes path):
        """The Allow value of a known path, or None."""
        return self.methods.get(path)

    def follow_up(self, bytes path):
        """The plan of /v1/responses/{id}…, or None."""
        rest = path[len(self.root_path):] if path.startswith(self.root_path) else b""
        for prefix in (b"/v1/responses", b"/responses", b"/openai/v1/responses"):
            if rest.startswith(prefix + b"/"):
                route = follow_up(rest[len(prefix):])
                if route is None:
                    return None
                plan = Plan(PLAN_PASS, EP_RESPONSES, "/responses/{id}")
                (<Plan>plan).route = route
                return plan
        return None

    def is_admin(self, bytes path):
        """Whether this is a path of the admin API, which no page of another origin is to use unasked."""
        return path in self.admin_paths or any(path.startswith(before) for before, _, _ in self.patterns)

    def path_model(self, bytes path, bytes query=b""):
        """(plan, model) of a POST to /engines/{m}/…, /openai/deployments/{m}/…, /v1beta/models/{m}:… or a
        control route with a parameter (which has no model), or None."""
        from urllib.parse import unquote
        for before, after, plan in self.patterns:
            size = len(path) - len(before) - len(after)
            if size > 0 and path.startswith(before) and path.endswith(after) \
                    and path.find(b"/", len(before), len(before) + size) < 0:
                return plan, None
        rest = path[len(self.root_path):] if path.startswith(self.root_path) else b""
        for prefix in GOOGLE_PREFIXES:
            if rest.startswith(prefix):
                model, _, action = rest[len(prefix):].rpartition(b":")
                endpoint = GOOGLE_ACTIONS.get(action)
                if endpoint is None or not model:
                    return None
                if endpoint == EP_STREAM_GENERATE_CONTENT_ARRAY and b"alt=sse" in query.split(b"&"):
                    endpoint = EP_STREAM_GENERATE_CONTENT
                name = unquote(model.decode("latin-1")).encode()
                return Plan(PLAN_LLM, endpoint, "/models/{model}:" + action.decode()), name
        for prefix in (b"/engines/", b"/openai/deployments/", b"/v1/engines/"):
            if rest.startswith(prefix):
                for suffix, plan in self.suffixes.items():
                    if rest.endswith(suffix) and len(rest) > len(prefix) + len(suffix):
                        model = rest[len(prefix):-len(suffix)]
                        return plan, unquote(model.decode("latin-1")).encode()
        return None

    def group_names(self):
        """Names that a client may use, hidden aliases included."""
        return list(self.groups)


def _shown(dict record):
    from base64 import b64encode
    import orjson
    return b64encode(orjson.dumps({name: record.get(name) for name in ("digest", "name", "models", "routes")}))


def _pass_deployment(dict record, Pool pool):
    # A deployment without a group: destination, credential and limits of time, and no head of its own,
    # as the target differs by request.
    cost = record.get("cost_per_request")
    d = Deployment(-1, {
        "id": record.get("prefix") or record["path"], "group": record["path"], "provider": record.get("provider") or "",
        "model": "", "api_base": "", "origin": record["origin"], "headers": record["headers"], "targets": {},
        "timeout": record["timeout"],
        "prices": None if cost is None else {"request": round(cost * prices.PICO)}}, pool)
    (<Deployment>d).pass_head = _upstream_head(record["origin"], "", record["headers"]).partition(b"\r\n")[2] \
        + b"".join(f"{n}: {v}\r\n".encode("latin-1") for n, v in record["headers"]
                   if n in ("content-type", "anthropic-version"))
    host = record["origin"]["host"]
    (<Deployment>d).answer_head = f"x-litellm-model-api-base: {record['origin']['scheme']}://{host}\r\n".encode("latin-1")
    return d


def _cors(policy):
    if not policy:
        return None
    from fastproxy.stages.cors import Cors
    return Cors(policy["origins"], policy["credentials"])


def _address_rule(settings):
    if not settings.get("allowed_ips"):
        return None
    from fastproxy.stages.addresses import AddressRule
    return AddressRule(settings["allowed_ips"], bool(settings.get("use_x_forwarded_for")),
                       settings.get("trusted_proxy_ranges") or [])


def _client_rule(settings):
    # without ranges anybody can write the field, so that it says nothing here
    if not settings.get("use_x_forwarded_for") or not settings.get("trusted_proxy_ranges"):
        return None
    from fastproxy.stages.addresses import AddressRule
    return AddressRule([], True, settings["trusted_proxy_ranges"])


def _substitute(str target, matched):
    if matched is None:
        return target
    from urllib.parse import quote
    return target.replace("*", quote(matched, safe=""), 1)


def _visible(str text):
    # Header values: one line of printable latin-1.
    return "".join(c if c.isprintable() and ord(c) < 256 else "?" for c in text)


def _google_headers(headers):
    # Its own API takes the key under another name than the OpenAI-compatible one.
    return [["x-goog-api-key", value.rpartition(" ")[2]] if name == "authorization" else [name, value]
            for name, value in headers]


CREDENTIALS = ("authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key")
TOLD = ("content-type", "anthropic-version", "anthropic-beta", "http-referer", "x-title", "user-agent")
SHORTEST_SECRET = 8      # bytes of another header's value; shorter ones are words that stand anywhere


def _secrets(headers, origin):
    found = {value.rpartition(" ")[2] for name, value in headers if name in CREDENTIALS}
    found |= {value for name, value in headers
              if name not in CREDENTIALS and name not in TOLD and len(value) >= SHORTEST_SECRET}
    proxy = origin.get("proxy")
    if proxy and proxy.get("authorization"):
        found.add(proxy["authorization"].rpartition(" ")[2])
    return tuple(sorted((text.encode("latin-1") for text in found if text), key=len, reverse=True))


def _upstream_head(dict origin, str target, list headers, str method="POST"):
    default = 443 if origin["scheme"] == "https" else 80
    host = origin["host"]
    if ":" in host:
        host = f"[{host}]"
    if origin["port"] != default:
        host = f"{host}:{origin['port']}"
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", "via: 1.1 fastproxy"]
    lines += [f"{name}: {value}" for name, value in headers
              if name not in ("content-length", "transfer-encoding", "connection", "host",
                              "content-type", "anthropic-version")]
    head = "\r\n".join(lines) + "\r\n"
    return head.encode("latin-1")
