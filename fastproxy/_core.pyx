"""The data plane: Downstream, Upstream and the Exchange between them.

The only module that owns connections. One exchange is one request and its answer; it has one state,
assigned by `Exchange.become` alone, along the table of allowed changes below. Sockets, heads, JSON and
SSE are the leaves' business (_link, _head, _chunked, _scan, _json, _tap, _usage, _multipart), look-ups are the table's; what is
cold (error texts, the JSON path of a body, dialling) is Python handed in by the worker.

One compilation unit, so that the three classes may know each other and the compiler may inline, in files
of one job each: core/gateway, core/upstream, core/exchange (its parts in the order of a request: body,
choice, dispatch, answer, ending), core/downstream (connection, admission).
"""

cimport cython
from libc.errno cimport ETIMEDOUT
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strlen
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastproxy._buffer cimport (
    Buffer, buf_add, buf_add_char, buf_add_hex, buf_add_uint, buf_clear, buf_free, buf_init, buf_reserve,
    buf_reserve_exact,
)
from fastproxy._chunked cimport Chunked, chunked_init, chunked_next
from fastproxy._fields cimport (
    F_API_BASE, F_API_KEY, F_BASE_URL, F_BEST_OF, F_CACHE, F_CONTENT_FALLBACKS, F_CONTEXT_FALLBACKS, F_DISABLE_FALLBACKS,
    F_FALLBACKS, F_GENERATION_CONFIG, F_GUARDRAILS, F_INPUT, F_LITELLM, F_MAX_COMPLETION_TOKENS, F_MAX_OUTPUT_TOKENS,
    F_MAX_TOKENS, F_MESSAGES, F_METADATA, F_MOCK_RESPONSE, F_MODEL, F_N, F_NO_LOG, F_NUM_RETRIES, F_PREVIOUS_RESPONSE_ID,
    F_PROMPT, F_STREAM, F_STREAM_OPTIONS, F_TAGS, F_TIMEOUT, F_USER,
)
from fastproxy._gates cimport Gate
from fastproxy._head cimport (
    FieldSpan, Head, parse_request, parse_response,
    H_ACCEPT, H_ACCEPT_ENCODING, H_ACCESS_CONTROL_REQUEST_HEADERS, H_ACCESS_CONTROL_REQUEST_METHOD,
    H_ANTHROPIC, H_API_KEY, H_AUTHORIZATION, H_BAGGAGE, H_CONNECTION, H_CONTENT_ENCODING, H_CONTENT_LENGTH,
    H_CONTENT_TYPE, H_DATE, H_EXPECT, H_HOST, H_IDEMPOTENCY_KEY, H_OCP_APIM_SUBSCRIPTION_KEY,
    H_OPENAI, H_ORIGIN, H_OTHER, H_RETRY_AFTER, H_SERVER, H_SET_COOKIE, H_TRACEPARENT, H_TRACESTATE,
    H_TRANSFER_ENCODING, H_UPGRADE, H_USER_AGENT, H_VIA, H_X_API_KEY, H_X_FORWARDED_FOR, H_X_GOOG_API_KEY,
    H_X_LITELLM, H_X_LITELLM_API_KEY, H_X_LITELLM_CALL_ID, H_X_STAINLESS,
)
from fastproxy._http cimport PARSE_DONE, PARSE_ERROR, PARSE_MORE
from fastproxy._json cimport Field, count_items, find_member, unescape
from fastproxy._limits cimport (
    ADMITTED, MAX_GATES, NO_COUNTER, OVER_BUDGET, OVER_PARALLEL, OVER_REQUESTS, OVER_TOKENS, Hold, Limits)
from fastproxy._link cimport Link, Listener, Poller, Tls, iovec, literal_address, peer_address
from fastproxy._multipart cimport MultipartScan
from fastproxy._pool cimport Pool
from fastproxy._routing cimport (
    COST_BASED, Candidate, LATENCY_BASED, LEAST_BUSY, SIMPLE_SHUFFLE, USAGE_BASED, X_CONNECT, X_CONTENT, X_CONTEXT,
    X_INTERNAL, X_RATE, X_TIMEOUT, back_off, counts_against, draw, failure_class, lowest, may_amplify, retryable,
    should_cool,
)
from fastproxy._scan cimport JsonScan, SCAN_ERROR
from fastproxy._shared cimport (
    C_TEXTS_DROPPED, CALL_ID_MOST, MODEL_MOST,
    Block, C_2XX, C_4XX, C_5XX, C_BAD_REQUESTS, C_BYTES_IN, C_BYTES_OUT, C_CLIENT_GONE, C_CONNECTIONS,
    C_COOLDOWNS, C_FALLBACKS, C_IN_FLIGHT, C_KEY_LOOKUPS, C_KEY_LOOKUPS_FAILED, C_QUEUED, C_REFUSED,
    C_REQUESTS, C_RETRIES, C_RETRIES_REFUSED, C_SHED,
    C_UNAUTHORIZED, C_UPSTREAM_CONNECTS, C_UPSTREAM_ERRORS,
    E_ATTEMPT, E_COOLED, E_ESTIMATED, E_CLIENT_GONE, E_CUT, E_FALLBACK, E_NO_USAGE, E_STREAM, Event, FLYING, W_NO_LOG,
    blank,
)
from fastproxy._table cimport (
    Deployment, EP_AUDIO_SPEECH, EP_CHAT, EP_COMPLETIONS, EP_COUNT, EP_COUNT_TOKENS, EP_EMBEDDINGS, EP_GENERATE_CONTENT,
    EP_GOOGLE_COUNT_TOKENS, EP_IMAGES_EDITS, EP_IMAGES_GENERATIONS, EP_MESSAGES, EP_MODERATIONS, EP_RERANK, EP_RESPONSES,
    EP_STREAM_GENERATE_CONTENT, EP_STREAM_GENERATE_CONTENT_ARRAY,
    Group, KeyRecord, PLAN_CONTROL, PLAN_FIXED, PLAN_LLM, PLAN_MULTIPART, PLAN_PASS, PLAN_TUNNEL, Plan, Router, Table,
)
from fastproxy._tap cimport AnswerTap, TAP_JSON, TAP_OFF, TAP_SSE
from fastproxy._traffic cimport L_ANSWER, L_FIRST, Slot, Traffic, window_add, window_count
from fastproxy._usage cimport Usage

from collections import OrderedDict
import hashlib
import os
from time import gmtime, strftime as formatted_date
import time

from fastproxy import errors
from fastproxy._limits import boot_seconds
from fastproxy._link import tls_over_memory
from fastproxy._multipart import boundary_of
from fastproxy.providers import body as provider_body, websocket
from fastproxy.routing.continuation import Continuation
from fastproxy._shared import joined_tags
from fastproxy._table import ENDPOINTS
from fastproxy.routing import first_token, options, required, response_ids, strict
from fastproxy.routing.passing import google_key
from fastproxy.stages import addresses

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int fd, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL, MSG_DONTWAIT

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t size, const void* needle, size_t length)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME

# Sizes in bytes, times in seconds.
cdef enum:
    MAX_HEAD = 32768              # request and answer heads
    MAX_TARGET = 8192
    MAX_PIPELINED = 65536         # bytes of later requests held while one is served; then reading pauses
    MAX_HELD_ANSWER = 65536       # an answer with a length up to this goes out in one write, length corrected
    MAX_ERROR_BODY = 262144       # of an upstream's error answer; the rest is cut
    JOIN_MAX = 16384              # head and body up to this are copied together for one write
    DIRECT_MIN = 16384            # a body with more than this left to come is read into its own buffer
    DIRECT_READ = 262144          # … by as much at a time
    HEAD_READ = 16384             # what is read at once while a head is expected
    RESERVE_MAX = 67108864        # a body of a known length up to this gets its room at once; pages come as it does
    BODY_KEEP = 16384             # a body buffer up to this stays with a spare exchange, …
    LARGE_KEEP = 1048576          # … up to this with the first of them
    LARGE_SPARES = 8
    EARLY_MIN = 262144            # bodies with more than this left to come are sent on before their end
    UNSENT_HIGH = 262144          # of such a body; above it the client is not read
    LOOKED_INTO = 4096            # a larger body is looked into for data before its tokens are estimated by its size
    FRAME_MESSAGES = 24           # bytes of strings in an event of text that are not text
    FRAME_GOOGLE = 32
    FRAME_CHAT = 80               # … at most
    UNSEEN_TOKENS = 256           # of output, where nothing is seen of it and nothing known of such requests
    USUAL_MIN = 20                # requests that are needed to know what is usual, …
    USUAL_MEMORY = 1000           # … after so many the past counts half,
    USUAL_NAMES = 10000           # … keys and models that this is known of
    TEXT_MOST = 1048576           # bytes of a question, and of an answer, that are kept where prompts are
    RATE_MIN = 4000               # bytes of input that are needed to know how many tokens a model makes of them, …
    RATE_MEMORY = 4000000         # … after so many the past counts half
    OUTPUT_MOST = 10000000        # tokens: a larger maximum of an answer bounds nothing
    ANSWERS_MOST = 10000          # that are believed of `n` and its like
    PART_TOKENS = 1000            # that a part of data (an image, a sound) is taken to cost
    DRAIN_MAX = 1048576           # of a body whose answer is already given
    SPARE_MAX = 256               # exchanges kept for reuse
    MODEL_MAX = 512               # bytes of a model's name
    MAX_PARTS = 8                 # of a request: head, body with its edits
    INTERIM_MAX = 16              # 1xx answers before the final one
    CANDIDATES = 256              # of a larger group, so many beginning at a random one are looked at
    LONGEST_TOKEN = 12            # bytes of text; longer ones are too rare to matter
    PARKED_MAX = 256              # requests of one worker that wait for a look-up of their key
    DIGEST_SIZE = 32
    CHOICES = 8                   # of a deployment, where others take what is left of its budget
    MAX_OWN_GATES = 4             # budgets of one deployment: its own and its provider's
    CUSTOM_MAX = 4096             # requests of one worker that wait for custom_auth
    UNKNOWN_MAX = 10000           # keys that are remembered as unknown
    STRANGE_MAX = 500             # unknown keys of one client address in STRANGE_SECONDS
    STRANGERS_MAX = 10000         # addresses of which that is counted
    STREAM_HELD = 65536           # of a stream before its first token; then it goes out
    TAIL_CHUNK = 1                # what follows a piece of a body: the end of its chunk,
    TAIL_LAST = 2                 # the last chunk

# What the beginning of a stream has said (routing/first_token.py).
cdef enum:
    V_NOTHING = 0
    V_TOKEN
    V_ERROR
    V_UNKNOWN

cdef double DRAIN_TIMEOUT = 2.0
cdef double ACCEPT_PAUSE = 0.1        # after the descriptors ran out
cdef double CONTROL_SECONDS = 600.0   # for an answer of the control plane to begin, and between two pieces of it
cdef double ADDRESS_SECONDS = 5.0     # that a resolved address is used for without asking again
cdef long long RACE_NS = 1000000000   # a pooled connection's end may be on its way: longer than a round trip
cdef double LONGEST_ASKED = 60.0      # of an upstream's Retry-After that is waited for
cdef double TOKENS_PER_BYTE = 0.25    # of a model that is not known yet …
cdef double LEAST_PER_BYTE = 0.02     # … and of one that counts little
cdef double ASK_SECONDS = 2.0          # for a look-up of a key
cdef double CUSTOM_SECONDS = 10.0      # for custom_auth
cdef double UNKNOWN_SECONDS = 5.0      # that a key is taken for unknown without asking again
cdef double STRANGE_SECONDS = 10.0
cdef double WARM_SECONDS = 0.2        # between two connections that are opened ahead of their need
cdef double LATE_SECONDS = 0.25        # between two ticks: the worker stood still …
cdef double DEAF_SECONDS = 1.5         # … for so long that a change of a key may be in force without it (links.py)
cdef double LOG_SECONDS = 1.0         # between two lines about the same trouble
cdef double LINGER_TIMEOUT = 2.0      # for a peer that still sends when its connection closes

# Exchange states.
cdef enum:
    S_NEW = 0        # head accepted
    S_BODY           # reads the body, nothing is upstream
    S_WAIT           # waits for an upstream connection
    S_SENT           # the request, or its beginning, is on its way upstream
    S_HOLD           # the answer's head is judged; its body is held (short answers, errors)
    S_RELAY          # the answer's head has gone to the client
    S_PAUSE          # a try has failed; waits before the next one
    S_QUEUE          # complete, and waits for a place among the requests in flight
    S_DRAIN          # answered early; the rest of the request body is thrown away
    S_DONE           # settled; the object goes back to the spare list
    S_TUNNEL         # a WebSocket: frames go both ways
    STATES

cdef unsigned int ALLOWED[STATES]
ALLOWED[S_NEW] = 1 << S_BODY | 1 << S_DRAIN | 1 << S_DONE    # refused by its head, or answered at once
ALLOWED[S_BODY] = 1 << S_WAIT | 1 << S_SENT | 1 << S_QUEUE | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_QUEUE] = 1 << S_WAIT | 1 << S_SENT | 1 << S_DRAIN | 1 << S_DONE
# A try that fails leads to the next one: at once (WAIT, SENT), after a pause, or after the rest of the body.
ALLOWED[S_WAIT] = 1 << S_SENT | 1 << S_WAIT | 1 << S_PAUSE | 1 << S_BODY | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_SENT] = 1 << S_SENT | 1 << S_WAIT | 1 << S_PAUSE | 1 << S_BODY | 1 << S_HOLD | 1 << S_RELAY \
    | 1 << S_TUNNEL | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_HOLD] = 1 << S_SENT | 1 << S_WAIT | 1 << S_PAUSE | 1 << S_BODY | 1 << S_RELAY | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_RELAY] = 1 << S_DRAIN | 1 << S_DONE | 1 << S_SENT | 1 << S_WAIT | 1 << S_PAUSE     # goes on elsewhere
ALLOWED[S_PAUSE] = 1 << S_WAIT | 1 << S_SENT | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_DRAIN] = 1 << S_DONE
ALLOWED[S_DONE] = 0
ALLOWED[S_TUNNEL] = 1 << S_DONE
STATE_NAMES = ("new", "body", "wait", "sent", "hold", "relay", "pause", "queue", "drain", "done", "tunnel")

# Why no deployment of a group can take a request; the larger one is told.
cdef enum:
    U_FIT = -1
    U_UNSUPPORTED = 0
    U_TOO_LONG
    U_TAGS
    U_BUDGET
    U_FULL
    U_RATE
    U_COOLING

# Fields that the JSON path takes out of the body (Field bits of JsonScan.present).
cdef unsigned int STRIP = (
    1u << F_TAGS | 1u << F_FALLBACKS | 1u << F_NUM_RETRIES | 1u << F_TIMEOUT | 1u << F_CACHE
    | 1u << F_DISABLE_FALLBACKS | 1u << F_NO_LOG | 1u << F_LITELLM)
# Fields that say how a request is to be tried.
cdef unsigned int OPTIONS = 1u << F_NUM_RETRIES | 1u << F_TIMEOUT | 1u << F_FALLBACKS | 1u << F_DISABLE_FALLBACKS \
    | 1u << F_NO_LOG
# Fields by which a client would choose a destination, a credential or an answer of its own: refused (SSRF).
cdef unsigned int FORBIDDEN = 1u << F_API_BASE | 1u << F_API_KEY | 1u << F_BASE_URL | 1u << F_MOCK_RESPONSE \
    | 1u << F_CONTEXT_FALLBACKS | 1u << F_CONTENT_FALLBACKS

cdef bytes USAGE_OPTION = b',"stream_options":{"include_usage":true}'
cdef bytes PADDING = b" " * len(USAGE_OPTION)
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
cdef bytes HEAD_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

REASONS = {
    101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 401: "Unauthorized",
    402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed",
    422: "Unprocessable Content", 426: "Upgrade Required", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 529: "Overloaded",
}
cdef list STATUS_LINES = [None] * 600
for _status in range(100, 600):
    STATUS_LINES[_status] = f"HTTP/1.1 {_status} {REASONS.get(_status, '')}\r\n".encode()


cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <long long>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef inline void add_bytes(Buffer* b, bytes data) noexcept:
    buf_add(b, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline void add_ms(Buffer* b, long long ns) noexcept nogil:
    # Milliseconds with three decimals: microseconds are what we are judged by.
    cdef long long us = ns // 1000 if ns > 0 else 0
    buf_add_uint(b, us // 1000)
    buf_add_char(b, 46)
    buf_add_char(b, <char>(48 + us // 100 % 10))
    buf_add_char(b, <char>(48 + us // 10 % 10))
    buf_add_char(b, <char>(48 + us % 10))


cdef inline bint same_ci(const char* a, const char* lower, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef char c
    for i in range(size):
        c = a[i]
        if 65 <= c <= 90:
            c |= 32
        if c != lower[i]:
            return False
    return True


include "core/gateway.pxi"
include "core/upstream.pxi"
include "core/exchange.pxi"
include "core/body.pxi"
include "core/required.pxi"
include "core/choice.pxi"
include "core/governance.pxi"
include "core/queue.pxi"
include "core/attempt.pxi"
include "core/dispatch.pxi"
include "core/answer.pxi"
include "core/ending.pxi"
include "core/texts.pxi"
include "core/downstream.pxi"
include "core/misses.pxi"
include "core/passing.pxi"
include "core/follow_up.pxi"
include "core/tunnel.pxi"
include "core/admission.pxi"
