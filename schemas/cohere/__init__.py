"""Cohere's requests and answers as Structs. It imports nothing about OpenAI."""
