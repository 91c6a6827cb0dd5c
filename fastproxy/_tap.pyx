"""AnswerTap: reads usage and rewrites `model` in an answer that passes by, as JSON body or SSE stream.

Bytes leave as they arrive. The scan is light: it knows strings and brackets, looks at the keys of the
document's object (and of `message` or `response` in it) and passes over the rest. What it does not understand
it relays untouched: judging the answer is the client's business.

One compilation unit, so that the compiler may inline, in files of one job each: tap/relay, tap/document, tap/stream.

It must not know HTTP, prices, or who is asking.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy, memset

from fastproxy._buffer cimport Buffer, buf_add, buf_clear, buf_free, buf_init
from fastproxy._json cimport close_quote, fp_find_bracket, in_atom, skip_space
from fastproxy._usage cimport Usage, as_dict, merge_usage, parse_usage, read_usage, write_cost

include "tap/relay.pxi"
include "tap/document.pxi"
include "tap/stream.pxi"


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
