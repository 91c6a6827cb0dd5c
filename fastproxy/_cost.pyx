"""What an answer cost: usage and prices to nano-dollars, rounded up once. No floating point.

Prices are pico-dollars of a token (fastproxy.prices), a million dollars at most. Counts are bounded, and multiplied in
128 bits, so that neither what a provider claims nor what a configuration asks for can overflow.
"""

from libc.string cimport memset

from fastproxy._usage cimport Usage

cdef enum:
    TOKENS_MAX = 10000000     # of one answer and kind; characters too
    IMAGES_MAX = 1000
    LONGEST_S = 86400         # of one request, or of what it has to be heard

# The kinds of tokens that a price may be about, and whose price counts where there is none for them.
KINDS = {
    "input": None, "output": None, "cached": "input", "cache_write": "input", "cache_write_1h": "cache_write",
    "reasoning": "output", "audio_input": "input", "audio_output": "output", "image_input": "input",
    "image_output": "output",
}


cdef inline long long bounded(long long count) noexcept nogil:
    return 0 if count < 0 else TOKENS_MAX if count > TOKENS_MAX else count


cdef inline long long taken(long long count, long long* rest) noexcept nogil:
    """So many of the rest, which is less then."""
    count = min(bounded(count), rest[0])
    rest[0] -= count
    return count


cdef void set_rates(Rates* r, dict record):
    found = {}
    for kind, instead in KINDS.items():
        found[kind] = record.get(kind, found.get(instead, 0))
    r.above = record.get("above", 0)
    r.input, r.output, r.cached = found["input"], found["output"], found["cached"]
    r.cache_write, r.cache_write_1h = found["cache_write"], found["cache_write_1h"]
    r.reasoning = found["reasoning"]
    r.audio_input, r.audio_output = found["audio_input"], found["audio_output"]
    r.image_input, r.image_output = found["image_input"], found["image_output"]
    r.dearest_input = max(r.input, r.cache_write, r.cache_write_1h, r.audio_input, r.image_input)
    r.dearest_output = max(r.output, r.reasoning, r.audio_output, r.image_output)


cdef class Prices:
    """The prices of a deployment; made of the snapshot's record, None: unpriced."""

    def __init__(self, record):
        self.known = record is not None
        record = record or {}
        memset(self.rates, 0, sizeof(self.rates))
        set_rates(&self.rates[0], record)
        self.tiers = 1
        for longer in record.get("tiers") or ():
            if self.tiers < TIERS:
                set_rates(&self.rates[self.tiers], longer)
                self.tiers += 1
        self.request, self.second = record.get("request", 0), record.get("second", 0)
        self.image, self.character = record.get("image", 0), record.get("character", 0)

    cdef const Rates* of_context(self, long long input_tokens) noexcept nogil:
        """The rates of a request with so many tokens of input."""
        cdef int at = self.tiers - 1
        while at > 0 and input_tokens <= self.rates[at].above:
            at -= 1
        return &self.rates[at]

    cdef long long of_usage(self, const Usage* usage, bint apart, long long nanoseconds) noexcept nogil:
        """Nano-dollars; -1: without a price."""
        cdef const Rates* r
        cdef long long plain = bounded(usage.input_tokens), out = bounded(usage.output_tokens)
        cdef long long cached, written
        cdef wide pico
        if not self.known:
            return -1
        if apart:
            cached, written = bounded(usage.cached_tokens), bounded(usage.cache_write_tokens)
            r = self.of_context(plain + cached + written)
        else:
            r = self.of_context(plain)
            cached = taken(usage.cached_tokens, &plain)
            written = taken(usage.cache_write_tokens, &plain)
        pico = self.request
        if usage.cache_write_1h_tokens | usage.audio_input_tokens | usage.audio_output_tokens \
                | usage.image_input_tokens | usage.image_output_tokens | usage.images | usage.characters:
            pico += self.of_rare(usage, r, &plain, &written, &out)
        pico += <wide>taken(usage.reasoning_tokens, &out) * r.reasoning
        pico += <wide>plain * r.input + <wide>cached * r.cached + <wide>written * r.cache_write + <wide>out * r.output
        if self.second:
            pico += timed(self.second, min(usage.heard_us or nanoseconds // 1000, <long long>LONGEST_S * 1000000))
        return to_nano(pico)

    cdef wide of_rare(self, const Usage* usage, const Rates* r, long long* plain, long long* written,
                      long long* out) noexcept nogil:
        """Pico-dollars of what most answers have none of; its tokens are taken off the others."""
        cdef long long made
        cdef wide pico = <wide>taken(usage.cache_write_1h_tokens, written) * r.cache_write_1h
        pico += <wide>taken(usage.audio_input_tokens, plain) * r.audio_input
        pico += <wide>taken(usage.image_input_tokens, plain) * r.image_input
        pico += <wide>taken(usage.audio_output_tokens, out) * r.audio_output
        made = taken(usage.image_output_tokens, out)
        if usage.images and not made:            # who makes images and does not tell tokens apart
            made, out[0] = out[0], 0
        pico += <wide>made * r.image_output
        if usage.images and self.image and not (made and r.image_output):
            pico += <wide>min(usage.images, IMAGES_MAX) * self.image
        return pico + <wide>bounded(usage.characters) * self.character

    cdef long long of_tokens(self, long long input_tokens, long long output_tokens) noexcept nogil:
        """Nano-dollars of so many tokens of text of which nothing more is known; 0: without a price."""
        cdef const Rates* r = self.of_context(input_tokens)
        if not self.known:
            return 0
        return to_nano(<wide>bounded(input_tokens) * max(r.input, r.cache_write)
                       + <wide>bounded(output_tokens) * max(r.output, r.reasoning) + self.request)

    cdef long long at_most(self, long long input_tokens, long long output_tokens) noexcept nogil:
        """Nano-dollars of so many tokens of the dearest kind; 0: without a price."""
        cdef const Rates* r = self.of_context(input_tokens)
        if not self.known:
            return 0
        return to_nano(<wide>bounded(input_tokens) * r.dearest_input + <wide>bounded(output_tokens) * r.dearest_output
                       + self.request)

    cdef long long of_pieces(self, long long images, long long characters) noexcept nogil:
        """Nano-dollars of images that are made and characters that are spoken, where these have a price."""
        if images < 0 or images > IMAGES_MAX:
            images = IMAGES_MAX
        return to_nano(<wide>images * self.image + <wide>bounded(characters) * self.character)

    def cost(self, long long input_tokens=0, long long output_tokens=0, long long cached=0, long long cache_write=0,
             long long reasoning=0, bint apart=False, double seconds=0.0, *, long long cache_write_1h=0,
             long long audio_input=0, long long audio_output=0, long long image_input=0, long long image_output=0,
             long long images=0, long long characters=0, long long heard_us=0):
        """For control and tests: `of_usage` of these counts; None: without a price. seconds: how long the request
        took. heard_us: microseconds of sound that the answer tells of."""
        cdef Usage usage
        cdef long long nano
        memset(&usage, 0, sizeof(Usage))
        usage.input_tokens, usage.output_tokens = input_tokens, output_tokens
        usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens = cached, cache_write, reasoning
        usage.cache_write_1h_tokens = cache_write_1h
        usage.audio_input_tokens, usage.audio_output_tokens = audio_input, audio_output
        usage.image_input_tokens, usage.image_output_tokens = image_input, image_output
        usage.images, usage.characters, usage.heard_us = images, characters, heard_us
        nano = self.of_usage(&usage, apart, <long long>(seconds * 1e9))
        return None if nano < 0 else nano
