import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.webhooks.addresses import Address, UnsafeAddress

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]",
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


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_is_accepted_is_public(address):
    host = f"[{address}]" if address.version == 6 else str(address)
    try:
        Address.of(f"https://{host}/hook", private=False)
    except UnsafeAddress:
        return
    assert address.is_global
    assert not address.is_loopback
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    assert inner is None or inner.is_global


def test_an_address_is_called_by_its_number_and_keeps_its_name_for_tls():
    url, extensions = Address.of("https://1.1.1.1:8443/hook?a=b", private=False).resolved()
    assert str(url) == "https://1.1.1.1:8443/hook?a=b"
    url, extensions = Address.of("http://localhost/hook", private=True).resolved()
    assert ipaddress.ip_address(url.host).is_loopback
    assert extensions == {"sni_hostname": "localhost"}


def test_a_name_that_nobody_has_is_no_address():
    with pytest.raises(UnsafeAddress, match=r"there is no address of nobody\.invalid"):
        Address.of("https://nobody.invalid/hook", private=False).resolved()
