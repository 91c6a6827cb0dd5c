/* Coverage of the compiled modules for libFuzzer, from gcc's -fsanitize-coverage=trace-pc.
 *
 * libFuzzer wants counters that clang would lay out beside the code; gcc only calls a function at each edge. So
 * this function counts, by a hash of the place it was called from, in a table that is shown to libFuzzer as the
 * module's. Linked into each extension of the fuzz build, hidden: every module has its own table. */
#include <stdint.h>

enum { SIZE = 1 << 13 };
static uint8_t counters[SIZE];
static struct { uintptr_t pc, flags; } places[SIZE];

#define NOT_TRACED __attribute__((no_sanitize_coverage, no_sanitize_address, no_sanitize_undefined))

extern void __sanitizer_cov_8bit_counters_init(uint8_t *, uint8_t *) __attribute__((weak));
extern void __sanitizer_cov_pcs_init(const uintptr_t *, const uintptr_t *) __attribute__((weak));

__attribute__((visibility("hidden"))) NOT_TRACED void __sanitizer_cov_trace_pc(void) {
    uintptr_t at = (uintptr_t)__builtin_return_address(0);
    counters[(at ^ at >> 13) & (SIZE - 1)]++;
}

/* gcc also shows comparisons of floating point numbers; libFuzzer has no use for them. */
__attribute__((visibility("hidden"))) NOT_TRACED void __sanitizer_cov_trace_cmpf(float a, float b) {}
__attribute__((visibility("hidden"))) NOT_TRACED void __sanitizer_cov_trace_cmpd(double a, double b) {}

__attribute__((constructor)) NOT_TRACED static void show(void) {
    if (!__sanitizer_cov_8bit_counters_init || !__sanitizer_cov_pcs_init)
        return; /* not under libFuzzer */
    for (int i = 0; i < SIZE; i++)
        places[i].pc = (uintptr_t)show + i;
    __sanitizer_cov_8bit_counters_init(counters, counters + SIZE);
    __sanitizer_cov_pcs_init((uintptr_t *)places, (uintptr_t *)(places + SIZE));
}
