"""Public prices of common models, in dollars for a million tokens: input, output, cached input, cache writing.

From the providers' price pages (OpenAI, Anthropic, Google, Mistral, DeepSeek, Groq, xAI, Cohere), as of November
2025, for short contexts and the standard tier. Where a provider has no price for cached input, it is input's.
What a contract says otherwise belongs into the configuration, which wins.
"""

AS_OF = "2025-11"

PRICES: dict[str, tuple[float, ...]] = {
    # OpenAI
    "gpt-5.1": (1.25, 10, 0.125),
    "gpt-5": (1.25, 10, 0.125),
    "gpt-5-chat": (1.25, 10, 0.125),
    "gpt-5-codex": (1.25, 10, 0.125),
    "gpt-5-mini": (0.25, 2, 0.025),
    "gpt-5-nano": (0.05, 0.4, 0.005),
    "gpt-5-pro": (15, 120),
    "gpt-4.1": (2, 8, 0.5),
    "gpt-4.1-mini": (0.4, 1.6, 0.1),
    "gpt-4.1-nano": (0.1, 0.4, 0.025),
    "gpt-4o": (2.5, 10, 1.25),
    "gpt-4o-2024-05-13": (5, 15),
    "chatgpt-4o": (5, 15),
    "gpt-4o-mini": (0.15, 0.6, 0.075),
    "gpt-4-turbo": (10, 30),
    "gpt-4": (30, 60),
    "gpt-3.5-turbo": (0.5, 1.5),
    "gpt-3.5-turbo-instruct": (1.5, 2),
    "o1": (15, 60, 7.5),
    "o1-pro": (150, 600),
    "o1-mini": (1.1, 4.4, 0.55),
    "o3": (2, 8, 0.5),
    "o3-pro": (20, 80),
    "o3-mini": (1.1, 4.4, 0.55),
    "o4-mini": (1.1, 4.4, 0.275),
    "text-embedding-3-small": (0.02, 0),
    "text-embedding-3-large": (0.13, 0),
    "text-embedding-ada-002": (0.1, 0),
    "omni-moderation": (0, 0),
    # Anthropic
    "claude-opus-4-5": (5, 25, 0.5, 6.25),
    "claude-opus-4-1": (15, 75, 1.5, 18.75),
    "claude-opus-4": (15, 75, 1.5, 18.75),
    "claude-opus-4-0": (15, 75, 1.5, 18.75),
    "claude-sonnet-4-5": (3, 15, 0.3, 3.75),
    "claude-sonnet-4": (3, 15, 0.3, 3.75),
    "claude-sonnet-4-0": (3, 15, 0.3, 3.75),
    "claude-3-7-sonnet": (3, 15, 0.3, 3.75),
    "claude-3-5-sonnet": (3, 15, 0.3, 3.75),
    "claude-haiku-4-5": (1, 5, 0.1, 1.25),
    "claude-3-5-haiku": (0.8, 4, 0.08, 1),
    "claude-3-haiku": (0.25, 1.25, 0.03, 0.3),
    "claude-3-opus": (15, 75, 1.5, 18.75),
    # Google
    "gemini-3-pro-preview": (2, 12, 0.2),
    "gemini-2.5-pro": (1.25, 10, 0.125),
    "gemini-2.5-flash": (0.3, 2.5, 0.03),
    "gemini-2.5-flash-lite": (0.1, 0.4, 0.01),
    "gemini-2.0-flash": (0.1, 0.4, 0.025),
    "gemini-2.0-flash-001": (0.1, 0.4, 0.025),
    "gemini-2.0-flash-lite": (0.075, 0.3),
    "gemini-embedding-001": (0.15, 0),
    # Mistral
    "mistral-large": (2, 6),
    "mistral-medium": (0.4, 2),
    "mistral-small": (0.1, 0.3),
    "codestral": (0.3, 0.9),
    "ministral-8b": (0.1, 0.1),
    "ministral-3b": (0.04, 0.04),
    "open-mistral-nemo": (0.15, 0.15),
    "mistral-embed": (0.1, 0),
    # DeepSeek
    "deepseek-chat": (0.28, 0.42, 0.028),
    "deepseek-reasoner": (0.28, 0.42, 0.028),
    # Groq
    "llama-3.3-70b-versatile": (0.59, 0.79),
    "llama-3.1-8b-instant": (0.05, 0.08),
    "gpt-oss-120b": (0.15, 0.6),
    "gpt-oss-20b": (0.075, 0.3),
    # xAI
    "grok-4": (3, 15, 0.75),
    "grok-4-0709": (3, 15, 0.75),
    "grok-4-fast": (0.2, 0.5, 0.05),
    "grok-code-fast-1": (0.2, 1.5, 0.02),
    "grok-3": (3, 15, 0.75),
    "grok-3-mini": (0.3, 0.5, 0.075),
    # Cohere
    "command-a-03-2025": (2.5, 10),
    "command-r-plus-08-2024": (2.5, 10),
    "command-r-08-2024": (0.15, 0.6),
    "command-r7b-12-2024": (0.0375, 0.15),
    "embed-v4.0": (0.12, 0),
}
