"""Wire tests that fail for a known fault: a pattern for the node id behind the last `/`, and what is wrong.

Strict: a test that passes again fails the run until its line is taken out here (but those whose reason
begins with `race:`, which fail nearly always). `log:` marks a fault that leaves a traceback in the log, so
that the log of its module is not judged. An empty table is the aim.
"""

KNOWN: dict[str, str] = {}
