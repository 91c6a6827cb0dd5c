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
    cdef dict parked                  # digest -> [Downstream]
    cdef Py_ssize_t waiting           # how many of them
    cdef dict unknown                 # digest -> monotonic seconds; oldest first
    cdef dict strangers               # client address -> (end of its window, unknown keys in it)

    def __init__(self, Gateway gateway):
        self.gateway = gateway
        self.parked = {}
        self.unknown = {}
        self.strangers = {}

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
        if self.is_strange(d.peer, now):
            return M_STRANGE
        if self.waiting >= PARKED_MAX:
            return M_AWAY
        others = self.parked.get(digest)
        if others is None:
            self.parked[digest] = [d]
            self.gateway.block.counters[C_KEY_LOOKUPS] += 1
            self.ask(digest)
        else:
            others.append(d)
        self.waiting += 1
        d.parked = digest
        d.deadline = now + ASK_SECONDS
        return M_PARKED

    cdef bint is_strange(self, str peer, double now):
        found = self.strangers.get(peer)
        return found is not None and found[0] > now and found[1] >= STRANGE_MAX

    cdef void answered(self, bytes digest, bint known, bint away):
        """Requests that wait for this key go on: it is in the table now, unknown, or nobody can say."""
        cdef Downstream d
        cdef double now = self.gateway.now
        others = self.parked.pop(digest, ())
        if not known and not away:
            self.forget_oldest()
            self.unknown[digest] = now + UNKNOWN_SECONDS
            if others:
                self.count_stranger((<Downstream>others[0]).peer, now)
        for d in others:
            self.waiting -= 1
            d.parked = None
            d.unanswered = away
            d.serve_soon()

    cdef void count_stranger(self, str peer, double now):
        found = self.strangers.get(peer)
        if found is None or found[0] <= now:
            if len(self.strangers) >= STRANGERS_MAX:
                self.strangers.clear()
            found = (now + STRANGE_SECONDS, 0)
        self.strangers[peer] = (found[0], found[1] + 1)

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


cdef bint is_key_shaped(const char* value, unsigned int size) noexcept nogil:
    """Whether the store could have such a key: sk- and 8 to 250 visible characters."""
    cdef unsigned int i
    if size < 11 or size > 253 or value[0] != 115 or value[1] != 107 or value[2] != 45:
        return False
    for i in range(3, size):
        if not 33 <= value[i] <= 126:
            return False
    return True
