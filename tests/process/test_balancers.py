"""The real nginx and HAProxy in front of three nodes, with the configurations that are shipped: who goes where, and as whom."""

import collections
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from admin import Admin
from balancer import Haproxy, Nginx, NginxByRoute
from client import Client
from cluster import LEASE_S, QUICK, status
from gateway import eventually
from redis_server import free_port
from test_cluster_hash import route, users_of
from wire import Wire

# The address that clients come from, where it matters: not the balancer's own.
ELSEWHERE = "127.0.0.2"
TRUSTED = {"listen.trusted_proxies": ["127.0.0.1/32"]}
KINDS = {
    "nginx": (Nginx, "registry", {}),
    "nginx-route": (NginxByRoute, "hash", {}),
    "haproxy": (Haproxy, "registry", {"listen.proxy_protocol": True}),
}


@pytest.fixture(params=KINDS)
def behind(request, start_cluster):
    """A balancer and the cluster behind it."""
    kind, routing, settings = KINDS[request.param]
    cluster = start_cluster(routing, 0, {**QUICK, **TRUSTED, **settings})
    # Whoever must move comes through the balancer again.
    port = free_port()
    for number in range(1, 4):
        cluster.add(f"node-{number}", {"cluster.advertise": f"ws://127.0.0.1:{port}/ws"}, wait=False)
    cluster.wait_whole()
    with kind(cluster.nodes, port) as balancer:
        yield balancer, cluster


def come(balancer, user, **options):
    client = Client(balancer.url(user_id=user), **options)
    client.node = client.expect("auth:ok")["node"]
    return client


def wait_ready(balancer):
    """Until the balancer has found that all nodes are well."""

    def reached():
        try:
            with come(balancer, "first") as client:
                return client.node
        except Exception:
            return None

    eventually(reached, "a client comes through", 15)


def test_a_user_is_on_one_node_and_users_are_on_all(behind):
    balancer, _ = behind
    wait_ready(balancer)
    users = [f"user-{number}" for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda user: come(balancer, user, source_address=(ELSEWHERE, 0)), users * 2))
    nodes = collections.defaultdict(set)
    for user, client in zip(users * 2, clients):
        nodes[user].add(client.node)
    assert all(len(of_user) == 1 for of_user in nodes.values()), nodes
    shares = collections.Counter(node for of_user in nodes.values() for node in of_user)
    assert len(shares) == 3 and min(shares.values()) >= 3, shares
    # Everybody reaches everybody, both devices of each, and nobody is sent away from where the balancer has put them.
    for sender, receiver in zip(clients[:30], clients[7:30] + clients[:7]):
        assert status(sender, users[clients.index(receiver)], "hello") == "delivered"
    for client in clients:
        said = client.fence()
        assert [message["content"] for message in said if message["type"] == "message"] == ["hello"]
        assert not [message for message in said if message["type"] == "reconnect"], said
    for client in clients:
        client.close()


def test_the_nodes_know_who_the_client_is(behind):
    """By X-Forwarded-For or by the PROXY header; what the client says of itself is not believed."""
    balancer, cluster = behind
    wait_ready(balancer)
    headers = {"X-Forwarded-For": "203.0.113.99"}
    with come(balancer, "alice", source_address=(ELSEWHERE, 0), headers=headers) as client:
        node = next(node for node in cluster.nodes if node.node_id == client.node)
        with Admin(node) as admin:
            (found,) = [c for c in admin.call("connections")["connections"] if c["user"] == "alice"]
        # With the PROXY header, which says who is connected, forwarded addresses are not looked at.
        assert found["address"].rsplit(":", 1)[0] == ELSEWHERE, found


def test_users_of_a_killed_node_go_elsewhere_and_the_others_stay(behind):
    balancer, cluster = behind
    wait_ready(balancer)
    users = [f"user-{number}" for number in range(24)]
    before = {}
    for user in users:
        with come(balancer, user) as client:
            before[user] = client.node
    killed = cluster[1]
    killed.kill()
    for user in users:
        # At once, whatever the balancer and the leases know of it by then.
        with come(balancer, user) as client:
            assert client.node != killed.node_id
            if before[user] != killed.node_id:
                assert client.node == before[user], f"{user} had no reason to move"
    assert {before[user] for user in users} == {node.node_id for node in cluster.nodes}


def test_a_draining_node_gets_no_new_clients(behind):
    balancer, cluster = behind
    wait_ready(balancer)
    leaver = cluster[0]
    leaver.signal(signal.SIGTERM)
    leaver.wait()
    for number in range(20):
        with come(balancer, f"user-{number}") as client:
            assert client.node != leaver.node_id


def test_what_is_not_for_clients_is_not_reached(behind):
    """Nor is what is no upgrade kept."""
    balancer, _ = behind
    wait_ready(balancer)
    for path in ("/", "/api/info", "/echo", "/metrics"):
        with Wire(balancer) as wire:
            wire.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            assert wire.response().status == 404, path
    with Wire(balancer) as wire:
        wire.send(b"GET /ws?user_id=alice HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert wire.response().status == 426


def test_messages_of_any_size_come_through(behind):
    balancer, _ = behind
    wait_ready(balancer)
    with come(balancer, "alice") as alice, come(balancer, "bob") as bob:
        for size in (1, 200, 60_000):
            assert status(alice, "bob", "x" * size) == "delivered"
            assert len(bob.expect("message")["content"]) == size


@pytest.mark.parametrize("behind", ["nginx-route"], indirect=True)
def test_with_the_ring_everybody_is_where_they_belong_before_and_after(behind):
    """Nobody is sent on, and who must move because a node has ended finds the new one through the balancer."""
    balancer, cluster = behind
    wait_ready(balancer)
    users = [f"user-{number}" for number in range(24)]

    def owners():
        return {user: route(cluster[0], user)["node"] for user in users}

    cluster.wait_whole()
    for ended in (None, cluster[2]):
        if ended:
            ended.kill()
            eventually(lambda: ended.node_id not in owners().values(), "it has left the ring", LEASE_S + 3)
            cluster.wait_whole()
        wanted = owners()
        clients = [come(balancer, user) for user in users]
        assert {user: client.node for user, client in zip(users, clients)} == wanted
        assert [client.fence() for client in clients] == [[]] * len(users)
        for client in clients:
            client.close()


@pytest.mark.parametrize("behind", ["nginx-route"], indirect=True)
def test_who_must_move_comes_back_through_the_balancer(behind):
    balancer, cluster = behind
    cluster.wait_whole()
    user = users_of(cluster, cluster[1], 1)[0]
    with come(cluster[0], user) as client:
        reconnect = client.expect("reconnect")
        assert reconnect["url"] == f"{balancer.url()}?moved=1"
    with come(balancer, user) as moved:
        assert moved.node == cluster[1].node_id
        assert moved.fence() == []


@pytest.mark.parametrize("behind", ["nginx", "haproxy"], indirect=True)
def test_clients_may_ask_for_themselves(behind):
    """The nodes behind do not route by hash: they say so, and the balancer lets them."""
    balancer, _ = behind
    wait_ready(balancer)
    with Wire(balancer) as wire:
        wire.send(b"GET /route?user=alice HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        response = wire.response()
    assert response.status == 404 and b"cluster.routing" in response.body
