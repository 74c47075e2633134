"""The way to Redis is slow, swallows one direction, breaks in the middle, or turns deaf."""

import contextlib
import time

import pytest

from cluster import LEASE_S, QUICK, Cluster, Device, is_down, is_up, status
from fault_proxy import DOWN, UP, FaultProxy
from gateway import eventually
from outage import People, Talk
from redis_server import RedisServer

ANY = ("delivered", "unavailable", "offline")
BOTH = pytest.mark.parametrize("routing", ["broadcast", "registry"])


@pytest.fixture
def proxied():
    """A cluster of two whose second node reaches Redis through a proxy."""
    with contextlib.ExitStack() as stack:

        def proxied(routing, settings=None):
            redis = stack.enter_context(RedisServer())
            proxy = stack.enter_context(FaultProxy(redis.port))
            cluster = stack.enter_context(Cluster(routing, 1, {**QUICK, **(settings or {})}, redis=redis, drivers=False))
            cluster.add(settings={"redis.url": redis.url(port=proxy.port)})
            return cluster, proxy

        yield proxied


@contextlib.contextmanager
def talk_both_ways(people, connect):
    one, other = (connect(node, "talker") for node in people.cluster.nodes)
    with Talk(one, people.there[0]) as there, Talk(other, people.here[0]) as here:
        yield there, here


@BOTH
def test_slow(proxied, connect, routing):
    cluster, proxy = proxied(routing)
    people = People(cluster, connect)
    proxy.delay = 0.1
    with talk_both_ways(people, connect) as talks:
        time.sleep(1.5)
        people.local_traffic_goes_on()
    for talk in talks:
        talk.check(["delivered"])
    assert is_up(cluster[1]), "slow is not down"
    late = connect(cluster[1], "late")
    assert "local" not in late.welcome
    proxy.heal()
    people.back()


@pytest.mark.parametrize("routing, direction", [("broadcast", DOWN), ("registry", UP), ("registry", DOWN)])
def test_one_direction_is_swallowed(proxied, connect, routing, direction):
    cluster, proxy = proxied(routing)
    people = People(cluster, connect)
    with Talk(connect(cluster[0], "talker"), people.there[0]) as talk:
        time.sleep(0.2)
        proxy.swallow(direction)
        eventually(lambda: is_down(cluster[1]), "it is noticed", 6)
        people.local_traffic_goes_on(people.there)
        people.remote_is_refused(people.there[0], people.here[0])
        time.sleep(1)
        proxy.heal()
        eventually(lambda: is_up(cluster[1]), "it is up again", 15)
    talk.check(ANY)
    people.back()


@pytest.mark.parametrize("routing, direction", [("broadcast", UP), ("registry", DOWN)])
def test_cut_in_the_middle(proxied, connect, routing, direction):
    """Half a command, half a reply: neither is taken for a whole one."""
    cluster, proxy = proxied(routing)
    people = People(cluster, connect)
    with talk_both_ways(people, connect) as talks:
        for least in (2, 30, 60, 120, 2):
            proxy.cut_in_the_middle(direction, least)
            time.sleep(0.4)
    for talk in talks:
        talk.check(ANY)
    people.back()


def test_refused_and_back(proxied, connect):
    cluster, proxy = proxied("registry")
    people = People(cluster, connect)
    proxy.refuse()
    eventually(lambda: is_down(cluster[1]), "it is noticed", 3)
    before = proxy.accepted
    time.sleep(2)
    assert proxy.accepted - before < 60, "attempts are paced"
    people.local_traffic_goes_on(people.there)
    people.remote_is_refused(people.there[0], people.here[0])
    proxy.heal()
    people.back()


def test_a_subscription_that_has_turned_deaf_is_replaced(proxied, connect):
    """It is open and answers nothing, as after a firewall has forgotten it; commands go on. Found within three seconds."""
    cluster, proxy = proxied("registry")
    people = People(cluster, connect)
    opened = proxy.accepted
    with Talk(connect(cluster[0], "talker"), people.there[0], pause=0.02) as talk:
        assert proxy.deafen() >= 1
        began = time.monotonic()
        eventually(lambda: proxy.accepted > opened, "another subscription is made", 5)
        assert time.monotonic() - began < 4
        eventually(lambda: talk.statuses[-3:] == ["delivered"] * 3, "messages arrive again", 5)
    talk.check(ANY)
    people.back()


@BOTH
def test_partition_from_redis_only(proxied, connect, routing):
    """Longer than the lease: the others take the node for dead; it knows, serves its own, and delivers nothing late."""
    cluster, proxy = proxied(routing)
    people = People(cluster, connect)
    alice, bob = people.here[0], people.there[0]
    with Talk(connect(cluster[0], "talker"), bob, pause=0.02) as talk:
        time.sleep(0.2)
        proxy.partition()
        eventually(lambda: is_down(cluster[1]), "the node notices", 6)
        people.local_traffic_goes_on()
        time.sleep(LEASE_S + 1)
        assert talk.statuses[-1] in ("offline", "unavailable")
        # Bob comes by the other node as well.
        elsewhere = Device(cluster[0], bob.user)
        assert status(alice, bob.user, ["elsewhere"]) == "delivered"
        heard = elsewhere.goodbye()
        assert ["elsewhere"] in heard
        proxy.heal()
        eventually(lambda: is_up(cluster[1]), "it is back", 15)
    talk.check(ANY, elsewhere=heard)
    people.back()

