"""Channels: subscribe with filters, publish, unsubscribe; and broadcast."""

import pytest

BERLIN = [52.52, 13.405]
POTSDAM = [52.3906, 13.0645]  # about 27 km away

# A filter, tags that match, and tags that do not.
FILTERS = {
    "eq": ({"key": "k", "op": "eq", "val": "a"}, [{"k": "a"}], [{"k": "b"}, {}, None, {"k": 1}]),
    "eq number": ({"key": "k", "op": "eq", "val": 2}, [{"k": 2}, {"k": 2.0}], [{"k": 3}, {"k": "2"}]),
    "eq bool": ({"key": "k", "op": "eq", "val": True}, [{"k": True}], [{"k": False}, {"k": "true"}, {"k": 1}]),
    "neq": ({"key": "k", "op": "neq", "val": "a"}, [{"k": "b"}], [{"k": "a"}]),
    "in": ({"key": "k", "op": "in", "vals": ["a", 2]}, [{"k": "a"}, {"k": 2}], [{"k": "b"}, {}]),
    "nin": ({"key": "k", "op": "nin", "vals": ["a", "b"]}, [{"k": "c"}], [{"k": "a"}, {"k": "b"}]),
    "gt": ({"key": "k", "op": "gt", "val": 5}, [{"k": 5.5}, {"k": 6}], [{"k": 5}, {"k": 4}, {}, {"k": "6"}]),
    "gte": ({"key": "k", "op": "gte", "val": 5}, [{"k": 5}, {"k": 6}], [{"k": 4.9}, {}]),
    "lt": ({"key": "k", "op": "lt", "val": 5}, [{"k": -1}, {"k": 4.9}], [{"k": 5}, {}]),
    "lte": ({"key": "k", "op": "lte", "val": 5}, [{"k": 5}, {"k": 0}], [{"k": 5.1}, {}]),
    "exists": ({"key": "k", "op": "exists"}, [{"k": False}, {"k": ""}], [{"other": 1}, {}, None]),
    "prefix": ({"key": "k", "op": "prefix", "val": "BTC"}, [{"k": "BTC"}, {"k": "BTCUSD"}], [{"k": "ETH"}, {"k": 5}, {}]),
    "and": (
        {"op": "and", "nodes": [{"key": "a", "op": "eq", "val": 1}, {"key": "b", "op": "gt", "val": 1}]},
        [{"a": 1, "b": 2}],
        [{"a": 1}, {"a": 1, "b": 1}, {"b": 2}],
    ),
    "or": (
        {"op": "or", "nodes": [{"key": "a", "op": "eq", "val": 1}, {"key": "b", "op": "eq", "val": 2}]},
        [{"a": 1}, {"b": 2}, {"a": 1, "b": 3}],
        [{"a": 2, "b": 1}, {}],
    ),
    "not": ({"op": "not", "nodes": [{"key": "a", "op": "eq", "val": 1}]}, [{"a": 2}], [{"a": 1}]),
    "nested": (
        {"op": "and", "nodes": [{"op": "not", "nodes": [{"key": "a", "op": "exists"}]}, {"key": "b", "op": "exists"}]},
        [{"b": 1}],
        [{"a": 1, "b": 1}, {"c": 1}],
    ),
    "within": (
        {"op": "within", "key": "at", "lat": BERLIN[0], "lon": BERLIN[1], "radius_m": 20_000},
        [{"at": BERLIN}, {"at": [52.5, 13.4]}],
        [{"at": POTSDAM}, {}, {"at": "Berlin"}],
    ),
    "within, wider": (
        {"op": "within", "key": "at", "lat": BERLIN[0], "lon": BERLIN[1], "radius_m": 30_000},
        [{"at": POTSDAM}],
        [{"at": [48.137, 11.575]}],
    ),
    "within, over the date line": (
        {"op": "within", "key": "at", "lat": 0, "lon": 179.99, "radius_m": 5_000},
        [{"at": [0, -179.99]}],
        [{"at": [0, 0]}],
    ),
}  # fmt: skip


def publish(client, channel, content, tags):
    client.request("publish", channel=channel, content=content, **({} if tags is None else {"tags": tags}))


@pytest.mark.parametrize("name", FILTERS)
def test_only_matching_publications_are_delivered(gateway, connect, unique, name):
    filter_, matching, others = FILTERS[name]
    channel = unique("channel")
    picky, greedy, publisher = connect(gateway, "picky"), connect(gateway, "greedy"), connect(gateway, "publisher")
    picky.request("subscribe", channel=channel, filter=filter_)
    greedy.request("subscribe", channel=channel)
    for tags in others + matching:
        publish(publisher, channel, {"tags": tags}, tags)
    got = [picky.expect("message")["content"]["tags"] for _ in matching]
    assert got == matching
    assert picky.fence() == []
    assert [greedy.expect("message")["content"]["tags"] for _ in others + matching] == others + matching


def test_a_publication_carries_channel_tags_and_event(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    bob.request("subscribe", channel=channel)
    tags = {"symbol": "BTC", "price": 1.5, "live": True}
    alice.request("publish", channel=channel, content=[1, 2], tags=tags, event="price")
    message = bob.next()
    assert message["type"] == "message" and message["channel"] == channel and "roomId" not in message
    assert (message["from"], message["content"], message["tags"], message["event"]) == (alice.user, [1, 2], tags, "price")


def test_a_publisher_need_not_subscribe_and_a_subscriber_gets_its_own(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    alice.request("subscribe", channel=channel)
    bob.request("publish", channel=channel, content="from outside")
    assert alice.expect("message")["from"] == bob.user
    alice.request("publish", channel=channel, content="my own")
    assert alice.expect("message")["content"] == "my own"
    assert bob.fence() == []


def test_subscribers_on_all_shards_get_it_once(gateway, connect, unique):
    channel = unique("channel")
    subscribers = [connect(gateway, f"subscriber{number}") for number in range(8)]
    for subscriber in subscribers:
        subscriber.request("subscribe", channel=channel)
    for number in range(100):
        subscribers[0].send("publish", channel=channel, content=number)
    for subscriber in subscribers:
        assert [subscriber.expect("message")["content"] for _ in range(100)] == list(range(100))
        assert [m for m in subscriber.fence() if m["type"] == "message"] == []


def test_after_unsubscribe_nothing_comes(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    for client in (alice, bob):
        client.request("subscribe", channel=channel)
    bob.request("unsubscribe", channel=channel)
    alice.request("publish", channel=channel, content=1)
    alice.expect("message", content=1)
    assert bob.fence() == []


def test_subscribing_again_replaces_the_filter(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    bob.request("subscribe", channel=channel, filter={"key": "k", "op": "eq", "val": 1})
    bob.request("subscribe", channel=channel, filter={"key": "k", "op": "eq", "val": 2})
    for value in (1, 2):
        publish(alice, channel, value, {"k": value})
    assert bob.expect("message")["content"] == 2
    assert bob.fence() == []
    bob.request("unsubscribe", channel=channel)
    publish(alice, channel, 2, {"k": 2})
    assert bob.fence() == []


def test_presence_of_a_channel(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    bob.request("subscribe", channel=channel)
    answer = alice.request("presence", channel=channel)
    assert answer["channel"] == channel
    assert [(u["userId"], u["connections"]) for u in answer["users"]] == [(bob.user, 1)]


def test_subscribing_is_not_announced(gateway, connect, unique):
    channel = unique("channel")
    alice, bob = connect(gateway, "alice"), connect(gateway, "bob")
    alice.request("subscribe", channel=channel)
    bob.request("subscribe", channel=channel)
    bob.close()
    assert alice.fence() == []


def test_broadcast_reaches_everybody(start, connect):
    gateway = start(shards=3)
    clients = [connect(gateway, f"user{number}") for number in range(9)] + [connect(gateway, "user0")]
    clients[0].request("broadcast", content="all hands", event="notice")
    for client in clients[1:]:
        message = client.expect("broadcast")
        assert (message["from"], message["content"], message["event"]) == (clients[0].user, "all hands", "notice")
        assert message["id"] and message["timestamp"] and "roomId" not in message


def test_too_many_rooms_and_channels(start, connect):
    gateway = start({"session.max_subscriptions": 3})
    alice = connect(gateway, "alice")
    alice.request("join", roomId="a")
    alice.request("subscribe", channel="a")
    alice.request("join", roomId="b")
    assert alice.refused("join", roomId="c")["code"] == "too_many_rooms"
    assert alice.refused("subscribe", channel="c")["code"] == "too_many_rooms"
    alice.request("join", roomId="a")  # joined already: nothing new
    alice.request("leave", roomId="a")
    alice.request("subscribe", channel="c")
    assert alice.refused("join", roomId="a")["code"] == "too_many_rooms"
    assert alice.refused("message", roomId="c", content=1)["code"] == "not_member"
