"""Patches of Hypercorn 0.18, for what it has no settings for. pyproject.toml pins that version.

Each says what it stands for, and which test fails without it; a new version of Hypercorn is tried without them first.

    HTTP/1.1       `Connection` in place of H11Protocol. HTTP/2 in clear text cannot be switched off
                   (https://github.com/pgjones/hypercorn/issues/38, closed: "there is only an ability to not advertise a
                   protocol"), CONNECT is passed on (https://github.com/pgjones/hypercorn/issues/277), bytes that are no
                   HTTP get an empty answer that no log mentions, and a write has no time limit.
                   tests/test_http.py: test_edges
    WebSockets     BoundedWebsocketBuffer. `WebsocketBuffer.extend` first keeps what comes and then finds that it is too
                   much, each time again: a caller who ignores the close (1009) fills the memory. Not reported; it is in
                   https://github.com/pgjones/hypercorn/blob/0.18.0/src/hypercorn/protocol/ws_stream.py
                   tests/test_serve_websocket.py: test_what_the_server_gathers_is_bounded
                   HandshakeWithoutExtensions. `Handshake.accept` always offers permessage-deflate, whose decompression
                   has no bound: a megabyte of it becomes a gigabyte before anything counts it. Not reported.
                   tests/test_serve_websocket.py: test_no_compression_is_negotiated
"""

from typing import Any

import hypercorn.config
import hypercorn.protocol
from hypercorn.protocol import ws_stream
from hypercorn.protocol.h11 import H11Protocol

from gateway.http.validation import LARGEST_HEAD
from gateway.server.connection import Connection


class BoundedWebsocketBuffer(ws_stream.WebsocketBuffer):
    """A message on its way in. It keeps no byte beyond the limit."""

    def extend(self, event: Any) -> None:
        if self.length + len(event.data) > self.max_length:
            self.length = self.max_length  # so that nothing that follows fits
            raise ws_stream.FrameTooLargeError
        super().extend(event)


class HandshakeWithoutExtensions(ws_stream.Handshake):
    """The opening of a WebSocket. It agrees to no extension."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extensions = None


def install(config: hypercorn.config.Config) -> None:
    """Applies the patches in the whole process, and their limits to this configuration."""
    config.h11_max_incomplete_size = LARGEST_HEAD
    vars(hypercorn.protocol)[H11Protocol.__name__] = Connection
    ws_stream.WebsocketBuffer = BoundedWebsocketBuffer  # type: ignore[misc]
    ws_stream.Handshake = HandshakeWithoutExtensions  # type: ignore[misc, assignment]
