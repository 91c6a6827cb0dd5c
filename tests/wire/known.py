"""Wire tests that fail for a known fault: node id behind the last `/`, and what is wrong.

Strict: a test that passes again fails the run until its line is taken out here. An empty table is the aim.
"""

KNOWN: dict[str, str] = {}
