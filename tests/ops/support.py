"""What these tests have in common: scratch machines, and programs that are run to their end."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUNING = ROOT / "tuning"
SYSTEMD = ROOT / "systemd"
BINARY = pathlib.Path(
    os.environ.get("RINGGATE_BIN")
    or pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "ringgate"
)
sys.dont_write_bytecode = True
sys.path.insert(0, str(TUNING))
# What the process tests have for everybody.
sys.path.append(str(ROOT / "tests" / "process"))

GIB = 1 << 30

# A machine as a distribution leaves it: 8 cores, 16 GiB.
SYSCTLS = {
    "fs.file-max": "1600000",
    "fs.file-nr": "1000\t0\t1600000",
    "fs.nr_open": "1048576",
    "fs.epoll.max_user_watches": "3600000",
    "kernel.osrelease": "6.12.0",
    "kernel.io_uring_disabled": "0",
    "kernel.io_uring_group": "-1",
    "vm.min_free_kbytes": "67584",
    "net.core.somaxconn": "4096",
    "net.core.netdev_max_backlog": "1000",
    "net.core.netdev_budget": "300",
    "net.core.rmem_max": "212992",
    "net.core.wmem_max": "212992",
    "net.core.default_qdisc": "fq_codel",
    "net.core.busy_poll": "0",
    "net.core.busy_read": "0",
    "net.core.rps_sock_flow_entries": "0",
    "net.ipv4.tcp_mem": "190000\t253000\t380000",
    "net.ipv4.tcp_rmem": "4096\t131072\t6291456",
    "net.ipv4.tcp_wmem": "4096\t16384\t4194304",
    "net.ipv4.tcp_notsent_lowat": "4294967295",
    "net.ipv4.tcp_max_syn_backlog": "2048",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.tcp_abort_on_overflow": "0",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv4.tcp_tw_reuse": "2",
    "net.ipv4.tcp_max_tw_buckets": "131072",
    "net.ipv4.tcp_max_orphans": "65536",
    "net.ipv4.tcp_orphan_retries": "0",
    "net.ipv4.tcp_fin_timeout": "60",
    "net.ipv4.tcp_keepalive_time": "7200",
    "net.ipv4.tcp_keepalive_intvl": "75",
    "net.ipv4.tcp_keepalive_probes": "9",
    "net.ipv4.tcp_retries2": "15",
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.ipv4.tcp_slow_start_after_idle": "1",
    "net.ipv4.tcp_mtu_probing": "0",
    "net.ipv4.tcp_ehash_entries": "131072",
    "net.netfilter.nf_conntrack_max": "131072",
    "net.netfilter.nf_conntrack_count": "100",
    "net.netfilter.nf_conntrack_buckets": "131072",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "432000",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": "120",
}


class Scratch:
    """A machine made of files below a folder."""

    def __init__(self, root, *, memory=16 * GIB, cores=8, nofile=1_048_576):
        self.root = root
        for key, value in SYSCTLS.items():
            self.set(key, value)
        self.memory(memory)
        self.write("/proc/cpuinfo", "".join(f"processor\t: {core}\n\n" for core in range(cores)))
        self.write("/proc/self/cgroup", "0::/user.slice\n")
        self.nofile(nofile)

    def path(self, absolute):
        return self.root / absolute.lstrip("/")

    def write(self, absolute, text):
        path = self.path(absolute)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, absolute):
        return self.path(absolute).read_text()

    def sysctl_path(self, key):
        return self.path("/proc/sys/" + key.replace(".", "/"))

    def set(self, key, value):
        self.write("/proc/sys/" + key.replace(".", "/"), value + "\n")

    def get(self, key):
        return " ".join(self.sysctl_path(key).read_text().split())

    def remove(self, key):
        self.sysctl_path(key).unlink()

    def memory(self, size):
        self.write("/proc/meminfo", f"MemTotal: {size // 1024} kB\nMemFree: 1 kB\nMemAvailable: {size * 9 // 10 // 1024} kB\n")

    def nofile(self, limit):
        self.write("/proc/self/limits", limits(limit))

    def settings(self):
        """Every kernel setting with its value."""
        folder = self.path("/proc/sys")
        return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}

    def files(self):
        """Every file outside /proc and /sys with its text."""
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in self.root.rglob("*")
            if path.is_file() and path.relative_to(self.root).parts[0] not in ("proc", "sys")
        }

    def run(self, script, *arguments):
        """Runs a script of tuning/ on this machine."""
        return run(TUNING / script, *arguments, env={**os.environ, "RINGGATE_TUNING_ROOT": str(self.root)})


def limits(nofile):
    """The text of /proc/PID/limits."""
    return (
        "Limit                     Soft Limit           Hard Limit           Units\n"
        f"Max open files            1024                 {nofile:<20} files\n"
        "Max locked memory         8388608              8388608              bytes\n"
    )


def run(*command, **options):
    """Runs a program to its end."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options = {"capture_output": True, "text": True, "timeout": 100, **options}
    return subprocess.run([str(part) for part in command], **options)


def clean_environment(**extra):
    """This environment without what would configure a gateway."""
    names = ("RINGGATE_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {**{n: v for n, v in os.environ.items() if not n.startswith(names)}, **extra}


@contextlib.contextmanager
def started(*command, **options):
    """A process that is ended whatever happens."""
    process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def client(address, user):
    """A client that has sent its upgrade request and has an answer: (socket, first line of the answer)."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            f"GET /ws?user_id={user} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        yield connection, connection.recv(4096).split(b"\r\n")[0].decode()


def handshake(address, user):
    """Connects a client, and returns the first line of the answer."""
    with client(address, user) as (_, line):
        return line


def read_json(path):
    """What a JSON file says; None while it is not there, or not whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def eventually(condition, what, timeout=20):
    """Polls until `condition()` is true and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)
