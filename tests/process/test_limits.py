"""Limits on what comes in, deadlines, and clients that do not read: section 5 of the protocol."""

import contextlib
import json
import socket
import time

import pytest

from client import Closed, Refused, refused_status
from gateway import eventually
from wire import CLOSE, PING, PONG, TEXT, Ended, Wire, frame, upgrade_request


def test_messages_per_second(start, connect):
    gateway = start({"limits.messages_per_second": 20})
    flooder, other = connect(gateway, "flooder"), connect(gateway, "other")
    for number in range(30):
        flooder.send("send_message", target_user=other.user, content=number, id=number)
    replies = [flooder.expect(id=number) for number in range(30)]
    accepted = [r["id"] for r in replies if r["type"] == "ok"]
    refused = [r for r in replies if r["type"] == "error"]
    assert 20 <= len(accepted) < 30
    assert {r["code"] for r in refused} == {"rate_limit_messages"}
    assert [other.expect("message")["content"] for _ in accepted] == accepted
    other.request("send_message", target_user=flooder.user, content="others are not limited")
    # A second later the window has moved on.
    eventually(lambda: succeeds(flooder, "send_message", target_user=other.user, content="back"), "served again", 5)


def succeeds(client, *args, **fields):
    with contextlib.suppress(Refused):
        return client.request(*args, **fields)
    time.sleep(0.2)
    return None


def test_bytes_per_second(start, connect):
    gateway = start({"limits.bytes_per_second": "16KiB"})
    flooder, other = connect(gateway, "flooder"), connect(gateway, "other")
    content = "x" * 4000
    for number in range(6):
        flooder.send("send_message", target_user=other.user, content=content, id=number)
    replies = [flooder.expect(id=number) for number in range(6)]
    assert [r["type"] for r in replies[:3]] == ["ok"] * 3
    assert {r["code"] for r in replies if r["type"] == "error"} == {"rate_limit_bytes"}
    assert 3 <= sum(r["type"] == "ok" for r in replies) <= 5


def test_who_keeps_on_flooding_is_closed_4113(start, connect):
    gateway = start({"limits.messages_per_second": 10})
    other = connect(gateway, "other")
    with Wire(gateway) as flooder:
        flooder.upgrade("/ws?user_id=flooder")
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                flooder.send(frame(TEXT, '{"type":"ping"}'))
        assert flooder.close_code()[0] == 4113
    assert other.fence() == []


def test_the_limits_are_on_by_default(start, connect):
    gateway = start(base={"listen.client": "127.0.0.1:0", "listen.admin": "127.0.0.1:0", "drain.spread": "100ms"})
    alice = connect(gateway, "alice")
    for number in range(60):
        alice.send("ping", id=number)
    replies = [alice.expect(id=number) for number in range(60)]
    assert [r["type"] for r in replies].count("error") > 0
    assert all(r["code"] == "rate_limit_messages" for r in replies if r["type"] == "error")
    statuses = []
    for number in range(105):
        with Wire(gateway) as wire:
            wire.send(upgrade_request(f"/ws?user_id=user{number}"))
            statuses.append(wire.response().status)
    assert statuses.count(101) == 99 and statuses.count(429) == 6  # alice was the first


def test_connections_per_ip(start, connect):
    gateway = start({"limits.connections_per_ip": 5, "limits.connections_per_ip_window": "2s"}, shards=3)
    for number in range(5):
        connect(gateway, f"user{number}").close()  # gone connections count as well: these are attempts
    response = refused_status(gateway.url(user_id="sixth"))
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    with Wire(gateway, source="127.0.0.2") as other:
        other.upgrade("/ws?user_id=elsewhere")
    eventually(lambda: upgraded(gateway), "the window slides", 10)


def upgraded(gateway):
    with Wire(gateway) as wire:
        wire.send(upgrade_request())
        time.sleep(0.1)
        return wire.response().status == 101


def test_a_full_gateway_says_503(start, connect):
    gateway = start({"limits.connections": 4}, shards=3)
    clients = [connect(gateway, f"user{number}") for number in range(4)]
    response = refused_status(gateway.url(user_id="fifth"))
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 1
    clients[0].close()
    eventually(lambda: upgraded(gateway), "room for one more", 10)
    for client in clients[1:]:
        assert client.fence() == []


def test_too_many_devices_close_the_oldest_4004(start, connect):
    gateway = start({"session.max_per_user": 2})
    first, second = connect(gateway, "alice"), connect(gateway, "alice")
    bob = connect(gateway, "bob")
    third = connect(gateway, "alice")
    assert first.closed()[0] == 4004
    fourth = connect(gateway, "alice")
    assert second.closed()[0] == 4004
    assert bob.request("send_message", target_user=fourth.user, content=1)["status"] == "delivered"
    for device in (third, fourth):
        assert device.expect("message")["content"] == 1


# Deadlines

HEARTBEAT = {"session.heartbeat_interval": "300ms", "session.heartbeat_timeout": "900ms"}


def test_who_never_pongs_is_closed_4112(start, connect):
    gateway = start(HEARTBEAT)
    alive = connect(gateway, "alive")  # the library pongs by itself
    with Wire(gateway) as mute:
        mute.upgrade("/ws?user_id=mute")
        mute.opcode(PING, timeout=5)
        assert mute.close_code(timeout=5)[0] == 4112
    assert alive.fence() == []
    assert alive.welcome["heartbeatMs"] == 300


def test_any_frame_is_a_sign_of_life(start):
    gateway = start(HEARTBEAT)
    with Wire(gateway) as talker:
        talker.upgrade("/ws?user_id=talker")
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            talker.send(frame(PONG))
            time.sleep(0.1)
        talker.send(frame(TEXT, '{"type":"ping","id":"alive"}'))
        while json.loads(talker.opcode(TEXT)).get("id") != "alive":
            pass


def test_a_ping_of_the_gateway_is_only_sent_into_silence(start):
    gateway = start({"session.heartbeat_interval": "600ms", "session.heartbeat_timeout": "5s"})
    with Wire(gateway) as talker:
        talker.upgrade("/ws?user_id=talker")
        opcodes = []
        for number in range(15):
            talker.send(frame(TEXT, '{"type":"ping","id":%d}' % number))
            while True:
                _, _, opcode, payload = talker.frame()
                opcodes.append(opcode)
                if opcode == TEXT and json.loads(payload).get("id") == number:
                    break
            time.sleep(0.1)
        assert PING not in opcodes


def test_who_says_nothing_is_closed_4111(start, connect):
    gateway = start({"session.idle_timeout": "800ms", "session.heartbeat_interval": "200ms", "session.heartbeat_timeout": "5s"})
    idle, pinging, receiving = (connect(gateway, name) for name in ("idle", "pinging", "receiving"))
    sender = connect(gateway, "sender")
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        pinging.fence()
        sender.request("send_message", target_user=receiving.user, content=1)
        receiving.expect("message")
        time.sleep(0.1)
    assert idle.closed()[0] == 4111
    receiving.fence()
    pinging.fence()


@pytest.mark.parametrize("sent", [b"", b"G", b"GET /ws HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\x00\x01\x00"], ids=repr)
def test_a_handshake_that_does_not_end_is_ended(start, sent):
    gateway = start({"session.handshake_timeout": "500ms"})
    with Wire(gateway) as wire:
        wire.send(sent)
        began = time.monotonic()
        answer = wire.ended(timeout=8)
        assert time.monotonic() - began < 7
        assert not answer or answer.startswith(b"HTTP/1.1 4"), answer


def test_a_byte_now_and_then_does_not_keep_a_handshake_open(start):
    gateway = start({"session.handshake_timeout": "500ms"})
    request = upgrade_request(headers=["X-Filler: " + "x" * 2000])
    with Wire(gateway) as wire, contextlib.suppress(ConnectionError, Ended):
        began = time.monotonic()
        for byte in request:
            wire.send(bytes([byte]))
            time.sleep(0.05)
            assert time.monotonic() - began < 8, "still open"
    assert time.monotonic() - began < 8


def test_the_close_of_the_gateway_need_not_be_answered(start, connect):
    """Who ignores the close frame is cut off."""
    gateway = start({"session.idle_timeout": "500ms"})
    before = gateway.descriptors()
    with Wire(gateway) as rude:
        rude.upgrade("/ws?user_id=rude")
        assert rude.close_code(timeout=8)[0] == 4111
        eventually(lambda: gateway.descriptors() <= before, "the socket is closed all the same", 15)


# Clients that do not read

SMALL_OUTBOX = {"outbox.high": "64KiB", "outbox.low": "16KiB", "outbox.max": "256KiB"}


def fill(gateway, sender, reader, witness, *, limit=3000):
    """Sends to `reader`, who does not read, and a witness until the reader is gone; how many the witness had to get."""
    content = "x" * 16_000
    for number in range(limit):
        sender.send("message", roomId="room", content=[number, content])
        got = witness.expect("message", roomId="room")
        assert got["content"][0] == number
        if any(m["type"] == "user:left" and m["userId"] == reader for m in witness.backlog):
            return number
    raise AssertionError("the slow reader was never closed")


def test_a_slow_reader_is_closed_4110_and_costs_nobody_anything(start, connect):
    gateway = start(SMALL_OUTBOX)
    sender, witness = connect(gateway, "sender"), connect(gateway, "witness")
    for client in (sender, witness):
        client.request("join", roomId="room")
    with Wire(gateway, receive_buffer=4096) as slow:
        slow.upgrade("/ws?user_id=slow")
        slow.send(frame(TEXT, '{"type":"join","roomId":"room"}'))
        witness.expect("user:joined", userId="slow")
        fill(gateway, sender, "slow", witness)
        # What it gets once it reads again: messages in order without a hole, then the close frame.
        numbers, code = [], None
        while code is None:
            _, _, opcode, payload = slow.frame()
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big")
            elif opcode == TEXT and (m := json.loads(payload))["type"] == "message":
                numbers.append(m["content"][0])
        assert code == 4110
        assert numbers == list(range(len(numbers)))
    assert sender.request("send_message", target_user=witness.user, content="after")["status"] == "delivered"


def test_who_stays_throttled_past_the_grace_is_closed_4110(start, connect):
    gateway = start({**SMALL_OUTBOX, "outbox.max": "64MiB", "outbox.grace": "1s"})
    sender, witness = connect(gateway, "sender"), connect(gateway, "witness")
    with Wire(gateway, receive_buffer=4096) as slow:
        slow.upgrade("/ws?user_id=slow")
        slow.send(frame(TEXT, '{"type":"join","roomId":"room"}'))
        witness.request("join", roomId="room")
        eventually(lambda: len(sender.request("presence", roomId="room")["users"]) == 2, "both are in")
        for _ in range(400):
            sender.send("send_message", target_user="slow", content="x" * 16_000)
        witness.expect("user:left", userId="slow", timeout=15)


def test_who_reads_again_in_time_gets_everything(start, connect):
    gateway = start({**SMALL_OUTBOX, "outbox.max": "64MiB", "outbox.grace": "30s"})
    sender = connect(gateway, "sender")
    with Wire(gateway, receive_buffer=4096) as slow:
        slow.upgrade("/ws?user_id=slow")
        slow.opcode(TEXT)
        for number in range(500):
            sender.send("send_message", target_user="slow", content=[number, "x" * 16_000])
        sender.request("send_message", target_user="slow", content=[500])
        got = [json.loads(slow.opcode(TEXT))["content"][0] for _ in range(501)]
        assert got == list(range(501))


def test_a_client_that_sends_and_never_reads_is_closed_or_paused(start, connect):
    """Its own answers fill its outbox: memory stays bounded and others are served."""
    gateway = start(SMALL_OUTBOX)
    other = connect(gateway, "other")
    before = gateway.memory_bytes()
    with Wire(gateway, receive_buffer=4096) as rude:
        rude.upgrade("/ws?user_id=rude")
        rude.socket.settimeout(2)
        request = frame(TEXT, json.dumps({"type": "send_message", "target_user": "rude", "content": "x" * 8000}))
        with contextlib.suppress(OSError):
            for _ in range(5000):
                rude.send(request)
        assert gateway.memory_bytes() - before < 32 << 20
        assert other.fence() == []


def test_an_abrupt_end_while_sending_hurts_nobody(start, connect):
    gateway = start(shards=3)
    alice = connect(gateway, "alice")
    alice.request("join", roomId="room")
    for number in range(50):
        wire = Wire(gateway)
        wire.upgrade(f"/ws?user_id=guest{number}")
        wire.send(frame(TEXT, '{"type":"join","roomId":"room"}'))
        wire.send(frame(TEXT, '{"type":"message","roomId":"room","content":%d}' % number)[: 20 + number % 30])
        wire.reset() if number % 2 else wire.socket.shutdown(socket.SHUT_WR)
        alice.send("message", roomId="room", content="x" * 1000)
    eventually(lambda: len(alice.request("presence", roomId="room")["users"]) == 1, "all guests are gone", 15)
