# -- steps 3 and 4: route, address, key


cdef bint is_hex(const char* p, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        if not (48 <= p[i] <= 57 or 97 <= p[i] <= 102):
            return False
    return True


cdef bint is_traceparent(const char* p, unsigned int size) noexcept nogil:
    """version "-" trace-id "-" parent-id "-" flags, in lower-case hexadecimal (Trace Context 3.2)."""
    if size < 55 or p[2] != 45 or p[35] != 45 or p[52] != 45 \
            or not (is_hex(p, 2) and is_hex(p + 3, 32) and is_hex(p + 36, 16) and is_hex(p + 53, 2)):
        return False
    if memcmp(p, b"ff", 2) == 0 or size > 55 and (memcmp(p, b"00", 2) == 0 or p[55] != 45):
        return False                  # what a later version adds stands behind another "-"
    return memcmp(p + 3, b"00000000000000000000000000000000", 32) != 0 and memcmp(p + 36, b"0000000000000000", 16) != 0


cdef void carry_trace(Downstream d, Exchange x, Head* head, const char* p, FieldSpan* parent):
    """`traceparent` and `tracestate` go on as they came, if there is one valid traceparent; else neither does."""
    cdef int i
    cdef FieldSpan* f
    if not is_traceparent(p + parent.value, parent.value_size):
        return
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.name_id == H_TRACEPARENT and f != parent:
            return                    # which of the two?
    memcpy(x.trace_id, p + parent.value + 3, 32)
    x.traced = True
    for i in range(head.n_fields):
        f = &head.fields[i]
        if not f.hop and (f.name_id == H_TRACEPARENT or f.name_id == H_TRACESTATE):
            forward_field(d, &x.forward, p, f)


cdef bint admit(Downstream d, Exchange x, Head* head, const char* p):
    """Steps 3 and 4: route and key. False: answered already."""
    cdef Table table = x.table
    cdef Plan plan = x.plan
    cdef int i
    cdef FieldSpan* f
    cdef FieldSpan* origin = NULL
    cdef FieldSpan* asked_headers = NULL
    cdef FieldSpan* forwarded = NULL
    cdef FieldSpan* credential = NULL
    cdef FieldSpan* parent = NULL
    cdef bint preflight = False
    cdef bint all_headers = table.forward_client_headers
    cdef int rank = 100, r
    cdef Buffer* out = &x.forward
    cdef bytes path
    if plan is None:
        plan = find_path_plan(d, x, (p + head.target)[:head.path_size], head, p)
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.name_id == H_OTHER:
            if table.key_header is not None and f.name_size == PyBytes_GET_SIZE(table.key_header) \
                    and same_ci(p + f.name, PyBytes_AS_STRING(table.key_header), f.name_size):
                if rank > 0:
                    credential, rank = f, 0
            elif all_headers and not f.hop and f.name_size > 2 and same_ci(p + f.name, b"x-", 2):
                forward_field(d, out, p, f)
            if table.user_header is not None and f.name_size == PyBytes_GET_SIZE(table.user_header) \
                    and same_ci(p + f.name, PyBytes_AS_STRING(table.user_header), f.name_size) and not x.end_user_size:
                note_end_user(x, p + f.value, f.value_size)
            continue
        if f.name_id == H_CONTENT_TYPE or f.name_id == H_ACCEPT or f.name_id == H_IDEMPOTENCY_KEY \
                or f.name_id == H_BAGGAGE:
            if not f.hop:
                forward_field(d, out, p, f)
        elif f.name_id == H_TRACEPARENT:
            parent = f                # its tracestate may stand before it or behind it
        elif f.name_id == H_AUTHORIZATION:
            r = 2
            if r < rank:
                credential, rank = f, r
        elif f.name_id == H_X_LITELLM_API_KEY:
            if rank > 1:
                credential, rank = f, 1
        elif f.name_id == H_X_API_KEY or f.name_id == H_API_KEY or f.name_id == H_X_GOOG_API_KEY \
                or f.name_id == H_OCP_APIM_SUBSCRIPTION_KEY:
            if rank > 3:
                credential, rank = f, 3
        elif f.name_id == H_ANTHROPIC:
            if f.name_size == 17 and same_ci(p + f.name, b"anthropic-version", 17):
                x.no_anthropic_version = False
            if not f.hop:
                forward_field(d, out, p, f)
        elif f.name_id == H_OPENAI:
            if not f.hop and (table.forward_openai_organization or not same_ci(
                    p + f.name, b"openai-organization", min(f.name_size, 19)) or f.name_size != 19):
                forward_field(d, out, p, f)
        elif f.name_id == H_X_STAINLESS or f.name_id == H_USER_AGENT:
            if all_headers and not f.hop and f.name_id == H_X_STAINLESS:
                forward_field(d, out, p, f)
            elif table.agents and f.name_id == H_USER_AGENT:
                x.agent_size = <unsigned char>whole_letters(p + f.value, f.value_size, 32)
                memcpy(x.agent, p + f.value, x.agent_size)
        elif f.name_id == H_X_LITELLM:
            if not own_header(x, (p + f.name + 10)[:f.name_size - 10].lower(), (p + f.value)[:f.value_size]):
                return False
        elif f.name_id == H_X_LITELLM_CALL_ID:
            if 0 < f.value_size <= CALL_ID_MOST:      # else it gets one of ours: what is answered is what its row has
                x.call_id = (p + f.value)[:f.value_size]
        elif f.name_id == H_CONTENT_ENCODING:
            if x.content_coding is not None:
                x.content_coding = b"a list of codings"      # which nobody accepts
            elif not (f.value_size == 8 and same_ci(p + f.value, b"identity", 8)):
                x.content_coding = (p + f.value)[:f.value_size].lower()
        elif f.name_id == H_ORIGIN:
            origin = f
        elif f.name_id == H_ACCESS_CONTROL_REQUEST_METHOD:
            preflight = True
        elif f.name_id == H_ACCESS_CONTROL_REQUEST_HEADERS:
            asked_headers = f
        elif f.name_id == H_X_FORWARDED_FOR:
            forwarded = f
    if parent != NULL:
        carry_trace(d, x, head, p, parent)
    if table.address_rule is not None and not address_allowed(d, x, p, forwarded):
        return False
    if origin != NULL and table.cors is not None \
            and not (table.cors.any and (plan is None or plan.kind == PLAN_CONTROL)
                     and table.is_admin((p + head.target)[:head.path_size])):
        if preflight and head.method_size == 7 and memcmp(p + head.method, b"OPTIONS", 7) == 0:
            status, body, lines = table.cors.preflight(
                (p + origin.value)[:origin.value_size],
                (p + asked_headers.value)[:asked_headers.value_size] if asked_headers != NULL else b"")
            answer_fixed(x, status, body, b"content-type: text/plain; charset=utf-8\r\n" + lines)
            return False
        x.cors_lines = table.cors.answer_lines((p + origin.value)[:origin.value_size])
    if plan is None:
        path = (p + head.target)[:head.path_size]
        no_route(d, x, path, head, p)
        return False
    x.plan = plan
    if plan.kind == PLAN_FIXED:
        answer_fixed(x, 200, plan.body, b"content-type: " + plan.content_type + b"\r\n")
        return False
    if x.content_length > table.max_request_bytes:
        refuse_close(x, 413, "invalid_request_error", too_large(x))
        return False
    if plan.kind == PLAN_PASS:
        if plan.endpoint == EP_RESPONSES:
            return start_follow_up(d, x, head, p, credential, rank)
        return start_pass(d, x, head, p, credential, rank)
    if plan.kind == PLAN_CONTROL:
        # Some of its routes are open, so no credential is let through; a wrong one is not.
        if (credential != NULL or table.open) and not authenticate(d, x, p, credential, rank):
            return False
        control_head(d, x, head, p)
        return True
    if plan.kind == PLAN_TUNNEL:
        return start_tunnel(d, x, head, p, origin, credential, rank)
    if plan.google and credential == NULL:
        if not authenticate_text(d, x, google_key(query_of(head, p))):      # as its clients may send it
            return False
    elif not authenticate(d, x, p, credential, rank):
        return False
    if plan.kind == PLAN_MULTIPART:
        return start_multipart(d, x, head, p)
    return True


cdef bint own_header(Exchange x, bytes name, bytes value):
    """`x-litellm-…`: how the request wants to be tried. False: answered already."""
    try:
        if name == b"num-retries":
            x.num_retries = options.retries(value, "x-litellm-num-retries")
        elif name == b"timeout":
            x.timeout = options.seconds(value, "x-litellm-timeout")
        elif name == b"stream-timeout":
            x.stream_timeout = options.seconds(value, "x-litellm-stream-timeout")
        elif name == b"tags":
            x.asked_tags = options.header_tags(value) or None
        elif x.table.end_users and name in (b"end-user-id", b"customer-id"):
            note_end_user(x, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    except ValueError as error:
        field, _, text = str(error).partition("\0")
        refuse(x, 400, "invalid_request_error", text, field)
        return False
    return True


cdef bint route_allowed(Exchange x):
    """Whether the key's allowed_routes has the route (control judges its own). False: answered already."""
    if x.plan.kind == PLAN_CONTROL or x.key.allows_route(x.plan.path if x.plan.google else x.plan.path.partition("/{")[0]):
        return True
    refuse(x, 403, "auth_error", "Virtual key is not allowed to call this route. Only allowed to call routes: "
           f"{list(x.key.routes)}. Tried to call route: {x.plan.path}")
    return False


cdef inline void forward_field(Downstream d, Buffer* out, const char* p, FieldSpan* f) noexcept:
    buf_add(out, p + f.name, f.name_size)
    buf_add(out, b": ", 2)
    buf_add(out, p + f.value, f.value_size)
    buf_add(out, b"\r\n", 2)


cdef bytes query_of(Head* head, const char* p):
    return (p + head.target)[head.path_size + 1:head.target_size] if head.target_size > head.path_size else b""


cdef Plan find_path_plan(Downstream d, Exchange x, bytes path, Head* head, const char* p):
    if head.method_size == 4 and memcmp(p + head.method, b"POST", 4) == 0:
        found = x.table.path_model(path, query_of(head, p))
        if found is not None:
            x.plan, x.path_model = found
            return x.plan
    elif path.startswith(x.table.root_path + b"/v1/models/") \
            or path.startswith(x.table.root_path + b"/models/"):
        if head.method_size == 3 or x.head_request:
            x.plan = x.table.plan(b"GET " + x.table.root_path + b"/v1/models")
            return x.plan
    x.plan = x.table.follow_up(path)
    if x.plan is not None:
        return x.plan
    if x.table.passes:
        x.plan = x.table.pass_plan((p + head.method)[:head.method_size], path)
        return x.plan
    return None


cdef bint address_allowed(Downstream d, Exchange x, const char* p, FieldSpan* forwarded):
    # A connection's own address is judged once for each table; a forwarded one may differ by request.
    cdef object value = None
    if forwarded != NULL and x.table.address_rule.use_forwarded:
        value = (p + forwarded.value)[:forwarded.value_size]
    elif d.address_table is x.table:
        return True
    address = x.table.address_rule.client(d.peer, value)
    if x.table.address_rule.allows(address):
        if value is None:
            d.address_table = x.table
        return True
    refuse(x, 403, "auth_error", f"Access forbidden: IP address {address[:64]} not allowed.")
    return False


cdef void no_route(Downstream d, Exchange x, bytes path, Head* head, const char* p):
    allowed = x.table.allowed_methods(path)
    if allowed is not None:
        answer_fixed(x, 405, errors.detail("Method Not Allowed"),
                     b"content-type: application/json\r\nallow: " + allowed + b"\r\n")
    elif head.method_size == 7 and memcmp(p + head.method, b"CONNECT", 7) == 0 \
            or head.method_size == 5 and memcmp(p + head.method, b"TRACE", 5) == 0:
        answer_fixed(x, 501, errors.detail("Not Implemented"), b"content-type: application/json\r\n")
    else:
        answer_fixed(x, 404, errors.detail("Not Found"), b"content-type: application/json\r\n")


cdef void control_head(Downstream d, Exchange x, Head* head, const char* p):
    """The request for the control plane: what is end-to-end, and instead of the credential whose key it was."""
    cdef int i
    cdef FieldSpan* f
    cdef Buffer* out = &x.forward
    cdef bytes own = x.table.key_header
    buf_clear(out)
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.hop or f.name_id in (H_CONTENT_LENGTH, H_EXPECT, H_X_FORWARDED_FOR, H_AUTHORIZATION, H_X_API_KEY,
                                  H_API_KEY, H_X_GOOG_API_KEY, H_OCP_APIM_SUBSCRIPTION_KEY, H_X_LITELLM_API_KEY):
            continue
        if f.name_id == H_OTHER and (
                f.name_size > 12 and same_ci(p + f.name, b"x-fastproxy-", 12)
                or own is not None and f.name_size == len(own) and same_ci(p + f.name, own, f.name_size)):
            continue
        forward_field(d, out, p, f)
    x.content_coding = None
    root = PyBytes_GET_SIZE(x.table.root_path)        # the control plane's routes have no prefix
    x.method_line = (
        (p + head.method)[:head.method_size] + b" " + (p + head.target)[root:head.target_size]
        + b" HTTP/1.1\r\nx-forwarded-for: " + d.peer.encode("latin-1") + b"\r\n")
    if x.key is not None:
        x.method_line += b"x-fastproxy-key: " + x.key.digest.hex().encode() + b"\r\n"
        if x.key.custom is not None:                  # which control can't know
            x.method_line += b"x-fastproxy-record: " + x.key.custom + b"\r\n"
        x.key = None                                  # no usage of an LLM is to be settled


cdef bint start_multipart(Downstream d, Exchange x, Head* head, const char* p):
    cdef int i
    cdef FieldSpan* f
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.name_id == H_CONTENT_TYPE:
            boundary = boundary_of((p + f.value)[:f.value_size])
            if boundary is not None:
                x.multipart = MultipartScan(boundary)
                return True
    refuse(x, 415, "invalid_request_error",
           "multipart/form-data with a boundary is expected on this route", "content-type")
    return False


cdef bint authenticate(Downstream d, Exchange x, const char* p, FieldSpan* credential, int rank):
    """Step 4: the credential's SHA-256 names the key record. False: answered already, or d.parked."""
    cdef const char* value
    cdef unsigned int size
    cdef Table table = x.table
    cdef bytes raw
    if table.open:
        x.key = table.anonymous
        return True
    if table.custom_auth and (credential == NULL or credential.value_size == 0):
        return judge_custom(d, x, b"")
    if credential == NULL or credential.value_size == 0 and rank != 2:
        unauthorized(d, x, "Authentication Error, No api key passed in.", "auth_error", "None")
        return False
    value = p + credential.value
    size = credential.value_size
    if rank == 2 or (rank <= 1 and size > 7 and same_ci(value, b"bearer ", 7)):
        if size <= 7 or not same_ci(value, b"bearer ", 7):
            if table.custom_auth:
                return judge_custom(d, x, value[:size])
            unauthorized(d, x, "Authentication Error, Malformed API Key passed in. Ensure Key has `Bearer ` "
                         "prefix.", "auth_error", "None")
            return False
        value += 7
        size -= 7
        while size and value[0] == 32:
            value += 1
            size -= 1
    if d.credential is not None and d.record_table is table and not x.gateway.is_deaf() \
            and same_secret(d.credential, value, size) and not d.record.expires:
        x.key = d.record
        return may_go_on(d, x)
    raw = value[:size]
    digest = hashlib.sha256(raw).digest()
    found = table.keys.get(digest)
    if found is None:
        if table.custom_auth:
            return judge_custom(d, x, raw)
        miss(d, x, digest, value, size)
        return False
    x.key = <KeyRecord>found
    d.unanswered = False
    if x.key.stored and x.gateway.deaf and d.gateway.misses.ask_again(d, digest):
        return False
    if not is_in_force(d, x):
        return False
    d.credential = raw
    d.record = x.key
    d.record_table = table
    return may_go_on(d, x)


cdef inline bint may_go_on(Downstream d, Exchange x):
    """Whether the key may call the route, and its limits can be kept. False: answered already, or d.parked."""
    return (x.key.routes is None or route_allowed(x)) and (PyTuple_GET_SIZE(x.key.gates) == 0 or has_counters(d, x))


cdef bint is_in_force(Downstream d, Exchange x):
    """Whether the key is neither blocked nor expired. False: answered already."""
    if x.key.blocked:
        unauthorized(d, x, "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an "
                     "admin.", "auth_error", "None")
        return False
    if x.key.expires and x.key.expires < time.time():
        unauthorized(d, x, "Authentication Error - Expired Key. Key Expiry time "
                     + time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(x.key.expires)),
                     "expired_key", x.key.name)
        return False
    return True


cdef void unauthorized(Downstream d, Exchange x, str message, str kind, str param):
    x.key = None
    d.gateway.block.counters[C_UNAUTHORIZED] += 1
    refuse(x, 401, kind, message, param, "", b"www-authenticate: Bearer\r\n")
