# Reading usage and rewriting `model` in an answer on its way, in a JSON body or an SSE stream.
from fastproxy._buffer cimport Buffer

cdef enum:
    TAP_OFF = 0          # bytes are relayed as they are
    TAP_JSON = 1         # one JSON document
    TAP_SSE = 2          # text/event-stream, one JSON document per `data:` event

cdef struct Usage:
    bint seen
    long long input_tokens          # prompt_tokens / input_tokens
    long long output_tokens         # completion_tokens / output_tokens
    long long total_tokens
    long long cached_tokens         # prompt_tokens_details.cached_tokens / input_tokens_details.cached_tokens / cache_read_input_tokens
    long long cache_write_tokens    # cache_creation_input_tokens
    long long reasoning_tokens      # completion_tokens_details.reasoning_tokens / output_tokens_details.reasoning_tokens
    long long audio_tokens          # *_details.audio_tokens, both sides summed

cdef class AnswerTap:
    cdef Usage usage
    cdef long long events           # SSE events with data, [DONE] included
    cdef long long content_bytes    # bytes of data payload relayed
    cdef bint done_seen             # `data: [DONE]` or message_stop / response.completed went by
    # model: JSON-escaped name without quotes that replaces the upstream's name; None: leave it alone.
    # drop_usage: take the chat usage chunk (choices: [], usage: {...}) out again, the client did not ask for it.
    cdef void begin(self, int mode, bytes model, bint drop_usage) noexcept
    # Returns 0: relay [data, data+size) as it is, nothing was added to out;
    # 1: what is to be relayed now was appended to out (possibly nothing).
    cdef int feed(self, const char* data, Py_ssize_t size, Buffer* out) noexcept nogil
    # End of the body: appends what was held to out.
    cdef void finish(self, Buffer* out) noexcept nogil
