"""Several gateways over one Redis, and what tests ask of them."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor

from admin import Admin
from client import Refused
from gateway import Gateway, eventually
from redis_server import RedisServer
from wire import CLOSE, TEXT, Wire, frame

ROUTINGS = ["broadcast", "registry", "hash"]
# Driver and shards of each node: both drivers, and numbers of shards that differ from node to node.
SHAPES = [("io_uring", 2), ("epoll", 3), ("io_uring", 1)]

# The nodes notice a dead one soon, and an unwell Redis without hurry: this machine may be busy.
QUICK = {"redis.lease_ttl": "2s", "redis.timeout": "1s"}
LEASE_S = 2.0

# What came by the bus and was not for anybody: it could not be read; or no lease held.
MALFORMED = ["ringgate_bus_malformed_total"]
OUTSIDE_LEASE = ["ringgate_bus_discarded_total", "ringgate_unicasts_outside_lease_total"]


class Cluster:
    """Nodes n0, n1, .. with `routing`, and their Redis."""

    def __init__(self, routing, count=3, settings=None, *, redis=None, url=None, drivers=True, wait=True):
        self.routing = routing
        self.redis = redis or RedisServer()
        self.own_redis = redis is None
        self.url = url or self.redis.url()
        self.settings = dict(settings or {})
        self.drivers = drivers
        self.nodes = []
        try:
            for _ in range(count):
                self.add(wait=False)
            if wait:
                self.wait_whole()
        except BaseException:
            self.show_logs()
            self.kill()
            raise

    def __getitem__(self, index):
        return self.nodes[index]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.show_logs()
        if kind is None:
            self.stop()
        else:
            self.kill()

    def add(self, name=None, settings=None, *, wait=True):
        """Starts one more node."""
        number = len(self.nodes)
        settings, query = dict(settings or {}), {}
        if self.routing == "hash" and "cluster.advertise" not in {**self.settings, **settings}:
            # Everybody is served wherever they come, as those are who have been sent elsewhere already.
            settings["cluster.advertise"], query = "ws://nowhere.invalid/ws", {"moved": 1}
        driver, shards = SHAPES[number % len(SHAPES)]
        node = Gateway({
            "node.id": name or f"n{number}",
            "shards.driver": driver if self.drivers else "epoll",
            "shards.count": shards,
            "cluster.routing": self.routing,
            "redis.url": self.url,
            **self.settings,
            **settings,
        })
        node.query = query
        self.nodes.append(node)
        if wait:
            self.wait_whole()
        return node

    def replace(self, index, settings=None, *, wait=True):
        """Starts a node in the place, and under the name, of one that has ended."""
        old = self.nodes[index]
        assert not old.running
        old.stop()
        node = Gateway({**old.settings, **(settings or {})})
        node.query = old.query
        self.nodes[index] = node
        if wait:
            self.wait_whole()
        return node

    def running(self):
        return [node for node in self.nodes if node.running]

    def wait_whole(self, timeout=20):
        """Waits until every node's bus is up, and every shard of each knows of all: each shard reads the leases for itself."""
        nodes = self.running()
        for node in nodes:
            with Admin(node) as admin:
                eventually(lambda: bus(admin) == "up", f"the bus of {node.node_id} is up", timeout)
        names = {name_of(node) for node in nodes}
        for node in nodes:
            with Admin(node) as admin:
                eventually(lambda: names == living(admin), f"{node.node_id} knows of {names}", timeout)
                known = lambda: set(admin.metrics()["ringgate_bus_nodes"][2].values())
                eventually(lambda: known() == {len(names)}, f"all shards of {node.node_id} know of all", timeout)

    def stop(self):
        """Ends all as an operator would, and requires that this goes well."""

        def stop(node):
            try:
                if node.running:
                    node.signal(signal.SIGCONT)
                node.stop()
            except AssertionError as error:
                return error

        with ThreadPoolExecutor() as pool:
            errors = [error for error in pool.map(stop, self.nodes) if error]
        if self.own_redis:
            self.redis.stop()
        if errors:
            raise errors[0]

    def show_logs(self):
        for node in self.nodes:
            print(f"--- log of {node.settings['node.id']} ---\n{node.log()[-6000:]}")

    def kill(self):
        for node in self.nodes:
            node.kill()
        if self.own_redis:
            self.redis.stop()

    # What Redis has

    def holders(self, name):
        """Every key that mentions a name, in its own name or in what it holds."""
        found = []
        read = {b"string": ["GET"], b"hash": ["HGETALL"], b"set": ["SMEMBERS"], b"zset": ["ZRANGE", 0, -1], b"list": ["LRANGE", 0, -1]}
        wanted = name.encode()
        with self.redis.connect() as redis:
            for key in self.redis.keys():
                kind = redis.call("TYPE", key)
                command, *rest = read.get(kind, ["GET"])
                held = redis.call(command, key, *rest) if kind in read else b""
                held = held if isinstance(held, list) else [held or b""]
                if name in key or any(wanted in part for part in held):
                    found.append(key)
        return found

    def channels(self, pattern="*"):
        """Channels that somebody listens to."""
        return sorted(channel.decode() for channel in self.redis.call("PUBSUB", "CHANNELS", pattern))

    def registered(self, users):
        """Which of these the registry knows."""
        return {user for user in users if self.holders(user)}


def name_of(node):
    """The name that a node goes by in the cluster now; `None`: it is not in it."""
    with Admin(node) as admin:
        return own_name(admin.call("info"))


def own_name(info):
    return (info["nodes"][0]["lease"] or {}).get("node")


def bus(admin):
    return admin.json("/readyz")[1].get("bus")


def living(admin):
    """The nodes that a node takes for living, itself included."""
    info = admin.call("info")
    return {own_name(info), *(node["node_id"] for node in info["nodes"][1:])}


def is_up(node):
    with Admin(node) as admin:
        return bus(admin) == "up"


def is_down(node):
    """The bus is away, and the node says so without taking itself out of the balancer."""
    with Admin(node) as admin:
        status, ready = admin.json("/readyz")
        assert status == 200, (status, ready)
        return ready.get("bus") == "down"


def figure(node, *families):
    """The sum of all samples of these metrics."""
    with Admin(node) as admin:
        metrics = admin.metrics()
        return sum(sum(metrics[family][2].values()) for family in families)


def nodes_of(admin, **place):
    """Connections by node, of a user, a room or a channel."""
    return {node["node"]: node["connections"] for node in admin.call("presence", **place)["nodes"]}


def status(client, user, content, **fields):
    """What a `send_message` was answered: its status, or the code of its error."""
    try:
        return client.request("send_message", target_user=user, content=content, **fields)["status"]
    except Refused as refused:
        return refused.code


def complaints(node, *, after=0):
    """Lines of the log that an operator would be alarmed by."""
    lines = node.log().splitlines()[after:]
    return [line for line in lines if " WARN " in line or " ERROR " in line]


def messages(client):
    """The contents that a connection was sent up to now, in order; everything else stays out."""
    return [message["content"] for message in client.fence() if message["type"] in ("message", "broadcast")]


class Device:
    """A connection that ends without losing anything: what came before the answer to its goodbye is taken in."""

    def __init__(self, node, user):
        self.wire = Wire(node)
        self.wire.upgrade(node.path(user_id=user))
        self.early = []
        while (message := json.loads(self.wire.opcode(TEXT)))["type"] != "auth:ok":
            self.early.append(message["content"])

    def goodbye(self):
        """The contents of all messages."""
        self.wire.send(frame(CLOSE, (1000).to_bytes(2, "big")))
        contents = self.early
        while True:
            _, _, opcode, data = self.wire.frame()
            if opcode == CLOSE:
                self.wire.socket.close()
                return contents
            message = json.loads(data) if opcode == TEXT else {}
            if message.get("type") == "message":
                contents.append(message["content"])


def payload(**message):
    """What a service publishes."""
    return json.dumps({"payload": message})


