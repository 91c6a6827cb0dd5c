# -- a WebSocket: after its handshake the bytes of its frames go both ways as they come (RFC 6455)
#
# Only the headers of frames are looked at: for the size of messages, the Close, and where a frame ends, so that a
# Close of ours never falls into the middle of one. A header that is cut by a read is held until it is whole;
# nothing else is held, and a peer that does not read stops the other (Link's bounds).

cdef enum:
    HEADER_MAX = 14               # bytes of a frame's header
    CONTROL_MAX = 125             # of a control frame's payload
    TEXT_MAX = 1048576            # a longer text message of the upstream is not read for its usage
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PONG = 10
    CLOSE_NORMAL = 1000
    CLOSE_GOING_AWAY = 1001
    CLOSE_PROTOCOL = 1002
    CLOSE_POLICY = 1008
    CLOSE_TOO_BIG = 1009
    CLOSE_BAD_GATEWAY = 1014

cdef long long TOKENS_MAX = 9007199254740992      # 2 ** 53
cdef double CLOSE_SECONDS = 10.0      # for the other side's Close, after the first


cdef struct Frames:
    # One direction.
    unsigned char head[14]            # a header that is not whole yet, not relayed
    int have                          # … bytes of it
    int opcode
    bint fin
    bint fragmented                   # a message is to be continued
    bint text                         # … and is one of text
    bint closed                       # a Close went by; nothing counts behind it
    unsigned long long left           # of the payload, to come
    unsigned long long message        # bytes of the message, this frame's included


@cython.final
cdef class Tunnel:
    """What a WebSocket's exchange has and no other: its handshake, and where each direction stands."""

    cdef object opening               # providers.websocket.Opening
    cdef Frames client                # from the client,
    cdef Frames server                # … from the upstream
    cdef Buffer text                  # a text message of the upstream that came in pieces; at most TEXT_MAX
    cdef double close_until           # monotonic seconds; 0: nobody has closed

    def __cinit__(self):
        memset(&self.client, 0, sizeof(Frames))
        memset(&self.server, 0, sizeof(Frames))
        buf_init(&self.text)

    def __dealloc__(self):
        buf_free(&self.text)


# -- the handshake


cdef bint start_tunnel(Downstream d, Exchange x, Head* head, const char* p, FieldSpan* origin, FieldSpan* credential,
                       int rank):
    """Steps 3 and 4 of a WebSocket: its handshake and key, before anybody is dialled. False: answered already."""
    cdef Tunnel t
    x.content_coding = None
    if not x.body_complete:
        refuse_close(x, 400, "invalid_request_error", "A WebSocket's handshake has no body")
        return False
    lines = handshake_fields(p, head)
    try:
        if x.http10:
            raise websocket.Refused(426, "A WebSocket needs HTTP/1.1", "upgrade", b"")
        if origin != NULL:
            judge_origin(x, (p + origin.value)[:origin.value_size], dict(lines).get(b"host", b""))
        opening = websocket.read_opening(
            lines, query_of(head, p), x.table.forward_openai_organization)
    except websocket.Refused as error:
        refuse(x, error.status, "invalid_request_error", str(error), error.param, "", error.lines)
        return False
    if credential == NULL and opening.credential is not None:
        if not authenticate_text(d, x, opening.credential):
            return False
    elif not authenticate(d, x, p, credential, rank):
        return False
    if x.key.required is not None:
        refuse(x, 400, "bad_request_error", "This key has to bring parameters in the request's body (enforced_params), "
               "and a WebSocket has none", x.key.required[0][0])
        return False
    if opening.model is not None and len(opening.model) > MODEL_MAX:
        refuse(x, 400, "invalid_request_error",
               f"model is longer than {MODEL_MAX} bytes: a model's name is expected", "model")
        return False
    t = Tunnel.__new__(Tunnel)
    t.opening = opening
    x.tunnel = t
    x.path_model = opening.model
    x.stream = True
    return True


cdef list handshake_fields(const char* p, Head* head):
    """(name, value) of the fields that a handshake is made of."""
    cdef int i
    cdef FieldSpan* f
    cdef list found = []
    for i in range(head.n_fields):
        f = &head.fields[i]
        if f.name_id == H_UPGRADE or f.name_id == H_CONNECTION or f.name_id == H_HOST or (
                f.name_id == H_OTHER and f.name_size > 14 and same_ci(p + f.name, b"sec-websocket-", 14)):
            found.append(((p + f.name)[:f.name_size].lower(), (p + f.value)[:f.value_size]))
    return found


cdef int judge_origin(Exchange x, bytes origin, bytes host) except -1:
    # Browsers ask nobody before they open one (no CORS), so who may is decided here.
    if websocket.same_site(origin, host) \
            or x.table.cors is not None and x.table.cors.allows(origin.decode("latin-1")):
        return 0
    raise websocket.Refused(403, "This origin may not open a WebSocket here (LITELLM_CORS_ORIGINS)", "origin", b"")


cdef void compose_upgrade(Exchange x, Buffer* out):
    """The handshake upstream: the deployment's address and key, the client's nonce and subprotocols."""
    cdef bytes head = <bytes>x.deployment.heads[x.plan.endpoint]
    if x.tunnel.opening.query:
        head = head.replace(b" HTTP/1.1\r\n", x.tunnel.opening.query + b" HTTP/1.1\r\n", 1)
    add_bytes(out, head)
    buf_add(out, x.forward.data, x.forward.size)
    add_bytes(out, <bytes>x.tunnel.opening.lines())
    buf_add(out, b"\r\n", 2)


cdef void on_switched(Exchange x, const char* p, Head* head, const char* rest, Py_ssize_t size):
    """The upstream's 101: verified, then the client gets its own, and frames go to and fro."""
    cdef Downstream d = x.downstream
    cdef Buffer* out = &x.gateway.out
    cdef FieldSpan* f
    cdef bytes lines
    cdef int i
    try:
        lines = x.tunnel.opening.agree(handshake_fields(p, head))
    except ValueError as error:
        bad_answer(x, f"the upstream's WebSocket handshake is wrong: {error}")
        return
    x.become(S_TUNNEL)
    x.status = 101
    x.head_at = x.first_at = monotonic_ns()
    x.let_go = True
    x.tap.begin(TAP_OFF, None, False)
    x.tapping = True                       # its usage is the sum over the connection
    if x.probe:
        x.gateway.traffic.recovered(x.deployment.slot)      # not only when it ends
    buf_clear(out)
    add_bytes(out, <bytes>STATUS_LINES[101])
    add_bytes(out, x.gateway.date_line)
    add_bytes(out, lines)
    for i in range(head.n_fields):
        f = &head.fields[i]
        if not f.hop and passes_unprefixed(x, p + f.name, f.name_size):
            forward_field(d, out, p, f)
    add_own_lines(x, out)
    add_bytes(out, x.gateway.via_line)
    buf_add(out, b"\r\n", 2)
    x.gateway.block.counters[C_BYTES_OUT] += out.size
    touch(x)
    d.send(out.data, out.size)
    if size:
        relay_frames(x, &x.tunnel.server, rest, size, False)
    if x.state == S_TUNNEL and d.pending.size:
        # it did not wait for its 101
        relay_frames(x, &x.tunnel.client, d.pending.data, d.pending.size, True)
        buf_clear(&d.pending)
    if x.state == S_TUNNEL and not x.upstream.congested:
        d.resume()


# -- frames


cdef void touch(Exchange x):
    # The idle limit begins anew; not while the client has to show that it reads, nor behind a Close.
    if not x.downstream.congested:
        x.downstream.deadline = x.tunnel.close_until if x.tunnel.close_until > 0.0 \
            else x.gateway.now + x.table.websocket_idle


cdef void relay_frames(Exchange x, Frames* f, const char* p, Py_ssize_t size, bint from_client):
    """Bytes of frames to the other side, as they came, but for a header that is not whole."""
    cdef unsigned char before[HEADER_MAX]       # what was held of a header, and goes first
    cdef int kept = f.have, code = 0
    cdef Py_ssize_t at = 0, good = 0, take
    cdef Tunnel t = x.tunnel
    memcpy(before, f.head, kept)
    while at < size and not f.closed:
        if f.left:
            take = size - at
            if <unsigned long long>take > f.left:
                take = <Py_ssize_t>f.left
            if not from_client and f.opcode < OP_CLOSE and f.text and f.message <= TEXT_MAX:
                collect_text(x, f, p + at, take)
            at += take
            good = at
            f.left -= <unsigned long long>take
        else:
            while at < size and f.have < header_size(f):
                f.head[f.have] = <unsigned char>p[at]
                f.have += 1
                at += 1
            if f.have < header_size(f):
                break
            code = read_header(f, from_client, <unsigned long long>x.table.websocket_message)
            if code:
                break
            f.have = 0
            good = at
        if f.left == 0:
            end_of_frame(x, f)
    if f.closed and t.close_until == 0.0:
        t.close_until = x.gateway.now + CLOSE_SECONDS
    touch(x)
    if good:
        send_on(x, <const char*>before, kept, p, good, from_client)
    if code:
        break_off(x, code, from_client)
    elif t.client.closed and t.server.closed:
        end_tunnel(x)


cdef inline int header_size(Frames* f) noexcept nogil:
    cdef int size
    if f.have < 2:
        return 2
    size = f.head[1] & 127
    return 2 + (2 if size == 126 else 8 if size == 127 else 0) + (4 if f.head[1] & 128 else 0)


cdef int read_header(Frames* f, bint from_client, unsigned long long limit) noexcept nogil:
    """A whole header. 0, or the code of the Close that it leads to."""
    cdef unsigned long long size = f.head[1] & 127
    cdef int opcode = f.head[0] & 15, i
    f.fin = f.head[0] >> 7
    # No extension was agreed on, so the reserved bits are clear; a client masks and a server does not.
    if f.head[0] & 0x70 or (f.head[1] >> 7) != from_client:
        return CLOSE_PROTOCOL
    if size >= 126:
        i = 4 if size == 126 else 10
        size = 0
        for i in range(2, i):
            size = size << 8 | f.head[i]
        if size >> 63:
            return CLOSE_PROTOCOL
    if opcode >= OP_CLOSE:
        if opcode > OP_PONG or not f.fin or size > CONTROL_MAX:
            return CLOSE_PROTOCOL
    elif opcode > OP_BINARY or (opcode == 0) != f.fragmented:
        return CLOSE_PROTOCOL
    else:
        if opcode:
            f.message = 0
            f.text = opcode == OP_TEXT
        f.message += size
        if f.message > limit or size > limit:
            return CLOSE_TOO_BIG
        f.fragmented = not f.fin
    f.opcode = opcode
    f.left = size
    return 0


cdef void end_of_frame(Exchange x, Frames* f):
    cdef Tunnel t = x.tunnel
    if f.opcode == OP_CLOSE:
        f.closed = True
    elif f.opcode < OP_CLOSE and f.fin and f == &t.server and t.text.size:
        if f.message <= TEXT_MAX and not t.text.failed:
            read_text(x, t.text.data, t.text.size)
        forget_bytes(&t.text, BODY_KEEP)


cdef void collect_text(Exchange x, Frames* f, const char* p, Py_ssize_t size):
    if f.fin and <unsigned long long>size == f.message:
        read_text(x, p, size)             # the rule: whole in one read
    else:
        buf_add(&x.tunnel.text, p, size)


cdef void read_text(Exchange x, const char* p, Py_ssize_t size):
    """A text message of the upstream: `response.done` has usage."""
    if memmem(p, size, b'"response.done"', 15) == NULL:
        return
    found = websocket.usage(p[:size])
    if found is None:
        return
    x.tap.usage.seen = True
    add_tokens(&x.tap.usage.input_tokens, found[0])
    add_tokens(&x.tap.usage.output_tokens, found[1])
    add_tokens(&x.tap.usage.cached_tokens, found[2])
    add_tokens(&x.tap.usage.reasoning_tokens, found[3])
    add_tokens(&x.tap.usage.audio_input_tokens, found[4])
    add_tokens(&x.tap.usage.audio_output_tokens, found[5])


cdef void add_tokens(long long* sum, long long count):
    # Each is below the limit, so that this can't overflow.
    sum[0] = min(sum[0] + count, TOKENS_MAX)


cdef void send_on(Exchange x, const char* before, int kept, const char* p, Py_ssize_t size, bint from_client):
    cdef Buffer* out = &x.gateway.out
    if kept:
        buf_clear(out)
        buf_add(out, before, kept)
        buf_add(out, p, size)
        p, size = out.data, out.size
    if from_client:
        x.upstream.send(p, size)
    else:
        x.gateway.block.counters[C_BYTES_OUT] += size
        x.downstream.send(p, size)


# -- the end


cdef void close_client(Exchange x, int code, str reason):
    # Our own word, where a frame may stand.
    cdef bytes frame
    if not x.tunnel.server.closed and x.tunnel.server.left == 0:
        frame = websocket.close_frame(code, reason, None)
        x.downstream.send(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))


cdef void close_server(Exchange x, int code, str reason):
    cdef bytes frame
    if x.upstream is not None and not x.tunnel.client.closed and x.tunnel.client.left == 0:
        frame = websocket.close_frame(code, reason, x.gateway.random())
        x.upstream.send(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))


cdef void break_off(Exchange x, int code, bint by_client):
    """A frame that can't be let through: both sides are told why."""
    cdef str reason = "not a frame that may stand here"
    if code == CLOSE_TOO_BIG:
        reason = f"a message is larger than websocket_max_message_mb ({x.table.websocket_message / 1048576:g})"
    if by_client:
        close_client(x, code, reason)
        close_server(x, CLOSE_GOING_AWAY, "")
    else:
        x.flags |= E_CUT
        x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
        close_client(x, code if code == CLOSE_TOO_BIG else CLOSE_BAD_GATEWAY, "the upstream sent " + reason
                     if code != CLOSE_TOO_BIG else reason)
        close_server(x, code, reason)
    end_tunnel(x)


cdef void end_tunnel(Exchange x):
    """Settle, and let both sides go once they have what was sent."""
    cdef Downstream d = x.downstream
    settle(x)
    let_upstream_go(x)
    x.become(S_DONE)
    d.exchange = None
    d.finish(True)
    x.gateway.give_exchange(x)


cdef void let_upstream_go(Exchange x):
    cdef Upstream u = x.upstream
    x.upstream = None
    if u is None:
        return
    u.exchange = None
    u.pool.active -= 1
    if u.out.size:
        u.abort()                  # it does not read: nobody would wait for it
    else:
        u.close()
    freed(u.gateway, u.pool)


cdef void tunnel_idle(Exchange x):
    """The deadline has passed: nobody said anything, or one side did not answer the other's Close."""
    cdef str reason
    if x.tunnel.close_until == 0.0:
        reason = f"nothing was sent for {x.table.websocket_idle:g} s (websocket_idle_timeout)"
        close_client(x, CLOSE_GOING_AWAY, reason)
        close_server(x, CLOSE_GOING_AWAY, reason)
    end_tunnel(x)


cdef void tunnel_drain(Exchange x):
    """The worker ends."""
    close_client(x, CLOSE_GOING_AWAY, "the gateway is going down")
    close_server(x, CLOSE_GOING_AWAY, "")
    end_tunnel(x)


cdef void review_tunnels(Gateway g, set changed):
    """Sessions of keys that have changed (digests): who may not come in now may not stay."""
    cdef Downstream d
    cdef KeyRecord key
    cdef Exchange x
    for d in list(g.connections):
        x = d.exchange
        if x is None or x.state != S_TUNNEL or x.key is None or x.key.digest not in changed:
            continue
        key = <KeyRecord>g.table.keys.get(x.key.digest)
        if key is None or key.blocked or (key.expires and key.expires < time.time()) or not key.allows(x.model):
            close_client(x, CLOSE_POLICY, "the key is no longer valid for this session")
            close_server(x, CLOSE_GOING_AWAY, "")
            end_tunnel(x)
        else:
            x.key = key


cdef void tunnel_lost(Exchange x):
    """The upstream is gone; its Close, if it said one, is with the client."""
    if x.tunnel.client.closed:
        close_client(x, CLOSE_NORMAL, "")
    elif not x.tunnel.server.closed:
        x.flags |= E_CUT
        x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
        close_client(x, CLOSE_BAD_GATEWAY, "the upstream closed the connection")
    end_tunnel(x)


cdef void tunnel_gone(Exchange x):
    """The client is gone: so is the upstream, at once."""
    if not x.tunnel.client.closed and not x.tunnel.server.closed:
        x.gateway.block.counters[C_CLIENT_GONE] += 1
        x.flags |= E_CLIENT_GONE
        close_server(x, CLOSE_GOING_AWAY, "")
    let_upstream_go(x)
    settle(x)
    x.become(S_DONE)
    x.downstream.exchange = None
    x.gateway.give_exchange(x)
