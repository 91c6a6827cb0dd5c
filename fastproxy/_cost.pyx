"""What an answer cost: usage and prices to nano-dollars, rounded up once. No floating point.

Prices are pico-dollars of a token (fastproxy.prices). Counts are bounded before they are multiplied, so that
what a provider claims can't overflow: the dearest price times the largest count fits into 63 bits.
"""

from fastproxy._tap cimport Usage

cdef enum:
    TOKENS_MAX = 10000000     # of one answer and kind
    LONGEST_MS = 86400000     # of one request


cdef inline long long bounded(long long count) noexcept nogil:
    return 0 if count < 0 else TOKENS_MAX if count > TOKENS_MAX else count


cdef inline long long price(value):
    # Ten thousand dollars for a million tokens: times TOKENS_MAX it still fits, seven times.
    return min(<long long>value, 10000000000)


cdef class Prices:
    """The prices of a deployment; made of the snapshot's record, None: unpriced."""

    def __init__(self, record):
        self.known = record is not None
        record = record or {}
        self.input = price(record.get("input", 0))
        self.output = price(record.get("output", 0))
        self.cached = price(record.get("cached", self.input))
        self.cache_write = price(record.get("cache_write", self.input))
        self.reasoning = price(record.get("reasoning", self.output))
        self.request = min(<long long>record.get("request", 0), 10 ** 18)
        self.second = min(<long long>record.get("second", 0), 10 ** 12)

    cdef long long of_usage(self, Usage* usage, bint apart, long long nanoseconds) noexcept nogil:
        """Nano-dollars; -1: without a price."""
        cdef long long cached = bounded(usage.cached_tokens), written = bounded(usage.cache_write_tokens)
        cdef long long thought = bounded(usage.reasoning_tokens)
        cdef long long plain = bounded(usage.input_tokens), out = bounded(usage.output_tokens)
        cdef long long pico
        if not self.known:
            return -1
        if not apart:
            cached = min(cached, plain)
            plain -= cached
            written = min(written, plain)
            plain -= written
        thought = min(thought, out)
        pico = plain * self.input + cached * self.cached + written * self.cache_write
        pico += (out - thought) * self.output + thought * self.reasoning + self.request
        if self.second:
            pico += self.second // 1000 * min(nanoseconds // 1000000, LONGEST_MS)
        return (pico + 999) // 1000

    cdef long long of_tokens(self, long long input_tokens, long long output_tokens) noexcept nogil:
        """Nano-dollars of so many tokens of the dearest kind; 0: without a price."""
        if not self.known:
            return 0
        return (bounded(input_tokens) * max(self.input, self.cache_write)
                + bounded(output_tokens) * max(self.output, self.reasoning) + self.request + 999) // 1000

    def cost(self, long long input_tokens, long long output_tokens, long long cached=0, long long cache_write=0,
             long long reasoning=0, bint apart=False, double seconds=0.0):
        """For control and tests: `of_usage` of these counts; None: without a price."""
        cdef Usage usage
        cdef long long nano
        usage.input_tokens, usage.output_tokens = input_tokens, output_tokens
        usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens = cached, cache_write, reasoning
        nano = self.of_usage(&usage, apart, <long long>(seconds * 1e9))
        return None if nano < 0 else nano
