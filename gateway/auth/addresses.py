"""Callers' addresses: which one counts behind proxies, and whether a key may be used from there."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Among networks: whoever comes over a unix socket."""

MAPPED_BITS = 96
"""Leading bits of an IPv6 address that stands for one of IPv4, `::ffff:10.0.0.1`."""

MAX_HOPS = 32
"""Addresses of `x-forwarded-for` that are looked at, from the right."""


@lru_cache(maxsize=4096)
def networks_of(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Returns networks, written as CIDR or as single addresses. Raises ValueError, whose text names the wrong one."""
    return tuple(network_of(text) for text in texts if text != UNIX)


def network_of(text: str) -> Network:
    """Returns a network, written as CIDR or as a single address. Raises ValueError."""
    # Not strict: `10.0.0.1/8` is how people write the network of an address.
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        # Callers' addresses are compared as IPv4 where they are, so what `::ffff:` maps is written as that as well.
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


@lru_cache(maxsize=4096)
def is_within(address: str, texts: tuple[str, ...]) -> bool:
    """Tells whether an address is in one of these networks. What is no address is in none."""
    try:
        parsed = ipaddress.ip_address(address)
        networks = networks_of(texts)
    except ValueError:
        return False
    # So a socket that listens for both kinds names an address of IPv4.
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


def caller_address(peer: str, forwarded: Sequence[bytes], trusted: tuple[str, ...]) -> str:
    """Returns the address of whoever called: the rightmost that no trusted proxy has.

    peer: of the connection, empty for a unix socket. forwarded: values of `x-forwarded-for`, which only a trusted peer
    is believed. trusted: networks. Empty where the address cannot be told.
    """
    if not trusted or not _is_trusted(peer, trusted):
        return peer
    # Each proxy adds to the header, or adds one: what the nearest one has seen is at the end of the last.
    hops = [hop for value in forwarded for hop in value.decode("latin-1").split(",")][-MAX_HOPS:]
    address = peer
    for hop in reversed(hops):
        address = _without_port(hop.strip())
        if not _is_trusted(address, trusted):
            break
    return address


def _is_trusted(address: str, trusted: tuple[str, ...]) -> bool:
    return is_within(address, trusted) if address else UNIX in trusted


def _without_port(text: str) -> str:
    """Returns an address as it is written, or an empty text for what is none."""
    # Some proxies write the port as well: `[2001:db8::1]:443`, `192.0.2.1:443`.
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
