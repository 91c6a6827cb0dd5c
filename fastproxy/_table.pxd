# The compiled form of a snapshot: what a request looks up, decided at load time.
from fastproxy._cost cimport Prices
from fastproxy._gates cimport Gate
from fastproxy._pool cimport Pool

cdef enum:               # endpoints: index of Deployment.heads
    EP_CHAT = 0
    EP_COMPLETIONS
    EP_EMBEDDINGS
    EP_RESPONSES
    EP_MODERATIONS
    EP_IMAGES_GENERATIONS
    EP_IMAGES_EDITS
    EP_AUDIO_SPEECH
    EP_AUDIO_TRANSCRIPTIONS
    EP_AUDIO_TRANSLATIONS
    EP_RERANK
    EP_MESSAGES
    EP_COUNT_TOKENS
    EP_PASS_THROUGH
    EP_GENERATE_CONTENT                   # Google's own API, from here …
    EP_STREAM_GENERATE_CONTENT
    EP_STREAM_GENERATE_CONTENT_ARRAY      # without alt=sse: one JSON array
    EP_GOOGLE_COUNT_TOKENS                # … to here
    EP_REALTIME
    EP_COUNT              # also: a request of the control plane

cdef enum:               # Plan.kind
    PLAN_LLM = 0
    PLAN_MULTIPART
    PLAN_CONTROL         # passed through to the control plane's socket
    PLAN_PASS            # passed through as it stands, under another credential
    PLAN_TUNNEL          # a WebSocket
    PLAN_FIXED           # answered from bytes made at load time, no key needed

cdef class Deployment

cdef class Plan:
    cdef readonly int kind
    cdef readonly int endpoint
    cdef readonly bint anthropic       # errors in Anthropic's shape
    cdef readonly bint google          # … in Google's; the model stands in the path
    cdef readonly bint streams_usage   # `stream_options.include_usage` exists on this endpoint
    cdef readonly str path             # as the client sees it, for messages
    cdef readonly bytes body           # PLAN_FIXED: the whole body
    cdef readonly bytes content_type
    cdef readonly object route         # PLAN_PASS: routing.passing.Route …
    cdef readonly Deployment deployment    # … and where it leads

cdef class KeyRecord:
    cdef readonly bytes digest
    cdef readonly bytes counted_as     # the digest, or that of the key in whose place it was made
    cdef bint retired                  # it is in force no more
    cdef readonly str name             # sk-...abcd
    cdef readonly str alias
    cdef readonly bint master
    cdef readonly bint stored          # of the store, not of the configuration
    cdef readonly bint blocked
    cdef readonly double expires       # unix seconds, 0: never
    cdef readonly frozenset models     # None: all
    cdef readonly tuple model_patterns  # wildcard entries of `models`
    cdef readonly tuple bounds         # (key, team or user, their names): whose models those are made of
    cdef readonly bint no_fallbacks    # metadata.disable_fallbacks
    cdef readonly frozenset tags       # of str, which all its requests have; None: none
    cdef readonly bytes tags_text      # … as events have them
    cdef readonly dict aliases         # bytes -> bytes, None: none
    cdef readonly str user_id          # of the store, None: none
    cdef readonly str team_id          # same
    cdef readonly tuple routes         # allowed_routes, None: all
    cdef readonly bytes custom         # of custom_auth: what control has to know of it, as a header's value; else None
    cdef readonly dict asked           # the same, what its limits are made of
    cdef readonly bint measured        # some of them are of tokens or money: what a request asks for counts
    cdef readonly tuple required       # what bodies must have, as routing.required compiles it; None: nothing
    cdef readonly tuple gates          # the limits of key, member, user and team: of _limits.Gate
    cdef void retire(self) noexcept

cdef class Deployment:
    cdef readonly int index
    cdef readonly str id
    cdef readonly str group
    cdef readonly str provider
    cdef readonly str model
    cdef readonly str api_base
    cdef readonly bytes model_json     # JSON-escaped upstream name, no quotes
    cdef readonly bytes model_raw      # the same as it stands
    cdef readonly Pool pool
    cdef readonly Deployment twin      # the same one through LiteLLM's SDK, for endpoints without a head here …
    cdef readonly Deployment main      # … and, in the twin, the one whose twin it is
    cdef readonly tuple heads          # per endpoint: request line, host and own headers, or None
    cdef readonly bytes pass_head      # PLAN_PASS: what follows the request line
    cdef readonly bytes answer_head    # x-litellm-model-id, -model-name, -model-api-base lines
    cdef readonly bytes mark           # what is put before the ids of its responses
    cdef readonly tuple secrets        # what no answer may repeat: credentials, other header values of ours
    cdef readonly bint edits           # body needs the JSON path (defaults, extra_body, drop_params)
    cdef readonly dict raw             # the snapshot's record
    cdef readonly bint stream_usage
    cdef readonly bint own_anthropic_version
    cdef readonly double timeout
    cdef readonly double stream_timeout
    cdef readonly double weight
    cdef readonly str unsupported      # provider name, or None
    cdef readonly int slot             # of the shared traffic table
    cdef readonly int order            # the lowest that is in service is used
    cdef readonly frozenset tags       # of str
    cdef readonly int max_parallel     # 0: no bound
    cdef readonly double price         # of one input and one output token
    cdef readonly Prices prices
    cdef readonly tuple budgets        # its own and its provider's: of _limits.Gate, None: none
    cdef readonly long long rpm        # per minute; 0: no limit
    cdef readonly long long tpm
    cdef readonly bint enforce_rates   # they are limits, not only shares
    cdef readonly long long max_input  # tokens; 0: not known, or not asked for
    cdef readonly double cooldown      # seconds
    cdef readonly double idle_timeout  # between two pieces of a stream; 0: timeout
    cdef readonly long long allowed_fails   # per minute; -1: the default rules
    cdef long long fails_by_class[8]

cdef class Router:
    # router_settings, for all groups.
    cdef readonly int strategy
    cdef readonly double latency_buffer
    cdef readonly unsigned int latency_ttl   # seconds
    cdef readonly int max_fallbacks
    cdef readonly bint cooldowns
    cdef readonly bint tag_filtering
    cdef readonly bint tag_match_any
    cdef readonly bint health_routing
    cdef readonly double retry_after         # least seconds before a try again on the same deployment
    cdef readonly double stream_hold         # seconds that the beginning of a stream may be held; 0: never
    cdef readonly bint stream_again          # a stream that broke before its first token is tried again
    cdef readonly bint stream_continue       # a stream of text that broke goes on elsewhere
    cdef readonly bint drain                 # a client that went away does not end its request
    cdef readonly double total_timeout       # over all tries; 0: none
    cdef readonly Py_ssize_t max_in_flight   # requests of a worker; 0: no bound
    cdef readonly Py_ssize_t max_queued
    cdef readonly double queue_timeout
    cdef readonly dict fallbacks             # kind -> {group: [groups]}
    cdef readonly list default_fallbacks

cdef class Group:
    cdef readonly bytes name
    cdef readonly bytes name_json      # JSON-escaped client's name, no quotes
    cdef readonly bytes head_line      # x-litellm-model-group line
    cdef readonly list deployments
    cdef readonly int slot
    cdef readonly int retries
    cdef int policy[8]                 # retries by class of failure; -1: `retries`
    cdef readonly bint plain           # one deployment and nothing that could make it unfit
    cdef readonly bint has_fallbacks
    cdef readonly str alias_of         # the group that an alias stands for
    cdef readonly Gate gate            # its limit, for all keys together; None: it has none

cdef class Table:
    cdef readonly long long version
    cdef readonly bint open            # no master key: every request passes
    cdef readonly bint header_full
    cdef readonly long long max_request_bytes
    cdef readonly long long max_answer_bytes   # 0: no limit
    cdef readonly dict settings
    cdef readonly bytes root_path
    cdef readonly object cors          # None or stages.cors policy
    cdef readonly object address_rule  # None or an address policy
    cdef readonly object client_rule   # None, or whose X-Forwarded-For is believed without one
    cdef readonly bytes key_header     # lower case, or None
    cdef readonly bint forward_client_headers
    cdef readonly bint forward_openai_organization
    cdef readonly bint always_usage
    cdef readonly bint keep_texts           # store_prompts_in_spend_logs …
    cdef readonly bint texts_of_all         # … also of who asks for `no-log`
    cdef readonly bint usage_cost           # streams that end with usage say what they cost
    cdef readonly bint end_users             # events say whom the client serves …
    cdef readonly bint agents                # … and what it is
    cdef readonly bytes user_header          # a header that says it too, lower case, or None
    cdef readonly Gate budget               # of the whole gateway, None: none; in the gates of every key but the master's
    cdef readonly bint measured              # groups or deployments have limits of tokens or money
    cdef readonly dict key_limits           # of each key, by model, where its record says nothing else; None: none
    cdef readonly bint custom_auth           # whose keys the configuration does not know is asked about elsewhere
    cdef readonly bint sliding_limits        # limit_window: sliding
    cdef readonly bint strict_limits         # limit_mode: strict
    cdef readonly bint unseen_reserved       # unseen_output: reserved
    cdef readonly int budget_status          # of an answer to who has spent its budget
    cdef readonly double keepalive_timeout   # of a connection between two requests, seconds
    cdef readonly double head_timeout
    cdef readonly double body_timeout        # between two reads of a request body
    cdef readonly double write_timeout       # of a client that takes nothing
    cdef readonly double websocket_idle      # seconds in which nobody says anything
    cdef readonly long long websocket_message   # bytes of one message
    cdef readonly Py_ssize_t max_connections         # of one worker
    cdef readonly Py_ssize_t max_per_address         # … from one address; 0: no limit
    cdef readonly tuple enforced_params      # of str: what every body has to have
    cdef readonly dict keys            # digest -> KeyRecord
    cdef dict anew                     # the same by `counted_as`, of keys that were made in place of others
    cdef readonly KeyRecord anonymous  # the record of an open proxy
    cdef dict routes                   # b"POST /v1/chat/completions" -> Plan
    cdef dict methods                  # path -> Allow value
    cdef readonly dict marked          # mark -> Deployment
    cdef readonly list passes          # plans of PLAN_PASS, in the order in which they are tried
    cdef dict suffixes                 # /engines/{m}/… suffix -> Plan
    cdef readonly Router router
    cdef frozenset admin_paths         # of control, but for what any page may read
    cdef list patterns                 # (before, after, Plan) of control routes with a parameter, POST only
    cdef dict groups                   # client's name -> Group, aliases and seen wildcard names too
    cdef list wildcards
    cdef readonly list deployments
    cdef readonly Pool control
    cdef KeyRecord in_force(self, KeyRecord key)
    cdef KeyRecord _key(self, dict record)
    cdef void _keep(self, KeyRecord key)
    cdef bint _forget(self, bytes digest)
    cdef Group group(self, bytes name)
    cdef Plan plan(self, bytes method_and_path)
