"""What must hold while Redis, or the way to it, is not well, and what must hold again afterwards."""

import threading
import time

from cluster import complaints, is_down, is_up, messages, status
from gateway import eventually

# Two connections of each of 3 shards, the lease, and the rest: whatever happens, nobody needs to be told more.
COMPLAINTS_MAX = 12


class People:
    """Two users on each of two nodes, in one room: who must not notice, and who must be told the truth."""

    def __init__(self, cluster, connect):
        self.cluster = cluster
        self.here = [connect(cluster[0], f"here{number}") for number in range(2)]
        self.there = [connect(cluster[1], f"there{number}") for number in range(2)]
        self.everybody = self.here + self.there
        for client in self.everybody:
            client.request("join", roomId="room")
        self.logged = [len(node.log().splitlines()) for node in cluster.nodes]
        self.all_is_well()

    def all_is_well(self, timeout=20):
        """Everybody reaches everybody, by name and in the room; the registry has everybody."""
        pairs = ((self.here, self.there), (self.there, self.here))
        for senders, receivers in pairs:
            for sender in senders:
                for receiver in receivers:
                    eventually(lambda: status(sender, receiver.user, "well?") == "delivered", f"{receiver.user} is found", timeout)
        for client in self.everybody:
            client.fence()
        for speaker in (self.here[0], self.there[0]):
            speaker.request("message", roomId="room", content=f"{speaker.user} is well")
            for listener in self.everybody:
                if listener is not speaker:
                    listener.expect("message", content=f"{speaker.user} is well")
        if self.cluster.routing != "broadcast":
            users = {client.user for client in self.everybody}
            eventually(lambda: self.cluster.registered(users) == users, "the registry has everybody", timeout)
        presence = lambda: self.here[0].request("presence", roomId="room")
        eventually(lambda: presence()["connectionCount"] == 4, "presence has everybody", timeout)

    def local_traffic_goes_on(self, *sides, within=2.0):
        """On each side users reach their neighbours and the room, without waiting for anything."""
        for side in sides or (self.here, self.there):
            began = time.monotonic()
            one, other = side
            assert status(one, other.user, "neighbour") == "delivered"
            other.expect("message", content="neighbour")
            one.send("message", roomId="room", content="room neighbour")
            other.expect("message", content="room neighbour")
            assert time.monotonic() - began < within

    def remote_is_refused(self, sender, receiver, count=20):
        """At once, and each time."""
        began = time.monotonic()
        answers = {status(sender, receiver.user, f"refused {number}") for number in range(count)}
        assert answers == {"unavailable"}
        assert time.monotonic() - began < 2, "at once, not after a timeout each"

    def cut_off(self, timeout=8, every_shard=True):
        """The bus of both nodes is away, and noticed to be."""
        for node in self.cluster.nodes:
            eventually(lambda: is_down(node, every_shard), f"{node.node_id} says that the bus is down", timeout)

    def back(self, timeout=20):
        """All is as it was, nobody was disconnected, and nobody got what was refused."""
        for node in self.cluster.nodes:
            eventually(lambda: is_up(node), f"{node.node_id} says that the bus is up", timeout)
        self.all_is_well(timeout)
        for client in self.everybody:
            assert not [text for text in messages(client) if str(text).startswith("refused")]

    def log_was_short(self):
        """An outage is told once, not with every attempt."""
        for node, before in zip(self.cluster.nodes, self.logged):
            said = complaints(node, after=before)
            assert 1 <= len(said) <= COMPLAINTS_MAX, "\n".join(said)


class Talk:
    """A user of its own writes to another for as long as it is open, as fast as answers come; afterwards it is known what became of what."""

    def __init__(self, sender, receiver, pause=0.005):
        self.sender, self.receiver, self.pause = sender, receiver, pause
        self.statuses = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def _run(self):
        while not self.stopping.is_set():
            self.statuses.append(status(self.sender, self.receiver.user, ["talk", len(self.statuses)]))
            time.sleep(self.pause)

    def check(self, allowed=("delivered", "unavailable"), elsewhere=()):
        """Every answer was true: what was delivered came, once and in order; what was refused as offline did not.

        `elsewhere` are contents that came to another connection of the receiver, while there was one.
        """
        eventually(lambda: status(self.sender, self.receiver.user, ["end"]) == "delivered", "the receiver is found", 15)
        heard = [m["content"] for m in self.receiver.until("message", content=["end"]) if m["type"] == "message"]
        came = [content[1] for content in heard if content[:1] == ["talk"]]
        assert came == sorted(set(came)), "in order, and none twice"
        assert set(self.statuses) <= set(allowed), sorted(set(self.statuses))
        delivered = {number for number, answer in enumerate(self.statuses) if answer == "delivered"}
        came = {*came, *(content[1] for content in elsewhere if content[:1] == ["talk"])}
        assert delivered <= came, f"answered delivered, and never came: {sorted(delivered - came)[:20]}"
        offline = {number for number, answer in enumerate(self.statuses) if answer == "offline"}
        assert not offline & came, "answered offline, and came"
