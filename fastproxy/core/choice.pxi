# -- the model, its group, a deployment, and how the body is sent


cdef bint choose_deployment(Exchange x):
    """Steps 6 and 7: the model's group and a deployment of it. False: answered already, or under way."""
    cdef bytes name = None
    cdef Group group
    if x.plan.kind == PLAN_LLM:
        if not judge_fields(x):
            return False
        name = asked_model(x)
        if x.state == S_DRAIN or x.state == S_DONE:
            return False
        x.stream = x.scan.fields[F_STREAM].kind == 116 if not x.plan.google \
            else x.plan.endpoint in (EP_STREAM_GENERATE_CONTENT, EP_STREAM_GENERATE_CONTENT_ARRAY)      # 't'
    elif x.plan.kind == PLAN_MULTIPART:
        if x.multipart.model_start >= 0:
            x.model_start, x.model_end = x.multipart.model_start, x.multipart.model_end
            name = body_slice(x, x.model_start, x.model_end)
        x.stream = x.multipart.stream_true
    if x.path_model is not None:
        name = x.path_model
    if name is None and x.plan.endpoint == EP_MODERATIONS and x.scan.fields[F_MODEL].kind == 0:
        name = b"omni-moderation-latest"       # OpenAI's default; the body goes as it came
    if name is None:
        refuse(x, 400, "invalid_request_error",
               "litellm.BadRequestError: You passed in model=None. There are no healthy "
               "deployments for this model", None)
        return False
    if x.key.aliases is not None:
        name = x.key.aliases.get(name, name)
    x.model = name
    if not x.key.allows(name):
        refuse_model(x, name)
        return False
    if not read_options(x):
        return False
    group = x.table.group(name)
    if group is None:
        if not reach_unknown(x):
            refuse_unknown_model(x)
        return False
    enter_group(x, group)
    if not govern(x):
        return False
    if x.plan.endpoint == EP_RESPONSES and x.scan.present & 1u << F_PREVIOUS_RESPONSE_ID:
        pin(x)
    begin_clock(x)
    if x.owed >= 0:
        kind, x.owed = x.owed, -1
        if not fall_back(x, kind):
            x.unfit = U_COOLING
            refuse_unfit(x)
        return False
    x.deployment = choose(x, x.tried is not None)
    if x.deployment is None:
        if x.unfit == U_UNSUPPORTED or not x.body_complete \
                or not fall_back(x, X_CONTEXT if x.unfit == U_TOO_LONG else X_RATE):
            refuse_unfit(x)
        return False
    begin_attempt(x)
    return True


cdef inline void begin_clock(Exchange x) noexcept:
    if x.table.router.total_timeout > 0.0:
        x.total_until = x.gateway.now + x.table.router.total_timeout


cdef bint judge_fields(Exchange x):
    """Fields that no request may carry. False: answered already."""
    if x.scan.present & FORBIDDEN:
        refuse_forbidden(x)
        return False
    if x.scan.fields[F_GUARDRAILS].kind not in (0, 122):     # 'z': null
        refuse(x, 400, "invalid_request_error",
               "guardrails is not supported by this gateway yet: the request asks for a "
               "protection that would not be applied", "guardrails")
        return False
    return True


cdef bytes asked_model(Exchange x):
    """The body's `model`, unescaped; None: it has none, or (then it is answered) no such thing."""
    cdef Field* field = &x.scan.fields[F_MODEL]
    cdef bytes raw
    cdef char decoded[1024]
    cdef int size
    if field.kind == 0:
        return None
    if field.kind != 115:                                        # 's'
        refuse(x, 400, "invalid_request_error", "model must be a string", "model")
        return None
    x.model_start, x.model_end = field.start + 1, field.end - 1
    if x.model_end - x.model_start > MODEL_MAX:
        refuse(x, 400, "invalid_request_error",
               f"model is longer than {MODEL_MAX} bytes: a model's name is expected", "model")
        return None
    raw = body_slice(x, x.model_start, x.model_end)
    if field.escaped:
        size = unescape(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), decoded, 1024)
        return PyBytes_FromStringAndSize(decoded, size) if size >= 0 else None
    return raw


cdef bint read_options(Exchange x):
    """How this request wants to be tried: fields of its body. False: answered already."""
    cdef unsigned int present = x.scan.present if x.plan.kind == PLAN_LLM else 0
    x.no_fallbacks = x.key.no_fallbacks
    if x.table.end_users:
        read_end_user(x)
    if present & OPTIONS:
        try:
            read_body_options(x, present)
        except ValueError as error:
            name, _, text = str(error).partition("\0")
            refuse(x, 400, "invalid_request_error", text, name)
            return False
        if x.asked_fallbacks is not None:
            if x.key.aliases is not None:
                x.asked_fallbacks = [x.key.aliases.get(n.encode(), n.encode()).decode() for n in x.asked_fallbacks]
            for name in x.asked_fallbacks:
                if not x.key.allows(name.encode()):
                    refuse_model(x, name.encode())
                    return False
    if present & (1u << F_TAGS | 1u << F_METADATA):
        asked = x.asked_tags or frozenset()
        if present & 1u << F_TAGS:
            asked |= options.tags(field_bytes(x, F_TAGS))
        if present & 1u << F_METADATA:
            asked |= options.metadata_tags(field_bytes(x, F_METADATA))
        x.asked_tags = asked or None
    return True


cdef void read_body_options(Exchange x, unsigned int present):
    # Raises ValueError("field\0message"); a header that says the same wins.
    if present & 1u << F_NO_LOG and x.scan.fields[F_NO_LOG].kind == 116:
        x.wishes |= W_NO_LOG
    if present & 1u << F_NUM_RETRIES and x.num_retries < 0:
        x.num_retries = options.retries(field_bytes(x, F_NUM_RETRIES), "num_retries")
    if present & 1u << F_TIMEOUT and x.timeout == 0.0:
        x.timeout = options.seconds(field_bytes(x, F_TIMEOUT), "timeout")
    if present & 1u << F_DISABLE_FALLBACKS:
        x.no_fallbacks = x.no_fallbacks or x.scan.fields[F_DISABLE_FALLBACKS].kind == 116
    if present & 1u << F_FALLBACKS:
        x.asked_fallbacks = options.fallbacks(field_bytes(x, F_FALLBACKS))


cdef void read_end_user(Exchange x):
    """Whom the client serves, as its body says it, unless a header has: `user`, else `metadata.user_id`."""
    cdef Field* field = &x.scan.fields[F_USER]
    cdef bytes name = None
    if x.plan.kind != PLAN_LLM or x.end_user_size:
        return
    if x.scan.present & 1u << F_USER and field.kind == 115:      # 's'
        name = options.text(field_bytes(x, F_USER))
    elif x.scan.present & 1u << F_METADATA and x.scan.fields[F_METADATA].kind == 111:      # 'o'
        name = options.metadata_user(field_bytes(x, F_METADATA))
    if name is not None:
        note_end_user(x, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


cdef void note_end_user(Exchange x, const char* p, Py_ssize_t size) noexcept:
    x.end_user_size = <unsigned char>whole_letters(p, size, 64)
    memcpy(x.end_user, p, x.end_user_size)


cdef Py_ssize_t whole_letters(const char* p, Py_ssize_t size, Py_ssize_t most) noexcept nogil:
    # as much of a text in UTF-8 as fits
    if size <= most:
        return size
    while most > 0 and (p[most] & 0xC0) == 0x80:
        most -= 1
    return most


cdef bytes field_bytes(Exchange x, int index):
    return body_slice(x, x.scan.fields[index].start, x.scan.fields[index].end)


cdef bint reach_unknown(Exchange x):
    """A model that nobody serves may still have a fallback."""
    cdef Router router = x.table.router
    cdef Group group
    text = x.model.decode("utf-8", "replace")
    names = None if x.no_fallbacks else x.asked_fallbacks or router.named("fallbacks", (text,))
    if not names or not x.body_complete:
        return False
    for name in names:
        group = x.table.group(name.encode())
        if group is not None and name != text:
            enter_group(x, group)
            x.pending, x.visited = [n for n in names if n != name], {text, name}
            x.fallbacks = 1
            if not govern(x):
                return True
            begin_clock(x)
            x.deployment = choose(x, False)
            if x.deployment is None:
                return fall_back(x, X_INTERNAL)
            x.gateway.block.counters[C_FALLBACKS] += 1
            x.flags |= E_FALLBACK
            launch(x)
            return True
    return False


# -- which deployment


cdef Deployment choose(Exchange x, bint again):
    """A deployment of the group, by its strategy; None: `unfit` says why there is none.

    again: after a failure; one that has failed this request comes only when no other is left.
    """
    cdef Deployment d
    release_own(x)
    for _ in range(CHOICES):
        d = pick(x, again)
        if d is None or d.budgets is None or reserve_own(x, d):
            return d
    x.unfit = U_BUDGET                 # others were quicker, each time
    return None


cdef Deployment pick(Exchange x, bint again):
    cdef Group group = x.group
    cdef Deployment d
    x.probe = False
    if x.pinned is not None and not again:
        for d in group.deployments:
            if d.index == x.pinned.index and unfitness(x, d, monotonic_ns()) == U_FIT:
                return d
    if not group.plain:
        d = choose_among(x, x.tried if again else None)
        if d is None and again and x.tried:
            d = choose_among(x, None)
        return d
    d = <Deployment>group.deployments[0]
    if d.unsupported is not None or not serves(d, x.plan.endpoint):
        x.unfit = U_UNSUPPORTED
        return None
    if d.budgets is not None and over_budget(x, d) is not None:
        x.unfit = U_BUDGET
        return None
    if x.gateway.traffic.slots[d.slot].cooling_until:
        if not x.gateway.traffic.claim_probe(d.slot, monotonic_ns()):
            x.unfit = U_COOLING
            return None
        x.probe = True
    return d


cdef inline bint serves(Deployment d, int endpoint):
    return d.heads[endpoint] is not None or d.twin is not None and d.twin.heads[endpoint] is not None


cdef Deployment choose_among(Exchange x, list without):
    cdef Candidate c[CANDIDATES]
    cdef Group group = x.group
    cdef Router router = x.table.router
    cdef Deployment d
    cdef Traffic t = x.gateway.traffic
    cdef Py_ssize_t count = len(group.deployments), first = 0, i
    cdef int n = 0, kept, order = 0, at, reason
    cdef long long now = monotonic_ns()
    if count > CANDIDATES:
        first = <Py_ssize_t>(x.gateway.random() % <unsigned long long>count)
        count = CANDIDATES
    x.unfit = U_UNSUPPORTED
    for i in range(count):
        at = <int>((first + i) % len(group.deployments))
        d = <Deployment>group.deployments[at]
        if without is not None and d in without:
            continue
        reason = unfitness(x, d, now)
        if reason != U_FIT:
            if reason > x.unfit:
                x.unfit = reason
            continue
        c[n].index = at
        n += 1
    if router.tag_filtering:
        n = keep_tagged(x, c, n)
    for i in range(n):
        d = <Deployment>group.deployments[c[i].index]
        if i == 0 or d.order < order:
            order = d.order
    kept = 0
    for i in range(n):
        d = <Deployment>group.deployments[c[i].index]
        if d.order == order:
            c[kept].index = c[i].index
            c[kept].weight = d.weight
            c[kept].metric = metric(x, d)
            kept += 1
    while kept:
        if router.strategy == SIMPLE_SHUFFLE:
            at = draw(c, kept, x.gateway.random())
        else:
            at = lowest(c, kept, router.latency_buffer if router.strategy == LATENCY_BASED else 0.0,
                        x.gateway.random())
        d = <Deployment>group.deployments[c[at].index]
        if t.slots[d.slot].cooling_until == 0:
            return d
        if t.claim_probe(d.slot, now):
            x.probe = True
            return d
        x.unfit = U_COOLING
        kept -= 1
        c[at] = c[kept]
    return None


cdef int unfitness(Exchange x, Deployment d, long long now):
    """Why a deployment can't take this request now; U_FIT: it can."""
    cdef Traffic t = x.gateway.traffic
    cdef Slot* s = &t.slots[d.slot]
    if d.unsupported is not None or not serves(d, x.plan.endpoint):
        return U_UNSUPPORTED
    if not t.available(d.slot, now) or (s.unhealthy and x.table.router.health_routing):
        return U_COOLING
    if d.budgets is not None and over_budget(x, d) is not None:
        return U_BUDGET
    if d.max_parallel and t.total_in_flight(d.slot) >= d.max_parallel:
        return U_FULL
    if (d.rpm or d.tpm) and (d.enforce_rates or x.table.router.strategy == USAGE_BASED):
        if d.rpm and window_count(&s.started, minute_of(x)) >= d.rpm \
                or d.tpm and window_count(&s.tokens, minute_of(x)) >= d.tpm:
            return U_RATE
    if d.max_input and least_tokens(x) > d.max_input:
        return U_TOO_LONG
    return U_FIT


cdef long long wall_of(Exchange x) noexcept:
    return (x.started + x.gateway.wall_offset) // 1000000000


cdef Gate over_budget(Exchange x, Deployment d):
    """The budget of a deployment or its provider that is spent; None: there is something left."""
    cdef Gate gate
    for gate in d.budgets:
        if x.gateway.limits.is_spent(gate, wall_of(x)):
            return gate
    return None


cdef double metric(Exchange x, Deployment d):
    cdef Traffic t = x.gateway.traffic
    cdef int strategy = x.table.router.strategy
    if strategy == LEAST_BUSY:
        return <double>t.total_in_flight(d.slot)
    if strategy == LATENCY_BASED:
        return t.latency(d.slot, L_FIRST if x.stream else L_ANSWER, <unsigned int>x.gateway.now,
                         x.table.router.latency_ttl)
    if strategy == USAGE_BASED:
        return <double>window_count(&t.slots[d.slot].tokens, minute_of(x))
    if strategy == COST_BASED:
        return d.price
    return 0.0


cdef object tags_of(Exchange x):
    """Those that the request brought and those of its key, as a frozenset; None: none."""
    if x.key.tags is None or x.asked_tags is None:
        return x.key.tags if x.asked_tags is None else x.asked_tags
    return x.key.tags | x.asked_tags


cdef int keep_tagged(Exchange x, Candidate* c, int n):
    """Those whose tags fit the request's; else those tagged `default`; without either, none or all."""
    cdef int i, kept = 0
    cdef Deployment d
    asked = tags_of(x)
    for i in range(n):
        d = <Deployment>x.group.deployments[c[i].index]
        if asked is not None and (d.tags & asked if x.table.router.tag_match_any else d.tags >= asked):
            c[kept] = c[i]
            kept += 1
    if kept:
        return kept
    for i in range(n):
        d = <Deployment>x.group.deployments[c[i].index]
        if "default" in d.tags:
            c[kept] = c[i]
            kept += 1
    if kept or asked is None:
        return kept or n
    if n:
        x.unfit = U_TAGS
    return 0


cdef long long least_tokens(Exchange x):
    """A number of tokens that the input surely has: text has no longer ones than this, data isn't counted."""
    cdef Py_ssize_t size = 0
    cdef int index
    if x.plan.kind != PLAN_LLM:
        return 0
    for index in (F_MESSAGES, F_INPUT, F_PROMPT):
        size += x.scan.fields[index].end - x.scan.fields[index].start
    if size > 65536 and b";base64," in whole_body(x):
        return 0
    return size // LONGEST_TOKEN


# -- refusals


cdef void refuse_forbidden(Exchange x):
    for index, name in ((F_API_BASE, "api_base"), (F_BASE_URL, "base_url"), (F_API_KEY, "api_key"),
                        (F_MOCK_RESPONSE, "mock_response")):
        if x.scan.present & (1u << <int>index):
            refuse(x, 400, "invalid_request_error",
                   f"{name} is not allowed in a request: destinations and credentials are the "
                   "gateway's to choose", name)
            return
    name = "context_window_fallbacks" if x.scan.present & 1u << F_CONTEXT_FALLBACKS else "content_policy_fallbacks"
    refuse(x, 400, "invalid_request_error",
           f"{name} is not taken from a request: `fallbacks` is, as a list of names of model groups", name)


cdef void refuse_model(Exchange x, bytes model):
    name = model.decode("utf-8", "replace")[:200]
    whose, allowed = x.key.refusal(model.decode("utf-8", "replace"))
    refuse(x, 403, f"{whose}_model_access_denied",
           f"{whose} not allowed to access model. This {whose} can only access models={list(allowed)}. "
           f"Tried to access {name}", "model")


cdef void refuse_unknown_model(Exchange x):
    name = x.model.decode("utf-8", "replace")[:200]
    refuse(x, 400, None,
           f"litellm.BadRequestError: You passed in model={name}. There are no healthy deployments "
           f"for this model. Received Model Group={name}\nAvailable Model Group Fallbacks=None", None)


cdef void refuse_unfit(Exchange x):
    """No deployment of the group can take the request, and there is no other way."""
    cdef double seconds
    tail = f" Received Model Group={x.group.name.decode('utf-8', 'replace')}\n" \
           "Available Model Group Fallbacks=None"
    if x.unfit == U_UNSUPPORTED:
        names = sorted({(<Deployment>d).unsupported or (<Deployment>d).provider
                        for d in x.group.deployments})
        problems = sorted({(<Deployment>d).raw.get("problem") or "" for d in x.group.deployments} - {""})
        advice = f" ({'; '.join(problems)})" if problems else ""
        refuse(x, 501, "provider_not_supported",
               f"provider_not_supported: {', '.join(names)} does not serve {x.plan.path} through this "
               f"gateway yet{advice}", "model", "provider_not_supported")
    elif x.unfit == U_TAGS:
        refuse(x, 401, "auth_error", "Not allowed to access model due to tags configuration. "
               f"Passed model={x.model.decode('utf-8', 'replace')[:200]} and tags={sorted(tags_of(x))}", None)
    elif x.unfit == U_BUDGET:
        refuse_spent(x, tail)
    elif x.unfit == U_TOO_LONG:
        refuse(x, 400, "invalid_request_error", "litellm.ContextWindowExceededError: the input is longer than "
               f"every deployment of the group takes (max_input_tokens).{tail}", None)
    else:
        seconds = shortest_cooldown(x) if x.unfit == U_COOLING else 1.0
        if x.unfit == U_RATE:
            seconds = 60.0 - x.gateway.now % 60.0        # windows are minutes of the same clock
        refuse(x, 429, "all_deployments_in_cooldown" if x.unfit == U_COOLING else "throttling_error",
               f"litellm.RateLimitError: No deployments available for selected model, Try again in "
               f"{max(1, int(seconds + 0.999))} seconds. Passed model={x.model.decode('utf-8', 'replace')[:200]}. "
               + {U_COOLING: "All of them are in cooldown.",
                  U_FULL: "All of them are at max_parallel_requests.",
                  U_RATE: "All of them are at their rpm or tpm limit."}[x.unfit] + tail,
               None, "", f"retry-after: {max(1, int(seconds + 0.999))}\r\n".encode())


cdef void refuse_spent(Exchange x, str tail):
    cdef Limits limits = x.gateway.limits
    cdef Deployment d
    cdef Gate gate = None
    for d in x.group.deployments:
        if d.budgets is not None and gate is None:
            gate = over_budget(x, d)
    found = "" if gate is None else f" Exceeded budget for {gate.scope} {gate.value}: {limits.used / 1e9:.10g} >= " \
        f"{gate.budget / 1e9:.10g}."
    lines = f"retry-after: {limits.resets}\r\n".encode() if gate is not None and limits.resets > 0 else b""
    refuse(x, 429, "budget_exceeded", "litellm.RateLimitError: No deployments available - crossed budget."
           + found + tail, None, "", lines)


cdef double shortest_cooldown(Exchange x):
    cdef Deployment d
    cdef long long now = monotonic_ns(), until, least = 0
    for d in x.group.deployments:
        until = x.gateway.traffic.slots[d.slot].cooling_until - now
        if until > 0 and (least == 0 or until < least):
            least = until
    return least * 1e-9


# -- how the body is sent


cdef bint keeps_metadata(Exchange x):
    # `metadata` is the provider's own field on these routes, the proxy's on the others.
    return x.plan.anthropic or x.plan.endpoint == EP_RESPONSES


cdef bint prepare_body(Exchange x):
    """Decide how the body is sent: spliced (the rule) or through the JSON path."""
    cdef unsigned int strip = STRIP
    cdef Field* wanted
    cdef bytes raw
    x.ask_usage = False
    x.client_usage = x.table.always_usage
    if x.plan.kind != PLAN_LLM or x.plan.google:
        return True
    if not keeps_metadata(x):
        strip |= 1u << F_METADATA
    if x.stream and x.plan.streams_usage:
        wanted = &x.scan.fields[F_STREAM_OPTIONS]
        if wanted.kind:
            raw = body_slice(x, wanted.start, wanted.end)
            if raw == b'{"include_usage":true}' or raw == b'{"include_usage": true}' \
                    or provider_body.wants_usage(raw):
                x.client_usage = True
            else:
                x.ask_usage = x.deployment.stream_usage
                if x.ask_usage:
                    return edit_body(x)
        else:
            x.ask_usage = x.deployment.stream_usage
    if x.scan.present & strip or x.marked or x.resumed or x.deployment.edits or x.model_start < 0:
        return edit_body(x)
    return True


cdef bint edit_body(Exchange x):
    try:
        x.edited = provider_body.rewrite(
            x.story.body(whole_body(x)) if x.resumed else whole_body(x), x.deployment.raw, x.deployment.model,
            keep_metadata=keeps_metadata(x), ask_usage=x.ask_usage)
    except provider_body.BodyError as error:
        refuse(x, 400, "invalid_request_error", str(error), "request_body")
        return False
    return True
