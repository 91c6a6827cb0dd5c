"""Upstream connections of one origin: idle (LIFO), waiting exchanges, and counts of the rest.

At its bound the idle list closes the connection that comes back; waiting exchanges are bounded by the
exchanges there are. At `max_connections` no further one is opened: exchanges wait for one that comes
back. This module knows nothing of HTTP: what lies in the lists is
_core's business.
"""

from collections import OrderedDict

cdef class Pool:
    """One origin (scheme, host, port, TLS settings, proxy) and its connections."""

    def __init__(self, dict origin, settings):
        self.origin = origin
        host = origin.get("path") or f"{origin['host']}:{origin['port']}"
        self.label = f"{origin['scheme']}://{host}"
        self.idle = []
        self.connecting = []
        self.waiting = OrderedDict()
        self.configure(settings, False)

    def configure(self, settings, bint warm):
        """Bounds, from a snapshot's settings; a reload may change them. warm: connections are kept ready."""
        self.max_idle = settings.get("pool_max_idle", 256)
        self.max_connections = settings.get("pool_max_connections", 0)
        self.warm = min(settings.get("pool_warm", 0), self.max_idle) if warm else 0
        self.max_idle_seconds = settings.get("pool_idle_timeout", 60.0)
        self.max_age_seconds = settings.get("pool_max_age", 300.0)
        self.connect_timeout = settings.get("connect_timeout", 10.0)

    def counts(self):
        """(idle, active, dialing, waiting), for /health/backlog and tests."""
        return len(self.idle), self.active, self.dialing, len(self.waiting)
