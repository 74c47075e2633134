"""Floods, handshakes that are never finished, and crowds: what they cost the one who does it, and nobody else."""

import contextlib
import json
import resource
import threading
import time

import pytest

from gateway import eventually
from wire import CONTINUATION, PING, TEXT, Ended, Wire, frame, upgrade_request

TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2


def opened(gateway, count, sent=b""):
    wires = []
    for _ in range(count):
        wire = Wire(gateway)
        with contextlib.suppress(OSError):
            wire.send(sent)
        wires.append(wire)
    return wires


def close_all(wires):
    for wire in wires:
        wire.socket.close()


class Pinging(threading.Thread):
    """A healthy client that asks all the time, and how long it ever had to wait."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.longest, self.count, self.error, self.stopping = client, 0.0, 0, None, False
        self.start()

    def run(self):
        try:
            while not self.stopping:
                began = time.monotonic()
                self.client.fence()
                self.longest = max(self.longest, time.monotonic() - began)
                self.count += 1
                time.sleep(0.01)
        except BaseException as error:
            self.error = error

    def stop(self):
        self.stopping = True
        self.join(15)
        assert self.error is None, self.error
        assert self.count > 0 and self.longest < 5, (self.count, self.longest)


@pytest.mark.parametrize("sent", [b"", b"GET /ws HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half a request"])
def test_abandoned_handshakes_cost_a_slot_for_a_time(start, connect, sent):
    gateway = start({"session.handshake_timeout": "1s", "limits.connections": 400})
    healthy = Pinging(connect(gateway, "healthy"))
    before = gateway.descriptors()
    wires = opened(gateway, 300, sent)
    newcomer = connect(gateway, "newcomer")
    assert newcomer.fence() == []
    for wire in wires:
        answer = wire.ended(timeout=10)
        assert answer.startswith(b"HTTP/1.1 408 "), answer
    close_all(wires)
    eventually(lambda: gateway.descriptors() <= before + 1, "their descriptors are free", 10)
    healthy.stop()


def test_over_its_rate_an_address_gets_a_slot_for_a_moment_only(start, connect):
    gateway = start({"limits.connections_per_ip": 50, "session.handshake_timeout": "30s"})
    healthy = connect(gateway, "healthy")
    wires = opened(gateway, 200)
    time.sleep(4)
    refused = []
    for wire in wires:
        wire.socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            refused.append(wire.socket.recv(1000))
    assert all(answer.startswith(b"HTTP/1.1 429 ") and b"Retry-After: " in answer for answer in refused)
    # Told after two seconds, though it has not asked. The first was the healthy one; a window that ends meanwhile lets some more in.
    assert 100 <= len(refused) <= 151
    with Wire(gateway, source="127.0.0.2") as other:
        other.upgrade("/ws?user_id=elsewhere")
    assert healthy.fence() == []
    close_all(wires)


@pytest.mark.parametrize("garbage", [TLS_HELLO, b"\x00" * 100, b"\xff\xfe" * 50, b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\n" * 50], ids=["tls", "zeros", "ones", "ssh", "lines"])
def test_what_is_not_http_is_refused_at_once(start, connect, garbage):
    gateway = start({"session.handshake_timeout": "30s"})
    healthy = connect(gateway, "healthy")
    for wire in opened(gateway, 50, garbage):
        began = time.monotonic()
        answer = wire.ended(timeout=10)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert time.monotonic() - began < 8
        wire.socket.close()
    assert healthy.fence() == []


def test_a_flood_of_messages_ends_the_flooder(start, connect):
    gateway = start({"limits.messages_per_second": 50, "limits.bytes_per_second": "512KiB"}, shards=3)
    clients = [connect(gateway, f"healthy{number}") for number in range(3)]
    healthy = [Pinging(client) for client in clients[:1]]
    flooders = opened(gateway, 10, upgrade_request("/ws?user_id=flooder"))
    flood = frame(TEXT, json.dumps({"type": "send_message", "target_user": clients[1].user, "content": "x" * 100})) * 500
    for wire in flooders:
        assert wire.response().status == 101
        with contextlib.suppress(OSError):
            wire.send(flood)
    codes = []
    for wire in flooders:
        with contextlib.suppress(Ended):
            codes.append(wire.close_code()[0])
    assert codes and set(codes) == {4113}
    got = [m for m in clients[1].fence() if m["type"] == "message"]
    assert len(got) <= 10 * 100, "at most what their rates allow"
    for pinging in healthy:
        pinging.stop()
    close_all(flooders)


def test_a_flood_of_pings_ends_the_flooder(start, connect):
    gateway = start({"limits.messages_per_second": 50})
    healthy = connect(gateway, "healthy")
    with Wire(gateway) as flooder:
        flooder.upgrade("/ws?user_id=flooder")
        with contextlib.suppress(OSError):
            for _ in range(100):
                flooder.send(frame(PING, b"x") * 100)
        assert flooder.close_code()[0] == 4113
    assert healthy.fence() == []


def test_pings_within_the_rate_are_all_answered(start):
    gateway = start({"limits.messages_per_second": 50})
    with Wire(gateway) as wire:
        wire.upgrade("/ws?user_id=calm")
        for number in range(10):
            wire.send(frame(PING, b"%d" % number))
            assert wire.opcode(0xA) == b"%d" % number


def test_a_message_in_the_smallest_of_pieces_is_one_message(start, connect):
    gateway = start()
    healthy = Pinging(connect(gateway, "healthy"))
    text = json.dumps({"type": "ping", "id": "pieces", "filler": "x" * 20_000}).encode()
    with Wire(gateway) as wire:
        wire.upgrade("/ws?user_id=pieces")
        pieces = [frame(CONTINUATION if at else TEXT, text[at : at + 1], fin=at == len(text) - 1) for at in range(len(text))]
        wire.send(b"".join(pieces))
        while b'"pieces"' not in wire.opcode(TEXT):
            pass
        # And empty ones, which never end it.
        with contextlib.suppress(OSError):
            wire.send(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 20_000)
    healthy.stop()


def test_subscriptions_are_bounded_and_so_are_their_filters(start, connect):
    gateway = start({"session.max_subscriptions": 20, "limits.message_size": "1MiB"})
    greedy = connect(gateway, "greedy")
    for number in range(20):
        greedy.request("subscribe", channel=f"c{number}", filter={"op": "eq", "key": "k", "val": "x" * 1000})
    assert greedy.refused("subscribe", channel="c20")["code"] == "too_many_rooms"
    assert greedy.refused("join", roomId="r")["code"] == "too_many_rooms"
    greedy.request("unsubscribe", channel="c0")
    greedy.request("join", roomId="r")
    huge = {"op": "in", "key": "k", "vals": ["x" * 200] * 100}
    reply = greedy.refused("subscribe", channel="c1", filter=huge)
    assert reply["code"] == "bad_request" and "filter" in reply["message"]


def test_many_ask_who_is_there_and_everybody_is_answered(start, connect):
    gateway = start(shards=3)
    clients = [connect(gateway, f"user{number}") for number in range(10)]
    for client in clients:
        client.request("join", roomId="room")
    for client in clients:
        for number in range(100):
            client.send("presence", roomId="room", id=f"p{number}")
    for client in clients:
        for number in range(100):
            reply = client.expect(id=f"p{number}")
            assert len(reply["users"]) == 10 if "users" in reply else reply["code"] == "unavailable", reply


def few_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))


def test_without_descriptors_accepting_goes_on_as_soon_as_there_are_some(start, connect):
    gateway = start({"shards.fd_tables": "shared", "limits.connections": 0, "session.handshake_timeout": "2s"}, preexec_fn=few_descriptors)
    healthy = connect(gateway, "healthy")
    wires = opened(gateway, 800)
    assert healthy.fence() == []
    close_all(wires)
    eventually(lambda: tried(gateway), "a newcomer is served", 15)
    assert healthy.fence() == []


def tried(gateway):
    with contextlib.suppress(Ended, OSError, AssertionError), Wire(gateway) as wire:
        wire.send(upgrade_request())
        return wire.response(timeout=2).status == 101
    return False
