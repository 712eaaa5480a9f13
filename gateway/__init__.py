"""The gateway: HTTP, processes, the calls to Cohere. What OpenAI's and Cohere's fields mean is in `translators`."""

__version__ = "0.1.0"
