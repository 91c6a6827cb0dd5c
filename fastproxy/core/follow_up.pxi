# -- /v1/responses/{id}: to the deployment that the id names


cdef bint start_follow_up(Downstream d, Exchange x, Head* head, const char* p, FieldSpan* credential, int rank):
    """GET, DELETE, cancel and input_items of a response. False: answered already."""
    cdef Plan plan = x.plan
    cdef bytes method = (p + head.method)[:head.method_size]
    cdef bytes query = query_of(head, p), path, line
    cdef Deployment found = None, other
    identity, action, methods = plan.route
    if method not in methods:
        answer_fixed(x, 405, errors.detail("Method Not Allowed"),
                     b"content-type: application/json\r\nallow: " + b", ".join(methods) + b"\r\n")
        return False
    if not authenticate(d, x, p, credential, rank):
        return False
    label, own = response_ids.split(identity)
    if label is not None:
        found = x.table.marked.get(label)
    else:
        for other in x.table.deployments:      # an id without our mark: only if there is no choice
            if other.heads[EP_RESPONSES] is not None and other.unsupported is None:
                if found is not None:
                    found = None
                    break
                found = other
    if found is None or found.heads[EP_RESPONSES] is None:
        refuse(x, 404, "invalid_request_error",
               f"Response with id '{identity.decode('latin-1')[:200]}' not found: no deployment of this gateway "
               "has given it", "response_id")
        return False
    if not x.key.allows(found.group.encode()):
        refuse_model(x, found.group.encode())
        return False
    x.deployment = found
    x.pool = found.pool
    path = (<bytes>found.heads[EP_RESPONSES]).partition(b" ")[2].partition(b" ")[0]
    line, _, rest = path.partition(b"?")
    query = b"&".join([part for part in (rest, query) if part])
    x.method_line = method + b" " + line + b"/" + own + action + (b"?" + query if query else b"") \
        + b" HTTP/1.1\r\n" + (<bytes>found.heads[EP_RESPONSES]).partition(b"\r\n")[2]
    x.content_coding = None
    return True


cdef void pin(Exchange x):
    """`previous_response_id` names the deployment that knows what came before."""
    cdef Field* field = &x.scan.fields[F_PREVIOUS_RESPONSE_ID]
    if field.kind != 115:
        return
    label, _ = response_ids.split(body_slice(x, field.start + 1, field.end - 1))
    if label is not None:
        x.marked = True
        x.pinned = x.table.marked.get(label)
