# -- dispatch


cdef void maybe_dispatch_early(Exchange x):
    """A large body goes upstream while it still arrives, once what is known suffices."""
    if x.plan.kind == PLAN_CONTROL or x.content_coding is not None or x.early or x.once \
            or x.table.router.max_in_flight or x.table.router.tag_filtering or x.table.strict_limits:
        return
    if x.plan.kind == PLAN_PASS and x.pass_scan:
        return
    if x.plan.kind == PLAN_PASS:
        hold_place(x)
        if govern(x):
            x.early = True
            acquire_upstream(x)
        return
    if x.plan.google or x.key.required is not None:
        return
    if x.plan.kind == PLAN_LLM:
        if x.key.measured or x.table.measured:
            return                     # how much output it asks for may stand at the end
        if x.scan.fields[F_MODEL].end == 0 or x.scan.fields[F_STREAM_OPTIONS].kind \
                or x.scan.present & (1u << F_PREVIOUS_RESPONSE_ID | STRIP | FORBIDDEN | 1u << F_GUARDRAILS | 1u << F_METADATA):
            return
    elif x.multipart.model_end < 0 or x.multipart.model_start < 0:
        return
    if not x.admitted:
        hold_place(x)
    if not choose_deployment(x):
        return
    if x.deployment.edits or x.deployment.max_input:
        end_attempt(x)                 # it needs the whole body
        leave_group(x)
        x.once = True
        return
    x.early = True
    x.ask_usage = False
    # `stream` may still come: keep room for the usage option and fill it with spaces if it is not needed.
    x.extra = len(USAGE_OPTION) if x.plan.streams_usage and x.deployment.stream_usage else 0
    x.client_usage = x.table.always_usage
    acquire_upstream(x)


cdef bint early_fault(Exchange x):
    # Something came behind the point of early dispatch that changes what should have been sent.
    if x.plan.kind != PLAN_LLM:
        return False
    cdef unsigned int strip = STRIP | FORBIDDEN | 1u << F_PREVIOUS_RESPONSE_ID | 1u << F_GUARDRAILS | 1u << F_STREAM_OPTIONS
    if not keeps_metadata(x):
        strip |= 1u << F_METADATA
    return (x.scan.present & strip) != 0


cdef bint take_back(Exchange x, bint failed=False):
    """Undo an early dispatch: the upstream request is aborted unfinished, so it is never acted upon.

    failed: it is undone by the upstream; what follows of the body is only kept, until it is complete.
    """
    if not failed and (x.state == S_HOLD or x.state == S_RELAY):
        return False               # the upstream answered without the end of the body: its answer stands
    if x.state == S_WAIT:
        stop_waiting(x)
    if x.upstream is not None:
        drop_upstream(x.upstream)
        x.upstream = None
    end_attempt(x)
    leave_group(x)
    x.group = None
    x.deployment = None
    x.early = False
    x.once = x.once or failed
    x.extra = 0
    x.sent = 0
    x.downstream.resume()
    x.downstream.deadline = x.gateway.now + x.table.body_timeout
    x.become(S_BODY)
    return True


cdef void check_early_end(Exchange x):
    if early_fault(x) and take_back(x):
        on_body_complete(x)


cdef void acquire_upstream(Exchange x):
    cdef Upstream u = take_upstream(x.pool, x.gateway.now)
    if u is not None:
        dispatch(x, u)
        return
    wait_for_connection(x)


cdef void wait_for_connection(Exchange x):
    x.become(S_WAIT)
    x.pool.waiting[x] = None
    if may_open(x.pool):
        x.downstream.deadline = x.total_until     # dialling has its own limit
        x.gateway.want_connection(x.pool)
    else:
        set_deadline(x, x.pool.connect_timeout)


cdef void stop_waiting(Exchange x):
    # The pair of wait_for_connection: the object may be used again at once.
    x.pool.waiting.pop(x, None)


cdef void connect_failed(Exchange x, str problem):
    if x.pool is x.table.control:
        refuse(x, 503, "service_unavailable", "The control plane is not available; try again shortly",
               None, "503", b"retry-after: 1\r\n")
        return
    if problem == "timeout":
        if try_again(x, 408, X_TIMEOUT):
            return
    elif try_again(x, 500, X_CONNECT):
        return
    provider = errors.provider_class(x.deployment.provider)
    group = x.deployment.group if x.group is None else x.group.name.decode("utf-8", "replace")
    tail = f" Received Model Group={group}\nAvailable Model Group Fallbacks=None"
    if problem == "timeout":
        limit = f"connect time-out of {x.pool.connect_timeout} s"
        if out_of_time(x, 0.0):
            limit = "no connection within total_timeout"
        refuse(x, 408, None, f"litellm.Timeout: APITimeoutError - {limit}.{tail}", None)
    else:
        refuse(x, 500, None, f"litellm.InternalServerError: InternalServerError: {provider}Exception - "
               f"Connection error..{tail}", None)


cdef void compose_head(Exchange x, Buffer* out):
    if x.method_line is not None:
        add_bytes(out, x.method_line)
    elif x.plan.kind == PLAN_TUNNEL:
        compose_upgrade(x, out)
        return
    else:
        add_bytes(out, <bytes>x.deployment.heads[x.plan.endpoint])
        if x.deployment.own_anthropic_version and x.no_anthropic_version:
            buf_add(out, b"anthropic-version: 2023-06-01\r\n", 31)
    buf_add(out, x.forward.data, x.forward.size)
    buf_add(out, b"content-length: ", 16)
    buf_add_uint(out, upstream_length(x))
    buf_add(out, b"\r\n\r\n", 4)


cdef unsigned long long upstream_length(Exchange x):
    cdef long long length
    if x.edited is not None:
        return PyBytes_GET_SIZE(x.edited)
    length = x.content_length if x.early else x.body.size
    if x.model_start >= 0 and x.deployment is not None:
        length += PyBytes_GET_SIZE(model_bytes(x)) - (x.model_end - x.model_start)
    if x.early:
        length += x.extra
    elif x.ask_usage:
        length += PyBytes_GET_SIZE(USAGE_OPTION)
    return length


cdef bytes model_bytes(Exchange x):
    # JSON wants the name escaped, a multipart value is raw.
    if x.plan.kind == PLAN_MULTIPART:
        return x.deployment.model_raw
    return x.deployment.model_json


cdef void dispatch(Exchange x, Upstream u):
    """Step 8: head and body to an upstream connection, in one write if they are small."""
    cdef iovec parts[MAX_PARTS]
    cdef int count, i
    if x.early and early_fault(x):
        # hand the connection back unused
        u.exchange = None
        give_upstream(u)
        if take_back(x) and x.body_complete:
            on_body_complete(x)
        return
    x.become(S_SENT)
    x.upstream = u
    u.exchange = x
    u.answered = False
    x.attempts += 1
    x.sent_at = monotonic_ns()
    set_answer_deadline(x)
    take_off(x)
    x.sent = 0
    x.joined = False
    buf_clear(&x.request)
    compose_head(x, &x.request)
    if not x.early and x.body.size <= JOIN_MAX:
        count = body_parts(x, parts)
        for i in range(count):
            buf_add(&x.request, <const char*>parts[i].iov_base, parts[i].iov_len)
        x.joined = True
    if push_request(x) <= UNSENT_HIGH and x.early and not x.body_complete:
        x.downstream.resume()          # it may have been paused by a connection that is gone


cdef int body_parts(Exchange x, iovec* parts):
    """What was received of the body, with its edits, as it goes upstream."""
    cdef Py_ssize_t at = 0, end = x.body.size, brace
    cdef int n = 0
    cdef bytes piece
    if x.edited is not None:
        parts[0].iov_base = PyBytes_AS_STRING(x.edited)
        parts[0].iov_len = PyBytes_GET_SIZE(x.edited)
        return 1
    if x.model_start >= 0 and x.deployment is not None:
        piece = model_bytes(x)            # the deployment, which this exchange holds, keeps it alive
        parts[0].iov_base = x.body.data
        parts[0].iov_len = x.model_start
        parts[1].iov_base = PyBytes_AS_STRING(piece)
        parts[1].iov_len = PyBytes_GET_SIZE(piece)
        at = x.model_end
        n = 2
    brace = x.scan.close_start if x.plan.kind == PLAN_LLM and (x.ask_usage or x.extra) else -1
    if brace >= 0:
        parts[n].iov_base = x.body.data + at
        parts[n].iov_len = brace - at
        piece = USAGE_OPTION if x.ask_usage else PADDING
        parts[n + 1].iov_base = PyBytes_AS_STRING(piece)
        parts[n + 1].iov_len = PyBytes_GET_SIZE(piece)
        at = brace
        n += 2
    parts[n].iov_base = x.body.data + at
    parts[n].iov_len = end - at
    return n + 1


cdef Py_ssize_t push_request(Exchange x):
    """Hand what is not sent yet to the connection; returns how much it did not take."""
    cdef iovec parts[MAX_PARTS]
    cdef int count = 1, first = 0
    cdef Py_ssize_t skip = x.sent, total = 0, i
    parts[0].iov_base = x.request.data
    parts[0].iov_len = x.request.size
    if not x.joined:
        count += body_parts(x, parts + 1)
    while first < count and skip >= <Py_ssize_t>parts[first].iov_len:
        skip -= parts[first].iov_len
        first += 1
    if first == count:
        return 0
    parts[first].iov_base = <char*>parts[first].iov_base + skip
    parts[first].iov_len -= skip
    for i in range(first, count):
        total += parts[i].iov_len
    if total == 0:
        return 0
    skip = x.upstream.push(parts + first, count - first)
    x.sent += skip
    return total - skip


cdef void send_more(Exchange x):
    """More of a body that is sent while it arrives."""
    if early_fault(x):
        if take_back(x):
            if x.body_complete:
                on_body_complete(x)
            return
    if x.upstream is None:
        return
    if x.body_complete:
        if x.table.end_users:
            read_end_user(x)
        if x.plan.kind == PLAN_LLM and x.scan.close_start < 0:
            refuse_close(x, 400, "invalid_request_error", "Invalid JSON payload: unexpected end of data",
                         "request_body")
            return
        if x.plan.kind == PLAN_MULTIPART and not x.multipart.complete:
            refuse_close(x, 400, "invalid_request_error",
                         "Invalid multipart body: the closing boundary is missing")
            return
        if x.plan.kind != PLAN_PASS:
            x.stream = x.scan.fields[F_STREAM].kind == 116 if x.plan.kind == PLAN_LLM \
                else x.multipart.stream_true
        x.ask_usage = x.stream and x.extra > 0
        if x.state == S_SENT:
            set_answer_deadline(x)
    if push_request(x) > UNSENT_HIGH and not x.body_complete:
        # The upstream does not read: that is not the client's time.
        x.downstream.pause()
        x.downstream.deadline = x.gateway.now + x.deployment.timeout


cdef void on_upstream_writable(Exchange x):
    cdef Py_ssize_t left = push_request(x)
    if x.early and left <= UNSENT_HIGH and not x.body_complete and not x.downstream.reading:
        x.downstream.resume()
        x.downstream.deadline = x.gateway.now + x.table.body_timeout


cdef void set_answer_deadline(Exchange x):
    cdef double limit = CONTROL_SECONDS
    if x.early and not x.body_complete:
        limit = x.table.body_timeout
    elif x.deployment is not None:
        limit = answer_limit(x)
    set_deadline(x, limit)


cdef void set_deadline(Exchange x, double seconds):
    x.downstream.deadline = x.gateway.now + seconds
    if x.total_until > 0.0 and x.total_until < x.downstream.deadline:
        x.downstream.deadline = x.total_until


cdef void await_piece(Exchange x):
    """The limit between two pieces of an answer begins anew."""
    if x.deployment is not None:
        set_deadline(x, x.deployment.idle_timeout if x.stream else x.deployment.timeout)
    else:
        set_deadline(x, CONTROL_SECONDS)


cdef double answer_limit(Exchange x):
    """Seconds until the answer (of a stream: its first token) has to come; the request's wish counts first."""
    if x.stream and x.stream_timeout > 0.0:
        return x.stream_timeout
    if x.timeout > 0.0:
        return x.timeout
    return x.deployment.stream_timeout if x.stream else x.deployment.timeout
