"""Where a request goes, and whether it goes again: pure functions over numbers.

Strategies choose among candidates that somebody else found fit; the rules about retries and cooldowns are
those of the LiteLLM proxy (docs/routing.md says where they differ). Nothing here knows a connection, a
configuration or shared memory, so all of it is tested by simulation.
"""

cdef enum:
    MIN_REQUESTS = 5             # of a minute, before a failure rate says something
    LONE_REQUESTS = 1000         # … for a group that has nothing else
    FREE_RETRIES = 3             # tries again in flight per group that are always allowed

cdef double FIRST_DELAY = 0.5        # seconds, doubled with each try again on the same deployment …
cdef double LONGEST_DELAY = 8.0      # … up to this
cdef double RETRY_SHARE = 0.2        # of a group's requests in flight may be tries again


cdef inline double fraction(unsigned long long random) noexcept nogil:
    return (random >> 11) * (1.0 / 9007199254740992.0)


cdef int draw(Candidate* c, int n, unsigned long long random) noexcept nogil:
    """simple-shuffle: by weight, or evenly when there are none. Returns a position; -1 if n is 0."""
    cdef double total = 0.0, at = fraction(random)
    cdef int i, last = -1
    for i in range(n):
        total += c[i].weight
    if total <= 0.0:
        return <int>(at * n) if n > 0 else -1
    at *= total
    for i in range(n):
        if c[i].weight > 0.0:
            last = i
            at -= c[i].weight
            if at < 0.0:
                return i
    return last


cdef int lowest(Candidate* c, int n, double buffer, unsigned long long random) noexcept nogil:
    """The least metric; any of those within `buffer` (a share of the least) of it, evenly."""
    cdef double least, bound
    cdef int i, near = 0, at
    if n <= 0:
        return -1
    least = c[0].metric
    for i in range(1, n):
        if c[i].metric < least:
            least = c[i].metric
    bound = least + least * buffer
    for i in range(n):
        if c[i].metric <= bound:
            near += 1
    at = <int>(fraction(random) * near)
    for i in range(n):
        if c[i].metric <= bound:
            if at == 0:
                return i
            at -= 1
    return 0


cdef int failure_class(int status) noexcept nogil:
    """The class of an error status; what only the body can tell (context, content) is told elsewhere."""
    if status == 401 or status == 403:
        return X_AUTH
    if status == 408 or status == 504:
        return X_TIMEOUT
    if status == 429:
        return X_RATE
    if status >= 500:
        return X_INTERNAL
    return X_BAD_REQUEST


cdef bint retryable(int status, int kind, int deployments) noexcept nogil:
    """Whether another try may help, when no policy says otherwise."""
    if kind == X_CONNECT or status == 408 or status == 409 or status == 429 or status >= 500:
        return True
    return kind == X_AUTH and deployments > 1        # another deployment has another key


cdef bint counts_against(int status) noexcept nogil:
    """Whether an error says something about the deployment rather than about the request."""
    return status == 429 or status == 401 or status == 402 or status == 404 or status == 408 or status >= 500


cdef bint should_cool(int status, unsigned int fails, unsigned int requests, int deployments,
                      bint has_fallbacks, long long allowed) noexcept nogil:
    """Whether a deployment is taken out of service for a while, after a failure that counts.

    fails, requests: of this minute, this one included. allowed: allowed_fails, -1 if it isn't set.
    """
    if allowed >= 0:
        return fails > allowed
    if requests >= LONE_REQUESTS and fails >= requests:
        return True
    if deployments <= 1 and not has_fallbacks:
        return False                             # there is nothing to go to instead
    if status == 401 or status == 402 or status == 404:
        return True                              # it will not get better by itself
    if deployments <= 1:
        return False
    return status == 429 or (requests >= MIN_REQUESTS and fails * 2 > requests)


cdef double back_off(int retry, double least, unsigned long long random) noexcept nogil:
    """Seconds before the try again number `retry` (from 0) on a deployment that failed already."""
    cdef double delay = FIRST_DELAY
    while retry > 0 and delay < LONGEST_DELAY:
        delay *= 2
        retry -= 1
    if delay > LONGEST_DELAY:
        delay = LONGEST_DELAY
    delay *= 0.75 + 0.25 * fraction(random)      # so that those who failed together don't come back together
    return delay if delay > least else least


cdef bint may_amplify(long long retrying, long long in_flight) noexcept nogil:
    """Whether one more try again is allowed: an outage is not to be made worse by what it causes."""
    return retrying < FREE_RETRIES or retrying < RETRY_SHARE * in_flight


# -- for tests and simulations

cdef int _fill(list weights, list metrics, Candidate* c):
    cdef int i, n = min(len(weights), 256)
    for i in range(n):
        c[i].index = i
        c[i].weight = weights[i]
        c[i].metric = metrics[i]
    return n


def choose_by_weight(list weights, unsigned long long random):
    """Position of a weighted draw; `random` is 64 random bits."""
    cdef Candidate c[256]
    return draw(c, _fill(weights, weights, c), random)


def choose_lowest(list metrics, double buffer, unsigned long long random):
    """Position of the least metric, or of one within `buffer` of it."""
    cdef Candidate c[256]
    return lowest(c, _fill(metrics, metrics, c), buffer, random)


def cools(int status, unsigned int fails, unsigned int requests, int deployments, bint has_fallbacks, long long allowed):
    """See should_cool."""
    return counts_against(status) and should_cool(status, fails, requests, deployments, has_fallbacks, allowed)


def retries(int status, int deployments):
    """Whether an error answer of this status is tried again by default."""
    return retryable(status, failure_class(status), deployments)


def delay(int retry, double least, unsigned long long random):
    """See back_off."""
    return back_off(retry, least, random)


def amplifies(long long retrying, long long in_flight):
    """See may_amplify."""
    return may_amplify(retrying, in_flight)
