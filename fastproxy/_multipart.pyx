"""MultipartScan: the `model` and `stream` fields of a multipart/form-data body, in one strict pass.

Parsers of this format differ in what they forgive. A body is refused here whenever two of them could see
different parts in it: a preamble, white space behind a boundary, bare line feeds before one, folded or
repeated part heads, backslashes before quotes. What is left has one reading: its bytes may go on as they are.

It must not know HTTP or what the fields mean. File contents are passed over, never copied.
"""

import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    MORE = 0
    DONE = 1
    ERROR = -1

cdef enum:
    M_FIRST = 0      # the first delimiter, at the very start
    M_BEHIND         # behind a delimiter
    M_BEHIND_CR
    M_BEHIND_DASH
    M_HEAD           # in a line of a part's head
    M_HEAD_CR
    M_VALUE          # in a value that is read
    M_VALUE_CR       # behind a carriage return in it: "\n" and the delimiter have to follow
    M_VALUE_END      # in that delimiter
    M_DATA           # in a value that is passed over
    M_DATA_END       # behind a line feed in it, perhaps in a delimiter
    M_EPILOGUE
    M_ERROR

cdef enum:
    P_OTHER = 0
    P_MODEL
    P_STREAM

_TYPE = re.compile(rb"multipart/form-data[ \t]*(?=;|$)", re.IGNORECASE)
_PARAMETER = re.compile(
    rb"""[ \t]*;[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"([^"\\]*)"|([^\s";,\\]+))[ \t]*(?=;|$)"""
)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


def boundary_of(bytes content_type not None) -> bytes | None:
    """The boundary that a Content-Type names; None: it is not multipart/form-data, or not a right one."""
    start = _TYPE.match(content_type)
    if start is None:
        return None
    at = start.end()
    boundary = None
    while at < len(content_type):
        found = _PARAMETER.match(content_type, at)
        if found is None:
            return None
        at = found.end()
        if found[1].lower() == b"boundary":
            if boundary is not None:
                return None
            boundary = found[3] if found[2] is None else found[2]
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        return None
    return boundary


cdef inline char lower(char c) noexcept nogil:
    return c | 0x20 if c >= c"A" and c <= c"Z" else c


cdef bint same_text(const char* p, Py_ssize_t size, const char* name, Py_ssize_t name_size) noexcept nogil:
    """Equal but for the case of ASCII letters; name is lower case."""
    cdef Py_ssize_t i
    if size != name_size:
        return False
    for i in range(size):
        if lower(p[i]) != name[i]:
            return False
    return True


cdef bint is_token(char c) noexcept nogil:
    """RFC 9110 tchar."""
    if c >= c"0" and c <= c"9" or (c | 0x20) >= c"a" and (c | 0x20) <= c"z":
        return True
    return c > 32 and memchr(b"!#$%&'*+-.^_`|~", c, 15) != NULL


cdef inline bint is_blank(char c) noexcept nogil:
    return c == 32 or c == 9


cdef bint is_plain_text(const unsigned char* p, Py_ssize_t size) noexcept nogil:
    """UTF-8 without control characters."""
    cdef Py_ssize_t i = 0
    cdef int left = 0
    cdef unsigned char low = 0x80
    cdef unsigned char high = 0xBF
    cdef unsigned char c
    for i in range(size):
        c = p[i]
        if left:
            if c < low or c > high:
                return False
            left -= 1
            low, high = 0x80, 0xBF
        elif c < 0x80:
            if c < 0x20 or c == 0x7F:
                return False
        elif c < 0xC2 or c > 0xF4:
            return False
        else:
            left = 1 if c < 0xE0 else 2 if c < 0xF0 else 3
            if c == 0xE0:
                low = 0xA0
            elif c == 0xED:
                high = 0x9F
            elif c == 0xF0:
                low = 0x90
            elif c == 0xF4:
                high = 0x8F
    return left == 0


cdef bint is_true(const char* p, Py_ssize_t size) noexcept nogil:
    """What form parsers read as true."""
    return same_text(p, size, b"true", 4) or same_text(p, size, b"1", 1) or same_text(p, size, b"on", 2) \
        or same_text(p, size, b"yes", 3) or same_text(p, size, b"t", 1) or same_text(p, size, b"y", 1)


cdef bint is_foreign(const char* p, const char* end) noexcept nogil:
    """Whether a Content-Type names another charset than UTF-8 or ASCII."""
    cdef const char* q
    while end - p >= 7:
        if same_text(p, 7, b"charset", 7):
            q = p + 7
            while q < end and (is_blank(q[0]) or q[0] == c"=" or q[0] == c'"'):
                q += 1
            p = q
            while q < end and is_token(q[0]):
                q += 1
            if not (same_text(p, q - p, b"utf-8", 5) or same_text(p, q - p, b"us-ascii", 8)):
                return True
            p = q
        else:
            p += 1
    return False


cdef class MultipartScan:
    """One body with this boundary, as boundary_of() gave it."""

    def __cinit__(self, bytes boundary not None) -> None:
        if not 0 < PyBytes_GET_SIZE(boundary) <= FORM_BOUNDARY_MAX:
            raise ValueError("the boundary has to have 1 to 70 bytes")
        memcpy(self.delimiter, b"--", 2)
        memcpy(self.delimiter + 2, PyBytes_AS_STRING(boundary), PyBytes_GET_SIZE(boundary))
        self.delimiter_size = 2 + <int>PyBytes_GET_SIZE(boundary)
        self.model_start = -1
        self.model_end = -1

    cdef const char* read_disposition(self, const char* p, const char* end) noexcept nogil:
        """The value of Content-Disposition. Returns what is wrong with it, or NULL."""
        cdef const char* name
        cdef const char* value
        cdef Py_ssize_t name_size, size
        cdef bint named = False
        if end - p < 9 or not same_text(p, 9, b"form-data", 9):
            return b"a part is not form-data"
        p += 9
        while True:
            while p < end and is_blank(p[0]):
                p += 1
            if p == end:
                break
            if p[0] != c";":
                return b"malformed Content-Disposition in a part"
            p += 1
            while p < end and is_blank(p[0]):
                p += 1
            name = p
            while p < end and is_token(p[0]):
                p += 1
            name_size = p - name
            if name_size == 0 or p == end or p[0] != c"=":
                return b"malformed Content-Disposition in a part"
            p += 1
            if p < end and p[0] == c'"':
                p += 1
                value = p
                while p < end and p[0] != c'"':
                    if p[0] == c"\\" and end - p > 1 and (p[1] == c'"' or p[1] == c"\\"):
                        return b"backslash before a quote or backslash in a part's Content-Disposition"
                    p += 1
                size = p - value
                if p == end:
                    return b"malformed Content-Disposition in a part"
                p += 1
            else:
                value = p
                while p < end and is_token(p[0]):
                    p += 1
                size = p - value
                if size == 0:
                    return b"malformed Content-Disposition in a part"
            if same_text(name, name_size, b"name", 4):
                if named:
                    return b"a part has two names"
                named = True
                if memchr(value, c"\\", size) != NULL:
                    return b"backslash in a part's name"
                if size == 5 and memcmp(value, b"model", 5) == 0:
                    self.kind = P_MODEL
                elif size == 6 and memcmp(value, b"stream", 6) == 0:
                    self.kind = P_STREAM
                elif size == 9 and memcmp(value, b"_charset_", 9) == 0:
                    return b"a _charset_ part is not supported"
            elif same_text(name, name_size, b"name*", 5):
                return b"a part has an extended name"
            elif same_text(name, name_size, b"filename", 8) or same_text(name, name_size, b"filename*", 9):
                self.file = True
        if not named:
            return b"a part has no name"
        return NULL

    cdef const char* end_line(self) noexcept nogil:
        """A line of a part's head is complete. Returns what is wrong with it, or NULL."""
        cdef const char* p = self.line
        cdef const char* end = p + self.line_size
        cdef Py_ssize_t size
        while p < end and is_token(p[0]):
            p += 1
        size = p - self.line
        if size == 0 or p == end or p[0] != c":":
            return b"malformed head of a part"
        p += 1
        while p < end and is_blank(p[0]):
            p += 1
        while end > p and is_blank((end - 1)[0]):
            end -= 1
        if same_text(self.line, size, b"content-disposition", 19):
            if self.disposition:
                return b"a part has two Content-Disposition lines"
            self.disposition = True
            return self.read_disposition(p, end)
        if same_text(self.line, size, b"content-type", 12):
            if self.content_type:
                return b"a part has two Content-Type lines"
            self.content_type = True
            if is_foreign(p, end):
                self.encoded = True
        elif same_text(self.line, size, b"content-transfer-encoding", 25):
            if not (same_text(p, end - p, b"binary", 6) or same_text(p, end - p, b"8bit", 4)
                    or same_text(p, end - p, b"7bit", 4)):
                self.encoded = True
        return NULL

    cdef const char* end_head(self) noexcept nogil:
        """A part's head is complete. Returns what is wrong with it, or NULL."""
        if not self.disposition:
            return b"a part has no Content-Disposition"
        if self.kind == P_OTHER:
            # a delimiter here would have no line end of its own: as if a bare line feed stood before it
            self.match = 0
            self.cr = False
            self.last = 0
            self.state = M_DATA_END
            return NULL
        if self.file:
            return b"model and stream may not be files"
        if self.encoded:
            return b"model and stream have to be plain UTF-8"
        if self.kind == P_MODEL:
            if self.model_seen:
                return b"two parts are named model"
            self.model_seen = True
        else:
            if self.stream_seen:
                return b"two parts are named stream"
            self.stream_seen = True
        self.value_size = 0
        self.state = M_VALUE
        return NULL

    cdef const char* end_value(self, Py_ssize_t end) noexcept nogil:
        """The value of model or stream is complete. Returns what is wrong with it, or NULL."""
        if not is_plain_text(<const unsigned char*>self.value, self.value_size):
            return b"model and stream have to be plain UTF-8"
        if self.value_size >= self.delimiter_size \
                and memcmp(self.value, self.delimiter, self.delimiter_size) == 0:
            return b"no line end before a boundary"
        if self.kind == P_STREAM:
            self.stream_true = is_true(self.value, self.value_size)
        else:
            memcpy(self.model, self.value, self.value_size)
            self.model_size = self.value_size
            self.model_start = self.value_start
            self.model_end = end
        return NULL

    cdef int feed(self, const char* data, Py_ssize_t size) noexcept nogil:
        """Scan the next bytes of the body."""
        cdef const char* p = data
        cdef const char* q
        cdef const char* end = data + size
        cdef const char* message = NULL
        cdef int state
        cdef char c
        while p < end:
            state = self.state
            c = p[0]
            if state == M_DATA:
                q = <const char*>memchr(p, c"\n", end - p)
                if q == NULL:
                    self.last = (end - 1)[0]
                    p = end
                    break
                self.cr = ((q - 1)[0] if q > p else self.last) == c"\r"
                self.last = 0
                self.match = 0
                self.state = M_DATA_END
                p = q
            elif state == M_DATA_END:
                if c != self.delimiter[self.match]:
                    # no byte of a delimiter is a line end, so that it can't begin inside of itself
                    self.state = M_DATA
                    self.last = 0
                    continue
                self.match += 1
                if self.match == self.delimiter_size:
                    if not self.cr:
                        message = b"no line end before a boundary"
                        break
                    self.state = M_BEHIND
            elif state == M_HEAD:
                self.head_size += 1
                if self.head_size > FORM_HEAD_MAX:
                    message = b"the head of a part is too long"
                    break
                if c == c"\r":
                    self.state = M_HEAD_CR
                elif c >= 0 and c < 32 and c != 9 or c == 127:
                    message = b"control character in the head of a part"
                    break
                else:
                    self.line[self.line_size] = c
                    self.line_size += 1
            elif state == M_HEAD_CR:
                self.head_size += 1
                if c != c"\n":
                    message = b"control character in the head of a part"
                    break
                if self.line_size:
                    message = self.end_line()
                    self.line_size = 0
                    self.state = M_HEAD
                else:
                    self.value_start = self.offset + (p + 1 - data)
                    message = self.end_head()
                if message != NULL:
                    break
            elif state == M_VALUE:
                if c == c"\r":
                    self.state = M_VALUE_CR
                elif self.value_size == FORM_VALUE_MAX:
                    message = b"model and stream may not be longer than 256 bytes"
                    break
                else:
                    self.value[self.value_size] = c
                    self.value_size += 1
            elif state == M_VALUE_CR:
                if c != c"\n":
                    message = b"line end in model or stream"
                    break
                self.match = 0
                self.state = M_VALUE_END
            elif state == M_VALUE_END:
                if c != self.delimiter[self.match]:
                    message = b"line end in model or stream"
                    break
                self.match += 1
                if self.match == self.delimiter_size:
                    message = self.end_value(self.value_start + self.value_size)
                    if message != NULL:
                        break
                    self.state = M_BEHIND
            elif state == M_FIRST:
                if c != self.delimiter[self.match]:
                    message = b"the body does not begin with the boundary"
                    break
                self.match += 1
                if self.match == self.delimiter_size:
                    self.state = M_BEHIND
            elif state == M_BEHIND:
                if c == c"\r":
                    self.state = M_BEHIND_CR
                elif c == c"-":
                    self.state = M_BEHIND_DASH
                else:
                    message = b"unexpected byte behind a boundary"
                    break
            elif state == M_BEHIND_CR:
                if c != c"\n":
                    message = b"unexpected byte behind a boundary"
                    break
                self.parts += 1
                if self.parts > FORM_PARTS_MAX:
                    message = b"too many parts"
                    break
                self.kind = P_OTHER
                self.disposition = False
                self.content_type = False
                self.file = False
                self.encoded = False
                self.head_size = 0
                self.line_size = 0
                self.state = M_HEAD
            elif state == M_BEHIND_DASH:
                if c != c"-":
                    message = b"unexpected byte behind a boundary"
                    break
                self.complete = True
                self.state = M_EPILOGUE
            elif state == M_EPILOGUE:
                if c != c"\r" and c != c"\n":
                    message = b"bytes behind the final boundary"
                    break
            else:
                return ERROR
            p += 1
        self.offset += p - data
        if message != NULL:
            self.error = message
            self.error_at = self.offset
            self.state = M_ERROR
        if self.state == M_ERROR:
            return ERROR
        return DONE if self.complete else MORE

    cdef int finish(self) noexcept nogil:
        """No more bytes will come."""
        if self.state != M_ERROR and not self.complete:
            self.error = b"the final boundary is missing"
            self.error_at = self.offset
            self.state = M_ERROR
        return ERROR if self.state == M_ERROR else DONE

    # --- test surface -----------------------------------------------------------------------------------

    def py_feed(self, bytes data not None) -> int:
        """feed()"""
        return self.feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def py_finish(self) -> int:
        """finish()"""
        return self.finish()

    def py_state(self) -> dict[str, object]:
        """All results."""
        return {
            "error": None if self.error == NULL else (<bytes>self.error).decode(),
            "error_at": self.error_at,
            "offset": self.offset,
            "model_start": self.model_start,
            "model_end": self.model_end,
            "model": self.model[:self.model_size] if self.model_end >= 0 else None,
            "stream_true": bool(self.stream_true),
            "complete": bool(self.complete),
        }
