"""Cohere's safety modes in order of strictness (docs/cohere-api.md#chat-requests)."""

MODES = ("NONE", "OFF", "CONTEXTUAL", "STRICT")
"""The weakest first. Version 1 has NONE, version 2 has OFF. Without the field Cohere uses CONTEXTUAL."""


def safety_rank(mode: str) -> int:
    """Returns the rank of a mode, 0 for the weakest. An unknown mode counts as the weakest, so that it is raised."""
    return MODES.index(mode) if mode in MODES else 0
