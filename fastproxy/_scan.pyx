"""JsonScan: a strict, resumable, single pass over a JSON request body.

It proves that the body has exactly one reading (RFC 8259 grammar at every depth, UTF-8, no BOM, no field
of ours twice) and notes where the fields are that later steps read. It builds nothing, copies nothing but
a key cut by two feeds, and gives the same result however the body is split.

It must not know what the fields mean, HTTP, or Python objects outside the `def` test surface.
"""

from libc.string cimport memcmp, memcpy, memset

from fastproxy._fields cimport F_COUNT, F_LITELLM, duplicate_message, field_of
from fastproxy._json cimport FP_ESCAPE, FP_SPACE, Field, decode, fp_class, fp_hex, fp_skip_space, kind_of

from fastproxy._fields import FIELD_NAMES

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #ifdef FP_SSE2
    /* One bit per byte that may not stand in a string as it is. A signed compare with 0x20 catches control
       characters and bytes from 0x80 on at once. */
    static inline unsigned fp_special16(const unsigned char *p) {
        const __m128i x = _mm_loadu_si128((const __m128i *)p);
        const __m128i odd = _mm_or_si128(
            _mm_or_si128(FP_IS(x, '"'), FP_IS(x, '\\\\')),
            _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)));
        return FP_BITS(odd);
    }
    #else
    /* Non-zero if one of eight bytes may not stand in a string as it is (it may be non-zero without cause
       only above a byte that is one). */
    static inline uint64_t fp_special8(const unsigned char *p) {
        const uint64_t ones = 0x0101010101010101ull;
        uint64_t x, quote, slash;
        memcpy(&x, p, 8);
        quote = x ^ (ones * '"');
        slash = x ^ (ones * '\\\\');
        return (x | (x - ones * 0x20) | (quote - ones) | (slash - ones)) & (ones * 0x80);
    }
    #endif

    /* The first byte from p on that is not plain; end if there is none. Never reads at or behind end. */
    static inline const unsigned char *fp_skip_plain(const unsigned char *p, const unsigned char *end) {
    #ifdef FP_SSE2
        unsigned mask;
        while (end - p >= 16) {
            mask = fp_special16(p);
            if (mask)
                return p + __builtin_ctz(mask);
            p += 16;
        }
    #else
        while (end - p >= 8 && !fp_special8(p))
            p += 8;
    #endif
        while (p < end && (fp_class[*p] & FP_PLAIN))
            p++;
        return p;
    }

    /* Passes over whole and valid multi-byte UTF-8 characters. Stops at ASCII, at a fault and at a character
       that end cuts; the caller looks at those byte by byte. */
    static inline const unsigned char *fp_skip_utf8(const unsigned char *p, const unsigned char *end) {
        while (end - p >= 4) {
            const unsigned char a = p[0], b = p[1], c = p[2], d = p[3];
            if (a < 0xc2) {
                return p;
            } else if (a < 0xe0) {
                if ((b & 0xc0) != 0x80)
                    return p;
                p += 2;
            } else if (a < 0xf0) {
                if ((b & 0xc0) != 0x80 || (c & 0xc0) != 0x80)
                    return p;
                if ((a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f))
                    return p;
                p += 3;
            } else {
                if (a > 0xf4 || (b & 0xc0) != 0x80 || (c & 0xc0) != 0x80 || (d & 0xc0) != 0x80)
                    return p;
                if ((a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f))
                    return p;
                p += 4;
            }
        }
        return p;
    }

    /* Length of the whole and valid escape that begins with the backslash at p (a surrogate pair is one
       escape), or 0: the caller then looks byte by byte. */
    static inline int fp_escape_length(const unsigned char *p, const unsigned char *end) {
        int unit, low;
        if (end - p < 2)
            return 0;
        if (fp_class[p[1]] & FP_ESCAPE)
            return 2;
        if (p[1] != 'u' || end - p < 6)
            return 0;
        if ((fp_hex[p[2]] | fp_hex[p[3]] | fp_hex[p[4]] | fp_hex[p[5]]) < 0)
            return 0;
        unit = fp_hex[p[2]] << 4 | fp_hex[p[3]];
        if ((unit & 0xf8) != 0xd8)
            return 6;
        if (unit >= 0xdc || end - p < 12 || p[6] != '\\\\' || p[7] != 'u')
            return 0;
        if ((fp_hex[p[8]] | fp_hex[p[9]] | fp_hex[p[10]] | fp_hex[p[11]]) < 0)
            return 0;
        low = fp_hex[p[8]] << 4 | fp_hex[p[9]];
        return (low & 0xfc) == 0xdc ? 12 : 0;
    }
    """
    const unsigned char* fp_skip_plain(const unsigned char* p, const unsigned char* end) noexcept nogil
    const unsigned char* fp_skip_utf8(const unsigned char* p, const unsigned char* end) noexcept nogil
    int fp_escape_length(const unsigned char* p, const unsigned char* end) noexcept nogil

cdef enum:
    MAX_DEPTH = 128
    MAX_KEYS = 10000
    MAX_NUMBER = 128
    MAX_NAME = 64          # a decoded top-level key that can match
    MAX_LITELLM = 16

# What comes next. White space may stand before each of the states below S_STRING.
cdef enum:
    S_START = 0            # the top-level '{'
    S_KEY_OR_END           # behind '{'
    S_KEY                  # behind ',' in an object
    S_COLON
    S_VALUE
    S_VALUE_OR_END         # behind '['
    S_AFTER                # behind a value: ',' or the end of its container
    S_END                  # behind the document
    S_STRING               # inside a string, between two characters
    S_ESCAPE               # behind a backslash
    S_HEX                  # inside the four digits of \u
    S_LOW                  # behind a high surrogate: its low one must follow
    S_UTF8                 # inside a multi-byte character
    S_NUMBER
    S_LITERAL
    S_ERROR

# Where in a number the scan stands: what was read last.
cdef enum:
    N_MINUS = 0
    N_ZERO
    N_INT
    N_DOT
    N_FRACTION
    N_E
    N_SIGN
    N_EXPONENT

cdef class JsonScan:
    """One request body. reset() makes it ready for the next."""

    def __cinit__(self) -> None:
        self.present = 0xFFFFFFFF
        self.reset()

    cdef void reset(self) noexcept nogil:
        """Forget the last document."""
        cdef int i
        if self.present:
            for i in range(F_COUNT):
                if self.present >> i & 1:
                    memset(&self.fields[i], 0, sizeof(Field))
        self.present = 0
        self.litellm_count = 0
        self.error = NULL
        self.error_at = 0
        self.offset = 0
        self.open_end = 0
        self.close_start = -1
        self.state = S_START
        self.depth = 0
        self.keys = 0
        self.current = -1
        self.is_key = False
        self.escaped = False
        self.high = False
        self.raw_size = 0
        self.raw_cut = False

    cdef const char* top_key(
        self, const unsigned char* raw, Py_ssize_t size, bint escaped, bint cut
    ) noexcept nogil:
        """A top-level key was read: which field is it? Returns what is wrong with it, or NULL."""
        cdef unsigned char name[MAX_NAME]
        cdef bint whole
        cdef int field
        self.keys += 1
        if self.keys > MAX_KEYS:
            return b"too many fields"
        if escaped:
            size = decode(raw, size, name, MAX_NAME, &whole)
            raw = name
            cut = cut or not whole
        if cut or size > MAX_NAME:
            # Too long for any name of the table; only the prefix can still match.
            field = F_LITELLM if size >= 8 and memcmp(raw, b"litellm_", 8) == 0 else -1
        else:
            field = field_of(raw, size)
        self.current = field
        if field < 0:
            return NULL
        if field == F_LITELLM:
            if self.litellm_count >= MAX_LITELLM:
                return b"too many fields that begin with litellm_"
        elif self.present >> field & 1:
            return duplicate_message(field)
        return NULL

    cdef inline void close_value(self, Py_ssize_t end) noexcept nogil:
        """The value of the current top-level field is complete."""
        cdef Field* field = &self.fields[self.current]
        self.value.end = end
        if self.current == F_LITELLM:
            self.litellm[self.litellm_count] = self.value
            self.litellm_count += 1
        if self.current != F_LITELLM or self.litellm_count == 1:
            field[0] = self.value
        self.present |= 1u << self.current
        self.current = -1

    cdef int feed(self, const char* data, Py_ssize_t size) noexcept nogil:
        """Scan the next bytes of the body: SCAN_MORE, SCAN_DONE or SCAN_ERROR."""
        cdef const unsigned char* base = <const unsigned char*>data
        cdef const unsigned char* p = base
        cdef const unsigned char* q
        cdef const unsigned char* end = base + size
        cdef const unsigned char* key_from = base   # the inside of a top-level key, as far as it is here
        cdef const char* message = NULL
        cdef Py_ssize_t shift = self.offset
        cdef Py_ssize_t room
        cdef int state = self.state
        cdef int depth = self.depth
        cdef int number = self.number
        cdef int step
        cdef bint in_object = depth > 0 and self.stack[depth]
        cdef bint is_key = self.is_key
        cdef bint escaped = self.escaped
        cdef unsigned char c

        while p < end:
            if state < S_STRING:
                c = p[0]
                if c <= 32 and fp_class[c] & FP_SPACE:
                    p += 1
                    if p < end and p[0] <= 32:
                        p = <const unsigned char*>fp_skip_space(<const char*>p, <const char*>end)
                    continue
                if state == S_AFTER:
                    if c == c",":
                        p += 1
                        if not in_object:
                            state = S_VALUE
                            continue
                        if p == end or p[0] != c'"':
                            state = S_KEY
                            continue
                        # the usual case, '","' without white space: straight into the key
                        is_key = True
                    elif c == c"}" or c == c"]":
                        if in_object != (c == c"}"):
                            message = b"closing bracket does not match the opening one"
                            break
                        p += 1
                        depth -= 1
                        if depth <= 1:
                            if depth == 0:
                                state = S_END
                                self.close_start = shift + (p - 1 - base)
                                continue
                            if self.current >= 0:
                                self.close_value(shift + (p - base))
                        in_object = self.stack[depth]
                        continue
                    else:
                        message = b"expected a comma or a closing bracket"
                        break
                elif state == S_VALUE or state == S_VALUE_OR_END:
                    if state == S_VALUE_OR_END and c == c"]":
                        state = S_AFTER
                        continue
                    if depth == 1 and self.current >= 0:
                        self.value.start = shift + (p - base)
                        self.value.escaped = False
                        self.value.kind = kind_of(c)
                    if c == c'"':
                        is_key = False
                    elif c == c"{" or c == c"[":
                        if depth == MAX_DEPTH:
                            message = b"nested too deeply"
                            break
                        depth += 1
                        in_object = c == c"{"
                        self.stack[depth] = in_object
                        state = S_KEY_OR_END if in_object else S_VALUE_OR_END
                        p += 1
                        continue
                    elif c == c"-" or (c >= c"0" and c <= c"9"):
                        self.number_start = shift + (p - base)
                        number = N_MINUS if c == c"-" else N_ZERO if c == c"0" else N_INT
                        state = S_NUMBER
                        p += 1
                    elif c == c"t" or c == c"f" or c == c"n":
                        self.literal = b"true" if c == c"t" else b"false" if c == c"f" else b"null"
                        self.literal += 1
                        state = S_LITERAL
                        p += 1
                    else:
                        message = b"expected a value"
                        break
                elif state == S_KEY or state == S_KEY_OR_END:
                    if c == c'"':
                        is_key = True
                    elif c == c"}" and state == S_KEY_OR_END:
                        state = S_AFTER
                        continue
                    else:
                        message = b"expected a field name in double quotes"
                        break
                elif state == S_COLON:
                    if c != c":":
                        message = b"expected a colon"
                        break
                    state = S_VALUE
                    p += 1
                    continue
                elif state == S_START:
                    if c != c"{":
                        if c == 0xEF:
                            message = b"the document begins with a byte order mark"
                        elif c >= 0x80 or c == 0:
                            message = b"the document is not UTF-8"
                        else:
                            message = b"the document is not an object"
                        break
                    p += 1
                    depth = 1
                    self.stack[1] = True
                    in_object = True
                    self.open_end = shift + (p - base)
                    state = S_KEY_OR_END
                    continue
                else:
                    message = b"bytes behind the end of the document"
                    break

                if state < S_STRING:
                    # p is at the opening quote of a key or a value
                    p += 1
                    escaped = False
                    state = S_STRING
                    if is_key and depth == 1:
                        self.value.key_start = shift + (p - 1 - base)
                        key_from = p

            if state == S_STRING:
                q = fp_skip_plain(p, end)
                while q < end and q[0] != c'"':
                    p = q
                    if q[0] == c"\\":
                        escaped = True
                        step = fp_escape_length(q, end)
                        if step == 0:
                            break
                        q = fp_skip_plain(q + step, end)
                    elif q[0] >= 0x80:
                        q = fp_skip_utf8(q, end)
                        if q == p:
                            break
                        q = fp_skip_plain(q, end)
                    else:
                        break
                p = q
                if q == end:
                    break
                c = q[0]
                if c == c'"':
                    p += 1
                    if is_key:
                        is_key = False
                        if depth == 1:
                            if self.raw_size:
                                # the key was cut: go on in the copy of its first part
                                self.keep_key(key_from, q)
                                message = self.top_key(self.raw, self.raw_size, escaped, self.raw_cut)
                                self.raw_size = 0
                                self.raw_cut = False
                            else:
                                message = self.top_key(key_from, q - key_from, escaped, False)
                            if message != NULL:
                                self.error_at = self.value.key_start
                                break
                        if p < end and p[0] == c":":
                            p += 1
                            state = S_VALUE
                        else:
                            state = S_COLON
                    else:
                        state = S_AFTER
                        if depth == 1 and self.current >= 0:
                            self.value.escaped = escaped
                            self.close_value(shift + (p - base))
                elif c == c"\\":
                    self.high = False
                    state = S_ESCAPE
                    p += 1
                elif c < 0x20:
                    message = b"control character in a string"
                    break
                else:
                    # a character that the end of these bytes cuts, or a wrong one
                    self.low_bound = 0x80
                    self.high_bound = 0xBF
                    if c >= 0xC2 and c <= 0xDF:
                        self.left = 1
                    elif c >= 0xE0 and c <= 0xEF:
                        self.left = 2
                        if c == 0xE0:
                            self.low_bound = 0xA0
                        elif c == 0xED:
                            self.high_bound = 0x9F
                    elif c >= 0xF0 and c <= 0xF4:
                        self.left = 3
                        if c == 0xF0:
                            self.low_bound = 0x90
                        elif c == 0xF4:
                            self.high_bound = 0x8F
                    else:
                        message = b"string is not UTF-8"
                        break
                    state = S_UTF8
                    p += 1
            elif state == S_NUMBER:
                # at most one byte more than allowed is read
                room = MAX_NUMBER + 1 - (shift + (p - base) - self.number_start)
                q = end if end - p <= room else p + room
                while p < q:
                    c = p[0]
                    if c >= c"0" and c <= c"9":
                        if number == N_INT or number == N_FRACTION or number == N_EXPONENT:
                            pass
                        elif number == N_ZERO:
                            message = b"number with a leading zero"
                            break
                        elif number == N_MINUS:
                            number = N_ZERO if c == c"0" else N_INT
                        elif number == N_DOT:
                            number = N_FRACTION
                        else:
                            number = N_EXPONENT
                    elif c == c"." and (number == N_ZERO or number == N_INT):
                        number = N_DOT
                    elif c | 0x20 == c"e" and (number == N_ZERO or number == N_INT or number == N_FRACTION):
                        number = N_E
                    elif (c == c"+" or c == c"-") and number == N_E:
                        number = N_SIGN
                    elif number == N_ZERO or number == N_INT or number == N_FRACTION or number == N_EXPONENT:
                        state = S_AFTER
                        break
                    else:
                        message = b"malformed number"
                        break
                    p += 1
                if message != NULL:
                    break
                if shift + (p - base) - self.number_start > MAX_NUMBER:
                    p -= 1
                    message = b"number is too long"
                    break
                if state == S_AFTER and depth == 1 and self.current >= 0:
                    self.close_value(shift + (p - base))
            elif state == S_LITERAL:
                while p < end and self.literal[0] != 0 and p[0] == <unsigned char>self.literal[0]:
                    p += 1
                    self.literal += 1
                if self.literal[0] == 0:
                    state = S_AFTER
                    if depth == 1 and self.current >= 0:
                        self.close_value(shift + (p - base))
                elif p < end:
                    message = b"expected true, false or null"
                    break
            elif state == S_ESCAPE:
                c = p[0]
                if c == c"u":
                    state = S_HEX
                    self.left = 4
                    self.unit = 0
                elif self.high:
                    message = b"escape of half a surrogate pair"
                    break
                elif fp_class[c] & FP_ESCAPE:
                    state = S_STRING
                else:
                    message = b"unknown escape in a string"
                    break
                p += 1
            elif state == S_HEX:
                c = p[0]
                if fp_hex[c] < 0:
                    message = b"expected four hexadecimal digits"
                    break
                self.unit = self.unit << 4 | fp_hex[c]
                self.left -= 1
                if self.left == 0:
                    if self.high:
                        if self.unit & 0xFC00 != 0xDC00:
                            message = b"escape of half a surrogate pair"
                            break
                        state = S_STRING
                    elif self.unit & 0xFC00 == 0xD800:
                        state = S_LOW
                    elif self.unit & 0xFC00 == 0xDC00:
                        message = b"escape of half a surrogate pair"
                        break
                    else:
                        state = S_STRING
                p += 1
            elif state == S_LOW:
                if p[0] != c"\\":
                    message = b"escape of half a surrogate pair"
                    break
                self.high = True
                state = S_ESCAPE
                p += 1
            elif state == S_UTF8:
                c = p[0]
                if c < self.low_bound or c > self.high_bound:
                    message = b"string is not UTF-8"
                    break
                self.low_bound = 0x80
                self.high_bound = 0xBF
                self.left -= 1
                if self.left == 0:
                    state = S_STRING
                p += 1
            else:
                return SCAN_ERROR

        self.offset = shift + (p - base)
        self.depth = depth
        if message != NULL:
            self.error = message
            if self.error_at == 0:
                self.error_at = self.offset
            self.state = S_ERROR
            return SCAN_ERROR
        if is_key and depth == 1 and state >= S_STRING:
            self.keep_key(key_from, end)
        self.state = state
        self.number = number
        self.is_key = is_key
        self.escaped = escaped
        if state == S_END:
            return SCAN_DONE
        return SCAN_ERROR if state == S_ERROR else SCAN_MORE

    cdef void keep_key(self, const unsigned char* start, const unsigned char* end) noexcept nogil:
        """Copy a part of a top-level key that two feeds cut."""
        cdef Py_ssize_t size = end - start
        if size > RAW_KEY - self.raw_size:
            size = RAW_KEY - self.raw_size
            self.raw_cut = True
        memcpy(self.raw + self.raw_size, start, size)
        self.raw_size += <int>size

    # --- test surface -----------------------------------------------------------------------------------

    def py_reset(self) -> None:
        """reset()"""
        self.reset()

    def py_feed(self, bytes data not None) -> int:
        """feed()"""
        return self.feed(data, len(data))

    def py_state(self) -> dict[str, object]:
        """All results: error, error_at, offset, open_end, close_start, depth, fields and litellm."""
        fields = {}
        for i in range(F_COUNT):
            if self.fields[i].kind:
                fields[FIELD_NAMES[i]] = as_tuple(&self.fields[i])
        return {
            "error": None if self.error == NULL else (<bytes>self.error).decode(),
            "error_at": self.error_at,
            "offset": self.offset,
            "open_end": self.open_end,
            "close_start": self.close_start,
            "present": self.present,
            "fields": fields,
            "litellm": [as_tuple(&self.litellm[i]) for i in range(self.litellm_count)],
        }


cdef tuple as_tuple(Field* field):
    """(kind, escaped, start, end, key_start)"""
    return chr(field.kind), bool(field.escaped), field.start, field.end, field.key_start
