@cython.final
cdef class Downstream(Link):
    """A client's connection: finds request heads, hands bodies to the exchange, keeps order."""

    cdef Gateway gateway
    cdef readonly str peer            # address text, "" on a Unix socket
    cdef Exchange exchange
    cdef Buffer pending               # bytes of a head that is not complete, or of later requests
    cdef bint nobody                  # stands in for a client that is gone, while its answer is read for its usage
    cdef bint serving                 # inside `serve`
    cdef bint later                   # `_serve_later` is scheduled
    cdef double deadline              # monotonic seconds; 0: none
    cdef Py_ssize_t drained
    cdef bytes parked                 # digest of the key that the next request waits for, see misses.pxi
    cdef bint unanswered              # … which nobody could say anything about
    cdef str source                   # … and from where it comes
    cdef bint counted                 # it has waited for counters of its limits, see misses.pxi
    cdef object verdict               # of custom_auth about the next request, None: it has not been asked
    cdef bytes credential             # the last one that was accepted, and its record
    cdef KeyRecord record
    cdef Table record_table
    cdef Table address_table          # whose address rule allowed the peer

    def __cinit__(self):
        buf_init(&self.pending)

    def __dealloc__(self):
        buf_free(&self.pending)

    cdef void connected(self, Gateway gateway, int fd, str peer, Tls tls):
        self.gateway = gateway
        self.peer = peer
        gateway.connections.add(self)
        gateway.count_address(peer, 1)
        gateway.block.counters[C_CONNECTIONS] += 1
        self.deadline = gateway.now + gateway.table.head_timeout
        self.open(gateway.poller, fd, tls)

    cdef void on_lost(self):
        cdef Exchange x = self.exchange       # held: client_gone lets go of it
        self.gateway.connections.discard(self)
        self.gateway.count_address(self.peer, -1)
        self.gateway.block.counters[C_CONNECTIONS] -= 1
        buf_free(&self.pending)
        if self.parked is not None:
            self.gateway.misses.leave(self)
        if x is not None:
            client_gone(x)

    cdef void on_congested(self):
        self.deadline = self.gateway.now + self.gateway.table.write_timeout
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.pause()

    cdef void on_relief(self):
        cdef Exchange x = self.exchange
        if x is None:
            self.deadline = self.gateway.now + self.gateway.table.keepalive_timeout
            self.serve_pending()
        elif x.upstream is not None:
            if x.state == S_TUNNEL:
                touch(x)
            else:
                await_piece(x)
            x.upstream.resume()

    cdef Py_ssize_t where_to(self, char** p):
        cdef Py_ssize_t room
        if self.exchange is not None:
            room = body_room(self.exchange, p)
            if room:
                return room
        Link.where_to(self, p)
        return HEAD_READ                      # what is behind it in a large body is read to its own place

    cdef void on_bytes(self, const char* p, Py_ssize_t size):
        cdef Exchange x = self.exchange
        cdef Py_ssize_t used
        self.gateway.block.counters[C_BYTES_IN] += size
        if x is None:
            if self.pending.size == 0:
                used = self.serve(p, size)
                self.hold_back(p + used, size - used)
            else:
                self.hold_back(p, size)
                self.serve_pending()
            return
        used = 0
        if x.state == S_DRAIN:
            used = self.drain(p, size)
        elif not x.body_complete:
            if x.state != S_WAIT:          # a connection has a limit of its own
                self.deadline = self.gateway.now + x.table.body_timeout
            used = on_body(x, p, size)
        elif x.state == S_TUNNEL:
            relay_frames(x, &x.tunnel.client, p, size, True)
            return
        self.hold_back(p + used, size - used)
        if self.exchange is None:
            self.serve_soon()

    cdef void hold_back(self, const char* p, Py_ssize_t size):
        # Bytes behind the current request; served in order, after its answer.
        if size and not self.closing:
            buf_add(&self.pending, p, size)
            if self.pending.failed:
                self.abort()
            elif self.pending.size > MAX_PIPELINED:
                self.pause()

    cdef void serve_pending(self):
        cdef Py_ssize_t used
        if self.pending.size == 0 or self.closing or self.exchange is not None or self.serving \
                or self.parked is not None:
            return
        used = self.serve(self.pending.data, self.pending.size)
        if self.pending.size:                  # it is freed when the connection was lost meanwhile
            self.pending.size -= used
            memmove(self.pending.data, self.pending.data + used, self.pending.size)
        if self.pending.size <= MAX_PIPELINED:
            self.resume()

    cdef Py_ssize_t serve(self, const char* p, Py_ssize_t size):
        """Requests one after the other, until one has to wait; returns the bytes used."""
        cdef Py_ssize_t at = 0, used
        self.serving = True
        while at < size and self.exchange is None and not self.closing and not self.congested:
            used = self.serve_one(p + at, size - at)
            if used == 0:
                break
            at += used
        self.serving = False
        return at

    cdef void after_exchange(self, bint close):
        cdef Table table = self.gateway.table
        if self.nobody:
            self.gateway.connections.discard(self)
            return
        if not self.congested:         # else it has its time to read what it was told
            self.deadline = self.gateway.now + (
                table.keepalive_timeout if self.pending.size == 0 else table.head_timeout)
        if close or self.gateway.draining:
            self.finish(close)
            return
        if self.pending.size and not self.serving:
            self.serve_soon()
        else:
            self.resume()

    cdef void finish(self, bint linger):
        if self.nobody:
            self.gateway.connections.discard(self)
            return
        # The peer may still be sending: it gets the time to see the answer.
        self.close(linger)
        self.deadline = self.gateway.now + (
            LINGER_TIMEOUT if self.out.size == 0 else self.gateway.table.write_timeout)

    cdef void serve_soon(self):
        # A fresh stack for each pipelined request: answers may complete synchronously.
        if not self.later and self.pending.size:
            self.later = True
            self.gateway.loop.call_soon(self._serve_later)

    def _serve_later(self):
        self.later = False
        try:
            self.serve_pending()
        except Exception as error:
            self.fault(error)

    cdef Py_ssize_t serve_one(self, const char* p, Py_ssize_t size):
        """One request at `p`: the bytes used of it. 0: more are needed."""
        cdef Gateway g = self.gateway
        cdef Head* head = &g.head
        cdef Table table = g.table
        cdef Exchange x
        cdef Plan plan
        cdef bint admitted
        cdef int result = parse_request(p, size, head, MAX_HEAD, MAX_TARGET)
        if result == PARSE_MORE:
            if self.pending.size == 0:
                self.deadline = g.now + table.head_timeout
            return 0
        if result == PARSE_ERROR:
            self.refuse_head(head)
            return size
        if head.target == head.method + head.method_size + 1:
            # "POST /v1/chat/completions": method and path stand side by side and are the route's key
            plan = table.plan(PyBytes_FromStringAndSize(
                p + head.method, head.method_size + 1 + head.path_size))
        else:
            plan = table.plan((p + head.method)[:head.method_size] + b" "
                              + (p + head.target)[:head.path_size])
        x = g.take_exchange()
        self.exchange = x
        x.start(self, table, plan)
        x.keep_alive = head.keep_alive
        x.http10 = head.minor == 0
        x.head_request = head.method_size == 4 and p[head.method] == 72      # "HEAD"
        x.content_length = head.content_length if head.content_length >= 0 else 0
        x.request_chunked = head.chunked
        x.body_complete = not head.chunked and x.content_length == 0
        if head.chunked:
            chunked_init(&x.request_chunks)
            x.content_length = -1
        self.deadline = g.now + table.body_timeout
        size -= head.size
        result = head.size
        g.head_at = p
        admitted = admit(self, x, head, p)
        if self.verdict is not None and self.parked is None:
            self.verdict = None        # it was about this request, whoever has refused it since
        if not admitted:
            if self.parked is not None:
                self.take_back(x)
                return 0
            if size and self.exchange is not None and self.exchange.state == S_DRAIN:
                return result + self.drain(p + result, size)
            return result
        x.become(S_BODY)
        if x.body_complete:
            on_body_complete(x)
            return result
        if head.expect_continue and size == 0:
            self.send(CONTINUE, len(CONTINUE))
        if size:
            result += on_body(x, p + result, size)
        x.late_body = x.state == S_BODY and not x.body_complete
        return result

    cdef void take_back(self, Exchange x):
        # As if the head had not come yet.
        self.gateway.block.counters[C_REQUESTS] -= 1
        self.gateway.block.counters[C_IN_FLIGHT] -= 1
        x.become(S_DONE)
        self.exchange = None
        self.gateway.give_exchange(x)

    cdef void refuse_head(self, Head* head):
        """A head that has no single reading: answered once, then the connection closes."""
        cdef bytes answer, body
        body = errors.body(head.error_status, "Invalid HTTP request: " + (<bytes>head.error).decode(),
                           "invalid_request_error", None, False)
        answer = (<bytes>STATUS_LINES[head.error_status] + self.gateway.date_line
                  + b"content-type: application/json\r\ncontent-length: "
                  + str(len(body)).encode() + b"\r\nconnection: close\r\n\r\n" + body)
        self.gateway.block.counters[C_BAD_REQUESTS] += 1
        self.send(answer, len(answer))
        self.finish(True)

    # -- after an early answer

    cdef void start_drain(self):
        self.drained = 0
        self.deadline = self.gateway.now + DRAIN_TIMEOUT
        self.resume()

    cdef Py_ssize_t drain(self, const char* p, Py_ssize_t size):
        """The rest of a body whose answer is given is thrown away, within a bound; returns the bytes used."""
        cdef Exchange x = self.exchange
        cdef Py_ssize_t left
        if x.close_out:
            self.drained += size
            if self.drained > DRAIN_MAX or (
                    not x.request_chunked and self.drained >= x.content_length - x.body.size):
                self.end_drain(True)
            return size
        left = <Py_ssize_t>(x.content_length - x.body.size)
        if size < left:
            x.content_length -= size
            return size
        self.end_drain(False)
        return left

    cdef void end_drain(self, bint close):
        cdef Exchange x = self.exchange
        x.become(S_DONE)
        self.exchange = None
        self.gateway.give_exchange(x)
        self.after_exchange(close)

    cdef void on_deadline(self):
        cdef Exchange x = self.exchange
        self.deadline = 0.0
        if self.lingering or self.closing or self.congested:
            self.abort()               # it does not read what it is told
        elif self.parked is not None:
            self.gateway.misses.leave(self)
            self.unanswered = not self.counted
            self.serve_pending()
        elif x is None:
            if self.pending.size:
                self.send(HEAD_TIMED_OUT, len(HEAD_TIMED_OUT))
            self.finish(False)
        elif x.state == S_DRAIN:
            self.end_drain(True)
        elif x.state == S_BODY or (x.state == S_SENT and not x.body_complete and self.reading):
            refuse_close(x, 408, "timeout_error", "The request body did not arrive in time")
        elif x.state == S_SENT or x.state == S_HOLD or x.state == S_RELAY:
            on_timeout(x)
        elif x.state == S_TUNNEL:
            tunnel_idle(x)
        elif x.state == S_PAUSE:
            end_pause(x)
        elif x.state == S_WAIT:
            stop_waiting(x)            # every connection that there may be is busy
            connect_failed(x, "timeout")
        elif x.state == S_QUEUE:
            leave_queue(x)
            shed(x)


cdef bint same_secret(bytes known, const char* value, unsigned int size) noexcept:
    # Constant time in the content; the length is no secret.
    cdef const char* k = PyBytes_AS_STRING(known)
    cdef unsigned int i
    cdef int difference = 0
    if PyBytes_GET_SIZE(known) != size:
        return False
    for i in range(size):
        difference |= k[i] ^ value[i]
    return difference == 0
