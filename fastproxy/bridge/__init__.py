"""The LiteLLM SDK behind a Unix socket: one more upstream, for providers that fastproxy does not speak itself.

A process of its own, since the SDK takes seconds to import, hundreds of megabytes and milliseconds of CPU
per request, and since what it does wrong must not reach the data plane. It knows no virtual key, no limit and
no other deployment than the one that a request's path names; everything else is the gateway's business.
"""
