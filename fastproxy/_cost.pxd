# What an answer cost, in integers: see _cost.pyx.
from fastproxy._tap cimport Usage

cdef class Prices:
    # pico-dollars, of one token each
    cdef readonly bint known
    cdef readonly long long input, output, cached, cache_write, reasoning
    cdef readonly long long request, second
    # apart: cached and cache-writing tokens are not within the input's (Anthropic's own API)
    cdef long long of_usage(self, Usage* usage, bint apart, long long nanoseconds) noexcept nogil
    cdef long long of_tokens(self, long long input_tokens, long long output_tokens) noexcept nogil
