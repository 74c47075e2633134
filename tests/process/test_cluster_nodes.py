"""Nodes die, stop, leave, and are replaced: told from the clients' side, under traffic."""

import signal
import time

import pytest

from admin import Admin
from cluster import LEASE_S, OUTSIDE_LEASE, QUICK, ROUTINGS, Device, figure, living, messages, name_of, status
from events import Events, wait_rows
from gateway import Gateway, eventually
from outage import Talk
from traffic import Traffic

EVERY = pytest.mark.parametrize("routing", ROUTINGS)
# What has nothing to do with the ring.
BOTH = pytest.mark.parametrize("routing", ["broadcast", "registry"])
# How long after a fault an answer may still be `unavailable` or wrongly `offline`: the lease, the next look at the leases, and a busy machine.
RECOVERY_S = LEASE_S + 3


@BOTH
def test_killed_under_traffic(start_cluster, unique, routing):
    cluster = start_cluster(routing, 3, QUICK)
    with Traffic(cluster, unique) as traffic:
        time.sleep(0.7)
        killed = time.monotonic()
        cluster[1].kill()
        time.sleep(RECOVERY_S)
    traffic.check()
    assert traffic.answers()["delivered"] > 100, traffic.answers()
    # The dead node's word was that they are in the outboxes of its clients; nobody can know more.
    late = [sent for sent in traffic.lost() if not killed - 0.5 <= sent.answered <= killed + 0.5]
    assert not late, late[:5]
    assert len(traffic.lost()) <= 20
    wrong = traffic.answered_otherwise((killed - 0.5, killed + RECOVERY_S))
    assert not wrong, wrong[:5]
    for roamer in traffic.roamers:
        assert roamer.sessions[-1].node != "n1"
        gaps = [after.since - before.until for before, after in zip(roamer.sessions, roamer.sessions[1:])]
        assert all(gap < 3 for gap in gaps), "nobody is kept from coming back"


@BOTH
def test_what_a_dead_node_leaves_behind_is_nobodys_for_long(start_cluster, connect, routing):
    """Presence forgets its users, their end is told, and they are found where they come back."""
    cluster = start_cluster(routing, 3, QUICK)
    watcher = connect(cluster[0], "watcher")
    victims = [connect(cluster[1], f"victim{number}") for number in range(5)]
    for client in (watcher, *victims):
        client.request("join", roomId="r")
    presence = lambda: {u["userId"] for u in watcher.request("presence", roomId="r")["users"]}
    assert presence() == {client.user for client in (watcher, *victims)}
    users = {client.user for client in victims}
    with Events(cluster) as events:
        cluster[1].kill()
        again = connect(cluster[2], "victim0")
        eventually(lambda: presence() == {watcher.user}, "presence forgets who is gone", RECOVERY_S)
        eventually(lambda: status(watcher, victims[1].user, 1) == "offline", "who is gone is offline", RECOVERY_S)
        eventually(lambda: status(watcher, again.user, "found") == "delivered", "who is back is found", RECOVERY_S)
        for user in users - {again.user}:
            events.wait(user, ("offline", "n1"))
        eventually(lambda: not cluster.registered(users - {again.user}), "their rows are gone", 10)
        wait_rows(cluster, again.user, "n2")
        # Who was back in time never went; on a machine that is busy for longer than a lease, they went and came.
        assert events.of(again.user) in ([], [("offline", "n1"), ("online", "n2")])
        assert all(events.of(user) == [("offline", "n1")] for user in users - {again.user}), "told once"


@BOTH
def test_stopped_for_longer_than_its_lease_and_back(start_cluster, connect, routing):
    """Its clients are still there, and are served again; what came meanwhile is not delivered late, nor is anything of others deleted."""
    cluster = start_cluster(routing, 2, QUICK)
    bob, carol, alice = connect(cluster[1], "bob"), connect(cluster[1], "carol"), connect(cluster[0], "alice")
    with Talk(connect(cluster[0], "talker"), bob, pause=0.02) as talk:
        time.sleep(0.3)
        cluster[1].signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            moved = Device(cluster[0], carol.user)
            carol.abort()
            time.sleep(LEASE_S + 1.5 - (time.monotonic() - stopped))
        finally:
            cluster[1].signal(signal.SIGCONT)
        eventually(lambda: talk.statuses[-3:] == ["delivered"] * 3, "bob is found again", 10)
    talk.check(("delivered", "unavailable", "offline"))
    assert {"unavailable", "offline"} & set(talk.statuses), "while it was stopped, nothing was delivered"
    assert status(alice, carol.user, "here") == "delivered"
    assert moved.goodbye() == ["here"]
    assert figure(cluster[1], *OUTSIDE_LEASE) > 0, "what came while it was stopped is counted"


def test_what_became_of_a_connection_on_a_node_that_is_away_is_not_made_up(start_cluster, connect):
    cluster = start_cluster("registry", 3, QUICK)
    stopped, killed = (connect(cluster[node], "ann").welcome["connectionId"] for node in (1, 2))
    with Admin(cluster[0]) as admin:
        cluster[1].signal(signal.SIGSTOP)
        try:
            refused = admin.refused("disconnect", connection=stopped)
        finally:
            cluster[1].signal(signal.SIGCONT)
        assert (refused.status, refused.code) == (503, "unavailable")
        cluster[2].kill()

        def known_to_be_gone():
            status, answer = admin.post("disconnect", {"connection": killed})
            assert status == 503 or answer == {"count": 0}, answer
            return status == 200

        eventually(known_to_be_gone, "nobody has it any more", RECOVERY_S)
        cluster.redis.kill()
        refused = admin.refused("disconnect", connection=stopped)
        assert (refused.status, refused.code) == (503, "unavailable")


@EVERY
def test_drain_under_traffic(start_cluster, unique, routing):
    """Whoever was answered `delivered` was: the clients were told to go, and everything that was theirs came first."""
    cluster = start_cluster(routing, 3, {**QUICK, "drain.grace": "300ms", "drain.spread": "700ms", "drain.deadline": "8s"})
    with Traffic(cluster, unique) as traffic:
        time.sleep(0.7)
        drained = time.monotonic()
        with Admin(cluster[1]) as admin:
            admin.call("drain")
        assert cluster[1].wait() == 0
        time.sleep(1)
    traffic.check()
    assert traffic.lost() == []
    wrong = traffic.answered_otherwise((drained, drained + RECOVERY_S))
    assert not wrong, wrong[:5]
    codes = {session.code for roamer in traffic.roamers for session in roamer.sessions[:-1]}
    assert codes == {4201}
    with Admin(cluster[0]) as admin:
        eventually(lambda: "n1" not in living(admin), "the others know at once", 2)


@EVERY
def test_rolling_restart_under_traffic(start_cluster, unique, routing):
    cluster = start_cluster(routing, 3, {**QUICK, "drain.grace": "100ms", "drain.spread": "500ms", "drain.deadline": "8s"})
    with Traffic(cluster, unique) as traffic:
        for index in range(3):
            time.sleep(0.3)
            cluster[index].signal()
            assert cluster[index].wait() == 0
            cluster.replace(index)
        time.sleep(0.5)
    traffic.check()
    counts = traffic.answers()
    print(f"{routing}: {dict(counts)}, {len(traffic.lost())} lost")
    assert traffic.lost() == [], "what was reported as delivered was"
    assert counts["delivered"] > 0.7 * sum(counts.values()), counts
    for roamer in traffic.roamers:
        assert all(session.code == 4201 for session in roamer.sessions[:-1])
    # Under their old names, with nothing of the old processes left.
    for node in cluster.nodes:
        with Admin(node) as admin:
            eventually(lambda: living(admin) == {"n0", "n1", "n2"}, "all know of all, and of nobody else")


@BOTH
def test_a_second_process_of_one_name_fences_the_first(start_cluster, connect, routing):
    cluster = start_cluster(routing, 2, QUICK)
    old, other = cluster[0], cluster[1]
    ann, ben = connect(old, "ann"), connect(other, "ben")
    new = Gateway(old.settings)
    new.query = old.query
    try:
        eventually(lambda: name_of(old) not in ("n0", None), "the older one goes by another name", RECOVERY_S)
        cluster.nodes.append(new)
        cluster.wait_whole()
        assert name_of(new) == "n0"
        cid = connect(new, "cid")
        for sender in (ann, ben, cid):
            for receiver in (ann, ben, cid):
                eventually(lambda: status(sender, receiver.user, "found") == "delivered", "all find all", RECOVERY_S)
        for client in (ann, ben, cid):
            assert "found" in messages(client)
        assert len([line for line in old.log().splitlines() if "n0" in line and " WARN " in line]) <= 3
    finally:
        if new not in cluster.nodes:
            new.stop()


@BOTH
def test_a_restart_takes_its_name_back_at_once(start_cluster, connect, routing):
    """The killed process still holds its lease: the new one does not wait for its end."""
    cluster = start_cluster(routing, 2)  # with a lease of ten seconds
    connect(cluster[0], "ann")
    cluster[0].kill()
    began = time.monotonic()
    cluster.replace(0)
    assert time.monotonic() - began < 5
    again, ben = connect(cluster[0], "ann"), connect(cluster[1], "ben")
    assert status(ben, again.user, "found") == "delivered"
    assert messages(again) == ["found"]
    with Admin(cluster[1]) as admin:
        assert living(admin) == {"n0", "n1"}
