"""Listening sockets, and how many connections there may be.

Sockets are bound by the supervisor and handed to its workers, so that a port of 0 is known before anything is served,
several workers share one socket, and no caller is turned away while a worker is replaced.
"""

import contextlib
import os
import resource
import socket
import stat

# Connections that wait while all workers are busy, or replaced. Linux takes no more than `net.core.somaxconn`.
BACKLOG = 2048

MANY_FILES = 8_192

TCP_OPTIONS = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_NOTSENT_LOWAT", 64 * 1024))
"""Two minutes after a caller's machine has gone without a word, the connection is known to be dead. And the system
keeps no more than 64 KiB that are not on their way yet, instead of megabytes for a caller who does not read.
"""


class ListenError(Exception):
    """The address is taken, or none of this machine's. Its text is shown as it is."""


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; a port of 0 is a free one, `unix:/path` a unix socket. Raises ListenError."""
    if host.startswith("unix:"):
        return _listen_unix(host.removeprefix("unix:"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Else connections of the process before, which the system keeps for a minute, would stop a restart.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit this from the socket that accepts them.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS:
        if option := getattr(socket, name, None):  # not every system has each of them
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return _listening(listener)


def _listening(listener: socket.socket) -> socket.socket:
    listener.listen(BACKLOG)
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def _listen_unix(path: str) -> socket.socket:
    """Returns a unix socket at a path, where the one of a gateway that was killed may still be."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            remove_unix_socket(path)  # nobody listens
        except OSError:
            pass  # there is none, or binding says what is wrong
        else:
            raise ListenError(f"cannot listen on unix:{path}: another process does")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on unix:{path}: {error.strerror or error}") from error
    return _listening(listener)


def remove_unix_socket(path: str) -> None:
    """Removes a unix socket. Whatever else has the path stays."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def raise_file_limit() -> None:
    """Allows as many connections as the system grants this user: the usual soft limit is 1,024, and each is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "unlimited" and does not mean it.
    limit = max(soft, MANY_FILES) if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
