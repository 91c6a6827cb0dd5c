# -- the model, its group, a deployment, and how the body is sent


cdef bint choose_deployment(Exchange x):
    """Steps 6 and 7: the model's group and a deployment of it. False: answered already."""
    cdef Field* field = &x.scan.fields[F_MODEL]
    cdef bytes raw, name
    cdef char decoded[1024]
    cdef int size
    if x.plan.kind == PLAN_LLM:
        if x.scan.present & FORBIDDEN:
            refuse_forbidden(x)
            return False
        if x.scan.fields[F_GUARDRAILS].kind not in (0, 122):     # 'z': null
            refuse(x, 400, "invalid_request_error",
                   "guardrails is not supported by this gateway yet: the request asks for a "
                   "protection that would not be applied", "guardrails")
            return False
        if field.kind == 115:                                        # 's'
            x.model_start, x.model_end = field.start + 1, field.end - 1
            if x.model_end - x.model_start > MODEL_MAX:
                refuse(x, 400, "invalid_request_error",
                       f"model is longer than {MODEL_MAX} bytes: a model's name is expected", "model")
                return False
            raw = body_slice(x, x.model_start, x.model_end)
            if field.escaped:
                size = unescape(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), decoded, 1024)
                raw = PyBytes_FromStringAndSize(decoded, size) if size >= 0 else None
            name = raw
        elif field.kind == 0:
            name = None
        else:
            refuse(x, 400, "invalid_request_error", "model must be a string", "model")
            return False
        x.stream = x.scan.fields[F_STREAM].kind == 116         # 't'
    else:
        name = None
        if x.multipart.model_start >= 0:
            x.model_start, x.model_end = x.multipart.model_start, x.multipart.model_end
            name = body_slice(x, x.model_start, x.model_end)
        x.stream = x.multipart.stream_true
    if x.path_model is not None:
        name = x.path_model
    if name is None:
        refuse(x, 400, "invalid_request_error",
               "litellm.BadRequestError: You passed in model=None. There are no healthy "
               "deployments for this model", None)
        return False
    if x.key.aliases is not None:
        name = x.key.aliases.get(name, name)
    x.model = name
    if not x.key.allows(name):
        refuse_model(x)
        return False
    x.group = x.table.group(name)
    if x.group is None:
        refuse_unknown_model(x)
        return False
    x.deployment = x.group.pick(x.plan.endpoint, x.gateway.random())
    if x.deployment is None:
        refuse_unsupported(x)
        return False
    x.pool = x.deployment.pool
    return True


cdef void refuse_forbidden(Exchange x):
    for index, name in ((F_API_BASE, "api_base"), (F_BASE_URL, "base_url"), (F_API_KEY, "api_key"),
                        (F_MOCK_RESPONSE, "mock_response")):
        if x.scan.present & (1u << <int>index):
            refuse(x, 400, "invalid_request_error",
                   f"{name} is not allowed in a request: destinations and credentials are the "
                   "gateway's to choose", name)
            return


cdef void refuse_model(Exchange x):
    name = x.model.decode("utf-8", "replace")[:200]
    allowed = sorted(m.decode() for m in x.key.models) + list(x.key.model_patterns)
    refuse(x, 403, "key_model_access_denied",
           f"key not allowed to access model. This key can only access models={allowed}. "
           f"Tried to access {name}", "model")


cdef void refuse_unknown_model(Exchange x):
    name = x.model.decode("utf-8", "replace")[:200]
    refuse(x, 400, None,
           f"litellm.BadRequestError: You passed in model={name}. There are no healthy deployments "
           f"for this model. Received Model Group={name}\nAvailable Model Group Fallbacks=None", None)


cdef void refuse_unsupported(Exchange x):
    names = sorted({(<Deployment>d).unsupported or (<Deployment>d).provider
                    for d in x.group.deployments})
    refuse(x, 501, "provider_not_supported",
           f"provider_not_supported: {', '.join(names)} does not serve {x.plan.path} through this "
           "gateway yet", "model", "provider_not_supported")


cdef bint keeps_metadata(Exchange x):
    # `metadata` is the provider's own field on these routes, the proxy's on the others.
    return x.plan.anthropic or x.plan.endpoint == EP_RESPONSES


cdef bint prepare_body(Exchange x):
    """Decide how the body is sent: spliced (the rule) or through the JSON path."""
    cdef unsigned int strip = STRIP
    cdef Field* options
    cdef bytes raw
    x.ask_usage = False
    x.client_usage = x.table.always_usage
    if x.plan.kind == PLAN_MULTIPART:
        return True
    if not keeps_metadata(x):
        strip |= 1u << F_METADATA
    if x.stream and x.plan.streams_usage:
        options = &x.scan.fields[F_STREAM_OPTIONS]
        if options.kind:
            raw = body_slice(x, options.start, options.end)
            if raw == b'{"include_usage":true}' or raw == b'{"include_usage": true}' \
                    or provider_body.wants_usage(raw):
                x.client_usage = True
            else:
                x.ask_usage = x.deployment.stream_usage
                if x.ask_usage:
                    return edit_body(x)
        else:
            x.ask_usage = x.deployment.stream_usage
    if x.scan.present & strip or x.deployment.edits or x.model_start < 0:
        return edit_body(x)
    return True


cdef bint edit_body(Exchange x):
    try:
        x.edited = provider_body.rewrite(
            whole_body(x), x.deployment.raw, x.deployment.model,
            keep_metadata=keeps_metadata(x), ask_usage=x.ask_usage)
    except provider_body.BodyError as error:
        refuse(x, 400, "invalid_request_error", str(error), "request_body")
        return False
    return True
