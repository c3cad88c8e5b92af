import ipaddress
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.addresses import Address, UnsafeAddress

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fec0::1]", "[::ffff:0:10.0.0.1]", "[64:ff9b:1::a00:1]",
    "168.63.129.16", "[::ffff:168.63.129.16]", "[64:ff9b::168.63.129.16]", "[fd00:ec2::254]", "[::127.0.0.1]", "192.0.0.192",
    "[2600::5efe:10.0.0.1]", "[2600::200:5efe:169.254.169.254]", "[3fff::1]", "[5f00::1]", "[100::1]", "[4000::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_refused_before_any_delivery(host):
    with pytest.raises(UnsafeAddress, match="not a public address"):
        Address.of(f"https://{host}/hook", private=False)


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f000001", "127.1", "localhost."])
def test_a_name_of_a_private_address_is_refused_when_it_is_looked_up(host):
    with pytest.raises(UnsafeAddress):
        Address.of(f"https://{host}/hook", private=False).resolved()


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://example.com/hook", "https"),
        ("ftp://example.com/hook", "https"),
        ("file:///etc/passwd", "https"),
        ("https://user:password@example.com/hook", "password"),
    ],
)
def test_an_address_of_another_form_is_refused(url, cause):
    with pytest.raises(UnsafeAddress, match=cause):
        Address.of(url, private=False)


def accepted(address: IPv4 | IPv6) -> bool:
    try:
        Address.of(f"https://[{address}]/" if address.version == 6 else f"https://{address}/", private=False)
    except UnsafeAddress:
        return False
    return True


SPECIAL = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
    "240.0.0.0/4", "168.63.129.16/32",
    "::/127", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
    "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
]  # fmt: skip
"""The registries of IANA for special purposes, and what clouds give to each of their machines."""

IN_V4 = [network for network in SPECIAL if ":" not in network]
HOLDERS = [  # of an address of IPv4, as an integer
    lambda inner: IPv6(0xFFFF << 32 | inner),
    lambda inner: IPv6(0xFFFF << 48 | inner),
    lambda inner: IPv6(inner),
    lambda inner: IPv6(0x64FF9B << 96 | inner),
    lambda inner: IPv6(0x64FF9B0001 << 80 | inner),
    lambda inner: IPv6(0x2002 << 112 | inner << 80 | 1),
    lambda inner: IPv6(0x20010000 << 96 | 1 << 64 | inner ^ 0xFFFFFFFF),
    lambda inner: IPv6(0x2600 << 112 | 0x5EFE << 32 | inner),
    lambda inner: IPv6(0x2600 << 112 | 0x2005EFE << 32 | inner),
]


@given(st.sampled_from(SPECIAL).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_special_network_is_accepted(address):
    assert not accepted(address)


@given(st.sampled_from(HOLDERS), st.sampled_from(IN_V4).flatmap(lambda network: st.ip_addresses(network=network)))
def test_an_address_that_holds_a_private_one_is_refused(holder, inner):
    assert not accepted(holder(int(inner)))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6), st.ip_addresses(network="2000::/3")))
def test_what_is_accepted_is_in_no_special_network(address):
    if accepted(address):
        assert not any(address in ipaddress.ip_network(network) for network in SPECIAL)
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_address_of_ipv4_counts_the_same_in_the_words_of_ipv6(address):
    for holder in HOLDERS[0], HOLDERS[3]:
        assert accepted(holder(int(address))) == accepted(address)


@pytest.mark.parametrize("host", ["1.1.1.1", "8.8.8.8", "168.63.129.17", "2606:4700:4700::1111", "2a00:1450:4001::1"])
def test_a_public_address_is_accepted(host):
    assert accepted(ipaddress.ip_address(host))


def test_an_address_is_called_by_its_number_and_keeps_its_name_for_tls():
    url, extensions = Address.of("https://1.1.1.1:8443/hook?a=b", private=False).resolved()
    assert str(url) == "https://1.1.1.1:8443/hook?a=b"
    url, extensions = Address.of("http://localhost/hook", private=True).resolved()
    assert ipaddress.ip_address(url.host).is_loopback
    assert extensions == {"sni_hostname": "localhost"}


def test_a_name_that_nobody_has_is_no_address():
    with pytest.raises(UnsafeAddress, match=r"there is no address of nobody\.invalid"):
        Address.of("https://nobody.invalid/hook", private=False).resolved()
