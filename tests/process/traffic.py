"""Users who come back when their connection ends, and others who write to them: what became of every message is known."""

import collections
import itertools
import threading
import time
from dataclasses import dataclass, field

from websockets.exceptions import InvalidHandshake, InvalidMessage

from client import Client, Closed, Refused

PAUSE_S = 0.01


@dataclass
class Session:
    """One connection of a roamer."""

    node: str
    since: float
    until: float = None
    code: int = None
    heard: list = field(default_factory=list)  # (id, content)


class Roamer(threading.Thread):
    """A user with one connection at a time: to the node whose turn it is, and when that ends to the next one."""

    def __init__(self, cluster, user, first):
        super().__init__(daemon=True)
        self.cluster, self.user, self.turn = cluster, user, first
        self.sessions = []
        self.connected = threading.Event()
        self.stopping = threading.Event()
        self.start()

    def run(self):
        while not self.stopping.is_set():
            try:
                self._visit()
            except (OSError, InvalidHandshake, InvalidMessage, EOFError, Closed, AssertionError):
                time.sleep(PAUSE_S)
            self.turn += 1

    def _visit(self):
        nodes = self.cluster.running()
        if not nodes:
            return
        node = nodes[self.turn % len(nodes)]
        client = Client(node.url(user_id=self.user), open_timeout=2, close_timeout=1)
        try:
            welcome = client.expect("auth:ok", timeout=5)
            session = Session(welcome["node"], time.monotonic())
            self.sessions.append(session)
            self.connected.set()
            try:
                while not self.stopping.is_set():
                    try:
                        message = client.next(timeout=0.1)
                    except Closed as closed:
                        session.code = closed.code
                        return
                    except AssertionError:
                        continue  # nothing came
                    if message["type"] == "message":
                        session.heard.append((message["id"], message["content"]))
            finally:
                session.until = time.monotonic()
        finally:
            client.close()

    def stop(self):
        self.stopping.set()
        self.join(10)


@dataclass
class Sent:
    """One message and its answer."""

    number: int
    speaker: str
    to: str
    at: float
    answer: str = "unknown"
    answered: float = None


class Speaker(threading.Thread):
    """Writes to all roamers by turns, from the node whose turn it is; comes back like they do."""

    def __init__(self, cluster, user, first, roamers):
        super().__init__(daemon=True)
        self.cluster, self.user, self.turn, self.roamers = cluster, user, first, roamers
        self.sent = []
        self.stopping = threading.Event()
        self.start()

    def run(self):
        numbers = itertools.count()
        while not self.stopping.is_set():
            try:
                nodes = self.cluster.running()
                client = Client(nodes[self.turn % len(nodes)].url(user_id=self.user), open_timeout=2, close_timeout=1)
                try:
                    client.expect("auth:ok", timeout=5)
                    while not self.stopping.is_set():
                        self._say(client, next(numbers))
                finally:
                    client.close()
            except (OSError, InvalidHandshake, InvalidMessage, EOFError, AssertionError, ZeroDivisionError):
                time.sleep(PAUSE_S)
            self.turn += 1

    def _say(self, client, number):
        to = self.roamers[number % len(self.roamers)].user
        sent = Sent(number, self.user, to, time.monotonic())
        self.sent.append(sent)
        try:
            sent.answer = client.request(
                "send_message", timeout=8, target_user=to, content={"number": number, "speaker": self.user, "to": to}
            )["status"]
        except Refused as refused:
            sent.answer = refused.code
        sent.answered = time.monotonic()
        time.sleep(PAUSE_S)

    def stop(self):
        self.stopping.set()
        self.join(15)


class Traffic:
    """Roamers and speakers at work; in a `with`."""

    def __init__(self, cluster, unique, roamers=6, speakers=2):
        self.cluster = cluster
        self.roamers = [Roamer(cluster, unique(f"roamer{n}"), n) for n in range(roamers)]
        for roamer in self.roamers:
            assert roamer.connected.wait(10), "everybody is there before the first message"
        self.speakers = [Speaker(cluster, unique(f"speaker{n}"), n, self.roamers) for n in range(speakers)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for speaker in self.speakers:
            speaker.stop()
        time.sleep(0.5)  # what is still on its way
        for roamer in self.roamers:
            roamer.stop()

    # What became of it

    def sent(self):
        return [sent for speaker in self.speakers for sent in speaker.sent]

    def answers(self):
        return collections.Counter(sent.answer for sent in self.sent())

    def heard(self):
        """(speaker, number) of everything that came, with how often."""
        return collections.Counter(
            (content["speaker"], content["number"])
            for roamer in self.roamers
            for session in roamer.sessions
            for _, content in session.heard
        )

    def lost(self):
        """What was answered `delivered` and came to nobody."""
        heard = self.heard()
        return [sent for sent in self.sent() if sent.answer == "delivered" and (sent.speaker, sent.number) not in heard]

    def check(self):
        """Nothing came twice, to the wrong user, out of order, or although it was answered that it did not."""
        twice = {key: count for key, count in self.heard().items() if count > 1}
        assert not twice, f"came twice: {twice}"
        refused = {(s.speaker, s.number) for s in self.sent() if s.answer == "offline"}
        assert not refused & set(self.heard()), "answered offline, and came"
        for roamer in self.roamers:
            for session in roamer.sessions:
                assert {content["to"] for _, content in session.heard} <= {roamer.user}, "came to somebody else"
                for speaker in self.speakers:
                    numbers = [content["number"] for _, content in session.heard if content["speaker"] == speaker.user]
                    assert numbers == sorted(numbers), f"out of order at {roamer.user}"

    def answered_otherwise(self, *faults):
        """Messages to somebody who was connected all the while that were not answered `delivered`, outside these spans of time."""
        wrong = []
        for sent in self.sent():
            if sent.answer == "delivered" or sent.answered is None:
                continue
            sessions = next(roamer for roamer in self.roamers if roamer.user == sent.to).sessions
            there = any(s.since < sent.at and (s.until or sent.answered) > sent.answered for s in sessions)
            if there and not any(begin <= sent.at <= end for begin, end in faults):
                wrong.append(sent)
        return wrong
