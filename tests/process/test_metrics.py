"""`/metrics`: as Prometheus wants it, and true."""

import time

import pytest

from admin import Admin
from gateway import eventually
from wire import Wire


def value(metrics, sample):
    family = sample.split("{")[0]
    return metrics[family][2].get(sample, 0)


def total(metrics, family):
    return sum(metrics[family][2].values())


@pytest.fixture
def own(start):
    gateway = start()
    with Admin(gateway) as admin:
        yield gateway, admin


def test_the_text_is_well_formed_and_named_well(own):
    _, admin = own
    metrics = admin.metrics()
    for name, (kind, help, samples) in metrics.items():
        assert name.startswith(("ringgate_", "process_")), name
        assert samples and help and help[0].isupper() and help.endswith("."), (name, help)
        assert name.endswith("_total") == (kind == "counter"), name
        for sample in samples:
            assert "_ms" not in name and "_kb" not in name.lower(), f"{sample}: base units"
    build = next(iter(metrics["ringgate_build_info"][2]))
    assert 'version="' in build and 'driver="' in build


def test_counters_tell_what_happened(own, connect):
    gateway, admin = own
    a, b = connect(gateway, "a"), connect(gateway, "b")
    a.request("join", roomId="r")
    b.request("join", roomId="r")
    for _ in range(10):
        a.request("message", roomId="r", content="x")
    b.close()
    with Wire(gateway) as wire:
        wire.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        wire.response()
    expected = {
        "ringgate_connections": 1,
        "ringgate_users": 1,
        "ringgate_rooms": 1,
        "ringgate_connections_upgraded_total": 2,
        "ringgate_connections_authenticated_total": 2,
        "ringgate_messages_received_total": 12,
    }
    eventually(lambda: (m := admin.metrics()) and all(total(m, name) == n for name, n in expected.items()), str(expected))
    metrics = admin.metrics()
    assert value(metrics, 'ringgate_connections_closed_total{reason="peer_closed"}') == 1
    assert value(metrics, 'ringgate_upgrades_refused_total{reason="not_found"}') == 1
    assert total(metrics, "ringgate_received_bytes_total") > 500
    assert value(metrics, "ringgate_ready") == 1 and value(metrics, "ringgate_draining") == 0


def test_counters_never_fall(own, connect):
    gateway, admin = own
    before = admin.metrics()
    for n in range(3):
        client = connect(gateway, f"u{n}")
        client.fence()
        client.close()
        time.sleep(0.15)
        after = admin.metrics()
        for name, (kind, _, samples) in before.items():
            if kind == "counter":
                for sample, number in samples.items():
                    assert value(after, sample) >= number, sample
        before = after


def test_process_figures_are_the_kernels(own):
    gateway, admin = own
    metrics = admin.metrics()
    assert abs(value(metrics, "process_resident_memory_bytes") - gateway.memory_bytes()) < 8 << 20
    assert abs(value(metrics, "process_start_time_seconds") - time.time()) < 30
    eventually(lambda: value(admin.metrics(), "process_cpu_seconds_total") > 0, "some processor time", timeout=20)


@pytest.mark.parametrize("tables", ["shared", "private"])
def test_descriptors_are_counted_over_all_tables(start, connect, tables):
    gateway = start({"shards.fd_tables": tables}, shards=3)
    with Admin(gateway) as admin:
        if "process_open_fds" not in admin.metrics():
            pytest.skip("this kernel does not tell (before 6.2)")
        before = value(admin.metrics(), "process_open_fds")
        clients = [connect(gateway, f"u{n}") for n in range(30)]
        eventually(lambda: value(admin.metrics(), "process_open_fds") == before + 30, "30 more")
        del clients


def test_a_scrape_is_cheap_for_the_clients(own, connect):
    gateway, admin = own
    client = connect(gateway, "pinger")

    def worst(rounds, between):
        slowest = 0
        for _ in range(rounds):
            between()
            began = time.monotonic()
            client.fence()
            slowest = max(slowest, time.monotonic() - began)
        return slowest

    worst(20, lambda: None)
    assert worst(50, admin.metrics) < 1  # no absolute promise here: that it is not seconds
