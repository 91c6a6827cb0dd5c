"""fastproxy: an LLM gateway at the cost of a C reverse proxy."""

__version__ = "0.1.0"
