# Reading usage and rewriting `model` in an answer on its way, in a JSON body or an SSE stream.
from fastproxy._buffer cimport Buffer
from fastproxy._usage cimport Usage

cdef enum:
    TAP_OFF = 0          # bytes are relayed as they are
    TAP_JSON = 1         # one JSON document, or an array of them
    TAP_SSE = 2          # text/event-stream, one JSON document per `data:` event

# What the usage that is seen costs in nano-dollars, or -1.
ctypedef long long (*Pricer)(void* whose, const Usage* usage) noexcept nogil

cdef class AnswerTap:
    cdef Usage usage
    cdef long long events           # SSE events with data, [DONE] included; elements of an array
    cdef long long told_at          # the number of the last event with usage
    # What an answer has said, in bytes: strings in nested containers (keys and their quotes too), those of the first
    # event alone, and the `delta` of events of the Responses API.
    cdef long long said, said_first, delta_bytes
    cdef bint done_seen             # [DONE], message_stop, response.completed, .incomplete or .failed went by
    # model: JSON-escaped name without quotes that replaces the upstream's name; None: leave it alone.
    # drop_usage: take the chat usage chunk (choices: [], usage: {...}) out, the client did not ask.
    # mark: goes before the id of a response, and of the one before it; None: ids stay as they are.
    cdef void begin(self, int mode, bytes model, bint drop_usage, bytes mark=*) noexcept
    # From here to the next begin(): count the images in `data`, or the events that bring one.
    cdef bint count_images
    # … and add `cost` to usage objects of a stream, where the pricer (NULL: never) knows one for whose it is.
    cdef Pricer pricer
    cdef void* whose
    # Returns 0: relay [data, data+size) as it is, nothing was added to out;
    # 1: what is to be relayed now was appended to out (possibly nothing).
    cdef int feed(self, const char* data, Py_ssize_t size, Buffer* out) noexcept nogil
    # End of the body: appends what was held to out.
    cdef void finish(self, Buffer* out) noexcept nogil
    # Whether what should be a JSON document did not end, or is not there.
    cdef bint truncated(self) noexcept nogil
    cdef long long test_cost
    # --- private: the replacement, and where the scan stands between two feeds
    cdef bytes mark                 # None: ids stay
    cdef bytes name                 # keeps name_data alive
    cdef const char* mark_data
    cdef Py_ssize_t mark_size
    cdef const char* name_data      # NULL: the model stays
    cdef Py_ssize_t name_size
    cdef int mode
    cdef bint drop
    # the document: a JSON body, or the first data line of an event
    cdef int json
    cdef bint many                  # in an array of documents (Gemini's streams without SSE): each is an event
    cdef int level                  # 1 in the document's object, 2 in its message or response
    cdef int key
    cdef int deep                   # open containers in what is passed over
    cdef bint escape                # the next byte of a string is behind a backslash
    cdef char word[32]              # a key or type that two feeds cut
    cdef int word_size              # 33: longer than any that matters
    cdef bint capturing
    cdef int captured_size          # behind USAGE_MAX: too large, not read
    cdef char captured[4096]
    # the line and the event
    cdef int line
    cdef int match
    cdef int after_cr
    cdef int data_lines
    cdef bint keep                  # the event goes to the client, whatever is still to come of it
    cdef bint complete              # its document is complete
    cdef bint no_choices
    cdef bint usage_object
    cdef Py_ssize_t event_size      # bytes of it in earlier feeds
    # relaying: valid during a feed
    cdef const char* relayed        # what is before it was relayed, held or taken out
    cdef const char* event_start
    cdef Buffer* out
    cdef Buffer* target             # out or &hold
    cdef bint altered
    # the unfinished event that may have to be dropped
    cdef Buffer hold
    cdef bint held
