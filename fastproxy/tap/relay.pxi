# -- what goes to the client: bytes as they came, and what is put in, taken out or held back


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
