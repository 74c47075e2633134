"""/readyz while a shard hangs: what a load balancer sees of it, and what clients of the other shards do."""

import http.client
import time

import pytest

from admin import Admin
from gateway import eventually
from stall import shard_threads, stopped


def ready(gateway):
    """Status and answer of /readyz."""
    with Admin(gateway) as admin:
        return admin.json("/readyz")


@pytest.mark.parametrize("which", [1, 2])
def test_a_shard_that_hangs_makes_it_503_and_200_when_it_goes_on(start, connect, which):
    gateway = start(shards=3)
    assert ready(gateway) == (200, {"status": "ready"})
    # Of several users some are at home elsewhere.
    clients = [connect(gateway, f"u{n}") for n in range(12)]
    home = lambda client: int(client.welcome["connectionId"][8:12], 16)  # noqa: E731
    others = [client for client in clients if home(client) != which]
    with stopped(shard_threads(gateway.pid)[which]):
        began = time.monotonic()
        eventually(lambda: ready(gateway) == (503, {"status": "stalled", "shards": [which]}), "503", timeout=10)
        assert time.monotonic() - began >= 1, "not for every long turn"
        for client in others:
            client.fence()
        with Admin(gateway) as admin:
            assert admin.get("/livez")[0] == 200
            metrics = admin.metrics()
        assert metrics["ringgate_ready"][2]["ringgate_ready"] == 0
        assert metrics["ringgate_shard_probe_seconds"][2][f'ringgate_shard_probe_seconds{{shard="{which}"}}'] > 1
    eventually(lambda: ready(gateway) == (200, {"status": "ready"}), "200 again", timeout=10)
    for client in clients:
        client.fence()


def test_where_the_listener_itself_hangs_there_is_no_answer(start):
    """The admin listener is served by the first shard: a balancer gets none in time, and takes that for a no."""
    gateway = start()
    host, port = gateway.admin.rsplit(":", 1)
    with stopped(shard_threads(gateway.pid)[0]):
        asking = http.client.HTTPConnection(host, int(port), timeout=3)
        asking.request("GET", "/readyz")
        with pytest.raises(TimeoutError):
            asking.getresponse()
        asking.close()
    eventually(lambda: ready(gateway) == (200, {"status": "ready"}), "200 again", timeout=10)
