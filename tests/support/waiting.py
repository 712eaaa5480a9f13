"""How long tests wait."""

from __future__ import annotations

WAIT_SECONDS = 60.0
"""For what must come: this says how slow a machine may be, not how fast. What comes at all is not waited for so long,
so that a shorter time in a test wins nothing, and fails it on a machine that does much else at that moment.
"""
