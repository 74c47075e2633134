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
