"""What the cluster keeps in Redis, and what it asks of it."""

import contextlib
import time

import pytest

from client import Client
from cluster import LEASE_S, QUICK, ROUTINGS, Cluster, is_up, messages, status
from gateway import eventually
from redis_server import RedisServer

LOOKS_PLACES_UP = [routing for routing in ROUTINGS if routing != "broadcast"]


@pytest.mark.parametrize("routing", LOOKS_PLACES_UP)
def test_rows_live_as_long_as_sessions(start_cluster, connect, routing):
    cluster = start_cluster(routing, 2, {**QUICK, "redis.entry_ttl": "3s"})
    alice, bob = connect(cluster[0], "alice"), connect(cluster[1], "bob")
    assert cluster.registered([alice.user, bob.user]) == {alice.user, bob.user}
    with cluster.redis.connect() as redis:
        rows = [key for user in (alice.user, bob.user) for key in cluster.holders(user) if redis.call("TYPE", key) == b"hash"]
        assert rows and all(0 < redis.call("PTTL", key) <= 3000 for key in rows), rows
        # Renewed before they run out: otherwise they would be gone by then.
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert all(redis.call("PTTL", key) > 0 for key in rows)
            time.sleep(0.1)
    assert status(alice, bob.user, "still there") == "delivered"
    bob.close()
    alice.abort()
    eventually(lambda: not cluster.registered([alice.user, bob.user]), "their rows are gone")


@pytest.mark.parametrize("routing", LOOKS_PLACES_UP)
def test_default_time_to_live(start_cluster, connect, routing):
    cluster = start_cluster(routing, 1)
    alice = connect(cluster[0], "alice")
    ttls = [cluster.redis.call("TTL", key) for key in cluster.holders(alice.user)]
    assert any(3500 < ttl <= 3600 for ttl in ttls), ttls


def test_names_keep_to_the_prefix(start_cluster, connect, unique):
    """Two clusters that share a Redis, each under its own prefix: they do not hear of each other."""
    one = start_cluster("registry", 2, {"redis.prefix": "chat-7:"})
    other = start_cluster("registry", 1, {"redis.prefix": "chat-8:"}, redis=one.redis)
    clients = [connect(node, "ann") for node in (*one.nodes, *other.nodes)]
    for client in clients:
        client.request("join", roomId="r")
        client.request("subscribe", channel="c")
    clients[0].request("broadcast", content="to this cluster")
    assert clients[1].expect("broadcast")["content"] == "to this cluster"
    clients[0].request("message", roomId="r", content="in this room")
    assert clients[1].expect("message")["content"] == "in this room"
    assert status(clients[0], clients[0].user, "here") == "delivered"
    assert clients[1].expect("message")["content"] == "here"
    assert messages(clients[2]) == []
    assert one.redis.keys() and all(key.startswith(("chat-7:", "chat-8:")) for key in one.redis.keys())
    assert all(channel.startswith(("chat-7:", "chat-8:")) for channel in one.channels())


def test_nothing_goes_through_all_keys(start_cluster, connect):
    """A start, comings and goings, a death and the cleaning up after it: all by name."""
    cluster = start_cluster("registry", 2, QUICK)
    clients = [connect(node, f"user{number}") for number, node in enumerate(cluster.nodes * 10)]
    for client in clients:
        client.request("join", roomId="r")
    cluster[1].kill()
    users = [client.user for client in clients[1::2]]
    eventually(lambda: not cluster.registered(users), "what the dead node had is cleaned up", 10 * LEASE_S)
    called = cluster.redis.calls()
    assert not {"keys", "scan", "hscan", "zscan", "dbsize", "flushall", "flushdb", "randomkey"} & set(called), called
    assert cluster.registered([client.user for client in clients[::2]]) == {client.user for client in clients[::2]}


@contextlib.contextmanager
def monitored(redis):
    """What all connections ask meanwhile, as lists of words, without what scripts call."""
    asked = []
    with redis.connect(timeout=30) as monitor:
        monitor.call("MONITOR")
        yield asked
        redis.call("ECHO", "the end of it")
        while True:
            line = monitor.reply().decode(errors="backslashreplace")
            _, _, rest = line.partition("[")
            source, _, words = rest.partition("] ")
            if "the end of it" in words:
                return
            if not source.endswith(" lua"):
                asked.append([word.strip('"') for word in words.split(" ")])


def publishes(asked, prefix):
    return [words for words in asked if words[0].lower() in ("publish", "spublish") and words[1].startswith(prefix)]


def test_a_message_costs_one_publish_for_each_node_and_no_look_up(start_cluster, connect):
    cluster = start_cluster("registry", 3)
    sender, near = connect(cluster[0], "sender"), connect(cluster[0], "near")
    far, wide = connect(cluster[1], "far"), [connect(node, "wide") for node in cluster.nodes[1:]]
    for user in (near.user, far.user, wide[0].user):
        assert status(sender, user, "so that the way is known") == "delivered"
    for user, nodes in ((near.user, 0), (far.user, 1), (wide[0].user, 2)):
        with monitored(cluster.redis) as asked:
            for number in range(100):
                sender.send("send_message", target_user=user, content=number)
            assert status(sender, user, "the last one") == "delivered"
        sent = publishes(asked, "ws:shard:n1:") + publishes(asked, "ws:shard:n2:")
        assert len(sent) == 101 * nodes, (user, len(sent))
        answers = publishes(asked, "ws:shard:n0:")
        # One node is enough for "delivered": an answer of another to what came before may still have been on its way.
        assert len(answers) <= 101 * nodes + 3 and (answers or not nodes)
        about = [words for words in asked if words not in sent and any(user in word for word in words)]
        assert about == [], "nothing is looked up"
    for client in (far, near, *wide):
        assert [m for m in messages(client) if m != "so that the way is known"] == [*range(100), "the last one"]


def test_a_room_costs_nothing_where_nobody_is(start_cluster, connect):
    cluster = start_cluster("registry", 3)
    alice, anna, bob = connect(cluster[0], "alice"), connect(cluster[0], "anna"), connect(cluster[1], "bob")
    for client in (alice, anna):
        client.request("join", roomId="local")
    for client in (alice, bob):
        client.request("join", roomId="shared")
    for room, listener in (("local", anna), ("shared", bob)):
        with monitored(cluster.redis) as asked:
            for number in range(50):
                alice.send("message", roomId=room, content=number)
            assert [listener.expect("message")["content"] for _ in range(50)] == list(range(50))
        about = [words for words in asked if words[0].lower() in ("publish", "spublish") and any(room in w for w in words)]
        assert len(about) <= 50, "once for all who listen, not for each"
    listening = cluster.redis.call("PUBSUB", "NUMSUB", "ws:room:shared")
    assert listening[1] == 2, "only the nodes that have members"


def test_what_cancels_out_is_never_sent(start_cluster, connect):
    """Who comes and goes within the delay of a batch costs nothing, or no more than once; who stays is written once."""
    cluster = start_cluster("registry", 1, {"redis.batch_delay": "500ms", "redis.batch_size": 1000})
    with monitored(cluster.redis) as asked:
        for _ in range(20):
            connect(cluster[0], "ghost", welcome=False).close()
        stays = connect(cluster[0], "stays")
        for _ in range(20):
            connect(cluster[0], "stays").close()
        stays.fence()
    writes = lambda user: [words for words in asked if words[0].lower().startswith("eval") and any(user in word for word in words)]
    assert len(writes(stays.user)) == 1
    assert len(writes("ghost-")) <= 4, "twenty comings and goings in a second or so"


@pytest.mark.parametrize("routing", ["broadcast", "registry"])
@pytest.mark.parametrize("way", ["password", "user", "database", "unix", "unix with everything"])
def test_ways_to_come_to_redis(connect, routing, way):
    password = "s3cret-of-redis"
    # What the documentation asks an operator to allow, and no more.
    gate = f"gate on >{password} ~ws:* &ws:* +@all -@dangerous -@admin"
    users = {"password": [f"default on >{password} ~* &* +@all"], "user": ["default off", gate]}.get(way)
    if way == "unix with everything":
        users = ["default off", gate]
    with RedisServer(users=users) as redis:
        url = {
            "password": redis.url(f":{password}"),
            "user": redis.url(f"gate:{password}"),
            "database": redis.url(path="/5"),
            "unix": redis.unix_url(),
            "unix with everything": redis.unix_url(f"?db=5&user=gate&pass={password}"),
        }[way]
        with Cluster(routing, 2, redis=redis, url=url, drivers=False) as cluster:
            alice, bob = connect(cluster[0], "alice"), connect(cluster[1], "bob")
            assert status(alice, bob.user, way) == "delivered"
            assert bob.expect("message")["content"] == way
            assert all(is_up(node) for node in cluster.nodes)
            if way == "database":
                assert redis.keys() == [], "nothing in database 0"
            assert all(password not in node.log() for node in cluster.nodes)


def test_names_in_client_list(start_cluster):
    """An operator sees in Redis whose connections these are."""
    cluster = start_cluster("registry", 2)
    names = {client["name"] for client in cluster.redis.clients()}
    for node in ("n0", "n1"):
        assert any(node in name for name in names), names


def test_many_users_are_registered_quickly_after_a_flush(start_cluster):
    """They are announced in batches; meanwhile clients are served."""
    cluster = start_cluster("registry", 2, QUICK)
    clients = [Client(cluster[number % 2].url(user_id=f"crowd-{number}")) for number in range(60)]
    try:
        for client in clients:
            client.expect("auth:ok")
        cluster.redis.call("FLUSHALL")
        users = {f"crowd-{number}" for number in range(60)}
        eventually(lambda: cluster.registered(users) == users, "all are registered again", 10)
        assert status(clients[0], "crowd-59", "there") == "delivered"
    finally:
        for client in clients:
            client.close()
