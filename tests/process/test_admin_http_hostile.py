"""The admin listener against what is not, or not quite, HTTP: each answer, and that nothing else suffers."""

import socket
import struct
import threading
import time

import pytest

from admin import Admin, AdminWire
from gateway import eventually

GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
INFO = b"POST /api/info HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def head(*lines, first=b"POST /api/info HTTP/1.1"):
    return b"\r\n".join([first, b"Host: localhost", b"Content-Type: application/json", *lines, b"", b""])


HOSTILE = {
    "two lengths": (head(b"Content-Length: 2", b"Content-Length: 2") + b"{}", 400),
    "two different lengths": (head(b"Content-Length: 2", b"Content-Length: 20") + b"{}", 400),
    "length list": (head(b"Content-Length: 2, 2") + b"{}", 400),
    "negative length": (head(b"Content-Length: -1"), 400),
    "signed length": (head(b"Content-Length: +2") + b"{}", 400),
    "hexadecimal length": (head(b"Content-Length: 0x2") + b"{}", 400),
    "huge length": (head(b"Content-Length: 99999999999999999999999"), 400),
    "large length": (head(b"Content-Length: 1000000000"), 413),
    "length and chunked": (head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "chunked and length": (head(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"0\r\n\r\n", 400),
    "chunked twice": (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "chunked, chunked": (head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", 400),
    "xchunked": (head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 400),
    "space before colon": (head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n", 400),
    "folded": (head(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n", 400),
    "vertical tab": (head(b"Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n", 400),
    "chunk extension": (head(b"Transfer-Encoding: chunked") + b"2;x=y\r\n{}\r\n0\r\n\r\n", 400),
    "chunk too long": (head(b"Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n", 413),
    "chunk with LF": (head(b"Transfer-Encoding: chunked") + b"2\n{}\r\n0\r\n\r\n", 400),
    "chunk without its end": (head(b"Transfer-Encoding: chunked") + b"2\r\n{}XX0\r\n\r\n", 400),
    "trailers": (head(b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n", 400),
    "two hosts": (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", 400),
    "bare LF": (b"GET /livez HTTP/1.1\nHost: a\n\n", 400),
    "bare CR": (b"GET /livez HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "NUL": (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
    "no version": (b"GET /livez\r\nHost: a\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    "absolute target": (b"GET http://other/livez HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "star": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "long header name": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x" * 66_000 + b": y\r\n\r\n", 431),
    "long head": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
    "long target": (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
    "expect miracles": (head(b"Expect: miracles", b"Content-Length: 2") + b"{}", 417),
    "two keys": (head(b"X-API-Key: a", b"X-API-Key: b", b"Content-Length: 2") + b"{}", 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_and_closed(gateway, name):
    request, status = HOSTILE[name]
    with AdminWire(gateway) as wire:
        # What comes behind must never be taken for a request.
        wire.send(request + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = wire.response()
        assert response.status == status, response
        assert response.headers["connection"] == "close"
        assert wire.ended()


@pytest.mark.parametrize("step", [1, 7])
def test_requests_in_pieces_of_any_size(gateway, step):
    chunked = head(b"Transfer-Encoding: chunked") + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
    with AdminWire(gateway) as wire:
        for request in (GET, chunked, INFO + b"Content-Length: 2\r\n\r\n{}"):
            for at in range(0, len(request), step):
                wire.send(request[at : at + step])
            assert wire.response().status == 200


def test_pipelined_requests_are_answered_in_order(gateway):
    paths = [b"/livez", b"/health", b"/nowhere", b"/readyz", b"/livez"] * 20
    with AdminWire(gateway) as wire:
        wire.send(b"".join(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths))
        for path in paths:
            response = wire.response()
            assert response.status == (404 if path == b"/nowhere" else 200)
            assert (response.body == b"ok\n") == (path == b"/livez")


def test_the_last_request_says_close(gateway):
    with AdminWire(gateway) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
        response = wire.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert wire.ended()


def test_http_1_0_is_answered_and_closed(gateway):
    with AdminWire(gateway) as wire:
        wire.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert wire.response().status == 200
        assert wire.ended()


def test_100_continue(gateway):
    with AdminWire(gateway) as wire:
        wire.send(INFO + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        data = wire.socket.recv(100)
        assert data == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"{}")
        assert wire.response().status == 200


def test_a_refused_upload_still_hears_why(gateway):
    """The answer is not lost to a reset because of what was not read."""
    with AdminWire(gateway) as wire:
        wire.send(b"POST /api/info HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: 300000\r\n\r\n")
        wire.send(b"x" * 300_000)
        assert wire.response().status == 403


def test_slow_heads_time_out(start):
    gateway = start()
    with AdminWire(gateway) as slow, AdminWire(gateway) as silent:
        began = time.monotonic()
        slow.send(b"GET /livez HT")
        response = slow.response()
        assert response.status == 408 and 8 < time.monotonic() - began < 20
        assert slow.ended()
        assert silent.ended()


def test_idle_connections_make_room_for_new_ones(start, connect):
    gateway = start()
    client = connect(gateway, "bystander")
    wires = []
    try:
        for _ in range(400):
            wire = AdminWire(gateway)
            wires.append(wire)
        # Health checks still get through, and clients notice nothing.
        with Admin(gateway) as admin:
            assert admin.json("/health")[0] == 200
            connections = admin.metrics()["ringgate_admin_connections"][2]["ringgate_admin_connections"]
            assert connections <= 2 * 256
        assert client.fence() == []
    finally:
        for wire in wires:
            wire.socket.close()
    with Admin(gateway) as admin:
        count = lambda: admin.metrics()["ringgate_admin_connections"][2]["ringgate_admin_connections"]
        eventually(lambda: count() == 1, "the others are gone")


def test_unread_answers_do_not_pile_up(start):
    """A peer that sends requests and reads nothing is stopped by its own socket."""
    gateway = start()
    host, port = gateway.admin.rsplit(":", 1)
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect((host, int(port)))
        greedy.settimeout(2)
        request, before = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 200, gateway.memory_bytes()
        try:
            for _ in range(500):
                greedy.sendall(request)
        except TimeoutError:
            pass
        else:
            raise AssertionError("everything was taken")
        with Admin(gateway) as admin:
            assert admin.get("/livez")[0] == 200
        assert gateway.memory_bytes() - before < 32 << 20


def test_bodies_of_strangers_are_not_waited_for(start):
    gateway = start({"api.keys": ["k"]})
    with AdminWire(gateway) as wire:
        wire.send(INFO + b"Content-Length: 4000000\r\n\r\n")
        assert wire.response().status == 401


def test_bytes_of_all_bodies_are_bounded(start):
    gateway = start()
    wires = [AdminWire(gateway) for _ in range(14)]
    before = gateway.memory_bytes()

    def upload(wire):
        try:
            wire.send(INFO + b"Content-Length: 4000000\r\n\r\n" + b" " * 3_900_000)
        except OSError:
            pass  # refused while it was being sent

    threads = [threading.Thread(target=upload, args=[wire]) for wire in wires]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    with Admin(gateway) as admin:
        assert admin.json("/health")[0] == 200
        refused = lambda: [s for s in admin.metrics()["ringgate_admin_requests_total"][2] if 'status="503"' in s]
        eventually(refused, "some are refused", timeout=15)
    assert gateway.memory_bytes() - before < 100 << 20
    for wire in wires:
        wire.socket.close()


def test_resets_and_rubbish_leave_nothing_behind(start, connect):
    gateway = start()
    client, descriptors = connect(gateway, "bystander"), None
    for round in range(3):
        for n in range(100):
            wire = AdminWire(gateway)
            wire.send([b"", b"\x00" * 100, GET[:10], INFO, GET * 3, b"\r\n" * 50][n % 6])
            if n % 2:
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.socket.close()
        with Admin(gateway) as admin:
            count = lambda: admin.metrics()["process_open_fds"][2]["process_open_fds"] if "process_open_fds" in admin.metrics() else 0
            if descriptors is None:
                eventually(lambda: admin.metrics()["ringgate_admin_connections"][2]["ringgate_admin_connections"] == 1, "closed")
                descriptors = count()
            else:
                eventually(lambda: count() <= descriptors, "no descriptor is left behind")
    assert client.fence() == []
