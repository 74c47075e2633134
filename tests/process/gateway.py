"""The built binary as a process: started on free ports, watched, and always stopped."""

import atexit
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from urllib.parse import urlencode

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(
    os.environ.get("RINGGATE_BIN")
    or pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "ringgate"
)

START_S = 20
STOP_S = 20

# What every test gateway differs in from the defaults, unless a test sets it back: free ports, no limit on connections from
# 127.0.0.1 (which all tests share), and a drain without a pause.
BASE = {
    "listen.client": "127.0.0.1:0",
    "listen.admin": "127.0.0.1:0",
    "limits.connections_per_ip": 0,
    "limits.messages_per_second": 0,
    "limits.bytes_per_second": 0,
    "drain.spread": "100ms",
    "drain.deadline": "5s",
}


RUNNING = set()


@atexit.register
def leave_nothing_running():
    for gateway in list(RUNNING):
        gateway.kill()


class StartFailed(AssertionError):
    """The process ended, or did not write its ready file in time."""


def environment(extra=None):
    """The environment of a gateway: this one's, without what would configure it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RINGGATE_")}
    env.update(extra or {})
    return env


def run(*args, env=None, timeout=15, **kwargs):
    """Runs the binary to its end; for commands that do not serve."""
    return subprocess.run(
        [BINARY, *map(str, args)],
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **kwargs,
    )


def toml_value(value):
    """A Python value as TOML (JSON is TOML for the types used here)."""
    return json.dumps(value)


def toml(settings):
    """`{"a.b": 1}` as a TOML document."""
    sections = {}
    for key, value in settings.items():
        section, name = key.split(".", 1)
        sections.setdefault(section, []).append(f"{name} = {toml_value(value)}")
    return "\n".join(line for section, lines in sections.items() for line in [f"[{section}]", *lines, ""])


class Gateway:
    """One running gateway. `settings` maps configuration keys to values; they go into a configuration file.

    `query` goes into every URL of it.
    """

    query = {}

    def __init__(self, settings=None, *, args=(), env=None, preexec_fn=None, base=BASE):
        self._dir = tempfile.TemporaryDirectory(prefix="ringgate-test-")
        self.dir = pathlib.Path(self._dir.name)
        self.settings = {**base, **(settings or {})}
        config = self.dir / "ringgate.toml"
        config.write_text(toml(self.settings))
        self.ready_file = self.dir / "ready.json"
        self._log = open(self.dir / "log", "wb")
        self.process = subprocess.Popen(
            [BINARY, "--config", config, "--ready-file", self.ready_file, *map(str, args)],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec_fn,
        )
        RUNNING.add(self)
        try:
            self.ready = self._wait_ready()
        except BaseException:
            self.kill()
            raise
        self.client = self.ready["client"]
        self.admin = self.ready["admin"]
        self.host, port = self.client.rsplit(":", 1)
        self.port = int(port)

    def _wait_ready(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise StartFailed(f"exit code {self.process.returncode} instead of a start\n{self.log()}")
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads(self.ready_file.read_text())
            time.sleep(0.01)
        raise StartFailed(f"no ready file within {START_S} s\n{self.log()}")

    @property
    def pid(self):
        return self.process.pid

    @property
    def node_id(self):
        return self.ready["node_id"]

    @property
    def running(self):
        return self.process.poll() is None

    def path(self, path="/ws", **query):
        query = {**self.query, **query}
        return path + (f"?{urlencode(query)}" if query else "")

    def url(self, path="/ws", **query):
        return f"ws://{self.client}{self.path(path, **query)}"

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def wait_log(self, text, timeout=5):
        """Waits until the log contains `text`; returns the line."""
        return eventually(
            lambda: next((line for line in self.log().splitlines() if text in line), None),
            f"{text!r} in the log",
            timeout,
        )

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=STOP_S):
        """The exit code, once it has ended by itself."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the gateway still runs {timeout} s later\n{self.log()[-4000:]}") from None

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        RUNNING.discard(self)
        self._log.close()

    def stop(self):
        """Ends it as an operator would, and requires that this goes well."""
        try:
            if self.process.poll() is None:
                self.signal()
                code = self.wait()
                assert code == 0, f"exit code {code} after SIGTERM\n{self.log()[-4000:]}"
            assert "panicked at" not in self.log(), f"a panic in the log:\n{self.log()[-8000:]}"
        finally:
            self.kill()
            self._dir.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            self.kill()
            print(f"--- log of the gateway ---\n{self.log()[-8000:]}")
            self._dir.cleanup()

    def memory_bytes(self):
        """Resident memory of the process."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def descriptors(self):
        """Open descriptors of the main thread's table, which is everybody's where `shards.fd_tables` is `shared`."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def eventually(condition, what, timeout=5):
    """Polls until `condition()` is true and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)
