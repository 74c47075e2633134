"""The end of the process: told, paced, and in time."""

import signal
import socket
import time

import pytest

from client import Closed
from gateway import eventually
from tokens import SECRET
from wire import TEXT, Wire, frame

DRAIN = {"drain.grace": 0, "drain.spread": "1s", "drain.deadline": "6s"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_everybody_is_told_and_closed_4201(start, connect, number):
    gateway = start(DRAIN, shards=3)
    clients = [connect(gateway, f"user{index}") for index in range(12)]
    began = time.monotonic()
    gateway.signal(number)
    delays = []
    for client in clients:
        told = client.expect("reconnect")
        assert isinstance(told["afterMs"], int) and 0 <= told["afterMs"] <= 60_000
        assert told["reason"]
        delays.append(told["afterMs"])
        assert client.closed()[0] == 4201
    assert gateway.wait() == 0
    assert time.monotonic() - began < 6
    assert len(set(delays)) > 1, "they must not all come back at once"


def test_new_connections_are_refused_while_draining(start, connect):
    gateway = start({**DRAIN, "drain.spread": "3s"})
    clients = [connect(gateway, f"user{index}") for index in range(4)]
    gateway.signal()
    clients[0].expect("reconnect")
    try:
        with Wire(gateway) as wire:
            wire.send(b"GET /ws?user_id=late HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = wire.ended()
            assert not answer.startswith(b"HTTP/1.1 101"), answer
    except ConnectionError:
        pass
    for client in clients:
        assert client.closed()[0] in (4201, 1001)
    assert gateway.wait() == 0


def test_who_is_not_authenticated_is_closed_1001(start, connect):
    gateway = start({**DRAIN, "auth.mode": "jwt", "auth.hmac_secret": SECRET})
    client = connect(gateway, welcome=False)
    gateway.signal()
    assert client.closed()[0] == 1001
    assert gateway.wait() == 0


def test_messages_flow_until_the_close(start, connect):
    gateway = start({**DRAIN, "drain.spread": "2s"})
    clients = [connect(gateway, f"user{index}") for index in range(8)]
    gateway.signal()
    for client in clients:
        try:
            client.fence()
        except Closed as closed:
            assert closed.code == 4201
    assert gateway.wait() == 0


def test_clients_that_do_not_react_do_not_hold_the_process(start):
    """Neither who ignores the close frame, nor who does not read at all, nor who is half-way through a handshake."""
    gateway = start({**DRAIN, "drain.spread": "200ms", "drain.deadline": "2s"})
    deaf, half_open, handshake = Wire(gateway), Wire(gateway, receive_buffer=4096), Wire(gateway)
    deaf.upgrade("/ws?user_id=deaf")
    half_open.upgrade("/ws?user_id=half")
    half_open.socket.shutdown(socket.SHUT_WR)
    handshake.send(b"GET /ws HTTP/1.1\r\n")
    blocked = Wire(gateway, receive_buffer=4096)
    blocked.upgrade("/ws?user_id=blocked")
    for _ in range(100):
        deaf.send(frame(TEXT, '{"type":"send_message","target_user":"blocked","content":"%s"}' % ("x" * 16_000)))
    began = time.monotonic()
    gateway.signal()
    assert gateway.wait() == 0
    assert time.monotonic() - began < 8
    for wire in (deaf, half_open, handshake, blocked):
        wire.socket.close()


def test_a_second_signal_ends_at_once(start, connect):
    gateway = start({**DRAIN, "drain.spread": "50s", "drain.deadline": "60s"})
    for index in range(4):
        connect(gateway, f"user{index}")
    gateway.signal()
    eventually(lambda: not accepts(gateway), "the drain has begun")
    assert gateway.running
    gateway.signal()
    began = time.monotonic()
    code = gateway.wait(5)
    assert time.monotonic() - began < 5
    assert code in (0, 1, 130, 143, -signal.SIGTERM)
    gateway.process.returncode = 0  # the fixture asks for a good end


def accepts(gateway):
    try:
        with Wire(gateway) as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(wire.ended())
    except ConnectionError:
        return False


def test_an_empty_gateway_ends_at_once(start):
    gateway = start({**DRAIN, "drain.spread": "30s", "drain.deadline": "60s"})
    gateway.signal()
    began = time.monotonic()
    assert gateway.wait() == 0
    assert time.monotonic() - began < 5
