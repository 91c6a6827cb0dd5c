# -- tries: what is counted for each, and what a failed one leads to


cdef inline unsigned int minute_of(Exchange x) noexcept:
    return <unsigned int>(x.gateway.now / 60.0)


cdef void enter_group(Exchange x, Group group):
    # Pairs with leave_group. The column is this worker's own: no atomic add is needed.
    x.group = group
    x.in_group = True
    x.gateway.traffic.in_flight[group.slot] += 1


cdef void leave_group(Exchange x):
    if x.in_group:
        x.in_group = False
        x.gateway.traffic.in_flight[x.group.slot] -= 1


cdef void begin_attempt(Exchange x):
    # Pairs with end_attempt.
    cdef Traffic t = x.gateway.traffic
    cdef int slot = x.deployment.slot
    if x.deployment.twin is not None and x.deployment.heads[x.plan.endpoint] is None:
        x.deployment = x.deployment.twin       # the same slot, limits and times; another way
    x.pool = x.deployment.pool
    x.in_attempt = True
    t.in_flight[slot] += 1
    if x.deployment.rpm or x.retries:
        window_add(&t.slots[slot].started, minute_of(x), 1)


cdef void end_attempt(Exchange x):
    release_own(x)
    if x.in_attempt:
        x.in_attempt = False
        x.gateway.traffic.in_flight[x.deployment.slot] -= 1
    if x.retrying:
        x.retrying = False
        x.gateway.traffic.retrying[x.group.slot] -= 1


cdef void finish_attempts(Exchange x, long long now):
    """The request is over: what the last try says about its deployment, and the counts given back."""
    cdef Traffic t = x.gateway.traffic
    cdef Slot* s
    cdef int strategy = x.table.router.strategy
    if x.in_attempt and x.status < 400:
        s = &t.slots[x.deployment.slot]
        window_add(&s.requests, minute_of(x), 1)
        if x.probe:
            t.recovered(x.deployment.slot)      # an answer that began before the cooldown says nothing
        if strategy == LATENCY_BASED and x.head_at:
            if x.stream:
                t.sample(x.deployment.slot, L_FIRST, (max(x.first_at, x.head_at) - x.sent_at) // 1000,
                         <unsigned int>x.gateway.now)
            else:
                t.sample(x.deployment.slot, L_ANSWER,
                         (now - x.sent_at) // (1000 * max(1, x.tap.usage.output_tokens if x.tapping else 1)),
                         <unsigned int>x.gateway.now)
        if (strategy == USAGE_BASED or x.deployment.enforce_rates) and x.tapping and x.tap.usage.seen:
            window_add(&s.tokens, minute_of(x), <unsigned int>(
                (x.tap.usage.input_tokens + x.tap.usage.output_tokens) & 0x7FFFFFFF))
    end_attempt(x)
    leave_group(x)


cdef bint note_failure(Exchange x, int status, int kind):
    """What a failed try says about its deployment: counted, and perhaps taken out of service for a while. Whether it was."""
    cdef Traffic t = x.gateway.traffic
    cdef Deployment d = x.deployment
    cdef Router router = x.table.router
    cdef Slot* s = &t.slots[d.slot]
    cdef unsigned int requests = window_add(&s.requests, minute_of(x), 1), fails
    cdef long long allowed = d.allowed_fails
    cdef double seconds = d.cooldown
    if router.strategy == LATENCY_BASED and kind == X_TIMEOUT:
        t.sample(d.slot, L_FIRST if x.stream else L_ANSWER, 1000000000, <unsigned int>x.gateway.now)
    # A connection that did not come about says little; at the end of a cooldown it says enough.
    if kind == X_CONNECT and s.cooling_until == 0 or kind != X_CONNECT and not counts_against(status):
        return False
    fails = window_add(&s.fails, minute_of(x), 1)
    if not router.cooldowns:
        return False
    if d.fails_by_class[kind] >= 0:
        allowed = d.fails_by_class[kind]
        fails = window_add(&s.fails_by_class[kind], minute_of(x), 1)
    if s.cooling_until == 0 and not should_cool(status, fails, requests, len(x.group.deployments),
                                                x.group.has_fallbacks, allowed):
        return False
    if status == 429 and asked_delay(x, LONGEST_ASKED) > seconds:
        seconds = asked_delay(x, LONGEST_ASKED)
    if seconds <= 0.0:
        return False
    t.cool(d.slot, monotonic_ns() + <long long>(seconds * 1e9))
    x.gateway.block.counters[C_COOLDOWNS] += 1
    x.gateway.log.warning("deployment %s of %s is out of service for %g s: %s", d.id[:12], d.group, seconds,
                          "no connection" if kind == X_CONNECT else f"status {status}")
    return True


cdef double asked_delay(Exchange x, double instead):
    """Seconds that the upstream asked to wait (RFC 9110 10.2.3), `instead` of more than a minute; 0: it did not say."""
    cdef bytes text = x.retry_after
    cdef double seconds
    if text is None:
        return 0.0
    if text.replace(b".", b"", 1).isdigit():
        seconds = float(text)
    else:
        seconds = errors.seconds_until(text, (monotonic_ns() + x.gateway.wall_offset) * 1e-9)
    return seconds if seconds <= LONGEST_ASKED else instead


cdef bint try_again(Exchange x, int status, int kind):
    """A try has failed, and nothing of it reached the client. True: the request goes on another way.

    The upstream connection is given back or dropped already. False: the failure is the client's to see.
    """
    cdef Group group = x.group
    cdef bint may
    if x.deployment is None or not x.in_attempt:
        return False
    settle_attempt(x, status, kind, note_failure(x, status, kind))
    spent_elsewhere(x)
    end_attempt(x)
    if x.let_go:
        return False
    may = retryable(status, kind, len(group.deployments)) or group.policy[kind] > 0
    if (kind == X_CONTEXT or kind == X_CONTENT) and fallback_names(x, kind) is not None:
        may = False
    if not x.body_complete:
        # The body still arrives: what is known of it is kept, and it goes elsewhere once it is complete.
        if may and x.retries < tries_left(x, group, kind):
            x.retries += 1
        elif fallback_names(x, kind):
            x.owed = kind
        else:
            return False
        mark_tried(x)
        forget_answer(x)
        return take_back(x, True)
    mark_tried(x)
    if may and x.retries < tries_left(x, group, kind) and retry(x, kind):
        return True
    return fall_back(x, kind)


cdef void mark_tried(Exchange x):
    if x.tried is None:
        x.tried = []
    x.tried.append(x.deployment if x.deployment.main is None else x.deployment.main)


cdef int tries_left(Exchange x, Group group, int kind):
    """How often a request may be tried again for this kind of failure: the request's word, a policy's, the group's."""
    if x.num_retries >= 0:
        return x.num_retries
    return group.policy[kind] if group.policy[kind] >= 0 else group.retries


cdef bint retry(Exchange x, int kind):
    """Another try in the same group: at once on another deployment, after a pause on the same."""
    cdef Traffic t = x.gateway.traffic
    cdef Group group = x.group
    cdef Deployment d
    cdef double delay = 0.0
    if not may_amplify(t.total_retrying(group.slot), t.total_in_flight(group.slot)):
        x.gateway.block.counters[C_RETRIES_REFUSED] += 1
        return False
    d = choose(x, True)
    if d is None:
        return False
    if d in x.tried:
        if kind == X_RATE and group.has_fallbacks and not x.no_fallbacks:
            return False
        delay = back_off(x.retries, max(x.table.router.retry_after, asked_delay(x, 0.0)), x.gateway.random())
    if out_of_time(x, delay) or not reserve_next(x):
        return False
    x.retries += 1
    x.retrying = True
    t.retrying[group.slot] += 1
    x.gateway.block.counters[C_RETRIES] += 1
    x.deployment = d
    if delay > 0.0:
        x.become(S_PAUSE)
        x.sent_at = monotonic_ns()            # not our time either, as that of a try
        x.downstream.deadline = x.gateway.now + delay
    else:
        launch(x)
    return True


cdef void spent_elsewhere(Exchange x):
    # Since a try was sent, or a pause began.
    if x.sent_at:
        x.elsewhere += monotonic_ns() - x.sent_at
        x.sent_at = 0


cdef bint out_of_time(Exchange x, double delay):
    return x.total_until > 0.0 and x.gateway.now + delay >= x.total_until


cdef void end_pause(Exchange x):
    cdef Deployment d = choose(x, True)      # what was fit before the pause may not be now
    spent_elsewhere(x)
    if d is not None:
        x.deployment = d
    launch(x)


cdef void launch(Exchange x):
    """One more try, from the body that was kept."""
    x.edited = None
    x.early = x.joined = False
    x.extra = x.sent = 0
    forget_answer(x)
    begin_attempt(x)
    if prepare_body(x):
        acquire_upstream(x)


cdef void forget_answer(Exchange x):
    x.status = x.interim = 0
    x.head_at = x.answer_size = 0
    x.tapping = x.error_answer = False
    x.left_requests = x.left_tokens = 0
    x.retry_after = x.content_type = None
    x.answer_keep_alive = False


cdef list fallback_names(Exchange x, int kind):
    """The groups that this kind of failure leads to, or None."""
    cdef Router router = x.table.router
    names = x.group.names()
    if x.no_fallbacks:
        return None
    if kind == X_CONTEXT or kind == X_CONTENT:
        special = router.named("context" if kind == X_CONTEXT else "content", names)
        if special is not None:
            return special
    if x.asked_fallbacks is not None:
        return x.asked_fallbacks
    return router.named("fallbacks", names)


cdef bint fall_back(Exchange x, int kind):
    """The next group that the configuration or the request names for this failure, if there is one."""
    cdef Group group
    cdef Deployment d
    cdef int limit = x.table.router.max_fallbacks
    cdef bint may
    names = fallback_names(x, kind) if x.group is not None else None
    if x.pending is None:
        if not names:
            return False
        x.pending, x.visited = [], set(x.group.names())
    if names:
        x.pending = [*names, *x.pending]      # those of the group that failed come before what is left
    while x.pending and x.fallbacks < limit and not out_of_time(x, 0.0):
        name = x.pending.pop(0)
        if name in x.visited:
            continue
        x.visited.add(name)
        group = x.table.group(name.encode())
        if group is None:
            continue
        x.fallbacks += 1
        leave_group(x)
        enter_group(x, group)
        may = change_group(x, name.encode())
        x.tried = None
        x.retries = 0
        d = choose(x, False) if may else None
        if d is None:
            further = fallback_names(x, X_INTERNAL)
            if further:
                x.pending = [*further, *x.pending]
            continue
        x.gateway.block.counters[C_FALLBACKS] += 1
        x.flags |= E_FALLBACK
        x.deployment = d
        launch(x)
        return True
    return False
