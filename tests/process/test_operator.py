"""`ringgate top` and `ringgate trace`, as an operator uses them."""

import json

import gateway as gateways


def test_top_shows_the_node(start, connect):
    gateway = start()
    clients = [connect(gateway, f"u{n}") for n in range(4)]
    for client in clients:
        client.request("join", roomId="the big room")
    shown = gateways.run("top", "--once", "--admin", gateway.admin, "--key", "unused", "--interval", "200ms")
    assert shown.returncode == 0, shown.stderr
    assert gateway.node_id in shown.stdout and "connections 4" in shown.stdout and "ready" in shown.stdout
    assert "the big room" in shown.stdout
    assert all(client.user in shown.stdout for client in clients)
    assert "\x1b" not in shown.stdout


def test_top_takes_address_and_key_from_the_configuration(start):
    gateway = start({"api.keys": ["sesame"]})
    config = gateway.dir / "top.toml"
    config.write_text(f'[listen]\nadmin = "{gateway.admin}"\n[api]\nkeys = ["sesame"]\n')
    assert gateways.run("top", "--once", "--interval", "200ms", "--config", config).returncode == 0
    refused = gateways.run("top", "--once", "--admin", gateway.admin, "--key", "wrong")
    assert refused.returncode == 1 and "401" in refused.stderr


def test_top_without_a_node_says_where_it_looked():
    gone = gateways.run("top", "--once", "--admin", "127.0.0.1:1", "--key", "k")
    assert gone.returncode == 1 and "127.0.0.1:1" in gone.stderr


def test_trace_follows_a_user(start, connect):
    import subprocess
    import time

    gateway = start(shards=3)
    client, other = connect(gateway, "ann", exact=True), connect(gateway, "ben", exact=True)
    for content in (False, True):
        command = [gateways.BINARY, "trace", "--user", "ann", "--for", "3s", "--admin", gateway.admin, "--key", "k"]
        command += ["--content"] if content else []
        tracing = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=gateways.environment())
        time.sleep(1)
        client.request("join", roomId="r")
        other.request("send_message", target_user="ann", content="the secret \x1b[2J")
        client.expect("message")
        second = connect(gateway, "ann", exact=True)
        second.close()
        shown, _ = tracing.communicate(timeout=20)
        assert tracing.returncode == 0
        lines = [line.split()[1:4] for line in shown.splitlines()]
        me, again = client.welcome["connectionId"], second.welcome["connectionId"]
        expected = [[me, "->", "join"], [me, "<-", "ok"], [me, "<-", "message"], [again, "connect"], [again, "<-", "auth:ok"]]
        assert [line for line in lines if line in expected] == expected
        assert [again, "disconnect"] in lines
        assert other.welcome["connectionId"] not in shown and "\x1b" not in shown
        assert ("the secret" in shown) is content


def test_a_trace_ends_when_nobody_asks(start, connect):
    from admin import Admin

    gateway = start()
    client = connect(gateway, "ann", exact=True)
    with Admin(gateway) as admin:
        assert admin.call("trace", user="ann") == {"events": [], "lost": 0}
        client.fence()
        events = admin.call("trace", user="ann")["events"]
        assert [(event["what"], event["type"]) for event in events] == [("in", "ping"), ("out", "pong")]
        assert all("content" not in event and event["bytes"] > 0 for event in events)
        assert admin.refused("trace").code == "bad_request"
        statuses = [admin.post("trace", {"user": f"nobody{n}"})[0] for n in range(200)]
        assert set(statuses) == {200, 429} and statuses.count(200) <= 32
