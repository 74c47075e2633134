"""The hook that decides who connects: what the service is told, what it may answer, and what happens where it does not."""

import hashlib
import hmac
import time

import pytest

from admin import Admin
from client import Client
from decider import Decider, Hanging, elapsed, free_port
from gateway import StartFailed, eventually, run
from tokens import SECRET, token

JWT = {"auth.mode": "jwt", "auth.hmac_secret": SECRET}


def results(gateway, hook="connect"):
    """How questions ended, as counted."""
    with Admin(gateway) as admin:
        samples = admin.metrics()["ringgate_hook_questions_total"][2]
    return {result: samples[f'ringgate_hook_questions_total{{hook="{hook}",result="{result}"}}'] for result in
            ("allowed", "refused", "failed", "timed_out", "busy")}


@pytest.mark.parametrize("chunked", [False, True])
def test_the_service_says_who_it_is_and_what_it_may_do(start, connect, chunked):
    def decide(question):
        name = question["headers"]["cookie"].removeprefix("session=")
        return {"user": name, "rooms": ["lobby"], "permissions": ["join:team-*", "send:*"]}

    with Decider(decide, chunked=chunked) as decider:
        gateway = start({"hooks.connect_url": decider.url, "hooks.connect_headers": ["Cookie", "X-Device"]})
        clients = [
            connect(gateway, "ignored", headers={"Cookie": f"session=u{n}", "X-Device": "d", "X-Other": "o"}, user_agent_header="probe/1")
            for n in range(4)
        ]
        assert [client.user for client in clients] == ["u0", "u1", "u2", "u3"]
        question = decider.questions[0]
        assert question["hook"] == "connect" and question["refresh"] is False and question["node"] == gateway.node_id
        assert question["headers"] == {"cookie": "session=u0", "x-device": "d"}
        assert question["query"].startswith("user_id=ignored") and question["user_agent"] == "probe/1"
        assert question["address"].startswith("127.0.0.1:") and "user" not in question
        assert abs(question["timestamp"] / 1000 - time.time()) < 60
        # In the room without having asked; and what is not permitted is not.
        clients[0].request("message", roomId="lobby", content="hi")
        for client in clients[1:]:
            assert client.expect("message")["from"] == "u0"
        clients[0].request("join", roomId="team-7")
        assert clients[0].refused("join", roomId="other")["code"] == "forbidden"
        # Whom a service lets in is no longer anybody: what mode none permits besides, it must say.
        assert clients[0].refused("broadcast", content=1)["code"] == "forbidden"
        assert decider.connections == 1, "one connection, kept"
        assert results(gateway)["allowed"] == 4


def test_what_is_sent_before_the_answer_waits_and_keeps_its_order(start, connect):
    with Decider(lambda question: {"user": "ann"}) as decider:
        gateway = start({"hooks.connect_url": decider.url})
        decider.hold()
        client = connect(gateway, welcome=False)
        for n in range(20):
            client.send("publish", channel="c", content=n, id=n)
        client.send("subscribe", channel="c", id="in")
        client.send("publish", channel="c", content="last")
        decider.asked()
        decider.release()
        assert client.expect("auth:ok")["userId"] == "ann"
        answers = [client.next() for _ in range(22)]
        assert [answer.get("id") for answer in answers[:21]] == [*range(20), "in"]
        assert answers[21]["content"] == "last"


@pytest.mark.parametrize(
    "answer, code, reason",
    [
        ({"refuse": True}, 4001, "Unauthorized"),
        ({"refuse": {"code": 4403, "message": "banned"}}, 4403, "banned"),
        (401, 4001, "Unauthorized"),
        ((403, b"<html>no</html>"), 4001, "Unauthorized"),
    ],
)
def test_whom_the_service_refuses(start, connect, answer, code, reason):
    with Decider(lambda _: answer) as decider:
        # `allow` is for services that do not answer; this one has.
        gateway = start({**JWT, "hooks.connect_url": decider.url, "hooks.connect_failure": "allow"})
        client = connect(gateway, welcome=False, token=token("ann"))
        assert client.expect("auth:fail")["message"] == reason
        assert client.closed() == (code, reason)
        assert results(gateway)["refused"] == 1
        family, sample = "ringgate_connections_closed_total", 'ringgate_connections_closed_total{reason="unauthorized"}'
        with Admin(gateway) as admin:
            eventually(lambda: admin.metrics()[family][2][sample] == 1, "counted with the next tick")


def test_a_session_ends_when_the_service_says(start, connect):
    with Decider(lambda _: {"user": "ann", "exp": int(time.time()) + 2}) as decider:
        client = connect(start({"hooks.connect_url": decider.url}))
        assert client.closed(timeout=10)[0] == 4002


UNANSWERED = {
    "nobody there": lambda decider: f"http://127.0.0.1:{free_port()}/",
    "an error": lambda decider: decider.url,
    "hangs": None,
}


@pytest.mark.parametrize("why", UNANSWERED)
@pytest.mark.parametrize("failure", ["refuse", "allow"])
def test_without_an_answer(start, connect, why, failure):
    with Decider(lambda _: 500) as decider, Hanging() as hanging:
        url = hanging.url if why == "hangs" else UNANSWERED[why](decider)
        settings = {"hooks.connect_url": url, "hooks.connect_failure": failure, "hooks.answer_timeout": "500ms"}
        gateway = start({**JWT, **settings})
        began = time.monotonic()
        client = connect(gateway, welcome=False, token=token("ann", rooms=["r"]))
        if failure == "allow":
            assert client.expect("auth:ok")["userId"] == "ann"
            client.request("message", roomId="r", content=1)
        else:
            code, reason = client.closed()
            assert code == 1013 and "did not answer" in reason, "it may come back"
        assert elapsed(began) < 5
        counted = results(gateway)
        assert counted["timed_out" if why == "hangs" else "failed"] == 1, counted


@pytest.mark.parametrize("answer", [{}, {"user": ""}, {"user": "events"}, {"user": "a", "permissions": ["all"]}, [], (200, b"nope"), (200, b"\xff")])
def test_answers_that_are_none(start, connect, answer):
    with Decider(lambda _: answer) as decider:
        gateway = start({"hooks.connect_url": decider.url})
        client = connect(gateway, "ann", welcome=False)
        assert client.closed()[0] == 1013


def test_a_bad_token_is_not_even_asked_about(start, connect):
    with Decider() as decider:
        gateway = start({**JWT, "hooks.connect_url": decider.url})
        client = connect(gateway, welcome=False, token=token("ann", key="another secret, as long as the right one is"))
        assert client.closed()[0] == 4001
        first = connect(gateway, welcome=False)
        first.send("auth", token=token("ann"), id=1)
        assert first.expect("auth:ok")["userId"] == "ann"
        assert first.expect(id=1)["type"] == "ok"
        assert [question["user"] for question in decider.questions] == ["ann"]


def test_another_token_is_asked_about_again(start, connect):
    answers = iter([{"permissions": []}, {"permissions": []}, {"permissions": ["join:r"]}, {"refuse": "no more"}])
    with Decider(lambda _: next(answers)) as decider:
        gateway = start({**JWT, "hooks.connect_url": decider.url})
        client = connect(gateway, token=token("ann"))
        assert client.refused("join", roomId="r")["code"] == "forbidden"
        client.request("auth", token=token("ann"))
        assert client.refused("join", roomId="r")["code"] == "forbidden", "a token gives nothing back"
        client.request("auth", token=token("ann"))
        client.request("join", roomId="r")
        client.send("auth", token=token("ann"))
        assert client.closed() == (4001, "no more")
        assert [question["refresh"] for question in decider.questions] == [False, True, True, True]


def test_the_signature_holds_and_requests_have_names(start, connect):
    with Decider(lambda _: {"user": "ann"}) as decider:
        gateway = start({"hooks.connect_url": decider.url, "hooks.secret": "hush hush"})
        for _ in range(2):
            connect(gateway)
        for headers, body in zip(decider.headers, decider.bodies):
            time_part, signature = headers["x-ringgate-signature"].split(",")
            signed = time_part.removeprefix("t=").encode() + b"." + body
            assert signature == "v1=" + hmac.new(b"hush hush", signed, hashlib.sha256).hexdigest()
            assert abs(int(time_part.removeprefix("t=")) - time.time()) < 60
            assert headers["content-type"] == "application/json"
        assert len({headers["x-ringgate-delivery"] for headers in decider.headers}) == 2


def test_a_service_that_hangs_hinders_nobody_who_is_in(start, connect):
    with Decider(lambda question: {"user": question["query"].partition("=")[2]}) as decider:
        gateway = start({"hooks.connect_url": decider.url, "hooks.answer_timeout": "20s", "hooks.connections": 4, "hooks.in_flight": 20})
        ann, ben = (connect(gateway, name, exact=True) for name in ("ann", "ben"))
        decider.hold()
        waiting = [connect(gateway, f"w{n}", exact=True, welcome=False) for n in range(15)]
        decider.asked(2 + 4)
        began = time.monotonic()
        for n in range(100):
            assert ann.request("send_message", target_user="ben", content=n)["status"] == "delivered"
            assert ben.expect("message")["content"] == n
        with Admin(gateway) as admin:
            assert admin.json("/readyz")[0] == 200
            asking = lambda: sum(admin.metrics()["ringgate_connections_asking"][2].values())  # noqa: E731
            eventually(lambda: asking() == 15, "shown with the next tick")
        assert elapsed(began) < 5
        # No more than so many requests at a time, and no more than so many questions.
        extra = [connect(gateway, f"x{n}", exact=True, welcome=False) for n in range(10)]
        closed = eventually(lambda: results(gateway)["busy"], "too much is asked")
        assert closed == 5
        decider.release()
        assert sorted(client.expect("auth:ok")["userId"] for client in waiting) == sorted(f"w{n}" for n in range(15))
        assert decider.most_under_way == 4
        ends = []
        for client in extra:
            try:
                ends.append(client.expect("auth:ok")["type"])
            except AssertionError as closed:
                ends.append(closed.code)
        assert ends.count(1013) == 5 and ends.count("auth:ok") == 5


def test_who_goes_before_the_answer_is_forgotten(start, connect):
    with Decider(lambda _: {"user": "ann"}) as decider:
        gateway = start({"hooks.connect_url": decider.url})
        decider.hold()
        clients = [connect(gateway, welcome=False) for _ in range(10)]
        decider.asked(10)
        for client in clients:
            client.abort()
        decider.release()
        with Admin(gateway) as admin:
            eventually(lambda: results(gateway)["allowed"] == 10, "answered after all")
            eventually(lambda: admin.json("/health")[1]["connections"] == 0, "they are gone")
        assert connect(gateway).user == "ann"


def test_a_service_that_closes_its_connections(start, connect):
    """A kept connection may be closed at any moment between two questions: nobody notices."""
    with Decider(lambda _: {"user": "ann"}) as decider:
        handler = decider.server.RequestHandlerClass
        handler.timeout = 0.05
        gateway = start({"hooks.connect_url": decider.url})
        for _ in range(5):
            connect(gateway)
            time.sleep(0.15)
        assert results(gateway)["allowed"] == 5 and decider.connections >= 2


def test_a_service_that_moves_is_found_again(start, connect):
    """Of the addresses that a name has, one that works is found; and what is gone for a while is used when it is back."""
    with Decider(lambda _: {"user": "ann"}) as decider:
        port = decider.port
        gateway = start({"hooks.connect_url": f"http://localhost:{port}/decide", "hooks.answer_timeout": "5s"})
        assert connect(gateway).user == "ann"
    assert connect(gateway, welcome=False).closed()[0] == 1013
    with Decider(lambda _: {"user": "ben"}, port=port):
        assert connect(gateway).user == "ben"


def test_mode_none_with_a_service_may_listen_anywhere():
    outside = ["--set", "listen.client=0.0.0.0:0"]
    assert run("check-config", *outside).returncode == 2
    assert run("check-config", *outside, "--set", "hooks.connect_url=http://127.0.0.1:1/").returncode == 0


@pytest.mark.parametrize("key", ["hooks.url", "hooks.connect_url", "hooks.message_url"])
def test_https_is_refused_with_a_word_of_what_to_do(start, key):
    with pytest.raises(StartFailed) as failed:
        start({key: "https://example.com/hook"})
    assert key in str(failed.value) and "https is not spoken here" in str(failed.value) and "proxy" in str(failed.value)
