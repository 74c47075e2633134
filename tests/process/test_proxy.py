"""Who the client is, as a proxy in front says it: PROXY protocol versions 1 and 2, X-Forwarded-For, and liars."""

import ipaddress
import struct

import pytest

from wire import TEXT, Ended, Wire, frame, upgrade_request

PER_IP = {"limits.connections_per_ip": 1, "limits.connections_per_ip_window": "60s"}
BEHIND = {**PER_IP, "listen.proxy_protocol": True, "listen.trusted_proxies": ["127.0.0.1"]}
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(client, port=50000):
    family = "TCP6" if ":" in client else "TCP4"
    here = "::1" if ":" in client else "127.0.0.1"
    return f"PROXY {family} {client} {here} {port} 8080\r\n".encode()


def v2(client=None, tlvs=b"", command=1):
    """Without a client: AF_UNSPEC."""
    if client is None:
        return SIGNATURE + bytes([0x20 | command, 0x00]) + struct.pack(">H", len(tlvs)) + tlvs
    address = ipaddress.ip_address(client)
    here = ipaddress.ip_address("::1" if address.version == 6 else "127.0.0.1")
    block = address.packed + here.packed + struct.pack(">HH", 50000, 8080) + tlvs
    return SIGNATURE + bytes([0x20 | command, 0x21 if address.version == 6 else 0x11]) + struct.pack(">H", len(block)) + block


def status(gateway, preface, *, source=None, headers=(), pieces=1):
    """The status of an upgrade behind this preface, sent in so many pieces."""
    data = preface + upgrade_request(headers=headers)
    size = -(-len(data) // pieces)
    with Wire(gateway, source=source) as wire:
        for start in range(0, len(data), size):
            wire.send(data[start : start + size])
        return wire.response().status


@pytest.mark.parametrize("header", [v1, v2], ids=["v1", "v2"])
def test_the_client_of_the_header_is_the_one_that_counts(start, header):
    gateway = start(BEHIND)
    assert status(gateway, header("203.0.113.1")) == 101
    assert status(gateway, header("203.0.113.1")) == 429, "the same client through the same proxy"
    assert status(gateway, header("203.0.113.2"), pieces=40) == 101, "another one, in pieces"
    assert status(gateway, header("2001:db8:1:2::1")) == 101
    assert status(gateway, header("2001:db8:1:2:ffff::7")) == 429, "IPv6 counts by its /64"
    assert status(gateway, header("2001:db8:1:3::1")) == 101


def test_both_versions_say_the_same(start):
    gateway = start(BEHIND)
    assert status(gateway, v1("203.0.113.1")) == 101
    assert status(gateway, v2("203.0.113.1")) == 429
    assert status(gateway, v2("::ffff:203.0.113.1")) == 429, "IPv4 in IPv6 is IPv4"


def test_a_whole_session_behind_a_proxy(start):
    gateway = start(BEHIND, shards=3)
    tlvs = b"\x02\x00\x0bexample.org" + b"\x04\x00\x10" + b"\0" * 16
    for number in range(6):
        with Wire(gateway) as wire:
            hello = frame(TEXT, '{"type":"ping","id":"first"}')
            wire.send(v2(f"203.0.113.{number}", tlvs) + upgrade_request(f"/ws?user_id=user{number}") + hello)
            assert wire.response().status == 101
            while b'"first"' not in wire.opcode(TEXT):
                pass


def test_a_proxy_that_speaks_for_itself(start):
    """Health checks come with LOCAL or UNKNOWN: then the address is the proxy's own."""
    gateway = start(BEHIND)
    for preface in (v2(command=0), v2(), v2("203.0.113.1", command=0), b"PROXY UNKNOWN\r\n"):
        with Wire(gateway) as probe:
            probe.send(preface + upgrade_request())
            assert probe.response().status in (101, 429)
    assert status(gateway, v1("203.0.113.1")) == 101, "nobody was counted as this one"


GOOD = v1("203.0.113.1")
LIES = {
    "none": b"",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "no such address": b"PROXY TCP4 203.0.113.256 127.0.0.1 1 2\r\n",
    "no such family": b"PROXY UNIX /a /b 1 2\r\n",
    "a line without end": b"PROXY TCP4 " + b"1" * 200,
    "LF alone": GOOD.replace(b"\r\n", b"\n"),
    "an unknown version": SIGNATURE + b"\x31\x11\x00\x0c" + b"\0" * 12,
    "an unknown command": SIGNATURE + b"\x2f\x11\x00\x0c" + b"\0" * 12,
    "too short for its address": SIGNATURE + b"\x21\x11\x00\x04" + b"\0" * 4,
    "as long as it can say": SIGNATURE + b"\x21\x11\xff\xff" + b"\0" * 12,
    "two": GOOD + v1("203.0.113.2"),
}


@pytest.mark.parametrize("preface", LIES.values(), ids=LIES.keys())
def test_a_connection_without_a_proper_header_is_refused_at_once(start, preface):
    gateway = start(BEHIND)
    with Wire(gateway) as wire:
        wire.send(preface + upgrade_request())
        answer = wire.ended(timeout=5)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert status(gateway, v1("203.0.113.9")) == 101, "others are served"


def test_who_is_no_proxy_is_not_believed(start):
    gateway = start({**PER_IP, "listen.proxy_protocol": True, "listen.trusted_proxies": ["127.0.0.2"]})
    assert status(gateway, GOOD, source="127.0.0.1") == 400
    assert status(gateway, GOOD, source="127.0.0.2") == 101


def test_a_header_that_never_ends_has_its_time(start):
    gateway = start({**BEHIND, "session.handshake_timeout": "500ms"})
    for beginning in (b"", b"PROXY TCP4 203.0.113.1 ", SIGNATURE, v2("203.0.113.1", b"\0" * 1000)[:-1]):
        with Wire(gateway) as wire:
            wire.send(beginning)
            answer = wire.ended(timeout=8)
            assert not answer or answer.startswith(b"HTTP/1.1 408 "), answer


def test_without_the_setting_a_header_is_just_wrong(start):
    gateway = start(PER_IP)
    try:
        assert status(gateway, GOOD) == 400
    except Ended:
        pass


def forwarded(*addresses):
    return [f"X-Forwarded-For: {address}" for address in addresses]


def test_forwarded_addresses_are_believed_from_proxies_only(start):
    gateway = start({**PER_IP, "listen.trusted_proxies": ["127.0.0.2", "10.0.0.0/8"]})
    assert status(gateway, b"", source="127.0.0.3", headers=forwarded("203.0.113.1")) == 101
    assert status(gateway, b"", source="127.0.0.3", headers=forwarded("203.0.113.2")) == 429, "it is 127.0.0.3, whatever it says"
    assert status(gateway, b"", source="127.0.0.2", headers=forwarded("203.0.113.1")) == 101
    assert status(gateway, b"", source="127.0.0.2", headers=forwarded("203.0.113.1")) == 429


def test_what_the_client_wrote_itself_does_not_count(start):
    """The proxies appended what they saw: the rightmost address that is no proxy is the client."""
    gateway = start({**PER_IP, "listen.trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]})
    lies = ["1.1.1.1, 203.0.113.1", "8.8.8.8,203.0.113.1, 10.0.0.7", "9.9.9.9, junk, 203.0.113.1", "10.0.0.9, 203.0.113.1"]
    assert status(gateway, b"", headers=forwarded(lies[0])) == 101
    for lie in lies:
        assert status(gateway, b"", headers=forwarded(lie)) == 429, lie
    assert status(gateway, b"", headers=forwarded("1.1.1.1", "203.0.113.1")) == 429, "in two fields"
    assert status(gateway, b"", headers=forwarded("1.1.1.1")) == 101, "1.1.1.1 itself has not been here"


def test_a_proxy_header_and_a_forwarded_address_go_together(start):
    """TCP proxy, HTTP proxy, gateway: the HTTP proxy is known by the first, the client by the second."""
    gateway = start({**BEHIND, "listen.trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]})
    assert status(gateway, v2("10.0.0.5"), headers=forwarded("6.6.6.6, 203.0.113.1")) == 101
    assert status(gateway, v2("10.0.0.6"), headers=forwarded("203.0.113.1")) == 429
    assert status(gateway, v2("203.0.113.1"), headers=forwarded("203.0.113.77")) == 429, "a client's own header is not believed"
