"""Services that know only Redis: what they publish arrives, and what happens to users is told to them."""

import json
import random
import threading
import time

import pytest

from admin import Admin
from cluster import LEASE_S, MALFORMED, QUICK, figure, is_down, messages, nodes_of, payload, status
from events import Events, nodes_with_rows, wait_rows
from fault_proxy import FaultProxy
from gateway import eventually
from redis_server import RedisServer
from wire import CLOSE, TEXT, Wire, frame

CONTENT = {"x": [1, "é"]}


@pytest.fixture(params=["message", "body"])
def say(request):
    """Makes what a service may say: a whole message as clients get it, or the body of the server API's `publish`."""

    def say(type="message", **place):
        body = {"from": "billing", "content": CONTENT, "event": "invoice"}
        if request.param == "body":
            return body
        return {"type": type, "id": "billing-1", "timestamp": int(time.time() * 1000), **body, **place}

    return say


def everywhere(cluster, connect, name):
    return [connect(node, f"{name}{number}") for number, node in enumerate(cluster.nodes)]


def check(message):
    assert (message["from"], message["content"], message["event"]) == ("billing", CONTENT, "invoice")
    assert message["id"] and abs(message["timestamp"] / 1000 - time.time()) < 60


def test_to_a_user(cluster, connect, say):
    devices, other = [connect(node, "ann") for node in cluster.nodes], connect(cluster[0], "ben")
    assert cluster.redis.publish(f"ws:user:{devices[0].user}", payload(**say())) >= 3, "the nodes listen for their users"
    for device in devices:
        check(device.expect("message"))
    for client in [*devices, other]:
        assert client.fence() == []


def test_to_a_room(cluster, connect, unique, say):
    room, members, outsider = unique("room"), everywhere(cluster, connect, "member"), connect(cluster[0], "outsider")
    for member in members:
        member.request("join", roomId=room)
    cluster.redis.publish(f"ws:room:{room}", payload(**say(roomId=room)))
    for member in members:
        message = member.expect("message")
        check(message)
        assert message["roomId"] == room
    for client in [*members, outsider]:
        assert messages(client) == []


def test_to_a_channel_with_filters(cluster, connect, unique, say):
    channel = unique("channel")
    picky, greedy = everywhere(cluster, connect, "picky"), everywhere(cluster, connect, "greedy")
    for client in picky:
        client.request("subscribe", channel=channel, filter={"key": "n", "op": "gt", "val": 5})
    for client in greedy:
        client.request("subscribe", channel=channel)
    for n in (1, 9):
        cluster.redis.publish(f"ws:channel:{channel}", payload(**say(channel=channel), tags={"n": n}))
    for clients, expected in ((greedy, [1, 9]), (picky, [9])):
        for client in clients:
            got = [client.expect("message") for _ in expected]
            assert [(m["channel"], m["tags"]) for m in got] == [(channel, {"n": n}) for n in expected]
            check(got[0])
            assert client.fence() == []


def test_to_everybody(cluster, connect, say):
    clients = everywhere(cluster, connect, "client")
    cluster.redis.publish("ws:broadcast", payload(**say("broadcast")))
    for client in clients:
        check(client.expect("broadcast"))
        assert client.fence() == []


def test_in_order(cluster, connect):
    client = connect(cluster[1], "ann")
    with cluster.redis.connect() as redis:
        for number in range(300):
            redis.call("PUBLISH", f"ws:user:{client.user}", payload(content=number))
    assert [client.expect("message")["content"] for _ in range(300)] == list(range(300))


def test_a_sender_instance_keeps_what_a_service_sends_from_coming_back_to_it(cluster, connect):
    """A node passes over what bears its own name; that of something else changes nothing."""
    here, there = connect(cluster[0], "ann"), connect(cluster[1], "ann")
    for sender in ("n0", "billing-7"):
        sent = {"senderInstance": sender, "payload": {"content": f"from {sender}"}}
        cluster.redis.publish(f"ws:user:{here.user}", json.dumps(sent))
    assert [there.expect("message")["content"] for _ in range(2)] == ["from n0", "from billing-7"]
    assert here.expect("message")["content"] == "from billing-7"
    assert here.fence() == there.fence() == []


def test_class_and_event_are_the_services_to_say(cluster, connect):
    client = connect(cluster[0], "ann")
    for class_ in ("urgent", "normal", "latest", "droppable"):
        cluster.redis.publish(f"ws:user:{client.user}", payload(content=class_, key="k", **{"class": class_}))
        assert client.expect("message")["content"] == class_


GARBAGE_OF_ALL_KINDS = [
    b"",
    b"hello",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b'{"payload":1}',
    b'{"payload":{}}',
    b'{"payload":{"content":1,"class":"loud"}}',
    b'{"payload":{"content":1,"event":7}}',
    b'{"payload":{"content":1,"tags":[1]}}',
    b'{"payload":{"content":1}',
    b'{"payload":{"content":"' + b"x" * 200_000 + b'"}}',
]


def test_garbage_is_counted_and_ignored(cluster, connect, unique):
    client, room = connect(cluster[0], "ann"), unique("room")
    client.request("join", roomId=room)
    node = cluster[0]
    before, log_before = figure(node, *MALFORMED), len(node.log().splitlines())
    for garbage in GARBAGE_OF_ALL_KINDS:
        for channel in (f"ws:user:{client.user}", f"ws:room:{room}", "ws:broadcast", "ws:user:events"):
            cluster.redis.publish(channel, garbage)
    cluster.redis.publish(f"ws:user:{client.user}", payload(content="still here"))
    assert client.until("message", content="still here") == []
    counted = lambda: figure(node, *MALFORMED) - before
    eventually(lambda: counted() >= 2 * len(GARBAGE_OF_ALL_KINDS), f"it is counted, not {counted()}")
    # It says so, but a service cannot fill the disk with it.
    assert len(node.log().splitlines()) - log_before < 10
    other = connect(cluster[1], "ben")
    assert status(other, client.user, "and the nodes still speak") == "delivered"


def test_garbage_between_nodes_is_ignored(cluster, connect):
    """Whoever may publish can send nonsense to the nodes' own channels as well."""
    client, other = connect(cluster[0], "ann"), connect(cluster[1], "ben")
    with cluster.redis.connect() as redis:
        for channel in cluster.channels("ws:*"):
            for nonsense in (b"", b"\x01", b"\x01" + b"\xff" * 40, b"\x02hello", bytes(range(256)), b"{}"):
                redis.call("PUBLISH", channel, nonsense)
    assert status(other, client.user, "still") == "delivered"
    assert messages(client) == ["still"]
    for node in cluster.nodes:
        assert "panicked" not in node.log()


def test_online_on_the_first_and_offline_on_the_last_connection(cluster, connect):
    with Events(cluster) as events:
        first = connect(cluster[0], "ann")
        user, told = first.user, [("online", "n0")]
        events.wait(user, *told)
        second, third = connect(cluster[0], "ann"), connect(cluster[1], "ann")
        first.close()
        second.close()
        wait_rows(cluster, user, "n1")
        with Admin(cluster[2]) as admin:
            eventually(lambda: nodes_of(admin, user=user) == {"n1": 1}, "n0 has let go", 15)
        events.wait(user, *told)
        third.close()
        told.append(("offline", "n1"))
        events.wait(user, *told)
        again = connect(cluster[2], "ann")
        told.append(("online", "n2"))
        events.wait(user, *told)
        again.abort()
        told.append(("offline", "n2"))
        events.wait(user, *told)
        assert nodes_with_rows(cluster, user) == set()
        events.wait(user, *told)


def test_who_is_welcomed_was_told_to_be_online(cluster, connect):
    with Events(cluster) as events:
        for number in range(10):
            client = connect(cluster[number % 3], f"guest{number}")
            # On a machine that is too busy to hear from Redis in time, it says that it does not know.
            if "local" not in client.welcome:
                assert events.of(client.user) == [("online", f"n{number % 3}")]


class Restless(threading.Thread):
    """A user who hops between the nodes as fast as it can, now and then with two devices, or without waiting for anything."""

    def __init__(self, cluster, user, hops, seed):
        super().__init__(daemon=True)
        self.cluster, self.user, self.hops, self.random = cluster, user, hops, random.Random(seed)
        self.error = None
        self.start()

    def run(self):
        try:
            stays = []
            for _ in range(self.hops):
                node = self.random.choice(self.cluster.nodes)
                wire = Wire(node)
                wire.upgrade(node.path(user_id=self.user))
                if self.random.random() < 0.6:
                    wire.opcode(TEXT)
                stays.append(wire)
                while stays and (len(stays) > 2 or self.random.random() < 0.7):
                    self.end(stays.pop(self.random.randrange(len(stays))))
            for wire in stays:
                self.end(wire)
        except BaseException as error:
            self.error = error

    def end(self, wire):
        match self.random.randrange(3):
            case 0:
                wire.send(frame(CLOSE, (1000).to_bytes(2, "big")))
                wire.ended()
                wire.socket.close()
            case 1:
                wire.reset()
            case _:
                wire.socket.close()


def test_online_and_offline_alternate_however_fast_somebody_comes_and_goes(cluster, connect, unique):
    users = [unique(f"restless{number}") for number in range(8)]
    with Events(cluster) as events:
        people = [Restless(cluster, user, 60, seed) for seed, user in enumerate(users)]
        for one in people:
            one.join(60)
            assert not one.is_alive() and one.error is None, one.error
        for user in users:
            wait_rows(cluster, user)
            said = [event for event, _ in events.of(user)]
            assert said == ["online", "offline"] * (len(said) // 2), (user, events.of(user))
        assert sum(len(events.of(user)) for user in users) > 4 * len(users), "they did come and go"
        # And the next time is the first again.
        for number, user in enumerate(users):
            told, node = list(events.of(user)), f"n{number % 3}"
            device = connect(cluster[number % 3], user, exact=True)
            events.wait(user, *told, ("online", node))
            device.close()
            events.wait(user, *told, ("online", node), ("offline", node))


def test_redis_forgets_and_nobody_is_told_to_come_again(start_cluster, connect):
    cluster = start_cluster("registry", 2)
    people = [(connect(node, f"user{number}"), node.node_id) for number, node in enumerate(cluster.nodes * 10)]
    leavers, stayers = people[:6], people[6:]
    with Events(cluster) as events:
        cluster.redis.call("FLUSHALL")
        # Before anybody has noticed, or just when they do.
        for leaver, _ in leavers:
            leaver.close()
        for leaver, node in leavers:
            events.wait(leaver.user, ("offline", node))
        for stayer, node in stayers:
            wait_rows(cluster, stayer.user, node)
        cluster.wait_whole()
        assert [events.of(stayer.user) for stayer, _ in stayers] == [[]] * len(stayers)
        for leaver, node in leavers:
            events.wait(leaver.user, ("offline", node))
        for stayer, node in stayers:
            stayer.close()
            events.wait(stayer.user, ("offline", node))


@pytest.mark.parametrize("how_long", ["for less than a lease", "for longer"])
@pytest.mark.parametrize("forgets", [False, True], ids=["remembers", "forgets"])
def test_who_leaves_while_redis_is_away_is_told_when_it_is_back(start_cluster, connect, how_long, forgets):
    settings = QUICK if how_long == "for longer" else {}
    with RedisServer() as redis, FaultProxy(redis.port) as proxy:
        cluster = start_cluster("registry", 2, settings, redis=redis, url=redis.url(port=proxy.port))
        goes, stays = connect(cluster[0], "goes"), connect(cluster[1], "stays")
        proxy.refuse()
        for node in cluster.nodes:
            eventually(lambda: is_down(node), "it is noticed", 10)
        goes.close()
        late = connect(cluster[1], "late")
        if how_long == "for longer":
            time.sleep(LEASE_S + 0.5)
        if forgets:
            redis.call("FLUSHALL")
        with Events(cluster) as events:
            proxy.heal()
            cluster.wait_whole()
            wait_rows(cluster, goes.user)
            for client in (stays, late):
                wait_rows(cluster, client.user, "n1")
            events.wait(goes.user, ("offline", "n0"))
            for client, expected in ((late, [("online", "n1")]), (stays, [])):
                # Who was taken for dead by the other node, which was back before, went and came again.
                told = list(events.of(client.user))
                again = told[len(expected) :]
                assert told[: len(expected)] == expected and again == [("offline", "n1"), ("online", "n1")] * (len(again) // 2)
                client.close()
                events.wait(client.user, *told, ("offline", "n1"))
