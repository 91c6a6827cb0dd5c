@cython.final
@cython.freelist(64)
cdef class Exchange:
    """One request and its answer. Lives from a request head to its settlement, then is used again.

    Its parts follow the way of a request: body, choice, dispatch, answer, ending.
    """

    cdef int state
    cdef Downstream downstream
    cdef Gateway gateway
    cdef Upstream upstream
    cdef Table table
    cdef Plan plan
    cdef KeyRecord key
    cdef Group group
    cdef Deployment deployment
    cdef Pool pool
    # request
    cdef Buffer forward               # client header lines that go upstream
    cdef bytes method_line            # PLAN_CONTROL: request line and host
    cdef Buffer body                  # what was received of it (decoded, if chunked), kept until the answer begins
    cdef long long content_length     # -1: chunked
    cdef Chunked request_chunks
    cdef bint request_chunked, body_complete, keep_alive, http10, head_request
    cdef bytes content_coding         # of the request body, None: identity
    cdef bytes edited                 # the body when the JSON path was taken
    cdef JsonScan scan
    cdef MultipartScan multipart
    cdef bytes path_model             # of /engines/{m}/…, wins over the body's
    cdef bytes model                  # what the client asked for
    cdef bytes call_id
    cdef bint governed                # limits were asked …
    cdef int n_holds                  # … and these are reserved
    cdef Hold holds[MAX_GATES]
    cdef Hold group_hold              # of the limit of its group
    cdef int n_own_holds              # of budgets of the deployment that is tried
    cdef Hold own_holds[MAX_OWN_GATES]
    cdef long long input_estimate     # tokens; -1: nobody asked
    cdef object usual, rate           # what is known of such requests: Usual and Rate, or None
    cdef long long text_size          # bytes that it was estimated from; -1: there were parts of data
    cdef long long output_expected    # same, of an answer of which nothing is seen
    cdef long long answers            # that the request wants; 0: nobody asked
    cdef long long output_most        # tokens that the request allows at most; -1: it does not say, or nobody asked
    cdef Event* flight                # what the try under way would be charged if this worker died, or NULL
    cdef bint traced                  # trace_id is one
    cdef char trace_id[32]
    cdef unsigned char wishes         # as the event has them, and these too:
    cdef unsigned char end_user_size, agent_size
    cdef char end_user[64]
    cdef char agent[32]
    cdef unsigned int queued_us
    cdef long long elsewhere          # nanoseconds that are neither ours nor of the last try, see Event
    cdef bint late_body               # more of it has to come than its head came with
    cdef unsigned int left_requests, left_tokens
    cdef bytes cors_lines
    cdef bint stream, client_usage, ask_usage, no_anthropic_version
    cdef Py_ssize_t model_start, model_end   # of the bytes to be replaced, absolute in the body
    cdef bint early                   # dispatched before the end of the body
    cdef bint once                    # … which is not done (again)
    cdef Py_ssize_t extra             # bytes that ask_usage adds before the closing brace
    cdef Buffer request               # as it goes upstream: the head, and the body too if both are small …
    cdef bint joined                  # … which this says
    cdef Py_ssize_t sent              # of head and body together, handed to the upstream
    cdef int attempts                 # dispatched, whatever became of them
    # tries: what the request asked for, and what became of it
    cdef int num_retries              # -1: as the group says
    cdef double timeout, stream_timeout     # seconds of a try; 0: as the deployment says
    cdef double total_until           # monotonic seconds; 0: no limit over all tries
    cdef bint no_fallbacks
    cdef list asked_fallbacks         # None: those of the configuration
    cdef object asked_tags            # frozenset of str, or None
    cdef bint admitted                # counts among the worker's requests in flight
    cdef bint in_group, in_attempt, retrying    # what is counted in shared memory for it
    cdef int retries, fallbacks       # in this group; groups left
    cdef int owed                     # kind of the failure during the upload that leads to another group; -1: none
    cdef bint probe                   # the deployment's cooldown is over, and this request finds out whether it serves
    cdef bint pass_scan               # PLAN_PASS: the key's models are limited, so the body's is looked for
    cdef Deployment pinned            # the deployment that a request goes on with, if it is fit
    cdef bint marked                  # previous_response_id carries our mark, which is taken off
    cdef int unfit                    # why `choose` found none
    cdef long long images, characters        # that are to be made, to be spoken, where the deployment has a price for them
    cdef long long lost_tokens, lost_cost    # of tries that failed,
    cdef long long lost_before        # … of those in groups before this one
    cdef list tried                   # deployments that failed this request, in this group
    cdef list pending                 # names of groups still to be tried
    cdef set visited
    cdef bint let_go                  # the body is gone: the request can't be sent again
    # answer
    cdef int interim                  # 1xx heads before it
    cdef int status
    cdef long long answer_size        # bytes of its body that have come
    cdef long long answer_left        # of a body with a length; -1: chunked or close-delimited
    cdef bint answer_chunked, answer_keep_alive, chunk_out, close_out, error_answer
    cdef Chunked answer_chunks
    cdef AnswerTap tap
    cdef bint tapping
    cdef Buffer answer_lines          # the head's field lines, as the client gets them
    cdef Buffer held                  # S_HOLD: the body so far
    cdef bint peeking                 # … of a stream whose first token has not come
    cdef Tunnel tunnel                # of a WebSocket, else None
    cdef object story                 # Continuation of a stream that may go on elsewhere, or None
    cdef bint resumed                 # it does: the client has a head and part of the answer
    cdef bint hold_ends               # the deadline is the end of holding, not of waiting
    cdef Py_ssize_t judged            # bytes of `held` whose events were looked at
    cdef bytes content_type, retry_after
    cdef unsigned char flags
    cdef bytes question               # the body, where prompts are kept; None: they are not
    cdef Buffer said                  # … and the answer so far
    # times, monotonic ns
    cdef long long started, sent_at, head_at, first_at

    def __cinit__(self):
        buf_init(&self.forward)
        buf_init(&self.body)
        buf_init(&self.request)
        buf_init(&self.answer_lines)
        buf_init(&self.held)
        buf_init(&self.said)
        self.scan = JsonScan.__new__(JsonScan)
        self.tap = AnswerTap.__new__(AnswerTap)

    def __dealloc__(self):
        buf_free(&self.forward)
        buf_free(&self.body)
        buf_free(&self.request)
        buf_free(&self.answer_lines)
        buf_free(&self.held)
        buf_free(&self.said)

    cdef void become(self, int state):
        """The one place that assigns the state."""
        if not (ALLOWED[self.state] >> state) & 1:
            self.gateway.log.error("exchange: %s -> %s is not allowed",
                                   STATE_NAMES[self.state], STATE_NAMES[state])
        self.state = state

    cdef void start(self, Downstream d, Table table, Plan plan):
        self.state = S_NEW
        self.downstream = d
        self.gateway = d.gateway
        self.table = table
        self.plan = plan
        buf_clear(&self.forward)
        self.scan.reset()
        self.sent = self.extra = 0
        self.content_length = 0
        self.request_chunked = self.body_complete = self.stream = False
        self.client_usage = self.ask_usage = self.early = self.tapping = False
        self.error_answer = self.chunk_out = self.close_out = False
        self.model_start = self.model_end = -1
        self.attempts = self.interim = 0
        self.num_retries = -1
        self.timeout = self.stream_timeout = self.total_until = 0.0
        self.admitted = self.traced = self.governed = False
        self.wishes = self.end_user_size = self.agent_size = 0
        self.queued_us = self.left_requests = self.left_tokens = 0
        self.elsewhere = 0
        self.late_body = False
        self.n_holds = self.n_own_holds = 0
        self.group_hold.held = False
        self.input_estimate = self.output_expected = self.output_most = self.text_size = -1
        self.answers = 0
        self.flight = NULL
        self.images = self.characters = 0
        self.lost_tokens = self.lost_cost = self.lost_before = 0
        self.no_fallbacks = self.in_group = self.in_attempt = self.retrying = False
        self.retries = self.fallbacks = self.unfit = 0
        self.owed = -1
        self.resumed = False
        self.probe = self.pass_scan = self.marked = False
        self.let_go = self.peeking = self.once = False
        self.answer_size = 0
        self.status = 0
        self.flags = 0
        self.no_anthropic_version = True
        self.started = monotonic_ns()
        self.sent_at = self.head_at = self.first_at = 0
        self.gateway.now = self.started * 1e-9
        self.gateway.block.counters[C_REQUESTS] += 1
        self.gateway.block.counters[C_IN_FLIGHT] += 1

    cdef void forget(self, Py_ssize_t keep):
        # Back to a blank object; buffers up to `keep` stay allocated.
        self.downstream = None
        self.upstream = None
        self.table = None
        self.plan = None
        self.key = None
        self.group = None
        self.deployment = None
        self.pool = None
        self.method_line = self.content_coding = self.edited = None
        self.path_model = self.model = self.call_id = self.cors_lines = None
        self.content_type = self.retry_after = None
        self.multipart = None
        self.pinned = None
        self.story = None
        self.tunnel = None
        self.asked_fallbacks = self.tried = self.pending = None
        self.asked_tags = self.usual = self.rate = self.question = None
        self.visited = None
        forget_bytes(&self.body, keep)
        forget_bytes(&self.request, keep)
        forget_bytes(&self.held, keep)


cdef inline void forget_bytes(Buffer* b, Py_ssize_t keep) noexcept nogil:
    if b.capacity > keep:
        buf_free(b)
    else:
        buf_clear(b)
