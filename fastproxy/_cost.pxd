# What an answer cost, in integers: see _cost.pyx.
from fastproxy._usage cimport Usage

cdef extern from *:
    """
    #ifndef FP_WIDE
    #define FP_WIDE
    typedef __int128 fp_wide;       /* a price times a count, whatever a configuration asks for */
    /* Rounded up; a billion dollars are the most. */
    static inline long long fp_nano(fp_wide pico) {
        if (pico >> 62 == 0) return ((long long)pico + 999) / 1000;
        pico = (pico + 999) / 1000;
        return pico > 1000000000000000000LL ? 1000000000000000000LL : (long long)pico;
    }
    /* Of microseconds at a price for a second, rounded up. */
    static inline fp_wide fp_timed(long long pico, long long us) {
        return ((fp_wide)pico * us + 999999) / 1000000;
    }
    #endif
    """
    ctypedef long long wide "fp_wide"
    long long to_nano "fp_nano"(wide pico) noexcept nogil
    wide timed "fp_timed"(long long pico, long long us) noexcept nogil

cdef enum:
    TIERS = 4                # of the length of the context, the shortest first

cdef struct Rates:           # pico-dollars of a token
    long long above          # where more tokens of input than this came; 0: always
    long long input, output, cached, cache_write, cache_write_1h, reasoning
    long long audio_input, audio_output, image_input, image_output
    long long dearest_input, dearest_output

cdef class Prices:
    cdef readonly bint known
    cdef Rates rates[TIERS]
    cdef int tiers
    # pico-dollars too
    cdef readonly long long request, second, image, character
    # apart: cached and cache-writing tokens are not within the input's (Anthropic's own API)
    cdef long long of_usage(self, const Usage* usage, bint apart, long long nanoseconds) noexcept nogil
    cdef long long of_tokens(self, long long input_tokens, long long output_tokens) noexcept nogil
    cdef long long at_most(self, long long input_tokens, long long output_tokens) noexcept nogil
    cdef long long of_pieces(self, long long images, long long characters) noexcept nogil
    cdef wide of_rare(self, const Usage* usage, const Rates* r, long long* plain, long long* written,
                      long long* out) noexcept nogil
    cdef const Rates* of_context(self, long long input_tokens) noexcept nogil
