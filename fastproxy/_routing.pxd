# Decisions about where a request goes and whether it goes again: pure functions over numbers.
cdef enum:               # routing_strategy
    SIMPLE_SHUFFLE = 0
    LEAST_BUSY
    LATENCY_BASED
    USAGE_BASED
    COST_BASED

cdef enum:               # classes of failure; the names are LiteLLM's policy keys
    X_BAD_REQUEST = 0    # BadRequestError
    X_AUTH               # AuthenticationError: 401, 403
    X_TIMEOUT            # TimeoutError: 408, 504, our own limits
    X_RATE               # RateLimitError: 429
    X_CONTENT            # ContentPolicyViolationError
    X_INTERNAL           # InternalServerError: 500 and above
    X_CONTEXT            # ContextWindowExceededError
    X_CONNECT            # no connection, or one that broke
    X_CLASSES

cdef struct Candidate:
    int index            # in the group's list
    double weight
    double metric        # in flight, microseconds, tokens or price, by strategy

cdef int draw(Candidate* c, int n, unsigned long long random) noexcept nogil
cdef int lowest(Candidate* c, int n, double buffer, unsigned long long random) noexcept nogil
cdef int failure_class(int status) noexcept nogil
cdef bint retryable(int status, int kind, int deployments) noexcept nogil
cdef bint counts_against(int status) noexcept nogil
cdef bint should_cool(int status, unsigned int fails, unsigned int requests, int deployments,
                      bint has_fallbacks, long long allowed) noexcept nogil
cdef double back_off(int retry, double least, unsigned long long random) noexcept nogil
cdef bint may_amplify(long long retrying, long long in_flight) noexcept nogil
