# The limits of one entity: see _gates.pyx.
cdef class Gate:
    # The limits of one entity, or of one model of it.
    cdef readonly str scope       # as messages say it: api_key, user, team, team_member, model_per_key, …
    cdef readonly str value       # whose, without credential
    cdef readonly bytes model     # the group's name that the client asked for; None: all
    cdef readonly long long rpm   # -1: no limit, of each
    cdef readonly long long tpm
    cdef readonly long long parallel
    cdef readonly long long budget        # nano-dollars
    cdef readonly long long spend         # what the store had of it
    cdef readonly str duration            # of the budget, None: for ever
    cdef unsigned long long ends          # of the period, seconds since 1970, 0: never
    cdef long long begins                 # of the same, 0: nobody knows
    cdef readonly unsigned long long name  # of its counter
    cdef int slot
    cdef bint estimates           # needs to know tokens or money beforehand
    cdef bytes requests_line      # of an answer's head, up to what remains
    cdef bytes tokens_line
    cdef bytes key_lines          # x-litellm-key-…: of the key's own limits; None: of somebody else's
    cdef void move_on(self, long long wall)
