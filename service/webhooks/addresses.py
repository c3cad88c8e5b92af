"""Addresses of webhooks: the service calls no address inside its own network for a client."""

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import httpx

UNICAST = ipaddress.ip_network("2000::/3")
"""All that is assigned to the internet of IPv6: what is not in it is local, translated or of no use yet."""

REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # of Azure, on each of its machines
            "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4",
            "2001::/23",  # protocols, Teredo among them
            "2001:db8::/32", "2002::/16", "3fff::/20",
        ),
    )
)  # fmt: skip
"""Networks that Python takes for public ones in some version, and that lead inside, or nowhere."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 networks without IPv4 reach an address of IPv4 so: it is in the last 32 bits."""

ISATAP = (0x00005EFE, 0x02005EFE)
"""Third quarter of an address whose last one is an address of IPv4, reached through a tunnel."""


class UnsafeAddress(Exception):
    """The address must not be called, or there is none."""


@dataclass(frozen=True)
class Address:
    """A URL whose form is allowed."""

    url: httpx.URL
    private: bool
    """Whether this service may call private addresses, and without TLS."""

    @classmethod
    def of(cls, text: str, *, private: bool) -> "Address":
        """Check the form of an address. Raise :class:`UnsafeAddress`."""
        url = httpx.URL(text)
        if url.scheme != "https" and not (private and url.scheme == "http"):
            raise UnsafeAddress("a webhook must be an https address")
        if url.userinfo:
            raise UnsafeAddress("a webhook's address must hold no password; what it hears is signed instead")
        address = cls(url, private)
        with suppress(ValueError):  # a name, which is looked up for each delivery
            address._check(ipaddress.ip_address(url.host))
        return address

    def resolved(self) -> tuple[httpx.URL, dict[str, str]]:
        """Return the URL with the address in place of the name, and request extensions that keep the name for TLS.

        The name is looked up once, and the checked address is called: an answer that changes in between cannot lead elsewhere.
        Raise :class:`UnsafeAddress`.
        """
        try:
            found = socket.getaddrinfo(self.url.host, self.url.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except (OSError, UnicodeError) as error:
            raise UnsafeAddress(f"there is no address of {self.url.host}") from error
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            self._check(address)
        return self.url.copy_with(host=str(addresses[0])), {"sni_hostname": self.url.host}

    def _check(self, address: IPv4Address | IPv6Address) -> None:
        if not self.private and not is_public(address):
            raise UnsafeAddress(f"{self.url.host} is not a public address; a webhook must be reachable from the internet")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the internet, and so is the one of IPv4 that it may hold."""
    if any(address.version == network.version and address in network for network in REFUSED):
        return False
    if isinstance(address, IPv6Address):
        last = IPv4Address(int(address) & 0xFFFFFFFF)
        if address.ipv4_mapped or address in NAT64:
            return is_public(last)
        if address not in UNICAST or (int(address) >> 32 & 0xFFFFFFFF in ISATAP and not is_public(last)):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved
