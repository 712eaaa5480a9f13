"""Fixtures of the tests that talk to a running gateway. What they give is described in `support/app.py`."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from hypothesis import settings

from support.app import Gateway, demonstration
from support.transcripts import property_of

# Of properties that say nothing else themselves.
settings.register_profile("the same every time", property_of())
settings.load_profile("the same every time")


@pytest.fixture(scope="session")
def demo() -> Iterator[Gateway]:
    """The gateway over the emulator: one for all tests that leave no trace in it."""
    with demonstration() as gateway:
        yield gateway


@pytest.fixture
def sdk(demo: Gateway) -> Iterator[openai.OpenAI]:
    """The official SDK on the demonstration."""
    with demo.client() as client:
        yield client
