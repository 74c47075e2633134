"""tuning/check on machines made of files: what runs out first, and in which words."""

import json
import shutil

import pytest
from support import GIB, Scratch, limits


def check(scratch, *arguments):
    result = scratch.run("check", *arguments, "--json")
    assert result.returncode in (0, 1), result.stderr
    document = json.loads(result.stdout)
    assert document["fits"] == (result.returncode == 0)
    return document


def finding(document, what):
    return next((f for f in document["findings"] if what in f["what"]), None)


def test_an_ordinary_server_carries_100k(scratch):
    document = check(scratch)
    assert document["connections"] == 100_000 and document["shards"] == 8
    assert document["fits"]
    assert document["profile"] == "100k" and document["differing"]


# What is changed about the machine, for how many connections, what runs out first, and at how many.
SHORTAGES = {
    "descriptors, shared": (lambda s: s.nofile(20_000), ["100000", "--fd-tables", "shared"], "descriptors", 20_000 - 128 - 8 * 16),
    "descriptors, one shard": (lambda s: s.nofile(20_000), ["100000", "--shards", "1"], "descriptors", 20_000 - 128 - 16),
    "files of the machine": (lambda s: s.set("fs.file-max", "60000"), ["100000"], "files of the whole machine", 60_000 - 1_000 - 256),
    "memory": (lambda s: s.memory(GIB // 2), ["100000"], "memory", None),
    "tracking": (lambda s: s.set("net.netfilter.nf_conntrack_max", "65536"), ["100000"], "connection tracking", 65_536 - 100),
    "own limit": (lambda s: s.write("/etc/ringgate/ringgate.toml", "[limits]\nconnections = 50_000\n"), ["100000"], "own limit", 50_000),
    "watches": (lambda s: s.set("fs.epoll.max_user_watches", "30000"), ["100000", "--driver", "epoll"], "epoll watches", 30_000),
}


@pytest.mark.parametrize("change, arguments, what, capacity", SHORTAGES.values(), ids=SHORTAGES.keys())
def test_the_first_shortage_is_named(scratch, change, arguments, what, capacity):
    change(scratch)
    document = check(scratch, *arguments)
    first = document["runs_out_first"]
    assert not document["fits"] and what in first["what"]
    assert capacity is None or first["capacity"] == capacity
    text = scratch.run("check", *arguments).stdout
    assert f"First to run out: {first['what']}, at {first['capacity']:,} connections." in " ".join(text.split())


def test_a_table_for_every_shard_multiplies_the_limit(scratch):
    scratch.nofile(20_000)
    assert check(scratch, "100000")["fits"], "8 shards with 19,744 each"
    short = check(scratch, "100000", "--shards", "4")
    assert not short["fits"]
    assert "shards.count = 6" in finding(short, "descriptors")["then"]
    assert any("4 shards gets a descriptor table of its own" in note for note in short["notes"])


@pytest.mark.parametrize(
    "files, limit, whose",
    [
        ({}, 1_048_576, "of this shell"),
        ({"/usr/lib/systemd/system/ringgate.service": "[Service]\nLimitNOFILE=70000\n"}, 70_000, "ringgate.service"),
        ({"/usr/lib/systemd/system/ringgate.service": "[Service]\nLimitNOFILE=1024:80000\n"}, 80_000, "ringgate.service"),
        ({"/usr/lib/systemd/system/ringgate.service": "[Service]\nLimitNOFILE=infinity\n"}, 1_048_576, "ringgate.service"),
        ({"/usr/lib/systemd/system/ringgate.service": "[Service]\nLimitNOFILE=9000000\n"}, 1_048_576, "ringgate.service"),
        (
            {
                "/lib/systemd/system/ringgate.service": "[Service]\nLimitNOFILE=70000\n",
                "/etc/systemd/system/ringgate.service.d/90-tuning.conf": "[Service]\nLimitNOFILE=90000\n",
            },
            90_000,
            "ringgate.service",
        ),
        ({"/proc/77/comm": "ringgate\n", "/proc/77/limits": limits(4_096)}, 4_096, "process 77"),
        ({"/proc/77/comm": "other\n", "/proc/77/limits": limits(4_096)}, 1_048_576, "of this shell"),
    ],
)
def test_it_looks_at_the_limit_that_counts(scratch, files, limit, whose):
    for path, text in files.items():
        scratch.write(path, text)
    have = finding(check(scratch, "1000"), "descriptors")["have"]
    assert have.startswith(f"{limit:,} ") and whose in have


def test_a_container_has_the_memory_of_its_group(scratch):
    scratch.write("/proc/self/cgroup", "0::/pod/gateway\n")
    scratch.write("/sys/fs/cgroup/pod/gateway/memory.max", "max\n")
    scratch.write("/sys/fs/cgroup/pod/gateway/memory.current", "1000000\n")
    scratch.write("/sys/fs/cgroup/pod/memory.max", str(600 << 20))
    scratch.write("/sys/fs/cgroup/pod/memory.current", str(100 << 20))
    memory = finding(check(scratch, "100000"), "memory")
    assert memory["short"] and memory["have"] == "500 MiB free in this control group"
    assert "memory limit of the container" in memory["then"]


@pytest.mark.parametrize("limit, free", [(300 << 20, "250 MiB free in this control group"), (0x7FFFFFFFFFFFF000, "14.4 GiB free")])
def test_older_control_groups_are_understood(scratch, limit, free):
    scratch.write("/proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n")
    folder = "/sys/fs/cgroup/memory/docker/abc"
    scratch.write(f"{folder}/memory.limit_in_bytes", str(limit))
    scratch.write(f"{folder}/memory.usage_in_bytes", str(100 << 20))
    scratch.write(f"{folder}/memory.stat", f"cache 1\ninactive_file {50 << 20}\n")
    assert finding(check(scratch, "1000"), "memory")["have"] == free


def test_what_only_makes_it_slow_does_not_fail(scratch):
    scratch.set("net.ipv4.tcp_mem", "1000 50000 90000")
    scratch.set("net.core.somaxconn", "128")
    document = check(scratch, "100000")
    assert document["fits"]
    assert [f["capacity"] for f in document["findings"] if f["short"]] == [128 * 8 * 10, 50_000]
    text = " ".join(scratch.run("check", "100000").stdout.split())
    assert "It carries 100,000 connections." in text
    assert "It will be slow from 10,240: places to wait for being accepted." in text


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"kernel.io_uring_disabled": "2"}, "kernel.io_uring_disabled = 2"),
        ({"kernel.io_uring_disabled": "1", "kernel.io_uring_group": "990"}, "only to the group 990"),
        ({"kernel.osrelease": "5.10.0-30-amd64"}, "kernel 5.10 is too old"),
    ],
)
def test_it_says_when_io_uring_is_not_to_be_had(scratch, settings, reason):
    for key, value in settings.items():
        scratch.set(key, value)
    document = check(scratch, "1000")
    assert any(reason in note for note in document["notes"])
    assert finding(document, "epoll watches") is not None
    assert not any(reason in note for note in check(scratch, "1000", "--driver", "epoll")["notes"])


def test_the_configuration_decides_where_no_argument_does(scratch):
    scratch.write("/etc/ringgate/ringgate.toml", '[limits]\nconnections = 30000\n[shards]\ncount = 3\nfd_tables = "private"\n[listen]\nbacklog = 100\n')
    document = check(scratch)
    assert (document["connections"], document["shards"], document["fd_tables"]) == (30_000, 3, "private")
    assert "listen.backlog" in finding(document, "accepted")["have"]
    assert check(scratch, "--shards", "5")["shards"] == 5


def test_a_damaged_configuration_does_not_stop_it(scratch):
    scratch.write("/etc/ringgate/ringgate.toml", "[limits\n")
    assert check(scratch)["connections"] == 100_000


@pytest.mark.parametrize("text, connections", [("100k", 100_000), ("1m", 1_000_000), ("12,500", 12_500), ("7", 7)])
def test_numbers_as_people_write_them(scratch, text, connections):
    assert check(scratch, text)["connections"] == connections


@pytest.mark.parametrize("arguments", [["0"], ["-5"], ["many"], ["10", "20"], ["--driver", "kqueue"]])
def test_wrong_usage(scratch, arguments):
    assert scratch.run("check", *arguments).returncode == 2


def test_after_apply_it_finds_the_settings_of_the_profile(scratch):
    assert scratch.run("apply", "100k").returncode == 0
    document = check(scratch, "100000")
    assert document["fits"] and document["differing"] == []
    assert "those of profile 100k" in scratch.run("check", "100000").stdout


def test_it_changes_nothing(scratch):
    before = scratch.settings(), scratch.files()
    check(scratch, "1m")
    assert (scratch.settings(), scratch.files()) == before


def test_a_machine_that_says_nothing_is_no_crash(tmp_path):
    empty = Scratch(tmp_path)
    shutil.rmtree(empty.path("/proc"))
    result = empty.run("check", "1000")
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
