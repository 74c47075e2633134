"""Services that know only Redis: what they publish arrives, and what happens to users is told to them."""

import json
import time

import pytest

from admin import Admin
from cluster import MALFORMED, figure, messages, nodes_of, payload, status
from gateway import eventually

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


def events(listener, user, timeout=5):
    """The next event about this user."""
    deadline = time.monotonic() + timeout
    while True:
        _, told = listener.next(max(0.01, deadline - time.monotonic()))
        told = json.loads(told)
        if told.get("user_id") == user:
            return told


def test_online_on_the_first_and_offline_on_the_last_connection(cluster, connect):
    with cluster.redis.listen("ws:user:events") as listener:
        first = connect(cluster[0], "ann")
        assert events(listener, first.user) == {"event": "online", "user_id": first.user, "node": "n0"}
        second, third = connect(cluster[0], "ann"), connect(cluster[1], "ann")
        first.close()
        second.close()
        with Admin(cluster[2]) as admin:
            eventually(lambda: nodes_of(admin, user=first.user) == {"n1": 1}, "n0 has let go")
        third.close()
        last = events(listener, first.user)
        assert (last["event"], last["node"]) == ("offline", "n1")
        again = connect(cluster[2], "ann")
        assert events(listener, first.user) == {"event": "online", "user_id": first.user, "node": "n2"}
        again.close()
        assert events(listener, first.user)["event"] == "offline"
        told = [json.loads(told) for _, told in listener.taken(0.3)]
        assert [event for event in told if event["user_id"] == first.user] == []
