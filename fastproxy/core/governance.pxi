# -- step 6: limits and budgets: reserve before the first try, settle at the end


cdef inline bint govern(Exchange x):
    """Reserves what the request needs of the limits of its key. False: answered already."""
    if x.governed or PyTuple_GET_SIZE(x.key.gates) == 0 and (x.group is None or x.group.gate is None or x.key.master):
        return True
    return pass_gates(x)


cdef bint pass_gates(Exchange x):
    cdef Limits limits = x.gateway.limits
    cdef Gate gate
    cdef long long now = window_now(x)
    cdef long long wall = wall_of(x)
    cdef long long tokens = -1, money = -1
    cdef int why
    x.governed = True
    if x.gateway.block.full():
        refuse(x, 503, "service_unavailable", "What requests cost can't be written now, so keys with limits have to wait",
               None, "", b"retry-after: 5\r\n")
        return False
    for gate in x.key.gates:
        if gate.model is not None and gate.model != x.model:
            continue
        if x.n_holds == MAX_GATES:
            unreserve(x)
            refuse(x, 503, "service_unavailable", f"A key may have at most {MAX_GATES} limits that concern one model")
            return False
        if gate.estimates and tokens < 0:
            x.input_estimate = estimate_input(x)
            if x.table.strict_limits and not bound_request(x, gate.tpm):
                return False
            tokens = x.input_estimate + expected_output(x, gate.tpm)
            money = at_most(x, tokens - x.input_estimate)
        why = limits.reserve(gate, &x.holds[x.n_holds], now, wall, max(0, tokens), money)
        if why != ADMITTED:
            unreserve(x)
            refuse_limit(x, gate, why)
            return False
        x.n_holds += 1
    if x.group is None or x.group.gate is None or x.key.master:
        return True
    why = reserve_group(x)
    if why == ADMITTED:
        return True
    unreserve(x)
    refuse_limit(x, x.group.gate, why)
    return False


cdef int reserve_group(Exchange x):
    """Reserves of the limit of the model group: ADMITTED or why not."""
    cdef Gate gate = x.group.gate
    cdef long long tokens = 0
    if gate.estimates:
        if x.input_estimate < 0:
            x.input_estimate = estimate_input(x)
        tokens = x.input_estimate + (x.output_expected if x.output_expected >= 0 else expected_output(x, gate.tpm))
    x.lost_before = x.lost_tokens
    return x.gateway.limits.reserve(gate, &x.group_hold, window_now(x), wall_of(x), tokens, 0)


cdef void release_group(Exchange x, long long tokens) noexcept:
    # Pairs with reserve_group. tokens: of all tries of the request.
    if x.group_hold.held:
        x.gateway.limits.give_back(&x.group_hold, max(<long long>0, tokens - x.lost_before), 0)


cdef bint change_group(Exchange x, bytes name):
    """The request goes on in another group, with that one's limit and prices. False: a limit does not let it in.

    name: of the group, as it is asked for."""
    if x.key is None or x.key.master:
        return True
    if x.group_hold.held and x.tried is None:
        x.gateway.limits.undo(&x.group_hold)       # it was not tried there
    release_group(x, x.lost_tokens)
    if x.group.gate is not None and reserve_group(x) != ADMITTED:
        x.unfit = U_RATE
        return False
    if not reserve_next(x):
        x.unfit = U_BUDGET
        return False
    return x.asked_fallbacks is None or reserve_model(x, name)


cdef bint reserve_next(Exchange x):
    """Reserves what the next try may cost, beside what was lost with those before it. False: nothing is left for it."""
    cdef int i
    cdef long long money = -1
    for i in range(x.n_holds):
        if x.holds[i].period:
            if money < 0:
                money = dearest(x, x.input_estimate, max(<long long>0, x.output_expected)) + x.lost_cost
            if not x.gateway.limits.reprice(&x.holds[i], money):
                return False
    return True


cdef bint reserve_model(Exchange x, bytes name):
    """The client has named another model itself: the key's limits of that one concern it, too. False: they don't let it in."""
    cdef Gate gate
    cdef int why
    cdef long long tokens = 0, money = 0
    for gate in x.key.gates:
        if gate.model is None or gate.model != name or name == x.model:
            continue
        if gate.estimates:
            if x.input_estimate < 0:
                x.input_estimate = estimate_input(x)
            tokens = x.input_estimate + expected_output(x, gate.tpm)
            money = at_most(x, tokens - x.input_estimate)
        why = NO_COUNTER
        if x.n_holds < MAX_GATES:
            why = x.gateway.limits.reserve(gate, &x.holds[x.n_holds], window_now(x), wall_of(x), tokens, money)
        if why != ADMITTED:
            x.unfit = U_BUDGET if why == OVER_BUDGET else U_RATE
            return False
        x.n_holds += 1
    return True


cdef inline long long window_now(Exchange x) noexcept:
    # In sixteenths of a second, of a clock that goes on while the machine sleeps.
    return <long long>((x.gateway.now + x.gateway.slept) * 16.0)


cdef bint bound_request(Exchange x, long long tpm):
    """`limit_mode: strict`: nothing of what the request costs is left open. False: answered already."""
    cdef bytes bounded = None
    try:
        if x.plan.kind != PLAN_LLM:
            raise ValueError(f"path\0limit_mode is strict and this key has a limit of tokens or money: what a request to "
                             f"{x.plan.path} costs can't be bounded")
        strict.judge(whole_body(x), ENDPOINTS[x.plan.endpoint])
        if has_output(x):
            judge_answers(x)
            bounded = with_maximum(x, max(<long long>1, affordable(x, expected_output(x, tpm)) // answers_asked(x)))
    except ValueError as error:
        name, _, text = str(error).partition("\0")
        unreserve(x)
        refuse(x, 400, "invalid_request_error", text, name)
        return False
    if bounded is not None:
        buf_clear(&x.body)
        x.scan.reset()
        if not keep_body(x, PyBytes_AS_STRING(bounded), PyBytes_GET_SIZE(bounded)):
            unreserve(x)
            return False
        asked_model(x)                        # where it stands now
    return True


cdef void judge_answers(Exchange x) except *:
    """How many answers are wanted has to be a number that can be read. Raises ValueError("field\0message")."""
    cdef Field found
    cdef int count
    if not x.plan.google:
        judge_multiplier(x, "n", &x.scan.fields[F_N])
        judge_multiplier(x, "best_of", &x.scan.fields[F_BEST_OF])
        return
    if x.scan.fields[F_GENERATION_CONFIG].kind not in (0, 111, 122):      # 'o'bject, 'z' null
        raise strict.fault("generationConfig", "it has to be an object")
    for name, other in (("maxOutputTokens", "max_output_tokens"), ("candidateCount", "candidate_count")):
        count = setting(x, name.encode(), other.encode(), &found)
        if count > 1:
            raise strict.fault(f"generationConfig.{name}", "it stands there twice")
    if count:
        judge_multiplier(x, "generationConfig.candidateCount", &found)


cdef void judge_multiplier(Exchange x, str name, Field* f) except *:
    if f.kind not in (0, 122) and not 1 <= number(x, f) <= ANSWERS_MOST:
        raise strict.fault(name, f"a whole number from 1 to {ANSWERS_MOST} is expected")


cdef bytes with_maximum(Exchange x, long long most):
    """The body with `most` as its maximum of output for each answer; None: it has one. No other byte of it changes."""
    cdef Field found[2]
    cdef Field* f
    cdef Field* config = &x.scan.fields[F_GENERATION_CONFIG]
    cdef bytes raw = whole_body(x), value
    cdef long long named = explicit_output(x)
    cdef int at, count = maxima(x, found), chosen
    cdef list edits = []
    value = b"%d" % (named if named > 0 else most)
    for at in range(count):
        f = &found[at]
        if f.kind not in (0, 122) and not 1 <= number(x, f) <= OUTPUT_MOST:
            edits.append((f.start, f.end, value))          # a maximum that is none
    if named < 0 and not edits:
        names = strict.MAXIMA[ENDPOINTS[x.plan.endpoint]]
        chosen = strict.preferred(names, [] if x.group is None else [(<Deployment>d).model for d in x.group.deployments])
        name = names[chosen]
        if count and found[chosen].kind:
            edits.append((found[chosen].start, found[chosen].end, value))       # null
        elif not x.plan.google:
            edits.append(strict.member(raw, x.scan.open_end, name, value))
        elif config.kind == 111:                           # 'o'
            edits.append(strict.member(raw, config.start + 1, name, value))
        else:
            value = b'{"%s":%s}' % (name.encode(), value)
            edits.append((config.start, config.end, value) if config.kind
                         else strict.member(raw, x.scan.open_end, "generationConfig", value))
    return strict.spliced(raw, edits) if edits else None


cdef long long affordable(Exchange x, long long output_tokens):
    """As many of these tokens as what is left of the budgets pays for."""
    cdef Gate gate
    cdef long long wall = wall_of(x)
    cdef long long least = dearest(x, x.input_estimate, 0)
    cdef long long more = dearest(x, x.input_estimate, output_tokens) - least
    cdef long long left = more
    for gate in x.key.gates:
        if gate.budget >= 0 and (gate.model is None or gate.model == x.model):
            left = min(left, x.gateway.limits.left(gate, wall) - least)
    return output_tokens if left >= more else <long long>(<double>output_tokens * max(<long long>0, left) / more)


cdef bint reserve_own(Exchange x, Deployment d):
    """Reserves of the budgets of a deployment and its provider. False: somebody else has taken what was left."""
    cdef Gate gate
    cdef long long money
    if x.input_estimate < 0:
        x.input_estimate = estimate_input(x)
    money = d.prices.at_most(x.input_estimate, expected_output(x, -1)) + pieces_at_most(x, d)
    for gate in d.budgets:
        if x.n_own_holds == MAX_OWN_GATES or x.gateway.limits.reserve(
                gate, &x.own_holds[x.n_own_holds], window_now(x), wall_of(x), 0, money) != ADMITTED:
            release_own(x)
            return False
        x.n_own_holds += 1
    return True


cdef void release_own(Exchange x) noexcept:
    # What was used of it is counted by then.
    while x.n_own_holds:
        x.n_own_holds -= 1
        x.gateway.limits.give_back(&x.own_holds[x.n_own_holds], 0, 0)


cdef void unreserve(Exchange x) noexcept:
    # In reverse; the request was not admitted.
    while x.n_holds:
        x.n_holds -= 1
        x.gateway.limits.undo(&x.holds[x.n_holds])
    if x.group_hold.held:
        x.gateway.limits.undo(&x.group_hold)


cdef void settle_limits(Exchange x, long long tokens, long long money) noexcept:
    """What was reserved becomes what was used. Pairs with govern, once per exchange."""
    release_group(x, tokens)
    while x.n_holds:
        x.n_holds -= 1
        x.gateway.limits.give_back(&x.holds[x.n_holds], tokens, money if money > 0 else 0)


cdef void charge_anew(Exchange x, long long money):
    """The record of its key is another one by now: the budgets of that one pay too, where the request holds nothing of them."""
    cdef Gate gate
    cdef KeyRecord key = x.gateway.table.in_force(x.key)
    if key is None or key is x.key:
        return
    for gate in key.gates:
        if gate.budget >= 0 and (gate.model is None or gate.model == x.model) and not holds_money(x, gate):
            x.gateway.limits.charge(gate, wall_of(x), money)


cdef bint holds_money(Exchange x, Gate gate) noexcept:
    cdef int slot = x.gateway.limits._slot(gate), i
    for i in range(x.n_holds):
        if x.holds[i].slot == slot and x.holds[i].period:
            return True
    return False


cdef void add_limit_lines(Exchange x, Buffer* out):
    """What is left of the limits that the request has passed, for the head of its answer."""
    cdef Limits limits = x.gateway.limits
    cdef Gate gate
    cdef long long now = window_now(x)
    for gate in x.key.gates:
        if gate.slot < 0 or gate.model is not None and gate.model != x.model:
            continue
        if gate.rpm >= 0:
            add_bytes(out, gate.requests_line)
            buf_add_uint(out, max(0, gate.rpm - limits.count_now(gate.slot, False, now)))
            buf_add(out, b"\r\n", 2)
        if gate.tpm >= 0:
            add_bytes(out, gate.tokens_line)
            buf_add_uint(out, max(0, gate.tpm - limits.count_now(gate.slot, True, now)))
            buf_add(out, b"\r\n", 2)
    add_key_lines(x, out)


cdef void add_key_lines(Exchange x, Buffer* out):
    """The key's own limits and what it has spent, for the head of any answer."""
    cdef Gate gate
    for gate in x.key.gates:
        if gate.key_lines is None or gate.slot < 0:
            continue
        add_bytes(out, gate.key_lines)
        if gate.budget >= 0:
            add_dollars(out, b"x-litellm-key-spend: ", 21, x.gateway.limits.spent(gate)
                        + (max(0, cost_of(x, False)) if x.tapping and x.tap.usage.seen else 0))
        return


cdef void add_dollars(Buffer* out, const char* name, Py_ssize_t size, long long nano) noexcept:
    """A header line with an amount: a plain decimal number, as many places as it needs."""
    cdef char digits[9]
    cdef int places = 9, at
    cdef long long rest = nano % 1000000000
    if nano < 0:
        return
    buf_add(out, name, size)
    buf_add_uint(out, nano // 1000000000)
    for at in range(8, -1, -1):
        digits[at] = <char>(48 + rest % 10)
        rest //= 10
    while places > 1 and digits[places - 1] == 48:
        places -= 1
    buf_add(out, b".", 1)
    buf_add(out, digits, places)
    buf_add(out, b"\r\n", 2)


cdef long long estimate_input(Exchange x):
    """Tokens of the request's body: its bytes at the rate that its model has had lately, and a constant for each part of data."""
    cdef long long size = x.body.size if x.body_complete or x.content_length < 0 else x.content_length
    cdef long long tokens = 0
    cdef Py_ssize_t at = 0, begin
    cdef const char* found
    cdef const char* end
    while x.body.size - at > 512:                 # parts of data: …;base64,…"
        found = data_part(x.body.data + at, x.body.size - at)
        if found == NULL:
            break
        begin = found - x.body.data + 8
        end = <const char*>memchr(x.body.data + begin, 34, x.body.size - begin)       # '"'
        at = x.body.size if end == NULL else end - x.body.data
        size -= at - begin
        tokens += PART_TOKENS
    x.text_size = size if tokens == 0 else -1
    return tokens + <long long>(size * tokens_per_byte(x)) + 1


cdef inline const char* data_part(const char* p, Py_ssize_t size) noexcept nogil:
    """Where `;base64,` stands next, or NULL. Text has few semicolons: a tenth of what memmem takes for it."""
    cdef const char* end = p + size - 8
    while p <= end:
        p = <const char*>memchr(p, 59, end - p + 1)          # ';'
        if p == NULL or memcmp(p, b";base64,", 8) == 0:
            return p
        p += 1
    return NULL


cdef long long expected_output(Exchange x, long long tpm):
    """What the request allows, else what requests of this kind are taken to need."""
    cdef long long most, times, usual
    if not has_output(x):
        return 0
    most, times = explicit_output(x), answers_asked(x)
    x.output_most = most * times if most >= 0 else -1
    if most < 0:
        usual = usual_output(x)
        most = usual if usual >= 0 else max(x.input_estimate, 1024 if tpm < 0 else min(1024, tpm // 4))
    x.output_expected = summable(most * times)
    return x.output_expected


cdef long long unseen_output(Exchange x, long long input_tokens):
    """Of an answer of which nothing is seen, by `unseen_output`: what such requests usually need, or what is reserved."""
    cdef long long most, usual
    if not has_output(x):
        return 0
    if x.table.unseen_reserved and x.output_expected >= 0:
        return x.output_expected
    most, usual = explicit_output(x), usual_output(x)
    if usual < 0:
        usual = max(input_tokens, 1024) if x.table.unseen_reserved else UNSEEN_TOKENS
    if most >= 0 and (x.table.unseen_reserved or most < usual):
        usual = most
    return summable(usual * answers_asked(x))


cdef bint has_output(Exchange x):
    return x.plan.kind == PLAN_LLM and x.plan.endpoint not in (EP_EMBEDDINGS, EP_MODERATIONS, EP_RERANK, EP_COUNT_TOKENS)


cdef long long explicit_output(Exchange x):
    """Tokens of output that the request allows for each answer: the largest of its maxima. -1: it names none that can be one."""
    cdef Field found[2]
    cdef long long most = -1, value
    cdef int at
    for at in range(maxima(x, found)):
        value = number(x, &found[at])
        if 1 <= value <= OUTPUT_MOST:
            most = max(most, value)
    return most


cdef int maxima(Exchange x, Field* found):
    """Where the request may name a maximum of output, in the order of strict.MAXIMA; how many places that are."""
    if x.plan.google:
        return setting(x, b"maxOutputTokens", b"max_output_tokens", found) == 1
    if x.plan.endpoint == EP_RESPONSES:
        found[0] = x.scan.fields[F_MAX_OUTPUT_TOKENS]
        return 1
    found[0] = x.scan.fields[F_MAX_TOKENS]
    found[1] = x.scan.fields[F_MAX_COMPLETION_TOKENS]
    return 2 if x.plan.endpoint == EP_CHAT else x.plan.endpoint == EP_COMPLETIONS or x.plan.endpoint == EP_MESSAGES


cdef long long answers_asked(Exchange x):
    """How many answers the request wants. Of completions that is for each prompt, and `best_of` are made."""
    cdef Field found
    cdef Field* prompt = &x.scan.fields[F_PROMPT]
    cdef long long times
    if x.answers:
        return x.answers
    if x.plan.google:
        times = number(x, &found) if setting(x, b"candidateCount", b"candidate_count", &found) == 1 else 1
    else:
        times = number(x, &x.scan.fields[F_N])
    if x.plan.endpoint == EP_COMPLETIONS:
        times = max(times, number(x, &x.scan.fields[F_BEST_OF]))
    times = max(<long long>1, min(times, ANSWERS_MOST))
    if looked_into(x, prompt):
        if x.plan.endpoint == EP_COMPLETIONS and prompt.kind == 97:       # 'a'
            times *= prompts_of(x, prompt)
        x.answers = times
    return times


cdef inline bint looked_into(Exchange x, Field* f) noexcept:
    # Only where somebody estimates; and the body has to be there, as it is from its end on until the answer begins.
    return x.input_estimate >= 0 and x.body_complete and f.end <= x.body.size


cdef long long prompts_of(Exchange x, Field* f):
    # An array of numbers is one prompt, in tokens.
    cdef Py_ssize_t at = f.start + 1
    while x.body.data[at] <= 32:
        at += 1
    return 1 if 45 <= x.body.data[at] <= 57 else max(1, count_items(x.body.data, f.start, f.end))


cdef int setting(Exchange x, const char* name, const char* other, Field* found):
    """A member of Google's generationConfig, by either spelling; how often it stands there."""
    cdef Field* config = &x.scan.fields[F_GENERATION_CONFIG]
    if config.kind != 111 or not looked_into(x, config):         # 'o'
        return 0
    return find_member(x.body.data, config.start, config.end, name, other, found)


cdef long long number(Exchange x, const Field* f) noexcept:
    # A count, or -1; of too many digits some that is as much too large.
    cdef long long value = 0
    cdef Py_ssize_t at
    if f.kind != 110 or not x.body_complete or f.end > x.body.size:          # 'n'
        return -1
    for at in range(f.start, f.end):
        if not 48 <= x.body.data[at] <= 57:
            return -1
        if value <= OUTPUT_MOST:
            value = 10 * value + x.body.data[at] - 48
    return value


# -- what requests of one key to one model usually need


@cython.final
cdef class Usual:
    """How many tokens of output requests had: a histogram of which the old fades."""

    cdef unsigned short buckets[96]       # four to each power of two
    cdef int total

    def __cinit__(self):
        memset(self.buckets, 0, sizeof(self.buckets))

    cdef void learn(self, long long tokens) noexcept nogil:
        cdef int i
        self.buckets[bucket_of(tokens)] += 1
        self.total += 1
        if self.total >= USUAL_MEMORY:
            self.total = 0
            for i in range(96):
                self.buckets[i] >>= 1
                self.total += self.buckets[i]

    cdef long long high(self) noexcept nogil:
        """What 95 of 100 had at most; -1: too few were seen."""
        cdef int i, seen = 0
        if self.total < USUAL_MIN:
            return -1
        for i in range(96):
            seen += self.buckets[i]
            if 20 * seen >= 19 * self.total:
                return bucket_top(i)
        return -1


cdef int bucket_of(long long tokens) noexcept nogil:
    cdef int power = 0
    tokens = max(<long long>0, min(tokens, 16000000)) + 4
    while tokens >> power >= 8:
        power += 1
    return 4 * power + <int>(tokens >> power) - 4


cdef long long bucket_top(int bucket) noexcept nogil:
    return ((<long long>(bucket % 4) + 5) << (bucket // 4)) - 5


cdef long long usual_output(Exchange x):
    if not x.governed:
        return -1
    if x.usual is None:
        x.usual = x.gateway.usual.get((x.key.digest, x.model))
    return -1 if x.usual is None else (<Usual>x.usual).high()


cdef void learn_usage(Exchange x):
    """What the answer tells of requests like this one."""
    cdef Usage* usage = &x.tap.usage
    if x.usual is None:
        x.usual = remember(x.gateway.usual, (x.key.digest, x.model), Usual)
    (<Usual>x.usual).learn(usage.output_tokens // max(<long long>1, x.answers))
    if x.text_size > 0:
        if x.rate is None:
            x.rate = remember(x.gateway.rates, x.model, Rate)
        (<Rate>x.rate).learn(x.text_size, usage.input_tokens if x.plan.endpoint != EP_MESSAGES
                             else usage.input_tokens + usage.cached_tokens + usage.cache_write_tokens)


cdef object remember(dict known, name, type kind):
    # What is known under a name, made if it is new; at the bound all that was known is forgotten.
    found = known.get(name)
    if found is None:
        if len(known) >= USUAL_NAMES:
            known.clear()
        found = known[name] = kind()
    return found


# -- how many tokens a model makes of a byte


@cython.final
cdef class Rate:
    """Bytes of bodies without parts of data and their tokens, of which the old fade."""

    cdef double size, tokens

    cdef void learn(self, long long size, long long tokens) noexcept nogil:
        self.size += size
        self.tokens += max(<long long>0, min(tokens, size))
        if self.size > RATE_MEMORY:
            self.size /= 2
            self.tokens /= 2

    cdef double per_byte(self) noexcept nogil:
        if self.size < RATE_MIN:
            return TOKENS_PER_BYTE
        return max(LEAST_PER_BYTE, self.tokens / self.size)


cdef double tokens_per_byte(Exchange x):
    if x.rate is None and x.model is not None:
        x.rate = x.gateway.rates.get(x.model)
    return TOKENS_PER_BYTE if x.rate is None else (<Rate>x.rate).per_byte()


cdef long long dearest(Exchange x, long long input_tokens, long long output_tokens):
    """Nano-dollars of these tokens at the dearest deployment of the group."""
    cdef Deployment d
    cdef long long most = 0
    if x.group is None:
        return 0 if x.plan.deployment is None else (<Deployment>x.plan.deployment).prices.at_most(input_tokens, output_tokens)
    for d in x.group.deployments:
        most = max(most, d.prices.at_most(input_tokens, output_tokens) + pieces_at_most(x, d))
    return most


cdef long long at_most(Exchange x, long long output_tokens):
    """Nano-dollars that the request may cost, with so much output; -1: it is free, so that no budget concerns it."""
    cdef long long money = dearest(x, x.input_estimate, output_tokens)
    return -1 if money == 0 and is_free(x) else money


cdef bint is_free(Exchange x):
    # Whether its deployments are known to cost nothing: those without a price are not.
    cdef Deployment d
    if x.group is None:
        return False
    for d in x.group.deployments:
        if not d.prices.known or d.prices.at_most(1000000, 1000000) != 0:
            return False
    return True


cdef long long pieces_at_most(Exchange x, Deployment d):
    # Nano-dollars of the images that are to be made, or of the text that is to be spoken.
    if d.prices.image and makes_images(x):
        return d.prices.of_pieces(answers_asked(x), 0)
    if d.prices.character and x.plan.endpoint == EP_AUDIO_SPEECH:
        return d.prices.of_pieces(0, spoken_characters(x))
    return 0


cdef void refuse_uncounted(Exchange x):
    refuse(x, 503, "service_unavailable", "The limits of this request can't be kept now: their table is full, or control "
           "can't be asked", None, "", b"retry-after: 5\r\n")


cdef void refuse_limit(Exchange x, Gate gate, int why):
    cdef Limits limits = x.gateway.limits
    cdef int status
    kind = {OVER_REQUESTS: "requests", OVER_TOKENS: "tokens", OVER_PARALLEL: "max_parallel_requests"}.get(why)
    seconds = max(1, limits.resets)
    if why == NO_COUNTER:
        refuse_uncounted(x)
        return
    if why == OVER_BUDGET:
        status = x.table.budget_status
        whose = "" if gate.scope in ("api_key", "proxy") else f"{gate.scope}={gate.value} "
        if limits.passing:
            refuse(x, 429, "rate_limit_error", f"What is left of the budget is reserved by requests in flight: try again "
                   f"shortly. {whose}Current cost: {limits.used / 1e9:.10g}, Max budget: {gate.budget / 1e9:.10g}", None, "",
                   b"retry-after: 1\r\n")
            return
        message = f"Budget has been exceeded! {whose}Current cost: {limits.used / 1e9:.10g}, " \
            f"Max budget: {gate.budget / 1e9:.10g}"
        if x.table.strict_limits and limits.used < gate.budget:
            message += ". This request may cost more than what is left, and limit_mode is strict: a smaller maximum of " \
                "output tokens would do"
        lines = f"retry-after: {seconds}\r\n".encode() if limits.resets else b""
        refuse(x, status, "budget_exceeded", message, None, "", lines)
        return
    limit = {OVER_REQUESTS: gate.rpm, OVER_TOKENS: gate.tpm, OVER_PARALLEL: gate.parallel}[why]
    wall = (x.started + x.gateway.wall_offset) // 1000000000 + seconds
    moment = formatted_date("%Y-%m-%d %H:%M:%S UTC", gmtime(wall))
    what = "tokens" if why == OVER_TOKENS else "requests"
    lines = f"retry-after: {seconds}\r\nrate_limit_type: {kind}\r\nreset_at: {wall}\r\n" \
        f"x-ratelimit-limit-{what}: {limit}\r\nx-ratelimit-remaining-{what}: {max(0, limit - limits.used)}\r\n" \
        f"x-ratelimit-reset-{what}: {seconds}s\r\n"
    refuse(x, 429, "rate_limit_error",
           f"Rate limit exceeded for {gate.scope}: {gate.value}. Limit type: {kind}. Current limit: {limit}, "
           f"Remaining: {max(0, limit - limits.used)}. Limit resets at: {moment}", None, "", lines.encode())
