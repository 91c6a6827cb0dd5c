# Upstream connections of one origin, in the list that is their state. _core puts its Upstream objects here.
cdef class Pool:
    cdef readonly dict origin
    cdef readonly str label
    cdef list idle               # LIFO; the freshest connection is the likeliest to be alive
    cdef object waiting          # OrderedDict of exchanges that wait for a connection, longest first
    cdef readonly int dialing
    cdef readonly int active
    cdef readonly int max_idle
    cdef readonly int max_connections   # idle, active and under way; 0: no bound
    cdef readonly int warm              # idle connections that are kept ready
    cdef readonly double max_idle_seconds
    cdef readonly double max_age_seconds
    cdef readonly double connect_timeout
    cdef public object tls       # ssl.SSLContext, made at the first dial and kept for session reuse
    cdef public bytes address    # socket address of the last connection that was made by name …
    cdef public double address_until   # … and until when it is used without asking the resolver
    cdef public list connecting  # Upstream objects whose connection is under way
    cdef public double warm_at   # when the next connection may be opened ahead of its need
    cdef public double logged    # when a failed connection was last told of …
    cdef public int untold       # … and how many were not since
