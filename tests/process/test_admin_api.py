"""The server API: what services do, and what the clients see of it."""

import json
import threading
import time

import pytest

from admin import Admin, Failed
from gateway import eventually


@pytest.fixture
def admin(gateway):
    with Admin(gateway) as admin:
        yield admin


def test_health_says_what_runs(gateway, admin, shape):
    driver, shards = shape
    status, health = admin.json("/health")
    assert status == 200
    assert health["status"] == "ok" and health["node_id"] == gateway.node_id
    assert (health["driver"], health["shards"], health["routing"]) == (driver, shards, "local")
    assert isinstance(health["connections"], int)
    assert admin.get("/livez")[:2] == (200, "ok\n")
    assert admin.json("/readyz") == (200, {"status": "ready"})


def test_publish_to_a_user_reaches_every_device(gateway, admin, connect):
    phone, laptop, other = connect(gateway, "ann"), connect(gateway, "ann"), connect(gateway, "ben")
    result = admin.publish({"user": phone.user}, {"x": [1, "é"]}, event="news", **{"from": "billing"})
    assert result["status"] == "delivered"
    for device in (phone, laptop):
        message = device.expect("message")
        assert message["id"] == result["id"]
        assert (message["from"], message["event"], message["content"]) == ("billing", "news", {"x": [1, "é"]})
    assert other.fence() == []


def test_publish_says_what_became_of_it(gateway, admin, connect, unique):
    client = connect(gateway, "ann")
    assert admin.publish({"user": unique("nobody")}, 1)["status"] == "offline"
    result = admin.publish({"users": [client.user, unique("nobody"), client.user]}, 1)
    assert (result["status"], result["delivered"], result["offline"]) == ("delivered", 1, 1)
    assert "from" not in client.expect("message")
    assert client.fence() == []
    assert admin.publish({"room": unique("empty")}, 1)["status"] == "offline"


def test_publish_to_many_users_on_all_shards(gateway, admin, connect):
    clients = [connect(gateway, f"many{i}") for i in range(12)]
    result = admin.publish({"users": [client.user for client in clients]}, "all of you")
    assert result["delivered"] == 12
    assert {client.expect("message")["id"] for client in clients} == {result["id"]}


def test_publish_to_a_room_and_a_channel(gateway, admin, connect, unique):
    room, channel = unique("room"), unique("channel")
    clients = [connect(gateway, f"c{i}") for i in range(6)]
    for client in clients:
        client.request("join", roomId=room)
        client.request("subscribe", channel=channel, filter={"key": "n", "op": "gt", "val": 5})
    time.sleep(0.1)
    result = admin.publish({"room": room}, "r")
    assert (result["status"], result["delivered"]) == ("delivered", 6)
    admin.publish({"channel": channel}, "low", tags={"n": 1})
    admin.publish({"channel": channel}, "high", tags={"n": 9})
    for client in clients:
        assert client.expect("message", roomId=room)["content"] == "r"
        message = client.expect("message", channel=channel)
        assert (message["content"], message["tags"]) == ("high", {"n": 9})


def test_publish_to_all(start, connect):
    gateway = start()
    clients = [connect(gateway, f"u{i}") for i in range(5)]
    with Admin(gateway) as admin:
        result = admin.publish({"all": True}, "hear, hear")
        assert (result["status"], result["delivered"]) == ("delivered", 5)
    assert {client.expect("broadcast")["id"] for client in clients} == {result["id"]}


def test_messages_of_one_connection_arrive_in_order(gateway, admin, connect):
    client = connect(gateway, "ordered")
    for n in range(200):
        admin.publish({"user": client.user}, n)
    assert [client.expect("message")["content"] for _ in range(200)] == list(range(200))


def test_an_idempotency_key_sends_once(gateway, admin, connect, unique):
    client, key = connect(gateway, "once"), unique("key")
    first = admin.publish({"user": client.user}, 1, idempotency_key=key)
    assert admin.publish({"user": client.user}, 1, idempotency_key=key) == first
    assert client.expect("message")["id"] == first["id"]
    assert client.fence() == []
    # At the same time, over connections of their own.
    answers, key = [], unique("same-time")

    def publish():
        with Admin(gateway) as admin:
            answers.append(admin.publish({"user": client.user}, 2, idempotency_key=key))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(answers) == 8 and len({answer["id"] for answer in answers}) == 1
    client.expect("message", content=2)
    assert client.fence() == []


def test_disconnect_by_user_and_by_connection(gateway, admin, connect):
    a, b = connect(gateway, "gone"), connect(gateway, "gone")
    assert admin.call("disconnect", connection=a.welcome["connectionId"]) == {"count": 1}
    assert a.closed() == (4003, "disconnected")
    assert admin.call("disconnect", connection=a.welcome["connectionId"]) == {"count": 0}
    assert admin.call("disconnect", user=b.user, code=4321, reason="by request") == {"count": 1}
    assert b.closed() == (4321, "by request")
    assert admin.call("disconnect", user=b.user)["count"] == 0
    c = connect(gateway, "gone")
    admin.call("disconnect", user=c.user, code=1000, reason="")
    assert c.closed() == (1000, "")
    # Another start of this node, or of any; and no such shard, or none at all, of this one.
    instance = c.welcome["connectionId"][:8]
    for nobodys in ("f" * 28, "0" * 28, instance + "f" * 20, instance + "0" * 20):
        assert admin.call("disconnect", connection=nobodys) == {"count": 0}
        assert admin.call("connections", connection=nobodys) == {"connections": [], "matched": 0}
    for bad in ("", "f" * 20, "f" * 27, "g" * 28, c.user):
        refused = admin.refused("disconnect", connection=bad)
        assert refused.status == 400 and "expected 28 hexadecimal digits" in refused.message


def test_server_side_membership(gateway, admin, connect, unique):
    room = unique("room")
    phone, laptop, watcher = connect(gateway, "ann"), connect(gateway, "ann"), connect(gateway, "watcher")
    watcher.request("join", roomId=room)
    assert admin.call("join", user=phone.user, room=room) == {"count": 2}
    assert watcher.expect("user:joined")["userId"] == phone.user
    assert admin.call("join", user=phone.user, room=room) == {"count": 0}
    watcher.request("message", roomId=room, content="hi")
    assert phone.expect("message")["content"] == laptop.expect("message")["content"] == "hi"
    assert admin.call("leave", user=phone.user, room=room) == {"count": 2}
    assert watcher.expect("user:left")["userId"] == phone.user
    assert admin.call("leave", user=unique("nobody"), room=room) == {"count": 0}
    watcher.request("message", roomId=room, content="alone")
    assert phone.fence() == []


def test_server_side_membership_respects_the_bound(start, connect):
    gateway = start({"session.max_subscriptions": 1})
    client = connect(gateway, "full")
    with Admin(gateway) as admin:
        assert admin.call("join", user=client.user, room="one") == {"count": 1}
        assert admin.call("join", user=client.user, room="two") == {"count": 0}
    assert client.fence() == []


def test_presence_of_room_channel_and_user(gateway, admin, connect, unique):
    room, channel = unique("room"), unique("channel")
    a, b, c = connect(gateway, "a"), connect(gateway, "a"), connect(gateway, "c")
    for client in (a, b, c):
        client.request("join", roomId=room)
    c.request("subscribe", channel=channel)
    present = admin.call("presence", room=room)
    assert present["users"] == [{"user": a.user, "connections": 2}, {"user": c.user, "connections": 1}]
    assert (present["user_count"], present["connection_count"], present["truncated"]) == (2, 3, False)
    assert present["nodes"] == [{"node": gateway.node_id, "connections": 3}]
    assert admin.call("presence", channel=channel)["users"] == [{"user": c.user, "connections": 1}]
    assert admin.call("presence", user=a.user)["connection_count"] == 2
    assert admin.call("presence", user=unique("nobody")) == {
        "users": [], "user_count": 0, "connection_count": 0, "nodes": [], "truncated": False,
    }


def test_connections_are_described_and_found(gateway, admin, connect, unique):
    room = unique("room")
    a, b = connect(gateway, "find", user_agent_header="probe/1.0"), connect(gateway, "find")
    a.request("join", roomId=room)
    found = admin.call("connections", user=a.user, by="rtt")
    assert found["matched"] == 2
    by_id = {info["connection"]: info for info in found["connections"]}
    info = by_id[a.welcome["connectionId"]]
    assert (info["user"], info["node"], info["state"]) == (a.user, gateway.node_id, "active")
    assert info["address"].startswith("127.0.0.1:") and info["user_agent"] == "probe/1.0"
    assert info["received_messages"] >= 1 and info["sent_messages"] >= 2 and info["subscriptions"] == 1
    assert info["outbox_bytes"] == 0 and info["throttled"] is False
    assert 0 < info["rtt_us"] < 10_000_000 and 0 <= info["age_ms"] < 60_000
    rtts = [info["rtt_us"] for info in found["connections"]]
    assert rtts == sorted(rtts, reverse=True)
    only = admin.call("connections", room=room)["connections"]
    assert [info["connection"] for info in only] == [a.welcome["connectionId"]]
    exact = admin.call("connections", connection=b.welcome["connectionId"])
    assert exact["matched"] == 1 and exact["connections"][0]["connection"] == b.welcome["connectionId"]
    assert admin.call("connections", user=a.user, state="closing")["matched"] == 0
    assert admin.call("connections", user=a.user, address="10.9.8.7")["matched"] == 0
    limited = admin.call("connections", limit=1)
    assert len(limited["connections"]) == 1 and limited["matched"] >= 2


def test_the_worst_connection_is_first(start, connect):
    from wire import Wire, upgrade_request

    gateway = start({"outbox.high": "4MiB", "outbox.max": "64MiB"})
    reader = connect(gateway, "reader")
    with Wire(gateway, receive_buffer=4096) as slow, Admin(gateway) as admin:
        slow.send(upgrade_request("/ws?user_id=slow"))
        eventually(lambda: admin.call("presence", user="slow")["connection_count"], "slow is there")
        for _ in range(80):
            admin.publish({"users": ["slow", reader.user]}, "x" * 60_000)
        worst = admin.call("connections", by="outbox_bytes", limit=5)["connections"]
        assert worst[0]["user"] == "slow" and worst[0]["outbox_bytes"] > 100_000
        assert worst[0]["throttled"] is (worst[0]["outbox_bytes"] > 4 << 20)
        oldest = admin.call("connections", by="oldest_ms", limit=1)["connections"][0]
        assert oldest["user"] == "slow" and oldest["oldest_ms"] > 0
    for _ in range(80):
        reader.expect("message")


def test_info_adds_up(start, connect):
    gateway = start(shards=3)
    clients = [connect(gateway, f"u{i}") for i in range(9)]
    for client in clients:
        client.request("join", roomId="big")
    clients[0].request("join", roomId="small")
    with Admin(gateway) as admin:
        info = admin.call("info", rooms=5)
        assert (info["connections"], info["users"], info["rooms"]) == (9, 9, 2)
        assert [shard["shard"] for shard in info["shards"]] == [0, 1, 2]
        assert sum(shard["counters"]["authenticated"] for shard in info["shards"]) == 9
        rooms = sorted((room for shard in info["shards"] for room in shard["rooms"]), key=lambda room: room["room"])
        assert rooms == [
            {"room": "big", "users": 9, "connections": 9}, {"room": "small", "users": 1, "connections": 1},
        ]
        assert len(info["probe_ms"]) == 3 and info["nodes"][0]["ready"] is True
        for client in clients:
            client.close()
        ours = ("commands", "outstanding", "outgoing")  # those of this question itself

        def nothing_held():
            shards = admin.call("info")["shards"]
            return all(value == 0 for shard in shards for name, value in shard["held"].items() if name not in ours)

        eventually(nothing_held, "nothing is held")


def test_batch_is_one_round_trip_in_order(gateway, admin, connect, unique):
    client, room = connect(gateway, "batch"), unique("room")
    commands = [{"join": {"user": client.user, "room": room}}]
    commands += [{"publish": {"to": {"room": room}, "content": n}} for n in range(3000)]
    commands += [{"publish": {"content": 1}}, {"nonsense": {}}, {"presence": {"room": room}}]
    results = admin.call("batch", commands=commands)["results"]
    assert len(results) == 3004
    assert results[0] == {"count": 1} and results[-1]["connection_count"] == 1
    ids = [result["id"] for result in results[1:3001]]
    assert ids == sorted(ids)
    assert [result["error"]["code"] for result in results[3001:3003]] == ["bad_request", "bad_request"]
    received = [client.expect("message") for _ in range(3000)]
    assert [message["content"] for message in received] == list(range(3000))
    assert [message["id"] for message in received] == ids


def test_a_batch_spares_the_clients(gateway, connect, admin):
    """While a large batch is carried out, others are served."""
    client, target = connect(gateway, "pinger"), connect(gateway, "target")
    commands = [{"publish": {"to": {"user": target.user}, "content": n}} for n in range(5000)]
    done = threading.Event()

    def batch():
        with Admin(gateway) as other:
            other.call("batch", commands=commands)
        done.set()

    thread = threading.Thread(target=batch)
    thread.start()
    worst = 0
    while not done.is_set():
        began = time.monotonic()
        client.fence()
        worst = max(worst, time.monotonic() - began)
    thread.join()
    assert worst < 5
    assert [target.expect("message")["content"] for _ in range(5000)] == list(range(5000))


def test_keys(start):
    gateway = start({"api.keys": ["first-key", "second-key"]})
    for key, status in ((None, 401), ("wrong", 401), ("first-ke", 401), ("first-key", 200), ("second-key", 200)):
        with Admin(gateway, key) as admin:
            assert admin.post("info", {})[0] == status, key
            assert admin.json("/health")[0] == 200
    with Admin(gateway) as admin:
        failed = admin.refused("publish", to={"all": True}, content=1)
        assert (failed.status, failed.code, failed.message) == (401, "unauthorized", "X-API-Key is missing")


def test_keys_are_rotated_by_a_reload(start):
    import signal

    gateway = start({"api.keys": ["old"]})
    config = gateway.dir / "ringgate.toml"
    config.write_text(config.read_text().replace('["old"]', '["old", "new"]'))
    with Admin(gateway, "new") as admin:
        assert admin.post("info", {})[0] == 401
        gateway.signal(signal.SIGHUP)
        eventually(lambda: admin.post("info", {})[0] == 200, "the new key holds")


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_a_web_page_cannot_drive_it(admin, headers, status):
    assert admin.post("info", {}, headers)[0] == status


def test_the_page_itself_can(gateway, admin):
    assert admin.post("info", {}, {"Origin": f"http://{gateway.admin}"})[0] == 200


def test_errors_name_what_is_wrong(admin):
    failed = admin.refused("publish", to={"user": ""}, content=1)
    assert (failed.status, failed.code) == (400, "bad_request") and "to.user has 0 bytes" in failed.message
    assert admin.post("publish", "{")[1]["error"]["code"] == "bad_json"
    assert admin.post("nothing", {}) [0] == 404
    status, body, _ = admin.get("/api/info")
    assert status == 405 and "POST" in json.loads(body)["error"]["message"]
    assert admin.get("/nowhere")[0] == 404
    big = admin.refused("publish", to={"all": True}, content="x" * 70_000)
    assert (big.status, big.code) == (413, "too_large")
    # And the connection still serves.
    assert admin.json("/readyz")[0] == 200


def test_head_has_no_body(admin):
    status, body, headers = admin.get("/health", method="HEAD")
    assert (status, body) == (200, "") and int(headers["Content-Length"]) > 50
    assert admin.json("/health")[0] == 200


def test_drain_by_the_api(start, connect):
    gateway = start({"drain.spread": "300ms", "drain.grace": "500ms"})
    client = connect(gateway, "leaver")
    with Admin(gateway) as admin:
        assert admin.call("drain") == {"draining": True, "started": True}
        assert admin.call("drain") == {"draining": True, "started": False}
        assert admin.json("/readyz") == (503, {"status": "draining"})
        assert admin.get("/livez")[0] == 200
        assert admin.json("/health")[1]["draining"] is True
    assert client.expect("reconnect")["reason"] == "draining"
    assert client.closed()[0] == 4201
    assert gateway.wait() == 0


def test_an_admin_address_in_use_is_named(start):
    from gateway import Gateway, StartFailed

    gateway = start()
    with pytest.raises(StartFailed) as failed:
        Gateway({"listen.admin": gateway.admin})
    assert "listen.admin" in str(failed.value) and gateway.admin in str(failed.value)


def test_commands_survive_a_client_that_goes_away(gateway, connect, unique):
    """A caller that hangs up leaves nothing behind."""
    client = connect(gateway, "target")
    for n in range(20):
        admin = Admin(gateway)
        admin.http.request(
            "POST", "/api/publish", json.dumps({"to": {"user": client.user}, "content": n}), {"Content-Type": "application/json"}
        )
        admin.close()
    with Admin(gateway) as admin:
        admin.publish({"user": client.user}, "last")
        client.until("message", content="last")
        eventually(lambda: sum(s["held"]["commands"] for s in admin.call("info")["shards"]) <= 3, "nothing is held")
