# cython: language_level=3
"""Strict HTTP/1.1 heads (RFC 9110, RFC 9112) as spans into the caller's bytes.

The one place that decides framing; _chunked.pyx then reads what comes in chunks. Whatever is ambiguous is refused,
never repaired; the rules are a subset of what llhttp accepts in strict mode (tests/unit/test_head_oracle.py holds
them against it). Bytes are judged in order, so that a prefix is refused for the same reason as the whole. This
module must not know connections, routes, configuration or who asked; it allocates nothing and keeps nothing between
two calls.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastproxy._http cimport CR, FP_HEX, FP_HOST, FP_TOKEN, HTAB, LF, PARSE_DONE, PARSE_ERROR, PARSE_MORE, SP, fp_is

cdef extern from *:
    """
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* First byte at or behind `at` that is not of the class. The vector loops skip what is surely of it. */
    static inline Py_ssize_t fp_skip(const char *d, Py_ssize_t at, Py_ssize_t end, int wanted) {
        while (at < end && fp_is(d[at], wanted)) at++;
        return at;
    }

    static inline Py_ssize_t fp_name_end(const char *d, Py_ssize_t at, Py_ssize_t end) {
    #if defined(__SSE2__)
        while (end - at >= 16) {            /* letters and '-' cover nearly every name */
            __m128i x = _mm_loadu_si128((const __m128i *)(d + at));
            __m128i l = _mm_or_si128(x, _mm_set1_epi8(0x20));
            __m128i ok = _mm_or_si128(
                _mm_and_si128(_mm_cmpgt_epi8(l, _mm_set1_epi8('a' - 1)),
                              _mm_cmplt_epi8(l, _mm_set1_epi8('z' + 1))),
                _mm_cmpeq_epi8(x, _mm_set1_epi8('-')));
            unsigned m = (unsigned)_mm_movemask_epi8(ok) ^ 0xFFFFu;
            if (m) {
                at += __builtin_ctz(m);
                if (d[at] == ':') return at;
                break;
            }
            at += 16;
        }
    #endif
        return fp_skip(d, at, end, FP_TOKEN);
    }

    static inline Py_ssize_t fp_value_end(const char *d, Py_ssize_t at, Py_ssize_t end) {
    #if defined(__SSE2__)
        while (end - at >= 16) {            /* refused: 0x00-0x1F but HTAB, and DEL */
            __m128i x = _mm_loadu_si128((const __m128i *)(d + at));
            __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1F)), x);
            __m128i bad = _mm_or_si128(
                _mm_andnot_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('\\t')), low),
                _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F)));
            unsigned m = (unsigned)_mm_movemask_epi8(bad);
            if (m) return at + __builtin_ctz(m);
            at += 16;
        }
    #endif
        return fp_skip(d, at, end, FP_VALUE);
    }

    static inline Py_ssize_t fp_target_end(const char *d, Py_ssize_t at, Py_ssize_t end) {
    #if defined(__SSE2__)
        while (end - at >= 16) {            /* signed compare: 0x80-0xFF are below zero */
            __m128i x = _mm_loadu_si128((const __m128i *)(d + at));
            __m128i bad = _mm_or_si128(_mm_cmplt_epi8(x, _mm_set1_epi8(0x21)),
                _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(0x7F)), _mm_cmpeq_epi8(x, _mm_set1_epi8('#'))));
            unsigned m = (unsigned)_mm_movemask_epi8(bad);
            if (m) return at + __builtin_ctz(m);
            at += 16;
        }
    #endif
        return fp_skip(d, at, end, FP_TARGET);
    }

    /* Whether p[0..n) is `lower` (letters, digits and '-' only) but for case. p must hold token bytes: among
       them `| 0x20` maps only the capital letter to each letter, and nothing else to '-' or a digit. */
    static inline int fp_same(const char *p, const char *lower, size_t n) {
        const unsigned long long bits = 0x2020202020202020ULL;
        unsigned long long a, b;
        if (n >= 8) {
            for (size_t i = 0; i + 8 <= n; i += 8) {
                memcpy(&a, p + i, 8); memcpy(&b, lower + i, 8);
                if ((a | bits) != b) return 0;
            }
            memcpy(&a, p + n - 8, 8); memcpy(&b, lower + n - 8, 8);
            return (a | bits) == b;
        }
        for (size_t i = 0; i < n; i++) if ((p[i] | 0x20) != lower[i]) return 0;
        return 1;
    }
    """
    Py_ssize_t fp_skip(const char* d, Py_ssize_t at, Py_ssize_t end, int wanted) noexcept nogil
    Py_ssize_t fp_name_end(const char* d, Py_ssize_t at, Py_ssize_t end) noexcept nogil
    Py_ssize_t fp_value_end(const char* d, Py_ssize_t at, Py_ssize_t end) noexcept nogil
    Py_ssize_t fp_target_end(const char* d, Py_ssize_t at, Py_ssize_t end) noexcept nogil
    bint fp_same(const char* p, const char* lower, size_t n) noexcept nogil

cdef enum:
    MAX_METHOD = 32              # bytes; the longest registered one has 17
    MAX_OPTIONS = 64             # Connection options: each is compared with every field
    H_PROXY_AUTHENTICATE = 63    # hop-by-hop, but nobody outside asks for it: shown as H_OTHER

cdef long long MAX_LENGTH = <long long>1 << 62         # so that sums with buffer sizes cannot overflow

ctypedef unsigned long long Mask

cdef Mask HOP = (
    (<Mask>1 << H_CONNECTION) | (<Mask>1 << H_KEEP_ALIVE) | (<Mask>1 << H_PROXY_CONNECTION)
    | (<Mask>1 << H_TE) | (<Mask>1 << H_TRAILER) | (<Mask>1 << H_TRANSFER_ENCODING) | (<Mask>1 << H_UPGRADE)
    | (<Mask>1 << H_PROXY_AUTHORIZATION) | (<Mask>1 << H_PROXY_AUTHENTICATE))
cdef Mask CREDENTIALS = (        # two of a kind: someone in front of us may have checked the other one
    (<Mask>1 << H_AUTHORIZATION) | (<Mask>1 << H_X_API_KEY) | (<Mask>1 << H_API_KEY)
    | (<Mask>1 << H_X_GOOG_API_KEY) | (<Mask>1 << H_OCP_APIM_SUBSCRIPTION_KEY)
    | (<Mask>1 << H_X_LITELLM_API_KEY))
cdef Mask FRAMING = (
    (<Mask>1 << H_CONTENT_LENGTH) | (<Mask>1 << H_TRANSFER_ENCODING) | (<Mask>1 << H_CONNECTION))
cdef Mask JUDGED_IN_REQUEST = FRAMING | CREDENTIALS | (<Mask>1 << H_HOST) | (<Mask>1 << H_EXPECT)

cdef struct Facts:               # what the fields said, until the whole head is there
    Mask seen
    bint close
    bint keep
    bint named                   # Connection names further fields
    bint unmet                   # an expectation nobody can meet
    int options


cdef int fail(Head* head, int status, const char* why, Py_ssize_t at) noexcept nogil:
    head.error_status = status
    head.error = why
    head.error_at = <unsigned int>at
    return PARSE_ERROR


cdef void clear(Head* head) noexcept nogil:
    # Everything but the field array: 3 KB that n_fields makes unreadable.
    head.status = head.minor = 0
    head.method = head.method_size = head.target = head.target_size = head.path_size = head.size = 0
    head.content_length = -1
    head.chunked = head.keep_alive = head.expect_continue = head.close_delimited = False
    head.n_fields = head.error_status = 0
    head.error = NULL
    head.error_at = 0


cdef struct Known:
    const char* name             # lower case
    int size
    int id

cdef enum:
    N_KNOWN = 41
    LONGEST = 31                 # no known name is longer

cdef Known[N_KNOWN] KNOWN = [    # by size; first_known[n] is the first of n bytes
    [b"te", 2, H_TE],
    [b"via", 3, H_VIA],
    [b"host", 4, H_HOST],
    [b"date", 4, H_DATE],
    [b"accept", 6, H_ACCEPT],
    [b"expect", 6, H_EXPECT],
    [b"origin", 6, H_ORIGIN],
    [b"cookie", 6, H_COOKIE],
    [b"server", 6, H_SERVER],
    [b"api-key", 7, H_API_KEY],
    [b"trailer", 7, H_TRAILER],
    [b"upgrade", 7, H_UPGRADE],
    [b"baggage", 7, H_BAGGAGE],
    [b"location", 8, H_LOCATION],
    [b"x-api-key", 9, H_X_API_KEY],
    [b"user-agent", 10, H_USER_AGENT],
    [b"connection", 10, H_CONNECTION],
    [b"keep-alive", 10, H_KEEP_ALIVE],
    [b"set-cookie", 10, H_SET_COOKIE],
    [b"tracestate", 10, H_TRACESTATE],
    [b"traceparent", 11, H_TRACEPARENT],
    [b"retry-after", 11, H_RETRY_AFTER],
    [b"content-type", 12, H_CONTENT_TYPE],
    [b"max-forwards", 12, H_MAX_FORWARDS],
    [b"authorization", 13, H_AUTHORIZATION],
    [b"content-length", 14, H_CONTENT_LENGTH],
    [b"x-goog-api-key", 14, H_X_GOOG_API_KEY],
    [b"accept-encoding", 15, H_ACCEPT_ENCODING],
    [b"idempotency-key", 15, H_IDEMPOTENCY_KEY],
    [b"x-forwarded-for", 15, H_X_FORWARDED_FOR],
    [b"content-encoding", 16, H_CONTENT_ENCODING],
    [b"proxy-connection", 16, H_PROXY_CONNECTION],
    [b"transfer-encoding", 17, H_TRANSFER_ENCODING],
    [b"x-litellm-api-key", 17, H_X_LITELLM_API_KEY],
    [b"x-litellm-call-id", 17, H_X_LITELLM_CALL_ID],
    [b"proxy-authenticate", 18, H_PROXY_AUTHENTICATE],
    [b"proxy-authorization", 19, H_PROXY_AUTHORIZATION],
    [b"ocp-apim-subscription-key", 25, H_OCP_APIM_SUBSCRIPTION_KEY],
    [b"access-control-request-method", 29, H_ACCESS_CONTROL_REQUEST_METHOD],
    [b"access-control-request-headers", 30, H_ACCESS_CONTROL_REQUEST_HEADERS],
    [b"", LONGEST, H_OTHER],     # ends the last size
]
cdef int[LONGEST + 1] first_known


cdef void fill_first_known() noexcept:
    cdef int n, i = 0
    for n in range(LONGEST + 1):
        while KNOWN[i].size < n:
            i += 1
        first_known[n] = i


fill_first_known()


cdef int name_id(const char* p, Py_ssize_t n) noexcept nogil:
    cdef int first = p[0] | 0x20, i
    if n < LONGEST:
        for i in range(first_known[n], first_known[n + 1]):
            if KNOWN[i].name[0] == first and fp_same(p, KNOWN[i].name, n):
                return KNOWN[i].id
    if first == c"x":
        if n >= 12 and fp_same(p, b"x-stainless-", 12):
            return H_X_STAINLESS
        if n >= 10 and fp_same(p, b"x-litellm-", 10):
            return H_X_LITELLM
    elif first == c"o":
        if n >= 7 and fp_same(p, b"openai-", 7):
            return H_OPENAI
    elif first == c"a" and n >= 10 and fp_same(p, b"anthropic-", 10):
        return H_ANTHROPIC
    return H_OTHER


cdef bint same_text(const char* p, Py_ssize_t n, const char* lower, Py_ssize_t size) noexcept nogil:
    # Value equals `lower` but for the case of ASCII letters; values may hold any byte, so no `| 0x20` here.
    cdef Py_ssize_t i
    cdef int c
    if n != size:
        return False
    for i in range(n):
        c = <unsigned char>p[i]
        if 65 <= c <= 90:
            c |= 0x20
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef bint same_name(const char* a, const char* b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef int x, y
    for i in range(n):
        x, y = <unsigned char>a[i], <unsigned char>b[i]
        if 65 <= x <= 90:
            x |= 0x20
        if 65 <= y <= 90:
            y |= 0x20
        if x != y:
            return False
    return True


cdef bint valid_host(const char* p, Py_ssize_t n) noexcept nogil:
    # uri-host [":" port] (RFC 9110 7.2), not empty. IPvFuture is refused: nobody has one.
    cdef Py_ssize_t at = 0, start
    cdef int port = 0
    cdef bint colon = False
    if n == 0:
        return False
    if p[0] == c"[":
        at = 1
        while at < n and (fp_is(p[at], FP_HEX) or p[at] == c":" or p[at] == c"."):
            colon = colon or p[at] == c":"
            at += 1
        if not colon or at == n or p[at] != c"]":
            return False
        at += 1
    else:
        while at < n and p[at] != c":":
            if p[at] == c"%":
                if at + 2 >= n or not fp_is(p[at + 1], FP_HEX) or not fp_is(p[at + 2], FP_HEX):
                    return False
                at += 3
            elif fp_is(p[at], FP_HOST):
                at += 1
            else:
                return False
        if at == 0:
            return False
    if at == n:
        return True
    if p[at] != c":" or n - at > 6:
        return False
    for start in range(at + 1, n):
        if not 48 <= p[start] <= 57:
            return False
        port = port * 10 + p[start] - 48
    return port <= 65535


cdef long long length_value(const char* p, Py_ssize_t n) noexcept nogil:
    # 1*DIGIT up to MAX_LENGTH, or -1: no sign, list, hex or wrap-around (CVE-2021-32715, CVE-2021-40346).
    cdef long long value = 0
    cdef Py_ssize_t i
    cdef int digit
    if n == 0:
        return -1
    for i in range(n):
        digit = p[i] - 48
        if digit < 0 or digit > 9 or value > (MAX_LENGTH - digit) // 10:
            return -1
        value = value * 10 + digit
    return value


cdef bint ends_chunked(const char* p, Py_ssize_t n) noexcept nogil:
    # A well-formed list of other codings with `chunked` last, and only there: understood, not implemented.
    cdef Py_ssize_t at = 0, start
    cdef int codings = 0
    cdef bint chunked = False
    while True:
        start = at
        at = fp_skip(p, at, n, FP_TOKEN)
        if at == start or chunked:
            return False
        codings += 1
        chunked = same_text(p + start, at - start, b"chunked", 7)
        while at < n and (p[at] == SP or p[at] == HTAB):
            at += 1
        if at == n:
            return chunked and codings > 1
        if p[at] != c",":
            return False
        at += 1
        while at < n and (p[at] == SP or p[at] == HTAB):
            at += 1


cdef bint connection(Facts* facts, const char* p, Py_ssize_t n) noexcept nogil:
    # Reads the options. What is no list of tokens is not understood: the connection ends after this message.
    cdef Py_ssize_t at = 0, start
    while True:
        while at < n and (p[at] == SP or p[at] == HTAB or p[at] == c","):
            at += 1
        if at == n:
            return True
        start = at
        at = fp_skip(p, at, n, FP_TOKEN)
        facts.options += 1
        if facts.options > MAX_OPTIONS:
            return False
        if same_text(p + start, at - start, b"close", 5):
            facts.close = True
        elif same_text(p + start, at - start, b"keep-alive", 10):
            facts.keep = True
        else:
            facts.named = True
        while at < n and (p[at] == SP or p[at] == HTAB):
            at += 1
        if at < n and p[at] != c",":
            facts.close = True
            while at < n and p[at] != c",":
                at += 1


cdef void mark_named(Head* head, const char* data) noexcept nogil:
    # Fields that Connection names end here. They still count for us: naming Content-Length hides nothing.
    cdef int i, j
    cdef Py_ssize_t at, start, n
    cdef const char* p
    for i in range(head.n_fields):
        if head.fields[i].name_id != H_CONNECTION:
            continue
        p = data + head.fields[i].value
        n = head.fields[i].value_size
        at = 0
        while at < n:
            start = at
            at = fp_skip(p, at, n, FP_TOKEN)
            if at == start:
                at += 1
                continue
            for j in range(head.n_fields):
                if <Py_ssize_t>head.fields[j].name_size == at - start \
                        and same_name(data + head.fields[j].name, p + start, at - start):
                    head.fields[j].hop = True


cdef bint plain_blanks(const char* data, FieldSpan* field) noexcept nogil:
    # Only spaces before the value, nothing behind it. RFC 9110 5.5 allows more; who uses it hides a coding.
    cdef unsigned int i
    for i in range(field.name + field.name_size + 1, field.value):
        if data[i] != SP:
            return False
    return data[field.value + field.value_size] == CR


cdef int judge(Head* head, Facts* facts, const char* data, FieldSpan* field, bint request) noexcept nogil:
    # One field that framing, connection or credentials depend on. PARSE_DONE: nothing wrong.
    cdef const char* p = data + field.value
    cdef Py_ssize_t n = field.value_size
    cdef int known = field.name_id
    cdef bint again = (facts.seen >> known) & 1
    if known == H_CONTENT_LENGTH:
        if again:
            return fail(head, 400, b"more than one Content-Length", field.name)
        if (facts.seen >> H_TRANSFER_ENCODING) & 1:
            return fail(head, 400, b"Content-Length beside Transfer-Encoding", field.name)
        head.content_length = length_value(p, n)
        if head.content_length < 0:
            return fail(head, 400, b"invalid Content-Length", field.value)
    elif known == H_TRANSFER_ENCODING:
        if again:
            return fail(head, 400, b"more than one Transfer-Encoding", field.name)
        if (facts.seen >> H_CONTENT_LENGTH) & 1:
            return fail(head, 400, b"Transfer-Encoding beside Content-Length", field.name)
        if head.minor == 0:
            return fail(head, 400, b"Transfer-Encoding in HTTP/1.0", field.name)
        if not same_text(p, n, b"chunked", 7) or not plain_blanks(data, field):
            if ends_chunked(p, n):
                return fail(head, 501, b"transfer coding not implemented", field.value)
            return fail(head, 400, b"invalid Transfer-Encoding", field.value)
        head.chunked = True
    elif known == H_CONNECTION:
        if not connection(facts, p, n):
            return fail(head, 400, b"too many Connection options", field.value)
    elif request:
        if known == H_HOST:
            if again:
                return fail(head, 400, b"more than one Host", field.name)
            if not valid_host(p, n) and (n or head.minor):
                return fail(head, 400, b"invalid Host", field.value)
        elif known == H_EXPECT:
            # Only HTTP/1.1 has expectations (RFC 9110 10.1.1).
            if head.minor:
                if again or not same_text(p, n, b"100-continue", 12):
                    facts.unmet = True
                head.expect_continue = True
        elif again:
            return fail(head, 400, b"more than one of a credential field", field.name)
    return PARSE_DONE


cdef int fields(Head* head, Facts* facts, const char* data, Py_ssize_t at, Py_ssize_t end,
                bint request) noexcept nogil:
    # Field lines and the blank line behind them.
    cdef Mask judged = JUDGED_IN_REQUEST if request else FRAMING
    cdef Py_ssize_t start, value, stop
    cdef FieldSpan* field
    cdef int known, got
    while True:
        if at == end:
            return PARSE_MORE
        start = at
        if data[at] == CR:
            if at + 1 == end:
                return PARSE_MORE
            if data[at + 1] != LF:
                return fail(head, 400, b"CR without LF", at)
            head.size = <unsigned int>(at + 2)
            return PARSE_DONE
        at = fp_name_end(data, at, end)
        if at == end:
            return PARSE_MORE
        if data[at] != c":" or at == start:
            if data[at] == SP or data[at] == HTAB:
                if at == start:
                    return fail(head, 400, b"folded or indented field line", at)
                return fail(head, 400, b"space in or behind a field name", at)
            if data[at] == LF or data[at] == CR:
                return fail(head, 400, b"line end in a field name, or LF without CR", at)
            return fail(head, 400, b"empty field name" if at == start and data[at] == c":"
                        else b"invalid byte in a field name", at)
        if head.n_fields == HEAD_MAX_FIELDS:
            return fail(head, 431, b"too many fields", start)
        field = &head.fields[head.n_fields]
        field.name = <unsigned int>start
        field.name_size = <unsigned int>(at - start)
        at += 1
        while at < end and (data[at] == SP or data[at] == HTAB):
            at += 1
        value = at
        at = fp_value_end(data, at, end)
        if at == end:
            return PARSE_MORE
        if data[at] != CR:
            return fail(head, 400, b"LF without CR" if data[at] == LF
                        else b"control byte in a field value", at)
        if at + 1 == end:
            return PARSE_MORE
        if data[at + 1] != LF:
            return fail(head, 400, b"CR without LF", at)
        stop = at
        while stop > value and (data[stop - 1] == SP or data[stop - 1] == HTAB):
            stop -= 1
        at += 2
        known = name_id(data + start, field.name_size)
        field.name_id = known
        field.value = <unsigned int>value
        field.value_size = <unsigned int>(stop - value)
        field.hop = (HOP >> known) & 1
        head.n_fields += 1
        if (judged >> known) & 1:
            got = judge(head, facts, data, field, request)
            if got == PARSE_ERROR:
                return got
        elif known == H_PROXY_AUTHENTICATE:
            field.name_id = H_OTHER
        facts.seen |= <Mask>1 << known


cdef void settle(Head* head, Facts* facts, const char* data) noexcept nogil:
    # `close` beats `keep-alive` (RFC 9112 9.3).
    head.keep_alive = not facts.close and (head.minor == 1 or facts.keep)
    if facts.named:
        mark_named(head, data)


cdef int version(Head* head, const char* data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    # HTTP/d.d; sets minor, or -1 for a version that is not ours.
    cdef const char* want = b"HTTP/0.0"
    cdef Py_ssize_t i
    for i in range(8):
        if at + i == end:
            return PARSE_MORE
        if want[i] == c"0":
            if not 48 <= data[at + i] <= 57:
                return fail(head, 400, b"invalid HTTP version", at + i)
        elif data[at + i] != want[i]:
            return fail(head, 400, b"invalid HTTP version", at + i)
    head.minor = data[at + 7] - 48
    if data[at + 5] != c"1" or head.minor > 1:
        head.minor = -1
    return PARSE_DONE


cdef int target_form(Head* head, const char* data) noexcept nogil:
    # Leaves the origin-form of an absolute-form target. Scheme and authority are checked and dropped: nothing
    # of ours depends on the host the client thinks it talks to.
    cdef Py_ssize_t at = head.target, end = head.target + head.target_size, start
    if data[at] == c"*":
        if head.target_size != 1 or head.method_size != 7 or not is_method(head, data, b"OPTIONS"):
            return fail(head, 400, b"invalid target", at)
    elif data[at] != c"/":
        if end - at > 7 and same_text(data + at, 7, b"http://", 7):
            at += 7
        elif end - at > 8 and same_text(data + at, 8, b"https://", 8):
            at += 8
        else:
            return fail(head, 400, b"invalid target", at)
        start = at
        while at < end and data[at] != c"/" and data[at] != c"?":
            at += 1
        if not valid_host(data + start, at - start):
            return fail(head, 400, b"invalid authority in the target", start)
        if at == end or data[at] != c"/":
            return fail(head, 400, b"target without a path", at)
        head.target = <unsigned int>at
        head.target_size = <unsigned int>(end - at)
    at = head.target
    while at < end and data[at] != c"?":
        at += 1
    head.path_size = <unsigned int>(at - head.target)
    return PARSE_DONE


cdef bint is_method(Head* head, const char* data, const char* upper) noexcept nogil:
    # The caller has compared the size; methods are case-sensitive.
    cdef unsigned int i
    for i in range(head.method_size):
        if data[head.method + i] != upper[i]:
            return False
    return True


cdef int request_line(Head* head, const char* data, Py_ssize_t* at, Py_ssize_t end,
                      Py_ssize_t max_target) noexcept nogil:
    cdef Py_ssize_t pos = 0, start, stop
    cdef int got
    # One empty line before a request is tolerated (RFC 9112 2.2): old clients send it behind a body.
    if pos < end and data[pos] == CR:
        if pos + 1 == end:
            return PARSE_MORE
        if data[pos + 1] != LF:
            return fail(head, 400, b"line end before the request", pos)
        pos += 2
    start = pos
    stop = start + MAX_METHOD + 1 if end - start > MAX_METHOD else end
    pos = fp_skip(data, pos, stop, FP_TOKEN)
    if pos - start > MAX_METHOD:
        return fail(head, 501, b"method too long", start)
    if pos == end:
        return PARSE_MORE
    if data[pos] != SP or pos == start:
        if pos == start and (data[pos] == CR or data[pos] == LF):
            return fail(head, 400, b"line end before the request", pos)
        return fail(head, 400, b"invalid method", pos)
    head.method = <unsigned int>start
    head.method_size = <unsigned int>(pos - start)
    if head.method_size == 7 and is_method(head, data, b"CONNECT"):
        return fail(head, 501, b"CONNECT is not implemented", start)
    pos += 1
    if pos == end:
        return PARSE_MORE
    start = pos
    if not (data[pos] == c"/" or data[pos] == c"*" or (data[pos] | 0x20) == c"h"):
        return fail(head, 400, b"invalid target", pos)
    stop = start + max_target + 1 if end - start > max_target else end
    pos = fp_target_end(data, pos, stop)
    if pos - start > max_target:
        return fail(head, 414, b"target too long", start)
    if pos == end:
        return PARSE_MORE
    if data[pos] != SP:
        if data[pos] == CR or data[pos] == LF:
            return fail(head, 400, b"no HTTP version", pos)
        return fail(head, 400, b"fragment in the target" if data[pos] == c"#"
                    else b"invalid byte in the target", pos)
    head.target = <unsigned int>start
    head.target_size = <unsigned int>(pos - start)
    if target_form(head, data) == PARSE_ERROR:
        return PARSE_ERROR
    pos += 1
    if pos < end and data[pos] == SP:
        return fail(head, 400, b"more than one space before the HTTP version", pos)
    got = version(head, data, pos, end)
    if got != PARSE_DONE:
        return got
    pos += 8
    if pos == end:
        return PARSE_MORE
    if data[pos] != CR:
        return fail(head, 400, b"LF without CR" if data[pos] == LF else b"invalid HTTP version", pos)
    if pos + 1 == end:
        return PARSE_MORE
    if data[pos + 1] != LF:
        return fail(head, 400, b"CR without LF", pos)
    if head.minor < 0:
        head.minor = 0
        return fail(head, 505, b"HTTP version not supported", pos - 8)
    at[0] = pos + 2
    return PARSE_DONE


cdef int status_line(Head* head, const char* data, Py_ssize_t* at, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t pos, i
    cdef int got
    if end > 0 and (data[0] == CR or data[0] == LF):
        return fail(head, 502, b"line end before the response", 0)
    got = version(head, data, 0, end)
    if got != PARSE_DONE:
        return got
    if head.minor < 0:
        head.minor = 0
        return fail(head, 502, b"HTTP version not supported", 5)
    for i in range(8, 12):
        if i == end:
            return PARSE_MORE
        if i == 8:
            if data[i] != SP:
                return fail(head, 502, b"invalid status line", i)
        elif not 48 <= data[i] <= 57 or i == 9 and not 49 <= data[i] <= 53:
            return fail(head, 502, b"invalid status", i)
        else:
            head.status = head.status * 10 + data[i] - 48
    if end == 12:
        return PARSE_MORE
    if data[12] != SP and data[12] != CR:      # the space before an empty reason is often forgotten
        return fail(head, 502, b"invalid status", 12)
    pos = fp_value_end(data, 12, end)
    if pos == end:
        return PARSE_MORE
    if data[pos] != CR:
        return fail(head, 502, b"LF without CR" if data[pos] == LF else b"control byte in the reason", pos)
    if pos + 1 == end:
        return PARSE_MORE
    if data[pos + 1] != LF:
        return fail(head, 502, b"CR without LF", pos)
    at[0] = pos + 2
    return PARSE_DONE


cdef int parse_request(const char* data, Py_ssize_t size, Head* head, Py_ssize_t max_head,
                       Py_ssize_t max_target) noexcept nogil:
    cdef Facts facts = [0, False, False, False, False, 0]
    cdef Py_ssize_t at = 0, end = size if size < max_head else max_head
    cdef int got
    clear(head)
    got = request_line(head, data, &at, end, max_target)
    if got == PARSE_DONE:
        got = fields(head, &facts, data, at, end, True)
    if got == PARSE_MORE and size >= max_head:
        return fail(head, 431, b"head too large", end)
    if got != PARSE_DONE:
        return got
    if head.minor and not (facts.seen >> H_HOST) & 1:
        return fail(head, 400, b"Host is missing", 0)
    if facts.unmet:
        return fail(head, 417, b"unknown expectation", 0)
    settle(head, &facts, data)
    return PARSE_DONE


cdef int parse_response(const char* data, Py_ssize_t size, Head* head, Py_ssize_t max_head,
                        bint to_head_request) noexcept nogil:
    cdef Facts facts = [0, False, False, False, False, 0]
    cdef Py_ssize_t at = 0, end = size if size < max_head else max_head
    cdef int got
    clear(head)
    got = status_line(head, data, &at, end)
    if got == PARSE_DONE:
        got = fields(head, &facts, data, at, end, False)
    if got == PARSE_MORE and size >= max_head:
        return fail(head, 502, b"head too large", end)
    if got != PARSE_DONE:
        if got == PARSE_ERROR:
            head.error_status = 502
        return got
    settle(head, &facts, data)
    if head.status < 200 or head.status == 204:
        # RFC 9110 8.6, RFC 9112 6.1: neither field may be here. A zero is what some servers say all the same.
        if head.chunked or head.content_length > 0:
            return fail(head, 502, b"body announced where none can be", 0)
        head.content_length = 0
    elif head.status == 304 or to_head_request:
        head.content_length = 0              # the fields describe the body another answer would have
        head.chunked = False
    elif not head.chunked and head.content_length < 0:
        head.close_delimited = True
        head.keep_alive = False
    return PARSE_DONE


# Below: the same functions for tests and benchmarks written in Python. The proxy never calls these.

cdef dict as_dict(Head* head, bytes data, int got):
    cdef int i
    cdef FieldSpan* f
    error = None if head.error == NULL else (<bytes>head.error).decode("ascii")
    out = {"result": got, "size": head.size, "error_status": head.error_status,
           "error_at": head.error_at, "error": error}
    if got != PARSE_DONE:
        return out
    out.update(
        status=head.status, minor=head.minor, method=data[head.method:head.method + head.method_size],
        target=data[head.target:head.target + head.target_size],
        path=data[head.target:head.target + head.path_size],
        content_length=head.content_length, chunked=bool(head.chunked), keep_alive=bool(head.keep_alive),
        expect_continue=bool(head.expect_continue), close_delimited=bool(head.close_delimited),
    )
    found = []
    for i in range(head.n_fields):
        f = &head.fields[i]
        found.append((f.name_id, data[f.name:f.name + f.name_size],
                      data[f.value:f.value + f.value_size], bool(f.hop)))
    out["fields"] = found
    return out


def py_parse_request(bytes data, Py_ssize_t max_head=32768, Py_ssize_t max_target=8192):
    """parse_request() as a dict; for tests."""
    cdef Head head
    cdef int got = parse_request(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head, max_head,
                                 max_target)
    return as_dict(&head, data, got)


def py_parse_response(bytes data, bint to_head_request=False, Py_ssize_t max_head=32768):
    """parse_response() as a dict; for tests."""
    cdef Head head
    cdef int got = parse_response(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head, max_head,
                                  to_head_request)
    return as_dict(&head, data, got)


def py_repeat(bytes data, int times, bint response=False):
    """Parse the same head `times` times, for timing; the last result."""
    cdef Head head
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef int _i, got = PARSE_MORE
    with nogil:
        for _i in range(times):
            if response:
                got = parse_response(start, size, &head, 32768, False)
            else:
                got = parse_request(start, size, &head, 32768, 8192)
    return got
