"""Redis is down, hung, emptied, full, read-only, or wants another password: clients stay, and are told the truth."""

import time

import pytest

from admin import Admin
from client import Client
from cluster import LEASE_S, QUICK, Cluster, complaints, figure, is_down, is_up, messages, status
from gateway import eventually
from outage import People, Talk
from redis_server import RedisServer

BOTH = pytest.mark.parametrize("routing", ["broadcast", "registry"])


@BOTH
def test_down_at_the_start(connect, routing):
    with RedisServer() as redis:
        redis.kill()
        with Cluster(routing, 2, QUICK, redis=redis, drivers=False, wait=False) as cluster:
            assert all(eventually(lambda: is_down(node), "ready, without a bus") for node in cluster.nodes)
            began = time.monotonic()
            ann, anna, ben = connect(cluster[0], "ann"), connect(cluster[0], "anna"), connect(cluster[1], "ben")
            assert time.monotonic() - began < 3 * 2
            assert all(client.welcome.get("local") is True for client in (ann, anna, ben))
            assert ann.request("join", roomId="r")["local"] is True
            assert anna.request("subscribe", channel="c")["local"] is True
            assert status(ann, anna.user, "here") == "delivered"
            assert messages(anna) == ["here"]
            assert status(ann, ben.user, "refused") == "unavailable"
            redis.start()
            for node in cluster.nodes:
                eventually(lambda: is_up(node), "the bus is up", 15)
            eventually(lambda: status(ann, ben.user, "at last") == "delivered", "they find each other", 10)
            assert messages(ben) == ["at last"]
            ben.request("join", roomId="r")
            ben.request("message", roomId="r", content="in the room")
            ann.expect("message", content="in the room")


@BOTH
def test_killed_and_started_again_empty(start_cluster, connect, routing):
    cluster = start_cluster(routing, 2, QUICK)
    people = People(cluster, connect)
    cluster.redis.kill()
    people.cut_off(timeout=3)
    people.local_traffic_goes_on()
    people.remote_is_refused(people.here[0], people.there[0])
    late = connect(cluster[0], "late")
    assert late.welcome.get("local") is True
    time.sleep(1)
    people.local_traffic_goes_on()
    cluster.redis.start()
    people.back()
    eventually(lambda: status(people.there[0], late.user, "found") == "delivered", "who came meanwhile is found")
    people.log_was_short()
    for node in cluster.nodes:
        assert figure(node, "ringgate_connections") in (2, 3)


@BOTH
def test_hung_and_back(start_cluster, connect, routing):
    cluster = start_cluster(routing, 2, QUICK)
    people = People(cluster, connect)
    cluster.redis.hang()
    try:
        people.local_traffic_goes_on()
        people.cut_off()
        people.local_traffic_goes_on()
        people.remote_is_refused(people.here[0], people.there[0])
        began = time.monotonic()
        late = connect(cluster[1], "late")
        assert late.welcome.get("local") is True and time.monotonic() - began < 3
    finally:
        cluster.redis.go_on()
    people.back()
    eventually(lambda: status(people.here[0], late.user, "found") == "delivered", "who came meanwhile is found")
    people.log_was_short()


@pytest.mark.parametrize(
    "routing, what",
    [("broadcast", "FLUSHALL"), ("broadcast", "CLIENT KILL TYPE pubsub")]
    + [("registry", what) for what in ("FLUSHALL", "SCRIPT FLUSH", "CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub")],
)
def test_what_operators_do(start_cluster, connect, routing, what):
    """Under traffic: nobody is disconnected, no answer is wrong, and all is found afterwards."""
    cluster = start_cluster(routing, 2, QUICK)
    people = People(cluster, connect)
    with Talk(connect(cluster[0], "talker"), people.there[0]) as talk:
        for _ in range(3):
            time.sleep(0.3)
            cluster.redis.call(*what.split(" "))
        time.sleep(1)
    talk.check()
    people.back()
    comer = connect(cluster[1], "comer")
    assert status(people.here[0], comer.user, "found") == "delivered"
    comer.close()
    eventually(lambda: not cluster.registered([comer.user]), "who goes is forgotten")


def test_out_of_memory(start_cluster, connect):
    cluster = start_cluster("registry", 2, QUICK)
    people = People(cluster, connect)
    cluster.redis.call("CONFIG", "SET", "maxmemory", "1")
    people.local_traffic_goes_on()
    late = connect(cluster[0], "late")
    assert late.fence() == []
    # The leases cannot be renewed, so in the end nobody is known to be anywhere.
    time.sleep(3)
    people.local_traffic_goes_on()
    assert status(people.here[0], people.there[0].user, "x") in ("unavailable", "delivered")
    cluster.redis.call("CONFIG", "SET", "maxmemory", "0")
    people.back()
    eventually(lambda: status(people.there[0], late.user, "found") == "delivered", "who came meanwhile is found")
    people.log_was_short()


@BOTH
def test_read_only(start_cluster, connect, routing):
    """As after a failover that made this one a replica."""
    cluster = start_cluster(routing, 2, QUICK)
    people = People(cluster, connect)
    cluster.redis.call("REPLICAOF", "127.0.0.1", "1")
    # Who has nothing to write does not notice.
    people.cut_off(every_shard=False)
    people.local_traffic_goes_on()
    # It passes messages on as before. But leases cannot be renewed, so when they are over nobody relies on it.
    here, there = people.here[0], people.there[0]
    eventually(lambda: status(here, there.user, "before") == "unavailable", "nobody is a member any more", LEASE_S + 2)
    people.remote_is_refused(here, there)
    cluster.redis.call("REPLICAOF", "NO", "ONE")
    people.back()
    people.log_was_short()


def test_another_password(start_cluster, connect):
    old, new = "the-old-secret", "the-new-secret"
    with RedisServer("--requirepass", old) as redis:
        cluster = start_cluster("registry", 2, QUICK, redis=redis, url=redis.url(f":{old}"))
        people = Strangers(cluster, connect)
        with redis.connect(password=old) as operator:
            operator.call("CONFIG", "SET", "requirepass", new)
            operator.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            operator.call("CLIENT", "KILL", "TYPE", "pubsub")
            people.cut_off()
            people.local_traffic_goes_on()
            people.remote_is_refused(people.here[0], people.there[0])
            time.sleep(1.5)
            operator.call("CONFIG", "SET", "requirepass", old)
        people.back()
        people.log_was_short()
        for node in cluster.nodes:
            assert old not in node.log() and new not in node.log()
            assert any("WRONGPASS" in line or "password" in line for line in complaints(node)), "it says what is wrong"


class Strangers(People):
    """As these, but Redis is not ours to look into."""

    def all_is_well(self, timeout=20):
        routing, self.cluster.routing = self.cluster.routing, "broadcast"
        super().all_is_well(timeout)
        self.cluster.routing = routing


def test_a_wrong_password_from_the_start(connect):
    with RedisServer("--requirepass", "right") as redis:
        with Cluster("registry", 1, QUICK, redis=redis, url=redis.url(":not-right"), drivers=False, wait=False) as cluster:
            eventually(lambda: is_down(cluster[0]), "ready, without a bus")
            ann, anna = connect(cluster[0], "ann"), connect(cluster[0], "anna")
            assert status(ann, anna.user, 1) == "delivered"
            time.sleep(1)
            said = complaints(cluster[0])
            assert 1 <= len(said) <= 6 and any("WRONGPASS" in line for line in said), said
            assert "not-right" not in cluster[0].log()


@pytest.mark.parametrize("routing, how", [("registry", "killed"), ("registry", "hung"), ("broadcast", "killed")])
def test_what_an_operator_sees_of_an_outage(start_cluster, connect, routing, how):
    """Ready all the same, and it says what is the matter; figures that tell; one line in the log, and one when it is over."""
    cluster = start_cluster(routing, 2, {"redis.lease_ttl": "3s", "redis.timeout": "2s"})
    node, redis = cluster[0], cluster.redis
    alice, bob = connect(node, "alice"), connect(cluster[1], "bob")
    alice.request("join", roomId="r")
    assert status(alice, bob.user, "before") == "delivered"
    with Admin(node) as admin:
        values = lambda family: list(admin.metrics()[family][2].values())
        link = lambda: admin.metrics()["ringgate_unicasts_unavailable_total"][2]['ringgate_unicasts_unavailable_total{cause="link"}']
        count = lambda name: sum(values(f"ringgate_bus_{name}_total"))
        shards = len(values("ringgate_bus_state"))
        assert admin.json("/readyz") == (200, {"status": "ready", "bus": "up"})
        assert set(values("ringgate_bus_state")) == {3} and 0 not in values("ringgate_bus_epoch")
        assert (count("outages"), count("connects"), link()) == (0, 2 * shards, 0)
        refused, logged = count("refused"), len(node.log().splitlines())

        redis.kill() if how == "killed" else redis.hang()
        try:
            eventually(lambda: admin.json("/readyz") == (200, {"status": "ready", "bus": "down"}), "it says so", 10)
            eventually(lambda: set(values("ringgate_bus_state")) == {1}, "and so does every shard", 10)
            assert admin.json("/health")[1]["bus"] == "down"
            for _ in range(5):
                assert status(alice, bob.user, "refused") == "unavailable"
            assert alice.request("message", roomId="r", content="here only")["local"] is True
            eventually(lambda: link() == 5, "five messages were refused for want of a link")
            eventually(lambda: count("refused") > refused, "one for a room was not published")
            eventually(lambda: sum(values("ringgate_bus_unanswered")) == 0, "nothing waits for an answer")
            eventually(lambda: set(values("ringgate_bus_epoch")) == {0}, "it has no lease any more", 10)
        finally:
            redis.start() if how == "killed" else redis.go_on()
        eventually(lambda: admin.json("/readyz") == (200, {"status": "ready", "bus": "up"}), "it is over", 20)
        eventually(lambda: set(values("ringgate_bus_state")) == {3} and 0 not in values("ringgate_bus_epoch"), "on every shard")
        eventually(lambda: status(alice, bob.user, "after") == "delivered", "they find each other", 10)
        assert count("outages") == shards and count("connects") > 2 * shards
    said = node.log().splitlines()[logged:]
    alarming = [line for line in said if " WARN " in line or " ERROR " in line]
    assert len(alarming) == 1 and "the bus is down" in alarming[0] and "why=" in alarming[0], said
    assert len([line for line in said if "the bus is up" in line]) == 1, said


def test_ready_needs_the_bus_where_the_operator_says_so(start_cluster):
    cluster = start_cluster("registry", 1, {**QUICK, "cluster.ready_needs_bus": True})
    with Admin(cluster[0]) as admin:
        assert admin.json("/readyz")[0] == 200
        cluster.redis.kill()
        eventually(lambda: admin.json("/readyz")[0] == 503, "not ready without its bus")
        assert admin.json("/readyz")[1]["bus"] == "down" and admin.get("/livez")[0] == 200
        cluster.redis.start()
        eventually(lambda: admin.json("/readyz")[0] == 200, "ready again", 15)


def test_connections_of_clients_are_not_held_up_by_a_hung_redis(start_cluster):
    """Fifty who come at once wait for one timeout, not for fifty."""
    cluster = start_cluster("registry", 1, QUICK)
    cluster.redis.hang()
    try:
        began = time.monotonic()
        clients = [Client(cluster[0].url(user_id=f"crowd-{number}")) for number in range(50)]
        assert all(client.expect("auth:ok").get("local") is True for client in clients)
        assert time.monotonic() - began < 5
    finally:
        cluster.redis.go_on()
    for client in clients:
        assert client.fence() == []
    users = {f"crowd-{number}" for number in range(50)}
    eventually(lambda: cluster.registered(users) == users, "all are registered when it is back", 15)
    for client in clients:
        client.close()
    eventually(lambda: not cluster.registered(users), "and gone when they are")
