"""The command line, the configuration, and what the start says: section 8 of the protocol."""

import ctypes
import json
import re
import signal
import socket
import struct
import tomllib

import pytest

from client import Client
from gateway import Gateway, StartFailed, eventually, run
from tokens import SECRET
from wire import Wire

FREE = ["--set", "listen.client=127.0.0.1:0", "--set", "listen.admin=127.0.0.1:0"]


def test_version():
    result = run("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"ringgate \d+\.\d+\.\d+\S*\n", result.stdout)


def test_help_names_the_commands():
    result = run("--help")
    assert result.returncode == 0
    for name in ("serve", "check-config", "default-config", "gen-token", "--config", "--set", "--ready-file"):
        assert name in result.stdout


@pytest.mark.parametrize("args", [["no-such-command"], ["--no-such-option"], ["serve", "extra"], ["--set"], ["gen-token"]], ids=str)
def test_a_wrong_command_line_is_code_2(args):
    result = run(*args)
    assert result.returncode == 2
    assert result.stderr


# The start line and the ready file


def test_the_start_line_says_what_was_bound(start):
    gateway = start(shards=2)
    line = next(line for line in gateway.log().splitlines() if gateway.client in line)
    for part in (gateway.client, gateway.ready["driver"], "local", "none", *filter(None, [gateway.admin])):
        assert part in line, f"{part} is missing in: {line}"
    assert re.search(r"shards\D{0,3}2|2\s+shards", line), line


def test_the_ready_file(start, driver):
    gateway = start(shards=3)
    ready = gateway.ready
    assert ready["pid"] == gateway.pid
    assert ready["driver"] == driver
    assert ready["shards"] == 3
    assert ready["node_id"]
    assert "admin" in ready
    for address in filter(None, [ready["client"], ready["admin"]]):  # `admin` is null where nothing listens there
        host, port = address.rsplit(":", 1)
        assert host == "127.0.0.1" and 0 < int(port) < 65536
    with Wire(gateway) as wire:
        wire.upgrade()


def test_the_node_id_is_configured_or_random(start):
    assert start({"node.id": "node-7"}).node_id == "node-7"
    first, second = start(), start()
    assert first.node_id != second.node_id


def test_defaults_serve_8080_and_say_that_none_is_for_trying_out():
    """`cargo run --release`, as a newcomer does it; only where 8080 and 8081 are free."""
    for port in (8080, 8081):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is taken")
    with Gateway(base={}) as gateway:
        assert gateway.client == "127.0.0.1:8080" and gateway.admin in ("127.0.0.1:8081", None)
        assert re.search(r"none.*trying", gateway.log(), re.I | re.S), gateway.log()
        with Client("ws://127.0.0.1:8080/ws?user_id=alice") as alice:
            alice.expect("auth:ok")
    assert gateway.process.returncode == 0


def test_an_address_in_use_is_told(start):
    first = start()
    with pytest.raises(StartFailed, match=re.escape(first.client)), Gateway({"listen.client": first.client}):
        pass  # it must not share the port: each would get half of the connections


@pytest.mark.parametrize("tables", ["shared", "private"])
def test_descriptor_tables(start, connect, tables):
    gateway = start({"shards.fd_tables": tables}, shards=3)
    users = [connect(gateway, f"user{number}") for number in range(8)]
    for sender in users:
        for receiver in users:
            assert sender.request("send_message", target_user=receiver.user, content=sender.user)["status"] == "delivered"
    for user in users[:4]:
        user.close()
    connect(gateway, "late").request("send_message", target_user=users[5].user, content=1)


@pytest.mark.parametrize("shards", [1, 5])
def test_other_numbers_of_shards(start, connect, shards):
    gateway = start(shards=shards)
    users = [connect(gateway, f"user{number}") for number in range(6)]
    for sender in users:
        for receiver in users:
            assert sender.request("send_message", target_user=receiver.user, content=1)["status"] == "delivered"


# The driver


def forbid_io_uring(errno):
    """A seccomp filter that answers io_uring_setup with `errno`; for `preexec_fn`."""

    def install():
        libc = ctypes.CDLL(None, use_errno=True)
        # load syscall number; if io_uring_setup: return errno; else allow
        program = b"".join(
            struct.pack("HBBI", *line)
            for line in [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)]
        )
        buffer = ctypes.create_string_buffer(program)

        class Filter(ctypes.Structure):
            _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

        filter_ = Filter(4, ctypes.cast(buffer, ctypes.c_void_p))
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, ctypes.byref(filter_), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return install


@pytest.mark.parametrize("errno", [1, 38], ids=["EPERM", "ENOSYS"])
def test_auto_falls_back_to_epoll_and_says_so(connect, errno):
    with Gateway({"shards.driver": "auto", "shards.count": 2}, preexec_fn=forbid_io_uring(errno)) as gateway:
        assert gateway.ready["driver"] == "epoll"
        assert re.search(r"epoll", gateway.log()) and re.search(r"io_uring", gateway.log()), gateway.log()
        alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
        assert alice.request("send_message", target_user=bob.user, content=1)["status"] == "delivered"


def test_io_uring_where_it_is_forbidden_is_no_start():
    with pytest.raises(StartFailed, match="io_uring"):
        Gateway({"shards.driver": "io_uring"}, preexec_fn=forbid_io_uring(1))


# Configuration: wrong, and what the message must name.

WRONG = [
    ("listen.klient=1", ["listen.klient"]),
    ("nonsense.key=1", ["nonsense"]),
    ("listen.client=localhost", ["listen.client", "localhost"]),
    ("listen.client=127.0.0.1:99999", ["listen.client", "99999"]),
    ("shards.count=-1", ["shards.count", "-1"]),
    ("shards.count=1000", ["shards.count", "1000", "256"]),
    ("shards.driver=kqueue", ["shards.driver", "kqueue", "io_uring", "epoll", "auto"]),
    ("shards.fd_tables=some", ["shards.fd_tables", "some", "private"]),
    ("auth.mode=basic", ["auth.mode", "basic", "jwt"]),
    ("auth.timeout=ten", ["auth.timeout", "ten", "30s"]),
    ("session.heartbeat_interval=5 parsecs", ["session.heartbeat_interval", "parsecs"]),
    ("limits.message_size=64KB5", ["limits.message_size", "64KB5"]),
    ("limits.message_size=17MiB", ["limits.message_size", "16"]),
    ("limits.connections=many", ["limits.connections", "many"]),
    ("outbox.high=5MiB", ["outbox.high"]),
    ("outbox.low=2MiB", ["outbox.low"]),
    ("classes.typing=best", ["classes.typing", "best", "droppable"]),
    ("deflate.level=10", ["deflate.level", "10"]),
    ("echo.enabled=perhaps", ["echo.enabled", "perhaps"]),
    ("cluster.routing=gossip", ["cluster.routing", "gossip", "local"]),
    ("log.level=loud", ["log.level", "loud", "info"]),
    ("log.format=xml", ["log.format", "xml", "json"]),
    ("listen.trusted_proxies=10.0.0.0/40", ["listen.trusted_proxies", "10.0.0.0/40"]),
    ("auth.default_permissions=fly:*", ["auth.default_permissions", "fly"]),
    ("nothing", ["KEY=VALUE"]),
]


@pytest.mark.parametrize("setting, names", WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_setting_is_code_2_and_named(setting, names):
    result = run(*FREE, "--set", setting)
    assert result.returncode == 2, result
    for name in [*names, "--set"]:
        assert name in result.stderr, result.stderr


def test_a_wrong_key_in_a_file_is_named_with_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[listen]\nclient = "127.0.0.1:0"\nadmim = "127.0.0.1:0"\n')
    for args in (["--config", path], ["check-config", "--config", path]):
        result = run(*args)
        assert result.returncode == 2
        assert "listen.admim" in result.stderr and str(path) in result.stderr


def test_a_file_that_is_no_toml_or_missing_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("[listen\n")
    for file in (path, tmp_path / "missing.toml"):
        result = run("--config", file)
        assert result.returncode == 2 and str(file) in result.stderr


def test_mode_none_is_refused_where_others_can_connect():
    result = run("--set", "listen.client=0.0.0.0:0", "--set", "listen.admin=127.0.0.1:0")
    assert result.returncode == 2
    for name in ("auth.mode", "none", "auth.allow_insecure", "listen.client"):
        assert name in result.stderr
    with Gateway({"listen.client": "0.0.0.0:0", "auth.allow_insecure": True}) as gateway:
        assert gateway.client.startswith("0.0.0.0:")


def test_an_admin_listener_that_is_not_loopback_needs_keys():
    result = run("--set", "listen.client=127.0.0.1:0", "--set", "listen.admin=0.0.0.0:0")
    assert result.returncode == 2
    assert "api.keys" in result.stderr and "listen.admin" in result.stderr


def test_mode_jwt_needs_a_key(tmp_path):
    result = run(*FREE, "--set", "auth.mode=jwt")
    assert result.returncode == 2
    assert "auth.hmac_secret" in result.stderr
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a key")
    for key, path in [("auth.public_keys", garbage), ("auth.jwks_file", garbage), ("auth.hmac_secret_file", tmp_path / "none")]:
        value = json.dumps([str(path)]) if key == "auth.public_keys" else str(path)
        result = run(*FREE, "--set", "auth.mode=jwt", "--set", f"{key}={value}")
        assert result.returncode == 2, result
        assert str(path) in result.stderr, result.stderr
        assert "not a key" not in result.stderr


def test_check_config_says_that_all_is_well(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text('[listen]\nclient = "127.0.0.1:9000"\n[session]\nidle_timeout = "1h"\n')
    result = run("check-config", "--config", path)
    assert result.returncode == 0, result.stderr
    assert not result.stderr


def test_default_config_is_complete_commented_and_valid(tmp_path):
    result = run("default-config")
    assert result.returncode == 0
    path = tmp_path / "default.toml"
    path.write_text(result.stdout)
    checked = run("check-config", "--config", path)
    assert checked.returncode == 0, checked.stderr
    # Every key of the table in the protocol is in it, as a line or as a commented line.
    for section, keys in KEYS.items():
        assert f"[{section}]" in result.stdout
        text = result.stdout.split(f"[{section}]")[1].split("\n[")[0]
        for key in keys:
            assert re.search(rf"^#?\s*{key}\s*=", text, re.M), f"{section}.{key}"
    parsed = tomllib.loads(result.stdout)
    assert parsed["listen"]["client"] == "127.0.0.1:8080"


KEYS = {
    "node": ["id"],
    "listen": ["client", "admin", "backlog", "trusted_proxies", "proxy_protocol", "allowed_origins"],
    "shards": ["count", "pin", "fd_tables", "driver"],
    "auth": ["mode", "timeout", "hmac_secret", "hmac_secret_file", "public_keys", "jwks_file", "audience", "issuer", "allow_insecure", "default_permissions"],
    "session": ["heartbeat_interval", "heartbeat_timeout", "idle_timeout", "handshake_timeout", "max_per_user", "max_subscriptions"],
    "limits": ["connections", "connections_per_ip", "connections_per_ip_window", "message_size", "messages_per_second", "bytes_per_second"],
    "outbox": ["high", "low", "max", "grace", "shard_budget"],
    "rooms": ["announce_max"],
    "classes": ["price_update", "cursor_position", "typing_indicator"],
    "deflate": ["enabled", "context_takeover", "min_size", "level"],
    "echo": ["enabled"],
    "api": ["keys"],
    "cluster": ["routing", "bus", "advertise", "ready_needs_bus"],
    "redis": ["url", "prefix", "batch_size", "batch_delay", "timeout", "entry_ttl", "lease_ttl"],
    "drain": ["grace", "spread", "deadline"],
    "log": ["level", "format"],
}  # fmt: skip


def test_sources_in_their_order():
    """Defaults, then the file, then the environment, then --set."""
    for env, args, expected in [
        ({}, [], "file"),
        ({"RINGGATE_NODE_ID": "environment"}, [], "environment"),
        ({"RINGGATE_NODE_ID": "environment"}, ["--set", "node.id=argument"], "argument"),
        ({}, ["--set", "node.id=first", "--set", "node.id=second"], "second"),
    ]:
        with Gateway({"node.id": "file"}, env=env, args=args) as gateway:
            assert gateway.node_id == expected


def test_the_environment_alone_is_enough():
    env = {"RINGGATE_LISTEN_CLIENT": "127.0.0.1:0", "RINGGATE_LISTEN_ADMIN": "127.0.0.1:0", "RINGGATE_SHARDS_COUNT": "2"}
    with Gateway(env=env, base={}) as gateway:
        assert gateway.ready["shards"] == 2
        assert not gateway.client.endswith(":8080")


def test_a_wrong_value_in_the_environment_names_the_variable():
    result = run(*FREE, env={"RINGGATE_SHARDS_COUNT": "many"})
    assert result.returncode == 2
    assert "RINGGATE_SHARDS_COUNT" in result.stderr and "many" in result.stderr


def test_an_unknown_name_in_the_environment_is_a_warning():
    """Kubernetes injects such names for a service called ringgate."""
    with Gateway(env={"RINGGATE_SERVICE_HOST": "10.0.0.1", "RINGGATE_PORT_8080_TCP": "tcp://10.0.0.1:8080"}) as gateway:
        assert "RINGGATE_SERVICE_HOST" in gateway.log()


def test_a_heartbeat_timeout_without_pings_is_a_warning():
    """It closes clients that are well, and only silent."""
    silent = {"session.heartbeat_interval": 0, "session.heartbeat_timeout": "40s"}
    result = run("check-config", *(word for key, value in silent.items() for word in ("--set", f"{key}={value}")))
    assert result.returncode == 0 and "warning: session.heartbeat_interval is 0" in result.stderr, result.stderr
    with Gateway(silent) as gateway:
        assert "session.heartbeat_interval is 0" in gateway.log()


def test_set_takes_lists_and_strings_without_quotes():
    origins = '["https://a.example", "https://b.example"]'
    args = ["--set", f"listen.allowed_origins={origins}", "--set", "limits.message_size=1MiB", "--set", "log.format=json"]
    result = run("check-config", *args)
    assert result.returncode == 0, result.stderr


def test_json_logs_are_json():
    with Gateway({"log.format": "json"}) as gateway:
        lines = [json.loads(line) for line in gateway.log().splitlines()]
        assert any(gateway.client in json.dumps(line) for line in lines)


def test_secrets_are_not_shown():
    secret = "the-secret-that-nobody-may-see-" * 3
    settings = {"auth.mode": "jwt", "auth.hmac_secret": secret, "log.level": "trace", "api.keys": ["another-secret-key-1234567890"]}
    with Gateway(settings) as gateway:
        assert secret not in gateway.log() and "another-secret-key" not in gateway.log()
    result = run(*FREE, "--set", "auth.mode=jwt", "--set", f"auth.hmac_secret={secret}", "--set", "shards.count=x")
    assert result.returncode == 2 and secret not in result.stderr


# Tokens


def test_gen_token_makes_tokens_that_connect(tmp_path, connect):
    config = tmp_path / "c.toml"
    config.write_text(f'[auth]\nmode = "jwt"\nhmac_secret = "{SECRET}"\n')
    made = run("gen-token", "--config", config, "--user", "alice", "--ttl", "1h")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    import jwt

    claims = jwt.decode(token, SECRET, algorithms=["HS256", "HS384", "HS512"])
    assert claims["sub"] == "alice"
    with Gateway({"auth.mode": "jwt", "auth.hmac_secret": SECRET}) as gateway:
        assert connect(gateway, token=token).user == "alice"


def test_gen_token_without_a_key_says_so():
    result = run("gen-token", "--user", "alice")
    assert result.returncode != 0
    assert "auth.hmac_secret" in result.stderr


# Reload


def test_sighup_reloads_and_the_connections_stay(start, connect):
    gateway = start()
    alice = connect(gateway, "alice")
    gateway.signal(signal.SIGHUP)
    eventually(lambda: re.search(r"reload", gateway.log(), re.I), "the reload is in the log")
    assert alice.fence() == []
    connect(gateway, "bob")


def test_a_broken_file_at_reload_changes_nothing(start, connect):
    gateway = start()
    alice = connect(gateway, "alice")
    (gateway.dir / "ringgate.toml").write_text("[shards]\ncount = 'many'\n")
    gateway.signal(signal.SIGHUP)
    gateway.wait_log("shards.count")
    assert alice.fence() == []
    connect(gateway, "bob")
