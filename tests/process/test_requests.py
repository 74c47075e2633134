"""Requests, their ids and their errors: section 2 and 3 of the protocol, where no second client is needed."""

import contextlib
import json
import time

import pytest

from client import Closed

BIG = 2**53 + 1


def test_auth_ok_says_who_and_where(gateway, connect):
    alice = connect(gateway, "alice")
    welcome = alice.welcome
    assert welcome["node"] == gateway.node_id
    assert welcome["heartbeatMs"] == 30_000
    assert isinstance(welcome["connectionId"], str) and welcome["connectionId"]
    assert isinstance(welcome["session"], str) and welcome["session"]


def test_connection_ids_are_unique(gateway, connect):
    devices = [connect(gateway, "alice") for _ in range(5)]
    assert len({device.welcome["connectionId"] for device in devices}) == 5


def test_ping_is_answered_with_the_time(gateway, connect):
    alice = connect(gateway, "alice")
    before = time.time() * 1000
    alice.send("ping")
    pong = alice.expect("pong")
    assert before - 1000 <= pong["ts"] <= time.time() * 1000 + 1000


@pytest.mark.parametrize("number", ["text", "ünïcode \U0001f600", "x" * 64, 0, 1, -7, BIG], ids=str)
def test_an_id_comes_back_as_it_was(gateway, connect, unique, number):
    alice = connect(gateway, "alice")
    alice.send("join", id=number, roomId=unique("room"))
    reply = alice.expect("ok")
    assert reply["id"] == number and type(reply["id"]) is type(number)


def test_without_an_id_only_errors_are_answered(gateway, connect, unique):
    alice = connect(gateway, "alice")
    room = unique("room")
    alice.send("join", roomId=room)
    alice.send("leave", roomId=room)
    alice.send("subscribe", channel=room)
    alice.send("unsubscribe", channel=room)
    alice.send("send_message", target_user=unique("nobody"), content=1)
    alice.send("message", roomId=room, content="not a member")
    assert [m["type"] for m in [alice.next()]] == ["error"]
    assert alice.fence() == []


def test_unknown_fields_are_ignored(gateway, connect, unique):
    alice = connect(gateway, "alice")
    assert alice.request("join", roomId=unique("room"), colour="red", nested={"a": [1, {"b": None}]})["type"] == "ok"


BAD_JSON = ["", "   ", "{", "nonsense", '{"type":"ping"', '{"type":"ping"} trailing', "{'type':'ping'}", '{"type":"ping",}', "\u0000"]


@pytest.mark.parametrize("text", BAD_JSON, ids=repr)
def test_bad_json_is_told_and_the_connection_stays(gateway, connect, text):
    alice = connect(gateway, "alice")
    alice.raw(text)
    assert alice.next() == {"type": "error", "code": "bad_json", "message": "Invalid JSON"}
    assert alice.fence() == []


# What is asked, the code of the error, and what its message must name.
BAD_REQUESTS = [
    ({"type": "no_such_type"}, "unknown_type", "no_such_type"),
    ({"type": ""}, "unknown_type", ""),
    ({}, "bad_request", "type"),
    ({"type": 5}, "bad_request", "type"),
    ({"type": "join"}, "bad_request", "roomId"),
    ({"type": "join", "roomId": 5}, "bad_request", "roomId"),
    ({"type": "join", "roomId": ""}, "bad_request", "roomId"),
    ({"type": "join", "roomId": "x" * 129}, "bad_request", "roomId"),
    ({"type": "join", "roomId": "ü" * 65}, "bad_request", "roomId"),
    ({"type": "join", "roomId": "line\nfeed"}, "bad_request", "roomId"),
    ({"type": "join", "roomId": "nul\u0000"}, "bad_request", "roomId"),
    ({"type": "leave"}, "bad_request", "roomId"),
    ({"type": "message", "roomId": "r"}, "bad_request", "content"),
    ({"type": "message", "content": "c"}, "bad_request", "roomId"),
    ({"type": "send_message", "content": "c"}, "bad_request", "target_user"),
    ({"type": "send_message", "target_user": "bob"}, "bad_request", "content"),
    ({"type": "send_message", "target_user": None, "content": 1}, "bad_request", "target_user"),
    ({"type": "send_message", "target_user": "events", "content": 1}, "bad_request", "target_user"),
    ({"type": "send_message", "target_user": "b", "content": 1, "class": "best"}, "bad_request", "class"),
    ({"type": "send_message", "target_user": "b", "content": 1, "event": 7}, "bad_request", "event"),
    ({"type": "subscribe"}, "bad_request", "channel"),
    ({"type": "subscribe", "channel": "c", "filter": "all"}, "bad_request", "filter"),
    ({"type": "subscribe", "channel": "c", "filter": {"key": "k", "op": "like", "val": "x"}}, "bad_request", "op"),
    ({"type": "subscribe", "channel": "c", "filter": {"op": "eq", "val": "x"}}, "bad_request", "key"),
    ({"type": "subscribe", "channel": "c", "filter": {"key": "k", "op": "eq"}}, "bad_request", "val"),
    ({"type": "subscribe", "channel": "c", "filter": {"key": "k", "op": "in", "val": "x"}}, "bad_request", "vals"),
    ({"type": "subscribe", "channel": "c", "filter": {"op": "and"}}, "bad_request", "nodes"),
    ({"type": "unsubscribe"}, "bad_request", "channel"),
    ({"type": "publish", "channel": "c"}, "bad_request", "content"),
    ({"type": "publish", "channel": "c", "content": 1, "tags": []}, "bad_request", "tags"),
    ({"type": "publish", "channel": "c", "content": 1, "tags": {"deep": {"er": 1}}}, "bad_request", "tags"),
    ({"type": "broadcast"}, "bad_request", "content"),
    ({"type": "presence"}, "bad_request", "roomId"),
    ({"type": "auth"}, "bad_request", "token"),
]


@pytest.mark.parametrize("request_, code, names", BAD_REQUESTS, ids=lambda value: json.dumps(value)[:60])
def test_a_bad_request_is_told_what_was_wrong(gateway, connect, request_, code, names):
    alice = connect(gateway, "alice")
    alice.raw(json.dumps({**request_, "id": "q"}))
    reply = alice.next()
    assert (reply["type"], reply["id"], reply["code"]) == ("error", "q", code)
    assert names in reply["message"]
    assert alice.fence() == []


@pytest.mark.parametrize("number", [1.5, True, {}, [], "x" * 65, 2**64], ids=repr)
def test_a_bad_id_is_a_bad_request(gateway, connect, number):
    alice = connect(gateway, "alice")
    alice.send("ping", id=number)
    reply = alice.next()
    assert reply["type"] == "error" and reply["code"] == "bad_request" and "id" in reply["message"]


@pytest.mark.parametrize("text", ["[]", "[1]", '"ping"', "5", "null", "true"])
def test_json_that_is_not_an_object_is_refused(gateway, connect, text):
    alice = connect(gateway, "alice")
    alice.raw(text)
    reply = alice.next()
    assert reply["type"] == "error" and reply["code"] in ("bad_json", "bad_request")
    assert alice.fence() == []


def test_deep_nesting_hurts_nobody(gateway, connect, unique):
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    alice.raw('{"type":"send_message","target_user":"x","content":' + "[" * 30_000 + "]" * 30_000 + "}")
    alice.raw("[" * 60_000)
    alice.raw('{"a":' * 10_000)
    alice.fence()
    assert bob.request("send_message", target_user=alice.user, content="still here")["status"] == "delivered"
    assert alice.expect("message")["content"] == "still here"


# Contents that must arrive as they were sent, to the letter.
CONTENTS = [
    "0", "-0.0", "1e400", "12345678901234567890123", "0.1000000000000000055511151231257827", '"\\u00e9\\ud83d\\ude00"', '"é😀"',
    '"\\"\\\\\\/\\b\\f\\n\\r\\t"', "null", "true", "[]", "{}", '{"b":1,"a":2,"b":3}', "[ 1 , 2 ]", '{"type":"broadcast","from":"root"}',
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS)
def test_content_arrives_verbatim(gateway, connect, content):
    alice = connect(gateway, "alice")
    alice.raw('{"type":"send_message","target_user":%s,"content":%s}' % (json.dumps(alice.user), content))
    raw = alice.ws.recv(timeout=10)
    assert json.loads(raw)["type"] == "message"
    assert f'"content":{content}' in raw or f'"content":{content.strip()}' in raw


def test_a_large_content_arrives(gateway, connect):
    alice = connect(gateway, "alice")
    content = "x" * 60_000
    alice.send("send_message", target_user=alice.user, content=content)
    assert alice.expect("message")["content"] == content


def test_a_binary_message_is_1003(gateway, connect):
    alice = connect(gateway, "alice")
    alice.raw(b'{"type":"ping"}')
    assert alice.closed()[0] == 1003


def test_a_message_over_the_size_is_1009(gateway, connect):
    alice = connect(gateway, "alice")
    alice.raw(" " * (64 * 1024 + 1))
    assert alice.closed()[0] == 1009


def test_a_message_of_exactly_the_size_passes(gateway, connect):
    alice = connect(gateway, "alice")
    text = '{"type":"ping","id":1}'
    alice.raw(text + " " * (64 * 1024 - len(text)))
    assert alice.next()["id"] == 1


def test_a_fragmented_message_over_the_size_is_1009(gateway, connect):
    alice = connect(gateway, "alice")
    with contextlib.suppress(Closed):  # the gateway may close before the last fragment is written
        alice.raw(" " * 1024 for _ in range(65))
    assert alice.closed()[0] == 1009


def test_many_requests_in_one_go_are_answered_in_order(gateway, connect):
    alice = connect(gateway, "alice")
    for number in range(500):
        alice.send("ping", id=number)
    assert [alice.next()["id"] for _ in range(500)] == list(range(500))


def test_a_client_that_closes_gets_its_close_code_back(gateway, connect):
    for code in (1000, 1001, 3000, 4999):
        alice = connect(gateway, "alice")
        alice.close(code, "bye")
        assert alice.ws.close_code == code
        with pytest.raises(Closed):
            alice.next()
