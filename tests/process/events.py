"""What services hear of users who come and go in a cluster."""

import collections
import itertools
import json

from gateway import eventually


class Events:
    """What has been told on `ws:user:events` since it was entered; in a `with`."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.fences = itertools.count(1)
        self.told = collections.defaultdict(list)

    def __enter__(self):
        self.listener = self.cluster.redis.listen("ws:user:events")
        return self

    def __exit__(self, *_):
        self.listener.__exit__()

    def of(self, user):
        """What was told of this user until now, in order, and by which node."""
        fence = f"fence {next(self.fences)}"
        self.cluster.redis.publish("ws:user:events", json.dumps({"user_id": fence}))
        while (event := json.loads(self.listener.next()[1]))["user_id"] != fence:
            if event.keys() == {"event", "user_id", "node"}:
                self.told[event["user_id"]].append((event["event"], event["node"]))
        return self.told[user]

    def wait(self, user, *expected):
        """Until this, and nothing else, was told of this user."""
        eventually(lambda: len(self.of(user)) >= len(expected), f"{user} is told {expected}, not {self.of(user)}", 15)
        assert self.of(user) == list(expected)


def nodes_with_rows(cluster, user):
    return {node.decode() for node in cluster.redis.call("HKEYS", f"ws:loc:{user}")}


def wait_rows(cluster, user, *nodes):
    """Until the registry has the user on these nodes and no others: what was told of it is told by then."""
    eventually(lambda: nodes_with_rows(cluster, user) == set(nodes), f"{user} has rows of {nodes}", 15)
