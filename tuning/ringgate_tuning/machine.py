"""What there is: the facts about a machine that bound its connections. Reads files only, needs no privileges."""

import ctypes
import errno
import os
import re
import tomllib
from dataclasses import dataclass

CONFIG = "/etc/ringgate/ringgate.toml"
UNIT = "ringgate.service"
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
IO_URING_SETUP = 425
# What the first generation of control groups calls no limit is a little less than 2^63.
NO_LIMIT = 1 << 60


@dataclass
class Machine:
    """Facts. None: this machine does not say, or has no such bound."""

    kernel: tuple
    cores: int
    memory_available: int | None
    cgroup_available: int | None
    nofile: int | None
    nofile_whose: str
    file_max: int | None
    file_used: int
    nr_open: int | None
    tcp_mem: tuple | None
    tcp_hash_chains: int | None
    conntrack_max: int | None
    conntrack_used: int
    epoll_watches: int | None
    somaxconn: int | None
    ports: tuple | None
    io_uring_forbidden: str | None
    # Keys of the configuration file that matter here, by their dotted names.
    config: dict


def look(host):
    """Gathers the facts."""
    nofile, whose = _nofile(host)
    kernel = _kernel(host)
    file_nr = (host.read("/proc/sys/fs/file-nr") or "0 0").split()
    tcp_mem = host.sysctl("net.ipv4.tcp_mem")
    ports = host.sysctl("net.ipv4.ip_local_port_range")
    return Machine(
        kernel=kernel,
        cores=_cores(host),
        memory_available=_memory_available(host),
        cgroup_available=_cgroup_available(host),
        nofile=nofile,
        nofile_whose=whose,
        file_max=_number(host, "fs.file-max"),
        file_used=int(file_nr[0]),
        nr_open=_number(host, "fs.nr_open"),
        tcp_mem=tuple(map(int, tcp_mem.split())) if tcp_mem else None,
        tcp_hash_chains=_number(host, "net.ipv4.tcp_ehash_entries"),
        conntrack_max=_number(host, "net.netfilter.nf_conntrack_max"),
        conntrack_used=_number(host, "net.netfilter.nf_conntrack_count") or 0,
        epoll_watches=_number(host, "fs.epoll.max_user_watches"),
        somaxconn=_number(host, "net.core.somaxconn"),
        ports=tuple(map(int, ports.split())) if ports else None,
        io_uring_forbidden=_io_uring_forbidden(host, kernel),
        config=_config(host),
    )


def _number(host, key):
    text = host.sysctl(key)
    # Some are negative for "none", which is no bound.
    return int(text) if text and text.isdigit() else None


def _kernel(host):
    match = re.match(r"(\d+)\.(\d+)", host.read("/proc/sys/kernel/osrelease") or "")
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _cores(host):
    if host.is_real:
        return len(os.sched_getaffinity(0))
    return max(1, len(re.findall(r"^processor\s*:", host.read("/proc/cpuinfo") or "", re.MULTILINE)))


def _memory_available(host):
    match = re.search(r"^MemAvailable:\s+(\d+) kB", host.read("/proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _cgroup_available(host):
    """What the tightest memory limit around this process leaves: containers have one. Both generations of control groups."""
    groups = host.read("/proc/self/cgroup") or ""
    left = []
    for pattern, mount, most, used in (
        (r"^0::(/.*)$", "/sys/fs/cgroup", "memory.max", "memory.current"),
        (r"^\d+:(?:\w+,)*memory(?:,\w+)*:(/.*)$", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        match = re.search(pattern, groups, re.MULTILINE)
        folder = match[1].rstrip("/") if match else None
        while folder is not None:
            left.append(_group_available(host, mount + folder, most, used))
            folder = folder.rpartition("/")[0] if folder else None
    return min((amount for amount in left if amount is not None), default=None)


def _group_available(host, folder, most, used):
    """What one control group leaves; None where it has no limit. Cached file contents give way, so they do not count as used."""
    limit, usage = (host.read(f"{folder}/{name}") or "" for name in (most, used))
    if not (limit.isdigit() and usage.isdigit()) or int(limit) >= NO_LIMIT:
        return None
    cache = re.search(r"^(?:total_)?inactive_file (\d+)$", host.read(f"{folder}/memory.stat") or "", re.MULTILINE)
    return max(0, int(limit) - int(usage) + (int(cache[1]) if cache else 0))


def _nofile(host):
    """The descriptor limit that counts: of the running gateway, else what its unit will set, else this shell's."""
    for pid in filter(str.isdigit, host.names("/proc")):
        if host.read(f"/proc/{pid}/comm") == "ringgate":
            limit = _open_files(host.read(f"/proc/{pid}/limits"))
            if limit is not None:
                return limit, f"of the running gateway (process {pid})"
    limit = _unit_nofile(host)
    if limit is not None:
        return limit, f"that {UNIT} will get"
    return _open_files(host.read("/proc/self/limits")), "of this shell"


def _open_files(text):
    match = re.search(r"^Max open files\s+\S+\s+(\d+)", text or "", re.MULTILINE)
    return int(match[1]) if match else None


def _unit_nofile(host):
    unit = next((folder for folder in UNIT_FOLDERS if host.exists(f"{folder}/{UNIT}")), None)
    if unit is None:
        return None
    drop_ins = {name: folder for folder in reversed(UNIT_FOLDERS) for name in host.names(f"{folder}/{UNIT}.d") if name.endswith(".conf")}
    limit = None
    for path in (f"{unit}/{UNIT}", *(f"{drop_ins[name]}/{UNIT}.d/{name}" for name in sorted(drop_ins))):
        for value in re.findall(r"^LimitNOFILE=(?:\d+:)?(\w+)\s*$", host.read(path) or "", re.MULTILINE):
            limit = int(value) if value.isdigit() else _number(host, "fs.nr_open")
    # systemd sets as much as there may be.
    ceiling = _number(host, "fs.nr_open")
    return limit if limit is None or ceiling is None else min(limit, ceiling)


def _io_uring_forbidden(host, kernel):
    """Why the gateway will fall back to epoll here; None: it will not."""
    if kernel < (5, 19):
        return f"kernel {kernel[0]}.{kernel[1]} is too old for it: 5.19 or newer is needed"
    switch = host.sysctl("kernel.io_uring_disabled")
    if switch == "2":
        return "kernel.io_uring_disabled = 2 forbids it to everybody"
    if switch == "1":
        return f"kernel.io_uring_disabled = 1 allows it only to the group {host.sysctl('kernel.io_uring_group')}"
    if host.is_real:
        # A ring of one entry; a seccomp filter (containers) or a security module says no here, and nowhere else.
        parameters = ctypes.create_string_buffer(120)
        ring = ctypes.CDLL(None, use_errno=True).syscall(IO_URING_SETUP, 1, parameters)
        if ring < 0:
            return f"io_uring_setup says {errno.errorcode.get(ctypes.get_errno(), '?')}: a container or security policy forbids it"
        os.close(ring)
    return None


def _config(host):
    """The keys of the configuration file, flat; empty where it is not there, may not be read, or is damaged."""
    try:
        sections = tomllib.loads(host.read(CONFIG) or "")
    except tomllib.TOMLDecodeError:
        return {}
    return {f"{name}.{key}": value for name, keys in sections.items() if isinstance(keys, dict) for key, value in keys.items()}
