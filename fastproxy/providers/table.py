"""Providers whose API is OpenAI-compatible (or Anthropic's own), as a table.

A row says where the provider lives, which environment variables name its key and base URL, and how the
credential is sent. Sources are the providers' own API references. Nothing here opens a connection.
"""

from dataclasses import dataclass

OPENAI_PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "moderations": "/moderations",
    "images_generations": "/images/generations",
    "images_edits": "/images/edits",
    "audio_speech": "/audio/speech",
    "audio_transcriptions": "/audio/transcriptions",
    "audio_translations": "/audio/translations",
    "rerank": "/rerank",
}


@dataclass(frozen=True)
class Provider:
    """How one provider is reached."""

    base: str | None  # default base URL; None: the deployment must give api_base
    keys: tuple[str, ...] = ()  # environment variables that may hold the key
    bases: tuple[str, ...] = ()  # environment variables that may hold the base URL
    auth: str = "bearer"  # bearer | api-key | x-api-key
    stream_usage: bool = True  # understands stream_options.include_usage
    needs_key: bool = True


def _p(base: str | None, prefix: str, **more: object) -> Provider:
    keys = (f"{prefix}_API_KEY",)
    bases = (f"{prefix}_API_BASE", f"{prefix}_BASE_URL")
    return Provider(base, keys, bases, **more)  # type: ignore[arg-type]  # keywords of Provider


PROVIDERS: dict[str, Provider] = {
    "openai": _p("https://api.openai.com/v1", "OPENAI"),
    "text-completion-openai": _p("https://api.openai.com/v1", "OPENAI"),
    "custom_openai": _p(None, "OPENAI", needs_key=False),
    "openai_like": _p(None, "OPENAI_LIKE", needs_key=False),
    "azure": _p(None, "AZURE", auth="api-key"),
    "azure_ai": _p(None, "AZURE_AI"),
    "anthropic": _p("https://api.anthropic.com", "ANTHROPIC", auth="x-api-key"),
    "hosted_vllm": _p(None, "HOSTED_VLLM", needs_key=False),
    "vllm": _p(None, "VLLM", needs_key=False),
    "ollama": _p("http://localhost:11434/v1", "OLLAMA", needs_key=False),
    "ollama_chat": _p("http://localhost:11434/v1", "OLLAMA", needs_key=False),
    "lm_studio": _p("http://localhost:1234/v1", "LM_STUDIO", needs_key=False),
    "llamafile": _p("http://127.0.0.1:8080/v1", "LLAMAFILE", needs_key=False),
    "litellm_proxy": _p(None, "LITELLM_PROXY"),
    "groq": _p("https://api.groq.com/openai/v1", "GROQ"),
    "openrouter": _p("https://openrouter.ai/api/v1", "OPENROUTER"),
    "together_ai": Provider(
        "https://api.together.xyz/v1",
        ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
    ),
    "mistral": _p("https://api.mistral.ai/v1", "MISTRAL", stream_usage=False),
    "codestral": _p("https://codestral.mistral.ai/v1", "CODESTRAL", stream_usage=False),
    "deepseek": _p("https://api.deepseek.com/v1", "DEEPSEEK"),
    "xai": _p("https://api.x.ai/v1", "XAI"),
    "fireworks_ai": Provider(
        "https://api.fireworks.ai/inference/v1", ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY")
    ),
    "perplexity": Provider(
        "https://api.perplexity.ai",
        ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
        stream_usage=False,
    ),
    "nvidia_nim": _p("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM"),
    "cerebras": _p("https://api.cerebras.ai/v1", "CEREBRAS"),
    "sambanova": _p("https://api.sambanova.ai/v1", "SAMBANOVA"),
    "deepinfra": _p("https://api.deepinfra.com/v1/openai", "DEEPINFRA"),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ("GEMINI_API_BASE",),
    ),
    "cohere": Provider("https://api.cohere.ai/compatibility/v1", ("COHERE_API_KEY", "CO_API_KEY")),
    "cohere_chat": Provider(
        "https://api.cohere.ai/compatibility/v1", ("COHERE_API_KEY", "CO_API_KEY")
    ),
    "github": _p("https://models.github.ai/inference", "GITHUB"),
    "databricks": _p(None, "DATABRICKS"),
    "moonshot": _p("https://api.moonshot.ai/v1", "MOONSHOT"),
    "dashscope": _p("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE"),
    "volcengine": _p("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE"),
    "zai": _p("https://api.z.ai/api/paas/v4", "ZAI"),
    "huggingface": Provider(
        "https://router.huggingface.co/v1",
        ("HF_TOKEN", "HUGGINGFACE_API_KEY"),
        ("HUGGINGFACE_API_BASE",),
    ),
    "novita": _p("https://api.novita.ai/v3/openai", "NOVITA"),
    "hyperbolic": _p("https://api.hyperbolic.xyz/v1", "HYPERBOLIC"),
    "nebius": _p("https://api.studio.nebius.ai/v1", "NEBIUS"),
    "lambda_ai": _p("https://api.lambda.ai/v1", "LAMBDA"),
    "baseten": _p("https://inference.baseten.co/v1", "BASETEN"),
    "featherless_ai": _p("https://api.featherless.ai/v1", "FEATHERLESS_AI"),
    "meta_llama": Provider("https://api.llama.com/compat/v1", ("LLAMA_API_KEY",)),
    "nscale": _p("https://inference.api.nscale.com/v1", "NSCALE"),
    "vercel_ai_gateway": _p("https://ai-gateway.vercel.sh/v1", "VERCEL_AI_GATEWAY"),
    "ai21_chat": _p("https://api.ai21.com/studio/v1", "AI21"),
    "inception": _p("https://api.inceptionlabs.ai/v1", "INCEPTION"),
    "friendliai": Provider("https://api.friendli.ai/serverless/v1", ("FRIENDLI_TOKEN",)),
    "galadriel": _p("https://api.galadriel.com/v1", "GALADRIEL"),
    "aiml": _p("https://api.aimlapi.com/v1", "AIML"),
    "morph": _p("https://api.morphllm.com/v1", "MORPH"),
    "wandb": _p("https://api.inference.wandb.ai/v1", "WANDB"),
    "xinference": _p("http://127.0.0.1:9997/v1", "XINFERENCE", needs_key=False),
    "infinity": _p(None, "INFINITY", needs_key=False),
}

# Known to LiteLLM's users, not spoken by us: such a deployment loads and answers 501.
NOT_SPOKEN = frozenset(
    [
        "bedrock",
        "bedrock_converse",
        "sagemaker",
        "sagemaker_chat",
        "vertex_ai",
        "vertex_ai_beta",
        "watsonx",
        "watsonx_text",
        "replicate",
        "elevenlabs",
        "palm",
        "petals",
        "nlp_cloud",
        "aleph_alpha",
        "baseten_legacy",
        "triton",
        "predibase",
        "snowflake",
        "oci",
        "clarifai",
        "deepgram",
        "assemblyai",
        "voyage",
        "jina_ai",
        "stability",
        "recraft",
        "topaz",
        "fal_ai",
        "runwayml",
        "aws_polly",
        "gigachat",
        "github_copilot",
        "oobabooga",
        "maritalk",
        "cloudflare",
        "datarobot",
        "ragflow",
        "langgraph",
        "custom_llm",
        "dify",
        "bytez",
        "heroku",
        "text-completion-codestral",
        "azure_text",
        "cometapi",
        "compactifai",
        "gradient_ai",
        "docker_model_runner",
        "sap",
        "ai21",
        "amazon_nova",
        "anthropic_text",
        "apertis",
        "bedrock_mantle",
        "black_forest_labs",
        "charity_engine",
        "chatgpt",
        "chutes",
        "darkbloom",
        "empower",
        "gdc",
        "helicone",
        "langflow",
        "lemonade",
        "libertai",
        "manus",
        "meta",
        "minimax",
        "modelscope",
        "nano-gpt",
        "neosantara",
        "nvidia_riva",
        "ovhcloud",
        "parasail",
        "pinstripes",
        "poe",
        "publicai",
        "reducto",
        "sagemaker_nova",
        "scaleway",
        "soniox",
        "synthetic",
        "tencent",
        "tensormesh",
        "text-completion-inception",
        "v0",
        "xiaomi_mimo",
    ]
)

# Bare model names -> provider, by what they begin with.
BARE_NAMES = (
    ("claude-", "anthropic"),
    ("gemini-", "gemini"),
    ("mistral-", "mistral"),
    ("command-", "cohere"),
    ("deepseek-", "deepseek"),
    ("grok-", "xai"),
)


def split_model(model: str, custom: str | None) -> tuple[str, str]:
    """(provider, upstream model name) of a `litellm_params.model`."""
    first, slash, rest = model.partition("/")
    if custom:
        return custom, rest if slash and first == custom else model
    if slash and (first in PROVIDERS or first in NOT_SPOKEN):
        return first, rest
    for prefix, provider in BARE_NAMES:
        if model.startswith(prefix):
            return provider, model
    return "openai", model
