"""A private redis-server, and a client that speaks to it as a service or an operator would."""

import atexit
import contextlib
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

TIMEOUT_S = 10
START_S = 10
RUNNING = set()


@atexit.register
def leave_nothing_running():
    for server in list(RUNNING):
        server.stop()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return reserved.getsockname()[1]


class RedisError(Exception):
    """An error reply."""


class Redis:
    """One connection in RESP2. Replies are `bytes`, `int`, `list` or `None`."""

    def __init__(self, address, *, user=None, password=None, timeout=TIMEOUT_S):
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), timeout=timeout)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        self.timeout = timeout
        self.received = b""
        if password is not None:
            self.call("AUTH", *([user] if user else []), password)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, *words):
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self.socket.sendall(b"*%d\r\n%s" % (len(parts), packed))

    def call(self, *words):
        """The reply, or `RedisError`."""
        self.send(*words)
        return self.reply()

    def reply(self, timeout=None):
        self.socket.settimeout(timeout or self.timeout)
        kind, rest = (line := self._line())[:1], line[1:]
        if kind == b"-":
            raise RedisError(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._bytes(int(rest) + 2)[:-2]
        assert kind == b"*", line
        return None if rest == b"-1" else [self.reply(timeout) for _ in range(int(rest))]

    def _line(self):
        while b"\r\n" not in self.received:
            self._fill()
        line, _, self.received = self.received.partition(b"\r\n")
        return line

    def _bytes(self, count):
        while len(self.received) < count:
            self._fill()
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def _fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("Redis has closed the connection")
        self.received += data


class Listener:
    """A connection that is subscribed; in a `with`."""

    def __init__(self, redis, *channels, patterns=()):
        self.redis = redis
        for command, names in (("SUBSCRIBE", channels), ("PSUBSCRIBE", patterns)):
            if names:
                redis.send(command, *names)
                for _ in names:
                    redis.reply()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.redis.close()

    def next(self, timeout=TIMEOUT_S):
        """Channel and payload of the next message."""
        reply = self.redis.reply(timeout)
        return reply[-2].decode(), reply[-1]

    def taken(self, within):
        """What comes until nothing has come for so long."""
        messages = []
        with contextlib.suppress(TimeoutError):
            while True:
                messages.append(self.next(within))
        return messages


class RedisServer:
    """A server of one's own: a free port, a unix socket and a directory. It can be killed, restarted on the same port, and stopped where it stands."""

    def __init__(self, *args, users=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ringgate-redis-"))
        self.socket_path = self.dir / "redis.sock"
        self.args = list(args)
        if users:
            acl = self.dir / "users.acl"
            acl.write_text("".join(f"user {line}\n" for line in users))
            self.args += ["--aclfile", str(acl)]
        self.process = None
        self.asked_for_keys = 0
        RUNNING.add(self)
        # Another process may take the port in between: then this server ends at once, and another port is tried.
        for _ in range(5):
            self.port = free_port()
            with contextlib.suppress(AssertionError):
                self.start()
                return
        raise AssertionError("redis-server does not come up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, *more):
        """Starts it, empty, where it was before."""
        assert self.process is None or self.process.poll() is not None, "it still runs"
        self.asked_for_keys = 0
        self.socket_path.unlink(missing_ok=True)
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.dir)]
        command += ["--save", "", "--appendonly", "no", "--unixsocket", str(self.socket_path), *self.args, *more]
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                    probe.sendall(b"PING\r\n")
                    # PONG, or that it wants to know who asks.
                    if self.socket_path.exists() and probe.recv(64)[:1] in (b"+", b"-"):
                        return
            time.sleep(0.01)
        raise AssertionError(f"redis-server does not come up\n{(self.dir / 'log').read_text()}")

    def kill(self):
        """SIGKILL: nothing is saved, every connection ends."""
        self.process.kill()
        self.process.wait()

    def restart(self, *more):
        self.kill()
        self.start(*more)

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()
        RUNNING.discard(self)
        shutil.rmtree(self.dir, ignore_errors=True)

    def url(self, user="", path="", port=None):
        """`user` is `name:password`."""
        return f"redis://{user + '@' if user else ''}127.0.0.1:{port or self.port}{path}"

    def unix_url(self, query=""):
        return f"unix://{self.socket_path}{query}"

    def connect(self, **options):
        return Redis(self.socket_path, **options)

    def call(self, *words, **options):
        with self.connect(**options) as redis:
            return redis.call(*words)

    def listen(self, *channels, patterns=(), **options):
        return Listener(self.connect(**options), *channels, patterns=patterns)

    def publish(self, channel, payload):
        """How many connections heard it."""
        return self.call("PUBLISH", channel, payload)

    def keys(self):
        """Every key: only for tests, which have few."""
        self.asked_for_keys += 1
        return sorted(key.decode() for key in self.call("KEYS", "*"))

    def calls(self):
        """How often each command was called, those that scripts call included, but not by `keys`."""
        counted = {}
        for line in self.call("INFO", "commandstats").decode().splitlines():
            if line.startswith("cmdstat_"):
                name, _, rest = line.removeprefix("cmdstat_").partition(":calls=")
                counted[name] = int(rest.split(",")[0])
        counted["keys"] = counted.get("keys", 0) - self.asked_for_keys
        return {name: count for name, count in counted.items() if count}

    def clients(self):
        """What `CLIENT LIST` says, by connection, without ours."""
        lines = self.call("CLIENT", "LIST").decode().splitlines()
        clients = [dict(word.split("=", 1) for word in line.split(" ") if "=" in word) for line in lines]
        return [client for client in clients if client.get("name")]
