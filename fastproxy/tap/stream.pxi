# -- the scan of an event stream: lines, events, and the one that is taken out


cdef extern from *:
    """
    /* The first byte from p on that ends a line, or end. Nothing from end on is read. */
    static inline const char *fp_find_eol(const char *p, const char *end) {
    #ifdef FP_SSE2
        for (; end - p >= 16; p += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)p);
            const unsigned mask = FP_BITS(_mm_or_si128(FP_IS(x, '\\n'), FP_IS(x, '\\r')));
            if (mask)
                return p + __builtin_ctz(mask);
        }
    #endif
        while (p < end && *p != '\\n' && *p != '\\r')
            p++;
        return p;
    }
    """
    const char* fp_find_eol(const char* p, const char* end) noexcept nogil

cdef enum:
    EVENT_MAX = 65536             # a larger event is not held, and never dropped

cdef const char* DATA = b"data:"

# Where in a line of the event stream the scan stands.
cdef enum:
    L_START = 0                   # `match` bytes of "data:" were seen
    L_SPACE                       # behind the colon: one space may follow
    L_DATA
    L_OTHER

# What the \n that may follow a \r belongs to.
cdef enum:
    CR_NONE = 0
    CR_LINE                       # to the event
    CR_RELAYED                    # to the end of an event that was relayed
    CR_DROPPED                    # to the end of an event that was dropped


cdef inline void begin_event(AnswerTap t, const char* at) noexcept nogil:
    t.data_lines = 0
    t.keep = False
    t.complete = False
    t.json = J_OFF
    t.event_size = 0
    t.event_start = at


cdef inline bint droppable(AnswerTap t) noexcept nogil:
    """Whether this whole event is the usage chunk that the client did not ask for."""
    return t.drop and not t.keep and t.complete and t.no_choices and t.usage_object


cdef inline void begin_data(AnswerTap t) noexcept nogil:
    """The payload of a data line begins."""
    t.line = L_DATA
    t.data_lines += 1
    if t.data_lines == 1:
        t.events += 1
        if t.events == 2:
            t.said_first = t.said
        begin_document(t)
    else:
        t.keep = True           # a document over several lines is only relayed
        t.json = J_OFF


cdef inline void end_data(AnswerTap t) noexcept nogil:
    """The data line is at its end."""
    if t.json == J_END:
        t.complete = True
    else:
        t.keep = True
        if t.json == J_DONE and t.deep == 6:
            t.done_seen = True
    t.json = J_OFF


cdef int end_event(AnswerTap t, const char* blank, const char* behind) noexcept nogil:
    """The blank line that ends the event stands from blank to behind. Whom a \\n behind it belongs to."""
    cdef int owner = CR_RELAYED
    if t.drop:
        if t.event_size + (blank - t.event_start) <= EVENT_MAX and droppable(t):
            if t.held:
                buf_clear(&t.hold)
                t.held = False
                t.target = t.out
            else:
                relay(t, t.event_start)
            t.relayed = behind
            t.altered = True
            owner = CR_DROPPED
        elif t.held:
            relay(t, behind)
            release(t)
            t.altered = True
    begin_event(t, behind)
    return owner


cdef void scan_lines(AnswerTap t, const char* p, const char* end) noexcept nogil:
    """Goes on in the event stream with these bytes."""
    cdef const char* q
    if t.after_cr != CR_NONE:
        if p[0] == c"\n":
            p += 1
            if t.after_cr == CR_DROPPED:
                t.relayed = p
                t.altered = True
            if t.after_cr != CR_LINE:
                t.event_start = p
        t.after_cr = CR_NONE
    while p < end:
        if t.line == L_START:
            if t.match == 0:
                if p[0] == c"\n":
                    end_event(t, p, p + 1)
                    p += 1
                    continue
                if p[0] == c"\r":
                    q = p
                    p += 1
                    if p < end:
                        if p[0] == c"\n":
                            p += 1
                        end_event(t, q, p)
                    else:
                        t.after_cr = end_event(t, q, p)
                    continue
                if end - p > 6 and memcmp(p, b"data: ", 6) == 0:
                    p += 6
                    begin_data(t)
            if t.line == L_START:
                if p[0] != DATA[t.match]:
                    t.line = L_OTHER
                else:
                    p += 1
                    t.match += 1
                    if t.match == 5:
                        t.line = L_SPACE
                    continue
        elif t.line == L_SPACE:
            if p[0] == 32:
                p += 1
            begin_data(t)

        q = fp_find_eol(p, end)
        if t.line == L_DATA:
            if t.json != J_OFF and q > p:
                scan_document(t, p, q)
        p = q
        if p == end:
            break
        if t.line == L_DATA:
            end_data(t)
        t.line = L_START
        t.match = 0
        p += 1
        if q[0] == c"\r":
            if p == end:
                t.after_cr = CR_LINE
            elif p[0] == c"\n":
                p += 1
