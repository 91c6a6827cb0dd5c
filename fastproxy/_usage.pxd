# What an answer says of tokens; see _usage.pyx.
cdef struct Usage:
    bint seen                       # a count that is known was there, be it 0
    long long input_tokens          # prompt_tokens / input_tokens; total_tokens, where nothing else is told
    long long output_tokens         # completion_tokens / output_tokens
    long long total_tokens
    # cached: {prompt,input}_tokens_details.cached_tokens / cache_read_input_tokens
    long long cached_tokens
    long long cache_write_tokens    # cache_creation_input_tokens …
    long long cache_write_1h_tokens  # … of which cache_creation.ephemeral_1h_input_tokens
    long long reasoning_tokens      # {completion,output}_tokens_details.reasoning_tokens
    long long audio_input_tokens    # *_details.audio_tokens, image_tokens: all within the tokens above
    long long audio_output_tokens
    long long image_input_tokens
    long long image_output_tokens
    long long thoughts, tools       # Gemini's: read_usage adds them to the output and the input
    long long heard_us              # of sound: the `seconds` of usage of {"type": "duration"}
    long long images                # in `data` or as events, where they are counted
    long long characters            # that were spoken: the tap does not know them
    bint priced                     # it says `cost` itself

# Reads the usage object at p. What is behind it, or NULL: malformed, or it goes on behind end.
cdef const char* read_usage(const char* p, const char* end, Usage* usage) noexcept nogil
# The same of an object that is there to its end: 1, or 0 when it is malformed.
cdef int parse_usage(const char* p, Py_ssize_t size, Usage* usage) noexcept nogil
cdef void merge_usage(Usage* into, const Usage* later) noexcept nogil
# A member for a usage object, into 48 bytes; its size.
cdef Py_ssize_t write_cost(char* text, long long nano) noexcept nogil
cdef dict as_dict(const Usage* usage)
