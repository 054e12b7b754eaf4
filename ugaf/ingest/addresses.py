"""Which network addresses data may lead to: a cell of somebody's set must not reach what only this machine can reach.

A host's name is resolved once, every address that it has is judged, and the connection goes to an address that was
judged: a name that resolves to something else a moment later changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from ugaf.ingest.sources import SourceError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SERVICES = {ipaddress.ip_address("168.63.129.16")}
"""Global by its number, but a cloud's own service to its machines (Azure)."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenError(SourceError):
    """Something that data may not open; the message says which setting allows it."""


@dataclass(frozen=True)
class Hosts:
    """The hosts that web addresses in cells may name.

    Attributes:
        only: if set, these hosts and no others; `*.example.com` is every host below it.
        named: hosts (each perhaps with a port) that the input itself names: their addresses may be private.
    """

    only: tuple[str, ...] | None = None
    named: frozenset[str] = frozenset()

    def check_name(self, host: str, port: int) -> None:
        """Raises ForbiddenError for a host that the input does not allow."""
        if self.only is None or self.is_named(host, port):
            return
        if not any(_matches(host, port, pattern) for pattern in self.only):
            raise ForbiddenError(f"the host {host} is not among the input's `hosts` ({', '.join(self.only) or 'none'})")

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to, in the resolver's order.

        Raises:
            ForbiddenError: one of them is this machine's, a private network's or reserved. One is enough: who gives
                such addresses with others is about to change them.
            socket.gaierror: it has none.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self.is_named(host, port):
            for address in addresses:
                problem = what_is_wrong(address)
                if problem:
                    raise ForbiddenError(
                        f"{host} is {address}, {problem}: a cell may not name it unless the input does "
                        f"(`hosts: [{host}]`, or `root`)"
                    )
        return addresses

    def is_named(self, host: str, port: int) -> bool:
        """True for a host that the input itself names, by its name and not by a pattern."""
        exact = {pattern for pattern in self.only or () if "*" not in pattern}
        return any(_matches(host, port, name) for name in exact | self.named)


def what_is_wrong(address: str) -> str:
    """What an IP address is if it is no public one: "a loopback address"; "" for a public one.

    An IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) is judged as what it is.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    for inner in (ip, *_inside(ip)):
        for what in ("loopback", "link_local", "multicast", "unspecified"):
            if getattr(inner, f"is_{what}"):
                return f"{_article(what)} {what.replace('_', '-')} address"
        if inner in _SERVICES:
            return "an address of the cloud's own services"
        if not inner.is_global and not (isinstance(inner, ipaddress.IPv6Address) and inner.ipv4_mapped):
            return "an address of a private or reserved network"
    return ""


def _inside(ip: Address) -> Sequence[Address]:
    if isinstance(ip, ipaddress.IPv4Address):
        return ()
    found: list[Address] = [inner for inner in (ip.ipv4_mapped, ip.sixtofour) if inner is not None]
    if ip.teredo is not None:
        found.extend(ip.teredo)
    if ip in _NAT64 or int(ip) >> 32 == 0:  # NAT64, and the old IPv4-compatible form ::a.b.c.d
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def _article(what: str) -> str:
    return "an" if what[0] in "aeiou" else "a"


def _matches(host: str, port: int, pattern: str) -> bool:
    """`example.com`, `example.com:8080`, `[::1]:80`, `::1` or `*.example.com`."""
    name, wanted = pattern.lower().strip(), ""
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        wanted = rest.removeprefix(":")
    elif name.count(":") == 1:
        name, _, wanted = name.partition(":")
    if wanted and wanted != str(port):
        return False
    host = host.lower().strip("[]").rstrip(".")
    return host.endswith(name[1:]) if name.startswith("*.") else host == name.rstrip(".")
