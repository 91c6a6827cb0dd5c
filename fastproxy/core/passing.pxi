# -- pass-through routes: the client's request as it stands, under the upstream's credential


cdef bint start_pass(Downstream d, Exchange x, Head* head, const char* p, FieldSpan* credential, int rank):
    """Steps 3 to 8 of such a request, as far as its head decides them. False: answered already."""
    cdef Plan plan = x.plan
    cdef bytes method = (p + head.method)[:head.method_size]
    cdef bytes path = (p + head.target)[:head.path_size][PyBytes_GET_SIZE(x.table.root_path):]
    cdef bytes query = query_of(head, p)
    cdef bytes target
    route = plan.route
    if method not in route.methods:
        answer_fixed(x, 405, errors.detail("Method Not Allowed"),
                     b"content-type: application/json\r\nallow: " + route.allow + b"\r\n")
        return False
    if not route.auth:
        x.key = x.table.anonymous
    elif credential == NULL and route.key_query is not None:
        if not authenticate_text(d, x, route.key_of(query)):
            return False
    elif not authenticate(d, x, p, credential, rank):
        return False
    if route.problem is not None:
        answer_fixed(x, 401, errors.detail(route.problem), b"content-type: application/json\r\n")
        return False
    x.pass_scan = x.key.models is not None or x.key.required is not None and route.auth
    target = route.upstream(path, query)
    if target is None:
        refuse(x, 400, "invalid_request_error", "dot segments in the path would lead out of the route's target", "path")
        return False
    x.deployment = plan.deployment
    x.pool = x.deployment.pool
    x.method_line = method + b" " + target + b" HTTP/1.1\r\n" + x.deployment.pass_head
    if route.forward_headers:
        pass_fields(d, x, head, p, route.own_headers)
    elif x.content_coding is not None:
        buf_add(&x.forward, b"content-encoding: ", 18)
        add_bytes(&x.forward, x.content_coding)
        buf_add(&x.forward, b"\r\n", 2)
    x.content_coding = None
    return True


cdef bint pass_model_allowed(Exchange x):
    """Whether a key whose models are limited may send this: it has to name one of them. False: answered already."""
    cdef bytes name = x.plan.route.model_in(x.method_line)
    if x.body.size and x.scan.close_start >= 0:
        if x.scan.fields[F_MODEL].kind:
            name = asked_model(x)
            if name is None:
                if x.state == S_BODY:
                    refuse(x, 400, "invalid_request_error", "model must be a string", "model")
                return False
    if name is None:
        if not x.plan.route.prefix:
            return True                # where the file's own endpoint leads is its author's decision
        refuse(x, 403, "key_model_access_denied", "This key can only access some models, and the request names none "
               "that the gateway can see (a JSON body with `model` is expected)", "model")
        return False
    if not x.key.allows(name):
        refuse_model(x, name)
        return False
    x.model_start = x.model_end = -1      # it is sent as it stands
    return True


cdef void pass_fields(Downstream d, Exchange x, Head* head, const char* p, object own):
    """All end-to-end fields but credentials, cookies, what is the gateway's, and those that the route sets. Usage can
    be read of what is not compressed."""
    cdef int i
    cdef FieldSpan* f
    cdef Buffer* out = &x.forward
    cdef bytes key_header = x.table.key_header
    buf_clear(out)
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.hop or f.name_id in (H_ACCEPT_ENCODING, H_CONTENT_LENGTH, H_EXPECT, H_X_FORWARDED_FOR, H_AUTHORIZATION,
                                  H_X_API_KEY, H_API_KEY, H_X_GOOG_API_KEY, H_OCP_APIM_SUBSCRIPTION_KEY, H_X_LITELLM_API_KEY,
                                  H_X_LITELLM, H_X_LITELLM_CALL_ID, H_ORIGIN, H_VIA):
            continue
        if not x.traced and f.name_id in (H_TRACEPARENT, H_TRACESTATE):
            continue
        name = (p + f.name)[:f.name_size].lower()
        if name in own or name == key_header or name in (b"host", b"cookie", b"forwarded") \
                or name.startswith((b"x-forwarded-", b"x-fastproxy-", b"access-control-")):
            continue
        forward_field(d, out, p, f)


cdef bint authenticate_text(Downstream d, Exchange x, bytes raw):
    # A credential that stood in the query.
    cdef FieldSpan span
    if raw is None:
        return authenticate(d, x, NULL, NULL, 100)
    span.value = 0
    span.value_size = <unsigned int>PyBytes_GET_SIZE(raw)
    return authenticate(d, x, PyBytes_AS_STRING(raw), &span, 3)


cdef void add_pass_lines(Exchange x, Buffer* out):
    if x.call_id is None:
        x.call_id = new_call_id(x)
    buf_add(out, b"x-litellm-call-id: ", 19)
    add_bytes(out, x.call_id)
    buf_add(out, b"\r\n", 2)
    if x.deployment is not None:
        add_bytes(out, x.deployment.answer_head)
    add_bytes(out, x.gateway.constant_lines)
