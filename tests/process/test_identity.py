"""Who a connection is: mode none, JSON Web Tokens, permissions, and how a session ends with its token."""

import time

import pytest

from client import Closed
from conftest import shared
from gateway import Gateway
from tokens import SECRET, Keys, token

ALGORITHMS = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"]


@pytest.fixture(scope="session")
def keys():
    return Keys()


@pytest.fixture(scope="session")
def jwt_gateway(shape, keys, tmp_path_factory):
    pems = keys.write_pems(tmp_path_factory.mktemp("keys"))
    settings = {"auth.mode": "jwt", "auth.hmac_secret": SECRET, "auth.public_keys": pems}
    with shared(shape, settings) as gateway:
        yield gateway


# Mode none


@pytest.mark.parametrize(
    "query",
    ["", "?", "?user_id=", "?user=alice", "?user_id=" + "x" * 129, "?user_id=events", "?user_id=a%00b", "?user_id=a%0Ab"],
)
def test_without_a_user_id_it_closes_4001(gateway, connect, query):
    client = connect(gateway, path="/ws" + query, welcome=False)
    code, reason = client.closed()
    assert code == 4001
    if "=" not in query:
        assert reason == "Missing user_id"
    assert all(m["type"] != "auth:ok" for m in client.backlog)


def test_a_user_id_is_percent_decoded(gateway, connect):
    client = connect(gateway, path="/ws?x=1&user_id=J%C3%BCrgen+M%26M&y", welcome=False)
    assert client.expect("auth:ok")["userId"] in ("Jürgen M&M", "Jürgen+M&M")


# JSON Web Tokens


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("way", ["header", "query", "message"])
def test_a_token_says_who(jwt_gateway, keys, connect, unique, algorithm, way):
    user = unique("alice")
    made = token(user, algorithm=algorithm, key=keys.signing(algorithm))
    if way == "header":
        client = connect(jwt_gateway, token=made)
    elif way == "query":
        client = connect(jwt_gateway, query={"token": made})
    else:
        client = connect(jwt_gateway, welcome=False)
        client.send("auth", token=made)
        client.expect("auth:ok", userId=user)
    assert client.request("send_message", target_user=user, content="me")["status"] == "delivered"
    assert client.expect("message")["from"] == user


def test_auth_in_the_first_message_may_carry_an_id(jwt_gateway, connect, unique):
    client = connect(jwt_gateway, welcome=False)
    client.send("auth", token=token(unique("alice")), id="first")
    got = [client.next(), client.next()]
    assert {m["type"] for m in got} == {"auth:ok", "ok"}
    assert next(m for m in got if m["type"] == "ok")["id"] == "first"


def test_requests_sent_right_behind_auth_are_served_in_order(jwt_gateway, connect, unique):
    """They are in the socket while the connection moves to its home shard."""
    for number in range(6):
        user, room = unique(f"user{number}"), unique(f"room{number}")
        client = connect(jwt_gateway, welcome=False)
        client.send("auth", token=token(user))
        client.send("join", roomId=room, id="join")
        for index in range(200):
            client.send("send_message", target_user=user, content=index)
        assert client.next()["type"] == "auth:ok"
        assert client.expect(id="join")["type"] == "ok"
        assert [client.expect("message")["content"] for _ in range(200)] == list(range(200))


def bad_tokens(keys):
    good = token("mallory")
    head, body, signature = good.split(".")
    return {
        "empty": "",
        "nonsense": "nonsense",
        "three dots": "a.b.c",
        "expired": token("mallory", ttl=-10),
        "not yet valid": token("mallory", nbf=int(time.time()) + 600),
        "other secret": token("mallory", key="another secret that is long enough for everybody to be happy with it"),
        "signature cut": f"{head}.{body}.",
        "signature changed": f"{head}.{body}.{signature[::-1]}",
        "algorithm none": token("mallory", algorithm="none", key=None),
        "no subject": token(None),
        "empty subject": token(""),
        "long subject": token("x" * 129),
        "reserved subject": token("events"),
        "control character": token("a\nb"),
        "unknown key": token("mallory", algorithm="RS256", key=Keys().signing("RS256")),
        "bad permissions": token("mallory", permissions=["fly:*"]),
        "permissions of a wrong type": token("mallory", permissions="send:*"),
        "bad rooms": token("mallory", rooms=["ok", ""]),
    }


BAD_TOKENS = list(bad_tokens(None))


@pytest.mark.parametrize("way", ["query", "message"])
@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_auth_fail_and_4001(jwt_gateway, keys, connect, name, way):
    bad = bad_tokens(keys)[name]
    if way == "query":
        client = connect(jwt_gateway, query={"token": bad}, welcome=False)
    else:
        client = connect(jwt_gateway, welcome=False)
        client.send("auth", token=bad)
    code, reason = client.closed()
    assert (code, reason) == (4001, "Unauthorized")
    got = list(client.backlog)
    if not (name == "empty" and way == "query"):
        assert [m["type"] for m in got if m["type"] != "error"] == ["auth:fail"]
        assert got[-1]["message"]
        assert not bad or bad not in got[-1]["message"], "the token does not belong into a message"
    assert not bad or bad not in jwt_gateway.log(), "the token does not belong into the log"


def test_a_public_key_is_no_shared_secret(jwt_gateway, keys, connect):
    """Algorithm confusion: a token signed HS256 with the public key's text as the secret."""
    import base64
    import hashlib
    import hmac
    import json

    from tokens import public_pem

    encode = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    for key in keys.private.values():
        signed = encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()) + "." + encode(
            json.dumps({"sub": "mallory", "exp": int(time.time()) + 60}).encode()
        )
        mac = hmac.new(public_pem(key).encode(), signed.encode(), hashlib.sha256).digest()
        client = connect(jwt_gateway, token=f"{signed}.{encode(mac)}", welcome=False)
        assert client.closed()[0] == 4001


def test_user_id_in_the_query_is_not_believed(jwt_gateway, connect, unique):
    client = connect(jwt_gateway, "mallory", token=token(unique("alice")))
    assert client.user == unique("alice")


def test_without_a_token_nothing_is_possible(jwt_gateway, connect, unique):
    """A request before `auth` is refused; whether the connection stays is the gateway's business."""
    room = unique("room")
    member = connect(jwt_gateway, token=token(unique("member")))
    member.request("join", roomId=room)
    stranger = connect(jwt_gateway, welcome=False)
    stranger.send("join", id=1, roomId=room)
    try:
        assert stranger.expect("error", id=1)["code"] == "unauthorized"
    except Closed as closed:
        assert closed.code == 4001
    assert [u["userId"] for u in member.request("presence", roomId=room)["users"]] == [member.user]
    assert member.fence() == []


def test_nobody_who_is_not_authenticated_gets_a_broadcast(jwt_gateway, connect, unique):
    stranger = connect(jwt_gateway, welcome=False)
    boss = connect(jwt_gateway, token=token(unique("boss"), permissions=["broadcast"]))
    boss.request("broadcast", content=unique("secret"))
    stranger.send("auth", token=token(unique("stranger")))
    assert stranger.next()["type"] == "auth:ok"
    assert [m for m in stranger.fence() if m["type"] == "broadcast"] == []


def test_who_does_not_authenticate_in_time_is_closed_4001(start, connect):
    gateway = start({"auth.mode": "jwt", "auth.hmac_secret": SECRET, "auth.timeout": "500ms"})
    client = connect(gateway, welcome=False)
    served = connect(gateway, token=token("alice"))
    began = time.monotonic()
    assert client.closed() == (4001, "Unauthorized")
    assert 0.3 < time.monotonic() - began < 5
    assert not client.backlog
    assert served.fence() == []


def test_a_session_ends_with_its_token(start, connect):
    gateway = start({"auth.mode": "jwt", "auth.hmac_secret": SECRET})
    short = connect(gateway, token=token("short", ttl=2))
    long = connect(gateway, token=token("long", ttl=60))
    endless = connect(gateway, token=token("endless", ttl=None))
    assert short.closed()[0] == 4002
    assert long.fence() == [] and endless.fence() == []


def test_auth_refreshes_a_session(start, connect):
    gateway = start({"auth.mode": "jwt", "auth.hmac_secret": SECRET})
    refreshed, left = (connect(gateway, token=token("alice", ttl=2)) for _ in range(2))
    refreshed.request("join", roomId="room")
    assert refreshed.request("auth", token=token("alice", ttl=60))["type"] == "ok"
    assert left.closed()[0] == 4002
    refreshed.fence()
    refreshed.request("message", roomId="room", content="still a member")


def test_auth_can_bring_the_end_closer(start, connect):
    gateway = start({"auth.mode": "jwt", "auth.hmac_secret": SECRET})
    alice = connect(gateway, token=token("alice", ttl=3600))
    alice.request("auth", token=token("alice", ttl=2))
    assert alice.closed()[0] == 4002


def test_auth_of_another_user_changes_nothing(jwt_gateway, connect, unique):
    alice = connect(jwt_gateway, token=token(unique("alice")))
    assert alice.refused("auth", token=token(unique("bob")))["code"] == "unauthorized"
    alice.request("send_message", target_user=unique("alice"), content=1)
    assert alice.expect("message")["from"] == unique("alice")


def test_a_bad_refresh_changes_nothing(jwt_gateway, connect, unique):
    alice = connect(jwt_gateway, token=token(unique("alice")))
    assert alice.refused("auth", token=token(unique("alice"), ttl=-5))["code"] == "unauthorized"
    assert alice.refused("auth", token="nonsense")["code"] == "unauthorized"
    assert alice.request("join", roomId=unique("room"))["type"] == "ok"


@pytest.mark.parametrize(
    "claims, works",
    [
        ({"aud": "chat", "iss": "tests"}, True),
        ({"aud": ["other", "chat"], "iss": "tests"}, True),
        ({"aud": "other", "iss": "tests"}, False),
        ({"aud": "chat", "iss": "other"}, False),
        ({"iss": "tests"}, False),
        ({"aud": "chat"}, False),
    ],
    ids=str,
)
def test_audience_and_issuer(audience_gateway, connect, unique, claims, works):
    client = connect(audience_gateway, token=token(unique("alice"), **claims), welcome=works)
    if not works:
        assert client.closed() == (4001, "Unauthorized")


@pytest.fixture(scope="module")
def audience_gateway():
    settings = {"auth.mode": "jwt", "auth.hmac_secret": SECRET, "auth.audience": ["chat"], "auth.issuer": ["tests"]}
    with Gateway({**settings, "shards.count": 2}) as gateway:
        yield gateway


def test_keys_from_a_jwks_file_are_chosen_by_kid(keys, connect, unique, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(keys.jwks())
    with Gateway({"auth.mode": "jwt", "auth.jwks_file": str(path), "shards.count": 2}) as gateway:
        for algorithm, kid in [("RS256", "key-RS"), ("ES256", "key-ES256"), ("ES384", "key-ES384"), ("EdDSA", "key-EdDSA")]:
            made = token(unique(kid), algorithm=algorithm, key=keys.signing(algorithm), headers={"kid": kid})
            assert connect(gateway, token=made).user == unique(kid)
        for kid in ("key-ES256", "no-such-key"):
            wrong = token("mallory", algorithm="EdDSA", key=keys.signing("EdDSA"), headers={"kid": kid})
            assert connect(gateway, token=wrong, welcome=False).closed()[0] == 4001


def test_a_secret_in_a_file(connect, unique, tmp_path):
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    with Gateway({"auth.mode": "jwt", "auth.hmac_secret_file": str(path), "shards.count": 2}) as gateway:
        assert connect(gateway, token=token(unique("alice"))).user == unique("alice")
        assert SECRET not in gateway.log()


# Permissions. What the token permits, a request, and whether it is permitted.

PERMISSIONS = [
    (None, ("send_message", {"target_user": "bob", "content": 1}), True),
    (None, ("join", {"roomId": "room"}), True),
    (None, ("subscribe", {"channel": "c"}), True),
    (None, ("publish", {"channel": "c", "content": 1}), True),
    (None, ("presence", {"roomId": "room"}), True),
    (None, ("broadcast", {"content": 1}), False),
    (["broadcast"], ("broadcast", {"content": 1}), True),
    (["broadcast"], ("join", {"roomId": "room"}), False),
    ([], ("send_message", {"target_user": "bob", "content": 1}), False),
    ([], ("join", {"roomId": "room"}), False),
    ([], ("subscribe", {"channel": "c"}), False),
    ([], ("publish", {"channel": "c", "content": 1}), False),
    ([], ("presence", {"roomId": "room"}), False),
    ([], ("presence", {"channel": "c"}), False),
    (["send:bob"], ("send_message", {"target_user": "bob", "content": 1}), True),
    (["send:bob"], ("send_message", {"target_user": "bobby", "content": 1}), False),
    (["send:bo*"], ("send_message", {"target_user": "bobby", "content": 1}), True),
    (["send:bo*"], ("send_message", {"target_user": "alice", "content": 1}), False),
    (["join:team-7-*"], ("join", {"roomId": "team-7-a"}), True),
    (["join:team-7-*"], ("join", {"roomId": "team-8-a"}), False),
    (["subscribe:prices.*"], ("subscribe", {"channel": "prices.BTC"}), True),
    (["subscribe:prices.*"], ("publish", {"channel": "prices.BTC", "content": 1}), False),
    (["publish:chat.7"], ("publish", {"channel": "chat.7", "content": 1}), True),
    (["publish:chat.7"], ("publish", {"channel": "chat.70", "content": 1}), False),
    (["presence:*"], ("presence", {"channel": "anything"}), True),
]


@pytest.mark.parametrize("permissions, request_, works", PERMISSIONS, ids=str)
def test_permissions(jwt_gateway, connect, unique, permissions, request_, works):
    alice = connect(jwt_gateway, token=token(unique("alice"), permissions=permissions))
    kind, fields = request_
    if works:
        assert alice.request(kind, **fields)["type"] == "ok"
    else:
        assert alice.refused(kind, **fields)["code"] == "forbidden"


def test_what_is_forbidden_changes_nothing(jwt_gateway, connect, unique):
    room, channel = unique("room"), unique("channel")
    witness = connect(jwt_gateway, token=token(unique("witness")))
    witness.request("join", roomId=room)
    witness.request("subscribe", channel=channel)
    muted = connect(jwt_gateway, token=token(unique("muted"), permissions=[]))
    muted.refused("join", roomId=room)
    muted.refused("publish", channel=channel, content=1)
    muted.refused("send_message", target_user=unique("witness"), content=1)
    muted.refused("broadcast", content=1)
    assert muted.refused("message", roomId=room, content=1)["code"] in ("not_member", "forbidden")
    assert [u["userId"] for u in witness.request("presence", roomId=room)["users"]] == [unique("witness")]
    assert witness.fence() == []


def test_a_refresh_brings_new_permissions(jwt_gateway, connect, unique):
    alice = connect(jwt_gateway, token=token(unique("alice"), permissions=[]))
    alice.refused("publish", channel="c", content=1)
    alice.request("auth", token=token(unique("alice"), permissions=["publish:*"]))
    alice.request("publish", channel="c", content=1)
    alice.request("auth", token=token(unique("alice"), permissions=[]))
    alice.refused("publish", channel="c", content=1)


def test_default_permissions_are_configured(connect, unique):
    settings = {"auth.mode": "jwt", "auth.hmac_secret": SECRET, "auth.default_permissions": ["join:lobby", "broadcast"]}
    with Gateway({**settings, "shards.count": 2}) as gateway:
        alice = connect(gateway, token=token("alice"))
        alice.request("join", roomId="lobby")
        alice.request("broadcast", content=1)
        assert alice.refused("join", roomId="other")["code"] == "forbidden"


def test_rooms_in_the_token_are_joined_at_once(jwt_gateway, connect, unique):
    rooms = [unique(f"room{number}") for number in range(3)]
    bob = connect(jwt_gateway, token=token(unique("bob")))
    for room in rooms:
        bob.request("join", roomId=room)
    # Not permitted to join by itself, but the token says so.
    alice = connect(jwt_gateway, token=token(unique("alice"), rooms=rooms, permissions=[]))
    for room in rooms:
        assert bob.expect("user:joined", roomId=room)["userId"] == unique("alice")
        alice.request("message", roomId=room, content=room)
        assert bob.expect("message", roomId=room)["content"] == room
