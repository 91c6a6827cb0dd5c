# Strict HTTP/1.1 heads (RFC 9110, 9112) as spans into the caller's bytes: nothing is copied. Results: see _http.pxd.
cdef enum:
    HEAD_MAX_FIELDS = 128

cdef enum:               # known field names, so that nobody compares strings twice
    H_OTHER = 0
    H_HOST
    H_CONTENT_LENGTH
    H_TRANSFER_ENCODING
    H_CONNECTION
    H_KEEP_ALIVE
    H_PROXY_CONNECTION
    H_TE
    H_TRAILER
    H_UPGRADE
    H_EXPECT
    H_AUTHORIZATION
    H_X_API_KEY
    H_API_KEY
    H_X_GOOG_API_KEY
    H_OCP_APIM_SUBSCRIPTION_KEY
    H_X_LITELLM_API_KEY
    H_CONTENT_TYPE
    H_CONTENT_ENCODING
    H_ACCEPT
    H_ACCEPT_ENCODING
    H_USER_AGENT
    H_IDEMPOTENCY_KEY
    H_TRACEPARENT
    H_TRACESTATE
    H_BAGGAGE
    H_OPENAI             # any openai-*
    H_ANTHROPIC          # any anthropic-*
    H_X_STAINLESS        # any x-stainless-*
    H_X_LITELLM          # any other x-litellm-*
    H_X_LITELLM_CALL_ID
    H_ORIGIN
    H_ACCESS_CONTROL_REQUEST_METHOD
    H_ACCESS_CONTROL_REQUEST_HEADERS
    H_X_FORWARDED_FOR
    H_COOKIE
    H_PROXY_AUTHORIZATION
    H_VIA
    H_DATE
    H_SERVER
    H_SET_COOKIE
    H_LOCATION
    H_RETRY_AFTER
    H_MAX_FORWARDS

cdef struct FieldSpan:
    int name_id          # H_*
    unsigned int name    # offsets from `data` (heads are far below 4 GiB)
    unsigned int name_size
    unsigned int value   # OWS trimmed
    unsigned int value_size
    bint hop             # named by Connection, or hop-by-hop itself: not forwarded

cdef struct Head:
    int status           # response: 100..599; request: 0
    int minor            # HTTP/1.minor: 0 or 1
    unsigned int method, method_size
    unsigned int target, target_size      # request target in origin-form (absolute-form: the path part; authority replaces Host)
    unsigned int path_size                # target up to '?'
    unsigned int size                     # bytes of the whole head, blank line included
    long long content_length              # -1: none
    bint chunked
    bint keep_alive                       # after version and Connection
    bint expect_continue
    bint close_delimited                  # response: body runs to the end of the connection
    int n_fields
    FieldSpan fields[128]
    int error_status                      # 400, 414, 417, 431, 501, 505 (request); 502 (response)
    const char* error                     # what was wrong, for a person
    unsigned int error_at

cdef int parse_request(const char* data, Py_ssize_t size, Head* head, Py_ssize_t max_head, Py_ssize_t max_target) noexcept nogil
cdef int parse_response(const char* data, Py_ssize_t size, Head* head, Py_ssize_t max_head, bint to_head_request) noexcept nogil
