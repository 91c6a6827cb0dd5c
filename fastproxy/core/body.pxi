# -- the request's body: received, scanned once, decoded


cdef Py_ssize_t on_body(Exchange x, const char* p, Py_ssize_t size):
    """Bytes of the body, perhaps with later requests behind them. Returns how many were used."""
    cdef Py_ssize_t at = 0, used, piece_size
    cdef const char* piece
    cdef int result
    if x.request_chunked:
        while at < size:
            result = chunked_next(&x.request_chunks, p + at, size - at, &used, &piece, &piece_size)
            at += used
            if result == PARSE_ERROR:
                refuse_close(x, 400, "invalid_request_error", "Invalid chunked body: "
                             + (<bytes>x.request_chunks.error).decode())
                return size
            if piece_size and not keep_body(x, piece, piece_size):
                return size
            if result == PARSE_DONE:
                x.body_complete = True
                break
    else:
        at = size
        if at > x.content_length - x.body.size:
            at = <Py_ssize_t>(x.content_length - x.body.size)
        if at and not keep_body(x, p, at):
            return size
        x.body_complete = x.body.size >= x.content_length
    if x.state == S_BODY:
        if x.body_complete:
            on_body_complete(x)
        elif x.content_length - x.body.size > EARLY_MIN:
            maybe_dispatch_early(x)
    elif x.early and (x.state == S_SENT or x.state == S_HOLD or x.state == S_RELAY):
        send_more(x)
    elif x.early and x.state == S_WAIT and x.body_complete:
        check_early_end(x)
    return at


cdef Py_ssize_t body_room(Exchange x, char** p):
    """Where the next read of a large body goes: its own buffer, so that it is never copied. 0: nowhere."""
    cdef long long left = x.content_length - x.body.size
    if x.body_complete or x.request_chunked or left < DIRECT_MIN or x.state == S_DRAIN:
        return 0
    if left > DIRECT_READ:
        left = DIRECT_READ
    if x.body.capacity < x.content_length <= RESERVE_MAX:
        buf_reserve_exact(&x.body, <Py_ssize_t>x.content_length)
    if not buf_reserve(&x.body, <Py_ssize_t>left):
        return 0
    p[0] = x.body.data + x.body.size
    return <Py_ssize_t>left


cdef bint keep_body(Exchange x, const char* p, Py_ssize_t size):
    """Keep received bytes until the answer begins, and scan them. False: answered already."""
    if x.body.size + size > x.table.max_request_bytes:
        refuse_close(x, 413, "invalid_request_error", too_large(x))
        return False
    if p == x.body.data + x.body.size:
        x.body.size += size                 # it was read to its place
    else:
        buf_add(&x.body, p, size)
        if x.body.failed:
            refuse_close(x, 503, "service_unavailable", "The gateway is out of memory; try again shortly")
            return False
        p = x.body.data + x.body.size - size
    if x.content_coding is not None:
        return True                            # looked at once it is decoded
    if x.plan.kind == PLAN_LLM or x.pass_scan:
        if x.scan.feed(p, size) == SCAN_ERROR:
            if x.pass_scan and not x.plan.route.prefix and x.body.data[0] != 123:      # '{'
                x.pass_scan = False        # not JSON, and nobody says that it has to be
                return True
            bad_json(x)
            return False
    elif x.plan.kind == PLAN_MULTIPART:
        if x.multipart.feed(p, size) == SCAN_ERROR:
            refuse_close(x, 400, "invalid_request_error", "Invalid multipart body: "
                         + (<bytes>x.multipart.error).decode())
            return False
    return True


cdef str too_large(Exchange x):
    return f"Request size is too large. Max size is {x.table.max_request_bytes // 1048576} MB"


cdef void bad_json(Exchange x):
    refuse_close(x,
                 400, "invalid_request_error",
                 f"Invalid JSON payload: {(<bytes>x.scan.error).decode()}: byte {x.scan.error_at}",
                 "request_body")


cdef void on_body_complete(Exchange x):
    if x.late_body:
        x.late_body = False
        x.elsewhere += monotonic_ns() - x.started
    if x.content_coding is not None and not decompress(x):
        return
    if x.plan.kind == PLAN_CONTROL:
        x.pool = x.table.control
        acquire_upstream(x)
        return
    if x.plan.kind == PLAN_PASS:
        if x.pass_scan and x.key.models is not None and not pass_model_allowed(x):
            return
        if x.pass_scan and x.key.required is not None and not has_required(x):
            return
        if x.admitted or take_place(x):
            proceed(x)
        return
    if x.plan.kind == PLAN_LLM:
        if x.body.size == 0:
            refuse(x, 400, "invalid_request_error",
                   "Invalid JSON payload: the body is empty; a JSON object with `model` is expected",
                   "request_body")
            return
        if x.scan.close_start < 0:
            refuse(x, 400, "invalid_request_error",
                   f"Invalid JSON payload: unexpected end of data: byte {x.body.size}",
                   "request_body")
            return
    elif x.plan.kind == PLAN_MULTIPART and not x.multipart.complete:
        refuse(x, 400, "invalid_request_error",
               "Invalid multipart body: the closing boundary is missing")
        return
    if x.key.required is not None and not has_required(x):
        return
    if x.admitted or take_place(x):
        proceed(x)


cdef void proceed(Exchange x):
    if x.plan.kind == PLAN_PASS:
        if govern(x):
            acquire_upstream(x)
    elif choose_deployment(x) and prepare_body(x):
        acquire_upstream(x)


cdef bint decompress(Exchange x):
    cdef bytes raw
    try:
        raw = provider_body.decompress(whole_body(x), x.content_coding.decode("latin-1"),
                                       x.table.max_request_bytes)
    except provider_body.TooLarge as error:
        refuse(x, 413, "invalid_request_error", str(error), "request_body")
        return False
    except provider_body.BodyError as error:
        unknown = str(error).startswith("unsupported")
        refuse(x, 415 if unknown else 400, "invalid_request_error", str(error), "request_body")
        return False
    x.content_coding = None
    buf_clear(&x.body)
    return keep_body(x, PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


cdef bytes whole_body(Exchange x):
    return PyBytes_FromStringAndSize(x.body.data, x.body.size)


cdef bytes body_slice(Exchange x, Py_ssize_t start, Py_ssize_t end):
    return PyBytes_FromStringAndSize(x.body.data + start, end - start)
