"""Addresses of webhooks: the service calls no address inside its own network for a client."""

import ipaddress
import socket
from contextlib import suppress
from dataclasses import dataclass

import httpx

TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""IPv6 networks whose addresses hold one of IPv4, which may be a private one."""


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

    def _check(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if self.private:
            return
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        translated = any(address.version == network.version and address in network for network in TRANSLATED)
        if translated or address.is_multicast or not address.is_global:
            raise UnsafeAddress(f"{self.url.host} is not a public address; a webhook must be reachable from the internet")
