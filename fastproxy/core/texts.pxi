# -- what was asked and said, where store_prompts_in_spend_logs wants it kept


cdef void keep_question(Exchange x):
    """Its body, as long as it is here; what is sent to the client is kept from now on too."""
    if x.question is not None or x.plan.kind != PLAN_LLM or x.key is None or not x.body_complete or x.let_go \
            or x.wishes & W_NO_LOG and not x.table.texts_of_all:
        return
    if x.body.size > TEXT_MOST:
        x.gateway.block.counters[C_TEXTS_DROPPED] += 1
        return
    x.question = whole_body(x)
    buf_clear(&x.said)


cdef void keep_answer(Exchange x, const char* p, Py_ssize_t size) noexcept:
    """A piece of the answer; at the bound the rest of it is left out. Neither sound nor vectors are text."""
    if x.tapping and x.plan.endpoint != EP_EMBEDDINGS:
        buf_add(&x.said, p, min(size, TEXT_MOST - x.said.size))


cdef void tell_texts(Exchange x, long long started_ns):
    """Off the request's way from here on, with what its row is known by; without room on the link to control they are
    dropped and counted."""
    cdef object tell = x.gateway.tell
    cdef bytes question = x.question
    cdef bytes answer = x.said.data[:x.said.size] if x.said.size else b""
    x.question = None
    forget_bytes(&x.said, LARGE_KEEP)
    if x.deployment is not None and x.deployment.secrets:
        question = errors.redact_bytes(question, x.deployment.secrets)
        answer = errors.redact_bytes(answer, x.deployment.secrets)
    if tell is None or not tell(
            x.key.digest.hex(), x.call_id.decode("latin-1"), started_ns // 1000000,
            question.decode("utf-8", "replace"), answer.decode("utf-8", "replace")):
        x.gateway.block.counters[C_TEXTS_DROPPED] += 1
