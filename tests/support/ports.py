"""Ports for servers that cannot choose one by themselves, and for those who are to find nobody there."""

from __future__ import annotations

import random
import socket

_PORTS = range(10_000, 30_000)
"""Below those that the systems give to whoever asks for any port, and to connections as their own (from 32,768 on under
Linux, 49,152 elsewhere): one of these could be given to another test as soon as it was found to be free, or while the
server that had it is away.
"""

_random = random.SystemRandom()
"""Not seeded: the processes that run the tests would find the same ports."""


def free_port() -> int:
    """A port at which nobody listens now, and which nobody gets who does not ask for it by its number."""
    while True:
        port = _random.choice(_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
