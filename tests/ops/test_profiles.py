"""The profiles: complete, in themselves and against each other, and to the taste of the kernel that runs these tests."""

import json
import os
import pathlib
import sys

import pytest
from ringgate_tuning import profile as profiles
from support import TUNING, run

NAMES = ["10k", "100k", "1m"]
PROFILES = [profiles.load(name) for name in NAMES]
ALL = [pytest.param(profile, id=profile.name) for profile in PROFILES]
SUBJECTS = [
    "fs.file-max", "net.ipv4.tcp_mem", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.ip_local_port_range", "net.netfilter.nf_conntrack_max", "net.ipv4.tcp_keepalive_time", "net.core.busy_poll",
    "net.ipv4.tcp_congestion_control",
]  # fmt: skip


def numbers(value):
    return [int(number) for number in value.split() if number.isdigit()]


def test_they_are_known_by_size():
    assert profiles.names() == NAMES
    assert [profile.connections for profile in PROFILES] == [10_000, 100_000, 1_000_000]
    for connections, name in [(1, "10k"), (12_500, "10k"), (12_501, "100k"), (108_000, "100k"), (126_000, "1m"), (9_000_000, "1m")]:
        assert profiles.for_connections(connections).name == name


def test_they_have_the_same_lines_in_the_same_order():
    lines = [[(setting.key, setting.rule, setting.optional) for setting in profile.settings] for profile in PROFILES]
    assert lines[0] == lines[1] == lines[2]
    keys = [key for key, _, _ in lines[0]]
    assert len(keys) == len(set(keys))
    assert set(SUBJECTS) <= set(keys)


def test_a_larger_one_never_allows_less():
    for small, large in zip(PROFILES, PROFILES[1:]):
        assert small.memory < large.memory
        for setting in small.settings:
            if setting.rule == "at least":
                pairs = list(zip(numbers(setting.value), numbers(large.get(setting.key).value)))
                assert pairs and all(a <= b for a, b in pairs), setting.key
        assert all(small.limits[name] <= large.limits[name] for name in ("nofile", "memlock"))


@pytest.mark.parametrize("profile", ALL)
def test_the_figures_fit_together(profile):
    value = {setting.key: numbers(setting.value) for setting in profile.settings}
    assert value["fs.file-max"][0] >= profile.connections * profiles.HEADROOM
    assert value["fs.nr_open"][0] >= profile.limits["nofile"] >= profile.connections * profiles.HEADROOM
    assert value["net.netfilter.nf_conntrack_max"][0] >= profile.connections * profiles.HEADROOM
    assert value["net.netfilter.nf_conntrack_max"][0] <= 2 * value["net.netfilter.nf_conntrack_buckets"][0]
    assert value["net.ipv4.tcp_mem"][1] >= profile.connections, "a page for everybody"
    assert value["net.ipv4.tcp_mem"][2] * 4096 <= profile.memory / 2, "buffers must leave memory for connections"
    for key in ("tcp_mem", "tcp_rmem", "tcp_wmem"):
        assert value[f"net.ipv4.{key}"] == sorted(value[f"net.ipv4.{key}"])
    assert value["net.netfilter.nf_conntrack_tcp_timeout_established"][0] > 10 * 60, "far above the heartbeat"
    assert value["net.ipv4.tcp_max_syn_backlog"][0] >= value["net.core.somaxconn"][0]


@pytest.mark.parametrize("profile", ALL)
def test_every_line_says_why_and_how_to_verify(profile):
    for setting in profile.settings:
        assert len(setting.why) > 10 and len(setting.verify) > 10, setting.key


@pytest.mark.parametrize(
    "text, says",
    [
        ("a.b = 1", 'no "# Why:"'),
        ("# Why: x\n# Verify: y\na.b = 1", 'no "# Rule:"'),
        ("# Why: x\n# Verify: y\n# Rule: perhaps\na.b = 1", "the rule is"),
        ("# Why: x\n# Verify: y\n# Rule: exactly\na.b=1", "not of the form"),
        ("# Why: x\n# Verify: y\n# Rule: exactly\na.b = 1", "for how many connections"),
        ("# Why: x\n# Verify: y\n# Rule: exactly\n\na.b = 1", 'no "# Why:"'),
    ],
)
def test_a_careless_line_is_refused(text, says):
    with pytest.raises(profiles.ProfileError, match=says):
        profiles.parse("test", text)


@pytest.mark.parametrize("profile", ALL)
def test_this_kernel_has_every_setting_that_is_not_optional(profile):
    if not pathlib.Path("/proc/sys/fs/nr_open").exists():
        pytest.skip("no /proc/sys here")
    for setting in profile.settings:
        here = pathlib.Path("/proc/sys", setting.key.replace(".", "/"))
        # Containers have a network namespace of their own, which does not show what belongs to the machine.
        assert setting.optional or here.exists() or in_a_container() and setting.key.startswith("net."), setting.key


# Runs in a network namespace of its own: what it sets there nobody else sees. What belongs to the whole machine is not writable there.
SETTER = """
import json, os, sys
out = []
for key, value in json.load(sys.stdin):
    path = "/proc/sys/" + key.replace(".", "/")
    if not key.startswith("net.") or not os.path.exists(path) or not os.stat(path).st_mode & 0o200:
        continue
    try:
        with open(path, "w") as file:
            file.write(value)
        with open(path) as file:
            out.append([key, value, " ".join(file.read().split())])
    except OSError as error:
        out.append([key, value, str(error)])
print(json.dumps(out))
"""


@pytest.mark.parametrize("profile", ALL)
def test_the_kernel_here_takes_every_value(profile):
    lines = json.dumps([(setting.key, setting.value) for setting in profile.settings if not setting.optional])
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    result = run(*unshare, sys.executable, "-c", SETTER, input=lines)
    if result.returncode != 0:
        pytest.skip(f"no network namespace here: {result.stderr.strip()}")
    taken = json.loads(result.stdout)
    assert len(taken) >= 15
    assert [line for line in taken if line[1] != line[2]] == []


def test_apply_explains_every_line():
    result = run(TUNING / "apply", "100k", "--explain")
    assert result.returncode == 0
    for setting in profiles.load("100k").settings:
        assert f"{setting.key} = {setting.value}" in result.stdout
    assert result.stdout.count("Verify: ") == len(profiles.load("100k").settings)


def in_a_container():
    return os.stat("/proc/self/ns/net").st_ino != 4026531840 and not pathlib.Path("/proc/sys/net/core/netdev_max_backlog").exists()
