# -- the answer

cdef unsigned long long MOST_LEFT = 4294967294      # of requests or tokens, as an event has room for them


cdef Py_ssize_t on_answer(Exchange x, const char* p, Py_ssize_t size):
    """Bytes from the upstream. Returns how many at the end belong to a head that is not complete yet."""
    cdef Head* head
    cdef Py_ssize_t at = 0
    cdef int result
    if x.state == S_SENT:
        head = &x.gateway.head
        while True:
            result = parse_response(p + at, size - at, head, MAX_HEAD, x.head_request)
            if result == PARSE_MORE:
                return size - at
            if result == PARSE_ERROR:
                bad_answer(x, "the upstream's answer is not valid HTTP: " + (<bytes>head.error).decode())
                return 0
            at += head.size
            if head.status >= 200:
                break
            if head.status == 101 and x.tunnel is not None:
                on_switched(x, p + at - head.size, head, p + at, size - at)
                return 0
            x.interim += 1
            if head.status == 101 or x.interim > INTERIM_MAX:
                bad_answer(x, "the upstream switched protocols unasked" if head.status == 101 else
                           "the upstream sent too many interim answers")
                return 0
            if at == size:
                return 0
        on_answer_head(x, p + at - head.size, head, p + at, size - at)
    elif x.state == S_HOLD:
        hold_answer(x, p, size)
    elif x.state == S_RELAY:
        relay_answer(x, p, size, False)
    elif x.state == S_TUNNEL:
        relay_frames(x, &x.tunnel.server, p, size, False)
    return 0


cdef void on_answer_head(Exchange x, const char* p, Head* head, const char* rest, Py_ssize_t size):
    """Step 9: the answer's head is judged and rewritten."""
    x.head_at = monotonic_ns()
    x.status = head.status
    x.answer_keep_alive = head.keep_alive
    x.answer_chunked = head.chunked
    x.answer_left = head.content_length if not head.chunked and not head.close_delimited else -1
    if x.answer_chunked:
        chunked_init(&x.answer_chunks)
    if x.method_line is not None:
        x.error_answer = False           # what the control plane or a pass-through's upstream says is relayed
    elif 300 <= head.status < 400:
        # Following would carry our key to whoever the upstream names.
        bad_answer(x, f"the upstream answered with a redirect ({head.status}), which is not followed")
        return
    elif head.status < 300 and x.tunnel is not None:
        bad_answer(x, f"the upstream did not switch to a WebSocket, it answered {head.status}")
        return
    else:
        x.error_answer = head.status >= 400
    buf_clear(&x.held)
    rewrite_fields(x, p, head)
    if not x.error_answer and x.pool is not x.table.control \
            and x.content_type is not None and not x.head_request:
        start_tap(x)
    if x.resumed and not x.error_answer:
        if not x.tapping or x.tap.mode != TAP_SSE:
            bad_answer(x, "the upstream that was to go on with the stream sent none")
            return
        x.become(S_RELAY)
        relay_answer(x, rest, size, False)
        return
    if x.error_answer or 0 <= x.answer_left <= MAX_HELD_ANSWER and not holds_stream(x):
        x.become(S_HOLD)            # short: one write, with the right length
        hold_answer(x, rest, size)
        return
    if x.table.max_answer_bytes and x.answer_left > x.table.max_answer_bytes:
        bad_answer(x, "the upstream's answer is larger than max_response_size_mb")
        return
    if holds_stream(x):
        x.become(S_HOLD)            # until its first token: so long an error is a status, and another way is open
        x.peeking = True
        x.judged = 0
        hold_until(x)
        peek_answer(x, rest, size)
    elif x.answer_left < 0 and x.tapping and x.tap.mode == TAP_JSON and x.plan.endpoint != EP_STREAM_GENERATE_CONTENT_ARRAY:
        x.become(S_HOLD)            # a document of unknown length: whole, or as much as is held
        hold_answer(x, rest, size)
    else:
        begin_relay(x)
        relay_answer(x, rest, size, True)


cdef bint holds_stream(Exchange x):
    return x.stream and x.tapping and x.plan.kind == PLAN_LLM and x.tap.mode == TAP_SSE \
        and x.table.router.stream_again and x.table.router.stream_hold > 0.0


cdef void begin_relay(Exchange x):
    """From here on bytes of the answer reach the client: there is no other way any more."""
    x.become(S_RELAY)
    if x.table.keep_texts:
        keep_question(x)
    if not x.first_at:
        x.first_at = monotonic_ns()
    x.chunk_out = not x.http10 and not x.head_request
    x.close_out = x.close_out or x.http10
    if x.answer_left >= 0 and not x.tapping:
        x.chunk_out = False
        x.close_out = not x.keep_alive
    if not x.body_complete:
        x.close_out = True
    elif x.table.router.stream_continue and x.stream and x.tapping and x.tap.mode == TAP_SSE \
            and (x.plan.endpoint == EP_CHAT or x.plan.endpoint == EP_MESSAGES):
        x.story = Continuation(x.plan.anthropic)
    elif push_request(x) == 0:
        if x.input_estimate < 0:
            x.input_estimate = estimate_input(x)         # should no usage come
        if x.body.capacity > LARGE_KEEP:
            x.gateway.large_freed = True
        forget_bytes(&x.body, LARGE_KEEP)
        x.let_go = True


cdef void hold_until(Exchange x):
    # What comes first: the limit for the first token, or the end of holding (so that keep-alives arrive).
    cdef double until = x.gateway.now + x.table.router.stream_hold
    x.hold_ends = until < x.downstream.deadline
    if x.hold_ends:
        x.downstream.deadline = until


cdef void peek_answer(Exchange x, const char* p, Py_ssize_t size):
    """The beginning of a stream: held until it has said something, or that it fails."""
    cdef Py_ssize_t at = 0, used, length
    cdef const char* piece
    cdef int result, verdict
    cdef bint complete = False
    if x.answer_left >= 0:
        if size > x.answer_left:
            x.answer_keep_alive = False
            size = <Py_ssize_t>x.answer_left
        x.answer_left -= size
        complete = x.answer_left == 0
        tap_piece(x, p, size, &x.held)
    elif x.answer_chunked:
        while at < size and not complete:
            result = chunked_next(&x.answer_chunks, p + at, size - at, &used, &piece, &length)
            at += used
            if result == PARSE_ERROR:
                bad_answer(x, "the upstream's answer has a broken chunk")
                return
            tap_piece(x, piece, length, &x.held)
            complete = result == PARSE_DONE
        if complete and at < size:
            x.answer_keep_alive = False
    else:
        tap_piece(x, p, size, &x.held)
    x.answer_size += size
    if complete and x.tapping:
        x.tap.finish(&x.held)
    verdict = judge_events(x)
    if verdict == V_ERROR:
        x.answer_keep_alive = x.answer_keep_alive and complete
        return                             # answered, or under way again
    if verdict == V_TOKEN or complete or x.held.size > STREAM_HELD:
        end_peek(x, complete)


cdef void end_peek(Exchange x, bint complete):
    x.peeking = False
    begin_relay(x)
    if x.story is not None:
        told = x.story.feed(x.held.data[:x.held.size])
        if x.story.failed:
            emit_answer(x, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), True, False)
            if x.state == S_RELAY:
                cut_answer(x, NULL, False, "the upstream sent an error in its stream")
            return
        if complete:
            told += x.story.finish()
        emit_answer(x, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), True, complete)
        return
    emit_answer(x, x.held.data, x.held.size, True, complete)
    if not complete:
        forget_bytes(&x.held, 0)


cdef inline bint starts(const char* p, const char* end, const char* text, Py_ssize_t size) noexcept nogil:
    return end - p >= size and memcmp(p, text, size) == 0


cdef int quick_verdict(const char* p, Py_ssize_t size) noexcept nogil:
    """The events that nearly every stream begins with, by their bytes; V_UNKNOWN: first_token.judge has to look."""
    cdef const char* end = p + size
    cdef const char* delta
    if starts(p, end, b"event: ", 7):
        p += 7
        if starts(p, end, b"content_block_delta", 19) or starts(p, end, b"response.output_text.delta", 26):
            return V_TOKEN
        if starts(p, end, b"message_start", 13) or starts(p, end, b"ping", 4) \
                or starts(p, end, b"response.created", 16) or starts(p, end, b"response.in_progress", 20):
            return V_NOTHING
        if starts(p, end, b"content_block_start", 19) and memmem(p, end - p, b'{"type":"text","text":""}', 25) != NULL:
            return V_NOTHING
        return V_UNKNOWN
    if not starts(p, end, b'data: {"id":', 12):
        return V_UNKNOWN
    delta = <const char*>memmem(p, size, b'"delta":{', 9)
    if delta == NULL:
        return V_UNKNOWN
    delta += 9
    if memmem(delta, end - delta, b'"error":', 8) != NULL or memmem(delta, end - delta, b'"delta":{', 9) != NULL:
        return V_UNKNOWN                       # or a second choice
    if starts(delta, end, b'"content":"', 11):
        return V_UNKNOWN if delta + 11 == end or delta[11] == 34 else V_TOKEN        # '"'
    if not starts(delta, end, b'"role":"assistant"', 18):
        return V_UNKNOWN
    delta += 18
    if starts(delta, end, b',"content":""', 13):
        delta += 13
    if starts(delta, end, b',"refusal":null', 15):
        delta += 15
    if delta < end and delta[0] == 125 and memmem(delta, end - delta, b'"finish_reason":null', 20) != NULL:    # '}'
        return V_NOTHING
    return V_UNKNOWN


cdef int judge_events(Exchange x):
    """Looks at the events that are complete in `held`: nothing yet, the first token, or an error."""
    cdef const char* p
    cdef const char* end
    cdef Py_ssize_t size
    while True:
        p = x.held.data + x.judged
        end = <const char*>memmem(p, x.held.size - x.judged, b"\n\n", 2)
        size = 2
        if end == NULL:
            end = <const char*>memmem(p, x.held.size - x.judged, b"\r\n\r\n", 4)
            size = 4
            if end == NULL:
                return V_NOTHING
        size = end - p + size
        x.judged += size
        quick = quick_verdict(p, size)
        if quick == V_TOKEN:
            return V_TOKEN
        if quick == V_NOTHING:
            continue
        verdict, status, error = first_token.judge(p[:size], x.plan.path)
        if verdict == V_TOKEN:
            return V_TOKEN
        if verdict == V_ERROR:
            x.status = status
            x.error_answer = True
            x.peeking = False
            x.tapping = False
            x.answer_keep_alive = False
            send_error_answer(x, error)
            return V_ERROR


cdef void start_tap(Exchange x):
    cdef int mode = TAP_OFF
    cdef bytes kind = x.content_type
    x.tapping = False
    if kind.startswith(b"application/json"):
        mode = TAP_JSON
    elif kind.startswith(b"text/event-stream"):
        mode = TAP_SSE
    if mode != TAP_OFF:
        x.tapping = True
        # after a fallback the client sees who answered
        x.tap.begin(mode, None if x.group is None or x.path_model is not None or x.fallbacks else x.group.name_json,
                    x.ask_usage and not x.client_usage,
                    x.deployment.mark if x.plan.endpoint == EP_RESPONSES else None)
        x.tap.count_images = makes_images(x)
        if mode == TAP_SSE and x.client_usage and x.table.usage_cost and x.plan.streams_usage \
                and priced(x):
            x.tap.pricer, x.tap.whose = cost_now, <void*>x


cdef void rewrite_fields(Exchange x, const char* p, Head* head):
    """Field lines for the client: what is end-to-end, under the names LiteLLM's clients know."""
    cdef Buffer* out = &x.answer_lines
    cdef int i
    cdef FieldSpan* f
    cdef bint control = x.method_line is not None
    cdef bint full = x.table.header_full
    cdef bint encoded = False
    cdef const char* name
    x.content_type = None
    x.retry_after = None
    buf_clear(out)
    for i in range(head.n_fields):
        f = &head.fields[i]
        name = p + f.name
        if f.hop or f.name_id == H_CONTENT_LENGTH or f.name_id == H_TRANSFER_ENCODING:
            if full and not control and f.name_id == H_CONTENT_LENGTH:
                add_provider_line(x, out, p, f)
            continue
        if control:
            if f.name_id == H_CONTENT_TYPE:
                x.content_type = (p + f.value)[:f.value_size].lower()
            elif f.name_id == H_CONTENT_ENCODING:
                encoded = True
            if f.name_id != H_DATE and f.name_id != H_SERVER and f.name_id != H_VIA \
                    and not (f.name_id == H_SET_COOKIE and x.plan.kind == PLAN_PASS):
                buf_add(out, name, f.name_size)
                buf_add(out, b": ", 2)
                buf_add(out, p + f.value, f.value_size)
                buf_add(out, b"\r\n", 2)
            continue
        if f.name_id == H_CONTENT_TYPE:
            x.content_type = (p + f.value)[:f.value_size].lower()
            buf_add(out, b"content-type: ", 14)
            buf_add(out, p + f.value, f.value_size)
            buf_add(out, b"\r\n", 2)
        elif f.name_id == H_CONTENT_ENCODING:
            encoded = True
            buf_add(out, b"content-encoding: ", 18)
            buf_add(out, p + f.value, f.value_size)
            buf_add(out, b"\r\n", 2)
        elif f.name_id == H_SET_COOKIE:
            continue
        elif f.name_id == H_RETRY_AFTER or passes_unprefixed(x, name, f.name_size):
            if f.name_id == H_RETRY_AFTER:
                x.retry_after = (p + f.value)[:f.value_size]
            elif f.name_size > 22:
                note_left(x, name, f.name_size, p + f.value, f.value_size)
            buf_add(out, name, f.name_size)
            buf_add(out, b": ", 2)
            buf_add(out, p + f.value, f.value_size)
            buf_add(out, b"\r\n", 2)
        elif f.name_id == H_ANTHROPIC:
            note_left(x, name, f.name_size, p + f.value, f.value_size)
        if full:
            add_provider_line(x, out, p, f)
    if encoded:
        x.content_type = None      # not ours to look into
    if x.plan.kind == PLAN_PASS and x.status >= 400 and x.deployment.secrets:
        redact_lines(x)


cdef void note_left(Exchange x, const char* name, unsigned int size, const char* value, unsigned int digits) noexcept nogil:
    """`x-ratelimit-remaining-requests` and `-tokens`, and Anthropic's: what the provider says is left, for its gauges."""
    cdef unsigned long long left = 0
    cdef unsigned int i
    cdef bint requests
    if size == 30 and same_ci(name, b"x-ratelimit-remaining-requests", 30) \
            or size == 38 and same_ci(name, b"anthropic-ratelimit-requests-remaining", 38):
        requests = True
    elif size == 28 and same_ci(name, b"x-ratelimit-remaining-tokens", 28) \
            or size == 36 and same_ci(name, b"anthropic-ratelimit-tokens-remaining", 36):
        requests = False
    else:
        return
    if not 0 < digits < 16:
        return
    for i in range(digits):
        if not 48 <= value[i] <= 57:
            return
        left = 10 * left + value[i] - 48
    if left > MOST_LEFT:
        left = MOST_LEFT
    if requests:
        x.left_requests = <unsigned int>left + 1
    else:
        x.left_tokens = <unsigned int>left + 1


cdef void redact_lines(Exchange x):
    # An upstream that repeats its credential in an error's head.
    lines = errors.redact_bytes(x.answer_lines.data[:x.answer_lines.size], x.deployment.secrets)
    buf_clear(&x.answer_lines)
    add_bytes(&x.answer_lines, lines)


cdef void add_provider_line(Exchange x, Buffer* out, const char* p, FieldSpan* f) noexcept:
    buf_add(out, b"llm_provider-", 13)
    buf_add(out, p + f.name, f.name_size)
    buf_add(out, b": ", 2)
    buf_add(out, p + f.value, f.value_size)
    buf_add(out, b"\r\n", 2)


cdef bint passes_unprefixed(Exchange x, const char* name, unsigned int size) noexcept:
    # What the official SDKs read by its own name.
    if size > 12 and same_ci(name, b"x-ratelimit-", 12):
        return True
    if size == 12 and same_ci(name, b"x-request-id", 12):
        return True
    if size == 10 and same_ci(name, b"request-id", 10):
        return True
    return size == 19 and same_ci(name, b"content-disposition", 19)


cdef void add_head(Exchange x, Buffer* out, int status, const char* lines, Py_ssize_t lines_size, long long length):
    """The head of an answer to the client. length -1: chunked or until close, by chunk_out."""
    add_bytes(out, <bytes>STATUS_LINES[status])
    add_bytes(out, x.gateway.date_line)
    buf_add(out, lines, lines_size)
    if x.plan is not None and (x.plan.kind == PLAN_LLM or x.plan.kind == PLAN_MULTIPART
                               or x.plan.kind == PLAN_TUNNEL):
        add_own_lines(x, out)
    elif x.plan is not None and x.plan.kind == PLAN_PASS:
        add_pass_lines(x, out)
    if x.cors_lines is not None:
        add_bytes(out, x.cors_lines)
    add_bytes(out, x.gateway.via_line)
    if length >= 0:
        if status != 204 and status != 304:
            buf_add(out, b"content-length: ", 16)
            buf_add_uint(out, length)
            buf_add(out, b"\r\n", 2)
    elif x.chunk_out:
        buf_add(out, b"transfer-encoding: chunked\r\n", 28)
    if not x.keep_alive or x.close_out or x.gateway.retiring:
        x.close_out = True
        buf_add(out, b"connection: close\r\n\r\n", 21)
    elif x.http10:
        buf_add(out, b"connection: keep-alive\r\n\r\n", 26)
    else:
        buf_add(out, b"\r\n", 2)


cdef void add_own_lines(Exchange x, Buffer* out):
    cdef long long now
    buf_add(out, b"x-litellm-call-id: ", 19)
    if x.call_id is not None:
        add_bytes(out, x.call_id)
    else:
        x.call_id = new_call_id(x)
        add_bytes(out, x.call_id)
    buf_add(out, b"\r\n", 2)
    if x.deployment is not None:
        add_bytes(out, x.deployment.answer_head)
        add_bytes(out, x.group.head_line)
    add_bytes(out, x.gateway.constant_lines)
    now = monotonic_ns()
    if x.head_at:
        buf_add(out, b"x-litellm-response-duration-ms: ", 32)
        add_ms(out, now - x.started)
        buf_add(out, b"\r\nx-litellm-overhead-duration-ms: ", 34)
        add_ms(out, now - x.head_at + own_time(x))
        buf_add(out, b"\r\n", 2)
    if x.table.header_full and x.status < 400:
        if not x.stream and told(x) and priced(x):
            add_dollars(out, b"x-litellm-response-cost: ", 25, cost_of(x, False))
        if x.n_holds:
            add_limit_lines(x, out)
    elif x.table.header_full and x.key is not None and PyTuple_GET_SIZE(x.key.gates):
        add_key_lines(x, out)
    if x.attempts:
        buf_add(out, b"x-litellm-attempted-retries: ", 29)
        buf_add_uint(out, x.retries)
        if x.status < 400 or x.fallbacks:
            buf_add(out, b"\r\nx-litellm-attempted-fallbacks: ", 33)
            buf_add_uint(out, x.fallbacks)
        buf_add(out, b"\r\n", 2)
    if x.status >= 400 and x.retries + x.fallbacks and not (x.status == 429 and x.retry_after is not None):
        buf_add(out, b"x-should-retry: false\r\n", 23)       # the official SDKs obey it: we have tried
    if x.table.header_full:
        buf_add(out, b"vary: Origin\r\nx-frame-options: DENY\r\nx-content-type-options: nosniff\r\n"
                b"content-security-policy: frame-ancestors 'none'\r\n", 119)
    if x.stream and x.content_type is not None and x.status == 200:
        buf_add(out, b"cache-control: no-cache\r\nx-accel-buffering: no\r\n", 48)


cdef bytes new_call_id(Exchange x):
    # A version 4 UUID (RFC 9562) from the worker's generator: an identifier, not a secret.
    cdef unsigned long long a = x.gateway.random(), b = x.gateway.random()
    cdef char text[36]
    cdef const char* digits = b"0123456789abcdef"
    cdef int i, at = 0
    a = (a & <unsigned long long>0xFFFFFFFFFFFF0FFF) | 0x4000
    b = (b & <unsigned long long>0x3FFFFFFFFFFFFFFF) | <unsigned long long>0x8000000000000000
    for i in range(32):
        if i == 8 or i == 12 or i == 16 or i == 20:
            text[at] = 45
            at += 1
        if i < 16:
            text[at] = digits[(a >> (60 - 4 * i)) & 15]
        else:
            text[at] = digits[(b >> (124 - 4 * i)) & 15]
        at += 1
    return PyBytes_FromStringAndSize(text, 36)


cdef void hold_answer(Exchange x, const char* p, Py_ssize_t size):
    """A short answer or an error: collected, then sent with one write."""
    cdef Py_ssize_t at = 0, used, length
    cdef const char* piece
    cdef int result
    cdef bint complete = False
    if x.peeking:
        peek_answer(x, p, size)
        return
    if x.answer_left >= 0:
        if size > x.answer_left:
            x.answer_keep_alive = False    # surplus bytes: not to be trusted with another request
            size = <Py_ssize_t>x.answer_left
        x.answer_left -= size
        if x.answer_left == 0 and x.held.size == 0:
            held_complete(x, p, size)       # the rule: whole in one read, never copied
            return
        complete = not hold_piece(x, p, size) or x.answer_left == 0
    elif x.answer_chunked:
        while at < size and not complete:
            result = chunked_next(&x.answer_chunks, p + at, size - at, &used, &piece, &length)
            at += used
            if result == PARSE_ERROR:
                bad_answer(x, "the upstream's answer has a broken chunk: "
                           + (<bytes>x.answer_chunks.error).decode())
                return
            complete = not hold_piece(x, piece, length) or result == PARSE_DONE
        if complete and at < size:
            x.answer_keep_alive = False
    else:
        complete = not hold_piece(x, p, size)
    if complete:
        held_complete(x, x.held.data, x.held.size)
    elif x.held.size > MAX_HELD_ANSWER and not x.error_answer:
        relay_held(x)


cdef void relay_held(Exchange x):
    """More of a document than is held: what there is goes out, and the rest as it comes."""
    cdef Buffer* body = &x.gateway.tapped
    begin_relay(x)
    x.answer_size += x.held.size
    buf_clear(body)
    tap_piece(x, x.held.data, x.held.size, body)
    forget_bytes(&x.held, 0)
    emit_answer(x, body.data, body.size, True, False)


cdef bint hold_piece(Exchange x, const char* p, Py_ssize_t size) noexcept:
    """False: an error answer has grown to its bound, and is taken as it is."""
    if x.error_answer and x.held.size + size > MAX_ERROR_BODY:
        buf_add(&x.held, p, MAX_ERROR_BODY - x.held.size)
        x.answer_keep_alive = False
        return False
    buf_add(&x.held, p, size)
    return True


cdef void held_complete(Exchange x, const char* p, Py_ssize_t size):
    cdef Buffer* out = &x.gateway.out
    cdef Buffer* tapped = &x.gateway.tapped
    x.answer_size = size
    if x.error_answer:
        send_error_answer(x, p[:size])
        return
    if x.plan.kind == PLAN_PASS and x.status >= 400 and x.deployment.secrets:
        redacted = errors.redact_bytes(p[:size], x.deployment.secrets)
        p, size = PyBytes_AS_STRING(redacted), PyBytes_GET_SIZE(redacted)
    if x.tapping:
        buf_clear(tapped)
        if x.tap.feed(p, size, tapped):
            x.tap.finish(tapped)
            p, size = tapped.data, tapped.size
        if x.tap.truncated() and x.plan.kind != PLAN_PASS and x.status == 200:
            x.answer_keep_alive = False
            bad_answer(x, "the upstream's answer is cut: its JSON does not end")
            return
    if not x.body_complete:
        x.close_out = True
    buf_clear(out)
    add_head(x, out, x.status, x.answer_lines.data, x.answer_lines.size,
             size if not x.head_request else 0)
    if x.head_request:
        size = 0
    if x.table.keep_texts:
        keep_question(x)
        if x.question is not None:
            keep_answer(x, p, size)
    settle(x)
    write_client(x, out, p, size, 0)
    conclude(x)


cdef void send_error_answer(Exchange x, bytes raw):
    cdef Buffer* out = &x.gateway.out
    cdef bytes body, lines
    release_upstream(x)
    if try_again(x, x.status, error_class(x, raw)):
        return
    if x.resumed:
        end_story(x, f"the upstream that was to go on answered {x.status}")
        return
    lines = x.answer_lines.data[:x.answer_lines.size]
    group = x.group.name.decode("utf-8", "replace")
    if x.plan.google:
        body = errors.google_upstream(x.status, raw, x.deployment.secrets)
    else:
        body = errors.upstream(x.status, raw, x.deployment.provider, group, x.plan.anthropic,
                               x.deployment.secrets)
    lines = b"content-type: application/json\r\n" + b"".join(
        line + b"\r\n" for line in lines.split(b"\r\n")
        if line and not line.lower().startswith((b"content-type:", b"content-encoding:")))
    lines = errors.redact_bytes(lines, x.deployment.secrets)
    if not x.body_complete:
        x.close_out = True
    buf_clear(out)
    add_head(x, out, x.status, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines), PyBytes_GET_SIZE(body))
    settle(x)
    write_client(x, out, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), 0)
    conclude(x)


cdef int error_class(Exchange x, bytes raw):
    """The class of an error answer; a 400 may be about the length or the content of the request."""
    if x.status == 400 or x.status == 413 or x.status == 422:
        kind = errors.classify(raw)
        if kind is not None:
            return X_CONTEXT if kind == "context" else X_CONTENT
    return failure_class(x.status)


cdef void relay_answer(Exchange x, const char* p, Py_ssize_t size, bint first):
    """Body bytes to the client as they come, re-framed, tapped; the `first` go with the head in one write."""
    cdef Py_ssize_t at = 0, used, length
    cdef const char* piece
    cdef int result
    cdef bint complete = False
    cdef Buffer* body = &x.gateway.tapped
    buf_clear(body)
    x.answer_size += size
    if x.table.max_answer_bytes and x.answer_size > x.table.max_answer_bytes:
        cut_answer(x, NULL, first, "the upstream's answer is larger than max_response_size_mb")
        return
    if x.answer_left >= 0:
        if size > x.answer_left:
            x.answer_keep_alive = False
            size = <Py_ssize_t>x.answer_left
        x.answer_left -= size
        complete = x.answer_left == 0
        if x.tapping and x.tap.feed(p, size, body):
            p, size = body.data, body.size
    elif x.answer_chunked:
        while at < size and not complete:
            result = chunked_next(&x.answer_chunks, p + at, size - at, &used, &piece, &length)
            at += used
            if result == PARSE_ERROR:
                cut_answer(x, body, first, "the upstream's answer has a broken chunk")
                return
            tap_piece(x, piece, length, body)
            complete = result == PARSE_DONE
        if complete and at < size:
            x.answer_keep_alive = False
        p, size = body.data, body.size
    else:
        tap_piece(x, p, size, body)
        p, size = body.data, body.size
    if complete and x.tapping:
        if p != body.data:
            buf_add(body, p, size)
        x.tap.finish(body)
        p, size = body.data, body.size
    if x.story is not None:
        tell_story(x, p, size, complete)
        return
    emit_answer(x, p, size, first, complete)


cdef void tell_story(Exchange x, const char* p, Py_ssize_t size, bint complete):
    """Events of a stream that could go on elsewhere: whole ones, under the first upstream's id."""
    cdef bytes told = x.story.feed(p[:size])
    if x.story.failed:
        if told:
            emit_answer(x, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), False, False)
        if x.state == S_RELAY:
            cut_answer(x, NULL, False, "the upstream sent an error in its stream")
        return
    if complete:
        told += x.story.finish()
    emit_answer(x, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), False, complete)


cdef inline void tap_piece(Exchange x, const char* p, Py_ssize_t size, Buffer* body) noexcept:
    if size and (not x.tapping or x.tap.feed(p, size, body) == 0):
        buf_add(body, p, size)


cdef void emit_answer(Exchange x, const char* p, Py_ssize_t size, bint first, bint complete):
    # Head (if it is still to go), one chunk, and the last chunk if this is the end: one write.
    cdef Buffer* out = &x.gateway.out
    cdef int tail = 0                 # bytes of "\r\n0\r\n\r\n" that follow
    cdef long long length = -1
    buf_clear(out)
    if first:
        if x.answer_left >= 0 and not x.tapping:
            length = x.answer_left + size
        add_head(x, out, x.status, x.answer_lines.data, x.answer_lines.size, length)
    if x.head_request:
        size = 0
    elif x.chunk_out:
        if size:
            buf_add_hex(out, size)
            buf_add(out, b"\r\n", 2)
            tail = TAIL_CHUNK
        if complete:
            tail |= TAIL_LAST
    if x.question is not None:
        keep_answer(x, p, size)
    if complete:
        settle(x)
    if out.size or size or tail:
        write_client(x, out, p, size, tail)
    if complete:
        conclude(x)


cdef void write_client(Exchange x, Buffer* out, const char* p, Py_ssize_t size, int tail):
    """`out`, then the body's bytes, then the chunk's end: copied together if small, else gathered."""
    cdef Downstream d = x.downstream
    cdef iovec parts[3]
    cdef const char* end = b"\r\n0\r\n\r\n"
    cdef Py_ssize_t tail_size = 0
    if tail:
        tail_size = 2 if tail == TAIL_CHUNK else 5
        if tail == TAIL_CHUNK | TAIL_LAST:
            tail_size = 7
        elif tail == TAIL_LAST:
            end += 2
    await_piece(x)
    x.gateway.block.counters[C_BYTES_OUT] += out.size + size + tail_size
    if size <= JOIN_MAX:
        buf_add(out, p, size)
        buf_add(out, end, tail_size)
        d.send(out.data, out.size)
        return
    parts[0].iov_base = out.data
    parts[0].iov_len = out.size
    parts[1].iov_base = <char*>p
    parts[1].iov_len = size
    parts[2].iov_base = <char*>end
    parts[2].iov_len = tail_size
    d.sendv(parts, 3)
