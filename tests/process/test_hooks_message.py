"""The hook that decides about messages: they pass, are changed, answered or refused; in order, and at nobody else's cost."""

import hashlib
import hmac
import threading
import time

import pytest

from admin import Admin
from client import Refused
from decider import Decider, Hanging, elapsed, free_port
from gateway import eventually
from test_hooks import Service
from test_hooks_connect import results


@pytest.fixture
def room(start, connect):
    """A gateway that asks this service about messages, and two clients in a room."""

    def room(url, **settings):
        settings = {f"hooks.{name}": value for name, value in settings.items()}
        gateway = start({"hooks.message_url": url, **settings})
        clients = [connect(gateway, name) for name in ("ann", "ben")]
        for client in clients:
            client.request("join", roomId="r")
        clients[0].expect("user:joined")
        return gateway, *clients

    return room


@pytest.mark.parametrize("chunked", [False, True])
def test_each_thing_that_may_become_of_a_message(room, chunked):
    answers = {
        "pass": {},
        "204": 204,
        "change": {"content": {"said": "else"}, "event": "edited", "tags": {"t": 2}},
        "answer": {"answer": {"total": [1, 2]}},
        "refuse": {"refuse": {"message": "not here"}},
        "403": (403, b"no"),
        "large": {"refuse": {"code": "too_large", "message": "less"}},
    }
    with Decider(lambda question: answers[question["content"]], chunked=chunked) as decider:
        gateway, ann, ben = room(decider.url)
        for n, content in enumerate(["pass", "204"]):
            sent = ann.request("message", roomId="r", content=content, event="note")
            got = ben.expect("message")
            assert (got["content"], got["event"], got["id"]) == (content, "note", sent["messageId"])
        ann.request("message", roomId="r", content="change", event="note", tags={"t": 1})
        got = ben.expect("message")
        assert (got["content"], got["event"], got["tags"]) == ({"said": "else"}, "edited", {"t": 2})
        answer = ann.request("message", roomId="r", content="answer")
        assert answer["content"] == {"total": [1, 2]} and "messageId" not in answer
        for content, code, text in [("refuse", "forbidden", "not here"), ("403", "forbidden", "refused"), ("large", "too_large", "less")]:
            refused = ann.refused("message", roomId="r", content=content)
            assert (refused["code"], refused["message"]) == (code, text)
        assert ben.fence() == []
        asked = decider.questions[0]
        assert (asked["hook"], asked["user"], asked["to"], asked["event"]) == ("message", ann.user, {"roomId": "r"}, "note")
        assert asked["connection"] == ann.welcome["connectionId"] and isinstance(asked["id"], int)
        assert results(gateway, "message") == {"allowed": 4, "refused": 3, "failed": 0, "timed_out": 0, "busy": 0}


def test_a_request_to_the_service_and_its_reply(start, connect):
    """An rpc: a client asks the service through a channel that nobody has to be in, and by its `id` has the answer."""
    with Decider(lambda question: {"answer": {"sum": sum(question["content"])}}) as decider:
        gateway = start({"hooks.message_url": decider.url, "hooks.messages": ["publish:rpc.*"]})
        client = connect(gateway, "ann")
        for n in range(50):
            assert client.request("publish", channel="rpc.add", content=[n, n])["content"] == {"sum": 2 * n}
        # Without an id nobody waits for the answer.
        client.send("publish", channel="rpc.add", content=[1])
        assert client.fence() == []
        assert decider.connections == 1


def test_only_what_is_configured_is_asked_about(start, connect):
    with Decider(lambda _: {"answer": "asked"}) as decider:
        entries = ["send_message:bot-*", "message:orders", "event:buy", "broadcast"]
        gateway = start({"hooks.message_url": decider.url, "hooks.messages": entries})
        client = connect(gateway, "ann")
        for room in ("orders", "other"):
            client.request("join", roomId=room)
        asked = lambda *args, **fields: client.request(*args, **fields).get("content") == "asked"  # noqa: E731
        assert asked("send_message", target_user="bot-1", content=1)
        assert not asked("send_message", target_user="ann", content=1)
        assert asked("message", roomId="orders", content=1)
        assert not asked("message", roomId="other", content=1)
        assert asked("message", roomId="other", content=1, event="buy")
        assert asked("broadcast", content=1)
        assert not asked("publish", channel="c", content=1)
        assert not asked("join", roomId="orders")
        # What may not be sent is not asked about either.
        before = len(decider.questions)
        client.request("leave", roomId="orders")
        assert client.refused("message", roomId="orders", content=1)["code"] == "not_member"
        assert len(decider.questions) == before


def test_the_order_of_a_client_holds(room):
    """However long the service takes for each, what one client sends arrives as it was sent, asked about or not."""

    def decide(question):
        time.sleep((question["content"] * 7 % 5) / 100)
        return {}

    with Decider(decide) as decider:
        _, ann, ben = room(decider.url, messages=["event:asked"])
        for n in range(40):
            ann.send("message", roomId="r", content=n, **({"event": "asked"} if n % 3 == 0 else {}))
        assert [ben.expect("message", timeout=20)["content"] for _ in range(40)] == list(range(40))
        assert [question["content"] for question in decider.questions] == [n for n in range(40) if n % 3 == 0]


def test_a_client_that_says_goodbye_behind_a_question_is_heard_first(room):
    with Decider() as decider:
        _, ann, ben = room(decider.url)
        decider.hold()
        ann.send("message", roomId="r", content="last words")
        decider.asked()
        threading.Timer(0.3, decider.release).start()
        ann.close()
        assert ben.expect("message")["content"] == "last words"
        assert ben.expect("user:left")["userId"] == ann.user


def test_a_service_that_hangs_costs_others_nothing(room, connect):
    with Hanging() as hanging:
        gateway, ann, ben = room(hanging.url, messages=["event:asked"], answer_timeout="3s", connections=2)
        began = time.monotonic()
        ann.send("message", roomId="r", content="asked", event="asked", id="slow")
        ann.send("message", roomId="r", content="behind", id="behind")
        cleo = connect(gateway, "cleo")
        cleo.request("join", roomId="r")
        for n in range(200):
            cleo.request("message", roomId="r", content=n)
            assert ben.expect("message")["content"] == n
        with Admin(gateway) as admin:
            assert admin.json("/readyz")[0] == 200
        assert elapsed(began) < 3, "nobody waited for the service"
        answer = ann.expect(id="slow")
        assert answer["code"] == "unavailable" and 2.5 < elapsed(began) < 6
        assert ann.expect(id="behind")["type"] == "ok"
        assert ben.expect("message", content="behind")
        assert results(gateway, "message")["timed_out"] == 1


@pytest.mark.parametrize("failure", ["refuse", "pass"])
@pytest.mark.parametrize("why", ["gone", "error", "nonsense"])
def test_without_an_answer(room, failure, why):
    with Decider(lambda _: {"error": 503, "nonsense": (200, b"OK")}.get(why)) as decider:
        url = f"http://127.0.0.1:{free_port()}/" if why == "gone" else decider.url
        gateway, ann, ben = room(url, message_failure=failure, answer_timeout="2s")
        if failure == "pass":
            ann.request("message", roomId="r", content="as it was")
            assert ben.expect("message")["content"] == "as it was"
        else:
            refused = ann.refused("message", roomId="r", content="x")
            assert refused["code"] == "unavailable"
            assert ben.fence() == []
        counted = results(gateway, "message")
        assert counted["failed"] + counted["timed_out"] == 1, counted


def test_questions_are_bounded(start, connect):
    with Decider() as decider:
        settings = {"hooks.connections": 3, "hooks.in_flight": 6, "hooks.answer_timeout": "30s"}
        gateway = start({"hooks.message_url": decider.url, **settings})
        clients = [connect(gateway, f"c{n}") for n in range(10)]
        decider.hold()
        for n, client in enumerate(clients):
            client.send("publish", channel="c", content=n, id="asked")
        decider.asked(3)
        eventually(lambda: results(gateway, "message")["busy"] == 4, "over the bound")
        with Admin(gateway) as admin:
            waiting = admin.metrics()["ringgate_hook_questions_waiting"][2]
        assert waiting['ringgate_hook_questions_waiting{hook="message"}'] == 6
        decider.release()
        answers = [client.expect(id="asked") for client in clients]
        assert sorted(answer.get("code", "ok") for answer in answers) == ["ok"] * 6 + ["unavailable"] * 4
        assert decider.most_under_way == 3


def test_what_waits_for_a_connection_fails_in_time(start, connect):
    with Hanging() as hanging:
        settings = {"hooks.connections": 1, "hooks.answer_timeout": "1s"}
        gateway = start({"hooks.message_url": hanging.url, **settings})
        clients = [connect(gateway, f"c{n}") for n in range(5)]
        began = time.monotonic()
        for client in clients:
            client.send("publish", channel="c", content=1, id="asked")
        for client in clients:
            assert client.expect(id="asked")["code"] == "unavailable"
        assert elapsed(began) < 5, "all of them have the same time, and wait together"
        assert results(gateway, "message")["timed_out"] == 5


def test_the_signature_holds(start, connect):
    with Decider() as decider:
        gateway = start({"hooks.message_url": decider.url, "hooks.secret": "hush hush"})
        connect(gateway, "ann").request("publish", channel="c", content="é")
        time_part, signature = decider.headers[0]["x-ringgate-signature"].split(",")
        signed = time_part.removeprefix("t=").encode() + b"." + decider.bodies[0]
        assert signature == "v1=" + hmac.new(b"hush hush", signed, hashlib.sha256).hexdigest()


def test_events_are_told_as_they_were_changed(start, connect):
    """What is told of a message, and to whom, is what became of it."""
    with Decider(lambda question: {"refuse": True} if question["content"] == "bad" else {"content": "changed"}) as decider, Service() as events:
        gateway = start({"hooks.message_url": decider.url, "hooks.url": events.url, "hooks.events": ["message"], "hooks.batch_delay": "20ms"})
        client = connect(gateway, "ann")
        with pytest.raises(Refused):
            client.request("publish", channel="c", content="bad")
        client.request("publish", channel="c", content="good")
        eventually(lambda: events.events, "told")
        assert [event["content"] for event in events.events] == ["changed"]


def test_what_a_service_may_not_make_of_a_message(room):
    """A message that became too large is no answer, and a client may not be flooded that way."""
    with Decider(lambda question: {question["content"]: "x" * 70_000}) as decider:
        _, ann, ben = room(decider.url)
        for field in ("content", "answer"):
            assert ann.refused("message", roomId="r", content=field)["code"] == "unavailable"
        assert ben.fence() == []


@pytest.mark.parametrize("late", [b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"answer\":666}"])
def test_what_comes_unasked_is_not_taken_for_an_answer(start, connect, late):
    """A connection on which more comes than was asked for is not used again."""
    with Decider() as decider:
        gateway = start({"hooks.message_url": decider.url})
        client = connect(gateway, "ann")
        for n in range(3):
            assert "messageId" in client.request("publish", channel="c", content=n)
            decider.sockets[-1].sendall(late)
            time.sleep(0.05)
        assert results(gateway, "message")["allowed"] == 3 and decider.connections == 3
