"""What OpenAI's clients send and expect. Knows nothing of Cohere."""
