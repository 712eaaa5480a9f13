"""What an OpenAI field MEANS in Cohere, and what Cohere's answer means to an OpenAI client.

The rules of this room: pure functions and small machines; no I/O, no clock, no randomness, no environment,
no HTTP object. What a translator must know of the outside comes in as `context.Context`. Imports go down
the ladder only (`tests/test_house.py` holds the rungs). This package exports nothing.
"""
