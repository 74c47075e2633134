"""RFC 6455 and RFC 7692 from outside: frames on `/ws` and `/echo`. The Autobahn suite (tests/autobahn) goes further."""

import os
import random
import struct
import time
import zlib

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from client import Client
from wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Wire, frame

# A frame, or several, and the close code it must be answered with.
VIOLATIONS = {
    "not masked": (frame(TEXT, "x", masked=False), 1002),
    "not masked, empty": (frame(TEXT, "", masked=False), 1002),
    "RSV1 without extension": (frame(TEXT, "x", rsv=4), 1002),
    "RSV2": (frame(TEXT, "x", rsv=2), 1002),
    "RSV3": (frame(TEXT, "x", rsv=1), 1002),
    "RSV1 on a ping": (frame(PING, "x", rsv=4), 1002),
    **{f"opcode {n}": (frame(n, "x"), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "ping fragmented": (frame(PING, "x", fin=False), 1002),
    "ping too long": (frame(PING, "x" * 126), 1002),
    "close too long": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "length not minimal, 16 bit": (frame(TEXT, "x", width=2), 1002),
    "length not minimal, 64 bit": (frame(TEXT, "x" * 200, width=8), 1002),
    "sign bit of the length": (frame(TEXT, "", length=1 << 63, width=8), 1002),
    "continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "text inside a fragmented text": (frame(TEXT, "a", fin=False) + frame(TEXT, "b"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{f"close code {n}": (frame(CLOSE, struct.pack(">H", n)), 1002) for n in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)},
    "close reason not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "text cut inside a character": (frame(TEXT, "ü".encode()[:1]), 1007),
    "surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "overlong": (frame(TEXT, b"\xc0\xaf"), 1007),
    "above U+10FFFF": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "bad across fragments": (frame(TEXT, b"\xce", fin=False) + frame(CONTINUATION, b"\xce"), 1007),
    "a length of 2^62": (frame(TEXT, "", length=1 << 62, width=8), 1009),
    "a length over the limit": (frame(TEXT, "", length=(4 << 20) + 1, width=8), 1009),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/ws?user_id=violator", "/echo"])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_closed(echo_gateway, name, path):
    data, code = VIOLATIONS[name]
    with Wire(echo_gateway) as wire:
        wire.upgrade(path)
        wire.send(data)
        got, reason = wire.close_code()
        # 1007 must not wait for what the sender may never send, but 1002 for a close frame with a bad reason is as right.
        assert got == code or (name == "close reason not UTF-8" and got == 1002), reason
        wire.answer_close(code)
        assert wire.ended() == b""


def test_bad_utf8_fails_before_the_message_is_complete(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(TEXT, b"good so far", fin=False))
        wire.send(frame(CONTINUATION, b"\xff and then", length=1000, width=2)[:30])
        assert wire.close_code()[0] == 1007


def test_a_huge_length_reserves_nothing(echo_gateway):
    before = echo_gateway.memory_bytes()
    wires = []
    for _ in range(50):
        wire = Wire(echo_gateway)
        wires.append(wire)
        wire.upgrade("/echo")
        wire.send(frame(BINARY, b"", length=4 << 20, width=8))
    wire = Wire(echo_gateway)
    wires.append(wire)
    wire.upgrade("/echo")
    wire.send(frame(PING, "alive"))
    assert wire.opcode(PONG) == b"alive"
    assert echo_gateway.memory_bytes() - before < 16 << 20
    for wire in wires:
        wire.socket.close()


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code(echo_gateway, code):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(CLOSE, struct.pack(">H", code) + b"bye"))
        assert wire.close_code()[0] == code
        assert wire.ended() == b""


def test_a_close_without_a_code(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(CLOSE))
        assert wire.close_code()[0] in (None, 1000)
        assert wire.ended() == b""


def test_a_close_may_come_inside_a_fragmented_message(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(TEXT, "begun", fin=False) + frame(CLOSE, b"\x03\xe8") + frame(CONTINUATION, "ended"))
        assert wire.close_code()[0] == 1000
        assert wire.ended() == b""


def test_nothing_is_served_behind_a_close(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(TEXT, "before") + frame(CLOSE, b"\x03\xe8") + frame(TEXT, "after") + frame(PING, "after"))
        assert wire.opcode(TEXT) == b"before"
        assert wire.close_code()[0] == 1000
        assert wire.ended() == b""


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 125], ids=len)
def test_pings_are_answered(echo_gateway, payload):
    for path in ("/ws?user_id=pinger", "/echo"):
        with Wire(echo_gateway) as wire:
            wire.upgrade(path)
            wire.send(frame(PING, payload))
            assert wire.opcode(PONG) == payload


def test_pings_in_one_go_are_all_answered_in_order(echo_gateway):
    """RFC 6455 would allow to answer the last one only; the Autobahn suite (2.10, 2.11) and some clients want them all."""
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(b"".join(frame(PING, f"ping {n}") for n in range(10)))
        assert [wire.opcode(PONG).decode() for _ in range(10)] == [f"ping {n}" for n in range(10)]


def test_control_frames_between_fragments(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(TEXT, "a", fin=False) + frame(PING, "p") + frame(CONTINUATION, "b", fin=False) + frame(PONG, "?"))
        assert wire.opcode(PONG) == b"p"
        wire.send(frame(CONTINUATION, "") + frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"\x00\xff"))
        assert wire.opcode(TEXT) == b"ab"
        assert wire.opcode(BINARY) == b"\x00\xff"


SIZES = [0, 1, 125, 126, 127, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_echo_of_every_size(echo_gateway, size):
    payload = random.Random(size).randbytes(size)
    text = "ä" * (size // 2) + "x" * (size % 2)
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(BINARY, payload))
        assert wire.opcode(BINARY) == payload
        wire.send(frame(TEXT, text))
        assert wire.opcode(TEXT) == text.encode()


def test_echo_of_a_megabyte_in_fragments(echo_gateway):
    payload = os.urandom(1 << 20)
    pieces = [payload[at : at + 10_007] for at in range(0, len(payload), 10_007)]
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        for index, piece in enumerate(pieces):
            wire.send(frame(CONTINUATION if index else BINARY, piece, fin=index == len(pieces) - 1))
        assert wire.opcode(BINARY) == payload


def test_echo_of_many_in_one_go(echo_gateway):
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        wire.send(b"".join(frame(TEXT, f"message {n}") for n in range(2000)))
        assert [wire.opcode(TEXT).decode() for _ in range(2000)] == [f"message {n}" for n in range(2000)]


def test_echo_of_frames_cut_anywhere(echo_gateway):
    rng = random.Random(7)
    messages = [rng.randbytes(rng.choice([0, 5, 130, 3000])) for _ in range(60)]
    stream = b"".join(frame(BINARY, m, key=rng.randbytes(4)) for m in messages)
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo")
        at = 0
        while at < len(stream):
            step = rng.choice([1, 2, 3, 7, 100, 5000])
            wire.send(stream[at : at + step])
            at += step
        assert [wire.opcode(BINARY) for _ in messages] == messages


def test_echo_is_exempt_from_the_rates(start):
    gateway = start({"echo.enabled": True, "limits.messages_per_second": 5, "limits.bytes_per_second": 100})
    with Wire(gateway) as wire:
        wire.upgrade("/echo")
        wire.send(b"".join(frame(TEXT, f"{n:050}") for n in range(200)))
        for number in range(200):
            assert wire.opcode(TEXT) == f"{number:050}".encode()


def test_echo_needs_no_identity(start):
    gateway = start({"echo.enabled": True, "auth.mode": "jwt", "auth.hmac_secret": "x" * 64})
    with Wire(gateway) as wire:
        wire.upgrade("/echo")
        wire.send(frame(TEXT, "hello"))
        assert wire.frame() == (True, 0, TEXT, b"hello")


# permessage-deflate. The offer, and what the answer must and must not contain.

OFFERS = [
    ("permessage-deflate", ["permessage-deflate", "server_no_context_takeover", "client_no_context_takeover"], []),
    ("permessage-deflate; client_max_window_bits", ["permessage-deflate"], []),
    ("permessage-deflate; server_max_window_bits=10", ["server_max_window_bits=10"], []),
    ("permessage-deflate; client_max_window_bits=9; server_no_context_takeover", ["server_no_context_takeover"], []),
    ("x-other, permessage-deflate", ["permessage-deflate"], ["x-other"]),
    ("permessage-deflate; unknown_parameter", [], ["permessage-deflate"]),
    ("permessage-deflate; server_max_window_bits=7", [], ["permessage-deflate"]),
    ("permessage-deflate; server_max_window_bits=16", [], ["permessage-deflate"]),
    ("permessage-deflate; server_max_window_bits", [], ["permessage-deflate"]),
    ("permessage-deflate; server_no_context_takeover=1", [], ["permessage-deflate"]),
    ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", [], ["permessage-deflate"]),
    ("permessage-deflate; unknown, permessage-deflate", ["permessage-deflate"], ["unknown"]),
]


@pytest.mark.parametrize("offer, contains, lacks", OFFERS, ids=lambda value: str(value)[:50])
def test_deflate_is_negotiated(echo_gateway, offer, contains, lacks):
    with Wire(echo_gateway) as wire:
        response = wire.upgrade("/echo", headers=[f"Sec-WebSocket-Extensions: {offer}"])
        answer = response.headers.get("sec-websocket-extensions", "")
        assert all(part in answer for part in contains) and not any(part in answer for part in lacks), answer
        wire.send(frame(TEXT, "still works"))
        assert wire.opcode(TEXT) == b"still works"


def deflate(data):
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data):
    return zlib.decompressobj(wbits=-15).decompress(data + b"\x00\x00\xff\xff")


DEFLATE = ["Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"]


def test_compressed_messages_are_echoed(echo_gateway):
    text = ("the same again " * 1000).encode()
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo", headers=DEFLATE)
        wire.send(frame(TEXT, deflate(text), rsv=4))
        fin, rsv, opcode, payload = wire.frame()
        assert (fin, rsv, opcode) == (True, 4, TEXT) and inflate(payload) == text and len(payload) < 1000
        # In fragments, RSV1 on the first only.
        data = deflate(text)
        wire.send(frame(TEXT, data[:10], rsv=4, fin=False) + frame(PING, "") + frame(CONTINUATION, data[10:]))
        assert wire.opcode(PONG) == b""
        assert inflate(wire.opcode(TEXT)) == text
        wire.send(frame(TEXT, "plain"))
        assert wire.frame() == (True, 0, TEXT, b"plain")


def test_what_does_not_inflate_is_closed(echo_gateway):
    for data, codes in [(b"\xff" * 20, {1002, 1007}), (deflate(b"\xff\xfe"), {1007})]:
        with Wire(echo_gateway) as wire:
            wire.upgrade("/echo", headers=DEFLATE)
            wire.send(frame(TEXT, data, rsv=4))
            assert wire.close_code()[0] in codes


def test_a_bomb_is_1009_and_costs_nothing(echo_gateway):
    """4 MiB are the limit; this is 200 MiB in 200 KB."""
    before = echo_gateway.memory_bytes()
    bomb = deflate(bytes(200 << 20))
    with Wire(echo_gateway) as wire:
        wire.upgrade("/echo", headers=DEFLATE)
        wire.send(frame(BINARY, bomb, rsv=4))
        assert wire.close_code()[0] == 1009
    assert echo_gateway.memory_bytes() - before < 32 << 20


CLIENT_DEFLATE = {
    "no takeover": ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True),
    "defaults": ClientPerMessageDeflateFactory(),
    "small windows": ClientPerMessageDeflateFactory(server_max_window_bits=9, client_max_window_bits=10),
}


@pytest.mark.parametrize("takeover", [False, True], ids=["no_takeover", "takeover"])
@pytest.mark.parametrize("name", CLIENT_DEFLATE)
def test_chat_over_deflate(start, name, takeover):
    gateway = start({"deflate.context_takeover": takeover, "deflate.min_size": 1}, shards=3)
    options = {"extensions": [CLIENT_DEFLATE[name]]}
    with Client(gateway.url(user_id="alice"), **options) as alice, Client(gateway.url(user_id="bob")) as bob:
        assert "permessage-deflate" in alice.ws.response.headers["Sec-WebSocket-Extensions"]
        for client in (alice, bob):
            client.expect("auth:ok")
            client.request("join", roomId="room")
        rng = random.Random(1)
        contents = [rng.choice(["short", "repeat " * 500, rng.randbytes(3000).hex(), "ü😀" * 50]) for _ in range(60)]
        for content in contents:
            alice.send("message", roomId="room", content=content)
            bob.send("message", roomId="room", content=content)
        for client in (alice, bob):
            assert [client.expect("message")["content"] for _ in contents] == contents


def test_deflate_can_be_switched_off(start):
    gateway = start({"deflate.enabled": False})
    with Wire(gateway) as wire:
        assert "sec-websocket-extensions" not in wire.upgrade(headers=["Sec-WebSocket-Extensions: permessage-deflate"]).headers


def test_deflate_costs_an_idle_connection_nothing(start):
    """No context per connection by default: 200 compressed conversations do not grow the process by megabytes each."""
    gateway = start({"echo.enabled": True})
    wires = [Wire(gateway) for _ in range(200)]
    text = os.urandom(1500).hex().encode()
    for wire in wires[:20]:
        wire.upgrade("/echo", headers=DEFLATE)
        wire.send(frame(TEXT, deflate(text), rsv=4))
        wire.frame()
    before = gateway.memory_bytes()
    for wire in wires[20:]:
        wire.upgrade("/echo", headers=DEFLATE)
        wire.send(frame(TEXT, deflate(text), rsv=4))
        wire.frame()
    assert gateway.memory_bytes() - before < 8 << 20
    for wire in wires:
        wire.socket.close()


# Batches


def test_batch_only_for_who_asked(gateway, connect, unique):
    room = unique("room")
    sender = connect(gateway, "sender")
    batched = connect(gateway, "batched", query={"batch": "1"}, welcome=False)
    plain = connect(gateway, "plain")
    received = []

    def take():
        message = batched.next()
        received.extend(message["messages"] if message["type"] == "batch" else [message])

    batched.send("join", roomId=room, id="join")
    while not any(m.get("id") == "join" for m in received):
        take()
    for client in (sender, plain):
        client.request("join", roomId=room)
    for number in range(300):
        sender.send("message", roomId=room, content=number)
    assert [plain.expect("message")["content"] for _ in range(300)] == list(range(300))
    assert all(m["type"] != "batch" for m in plain.backlog)
    deadline = time.monotonic() + 10
    contents = lambda: [m["content"] for m in received if m["type"] == "message"]
    while len(contents()) < 300 and time.monotonic() < deadline:
        take()
    assert contents() == list(range(300))
