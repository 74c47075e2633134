"""What the gateway tells the service manager, over a real notify socket: sd_notify(3), and the watchdog with a shard that hangs."""

import contextlib
import os
import signal
import socket
import time

import pytest
from stall import shard_threads, stopped
from support import clean_environment, client, eventually, handshake, read_json, started

# Shards that answer are at most this old when WATCHDOG=1 is sent, and a message takes some time on a busy machine.
FRESH_S = 2
SLACK_S = 2


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if path is None:
            self.name = f"@ringgate-test-{os.getpid()}-{time.monotonic_ns()}"
            self.socket.bind("\0" + self.name[1:])
        else:
            self.name = str(path)
            self.socket.bind(self.name)

    def next(self, timeout=20):
        """The next message as a mapping."""
        self.socket.settimeout(timeout)
        text = self.socket.recv(4096).decode()
        return dict(line.split("=", 1) for line in text.splitlines())

    def until(self, key, timeout=20):
        """The next message that has `key`; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if key in message:
                return message

    def drain(self):
        """Throws away what has arrived."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(4096)

    def is_silent(self, seconds):
        """Whether nothing arrives for so long."""
        try:
            self.next(seconds)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def gateway(binary, tmp_path):
    """Starts a gateway under a manager: (manager, process, log)."""
    with contextlib.ExitStack() as stack:

        def start(*settings, path=True, **environment):
            manager = Manager(tmp_path / "notify" if path else None)
            stack.callback(manager.socket.close)
            config = tmp_path / "ringgate.toml"
            config.write_text("")
            log = tmp_path / "log"
            sets = [f"--set={s}" for s in ("listen.client=127.0.0.1:0", "listen.admin=127.0.0.1:0", "shards.count=3", *settings)]
            environment = clean_environment(NOTIFY_SOCKET=manager.name, **environment)
            output = stack.enter_context(open(log, "wb"))
            process = stack.enter_context(
                started(binary, "--config", config, "--ready-file", tmp_path / "ready", *sets, env=environment, stdout=output, stderr=output)
            )
            return manager, process, log

        yield start


@pytest.mark.parametrize("path", [True, False], ids=["path", "abstract"])
def test_ready_comes_once_clients_can_connect(gateway, tmp_path, path):
    manager, _, _ = gateway(path=path)
    assert manager.next()["READY"] == "1"
    assert handshake(read_json(tmp_path / "ready")["client"], "a").startswith("HTTP/1.1 101 ")


def test_a_reload_is_told_and_ended(gateway):
    manager, process, _ = gateway()
    manager.until("READY")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    process.send_signal(signal.SIGHUP)
    reloading = manager.next()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= after
    assert manager.next()["READY"] == "1"


def test_a_reload_that_fails_is_ended_too(gateway, tmp_path):
    manager, process, log = gateway()
    manager.until("READY")
    (tmp_path / "ringgate.toml").write_text("[nonsense]\n")
    process.send_signal(signal.SIGHUP)
    assert manager.next()["RELOADING"] == "1"
    assert manager.next()["READY"] == "1"
    eventually(lambda: "nonsense" in log.read_text(), "the reason in the log")
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_told_with_the_time_that_it_may_take(gateway, number):
    manager, process, _ = gateway("drain.deadline=90s", "drain.spread=0")
    manager.until("READY")
    process.send_signal(number)
    message = manager.next()
    assert message["STOPPING"] == "1"
    assert int(message["EXTEND_TIMEOUT_USEC"]) >= 90_000_000
    assert process.wait(20) == 0


def test_nobody_watches_no_watchdog(gateway):
    manager, _, _ = gateway()
    manager.until("READY")
    assert manager.is_silent(2)


@pytest.mark.parametrize("environment", [{"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}])
def test_another_process_is_watched(gateway, environment):
    manager, _, _ = gateway(**environment)
    manager.until("READY")
    assert manager.is_silent(2)


def test_the_watchdog_is_fed_in_time(gateway):
    manager, process, _ = gateway(WATCHDOG_USEC="4000000")
    manager.until("READY")
    for _ in range(4):
        began = time.monotonic()
        assert manager.next() == {"WATCHDOG": "1"}
        assert time.monotonic() - began < 4
    process.send_signal(signal.SIGTERM)
    assert manager.until("STOPPING")
    assert process.wait(20) == 0


@pytest.mark.parametrize("driver, which", [("auto", 0), ("auto", 2), ("epoll", 1)])
def test_one_shard_that_hangs_silences_the_watchdog(gateway, driver, which):
    manager, process, log = gateway(f"shards.driver={driver}", WATCHDOG_USEC="2000000")
    manager.until("READY")
    threads = shard_threads(process.pid)
    assert len(threads) == 3
    assert manager.next() == {"WATCHDOG": "1"}
    with stopped(threads[which]):
        # What was answered before may still be told.
        time.sleep(FRESH_S + SLACK_S)
        manager.drain()
        assert manager.is_silent(4)
        eventually(lambda: f"shards=[{which}]" in log.read_text(), "the shard named in the log")
    assert manager.next(10) == {"WATCHDOG": "1"}, "it goes on when the shard does"
    assert process.poll() is None


def test_it_feeds_the_watchdog_while_it_drains(gateway, tmp_path):
    manager, process, _ = gateway("drain.grace=4s", "drain.deadline=30s", WATCHDOG_USEC="2000000")
    manager.until("READY")
    with client(read_json(tmp_path / "ready")["client"], "a") as (_, line):
        assert line.startswith("HTTP/1.1 101 ")
        process.send_signal(signal.SIGTERM)
        manager.until("STOPPING")
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            assert manager.next(2) == {"WATCHDOG": "1"}
    assert process.wait(40) == 0
