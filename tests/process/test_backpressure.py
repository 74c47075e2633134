"""Clients that do not read, hardly read, or stop and come back: what they get, and above all what the others see."""

import contextlib
import json
import threading
import time

from gateway import eventually
from wire import CLOSE, PONG, TEXT, Wire, frame

KIB = 1024
SMALL = {"outbox.high": "64KiB", "outbox.low": "16KiB", "outbox.max": "256KiB"}
# Never closed for being behind, so that what is kept and dropped can be looked at in peace.
PATIENT = {**SMALL, "outbox.max": "64MiB", "outbox.grace": "60s"}


def slow_client(gateway, user, *rooms):
    """A session with a small socket buffer, in these rooms."""
    wire = Wire(gateway, receive_buffer=4096)
    wire.upgrade(f"/ws?user_id={user}")
    # Before it, the session may still be on its way to its home shard, and the user offline.
    assert json.loads(wire.opcode(TEXT))["type"] == "auth:ok"
    for room in rooms:
        wire.send(frame(TEXT, json.dumps({"type": "join", "roomId": room, "id": room})))
        while json.loads(wire.opcode(TEXT)).get("id") != room:
            pass
    return wire


def heard(wire, until=lambda m: False, timeout=20):
    """The messages of a session up to one, or to the close frame: (messages, close code)."""
    messages = []
    deadline = time.monotonic() + timeout
    while True:
        _, _, opcode, payload = wire.frame(max(0.001, deadline - time.monotonic()))
        if opcode == CLOSE:
            return messages, int.from_bytes(payload[:2], "big")
        if opcode == TEXT:
            messages.append(json.loads(payload))
            if until(messages[-1]):
                return messages, None


class Trickle(threading.Thread):
    """Reads so many bytes a second."""

    def __init__(self, wire, rate):
        super().__init__(daemon=True)
        self.wire, self.rate, self.ended, self.stopping, self.answered = wire, rate, False, False, 0
        self.start()

    def run(self):
        self.wire.socket.settimeout(1)
        while not self.stopping:
            try:
                data = self.wire.socket.recv(max(1, self.rate // 10))
                self.wire.received += data
                self.ended = not data
            except TimeoutError:
                pass
            except OSError:
                self.ended = True
            if self.ended:
                return
            time.sleep(0.1)

    def answer_pings(self):
        """As many pongs as pings have come."""
        pings = bytes(self.wire.received).count(b"\x89\x00")
        for _ in range(pings - self.answered):
            self.wire.send(frame(PONG))
        self.answered = pings

    def stop(self):
        self.stopping = True
        self.join()


def join_all(room, *clients):
    for client in clients:
        client.request("join", roomId=room)


def test_who_stops_reading_for_good_is_closed_and_costs_nobody_anything(start, connect):
    gateway = start({**SMALL, "outbox.grace": "2s"})
    sender = connect(gateway, "sender")
    healthy = [connect(gateway, f"healthy{number}") for number in range(4)]
    join_all("room", sender, *healthy)
    deaf = [slow_client(gateway, f"deaf{number}", "room") for number in range(10)]
    count = 200
    for number in range(count):
        sender.send("message", roomId="room", content=[number, "x" * 4000])
        for client in healthy:
            assert client.expect("message")["content"][0] == number
    for client in healthy:
        left = {client.expect("user:left", timeout=20)["userId"] for _ in deaf}
        assert left == {f"deaf{number}" for number in range(10)}
    sender.fence()
    for wire in deaf:
        messages, code = heard(wire)
        assert code == 4110
        numbers = [m["content"][0] for m in messages if m["type"] == "message"]
        assert numbers == list(range(len(numbers))), "what it got is a beginning without holes"
        wire.socket.close()


def test_who_reads_100_bytes_a_second_is_closed_and_others_see_nothing_of_it(start, connect):
    gateway = start({**SMALL, "outbox.grace": "3s"})
    sender, healthy = connect(gateway, "sender"), connect(gateway, "healthy")
    join_all("room", sender, healthy)
    with slow_client(gateway, "slow", "room") as wire:
        trickle = Trickle(wire, 100)
        for number in range(100):
            sender.send("message", roomId="room", content=[number, "x" * 4000])
            assert healthy.expect("message")["content"][0] == number
        healthy.expect("user:left", userId="slow", timeout=20)
        assert not any(m["type"] == "error" for m in sender.fence())
        trickle.stop()


def test_who_reads_slowly_but_enough_stays(start, connect):
    """Its pongs are heard, nothing is dropped, and it is never behind."""
    settings = {**SMALL, "outbox.grace": "1s", "session.heartbeat_interval": "300ms", "session.heartbeat_timeout": "3s"}
    gateway = start(settings)
    sender = connect(gateway, "sender")
    with slow_client(gateway, "slow") as wire:
        trickle = Trickle(wire, 3000)
        for number in range(40):
            sender.send("send_message", target_user="slow", content=number)
            time.sleep(0.1)
            trickle.answer_pings()
        time.sleep(1)
        assert sender.request("send_message", target_user="slow", content=40)["status"] == "delivered"
        trickle.stop()
        assert not trickle.ended
        messages, _ = heard(wire, until=lambda m: m.get("content") == 40)
        assert [m["content"] for m in messages if m["type"] == "message"] == list(range(41))


def test_who_stops_and_comes_back_is_told_what_was_dropped_and_goes_on(start, connect):
    gateway = start(PATIENT)
    sender, healthy = connect(gateway, "sender"), connect(gateway, "healthy")
    with slow_client(gateway, "slow", "room", "other") as slow:
        join_all("room", sender, healthy)
        join_all("other", sender)
        for client in (sender, healthy):
            client.fence()
        fill = 150  # 600 KB: what the kernel takes, and more than the high mark
        for number in range(fill):
            sender.send("message", roomId="room", content=["normal", number, "x" * 4000])
            assert healthy.expect("message")["content"][:2] == ["normal", number]
        dropped = {"room": 7, "other": 5}
        for room, count in dropped.items():
            for number in range(count):
                sender.send("message", roomId=room, content=["droppable", number], **{"class": "droppable"})
        for number in range(50):
            sender.send("message", roomId="room", content=["latest", number], **{"class": "latest", "key": "k"})
        sender.send("message", roomId="room", content=["urgent", 0], **{"class": "urgent"})
        sender.send("message", roomId="room", content=["normal", fill])
        sender.fence()
        gaps = {}

        def all_told(message):
            if message["type"] == "gap":
                gaps[message["roomId"]] = message["dropped"]
            return gaps == dropped

        messages, _ = heard(slow, until=all_told, timeout=30)
        sender.send("message", roomId="room", content=["droppable", "after"], **{"class": "droppable"})
        rest, _ = heard(slow, until=lambda m: m.get("content") == ["droppable", "after"])
        said = [m["content"] for m in messages + rest if m["type"] == "message"]
        assert [c[1] for c in said if c[0] == "normal"] == list(range(fill + 1)), "normal messages: all, in order"
        assert [c[1] for c in said if c[0] == "latest"] == [49], "of a key the newest"
        assert [c[1] for c in said if c[0] == "droppable"] == ["after"]
        kinds = [c[0] for c in said]
        assert kinds.index("urgent") < kinds.index("latest"), "urgent overtakes what is queued"
        # The others were not behind: they got everything.
        theirs = [m for m in healthy.fence() if m["type"] == "message"]
        assert len(theirs) == 7 + 50 + 1 + 1 + 1
        assert [m["content"][1] for m in theirs if m["content"][0] == "latest"] == list(range(50))


def test_a_client_that_is_behind_is_not_taken_for_dead(start, connect):
    gateway = start({**PATIENT, "session.heartbeat_interval": "300ms", "session.heartbeat_timeout": "900ms"})
    sender = connect(gateway, "sender")
    with slow_client(gateway, "slow") as slow:
        for number in range(150):
            sender.send("send_message", target_user="slow", content=[number, "x" * 4000])
        sender.fence()
        time.sleep(2.5)
        messages, code = heard(slow, until=lambda m: m.get("content", [None])[0] == 149, timeout=30)
        assert code is None
        assert [m["content"][0] for m in messages if m["type"] == "message"] == list(range(150))


def test_a_client_that_asks_and_does_not_listen_only_hurts_itself(start, connect):
    gateway = start({**SMALL, "outbox.grace": "2s"})
    other = connect(gateway, "other")
    with Wire(gateway, receive_buffer=4096) as rude:
        rude.upgrade("/ws?user_id=rude")
        rude.socket.settimeout(0.5)
        request = frame(TEXT, json.dumps({"type": "join", "roomId": "r" * 100, "id": "i" * 60}))
        with contextlib.suppress(OSError):
            for _ in range(50):
                rude.send(request * 1000)
        assert other.fence() == []

        def gone():
            return other.request("send_message", target_user="rude", content=1)["status"] == "offline"

        eventually(gone, "it is gone", 15)


def test_the_budget_of_a_shard_holds(start, connect):
    """Private backlogs that are each within the bound of a connection, and together far over that of the shard."""
    budget, shards = 8 << 20, 2
    gateway = start(
        {"outbox.shard_budget": "8MiB", "outbox.high": "1MiB", "outbox.max": "4MiB", "outbox.grace": "60s"}, shards=shards
    )
    sender = connect(gateway, "sender")
    healthy = [connect(gateway, f"healthy{number}") for number in range(5)]
    join_all("room", sender, *healthy)
    deaf = [slow_client(gateway, f"deaf{number}") for number in range(60)]
    base = most = gateway.memory_bytes()
    rounds = 30
    for number in range(rounds):
        for reader in range(60):
            sender.send("send_message", target_user=f"deaf{reader}", content="x" * 32_000)
        sender.send("message", roomId="room", content=[number, "y" * 1000])
        sender.fence()
        most = max(most, gateway.memory_bytes())
    # 56 MiB were sent. Beyond the budget, allocators keep some, and frames are on their way.
    assert most - base < shards * budget * 3 // 2, f"{(most - base) >> 20} MiB"
    for client in healthy:
        assert [client.expect("message")["content"][0] for _ in range(rounds)] == list(range(rounds))
        assert all(m["type"] == "user:joined" for m in client.fence())
    assert "outbox.shard_budget" in gateway.wait_log("short of memory")
    # Newcomers are welcome, and whoever was closed knows why.
    assert connect(gateway, "late").fence() == []
    codes = []
    for wire in deaf:
        with contextlib.suppress(AssertionError, OSError):
            codes.append(heard(wire, timeout=0.5)[1])
        wire.socket.close()
    assert codes and set(codes) == {4110}
    gateway.wait_log("enough memory again", timeout=10)


def test_messages_that_never_end_are_within_the_budget_too(start, connect):
    settings = {"outbox.shard_budget": "8MiB", "outbox.grace": "2s", "outbox.max": "4MiB", "limits.message_size": "1MiB"}
    gateway = start(settings)
    honest = connect(gateway, "honest")
    base = gateway.memory_bytes()
    wires = []
    for number in range(60):
        wire = Wire(gateway)
        wire.upgrade(f"/ws?user_id=user{number}")
        wire.socket.settimeout(0.2)
        wires.append(wire)
        with contextlib.suppress(OSError):
            wire.send(frame(TEXT, b"", length=1000 * KIB)[:14])
            for _ in range(12):
                wire.send(b"x" * 64 * KIB)
        assert honest.fence() == []
    assert gateway.memory_bytes() - base < 40 << 20
    gateway.wait_log("short of memory")
    for wire in wires:
        wire.socket.close()
    gateway.wait_log("enough memory again", timeout=20)
    assert honest.fence() == []
