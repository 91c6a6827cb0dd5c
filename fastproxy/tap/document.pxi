# -- the scan of a JSON document: the answer itself, the data of an event, or one of an array


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

cdef enum:
    USAGE_MAX = 4096              # a larger usage object is not read
    WORD_MAX = 32

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
