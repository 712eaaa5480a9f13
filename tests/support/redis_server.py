"""Redis for the tests that need a real one: at its standard port, or where GATEWAY_TEST_REDIS says."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import pytest

URL = os.environ.get("GATEWAY_TEST_REDIS", "redis://127.0.0.1:6379/0")


def _reachable() -> bool:
    parts = urlsplit(URL)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), 1):
            return True
    except OSError:
        return False


_REQUIRED = os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") == "1"

needs_redis = pytest.mark.skipif(not _REQUIRED and not _reachable(), reason=f"no Redis at {URL}")
"""Skips where there is none, but not in CI."""
