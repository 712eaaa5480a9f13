"""What Cohere takes and answers. Knows nothing of OpenAI."""
