"""Cohere's safety modes, by how strict they are. Sources: Cohere's OpenAPI document, `safety_mode` of both chats."""

MODES = ("NONE", "OFF", "CONTEXTUAL", "STRICT")
"""The weakest first. v1 says NONE, v2 OFF; where nothing is said Cohere takes CONTEXTUAL."""


def safety_rank(mode: str) -> int:
    """Return how strict a mode is. An unknown one counts as the weakest."""
    return MODES.index(mode) if mode in MODES else 0
