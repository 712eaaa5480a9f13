"""The door: HTTP, sockets, process. Knows no field of OpenAI's or Cohere's by name."""

__version__ = "0.1.0"
