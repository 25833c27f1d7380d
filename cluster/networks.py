"""Addresses and the networks that they are in (pure): who is behind a front, whose client it is."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from cluster.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

MOST_NETWORKS = 32
_MOST_HOPS = 32


def parse_networks(text: str) -> Networks:
    """Networks in CIDR notation, separated by commas; raises InvalidRequest."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > MOST_NETWORKS:
        raise InvalidRequest(f"{len(names)} networks are too many; most is {MOST_NETWORKS}")
    return tuple(parse_network(name) for name in names)


def parse_network(name: str) -> IPv4Network | IPv6Network:
    """One network such as 192.0.2.0/24; raises InvalidRequest."""
    try:
        return ip_network(name)
    except ValueError as error:
        raise InvalidRequest(f"{name!r} is not a network such as 192.0.2.0/24: {error}") from None


def parse_address(text: str) -> Address | None:
    """An address as fronts write it, perhaps with a port; None for what is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def longest_prefix(networks: Iterable[IPv4Network | IPv6Network], address: Address) -> int:
    """The length in bits of the longest network that holds the address; -1 when none does."""
    return max((n.prefixlen for n in networks if address in n), default=-1)


def client_of(peer: str, forwarded: str | None, trusted: Networks) -> Address | None:
    """Who asks: the peer, or behind trusted fronts the nearest address that is no front's.

    `forwarded` is the header X-Forwarded-For. Each front puts the address that it sees at the
    end; what stands before the first one that is not trusted, anybody may have written.
    """
    address = parse_address(peer)
    hops = (forwarded or "").split(",")[-_MOST_HOPS:]
    while address is not None and hops and longest_prefix(trusted, address) >= 0:
        before = parse_address(hops.pop())
        if before is None:
            break
        address = before
    return address
