"""Routing `hash`: every user belongs on one node, is told so, and is served wherever they are."""

import collections
import contextlib
import http.client
import json
import threading
import time
from urllib.parse import urlencode

import pytest

from admin import Admin
from client import Client
from cluster import LEASE_S, QUICK, figure, status
from gateway import StartFailed, eventually, run
from redis_server import free_port
from wire import Wire

# Long enough that it shows when all are told at once.
SPREAD_S = 3.0
SETTINGS = {**QUICK, "drain.spread": "3s", "drain.deadline": "15s"}
# How long the ring is left alone, at the most, before users are moved by it.
REST_S = 6.0


def add(cluster, name=None, settings=None, **options):
    """A node that says where it is to be found."""
    for _ in range(5):
        address = f"127.0.0.1:{free_port()}"
        where = {"listen.client": address, "cluster.advertise": f"ws://{address}/ws"}
        try:
            return cluster.add(name, {**where, **(settings or {})}, **options)
        except StartFailed as failed:
            # Another process may take the port in between.
            error = failed
    raise error


@pytest.fixture
def ring(start_cluster):
    """Starts a cluster in routing `hash`."""

    def ring(count=3, settings=None):
        cluster = start_cluster("hash", 0, {**SETTINGS, **(settings or {})})
        for _ in range(count):
            add(cluster, wait=False)
        cluster.wait_whole()
        return cluster

    return ring


def ask(node, path, method="GET", headers=None):
    """Status, headers and body."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def route(node, user):
    """The node that a user belongs on, as this one knows it."""
    code, headers, body = ask(node, f"/route?{urlencode({'user': user})}")
    assert code == 200, (code, body)
    assert headers["X-Ringgate-Node"] == json.loads(body)["node"]
    return json.loads(body)


def users_of(cluster, node, count, by=None):
    """Users who belong on a node."""
    found = []
    for number in range(10_000):
        user = f"user-{number}"
        if route(by or cluster[0], user)["node"] == node.node_id:
            found.append(user)
            if len(found) == count:
                return found
    raise AssertionError(f"{node.node_id} has no users")


def come(node, user, url=None):
    client = Client(url or node.url(user_id=user))
    client.welcome = client.expect("auth:ok")
    client.node, client.user = client.welcome["node"], user
    return client


def follow(client, reconnect):
    """What a client does that is told to go."""
    mark = "&" if "?" in reconnect["url"] else "?"
    return come(None, client.user, reconnect["url"] + mark + urlencode({"user_id": client.user}))


def test_every_node_gives_the_same_answer(ring):
    cluster = ring()
    advertised = {node.node_id: node.settings["cluster.advertise"] for node in cluster.nodes}
    shares = collections.Counter()
    for number in range(60):
        answers = [route(node, f"user {number} é") for node in cluster.nodes]
        assert answers[0] == answers[1] == answers[2]
        assert answers[0]["url"] == advertised[answers[0]["node"]]
        shares[answers[0]["node"]] += 1
    assert len(shares) == 3 and min(shares.values()) > 8, shares
    fingerprints = set()
    for node in cluster.nodes:
        with Admin(node) as admin:
            fingerprints.add(admin.call("info")["ring"])
    assert len(fingerprints) == 1 and None not in fingerprints, fingerprints
    eventually(lambda: figure(cluster[1], "ringgate_routes_answered_total") == 60, "they are counted")


def test_what_route_refuses(ring, start):
    node = ring(1)[0]
    for path in ("/route", "/route?user=", "/route?user=events", "/route?user=a%0Ab", f"/route?user={'x' * 129}", "/route?u=a"):
        assert ask(node, path)[0] == 400, path
    assert ask(node, "/route?user=a", "POST")[0] == 405
    assert ask(node, "/routes?user=a")[0] == 404
    status_, headers, _ = ask(node, "/route?user=a", headers={"Origin": "https://example.com"})
    assert (status_, headers["Access-Control-Allow-Origin"]) == (200, "*")
    local = start({"listen.allowed_origins": ["https://example.com"]})
    code, _, body = ask(local, "/route?user=a")
    assert code == 404 and "cluster.routing" in body


def test_route_is_bounded_like_any_request(ring):
    settings = {"limits.connections_per_ip": 3, "limits.connections_per_ip_window": "60s", "listen.allowed_origins": ["https://a.example"]}
    node = ring(1, settings)[0]
    assert ask(node, "/route?user=a", headers={"Origin": "https://b.example"})[0] == 403
    codes = [ask(node, "/route?user=a")[0] for _ in range(4)]
    assert codes[0] == 200 and codes[-1] == 429, codes


def test_a_proxy_that_asks_for_itself_is_not_bounded(ring):
    settings = {"limits.connections_per_ip": 2, "limits.connections_per_ip_window": "60s", "listen.trusted_proxies": ["127.0.0.1"]}
    node = ring(1, settings)[0]
    assert [ask(node, "/route?user=a")[0] for _ in range(8)] == [200] * 8
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert [ask(node, "/route?user=a", headers=forwarded)[0] for _ in range(3)] == [200, 200, 429]


def test_the_ring_that_is_not_known(start_cluster):
    """And the one that was, when Redis goes."""
    cluster = start_cluster("hash", 0, SETTINGS, url=f"redis://127.0.0.1:{free_port()}")
    node = add(cluster, wait=False)
    code, headers, _ = ask(node, "/route?user=a")
    assert (code, headers["Retry-After"]) == (503, "1")
    with come(node, "a") as client:
        assert client.welcome["local"] is True


def test_it_is_answered_while_redis_is_away(ring):
    cluster = ring(2)
    before = [route(cluster[0], f"user-{number}") for number in range(20)]
    cluster.redis.hang()
    with Admin(cluster[0]) as admin:
        eventually(lambda: admin.json("/readyz")[1]["bus"] == "down", "the bus is down", 10)
    assert [route(cluster[0], f"user-{number}") for number in range(20)] == before
    stranger = next(f"user-{number}" for number, answer in enumerate(before) if answer["node"] != cluster[0].node_id)
    with come(cluster[0], stranger) as client:
        assert client.fence() == [], "nobody is sent where nothing can be asked"
    cluster.redis.go_on()
    cluster.wait_whole()


def test_who_comes_to_the_wrong_node_is_sent_to_the_right_one(ring):
    cluster = ring()
    (user,) = users_of(cluster, cluster[1], 1)
    with come(cluster[0], user) as client:
        reconnect = client.expect("reconnect")
        assert reconnect["url"].startswith(cluster[1].settings["cluster.advertise"])
        assert reconnect["reason"] == "moved" and 0 < reconnect["afterMs"] <= 5_000
        began = time.monotonic()
        assert client.closed() == (4200, "moved")
        assert reconnect["afterMs"] / 1000 - 0.2 < time.monotonic() - began
    with follow(client, reconnect) as moved, come(cluster[2], users_of(cluster, cluster[2], 1)[0]) as other:
        assert moved.node == cluster[1].node_id
        assert status(other, user, "there?") == "delivered"
        assert moved.expect("message")["content"] == "there?"
        assert moved.fence() == [] and other.fence() == [], "who is where they belong is left alone"
    eventually(lambda: figure(cluster[0], "ringgate_told_to_move_total") == 1, "it is counted")
    assert figure(cluster[1], "ringgate_told_to_move_total") == 0


def test_who_does_not_follow_gets_everything_all_the_same(ring):
    cluster = ring()
    (user,) = users_of(cluster, cluster[1], 1)
    senders = [come(node, users_of(cluster, node, 2)[1]) for node in cluster.nodes]
    number = 0
    with come(cluster[0], user) as client:
        client.expect("reconnect")
        for number, sender in enumerate(senders):
            assert status(sender, user, number) == "delivered"
        assert [client.expect("message")["content"] for _ in senders] == [0, 1, 2]
        assert client.closed()[0] == 4200
    for sender in senders:
        assert status(sender, user, "anybody?") == "offline"
    with come(cluster[0], user) as stubborn:
        # Two devices, one of them where it belongs.
        with come(cluster[1], user) as right:
            for sender in senders:
                assert status(sender, user, "both") == "delivered"
            assert [c.expect("message")["content"] for c in (stubborn, right) for _ in senders] == ["both"] * 6
        time.sleep(3)
        for sender in senders:
            assert status(sender, user, "still") == "delivered"
        assert [message["content"] for message in stubborn.fence()] == ["still"] * 3, "it is told once, and served"
    for sender in senders:
        sender.close()


def heard(client):
    """What has come, without waiting for more; whether it is closed by now does not matter."""
    messages = []
    with contextlib.suppress(AssertionError):
        while True:
            messages.append(client.next(timeout=0.001))
    return messages


class Crowd:
    """Users who do as they are told, each where the ring says; what they are told is kept, with its time."""

    def __init__(self, cluster, users):
        self.cluster = cluster
        self.told = collections.defaultdict(list)
        self.clients = {}
        self.stopped = threading.Event()
        self.errors = []
        by_name = {node.node_id: node for node in cluster.nodes}
        for user in users:
            client = come(by_name[route(cluster[0], user)["node"]], user)
            assert client.node == route(cluster[0], user)["node"]
            self.clients[user] = client
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()
        for client in self.clients.values():
            client.close()

    def run(self):
        try:
            while not self.stopped.wait(0.05):
                for user, client in list(self.clients.items()):
                    for reconnect in [message for message in heard(client) if message["type"] == "reconnect"]:
                        self.told[user].append((time.monotonic(), reconnect))
                        self.clients[user] = follow(client, reconnect)
                        client.close()
        except Exception as error:
            self.errors.append(error)

    def moved(self):
        assert not self.errors, self.errors
        return set(self.told)

    def settled(self):
        """Whether each is where the ring says."""
        return all(client.node == route(self.cluster[0], user)["node"] for user, client in list(self.clients.items()))


def test_a_node_that_joins_gets_its_users_and_only_those(ring):
    cluster = ring(2)
    users = [f"user-{number}" for number in range(60)]
    before = {user: route(cluster[0], user)["node"] for user in users}
    with Crowd(cluster, users) as crowd:
        third = add(cluster)
        cluster.wait_whole()
        after = {user: route(cluster[0], user)["node"] for user in users}
        assert after == {user: route(third, user)["node"] for user in users}
        must = {user for user in users if after[user] != before[user]}
        assert {after[user] for user in must} == {third.node_id}
        assert 10 <= len(must) <= 30
        eventually(lambda: crowd.moved() == must, f"{must} are told", REST_S + SPREAD_S + 5)
        time.sleep(1.5)
        assert crowd.moved() == must and crowd.settled()
        assert all(len(told) == 1 for told in crowd.told.values()), "once"
        times = sorted(told[0][0] for told in crowd.told.values())
        assert times[-1] - times[0] > SPREAD_S / 2, "not all at once"
        assert max(sum(1 for t in times if at <= t < at + 0.5) for at in times) <= len(must) / 2
        # And everybody still reaches everybody.
        with come(None, "probe", cluster[0].url(user_id="probe", moved="1")) as probe:
            assert [status(probe, user, "hello") for user in users] == ["delivered"] * len(users)


def test_a_node_that_leaves_says_where_to_go(ring):
    cluster = ring(3)
    users = [f"user-{number}" for number in range(45)]
    before = {user: route(cluster[0], user)["node"] for user in users}
    leaver = cluster[1]
    must = {user for user in users if before[user] == leaver.node_id}
    assert must
    with Crowd(cluster, users) as crowd:
        leaver.signal()
        leaver.wait()
        eventually(lambda: crowd.moved() == must, "its users have heard it")
        assert {told[0][1]["reason"] for told in crowd.told.values()} == {"draining"}
        cluster.wait_whole()
        after = {user: route(cluster[0], user)["node"] for user in users}
        assert leaver.node_id not in after.values()
        eventually(lambda: {user: client.node for user, client in crowd.clients.items()} == after, "they followed")
        assert all(after[user] == before[user] for user in users if user not in must)
        time.sleep(REST_S + SPREAD_S + 1)
        assert crowd.moved() == must and all(len(told) == 1 for told in crowd.told.values()), "nobody is moved twice"


def test_a_node_that_dies_leaves_the_ring_with_its_lease(ring):
    cluster = ring(3)
    user, other = users_of(cluster, cluster[1], 2)
    cluster[1].kill()
    # Until the lease ends, they are sent where nobody is; who comes back is served.
    with come(cluster[0], user) as client:
        client.expect("reconnect")
    with come(cluster[0], user) as client:
        time.sleep(3)
        assert not [m for m in client.fence() if m["type"] == "reconnect"]
    eventually(lambda: route(cluster[0], user)["node"] != cluster[1].node_id, "it has left the ring", LEASE_S + 3)
    heir = next(node for node in cluster.running() if node.node_id == route(cluster[0], other)["node"])
    with come(heir, other) as client:
        time.sleep(2.5)
        assert client.fence() == []


def test_weight_is_share(ring):
    cluster = ring(2)
    heavy = add(cluster, settings={"cluster.weight": 400})
    idle = add(cluster, settings={"cluster.weight": 0})
    eventually(lambda: route(cluster[0], "user-0") and len({route(cluster[0], f"user-{n}")["node"] for n in range(40)}) == 3, "all are known")
    shares = collections.Counter(route(cluster[0], f"user-{number}")["node"] for number in range(300))
    assert idle.node_id not in shares
    assert shares[heavy.node_id] > shares["n0"] * 2.5 and shares[heavy.node_id] > shares["n1"] * 2.5, shares


def test_it_needs_to_say_where_it_is():
    refused = run("--set", "cluster.routing=hash")
    assert refused.returncode == 2
    assert "cluster.advertise" in refused.stderr + refused.stdout


def test_an_upgrade_is_not_needed_for_route_and_nothing_stays_open(ring):
    node = ring(1)[0]
    with Wire(node) as wire:
        wire.send(b"GET /route?user=a HTTP/1.1\r\nHost: a\r\n\r\nGET /route?user=b HTTP/1.1\r\nHost: a\r\n\r\n")
        response = wire.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
    with Admin(node) as admin:
        eventually(lambda: admin.json("/health")[1]["connections"] == 0, "nothing is left")
