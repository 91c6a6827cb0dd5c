# -- enforced_params: what a body has to have; nothing for keys without


cdef bint has_required(Exchange x):
    """Whether the complete body has what the configuration, the key, its team and its user ask of it. False: answered
    already. Tokens are counted for nobody, so that needs nothing."""
    cdef int index
    cdef bytes delimiter, whole = None
    if x.plan.endpoint == EP_COUNT_TOKENS or x.plan.endpoint == EP_GOOGLE_COUNT_TOKENS \
            or x.plan.kind == PLAN_PASS and x.body.size == 0:
        return True
    for name, index, parts in x.key.required:
        if x.plan.kind == PLAN_MULTIPART:
            delimiter = x.multipart.delimiter[:x.multipart.delimiter_size]
            if required.form_has(whole_body(x), delimiter, parts):
                continue
        elif index >= 0:
            if index == F_MODEL and x.path_model is not None:
                continue
            if x.scan.fields[index].kind not in (0, 122) and (                 # 'z': null
                    len(parts) == 1 or required.has(field_bytes(x, index), parts[1:])):
                continue
        else:
            if whole is None:
                whole = whole_body(x)
            if required.has(whole, parts):
                continue
        if x.model is None and x.scan.fields[F_MODEL].kind == 115:       # 's': whom metrics and the log count it for
            x.model = asked_model(x)
            if x.model is None:
                return False
        refuse(x, 400, "bad_request_error", required.message(parts), name)
        return False
    return True
