# Loads, stores, additions and swaps that other processes see in one order.
cdef extern from *:
    """
    #define lm_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define lm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define lm_note(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define lm_add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
    static inline int lm_swap(unsigned long long *p, unsigned long long old, unsigned long long new_) {
        return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    unsigned long long lm_load(unsigned long long*) noexcept nogil
    long long lm_load_money "lm_load"(long long*) noexcept nogil
    int lm_load_count "lm_load"(int*) noexcept nogil
    void lm_store(unsigned long long*, unsigned long long) noexcept nogil
    void lm_note(unsigned long long*, unsigned long long) noexcept nogil
    void lm_store_money "lm_store"(long long*, long long) noexcept nogil
    long long lm_add(long long*, long long) noexcept nogil
    int lm_add_count "lm_add"(int*, int) noexcept nogil
    bint lm_swap(unsigned long long*, unsigned long long, unsigned long long) noexcept nogil
