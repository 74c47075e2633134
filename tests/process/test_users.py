"""`send_message`: to every device of a user, on whichever shard it lives."""

import time

import pytest

CLASSES = ["urgent", "normal", "latest", "droppable"]


def test_a_message_carries_what_the_receiver_needs(gateway, connect):
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    before = time.time() * 1000
    reply = alice.request("send_message", target_user=bob.user, content={"text": "hello"}, event="greeting")
    assert reply["status"] == "delivered"
    message = bob.next()
    assert message["type"] == "message"
    assert message["from"] == alice.user
    assert message["content"] == {"text": "hello"}
    assert message["event"] == "greeting"
    assert isinstance(message["id"], str) and message["id"]
    assert before - 1000 <= message["timestamp"] <= time.time() * 1000 + 1000
    assert "roomId" not in message and "channel" not in message


def test_every_user_reaches_every_other(gateway, connect):
    """With eight users on two or three shards, most pairs are on different ones."""
    users = [connect(gateway, f"user{number}") for number in range(8)]
    for sender in users:
        for receiver in users:
            content = f"{sender.user} to {receiver.user}"
            assert sender.request("send_message", target_user=receiver.user, content=content)["status"] == "delivered"
    for receiver in users:
        got = [receiver.expect("message") for _ in users]
        assert sorted(m["content"] for m in got) == sorted(f"{s.user} to {receiver.user}" for s in users)
        assert all(m["content"] == f"{m['from']} to {receiver.user}" for m in got)
        assert receiver.fence() == []


def test_every_device_gets_it_once(gateway, connect):
    alice = connect(gateway, "alice")
    devices = [connect(gateway, "bob") for _ in range(4)]
    assert alice.request("send_message", target_user=devices[0].user, content="to all of you")["status"] == "delivered"
    ids = {device.expect("message", content="to all of you")["id"] for device in devices}
    assert len(ids) == 1
    for device in devices:
        assert device.fence() == []


def test_a_message_to_oneself_reaches_all_own_devices(gateway, connect):
    first, second = connect(gateway, "alice"), connect(gateway, "alice")
    first.request("send_message", target_user=first.user, content="note")
    assert first.expect("message")["from"] == first.user
    assert second.expect("message")["content"] == "note"


def test_offline_before_after_and_between(gateway, connect, unique):
    alice = connect(gateway, "alice")
    bob = unique("bob")
    send = lambda: alice.request("send_message", target_user=bob, content="there?")["status"]
    assert send() == "offline"
    with connect(gateway, "bob") as device:
        assert send() == "delivered"
        device.expect("message")
    # The close handshake is over, so the gateway knows; the user's home shard is the connection's.
    assert send() == "offline"


def test_one_device_leaving_does_not_take_the_others_along(gateway, connect):
    alice = connect(gateway, "alice")
    stays, leaves = connect(gateway, "bob"), connect(gateway, "bob")
    leaves.close()
    assert alice.request("send_message", target_user=stays.user, content=1)["status"] == "delivered"
    assert stays.expect("message")["content"] == 1


def test_order_across_shards(gateway, connect):
    """What one connection sends to one target arrives in that order, whatever the shards."""
    sender = connect(gateway, "sender")
    receivers = [connect(gateway, f"receiver{number}") for number in range(4)]
    for number in range(1000):
        for receiver in receivers:
            sender.send("send_message", target_user=receiver.user, content=number)
    for receiver in receivers:
        got = [receiver.expect("message") for _ in range(1000)]
        assert [m["content"] for m in got] == list(range(1000))
        ids = [m["id"] for m in got]
        assert len(set(ids)) == 1000
        assert receiver.fence() == []


def test_message_ids_are_unique_and_sort_by_time(gateway, connect):
    """Ids of different shards, made one after another, sort as they were made (to the millisecond)."""
    users = [connect(gateway, f"user{number}") for number in range(6)]
    made = []
    for sender in users * 5:
        sender.request("send_message", target_user=users[0].user, content=1)
        made.append(users[0].expect("message"))
    ids = [m["id"] for m in made]
    assert len(set(ids)) == len(ids)
    by_id = sorted(made, key=lambda m: m["id"])
    times = [m["timestamp"] for m in by_id]
    assert times == sorted(times)


@pytest.mark.parametrize("class_", CLASSES)
def test_every_class_arrives_where_nobody_is_behind(gateway, connect, class_):
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    for number in range(50):
        alice.send("send_message", target_user=bob.user, content=number, **{"class": class_}, key="k")
    assert [bob.expect("message")["content"] for _ in range(50)] == list(range(50))


def test_names_of_every_kind(gateway, connect):
    alice = connect(gateway, "alice")
    for name in ["ü", "a b", "a/b?c&d=e%20", "用户", "😀", "x" * 128, "'\"\\", "EVENTS"]:
        device = connect(gateway, name, exact=True)
        assert device.user == name
        assert alice.request("send_message", target_user=name, content=name)["status"] == "delivered"
        assert device.expect("message")["content"] == name
