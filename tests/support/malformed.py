"""What a broken upstream might send, for the laws that hold for anything at all: JSON that means nothing, and events
after an accident.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from schemas.cohere import events
from support import transcripts

JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False),
        st.text(max_size=4),
        st.sampled_from(["text", "thinking", "", "n", "null"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["message", "content", "text", "thinking", "tool_calls", "citations", "usage", "a"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
"""JSON of any shape, in words that Cohere's events know."""


@st.composite
def broken_events(draw: st.DrawFn) -> bytes:
    """An event's JSON after an accident: values replaced somewhere inside, bytes changed or lost."""
    created = draw(transcripts.event_of(draw(st.sampled_from(sorted(events.TAGS)))))
    for _ in range(draw(st.integers(0, 2))):
        position: Any = created
        while isinstance(position, dict) and position:
            key = draw(st.sampled_from(sorted(position)))
            if draw(st.booleans()) or not isinstance(position[key], dict):
                position[key] = draw(JUNK)
                break
            position = position[key]
    raw = json.dumps(created).encode()
    if draw(st.booleans()):
        start, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 4))
        raw = raw[:start] + draw(st.binary(max_size=4)) + raw[start + length :]
    return raw
