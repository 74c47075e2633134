"""The clocks of one node jump while it runs: leases go by another one, tokens by none but this."""

import time

import pytest

from admin import Admin
from clocks import Clocks
from cluster import LEASE_S, QUICK, ROUTINGS, complaints, messages, status
from gateway import eventually
from outage import People, Talk
from tokens import SECRET, token

EVERY = pytest.mark.parametrize("routing", ROUTINGS)
BOTH = pytest.mark.parametrize("routing", ["broadcast", "registry"])
HOUR_S = 3600


def wall_clock(client):
    """What the node of this client takes for the time of day, in seconds."""
    return client.request("ping")["ts"] / 1000


def epochs(cluster):
    """Node: epoch, as each node itself says."""
    leases = {}
    for node in cluster.nodes:
        with Admin(node) as admin:
            lease = admin.call("info")["nodes"][0]["lease"]
            leases[lease["node"]] = lease["epoch"]
    return leases


def rows(cluster, client):
    """Node: epoch, as the registry has it of the user of this client."""
    held = cluster.redis.call("HGETALL", f"ws:loc:{client.user}")
    return {node.decode(): int(row.split()[0]) for node, row in zip(held[::2], held[1::2])}


def registry_is_right(cluster, people):
    """Every user has one row, of its own node under the epoch that it holds now."""
    now = epochs(cluster)
    sides = (("n0", people.here), ("n1", people.there))
    return all(rows(cluster, client) == {node: now[node]} for node, clients in sides for client in clients)


def both_ways(cluster, connect, people):
    """Somebody on each node writes to somebody on the other."""
    ways = ((cluster[0], people.there[0]), (cluster[1], people.here[0]))
    return [Talk(connect(node, "talker"), receiver, pause=0.01) for node, receiver in ways]


@EVERY
def test_the_wall_clock_jumps_by_an_hour_and_nobody_notices(start_cluster, connect, routing):
    cluster = start_cluster(routing, 2, QUICK)
    clocks = Clocks(cluster[0])
    people = People(cluster, connect)
    held = epochs(cluster)
    talks = both_ways(cluster, connect, people)
    with talks[0], talks[1]:
        for ahead_s in (HOUR_S, -HOUR_S, 0):
            clocks.set(real_s=ahead_s)
            assert abs(wall_clock(people.here[1]) - time.time() - ahead_s) < 60, "it has jumped, on this node"
            assert abs(wall_clock(people.there[1]) - time.time()) < 60, "and on no other"
            # Through several renewals of the lease, and longer than it lives without one.
            time.sleep(LEASE_S + 1)
            late = connect(cluster[0], "late")
            assert status(people.there[1], late.user, "welcome") == "delivered"
            assert messages(late) == ["welcome"]
    for talk in talks:
        talk.check(allowed=["delivered"])
    people.all_is_well()
    assert epochs(cluster) == held, "no lease was lost"
    assert registry_is_right(cluster, people)
    for node, before in zip(cluster.nodes, people.logged):
        assert complaints(node, after=before) == []


@BOTH
def test_epochs_go_on_growing_when_the_wall_clock_is_set_back(start_cluster, connect, routing):
    """Redis forgets everything while the clock is an hour ahead, and again when it is an hour behind: epochs begin at the time of day."""
    cluster = start_cluster(routing, 2, QUICK)
    clocks = Clocks(cluster[0])
    people = People(cluster, connect)
    held = [epochs(cluster)]
    for ahead_s in (HOUR_S, -HOUR_S):
        clocks.set(real_s=ahead_s)
        cluster.redis.call("FLUSHALL")

        def is_newer():
            with Admin(cluster[0]) as admin:
                lease = admin.call("info")["nodes"][0]["lease"]
                return lease is not None and lease["epoch"] > held[-1]["n0"]

        eventually(is_newer, "a fresh epoch", 10)
        people.back()
        held.append(epochs(cluster))
    assert held[1]["n0"] - held[0]["n0"] > (HOUR_S - 60) * 1000, "it did begin at the time of day"
    if routing != "broadcast":
        eventually(lambda: registry_is_right(cluster, people), "the registry is right again", 10)


def test_tokens_go_by_the_wall_clock_as_it_is_now(start_cluster, connect, unique):
    """Sessions are looked at with every heartbeat, and once a minute."""
    settings = {**QUICK, "auth.mode": "jwt", "auth.hmac_secret": SECRET, "session.heartbeat_interval": "1s", "session.heartbeat_timeout": "4s"}
    cluster = start_cluster("registry", 2, settings)
    clocks = Clocks(cluster[0])
    come = lambda node, name, ttl, **options: connect(cluster[node], token=token(unique(name), ttl=ttl), **options)
    refused = lambda node, ttl: come(node, "refused", ttl, welcome=False).closed()[0] == 4001
    endless, day = come(0, "endless", None), come(0, "day", 24 * HOUR_S)
    half, elsewhere = come(0, "half", HOUR_S // 2), come(1, "half", HOUR_S // 2)

    clocks.set(real_s=HOUR_S)
    assert half.closed(timeout=20)[0] == 4002, "its end is past now"
    assert refused(0, HOUR_S // 2)
    elsewhere.fence()
    assert status(elsewhere, day.user, "still here") == "delivered"
    assert status(day, elsewhere.user, "still here") == "delivered"

    clocks.set(real_s=-HOUR_S)
    early = come(0, "early", -HOUR_S // 2)
    assert refused(1, -HOUR_S // 2), "elsewhere it is past"
    short = come(0, "short", 2)
    time.sleep(4)
    short.fence()
    assert status(elsewhere, short.user, "an hour left") == "delivered"

    clocks.set(real_s=0)
    for client in (early, short):
        assert client.closed(timeout=20)[0] == 4002
    for client in (endless, day, elsewhere):
        client.fence()


@BOTH
def test_the_machine_slept_for_a_minute(start_cluster, connect, routing):
    """By the clock that runs on meanwhile the lease is over: the node takes a fresh one, and everybody is where they were."""
    cluster = start_cluster(routing, 2)
    clocks = Clocks(cluster[0])
    people = People(cluster, connect)
    held = epochs(cluster)
    talks = both_ways(cluster, connect, people)
    with talks[0], talks[1]:
        clocks.set(boot_s=60)

        def is_newer():
            with Admin(cluster[0]) as admin:
                lease = admin.call("info")["nodes"][0]["lease"]
                return lease is not None and lease["epoch"] > held["n0"]

        eventually(is_newer, "a fresh lease", 10)
        for talk in talks:
            eventually(lambda: talk.statuses[-3:] == ["delivered"] * 3, "they find each other again", 15)
    for talk in talks:
        talk.check(("delivered", "unavailable", "offline"))
    people.back()
    assert epochs(cluster)["n1"] == held["n1"]
    if routing != "broadcast":
        eventually(lambda: registry_is_right(cluster, people), "the registry is right again", 10)
