"""AnswerTap: reads usage and rewrites `model` in an answer that passes by, as JSON body or SSE stream.

Bytes leave as they arrive. The scan is light: it knows strings and brackets, looks at the keys of the
document's object (and of `message` or `response` in it) and passes over the rest. What it does not understand
it relays untouched: judging the answer is the client's business.

It must not know HTTP, prices, or who is asking.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset

from fastproxy._buffer cimport Buffer, buf_add, buf_clear, buf_free, buf_init
from fastproxy._json cimport close_quote, fp_find_bracket, in_atom, skip_space
from fastproxy._usage cimport Usage, as_dict, merge_usage, parse_usage, read_usage, write_cost

cdef extern from *:
    """
    /* How many bits are set: the builtin is a call where the build may not assume the instruction. */
    static inline int fp_count(unsigned bits) {
    #ifdef __POPCNT__
        return __builtin_popcount(bits);
    #else
        bits -= bits >> 1 & 0x55555555;
        bits = (bits & 0x33333333) + (bits >> 2 & 0x33333333);
        return ((bits + (bits >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24;
    #endif
    }

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

    /* Passes over what is nested, 32 bytes at a time, as long as that is easy: short strings without backslashes.
       Starts outside of strings and stops there; *deep counts the open containers, and at 0 it is done; *said grows by
       the bytes of strings, each with its opening quote. */
    static inline const char *fp_skip_nested(const char *p, const char *end, int *deep, long long *said) {
    #ifdef FP_SSE2
        int open = *deep;
        while (end - p >= 32) {
            const __m128i a = _mm_loadu_si128((const __m128i *)p);
            const __m128i b = _mm_loadu_si128((const __m128i *)(p + 16));
            const __m128i c = _mm_or_si128(a, _mm_set1_epi8(0x20));
            const __m128i d = _mm_or_si128(b, _mm_set1_epi8(0x20));
            const unsigned slashes = FP_BITS(_mm_or_si128(FP_IS(a, '\\\\'), FP_IS(b, '\\\\')));
            const unsigned quotes = FP_BITS(FP_IS(a, '"')) | FP_BITS(FP_IS(b, '"')) << 16;
            const unsigned opening = FP_BITS(FP_IS(c, '{')) | FP_BITS(FP_IS(d, '{')) << 16;
            const unsigned closing = FP_BITS(FP_IS(c, '}')) | FP_BITS(FP_IS(d, '}')) << 16;
            unsigned inside = quotes, brackets;
            int size = 32;
            if (slashes)
                break;
            /* from each opening quote to the byte before the closing one */
            inside ^= inside << 1;
            inside ^= inside << 2;
            inside ^= inside << 4;
            inside ^= inside << 8;
            inside ^= inside << 16;
            if (inside >> 31) {
                /* the last string goes on: next time from its quote */
                size = 31 - __builtin_clz(quotes);
                if (size == 0)
                    break;
            }
            brackets = (opening | closing) & ~inside;
            inside &= (unsigned)((1ULL << size) - 1);
            while (brackets) {
                if (brackets & -brackets & opening) {
                    open++;
                } else if (--open == 0) {
                    const int at = __builtin_ctz(brackets);
                    *deep = 0;
                    *said += fp_count(inside & ((1u << at) - 1));
                    return p + at + 1;
                }
                brackets &= brackets - 1;
            }
            *said += fp_count(inside);
            p += size;
        }
        *deep = open;
    #endif
        return p;
    }
    """
    const char* fp_skip_nested(const char* p, const char* end, int* deep, long long* said) noexcept nogil
    const char* fp_find_eol(const char* p, const char* end) noexcept nogil

cdef enum:
    USAGE_MAX = 4096              # a larger usage object is not read
    EVENT_MAX = 65536             # a larger event is not held, and never dropped
    WORD_MAX = 32

cdef const char* DATA = b"data:"
cdef const char* DONE = b"[DONE]"

# Where in the document the scan stands.
cdef enum:
    J_OFF = 0                     # not understood, or nothing more to see
    J_START
    J_KEY_OR_END                  # behind '{'
    J_KEY
    J_COLON
    J_VALUE
    J_AFTER                       # behind a value
    J_END                         # behind the document
    J_IN_KEY
    J_IN_STRING
    J_IN_TYPE
    J_IN_MODEL                    # in a model that was replaced already: it is taken out
    J_ATOM                        # number, true, false, null
    J_CHOICES                     # behind the '[' of choices
    J_SKIP                        # in a container that nobody reads
    J_SKIP_STRING
    J_IMAGES                      # in data, whose objects are counted
    J_IMAGES_STRING
    J_DONE                        # in [DONE]

# Keys that matter.
cdef enum:
    K_OTHER = 0
    K_MODEL
    K_USAGE
    K_CHOICES
    K_TYPE
    K_ID
    K_DATA
    K_INNER                       # message, response
    K_DELTA                       # of an event of the Responses API: text

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


# --- relaying -----------------------------------------------------------------------------------------------

cdef inline void relay(AnswerTap t, const char* upto) noexcept nogil:
    """Everything before upto goes its way."""
    if upto > t.relayed:
        buf_add(t.target, t.relayed, upto - t.relayed)
        t.relayed = upto


cdef inline void hold_event(AnswerTap t) noexcept nogil:
    """From here on the bytes of this event are kept back."""
    if not t.held:
        relay(t, t.event_start)
        t.held = True
        t.target = &t.hold


cdef inline void release(AnswerTap t) noexcept nogil:
    """What was kept back goes to the client."""
    if t.hold.failed:
        t.out.failed = True
    buf_add(t.out, t.hold.data, t.hold.size)
    buf_clear(&t.hold)
    t.held = False
    t.target = t.out


cdef void replace_model(AnswerTap t, const char* start, const char* end) noexcept nogil:
    """The inside of a model value is from start to end: the client's name goes out in its place."""
    if t.drop and not t.keep:
        hold_event(t)
    relay(t, start)
    buf_add(t.target, t.name_data, t.name_size)
    t.relayed = end
    t.altered = True


cdef void add_cost(AnswerTap t, const char* brace, const Usage* usage) noexcept nogil:
    """The usage object that was read ends at this brace: what it costs goes before it."""
    cdef char text[48]
    cdef long long nano
    if usage.priced or usage.input_tokens + usage.output_tokens == 0:
        return
    nano = t.pricer(t.whose, usage)
    if nano >= 0:
        relay(t, brace)
        buf_add(t.target, text, write_cost(text, nano))
        t.altered = True


cdef inline void take_usage(AnswerTap t, const char* brace, const Usage* usage) noexcept nogil:
    """A usage object was read; it ends at this brace."""
    if usage.seen:
        t.told_at = t.events
        merge_usage(&t.usage, usage)
    if t.pricer != NULL:
        add_cost(t, brace, usage)


# --- the document -------------------------------------------------------------------------------------------

cdef inline int key_of(const char* key, Py_ssize_t size, int level) noexcept nogil:
    if size == 5:
        if memcmp(key, b"model", 5) == 0:
            return K_MODEL
        if memcmp(key, b"usage", 5) == 0:
            return K_USAGE
        if memcmp(key, b"delta", 5) == 0:
            return K_DELTA
    elif size == 2:
        if key[0] == c"i" and key[1] == c"d":
            return K_ID
    elif size == 20 and memcmp(key, b"previous_response_id", 20) == 0:
        return K_ID
    elif size == 13 and memcmp(key, b"usageMetadata", 13) == 0:       # Gemini's name for it
        return K_USAGE
    elif level == 1:
        if size == 7:
            if memcmp(key, b"choices", 7) == 0:
                return K_CHOICES
            if memcmp(key, b"message", 7) == 0:
                return K_INNER
        elif size == 4:
            if memcmp(key, b"type", 4) == 0:
                return K_TYPE
            if memcmp(key, b"data", 4) == 0:
                return K_DATA
        elif size == 8:
            if memcmp(key, b"response", 8) == 0:
                return K_INNER
    return K_OTHER


cdef inline bint ends_stream(const char* kind, Py_ssize_t size) noexcept nogil:
    """Whether an event of this type is the last one."""
    if size == 12:
        return memcmp(kind, b"message_stop", 12) == 0
    if size == 18:
        return memcmp(kind, b"response.completed", 18) == 0
    if size == 19:
        return memcmp(kind, b"response.incomplete", 19) == 0
    return size == 15 and memcmp(kind, b"response.failed", 15) == 0


cdef inline bint brings_image(const char* kind, Py_ssize_t size) noexcept nogil:
    """Whether an event of this type has an image that is finished."""
    if size == 20:
        return memcmp(kind, b"image_edit.completed", 20) == 0
    return size == 26 and memcmp(kind, b"image_generation.completed", 26) == 0


cdef inline void note_type(AnswerTap t, const char* kind, Py_ssize_t size) noexcept nogil:
    if ends_stream(kind, size):
        t.done_seen = True
    elif t.count_images and brings_image(kind, size):
        t.usage.images += 1


cdef inline void keep_word(AnswerTap t, const char* start, const char* end) noexcept nogil:
    """A part of a key or type that two feeds cut."""
    if end - start > WORD_MAX - t.word_size:
        t.word_size = WORD_MAX + 1
    else:
        memcpy(t.word + t.word_size, start, end - start)
        t.word_size += <int>(end - start)


cdef inline void capture(AnswerTap t, const char* start, const char* end) noexcept nogil:
    """A part of a usage object that two feeds cut."""
    if end - start > USAGE_MAX - t.captured_size:
        t.captured_size = USAGE_MAX + 1
    else:
        memcpy(t.captured + t.captured_size, start, end - start)
        t.captured_size += <int>(end - start)


cdef inline void begin_document(AnswerTap t) noexcept nogil:
    t.json = J_START
    t.level = 0
    t.escape = False
    t.capturing = False
    t.no_choices = False
    t.usage_object = False


cdef const char* scan_document(AnswerTap t, const char* p, const char* end) noexcept nogil:
    """Goes on in the document with these bytes. Returns where it stopped: at end, or behind an element of an array."""
    cdef const char* start = p       # of the key, type or usage object in hand, as far as it is here
    cdef const char* q
    cdef int state = t.json
    cdef int level = t.level
    cdef int key = t.key
    cdef int deep = t.deep
    cdef bint escape = t.escape
    cdef long long said = 0
    cdef char c
    cdef Usage usage
    if state == J_OFF:
        return end
    while p < end:
        c = p[0]
        if state < J_IN_KEY:
            if c == 32 or c == 10 or c == 13 or c == 9:
                p += 1
                continue
            if state == J_AFTER:
                p += 1
                if c == c",":
                    if p < end and p[0] == c'"':
                        p += 1
                        start = p
                        t.word_size = 0
                        state = J_IN_KEY
                        if p == end:
                            break
                    else:
                        state = J_KEY
                        continue
                elif c == c"}":
                    level -= 1
                    if level == 0:
                        state = J_END
                    continue
                else:
                    state = J_OFF
                    break
            elif state == J_VALUE:
                p += 1
                if c == c'"':
                    if key == K_MODEL and t.name_data != NULL:
                        q = close_quote(p, end, &escape)
                        if q == end:
                            state = J_IN_MODEL
                            replace_model(t, p, end)
                            p = end
                            break
                        if q - p != t.name_size or memcmp(p, t.name_data, t.name_size) != 0:
                            replace_model(t, p, q)
                        p = q + 1
                        state = J_AFTER
                        continue
                    if key == K_ID and t.mark_data != NULL and (level == 2) == (t.mode == TAP_SSE):
                        relay(t, p)
                        buf_add(t.target, t.mark_data, t.mark_size)
                        t.altered = True
                    if key == K_TYPE:
                        start = p
                        t.word_size = 0
                        state = J_IN_TYPE
                    else:
                        state = J_IN_STRING
                        if key == K_CHOICES:
                            t.keep = True
                    if p == end:
                        break
                elif c == c"{":
                    if key == K_INNER:
                        level = 2
                        state = J_KEY_OR_END
                        continue
                    if key == K_USAGE:
                        if level == 1:
                            t.usage_object = True
                        p -= 1
                        q = read_usage(p, end if end - p <= USAGE_MAX else p + USAGE_MAX, &usage)
                        if q != NULL:
                            take_usage(t, q - 1, &usage)
                            p = q
                            state = J_AFTER
                            continue
                        t.capturing = True
                        t.said += said
                        said = 0
                        t.captured_size = 0
                        start = p
                        p += 1
                    elif key == K_CHOICES:
                        t.keep = True
                    deep = 1
                    state = J_SKIP
                    continue
                elif c == c"[":
                    deep = 1
                    state = J_CHOICES if key == K_CHOICES else J_IMAGES if key == K_DATA and t.count_images else J_SKIP
                    continue
                elif in_atom(c):
                    if key == K_CHOICES:
                        t.keep = True
                    state = J_ATOM
                    continue
                else:
                    state = J_OFF
                    break
            elif state == J_KEY or state == J_KEY_OR_END:
                p += 1
                if c == c'"':
                    start = p
                    t.word_size = 0
                    state = J_IN_KEY
                    if p == end:
                        break
                elif c == c"}" and state == J_KEY_OR_END:
                    p -= 1
                    state = J_AFTER
                    continue
                else:
                    state = J_OFF
                    break
            elif state == J_COLON:
                if c != c":":
                    state = J_OFF
                    break
                p += 1
                state = J_VALUE
                continue
            elif state == J_START:
                p += 1
                if c == c"{":
                    level = 1
                    state = J_KEY_OR_END
                elif c == c"[" and t.mode == TAP_SSE:
                    deep = 1
                    state = J_DONE
                else:
                    state = J_OFF
                    break
                continue
            else:
                if not t.many:
                    state = J_OFF
                break

        if state == J_IN_KEY:
            q = close_quote(p, end, &escape)
            p = q
            if q == end:
                break
            if t.word_size == 0:
                key = key_of(start, q - start, level)
            else:
                keep_word(t, start, q)
                key = key_of(t.word, t.word_size, level)
            p += 1
            if p < end and p[0] == c":":
                p += 1
                state = J_VALUE
            else:
                state = J_COLON
        elif state == J_IN_STRING:
            q = p
            p = close_quote(p, end, &escape)
            if key == K_DELTA:
                t.delta_bytes += p - q
            if p == end:
                break
            p += 1
            state = J_AFTER
        elif state == J_SKIP:
            while True:
                p = fp_skip_nested(p, end, &deep, &said)
                if deep == 0:
                    state = J_AFTER
                    break
                p = fp_find_bracket(p, end)
                if p == end:
                    break
                c = p[0]
                p += 1
                if c == c'"':
                    q = p - 1
                    p = close_quote(p, end, &escape)
                    said += p - q
                    if p == end:
                        state = J_SKIP_STRING
                        break
                    p += 1
                elif c == c"{" or c == c"[":
                    deep += 1
                else:
                    deep -= 1
                    if deep == 0:
                        state = J_AFTER
                        break
            if state == J_AFTER and t.capturing:
                t.capturing = False
                said = 0
                capture(t, start, p)
                if t.captured_size <= USAGE_MAX and parse_usage(t.captured, t.captured_size, &usage):
                    take_usage(t, p - 1, &usage)
        elif state == J_IMAGES:
            p = fp_find_bracket(p, end)
            if p == end:
                break
            c = p[0]
            p += 1
            if c == c'"':
                state = J_IMAGES_STRING
            elif c == c"{" or c == c"[":
                t.usage.images += deep == 1 and c == c"{"
                deep += 1
            else:
                deep -= 1
                if deep == 0:
                    state = J_AFTER
        elif state == J_SKIP_STRING or state == J_IMAGES_STRING:
            q = p
            p = close_quote(p, end, &escape)
            if state == J_SKIP_STRING:
                said += p - q
            if p == end:
                break
            p += 1
            state = J_SKIP if state == J_SKIP_STRING else J_IMAGES
        elif state == J_ATOM:
            while p < end and in_atom(p[0]):
                p += 1
            if p < end:
                state = J_AFTER
        elif state == J_CHOICES:
            p = skip_space(p, end)
            if p < end:
                if p[0] == c"]":
                    t.no_choices = True
                    p += 1
                    state = J_AFTER
                else:
                    t.keep = True
                    state = J_SKIP
        elif state == J_IN_TYPE:
            q = close_quote(p, end, &escape)
            p = q
            if q == end:
                break
            if t.word_size == 0:
                note_type(t, start, q - start)
            else:
                keep_word(t, start, q)
                note_type(t, t.word, t.word_size)
            p += 1
            state = J_AFTER
        elif state == J_IN_MODEL:
            relay(t, p)
            p = close_quote(p, end, &escape)
            t.relayed = p
            t.altered = True
            if p == end:
                break
            p += 1
            state = J_AFTER
        else:                                  # J_DONE
            if deep < 6 and c == DONE[deep] or deep == 6 and c == 32:
                p += 1
                if deep < 6:
                    deep += 1
            else:
                state = J_OFF
                break
    if state == J_IN_KEY or state == J_IN_TYPE:
        keep_word(t, start, end)
    elif t.capturing:
        capture(t, start, end)
    if state == J_OFF:
        t.keep = True
    if not t.capturing:
        t.said += said
    t.json = state
    t.level = level
    t.key = key
    t.deep = deep
    t.escape = escape
    return p if state == J_END else end


cdef void scan_body(AnswerTap t, const char* p, const char* end) noexcept nogil:
    """Goes on in a JSON body: a document, or an array of them, each of which is as an event of a stream."""
    if t.json == J_START and not t.many:
        p = skip_space(p, end)
        if p < end and p[0] == c"[":
            p += 1
            t.many = True
            t.events = 1
    while True:
        p = scan_document(t, p, end)
        if p == end or t.json == J_OFF:
            return
        if p[0] == c",":
            if t.events == 1:
                t.said_first = t.said
            t.events += 1
            t.json = J_START
        elif p[0] == c"]":
            t.many = False
        else:
            t.json = J_OFF
        p += 1


# --- the event stream ---------------------------------------------------------------------------------------

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


cdef class AnswerTap:
    """One answer. begin() makes it ready for the next."""

    def __cinit__(self) -> None:
        buf_init(&self.hold)
        self.begin(TAP_OFF, None, False)

    def __dealloc__(self) -> None:
        buf_free(&self.hold)

    cdef void begin(self, int mode, bytes model, bint drop_usage, bytes mark=None) noexcept:
        """Forget the last answer; see the header for what the arguments mean."""
        self.mark = mark
        self.mark_data = NULL
        if mark is not None:
            self.mark_data = PyBytes_AS_STRING(mark)
            self.mark_size = PyBytes_GET_SIZE(mark)
        self.name = model
        self.name_data = NULL
        self.name_size = 0
        if model is not None:
            self.name_data = PyBytes_AS_STRING(model)
            self.name_size = PyBytes_GET_SIZE(model)
        self.mode = mode
        self.drop = drop_usage and mode == TAP_SSE
        self.count_images = False
        self.many = False
        self.pricer = NULL
        memset(&self.usage, 0, sizeof(Usage))
        self.events = 0
        self.told_at = self.said = self.said_first = self.delta_bytes = 0
        self.done_seen = False
        self.key = K_OTHER
        self.deep = 0
        self.word_size = 0
        self.line = L_START
        self.match = 0
        self.after_cr = CR_NONE
        buf_clear(&self.hold)
        self.held = False
        begin_event(self, NULL)
        begin_document(self)

    cdef int feed(self, const char* data, Py_ssize_t size, Buffer* out) noexcept nogil:
        """The next bytes of the answer. 0: relay them as they are; 1: relay what was added to out instead."""
        cdef const char* end = data + size
        if self.mode == TAP_OFF or size <= 0:
            return 0
        self.out = out
        self.target = &self.hold if self.held else out
        self.relayed = data
        self.event_start = data
        self.altered = False
        if self.mode == TAP_JSON:
            if self.json != J_OFF:
                scan_body(self, data, end)
        else:
            scan_lines(self, data, end)
            if self.drop:
                self.event_size += end - self.event_start
                if self.event_size > EVENT_MAX:
                    self.keep = True
                if self.event_size > 0 and not self.keep:
                    hold_event(self)
                if self.held:
                    self.altered = True
                    relay(self, end)
                    if self.keep:
                        release(self)
        if self.altered:
            relay(self, end)
            return 1
        return 0

    cdef bint truncated(self) noexcept nogil:
        return self.mode == TAP_JSON and (self.json != J_END or self.many) and self.json != J_OFF

    cdef void finish(self, Buffer* out) noexcept nogil:
        """The answer is over: what was held goes to out (or away, if it is the usage chunk)."""
        self.out = out
        if self.held:
            if self.line == L_DATA:
                end_data(self)
            if droppable(self):
                buf_clear(&self.hold)
                self.held = False
            else:
                release(self)

    # --- test surface -----------------------------------------------------------------------------------

    def py_begin(self, int mode, model: bytes | None = None, bint drop_usage=False, mark: bytes | None = None,
                 bint count_images=False, cost: int | None = None) -> None:
        """begin(); cost: what every usage object costs."""
        self.begin(mode, model, drop_usage, mark)
        self.count_images = count_images
        if cost is not None:
            self.test_cost = cost
            self.whose = &self.test_cost
            self.pricer = told_cost

    def py_feed(self, bytes data not None) -> bytes | None:
        """feed(): None stands for 'as it is'."""
        cdef Buffer out
        cdef bytes result = None
        buf_init(&out)
        if self.feed(data, len(data), &out):
            result = out.data[:out.size] if out.size else b""
        buf_free(&out)
        return result

    def py_finish(self) -> bytes:
        """finish()"""
        cdef Buffer out
        cdef bytes result
        buf_init(&out)
        self.finish(&out)
        result = out.data[:out.size] if out.size else b""
        buf_free(&out)
        return result

    def py_state(self) -> dict[str, object]:
        """What was learnt."""
        return {
            "usage": as_dict(&self.usage) if self.usage.seen else None,
            "events": self.events,
            "told_at": self.told_at,
            "said": self.said,
            "said_first": self.said_first,
            "delta_bytes": self.delta_bytes,
            "done_seen": bool(self.done_seen),
            "images": self.usage.images,
        }


cdef long long told_cost(void* whose, const Usage* usage) noexcept nogil:
    return (<long long*>whose)[0]
