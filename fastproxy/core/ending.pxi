# -- settlement, and what happens when it goes wrong


cdef void conclude(Exchange x):
    """After the last bytes of the answer: both connections are free."""
    cdef Downstream d = x.downstream
    cdef bint answered_early = not x.body_complete
    release_upstream(x)
    # The downstream goes on with the next request, drains what is left of this one, or closes.
    if answered_early:
        x.become(S_DRAIN)
        d.start_drain()
        return
    x.become(S_DONE)
    d.exchange = None
    d.after_exchange(x.close_out)
    x.gateway.give_exchange(x)


cdef void release_upstream(Exchange x):
    """The answer is over: its connection serves again if nothing speaks against it."""
    cdef Upstream u = x.upstream
    x.upstream = None
    if u is None:
        return
    if x.answer_keep_alive and x.body_complete and u.fd >= 0 and request_sent(x) \
            and (x.answer_left == 0 or x.answer_chunked):
        give_upstream(u)
    else:
        drop_upstream(u)


cdef bint request_sent(Exchange x):
    # once it is, the body may be gone
    if x.let_go:
        return True
    return x.sent >= x.request.size + (0 if x.joined else <Py_ssize_t>upstream_length(x))


cdef void settle(Exchange x):
    """Counters and the usage event. Once per exchange."""
    cdef Block block = x.gateway.block
    cdef bint estimated, partly = False, resting = False
    cdef long long cost, money
    block.counters[C_IN_FLIGHT] -= 1
    if x.attempts and (x.state == S_PAUSE or x.state == S_WAIT or x.state == S_BODY):
        resting = True                     # the client left between two tries, which have events of their own
        x.tapping = False
        x.characters = 0
    estimated = x.attempts and not resting and not told(x) and (x.status < 400 or x.status == 499) \
        and x.key is not None and x.plan.kind != PLAN_TUNNEL and x.plan.endpoint not in (EP_COUNT, EP_COUNT_TOKENS, EP_MODERATIONS)
    if estimated and x.input_estimate < 0:
        x.input_estimate = estimate_input(x)
    if x.flags & (E_CUT | E_CLIENT_GONE):
        partly = told_partly(x)
    cost = cost_of(x, estimated)
    if cost > 0 and x.deployment.budgets is not None:
        charge_deployment(x, cost)
    if x.in_group:
        finish_attempts(x, monotonic_ns())     # behind the charge, so that nothing is free in between
    if x.admitted:
        give_place(x)
    if x.status < 400:
        block.counters[C_2XX] += 1
    elif x.status < 500:
        block.counters[C_4XX] += 1
    else:
        block.counters[C_5XX] += 1
    if x.plan is not None and x.plan.endpoint != EP_COUNT and x.key is not None:
        settle_event(x, cost, estimated or partly)
    money = max(0, cost) + x.lost_cost
    if money and x.key is not None and (x.key.retired or x.table is not x.gateway.table):
        charge_anew(x, money)
    if x.n_holds or x.group_hold.held:         # behind the event: without a hold, a counter may leave
        if x.output_expected >= 0 and x.tapping and x.tap.usage.seen and x.status < 400 and not partly:
            learn_usage(x)
        settle_limits(x, used_tokens(x, estimated) + x.lost_tokens, money)


cdef void settle_event(Exchange x, long long cost, bint estimated):
    """What became of the request, in the ring."""
    cdef long long now = monotonic_ns(), started_ns
    cdef Event* e = begin_event(x, now)
    if x.head_at:
        e.first_byte_us = <unsigned int>(((x.first_at if x.stream and x.first_at else x.head_at) - x.started) // 1000)
        e.overhead_us = <unsigned int>((own_time(x) + (0 if x.stream else now - x.head_at)) // 1000)
    e.status = <unsigned short>x.status
    e.flags = x.flags | (E_STREAM if x.stream else 0)
    tell_usage(x, e, estimated)
    e.cost = cost
    e.queued_us = x.queued_us
    e.elsewhere_us = <unsigned int>(x.elsewhere // 1000)
    e.left_requests, e.left_tokens = x.left_requests, x.left_tokens
    started_ns = e.started_ns
    publish(x)
    if x.question is not None:
        tell_texts(x, started_ns)


cdef inline long long own_time(Exchange x) noexcept:
    # Nanoseconds until the last try was sent that nobody else has taken.
    return max(<long long>0, x.sent_at - x.started - x.elsewhere)


cdef void tell_usage(Exchange x, Event* e, bint estimated) noexcept:
    # What the last try used, as far as it is known.
    if estimated:
        e.flags |= E_ESTIMATED
    if x.tapping and x.tap.usage.seen:
        e.input_tokens = summable(x.tap.usage.input_tokens)
        e.output_tokens = summable(x.tap.usage.output_tokens)
        e.cached_tokens = summable(x.tap.usage.cached_tokens)
        e.cache_write_tokens = summable(x.tap.usage.cache_write_tokens)
        e.reasoning_tokens = summable(x.tap.usage.reasoning_tokens)
        e.audio_input_tokens = summable(x.tap.usage.audio_input_tokens)
        e.audio_output_tokens = summable(x.tap.usage.audio_output_tokens)
        return
    e.flags |= E_NO_USAGE
    if estimated:
        e.input_tokens = x.input_estimate
        e.output_tokens = output_estimate(x)


cdef inline long long summable(long long tokens) noexcept nogil:
    # What upstreams claim must not overflow the sums of a ring or of a day.
    return min(tokens, <long long>1 << 40)


cdef Event* begin_event(Exchange x, long long now):
    """The event that `publish` makes known: it says whose request this is, and nothing of what became of it."""
    cdef Event* e = x.gateway.block.claim()
    if x.flight == NULL:
        describe_event(x, e)
    else:
        memcpy(e, x.flight, <char*>e.end_user - <char*>e)
        e.sequence = 0
        e.flags = 0
        e.status = 0
        e.input_tokens = e.output_tokens = e.cost = 0
        e.attempts = <unsigned char>x.attempts
        if x.end_user_size or x.agent_size:
            describe_client(x, e)
    e.duration_us = <unsigned int>((now - x.started) // 1000)
    return e


cdef void publish(Exchange x):
    """The event that was claimed last; it takes the place of what would have been charged for the try under way."""
    if x.flight == NULL:
        x.gateway.block.publish()
    else:
        x.gateway.block.land(x.flight)
        x.flight = NULL


cdef void take_off(Exchange x):
    """A try begins: what it is to be charged if nobody is left to say what became of it."""
    cdef Event* e = x.flight
    count_pieces(x)
    if x.key is None or x.plan.kind == PLAN_TUNNEL or x.plan.kind == PLAN_CONTROL \
            or x.plan.endpoint in (EP_COUNT, EP_COUNT_TOKENS, EP_MODERATIONS):
        return
    if e == NULL:
        e = x.flight = x.gateway.block.depart()
        if e == NULL:
            return
    blank(e)
    e.status = 500
    e.flags = E_CUT | E_NO_USAGE | E_ESTIMATED | (E_STREAM if x.stream else 0)
    e.input_tokens = x.input_estimate
    if x.input_estimate < 0:
        e.input_tokens = x.body.size // 4 + 1 if x.body.size < LOOKED_INTO else estimate_input(x)
    e.output_tokens = unseen_output(x, e.input_tokens)
    e.cost = -1
    if priced(x):
        e.cost = x.deployment.prices.of_tokens(e.input_tokens, e.output_tokens) \
            + x.deployment.prices.of_pieces(x.images, x.characters)
    describe_event(x, e)
    e.sequence = FLYING


cdef void describe_event(Exchange x, Event* e):
    """What an event says of its request, whatever became of it."""
    cdef Py_ssize_t size
    cdef const char* peer
    e.started_ns = x.started + x.gateway.wall_offset
    e.snapshot = <unsigned int>x.table.version
    e.deployment = x.deployment.index if x.deployment is not None else -1
    e.endpoint = <unsigned char>x.plan.endpoint
    e.attempts = <unsigned char>x.attempts
    memcpy(e.key_digest, PyBytes_AS_STRING(x.key.digest), 32)
    if x.call_id is None:                     # no head has gone to the client yet
        x.call_id = new_call_id(x)
    e.call_id_size = <unsigned char>min(CALL_ID_MOST, PyBytes_GET_SIZE(x.call_id))
    memcpy(e.call_id, PyBytes_AS_STRING(x.call_id), e.call_id_size)
    if x.model is not None:
        size = min(MODEL_MOST, PyBytes_GET_SIZE(x.model))
        memcpy(e.model, PyBytes_AS_STRING(x.model), size)
        e.model_size = <unsigned char>size
    if x.downstream is not None and x.downstream.peer is not None:
        peer = PyUnicode_AsUTF8AndSize(x.downstream.peer, &size)
        e.client_size = <unsigned char>min(46, size)
        memcpy(e.client, peer, e.client_size)
    if x.asked_tags is not None or x.key.tags is not None:
        tags = x.key.tags_text if x.asked_tags is None else joined_tags(tags_of(x))
        e.tags_size = <unsigned char>len(tags)
        memcpy(e.tags, PyBytes_AS_STRING(tags), e.tags_size)
    if x.traced:
        e.trace_size = 32
        memcpy(e.trace_id, x.trace_id, 32)
    e.wishes = x.wishes
    if x.end_user_size or x.agent_size:
        describe_client(x, e)


cdef void describe_client(Exchange x, Event* e) noexcept:
    e.end_user_size, e.agent_size = x.end_user_size, x.agent_size
    memcpy(e.end_user, x.end_user, x.end_user_size)
    memcpy(e.agent, x.agent, x.agent_size)


cdef void settle_attempt(Exchange x, int status, int kind, bint cooled):
    """A try that has failed: an event of its own. If its upstream may have begun to work and did not answer with an error,
    what it may have cost is estimated, and is the request's to pay."""
    cdef Event* e
    cdef bint worked = (kind == X_TIMEOUT or kind == X_CONNECT) and x.sent > 0 or x.head_at and not x.error_answer
    cdef long long cost = 0
    if x.plan.endpoint == EP_COUNT or x.key is None:
        return
    if x.plan.endpoint in (EP_COUNT_TOKENS, EP_MODERATIONS) or x.plan.kind == PLAN_TUNNEL:
        worked = False                        # free, or nothing was said yet
    if worked:
        if x.input_estimate < 0:
            x.input_estimate = estimate_input(x)
        told_partly(x)
        cost = cost_of(x, True)
        x.lost_tokens += used_tokens(x, True)
        x.lost_cost += max(0, cost)
        if cost > 0 and x.deployment.budgets is not None:
            charge_deployment(x, cost)
    e = begin_event(x, monotonic_ns())
    e.status = <unsigned short>status
    e.flags = E_ATTEMPT | (E_STREAM if x.stream else 0) | (E_COOLED if cooled else 0) | (x.flags & E_FALLBACK)
    e.left_requests, e.left_tokens = x.left_requests, x.left_tokens
    if worked:
        tell_usage(x, e, True)
    else:
        e.flags |= E_NO_USAGE
    e.cost = cost
    publish(x)


cdef void charge_deployment(Exchange x, long long cost):
    cdef Gate gate
    for gate in x.deployment.budgets:
        x.gateway.limits.charge(gate, wall_of(x), cost)


cdef long long used_tokens(Exchange x, bint estimated):
    """Of the last try: what the upstream said, else an estimate from the bytes that went by, else nothing."""
    if x.tapping and x.tap.usage.seen:
        return x.tap.usage.input_tokens + x.tap.usage.output_tokens
    return x.input_estimate + output_estimate(x) if estimated else 0


cdef inline bint priced(Exchange x):
    # what follows from a stored response was paid with it
    return x.deployment is not None and x.deployment.prices.known \
        and (x.plan.kind != PLAN_PASS or x.plan.deployment is not None)


cdef inline bint makes_images(Exchange x) noexcept:
    return x.plan.endpoint == EP_IMAGES_GENERATIONS or x.plan.endpoint == EP_IMAGES_EDITS


cdef void count_pieces(Exchange x):
    """How many images a try is to make, how long the text is that it is to speak: what has a price by the piece."""
    x.images = x.characters = 0
    if x.deployment is not None:
        if x.deployment.prices.image and makes_images(x):
            x.images = answers_asked(x)
        elif x.deployment.prices.character and x.plan.endpoint == EP_AUDIO_SPEECH:
            x.characters = spoken_characters(x)


cdef long long spoken_characters(Exchange x):
    # Of `input`; at most the bytes of a body that is not here yet.
    cdef Field* f = &x.scan.fields[F_INPUT]
    cdef Py_ssize_t at = f.start + 1
    cdef long long count = 0
    cdef const char* p = x.body.data
    if not x.body_complete:
        return x.content_length
    if f.kind != 115:                         # 's'
        return 0
    while at < f.end - 1:
        if p[at] != 92:                       # a backslash
            count += (p[at] & 0xC0) != 0x80
            at += 1
        elif p[at + 1] != 117:                # 'u'
            count += 1
            at += 2
        else:                                 # the second half of a pair is no character of its own
            count += not ((p[at + 2] | 0x20) == 100 and 99 <= (p[at + 3] | 0x20) <= 102)
            at += 6
    return count


cdef inline bint told(Exchange x) noexcept:
    """Whether it is known what the last try used: by its answer, or because the price is not about what that tells."""
    if x.tapping and x.tap.usage.seen:
        return True
    if x.status >= 400 and x.status != 499 or x.deployment is None:
        return False
    return x.characters > 0 or x.tapping and x.tap.usage.images > 0 and x.deployment.prices.image


cdef long long cost_now(void* whose, const Usage* usage) noexcept with gil:
    # What goes into the usage of a stream; what is settled is the same where this is its last word.
    cdef Exchange x = <Exchange>whose
    return x.deployment.prices.of_usage(&x.tap.usage, x.plan.endpoint == EP_MESSAGES, monotonic_ns() - x.started)


cdef long long cost_of(Exchange x, bint estimated):
    """Nano-dollars of the last try; -1: its deployment has no price."""
    cdef Usage* usage = &x.tap.usage
    cdef Usage assumed
    if x.status >= 400 and not estimated and not (x.tapping and usage.seen):
        return 0                              # a refusal or an error: of whatever has no price, too
    if not priced(x):
        return -1
    if not (x.tapping and usage.seen):
        if not estimated and not told(x):
            return 0
        memset(&assumed, 0, sizeof(Usage))
        if estimated:
            assumed.input_tokens, assumed.output_tokens = x.input_estimate, output_estimate(x)
        assumed.images = x.tap.usage.images if x.tapping and not estimated else x.images
        assumed.characters = x.characters
        usage = &assumed
    return x.deployment.prices.of_usage(usage, x.plan.endpoint == EP_MESSAGES, monotonic_ns() - x.started)


cdef bint told_partly(Exchange x):
    """Whether the last try broke off behind an event that told what it had used until then (Anthropic's first one does):
    what came since is added to that, as an estimate."""
    cdef AnswerTap tap = x.tap
    if not (x.tapping and x.stream and tap.usage.seen) or tap.done_seen or tap.told_at == tap.events:
        return False
    tap.usage.output_tokens = max(tap.usage.output_tokens, output_estimate(x))
    return True


cdef long long output_estimate(Exchange x):
    """Tokens of an answer that broke off: an event of a stream carries one at least, and about one for four bytes of text."""
    cdef AnswerTap tap = x.tap
    cdef long long frame, said
    if x.plan.endpoint not in (EP_CHAT, EP_COMPLETIONS, EP_RESPONSES, EP_MESSAGES, EP_GENERATE_CONTENT,
                               EP_STREAM_GENERATE_CONTENT, EP_STREAM_GENERATE_CONTENT_ARRAY):
        return 0
    if not x.head_at:
        return unseen_output(x, x.input_estimate)
    if not x.tapping or tap.events == 0 and tap.said == 0:
        said = max(x.answer_size, x.held.size) // 4              # not understood, or nothing of its text has come
    elif tap.events == 0:
        said = max(1, (tap.said - FRAME_CHAT) // 4)              # a document
    elif x.plan.endpoint == EP_RESPONSES:
        said = max(tap.events, tap.delta_bytes // 4)
    else:
        # Names and words that stand in each event. The first one of a chat is such a frame, if it has no text yet.
        frame = FRAME_MESSAGES if x.plan.endpoint == EP_MESSAGES else FRAME_GOOGLE if x.plan.google \
            else min(tap.said_first, FRAME_CHAT)
        said = max(tap.events, (tap.said - frame * tap.events) // 4)
    return min(said, x.output_most) if x.output_most > 0 else said


cdef inline bint may_repeat(Exchange x) noexcept:
    # Control may have died behind its work, and not just closed an idle connection.
    return x.plan.kind != PLAN_CONTROL or x.method_line is None or x.method_line.startswith((b"GET ", b"HEAD "))


cdef void on_upstream_lost(Exchange x, Upstream u):
    x.upstream = None
    if x.state == S_SENT:
        if u.reused and not u.answered and monotonic_ns() - x.sent_at < RACE_NS and may_repeat(x):
            # The upstream closed the pooled connection while our request was on its way: it has not seen
            # it (RFC 9112 9.3.1), so it goes out again, on a fresh connection. Later it had the request, and may have
            # acted on it.
            x.gateway.block.counters[C_RETRIES] += 1
            x.attempts -= 1
            wait_for_connection(x)
            return
        x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
        connect_failed(x, "closed")
    elif x.state == S_HOLD:
        if x.peeking and x.answer_left < 0 and not x.answer_chunked and not u.error and x.tap.done_seen:
            x.tap.finish(&x.held)
            end_peek(x, True)
        elif x.answer_left < 0 and not x.answer_chunked and not u.error and not x.peeking:
            x.answer_keep_alive = False
            held_complete(x, x.held.data, x.held.size)
        else:
            x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
            x.peeking = False
            connect_failed(x, "cut")
    elif x.state == S_RELAY:
        if x.answer_left < 0 and not x.answer_chunked and not u.error:
            end_of_close_delimited(x)
        else:
            x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
            cut_answer(x, NULL, False, "the upstream closed the connection in the middle of its answer")
    elif x.state == S_TUNNEL:
        tunnel_lost(x)


cdef void end_of_close_delimited(Exchange x):
    cdef Buffer* body = &x.gateway.tapped
    x.answer_keep_alive = False
    buf_clear(body)
    if x.tapping:
        x.tap.finish(body)
    emit_answer(x, body.data, body.size, False, True)


cdef void cut_answer(Exchange x, Buffer* body, bint first, str why):
    """The answer can't be completed: an in-band error event in a stream, else a visible cut."""
    cdef Buffer* out = &x.gateway.out
    cdef bytes event
    if first:
        bad_answer(x, why)           # nothing of it has gone out
        return
    if x.story is not None and x.state == S_RELAY and carry_on(x, body):
        return
    x.flags |= E_CUT
    x.answer_keep_alive = False
    if x.content_type is not None and x.content_type.startswith(b"text/event-stream"):
        name = "litellm.APIConnectionError: APIConnectionError: "
        event = errors.stream_event(why if x.plan.anthropic else name + why, 500, x.plan.anthropic,
                                    x.plan.endpoint == EP_RESPONSES)
        if body != NULL and body.size:
            event = body.data[:body.size] + event
        emit_answer(x, PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event), False, True)
        return
    x.close_out = True
    # no last chunk, a length not reached: the client sees that it is not whole
    if body != NULL and body.size:
        emit_answer(x, body.data, body.size, False, False)
    settle(x)
    end_abruptly(x)


cdef bint carry_on(Exchange x, Buffer* body):
    """A stream of text has broken off: another deployment goes on with it. False: nobody can."""
    cdef Upstream u = x.upstream
    cdef bytes told
    if body != NULL and body.size:
        told = x.story.feed(body.data[:body.size])
        if told:
            emit_answer(x, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), False, False)
        body.size = 0
    if not x.story.resumable() or x.downstream.nobody:
        return False
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    x.story.next()
    x.resumed = True
    if try_again(x, 500, X_CONNECT):
        return True
    x.resumed = False
    return False


cdef void end_story(Exchange x, str why):
    """Nobody went on with it: the client's stream ends with an error event."""
    cdef bytes event
    cdef Upstream u = x.upstream
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    name = "" if x.plan.anthropic else "litellm.APIConnectionError: APIConnectionError: "
    event = errors.stream_event(name + why, 500, x.plan.anthropic)
    x.status = 200
    x.stream = True
    x.flags |= E_CUT
    x.answer_keep_alive = False
    emit_answer(x, PyBytes_AS_STRING(event), PyBytes_GET_SIZE(event), False, True)


cdef void end_abruptly(Exchange x):
    cdef Downstream d = x.downstream
    cdef Upstream u = x.upstream
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    x.become(S_DONE)
    d.exchange = None
    d.finish(False)
    x.gateway.give_exchange(x)


cdef void bad_answer(Exchange x, str why):
    cdef Upstream u = x.upstream
    x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    x.peeking = False
    if try_again(x, 502, X_INTERNAL):
        return
    x.head_at = 0
    x.tapping = False                  # the try has paid for itself
    refuse(x, 502, None, f"litellm.BadGatewayError: {why}", None)


cdef void on_timeout(Exchange x):
    """The deadline of the upstream's answer has passed."""
    cdef Upstream u = x.upstream
    cdef double limit
    if x.peeking and x.hold_ends:
        end_peek(x, False)            # held for long enough: the client gets its head and what there is
        return
    x.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
    if x.state == S_RELAY:
        cut_answer(x, NULL, False, "the request took longer than total_timeout" if out_of_time(x, 0.0) else
                   "the control plane did not go on" if x.deployment is None else
                   f"the upstream sent nothing for {x.deployment.idle_timeout:g} s (stream_idle_timeout, the limit "
                   "between two events)")
        return
    x.peeking = False
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    if x.deployment is None and x.plan.kind != PLAN_PASS:
        refuse(x, 504, "service_unavailable", "The control plane did not answer in time")
        return
    limit = answer_limit(x)
    if try_again(x, 408, X_TIMEOUT):
        return
    refuse(x, 408, None,
           f"litellm.Timeout: APITimeoutError - Request timed out. Error_str: Request timed out. - "
           f"timeout value={limit} ({limit_name(x)})", None, "", f"x-litellm-timeout: {limit}\r\n".encode())


cdef str limit_name(Exchange x):
    if out_of_time(x, 0.0):
        return "total_timeout, over all tries"
    if x.tunnel is not None:
        return "timeout or stream_timeout: the WebSocket's handshake was not answered"
    if x.stream and (x.stream_timeout > 0.0 or x.timeout == 0.0):
        return "stream_timeout: no first token came"
    return "timeout: no answer came"


cdef bint drain_exchange(Exchange x):
    """The client is gone, and the configuration says to finish what was begun, for its usage. False: it can't be."""
    cdef Downstream d
    if not x.table.router.drain or x.upstream is None or not x.in_attempt or not x.body_complete \
            or push_request(x) or x.state not in (S_SENT, S_HOLD, S_RELAY):
        return False
    x.flags |= E_CLIENT_GONE
    x.gateway.block.counters[C_CLIENT_GONE] += 1
    x.let_go = True                       # nobody is left to try again for
    d = Downstream.__new__(Downstream)    # nobody: takes everything and keeps nothing
    d.nobody = True
    d.gateway = x.gateway
    d.peer = ""
    d.exchange = x
    d.deadline = x.downstream.deadline
    x.gateway.connections.add(d)
    x.downstream.exchange = None
    x.downstream = d
    x.upstream.resume()                   # it may have been paused for the client's sake
    return True


cdef void client_gone(Exchange x):
    """The client closed: the upstream connection is closed at once, tokens cost money."""
    cdef Upstream u = x.upstream
    if x.state == S_TUNNEL:
        tunnel_gone(x)
        return
    if x.tunnel is None and drain_exchange(x):
        return
    u = x.upstream
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    if x.state == S_WAIT:
        stop_waiting(x)
    elif x.state == S_QUEUE:
        leave_queue(x)
    if x.state != S_DRAIN:
        x.gateway.block.counters[C_CLIENT_GONE] += 1
        x.flags |= E_CLIENT_GONE
        if x.status == 0:
            x.status = 499
        settle(x)
    x.become(S_DONE)
    x.downstream.exchange = None
    x.gateway.give_exchange(x)


cdef void refuse_close(Exchange x, int status, str kind, str message, str param=None):
    """An answer after which the framing of the connection is not to be relied on."""
    cdef Upstream u = x.upstream
    x.upstream = None
    if u is not None:
        drop_upstream(u)
    if x.state == S_WAIT:
        stop_waiting(x)
    if x.state == S_RELAY:
        settle(x)
        end_abruptly(x)
        return
    x.close_out = True
    x.keep_alive = False
    refuse(x, status, kind, message, param)


cdef void refuse(Exchange x, int status, str kind, str message, str param=None, str code="", bytes lines=b""):
    """Our own error answer, in the shape of the route."""
    cdef bint anthropic = x.plan is not None and x.plan.anthropic
    if x.resumed:
        end_story(x, message)
        return
    answer_fixed(x, status, errors.google_body(status, message) if x.plan is not None and x.plan.google
                 else errors.body(status, message, kind, param, anthropic, code),
                 b"content-type: application/json\r\n" + lines)


cdef void answer_fixed(Exchange x, int status, bytes body, bytes lines):
    cdef Buffer* out = &x.gateway.out
    x.status = status
    x.stream = False
    if not x.body_complete and not drainable(x):
        x.close_out = True
    buf_clear(out)
    add_head(x, out, status, PyBytes_AS_STRING(lines), PyBytes_GET_SIZE(lines), PyBytes_GET_SIZE(body))
    settle(x)
    write_client(x, out, PyBytes_AS_STRING(body), 0 if x.head_request else PyBytes_GET_SIZE(body), 0)
    conclude(x)


cdef bint drainable(Exchange x):
    # What is left of the body is known and small: read on and keep the connection.
    return not x.request_chunked and x.content_length - x.body.size <= MAX_PIPELINED \
        and x.keep_alive and not x.close_out
