"""The way to Cohere."""
