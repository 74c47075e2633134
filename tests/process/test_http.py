"""The upgrade request: RFC 9112 and RFC 6455 section 4, byte by byte."""

import json
import socket
import time

import pytest

from wire import ACCEPT, KEY, TEXT, Ended, Wire, frame, upgrade_request

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
WS_KEY = b"Sec-WebSocket-Key: " + KEY.encode() + b"\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
HOST = b"Host: localhost\r\n"
LINE = b"GET /ws?user_id=http HTTP/1.1\r\n"
GOOD = LINE + HOST + UPGRADE + WS_KEY + VERSION


def head(*parts):
    return b"".join(parts) + b"\r\n"


# Requests that are upgraded.
ACCEPTED = {
    "plain": GOOD,
    "names in capitals": LINE + b"HOST: localhost\r\nUPGRADE: WebSocket\r\nCONNECTION: upgrade\r\nSEC-WEBSOCKET-KEY: " + KEY.encode() + b"\r\nSEC-WEBSOCKET-VERSION: 13\r\n",
    "connection is a list": LINE + HOST + b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" + WS_KEY + VERSION,
    "connection twice": LINE + HOST + b"Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n" + WS_KEY + VERSION,
    "no space behind the colon": LINE + b"Host:localhost\r\nUpgrade:websocket\r\nConnection:Upgrade\r\nSec-WebSocket-Key:" + KEY.encode() + b"\r\nSec-WebSocket-Version:13\r\n",
    "spaces and tabs around values": LINE + b"Host: \t localhost \t \r\nUpgrade:  websocket \r\nConnection: \tUpgrade\r\n" + WS_KEY + VERSION,
    "IPv6 host": LINE + b"Host: [::1]:8080\r\n" + UPGRADE + WS_KEY + VERSION,
    "unknown extension": GOOD + b"Sec-WebSocket-Extensions: x-unknown; a=b\r\n",
    "unknown sub-protocol": GOOD + b"Sec-WebSocket-Protocol: chat, superchat\r\n",
    "empty line in front": b"\r\n" + GOOD,
    "content-length of nothing": GOOD + b"Content-Length: 0\r\n",
    "sixty headers": GOOD + b"".join(b"X-%d: y\r\n" % n for n in range(55)),
}  # fmt: skip

# Requests that are refused, with the statuses that are right.
REFUSED = {
    "no upgrade at all": (LINE + HOST, {426}),
    "upgrade to something else": (LINE + HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + WS_KEY + VERSION, {400, 426}),
    "connection without upgrade": (LINE + HOST + b"Upgrade: websocket\r\nConnection: keep-alive\r\n" + WS_KEY + VERSION, {400, 426}),
    "version missing": (LINE + HOST + UPGRADE + WS_KEY, {400, 426}),
    "version 8": (LINE + HOST + UPGRADE + WS_KEY + b"Sec-WebSocket-Version: 8\r\n", {426}),
    "version 13, 14": (LINE + HOST + UPGRADE + WS_KEY + b"Sec-WebSocket-Version: 13, 14\r\n", {400, 426}),
    "key missing": (LINE + HOST + UPGRADE + VERSION, {400}),
    "key too short": (LINE + HOST + UPGRADE + b"Sec-WebSocket-Key: c2hvcnQ=\r\n" + VERSION, {400}),
    "key not base64": (LINE + HOST + UPGRADE + b"Sec-WebSocket-Key: ????????????????????????\r\n" + VERSION, {400}),
    "key twice": (GOOD + WS_KEY, {400}),
    "host missing": (LINE + UPGRADE + WS_KEY + VERSION, {400}),
    "host twice": (GOOD + HOST, {400}),
    "two other hosts": (GOOD + b"Host: other\r\n", {400}),
    "path unknown": (GOOD.replace(b"/ws?", b"/nothing?"), {404}),
    "echo is off": (GOOD.replace(b"/ws?", b"/echo?"), {404}),
    "path with a slash behind": (GOOD.replace(b"/ws?", b"/ws/?"), {404}),
    "POST": (GOOD.replace(b"GET", b"POST"), {405}),
    "OPTIONS": (GOOD.replace(b"GET", b"OPTIONS"), {405}),
    "lower-case method": (GOOD.replace(b"GET", b"get"), {400, 405}),
    "HTTP/1.0": (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), {400, 426, 505}),
    "HTTP/2.0": (GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), {400, 505}),
    "HTTP/9": (GOOD.replace(b"HTTP/1.1", b"HTTP/9"), {400, 505}),
    "no version": (GOOD.replace(b" HTTP/1.1", b""), {400}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 505}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n", {400}),
    "bare line feeds": (GOOD.replace(b"\r\n", b"\n") + b"\n", {400}),
    "one bare line feed": (LINE + b"Host: localhost\n" + UPGRADE + WS_KEY + VERSION, {400}),
    "bare carriage return": (LINE + b"Host: local\rhost\r\n" + UPGRADE + WS_KEY + VERSION, {400}),
    "NUL in a value": (GOOD + b"X-A: a\x00b\r\n", {400}),
    "NUL in the path": (GOOD.replace(b"/ws?", b"/ws\x00?"), {400}),
    "space before the colon": (GOOD + b"X-A : b\r\n", {400}),
    "folded line": (GOOD + b"X-A: b\r\n c\r\n", {400}),
    "header without colon": (GOOD + b"X-A\r\n", {400}),
    "header with an empty name": (GOOD + b": b\r\n", {400}),
    "space in a header name": (GOOD + b"X A: b\r\n", {400}),
    "two spaces in the request line": (GOOD.replace(b"GET /ws", b"GET  /ws"), {400}),
    "space in the path": (GOOD.replace(b"/ws?user_id=http", b"/ws?user_id=a b"), {400}),
    "a body": (GOOD + b"Content-Length: 5\r\n", {400}),
    "content-length twice": (GOOD + b"Content-Length: 0\r\nContent-Length: 5\r\n", {400}),
    "content-length negative": (GOOD + b"Content-Length: -1\r\n", {400}),
    "content-length list": (GOOD + b"Content-Length: 0, 5\r\n", {400}),
    "chunked": (GOOD + b"Transfer-Encoding: chunked\r\n", {400}),
    "chunked and length": (GOOD + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", {400}),
    "chunked, obscured": (GOOD + b"Transfer-Encoding: \x0bchunked\r\n", {400}),
    "head too large": (GOOD + b"X-Filler: " + b"x" * 9000 + b"\r\n", {431}),
    "path too long": (GOOD.replace(b"/ws?", b"/ws?" + b"x" * 9000 + b"&"), {414, 431}),
    "header name too long": (GOOD + b"x" * 9000 + b": y\r\n", {431}),
    "too many headers": (GOOD + b"".join(b"X-%d: y\r\n" % n for n in range(200)), {431}),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_is_upgraded(gateway, name):
    with Wire(gateway) as wire:
        wire.send(head(ACCEPTED[name]))
        response = wire.response()
        assert (response.version, response.status) == ("HTTP/1.1", 101), response
        assert response.headers["upgrade"].lower() == "websocket"
        assert response.headers["connection"].lower() == "upgrade"
        assert response.headers["sec-websocket-accept"] == ACCEPT
        assert "sec-websocket-extensions" not in response.headers
        assert "sec-websocket-protocol" not in response.headers
        assert b'"auth:ok"' in wire.opcode(TEXT)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(gateway, name):
    request, statuses = REFUSED[name]
    with Wire(gateway) as wire:
        wire.send(head(request))
        response = wire.response()
        assert response.status in statuses, response
        assert response.version == "HTTP/1.1"
        connection = {token.strip().lower() for token in response.headers["connection"].split(",")}
        assert connection == ({"close", "upgrade"} if response.status == 426 else {"close"})
        assert "content-length" in response.headers
        if response.status == 405:
            assert response.headers["allow"] == "GET"
        if response.status == 426:
            assert response.headers["upgrade"].lower() == "websocket"
            if "version" in name:
                assert response.headers["sec-websocket-version"] == "13"
        assert response.body, "a refusal says in words what was wrong"
        assert wire.ended() == b""


def test_the_answer_to_head_has_no_body(gateway):
    """RFC 9110, section 9.3.2: whoever sent HEAD would take a body for the next response."""
    with Wire(gateway) as wire:
        wire.send(head(GOOD.replace(b"GET", b"HEAD")))
        answer = wire.ended()
        assert answer.startswith(b"HTTP/1.1 405 ") and answer.endswith(b"\r\n\r\n") and answer.count(b"\r\n\r\n") == 1, answer


def test_a_second_request_behind_a_refused_one_is_not_served(gateway):
    with Wire(gateway) as wire:
        wire.send(head(LINE, HOST) + head(GOOD))
        assert wire.response().status == 426
        assert wire.ended() == b""


def test_a_body_is_not_taken_for_a_request(gateway):
    """Smuggling: what one parser takes for a body must not be the next request, nor frames, of another."""
    inner = head(GOOD)
    with Wire(gateway) as wire:
        wire.send(head(GOOD, b"Content-Length: %d\r\n" % len(inner)) + inner)
        assert wire.response().status == 400
        assert wire.ended() == b""


def test_a_head_in_single_bytes(gateway):
    with Wire(gateway) as wire:
        for byte in head(GOOD):
            wire.send(bytes([byte]))
        assert wire.response().status == 101


@pytest.mark.parametrize("cut", range(1, len(head(GOOD)), 23))
def test_a_head_in_two_parts(gateway, cut):
    request = head(GOOD)
    with Wire(gateway) as wire:
        wire.send(request[:cut])
        time.sleep(0.01)
        wire.send(request[cut:])
        assert wire.response().status == 101


def test_frames_right_behind_the_head_are_served(gateway, unique):
    """The client need not wait for the 101 (it should); and the bytes move with it to its home shard."""
    for number in range(8):
        with Wire(gateway) as wire:
            request = upgrade_request(f"/ws?user_id={unique('hasty')}{number}")
            wire.send(request + b"".join(frame(TEXT, '{"type":"ping","id":%d}' % n) for n in range(20)))
            assert wire.response().status == 101
            assert b'"auth:ok"' in wire.opcode(TEXT)
            for n in range(20):
                assert json.loads(wire.opcode(TEXT))["id"] == n


def test_the_sub_protocol_is_confirmed(gateway):
    for offered in ("ringgate.v1.json", "other, ringgate.v1.json"):
        with Wire(gateway) as wire:
            response = wire.upgrade(headers=[f"Sec-WebSocket-Protocol: {offered}"])
            assert response.headers["sec-websocket-protocol"] == "ringgate.v1.json"
            assert b'"auth:ok"' in wire.opcode(TEXT)


ORIGINS = [
    ("https://app.example", 101),
    ("https://APP.example", 101),
    ("http://localhost:3000", 101),
    (None, 101),  # not a browser
    ("https://evil.example", 403),
    ("http://app.example", 403),
    ("https://app.example.evil.example", 403),
    ("https://app.example:8443", 403),
    ("null", 403),
    ("", 403),
]


def test_allowed_origins(start):
    gateway = start({"listen.allowed_origins": ["https://app.example", "http://localhost:3000"]})
    got = []
    for origin, _ in ORIGINS:
        with Wire(gateway) as wire:
            wire.send(upgrade_request(headers=[] if origin is None else [f"Origin: {origin}"]))
            got.append((origin, wire.response().status))
    assert got == ORIGINS


def test_any_origin_is_allowed_by_default(gateway):
    with Wire(gateway) as wire:
        assert wire.upgrade(headers=["Origin: https://wherever.example"]).status == 101


def test_an_end_in_the_middle_of_a_head(gateway):
    for cut in (0, 1, 10, 60):
        with Wire(gateway) as wire:
            wire.send(head(GOOD)[:cut])
            wire.socket.shutdown(socket.SHUT_WR)
            answer = wire.ended()
            assert not answer or answer.startswith(b"HTTP/1.1 400"), answer


def test_connections_that_only_open_and_close(gateway):
    for number in range(200):
        wire = Wire(gateway)
        wire.reset() if number % 2 else wire.socket.close()
    with Wire(gateway) as wire:
        wire.upgrade()


def test_a_refused_client_that_goes_on_sending_still_reads_the_refusal(gateway):
    """A reset would take the answer away from it."""
    with Wire(gateway) as wire:
        try:
            wire.send(b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
        except ConnectionError:
            pass
        try:
            assert wire.response().status in (400, 405)
        except Ended as error:
            raise AssertionError(f"the answer was lost: {error}") from None
