"""The admin listener as a service or an operator uses it."""

import http.client
import json
import re
import socket

from wire import Response

TIMEOUT_S = 15


class Failed(Exception):
    """The server API answered with an error."""

    def __init__(self, status, answer):
        super().__init__(f"{status}: {answer}")
        self.status = status
        self.error = answer.get("error", {}) if isinstance(answer, dict) else {}
        self.code = self.error.get("code")
        self.message = self.error.get("message", "")


class Admin:
    """One keep-alive connection to the admin listener."""

    def __init__(self, gateway, key=None):
        host, port = gateway.admin.rsplit(":", 1)
        self.http = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=TIMEOUT_S)
        self.key = key

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.http.close()

    def get(self, path, method="GET", **headers):
        self.http.request(method, path, headers=headers)
        response = self.http.getresponse()
        return response.status, response.read().decode(), response.headers

    def json(self, path):
        status, body, _ = self.get(path)
        return status, json.loads(body)

    def post(self, verb, body, headers=None):
        """Status and answer, whatever they are."""
        sent = {"Content-Type": "application/json", **({"X-API-Key": self.key} if self.key else {}), **(headers or {})}
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        self.http.request("POST", f"/api/{verb}", body=data, headers=sent)
        response = self.http.getresponse()
        return response.status, json.loads(response.read())

    def call(self, verb, **body):
        """The result, or `Failed`."""
        status, answer = self.post(verb, body)
        if status != 200:
            raise Failed(status, answer)
        return answer

    def refused(self, verb, **body):
        try:
            answer = self.call(verb, **body)
        except Failed as failed:
            return failed
        raise AssertionError(f"{verb} {body} was answered {answer}, not refused")

    def publish(self, to, content, **options):
        return self.call("publish", to=to, content=content, **options)

    def metrics(self):
        status, text, headers = self.get("/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parse_metrics(text)


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)?\}})? ([^ ]+)")


def parse_metrics(text):
    """`{family: (type, help, {sample with labels: value})}`; fails where the text is not as Prometheus wants it."""
    assert text.endswith("\n")
    families, family = {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, family, help = line.split(" ", 3)
            assert family not in families, f"{family} twice"
            families[family] = [None, help, {}]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            assert name == family and families[family][0] is None, f"TYPE of {name} does not follow its HELP"
            assert kind in ("counter", "gauge", "histogram"), line
            families[family][0] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"not a sample: {line!r}"
            name, labels, value = match.groups()
            kind, _, samples = families[family]
            allowed = {family} if kind != "histogram" else {f"{family}_{part}" for part in ("bucket", "sum", "count")}
            assert name in allowed, f"{name} in the family {family}"
            sample = f"{name}{{{labels}}}" if labels else name
            assert sample not in samples, f"{sample} twice"
            samples[sample] = float(value)
    return {name: tuple(parts) for name, parts in families.items()}


class AdminWire:
    """Bytes to and from the admin listener."""

    def __init__(self, gateway):
        host, port = gateway.admin.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def response(self):
        """The next response; None at the end of the stream."""
        while b"\r\n\r\n" not in self.received:
            data = self.socket.recv(65536)
            if not data:
                assert not self.received, f"half a response: {self.received!r}"
                return None
            self.received += data
        head, _, rest = self.received.partition(b"\r\n\r\n")
        response = Response(head, b"")
        length = int(response.headers["content-length"])
        while len(rest) < length:
            data = self.socket.recv(65536)
            assert data, "half a body"
            rest += data
        response.body, self.received = rest[:length], rest[length:]
        return response

    def ended(self):
        """Whether the stream ends, without anything more."""
        try:
            return self.received == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True
