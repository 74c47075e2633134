"""Direct messages in a cluster: to every device of a user, on whichever nodes these are, with a true answer."""

import itertools
import threading

import pytest

from admin import Admin
from cluster import Device, messages, nodes_of, status
from gateway import eventually
from test_backpressure import PATIENT, heard, slow_client


def test_every_user_reaches_every_other(cluster, connect):
    users = [connect(node, f"user{number}") for number, node in enumerate(cluster.nodes * 2)]
    for sender in users:
        for receiver in users:
            content = f"{sender.user} to {receiver.user}"
            assert status(sender, receiver.user, content) == "delivered"
    for receiver in users:
        got = [receiver.expect("message") for _ in users]
        assert sorted(m["content"] for m in got) == sorted(f"{s.user} to {receiver.user}" for s in users)
        assert all(m["content"] == f"{m['from']} to {receiver.user}" for m in got)
        assert len({m["id"] for m in got}) == len(users)
    assert [receiver.fence() for receiver in users] == [[]] * len(users)


def test_a_message_carries_what_the_receiver_needs(cluster, connect):
    alice, bob = connect(cluster[0], "alice"), connect(cluster[1], "bob")
    reply = alice.request(
        "send_message", target_user=bob.user, content={"text": "héllo 用户", "n": [1, None]}, event="greeting", tags={"a": 1.5}
    )
    message = bob.expect("message")
    assert (message["from"], message["content"]) == (alice.user, {"text": "héllo 用户", "n": [1, None]})
    assert (message["event"], message["tags"], message["id"]) == ("greeting", {"a": 1.5}, reply["messageId"])
    assert isinstance(message["timestamp"], int)


def test_every_device_on_every_node_gets_it_once(cluster, connect):
    alice = connect(cluster[0], "alice")
    devices = [connect(node, "bob") for node in cluster.nodes * 2]
    assert status(alice, devices[0].user, "to all of you") == "delivered"
    assert len({device.expect("message", content="to all of you")["id"] for device in devices}) == 1
    assert status(devices[1], devices[1].user, "note to myself") == "delivered"
    for device in devices:
        device.expect("message", content="note to myself")
        assert device.fence() == []


def test_offline_before_after_and_between(cluster, connect, unique):
    """Also when it has just been asked, and just been answered otherwise."""
    senders = [connect(node, f"sender{number}") for number, node in enumerate(cluster.nodes)]
    bob = unique("bob")
    for node in cluster.nodes:
        assert [status(sender, bob, "there?") for sender in senders] == ["offline"] * 3
        with connect(node, "bob") as device:
            assert [status(sender, bob, "here?") for sender in senders] == ["delivered"] * 3
            assert [device.expect("message")["content"] for _ in senders] == ["here?"] * 3
    assert [status(sender, bob, "gone?") for sender in senders] == ["offline"] * 3


def test_who_moves_is_found_where_they_are_now(cluster, connect, unique):
    """Once `auth:ok` has come, a message finds the new connection, however warm the route to the old one is."""
    senders = [connect(node, f"sender{number}") for number, node in enumerate(cluster.nodes)]
    bob = unique("bob")
    for round, node in enumerate(cluster.nodes * 5):
        with connect(node, "bob") as device:
            for number, sender in enumerate(senders):
                assert status(sender, bob, [round, number]) == "delivered"
            arrived = messages(device)
            assert sorted(m for m in arrived if m[0] == round) == [[round, number] for number in range(len(senders))]
            # There every node is sent everything: one that is slow may find somebody at home who was served elsewhere before.
            late = [tuple(m) for m in arrived if m[0] < round]
            assert not late or (cluster.routing == "broadcast" and len(set(late)) == len(late)), late


def test_one_device_leaving_does_not_take_the_others_along(cluster, connect):
    alice = connect(cluster[0], "alice")
    stays, leaves = connect(cluster[1], "bob"), connect(cluster[2], "bob")
    beside = connect(cluster[1], "bob")
    for gone in (leaves, beside):
        gone.close()
        assert status(alice, stays.user, 1) == "delivered"
        assert stays.expect("message")["content"] == 1
    assert stays.fence() == []


def test_order_per_sender_and_target(cluster, connect):
    senders = [connect(node, f"sender{number}") for number, node in enumerate(cluster.nodes)]
    receivers = [connect(node, f"receiver{number}") for number, node in enumerate(cluster.nodes)]
    count = 300
    for number in range(count):
        for sender in senders:
            for receiver in receivers:
                sender.send("send_message", target_user=receiver.user, content=number)
    for receiver in receivers:
        got = [receiver.expect("message") for _ in range(count * len(senders))]
        for sender in senders:
            assert [m["content"] for m in got if m["from"] == sender.user] == list(range(count))
        assert len({m["id"] for m in got}) == len(got)
        assert receiver.fence() == []


def test_nothing_is_lost_or_reordered_while_a_user_moves(cluster, connect, unique):
    """Bob is always connected, each time somewhere else: everything is `delivered`, each connection hears in order, and together all."""
    sender, bob = connect(cluster[0], "sender"), unique("bob")
    statuses, moved, heard_by = [], threading.Event(), []
    device = Device(cluster[1], bob)

    def send():
        for number in itertools.count():
            statuses.append(status(sender, bob, number))
            if moved.is_set():
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for node in (cluster.nodes * 4)[2:]:
            newer = Device(node, bob)
            heard_by.append(device.goodbye())
            device = newer
    finally:
        moved.set()
        thread.join()
    assert set(statuses) == {"delivered"}, [(n, s) for n, s in enumerate(statuses) if s != "delivered"]
    heard_by.append(device.goodbye())
    for contents in heard_by:
        assert contents == sorted(set(contents)), "in order, and once"
    missing = set(range(len(statuses))) - set().union(*heard_by)
    assert not missing, f"{sorted(missing)} of {len(statuses)} were delivered to nobody"


def test_nothing_comes_before_auth_ok(cluster, connect, unique):
    """However many messages there are for a user who is just coming."""
    senders, bob = [connect(node, f"sender{number}") for number, node in enumerate(cluster.nodes)], unique("bob")
    stays, done = connect(cluster[0], "bob"), threading.Event()

    def flood(sender):
        while not done.is_set():
            status(sender, bob, "flood")

    threads = [threading.Thread(target=flood, args=[sender]) for sender in senders]
    [thread.start() for thread in threads]
    try:
        early = [Device(node, bob).early for node in cluster.nodes * 8]
    finally:
        done.set()
        [thread.join() for thread in threads]
    stays.fence()
    assert [messages for messages in early if messages] == []


@pytest.mark.parametrize("class_", ["urgent", "normal", "latest", "droppable"])
def test_every_class_arrives_where_nobody_is_behind(cluster, connect, class_):
    alice, bob = connect(cluster[0], "alice"), connect(cluster[1], "bob")
    for number in range(50):
        alice.send("send_message", target_user=bob.user, content=number, **{"class": class_}, key="k")
    assert [bob.expect("message")["content"] for _ in range(50)] == list(range(50))


def test_names_of_every_kind(cluster, connect):
    alice = connect(cluster[0], "alice")
    for name in ["ü", "a b", "a/b?c&d=e%20", "用户", "😀", "x" * 128, "'\"\\", "a:b:c", "{a}b", "*", "[x]", "loc:x"]:
        device = connect(cluster[1], name, exact=True)
        assert status(alice, name, name) == "delivered"
        assert device.expect("message")["content"] == name


def test_large_messages_cross(cluster, connect):
    alice, bob = connect(cluster[0], "alice"), connect(cluster[1], "bob")
    for size in (0, 1, 125, 126, 65_000):
        assert status(alice, bob.user, "x" * size) == "delivered"
        assert bob.expect("message")["content"] == "x" * size


def test_services_reach_users_on_other_nodes(cluster, connect, unique):
    devices = [connect(node, "ann") for node in cluster.nodes]
    others = [connect(node, f"ben{number}") for number, node in enumerate(cluster.nodes)]
    with Admin(cluster[0]) as admin:
        result = admin.publish({"user": devices[0].user}, {"x": 1}, **{"from": "billing"})
        assert result["status"] == "delivered"
        for device in devices:
            message = device.expect("message")
            assert (message["id"], message["from"], message["content"]) == (result["id"], "billing", {"x": 1})
        assert admin.publish({"user": unique("nobody")}, 1)["status"] == "offline"
        result = admin.publish({"users": [other.user for other in others] + [unique("nobody")]}, "all")
        assert (result["status"], result["delivered"], result["offline"]) == ("delivered", 3, 1)
        assert {other.expect("message")["id"] for other in others} == {result["id"]}
        for n in range(100):
            admin.publish({"user": others[2].user}, n)
        assert [others[2].expect("message")["content"] for _ in range(100)] == list(range(100))
    assert [client.fence() for client in devices + others] == [[]] * 6


def test_an_idempotency_key_is_one_for_the_node_that_was_asked(cluster, connect, unique):
    client, key = connect(cluster[1], "once"), unique("key")
    with Admin(cluster[0]) as admin:
        first = admin.publish({"user": client.user}, 1, idempotency_key=key)
        assert admin.publish({"user": client.user}, 1, idempotency_key=key) == first
    client.expect("message")
    assert client.fence() == []


def test_services_disconnect_users_on_other_nodes(cluster, connect, unique):
    devices, stays = [connect(node, "gone") for node in cluster.nodes], connect(cluster[1], "stays")
    with Admin(cluster[0]) as admin:
        assert admin.call("disconnect", user=stays.user + "x") == {"count": 0}
        assert admin.call("disconnect", user=devices[0].user, code=4321, reason="by request") == {"count": 3}
        for device in devices:
            assert device.closed() == (4321, "by request")
        eventually(lambda: admin.publish({"user": devices[0].user}, 1)["status"] == "offline", "gone everywhere")
    assert stays.fence() == []


def test_services_disconnect_one_connection_on_another_node(cluster, connect):
    devices = [connect(cluster[1], "gone") for _ in range(2)]
    with Admin(cluster[0]) as admin:
        assert admin.call("disconnect", connection=devices[1].welcome["connectionId"]) == {"count": 1}
        assert devices[1].closed() == (4003, "disconnected")
        assert admin.call("disconnect", connection=devices[1].welcome["connectionId"]) == {"count": 0}
        refused = admin.refused("disconnect", connection=devices[0].welcome["connectionId"][8:])
        assert refused.status == 400 and "expected 28 hexadecimal digits" in refused.message
    assert devices[0].fence() == []


def test_operators_are_told_which_node_has_a_connection(cluster, connect):
    client = connect(cluster[1], "ann")
    id = client.welcome["connectionId"]
    with Admin(cluster[0]) as admin, Admin(cluster[1]) as its:
        refused = admin.refused("connections", connection=id)
        assert refused.status == 400 and '"n1"' in refused.message
        assert [found["user"] for found in its.call("connections", connection=id)["connections"]] == [client.user]
        nobodys = f"{int(id[:8], 16) ^ 1:08x}{id[8:]}"
        assert admin.call("connections", connection=nobodys) == {"connections": [], "matched": 0}
        assert admin.call("disconnect", connection=nobodys) == {"count": 0}
    assert client.fence() == []


def test_services_ask_where_a_user_is(cluster, connect, unique):
    phone, tablet, laptop = connect(cluster[0], "ann"), connect(cluster[1], "ann"), connect(cluster[1], "ann")
    with Admin(cluster[2]) as admin:
        answer = admin.call("presence", user=phone.user)
        assert (answer["connection_count"], nodes_of(admin, user=phone.user)) == (3, {"n0": 1, "n1": 2})
        assert answer["users"] == [{"user": phone.user, "connections": 3}]
        for device in (tablet, laptop):
            device.close()
        eventually(lambda: nodes_of(admin, user=phone.user) == {"n0": 1}, "one node is left")
        phone.close()
        eventually(lambda: nodes_of(admin, user=phone.user) == {}, "nobody is left")


@pytest.mark.parametrize("routing", ["broadcast", "registry"])
def test_the_latest_is_the_latest_across_nodes(start_cluster, connect, routing):
    """Who is behind has one message per key: per sender, target and event where none is given, wherever the senders are."""
    cluster = start_cluster(routing, 2, PATIENT)
    here, there, other = connect(cluster[0], "here"), connect(cluster[1], "there"), connect(cluster[1], "other")
    with slow_client(cluster[0], "slow") as slow:
        for number in range(199):
            here.send("send_message", target_user="slow", content=["normal", number, "x" * 4000])
        # Answered by the shard of the receiver: it is behind before anything of other nodes comes.
        assert status(here, "slow", ["normal", 199, "x" * 4000]) == "delivered"
        for number in range(40):
            for sender in (here, there, other):
                sender.send("send_message", target_user="slow", content=[sender.user, number], event="cursor_position")
        for number in range(20):
            # The key counts wherever the message comes from, also when the same sender is on both nodes.
            here.send("send_message", target_user="slow", content=["a", number], key="a", **{"class": "latest"})
            there.send("send_message", target_user="slow", content=["b", number], key="b", **{"class": "latest"})
            there.send("send_message", target_user="slow", content=["dropped", number], **{"class": "droppable"})
        assert status(there, "slow", ["urgent"], **{"class": "urgent"}) == "delivered"
        assert status(there, "slow", ["end"]) == "delivered"
        wanted = {"end", "gap"}

        def all_came(message):
            wanted.discard("gap" if message["type"] == "gap" else message["content"][0])
            return not wanted

        got, _ = heard(slow, until=all_came, timeout=30)
        assert [m["dropped"] for m in got if m["type"] == "gap"] == [20]
        contents = [m["content"] for m in got if m["type"] == "message"]
        assert [c[1] for c in contents if c[0] == "normal"] == list(range(200))
        latest = {c[0]: c[1] for c in contents if c[0] not in ("normal", "urgent", "end", "dropped")}
        assert latest == {here.user: 39, there.user: 39, other.user: 39, "a": 19, "b": 19}
        assert len([c for c in contents if c[0] in latest]) == len(latest), "one of each key"
        assert [c for c in contents if c[0] == "dropped"] == []
        kinds = [c[0] for c in contents]
        assert kinds.index("urgent") < kinds.index("end") - len(latest), "urgent overtakes"
