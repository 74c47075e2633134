"""nginx and HAProxy with the configurations of `deploy/`, where only addresses and ports are others'."""

import atexit
import contextlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from gateway import ROOT

DEPLOY = ROOT / "deploy"
START_S = 10
RUNNING = set()


@atexit.register
def leave_nothing_running():
    for balancer in list(RUNNING):
        balancer.stop()


def binary(name):
    """Debian has them where only root's PATH looks."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def swap(text, pattern, by, count=None):
    """Replaces what the shipped file must have."""
    text, found = re.subn(pattern, by, text)
    assert found == count or (count is None and found), f"{pattern} is there {found} times"
    return text


class Balancer:
    """A balancer in front of three gateways, called node-1 to node-3. Clients come to `host` and `port`."""

    host = "127.0.0.1"

    def __init__(self, nodes, port):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ringgate-balancer-"))
        # Its unprivileged processes must reach what is in there.
        self.dir.chmod(0o755)
        self.nodes = nodes
        self.process = None
        RUNNING.add(self)
        self.port = port
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        print(f"--- log of the balancer ---\n{self.log()[-4000:]}")
        self.stop()

    @property
    def client(self):
        return f"{self.host}:{self.port}"

    def url(self, path="/ws", **query):
        from urllib.parse import urlencode

        return f"ws://{self.client}{path}" + (f"?{urlencode(query)}" if query else "")

    def log(self):
        return (self.dir / "log").read_text(errors="replace") if (self.dir / "log").exists() else ""

    def start(self):
        command = self.command()
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError(f"it does not come up\n{self.log()}")

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def stop(self):
        self.end()
        RUNNING.discard(self)
        if self.process is not None:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.process = None


class Nginx(Balancer):
    """nginx with one of the files of `deploy/nginx`."""

    file = "ringgate.conf"

    def command(self):
        text = (DEPLOY / "nginx" / self.file).read_text()
        text = swap(text, r"listen 80;", f"listen {self.host}:{self.port};", 1)
        for number, node in enumerate(self.nodes, 1):
            text = swap(text, rf"\b10\.0\.0\.1{number}:8080\b", node.client)
        (self.dir / "ringgate.conf").write_text(text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{kind}_temp_path {self.dir}/{kind};" for kind in kinds)
        main = self.dir / "nginx.conf"
        main.write_text(
            f"daemon off;\nworker_processes 1;\npid {self.dir}/pid;\nerror_log stderr warn;\n"
            f"events {{ worker_connections 1024; }}\nhttp {{\n{paths}\naccess_log off;\ninclude {self.dir}/ringgate.conf;\n}}\n"
        )
        return [binary("nginx"), "-e", "stderr", "-p", str(self.dir), "-c", str(main)]


class NginxByRoute(Nginx):
    """nginx that asks /route."""

    file = "ringgate-route.conf"


class Haproxy(Balancer):
    """HAProxy with the file of `deploy/haproxy`."""

    def command(self):
        text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
        text = swap(text, r"bind :80\n", f"bind {self.host}:{self.port}\n", 1)
        text = swap(text, r"maxconn 200000", "maxconn 500", 1)
        for number, node in enumerate(self.nodes, 1):
            _, admin_port = node.admin.rsplit(":", 1)
            text = swap(text, rf"10\.0\.0\.1{number}:8080 check port 8081", f"{node.client} check port {admin_port}", 1)
        (self.dir / "haproxy.cfg").write_text(text)
        return [binary("haproxy"), "-db", "-f", str(self.dir / "haproxy.cfg")]
