"""Webhooks: what services are told, and what happens when they do not listen."""

import hashlib
import hmac
import http.server
import json
import socket
import threading
import time

import pytest

from admin import Admin
from gateway import eventually


class Service:
    """A service that takes events. `answers` are the statuses of its first answers; then it says 200."""

    def __init__(self, answers=(), delay=0.0):
        self.events, self.deliveries, self.requests = [], [], []
        self.answers = list(answers)
        self.delay = delay
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append((dict(self.headers), body))
                time.sleep(service.delay)
                status = service.answers.pop(0) if service.answers else 200
                if status == 200:
                    delivery = json.loads(body)
                    service.deliveries.append(delivery)
                    service.events += delivery["events"]
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/events?x=1"

    def of(self, *types):
        return [event for event in self.events if event["type"] in types]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


ALL = ["connect", "disconnect", "join", "leave", "message"]


def total(gateway, family):
    with Admin(gateway) as admin:
        return sum(admin.metrics()[family][2].values())


def test_everything_is_told_in_order(start, connect):
    with Service() as service:
        gateway = start({"hooks.url": service.url, "hooks.events": ALL, "hooks.batch_delay": "20ms"})
        client = connect(gateway, "ann", user_agent_header="probe/1")
        client.request("join", roomId="r")
        client.request("subscribe", channel="c")
        sent = client.request("message", roomId="r", content={"x": [1, "é"]}, event="note")
        client.request("send_message", target_user="ben", content=2)
        client.close()
        eventually(lambda: service.of("disconnect"), "the end is told")
        types = [event["type"] for event in service.events]
        assert types == ["connect", "join", "join", "message", "message", "leave", "leave", "disconnect"]
        begin, room, channel, message, direct, *_, end = service.events
        assert {event["user"] for event in service.events} == {client.user}
        assert {event["connection"] for event in service.events} == {client.welcome["connectionId"]}
        assert begin["first"] is True and begin["user_agent"] == "probe/1" and begin["address"].startswith("127.0.0.1:")
        assert (room["roomId"], channel["channel"]) == ("r", "c")
        assert message["to"] == {"roomId": "r"} and message["content"] == {"x": [1, "é"]}
        assert message["event"] == "note" and message["id"] == sent["messageId"]
        assert direct["to"] == {"user": "ben"} and direct["content"] == 2
        assert end["reason"] == "peer_closed" and end["last"] is True and end["duration_ms"] >= 0
        assert all(delivery["node"] == gateway.node_id for delivery in service.deliveries)
        assert abs(begin["timestamp"] / 1000 - time.time()) < 60


def test_only_what_is_asked_for(start, connect):
    with Service() as service:
        gateway = start({"hooks.url": service.url, "hooks.events": ["disconnect"], "hooks.batch_delay": "20ms"})
        client = connect(gateway, "ann")
        client.request("join", roomId="r")
        client.request("message", roomId="r", content=1)
        client.close()
        eventually(lambda: service.events, "the end is told")
        assert [event["type"] for event in service.events] == ["disconnect"]


def test_events_come_in_batches(start, connect):
    with Service(delay=0.05) as service:
        gateway = start({"hooks.url": service.url, "hooks.events": ["message"], "hooks.batch_size": 50})
        client = connect(gateway, "ann")
        for n in range(500):
            client.send("send_message", target_user="nobody", content=n)
        eventually(lambda: len(service.events) == 500, "all of them", timeout=20)
        assert [event["content"] for event in service.events] == list(range(500))
        assert max(len(delivery["events"]) for delivery in service.deliveries) <= 50
        assert len(service.deliveries) < 100


def test_the_signature_holds(start, connect):
    with Service() as service:
        gateway = start({"hooks.url": service.url, "hooks.secret": "hush hush"})
        connect(gateway, "ann")
        eventually(lambda: service.requests, "the connect is told")
        headers, body = service.requests[0]
        time_part, signature = headers["x-ringgate-signature"].split(",")
        signed = time_part.removeprefix("t=").encode() + b"." + body
        expected = hmac.new(b"hush hush", signed, hashlib.sha256).hexdigest()
        assert signature == f"v1={expected}"
        assert abs(int(time_part.removeprefix("t=")) - time.time()) < 60


def test_failures_are_repeated_under_the_same_name(start, connect):
    with Service(answers=[500, 503, 404]) as service:
        gateway = start({"hooks.url": service.url, "hooks.batch_delay": "20ms"})
        connect(gateway, "ann")
        eventually(lambda: service.events, "told after all", timeout=20)
        assert [event["type"] for event in service.events] == ["connect"]
        names = [headers["x-ringgate-delivery"] for headers, _ in service.requests]
        assert len(names) == 4 and len(set(names)) == 1
        eventually(lambda: total(gateway, "ringgate_hook_events_sent_total") == 1, "counted")


def test_what_fails_too_often_is_given_up_and_counted(start, connect):
    with Service(answers=[500] * 2) as service:
        gateway = start({"hooks.url": service.url, "hooks.retries": 1, "hooks.batch_delay": "20ms"})
        connect(gateway, "ann")
        eventually(lambda: total(gateway, "ringgate_hook_events_lost_total") == 1, "given up", timeout=20)
        connect(gateway, "ben")
        eventually(lambda: service.of("connect"), "the next one is told", timeout=20)
        assert len(service.events) == 1


def test_a_receiver_that_hangs_costs_the_clients_nothing(start, connect):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}/"
        gateway = start({"hooks.url": url, "hooks.events": ALL, "hooks.queue": 100, "hooks.timeout": "1s"})
        client = connect(gateway, "ann")
        for n in range(1000):
            client.send("send_message", target_user="nobody", content=n)
        began = time.monotonic()
        client.fence()
        assert time.monotonic() - began < 5
        eventually(lambda: total(gateway, "ringgate_hook_events_lost_total") > 500, "losses are counted")
        with Admin(gateway) as admin:
            assert admin.json("/readyz")[0] == 200


def test_a_receiver_that_is_gone_and_comes_back(start, connect):
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    gateway = start({"hooks.url": f"http://127.0.0.1:{port}/", "hooks.batch_delay": "20ms"})
    connect(gateway, "ann")
    eventually(lambda: total(gateway, "ringgate_hook_requests_total") >= 2, "it was tried", timeout=20)
    events = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            events.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        eventually(lambda: events, "told when it is back", timeout=30)
        assert [event["type"] for event in events] == ["connect"]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("answer", [b"SSH-2.0-nonsense\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, b""])
def test_answers_that_are_none(start, connect, answer):
    with socket.create_server(("127.0.0.1", 0)) as strange:
        tries = []

        def serve():
            while True:
                try:
                    peer, _ = strange.accept()
                except OSError:
                    return
                tries.append(peer)
                try:
                    peer.recv(65536)
                    peer.sendall(answer)
                    peer.close()
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{strange.getsockname()[1]}/"
        gateway = start({"hooks.url": url, "hooks.retries": 1, "hooks.timeout": "2s"})
        client = connect(gateway, "ann")
        eventually(lambda: total(gateway, "ringgate_hook_events_lost_total") == 1, "given up", timeout=20)
        assert client.fence() == []


def test_a_name_that_does_not_resolve_stops_the_start(start):
    from gateway import StartFailed

    with pytest.raises(StartFailed) as failed:
        start({"hooks.url": "http://no-such-host.invalid/"})
    assert "hooks.url" in str(failed.value)
