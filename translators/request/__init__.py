"""OpenAI's requests: the parts of which Cohere's requests are built."""
