# -- a key that this worker does not know: its request waits while control looks the key up

cdef enum:
    M_UNKNOWN = 0        # nobody has this key
    M_PARKED             # the request waits; it is read again from its head when the answer has come
    M_AWAY               # nobody can say now
    M_STRANGE            # this address has shown too many keys that nobody has


@cython.final
cdef class Misses:
    """Look-ups under way and what they have not found.

    What an attacker with random keys can cost is bounded four times: requests that wait, one look-up for each
    digest, keys that are remembered as unknown, and unknown keys of one client address."""

    cdef Gateway gateway
    cdef object ask                   # (digest) -> None, or None: control is gone
    cdef object ask_counters          # (digest, record or None) -> None: the same for counters of its limits
    cdef dict parked                  # digest -> [Downstream]
    cdef Py_ssize_t waiting           # how many of them
    cdef dict unknown                 # digest -> monotonic seconds; oldest first
    cdef dict strangers               # client address or network -> (end of its window, unknown keys in it)
    cdef object ask_custom            # (number, key, method, target, headers, client) -> None, or None: nobody answers
    cdef bint custom_met              # … or nobody answered yet, as the process is only starting
    cdef int number                   # of the newest question to custom_auth
    cdef dict trusted                 # digest -> (record, monotonic seconds, table): answers that may be used again

    def __init__(self, Gateway gateway):
        self.gateway = gateway
        self.parked = {}
        self.unknown = {}
        self.strangers = {}
        self.trusted = {}

    cdef int judge(self, Downstream d, bytes digest):
        """What is to become of a request whose key is not in the table."""
        cdef double now = self.gateway.now
        cdef bint unanswered = d.unanswered
        d.unanswered = False
        until = self.unknown.get(digest)
        if until is not None:
            if until > now:
                return M_UNKNOWN
            del self.unknown[digest]
        if unanswered or self.ask is None:
            return M_AWAY
        d.source = source_of(d)
        if self.is_strange(d.source, now):
            return M_STRANGE
        if self.waiting >= PARKED_MAX:
            return M_AWAY
        if self.park(d, digest, ASK_SECONDS):
            self.gateway.block.counters[C_KEY_LOOKUPS] += 1
            self.ask(digest)
        return M_PARKED

    cdef bint park(self, Downstream d, bytes name, double seconds):
        """A request waits for an answer. Whether it is the first that waits for this one, so that it has to be asked for."""
        others = self.parked.get(name)
        if others is None:
            self.parked[name] = [d]
        else:
            others.append(d)
        self.waiting += 1
        d.parked = name
        d.deadline = self.gateway.now + seconds
        return others is None

    cdef bint ask_again(self, Downstream d, bytes digest):
        """Has a key looked up that may have changed meanwhile; its request waits. False: nobody can be asked."""
        if self.ask is None or self.waiting >= PARKED_MAX:
            return False
        if self.park(d, digest, ASK_SECONDS):
            self.ask(digest)
        return True

    cdef bint ask_room(self, Downstream d, KeyRecord key):
        """Has control give the key's limits their counters; its request waits. False: that is not to be had now."""
        if self.ask is None or self.waiting >= PARKED_MAX:
            return False
        if self.park(d, key.digest, ASK_SECONDS):
            self.ask_counters(key.digest, key.asked)
        d.counted = True
        return True

    cdef bint ask_about(self, Downstream d, bytes raw):
        """Has custom_auth asked about the request at hand, which waits; at the start also for its process. False: nobody
        answers, or too many wait."""
        cdef Head* head = &self.gateway.head
        cdef const char* p = self.gateway.head_at
        cdef bytes name
        cdef int i
        if self.ask_custom is None and self.custom_met or self.waiting >= CUSTOM_MAX:
            return False
        headers = [((p + head.fields[i].name)[:head.fields[i].name_size].decode("latin-1"),
                    (p + head.fields[i].value)[:head.fields[i].value_size].decode("latin-1"))
                   for i in range(head.n_fields)]
        self.number = (self.number + 1) & 0x7FFFFFFF
        name = question(self.number)
        self.park(d, name, CUSTOM_SECONDS)
        if self.ask_custom is None:
            return True
        self.ask_custom(self.number, raw.decode("latin-1"), (p + head.method)[:head.method_size].decode("latin-1"),
                        (p + head.target)[:head.target_size].decode("latin-1"), headers, d.peer)
        return True

    cdef void judged(self, int number, record, refusal, double ttl):
        cdef Downstream d
        cdef bytes name = question(number)
        for d in self.parked.get(name, ()):
            if refusal is not None:
                d.verdict = tuple(refusal)
            elif record is not None:
                d.verdict = (record, ttl)
        self.answered(name, False, record is None and refusal is None)

    cdef KeyRecord recall(self, bytes digest, Table table):
        found = self.trusted.get(digest)
        if found is None:
            return None
        if found[1] < self.gateway.now or found[2] is not table:
            del self.trusted[digest]
            return None
        return <KeyRecord>found[0]

    cdef void trust(self, bytes digest, KeyRecord key, Table table, double ttl):
        if len(self.trusted) >= UNKNOWN_MAX:
            del self.trusted[next(iter(self.trusted))]
        self.trusted[digest] = (key, self.gateway.now + ttl, table)

    cdef bint is_strange(self, str source, double now):
        found = self.strangers.get(source)
        return found is not None and found[0] > now and found[1] >= STRANGE_MAX

    cdef void answered(self, bytes digest, bint known, bint away):
        """Requests that wait for this key go on: it is in the table now, unknown, or nobody can say."""
        cdef Downstream d
        cdef double now = self.gateway.now
        others = self.parked.pop(digest, ())
        if not known and not away and len(digest) == DIGEST_SIZE:
            self.forget_oldest()
            self.unknown[digest] = now + UNKNOWN_SECONDS
            if others:
                self.count_stranger((<Downstream>others[0]).source, now)
        for d in others:
            self.waiting -= 1
            d.parked = None
            d.unanswered = away
            d.serve_soon()

    cdef void count_stranger(self, str source, double now):
        found = self.strangers.get(source)
        if found is None or found[0] <= now:
            if len(self.strangers) >= STRANGERS_MAX:
                self.strangers.clear()
            found = (now + STRANGE_SECONDS, 0)
        self.strangers[source] = (found[0], found[1] + 1)

    cdef void forget_oldest(self):
        if len(self.unknown) >= UNKNOWN_MAX:
            del self.unknown[next(iter(self.unknown))]

    cdef void leave(self, Downstream d):
        """Its client is gone, or has waited for long enough."""
        others = self.parked[d.parked]
        others.remove(d)
        if not others:
            del self.parked[d.parked]
        self.waiting -= 1
        d.parked = None


cdef str source_of(Downstream d):
    # Whose request it is, for all that is known: behind proxies of ours not their address.
    cdef Head* head = &d.gateway.head
    cdef bytes value = None
    cdef int i
    rule = d.gateway.table.client_rule
    if rule is None:
        return addresses.source(d.peer)
    for i in range(head.n_fields):
        if head.fields[i].name_id == H_X_FORWARDED_FOR:
            value = (d.gateway.head_at + head.fields[i].value)[:head.fields[i].value_size]
    return addresses.source(rule.client(d.peer, value))


cdef void miss(Downstream d, Exchange x, bytes digest, const char* value, unsigned int size):
    """Answers a request whose key is not in the table, or lets it wait."""
    cdef int verdict = M_UNKNOWN
    if is_key_shaped(value, size):
        verdict = d.gateway.misses.judge(d, digest)
    if verdict == M_UNKNOWN:
        unauthorized(d, x,
                     f"Authentication Error, Invalid proxy server token passed. key={digest.hex()}, not found in db. "
                     "Create key via `/key/generate` call.", "token_not_found_in_db", "key")
    elif verdict == M_AWAY:
        d.gateway.block.counters[C_KEY_LOOKUPS_FAILED] += 1
        refuse(x, 503, "service_unavailable", "Whether this key is valid can't be looked up at the moment; "
               "try again shortly", None, "", b"retry-after: 1\r\n")
    elif verdict == M_STRANGE:
        d.gateway.block.counters[C_KEY_LOOKUPS_FAILED] += 1
        refuse(x, 429, "throttling_error", "This address has shown too many unknown keys; keys that it has not "
               "used before are not looked up for a while", None, "", b"retry-after: 10\r\n")


cdef bint has_counters(Downstream d, Exchange x):
    """Whether each limit of the key has a counter. False: answered already, or d.parked."""
    cdef Gate gate
    cdef bint asked = d.counted
    d.counted = False
    if x.plan is not None and x.plan.kind == PLAN_CONTROL:
        return True
    for gate in x.key.gates:
        if not x.gateway.limits.knows(gate, window_now(x)):
            if asked or not d.gateway.misses.ask_room(d, x.key):
                d.gateway.block.counters[C_KEY_LOOKUPS_FAILED] += 1
                refuse_uncounted(x)
            return False
    return True


cdef bytes question(int number):
    # Its name among what is waited for; not as long as a digest.
    return b"custom_auth %d" % number


cdef bint judge_custom(Downstream d, Exchange x, bytes raw):
    """A key that is not the configuration's, by `custom_auth`. True: x.key is set. False: answered already, or d.parked."""
    cdef Misses misses = d.gateway.misses
    cdef bytes digest = hashlib.sha256(raw).digest()
    cdef object verdict = d.verdict
    d.verdict = None
    x.key = misses.recall(digest, x.table) if verdict is None and misses.trusted else None
    if x.key is None and verdict is None:
        if d.unanswered or not misses.ask_about(d, raw):
            d.unanswered = False
            d.gateway.block.counters[C_KEY_LOOKUPS_FAILED] += 1
            refuse(x, 503, "service_unavailable", "custom_auth can't be asked at the moment; try again shortly", None, "",
                   b"retry-after: 1\r\n")
        return False
    if x.key is None and len(verdict) == 4:
        status, kind, message, param = verdict
        if status == 401:
            unauthorized(d, x, message, kind, param)
        else:
            refuse(x, status, kind, message, param)
        return False
    if x.key is None:
        x.key = x.table._key(verdict[0])
        if verdict[1] > 0.0:
            misses.trust(digest, x.key, x.table, verdict[1])
    if not is_in_force(d, x) or not (x.key.routes is None or route_allowed(x)):
        return False
    if PyTuple_GET_SIZE(x.key.gates) and not has_counters(d, x):
        d.verdict = verdict            # it is not asked again for that
        return False
    return True


cdef bint is_key_shaped(const char* value, unsigned int size) noexcept nogil:
    """Whether the store could have such a key: sk- and 8 to 250 visible characters."""
    cdef unsigned int i
    if size < 11 or size > 253 or value[0] != 115 or value[1] != 107 or value[2] != 45:
        return False
    for i in range(3, size):
        if not 33 <= value[i] <= 126:
            return False
    return True
