"""Rooms: join, leave, message, announcements, presence."""

import pytest

from gateway import eventually
from wire import Wire


def users(presence):
    return {entry["userId"]: entry["connections"] for entry in presence["users"]}


def test_a_room_message_reaches_every_member_but_its_own_connection(gateway, connect, unique):
    room = unique("room")
    members = [connect(gateway, f"member{number}") for number in range(6)]
    for member in members:
        member.request("join", roomId=room)
    speaker, listeners = members[0], members[1:]
    speaker.request("message", roomId=room, content="hello", event="chat")
    for listener in listeners:
        message = listener.expect("message")
        assert (message["from"], message["roomId"], message["content"]) == (speaker.user, room, "hello")
        assert message["event"] == "chat" and message["id"] and message["timestamp"]
    listeners[0].request("message", roomId=room, content="fence")
    assert not [m for m in speaker.until("message", content="fence") if m["type"] == "message"]


def test_the_senders_other_devices_get_it(gateway, connect, unique):
    room = unique("room")
    phone, laptop, bob = connect(gateway, "alice"), connect(gateway, "alice"), connect(gateway, "bob")
    for device in (phone, laptop, bob):
        device.request("join", roomId=room)
    phone.request("message", roomId=room, content=1)
    assert laptop.expect("message")["content"] == 1
    assert bob.expect("message")["content"] == 1
    bob.request("message", roomId=room, content="fence")
    assert not [m for m in phone.until("message", content="fence") if m["type"] == "message"]


def test_membership_is_the_connections_not_the_users(gateway, connect, unique):
    room = unique("room")
    inside, outside, bob = connect(gateway, "alice"), connect(gateway, "alice"), connect(gateway, "bob")
    inside.request("join", roomId=room)
    bob.request("join", roomId=room)
    bob.request("message", roomId=room, content=1)
    inside.expect("message", content=1)
    assert outside.refused("message", roomId=room, content=2)["code"] == "not_member"
    assert [m for m in outside.fence() if m["type"] == "message"] == []


def test_who_is_not_a_member_is_told(gateway, connect, unique):
    room = unique("room")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    assert alice.refused("message", roomId=room, content=1)["code"] == "not_member"
    alice.request("join", roomId=room)
    bob.request("join", roomId=room)
    alice.request("message", roomId=room, content=2)
    bob.expect("message", content=2)
    alice.request("leave", roomId=room)
    assert alice.refused("message", roomId=room, content=3)["code"] == "not_member"
    bob.request("message", roomId=room, content=4)
    assert [m for m in alice.fence() if m["type"] == "message"] == []


def test_joining_and_leaving_is_announced_once_per_user(gateway, connect, unique):
    room = unique("room")
    bob = connect(gateway, "bob")
    bob.request("join", roomId=room)
    phone, laptop = connect(gateway, "alice"), connect(gateway, "alice")
    phone.request("join", roomId=room)
    assert bob.next() == {"type": "user:joined", "userId": phone.user, "roomId": room}
    laptop.request("join", roomId=room)
    phone.request("leave", roomId=room)
    laptop.request("message", roomId=room, content="fence")
    assert bob.until("message", content="fence") == []
    laptop.request("leave", roomId=room)
    assert bob.next() == {"type": "user:left", "userId": phone.user, "roomId": room}
    assert phone.fence() == [] and laptop.fence() == []


@pytest.mark.parametrize("how", ["close", "abort", "reset"])
def test_who_disconnects_has_left(gateway, connect, unique, how):
    room = unique("room")
    bob = connect(gateway, "bob")
    bob.request("join", roomId=room)
    if how == "reset":
        name = unique("alice")
        wire = Wire(gateway)
        wire.upgrade(f"/ws?user_id={name}")
        from wire import TEXT, frame

        wire.send(frame(TEXT, '{"type":"join","roomId":"%s"}' % room))
        assert bob.next() == {"type": "user:joined", "userId": name, "roomId": room}
        wire.reset()
    else:
        alice = connect(gateway, "alice")
        alice.request("join", roomId=room)
        name = alice.user
        assert bob.next() == {"type": "user:joined", "userId": name, "roomId": room}
        getattr(alice, how)()
    assert bob.next() == {"type": "user:left", "userId": name, "roomId": room}
    assert set(users(bob.request("presence", roomId=room))) == {bob.user}


def test_joining_twice_changes_nothing(gateway, connect, unique):
    room = unique("room")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    bob.request("join", roomId=room)
    alice.request("join", roomId=room)
    alice.request("join", roomId=room)
    alice.request("message", roomId=room, content="fence")
    assert [m["type"] for m in bob.until("message", content="fence")] == ["user:joined"]
    assert users(bob.request("presence", roomId=room)) == {alice.user: 1, bob.user: 1}
    alice.request("leave", roomId=room)
    assert bob.next()["type"] == "user:left"
    bob.request("message", roomId=room, content=1)
    assert alice.fence() == []


def test_presence_counts_users_and_connections(gateway, connect, unique):
    room = unique("room")
    bob = connect(gateway, "bob")
    assert bob.request("presence", roomId=room)["users"] == []
    devices = [connect(gateway, "alice") for _ in range(3)]
    for device in devices:
        device.request("join", roomId=room)
    bob.request("join", roomId=room)
    answer = bob.request("presence", roomId=room)
    assert answer["roomId"] == room
    assert users(answer) == {devices[0].user: 3, bob.user: 1}
    devices[0].request("leave", roomId=room)
    devices[1].close()
    eventually(lambda: users(bob.request("presence", roomId=room)) == {devices[0].user: 1, bob.user: 1}, "presence follows")


def test_rooms_do_not_mix(gateway, connect, unique):
    rooms = [unique(f"room{number}") for number in range(6)]
    everywhere = connect(gateway, "everywhere")
    locals_ = [connect(gateway, f"local{number}") for number in range(6)]
    for room, local in zip(rooms, locals_):
        everywhere.request("join", roomId=room)
        local.request("join", roomId=room)
    for room in rooms:
        everywhere.request("message", roomId=room, content=room)
    for room, local in zip(rooms, locals_):
        assert local.expect("message")["content"] == room
        assert [m for m in local.fence() if m["type"] == "message"] == []


def test_order_in_a_room(gateway, connect, unique):
    room = unique("room")
    members = [connect(gateway, f"member{number}") for number in range(5)]
    for member in members:
        member.request("join", roomId=room)
    for number in range(500):
        members[0].send("message", roomId=room, content=number)
    for member in members[1:]:
        assert [member.expect("message")["content"] for _ in range(500)] == list(range(500))


def test_a_room_and_a_channel_of_one_name_are_two(gateway, connect, unique):
    name = unique("same")
    alice, bob, carol = (connect(gateway, user) for user in ("alice", "bob", "carol"))
    alice.request("join", roomId=name)
    bob.request("join", roomId=name)
    carol.request("subscribe", channel=name)
    alice.request("message", roomId=name, content="room")
    bob.expect("message", content="room")
    alice.request("publish", channel=name, content="channel")
    assert carol.expect("message")["content"] == "channel"
    assert [m for m in bob.fence() if m.get("content") == "channel"] == []


def test_large_rooms_are_not_announced(start, connect, unique):
    gateway = start({"rooms.announce_max": 3})
    room = unique("room")
    members = [connect(gateway, f"member{number}") for number in range(6)]
    for member in members:
        member.request("join", roomId=room)
    members[5].request("message", roomId=room, content="fence")
    joined = [m["userId"] for m in members[0].until("message", content="fence") if m["type"] == "user:joined"]
    assert joined == [members[1].user, members[2].user]
    assert len(users(members[0].request("presence", roomId=room))) == 6
    members[5].request("leave", roomId=room)
    members[4].request("message", roomId=room, content="fence 2")
    assert members[0].until("message", content="fence 2") == []


def test_a_connection_that_comes_and_goes_leaves_nothing(gateway, connect, unique):
    """Descriptors and memberships of 200 connections, gone in every way, are given back."""
    room = unique("room")
    watcher = connect(gateway, "watcher")
    watcher.request("join", roomId=room)
    before = gateway.descriptors()
    for number in range(200):
        wire = Wire(gateway)
        wire.upgrade(f"/ws?user_id=guest{number}")
        from wire import CLOSE, TEXT, frame

        wire.send(frame(TEXT, '{"type":"join","roomId":"%s"}' % room))
        if number % 3 == 0:
            wire.send(frame(CLOSE, b"\x03\xe8"))
            wire.close_code()
        wire.reset() if number % 3 == 1 else wire.socket.close()
    eventually(lambda: set(users(watcher.request("presence", roomId=room))) == {watcher.user}, "all have left", 20)
    eventually(lambda: gateway.descriptors() <= before, "descriptors are given back", 20)
