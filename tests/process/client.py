"""A client of the JSON protocol, made of Python's `websockets`."""

import collections
import itertools
import json
import socket
import time

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TIMEOUT_S = 10


class Refused(Exception):
    """A request was answered with an error."""

    def __init__(self, reply):
        super().__init__(f"{reply.get('code')}: {reply.get('message')}")
        self.reply = reply
        self.code = reply.get("code")


class Closed(AssertionError):
    """The connection closed while something was waited for."""

    def __init__(self, code, reason, waited_for):
        super().__init__(f"closed {code} {reason!r} while waiting for {waited_for}")
        self.code = code
        self.reason = reason

    @classmethod
    def by(cls, closed, waited_for):
        frame = closed.rcvd
        if closed.sent and not closed.rcvd_then_sent:
            # This library closed: it did not like what came.
            return cls(1006, f"the client closed: {closed.sent.code} {closed.sent.reason}", waited_for)
        return cls(frame.code if frame else 1006, frame.reason if frame else "", waited_for)


def matches(message, wanted):
    return all(key in message and message[key] == value for key, value in wanted.items())


class Client:
    """One connection. Messages are taken in the order in which they came; those passed over stay for later."""

    def __init__(self, url, *, token=None, headers=None, **options):
        headers = dict(headers or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        options.setdefault("ping_interval", None)
        options.setdefault("open_timeout", TIMEOUT_S)
        options.setdefault("close_timeout", TIMEOUT_S)
        options.setdefault("compression", None)
        options.setdefault("max_size", None)
        # Who takes in everything is never half-read when it closes, which would take until the time-out.
        options.setdefault("max_queue", None)
        options.setdefault("proxy", None)
        options.setdefault("legacy", True)  # a plain connection, not a context manager
        self.ws = connect(url, additional_headers=headers, **options)
        self.backlog = collections.deque()
        self.ids = itertools.count(1)
        self.welcome = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self, code=1000, reason=""):
        self.ws.close(code, reason)

    def abort(self):
        """Goes away without a close frame."""
        self.ws.socket.shutdown(socket.SHUT_RDWR)

    # Sending

    def raw(self, data):
        try:
            self.ws.send(data)
        except ConnectionClosed as closed:
            raise Closed.by(closed, "a message to be sent") from None

    def send(self, type, **fields):
        self.raw(json.dumps({"type": type, **fields}))

    def request(self, type, timeout=TIMEOUT_S, **fields):
        """Sends with an `id`; returns the `ok`, or raises `Refused`."""
        number = next(self.ids)
        self.send(type, id=number, **fields)
        reply = self.expect(timeout=timeout, id=number)
        if reply["type"] == "error":
            raise Refused(reply)
        return reply

    def refused(self, type, **fields):
        """Sends with an `id` and requires an error; returns it."""
        try:
            reply = self.request(type, **fields)
        except Refused as refused:
            return refused.reply
        raise AssertionError(f"{type} {fields} was answered {reply}, not refused")

    # Receiving

    def _receive(self, deadline, wanted):
        try:
            data = self.ws.recv(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise AssertionError(f"nothing like {wanted} came; there were {list(self.backlog)}") from None
        except ConnectionClosed as closed:
            raise Closed.by(closed, wanted) from None
        assert isinstance(data, str), "the JSON codec sends text"
        return json.loads(data)

    def next(self, timeout=TIMEOUT_S):
        """The next message, whatever it is."""
        if self.backlog:
            return self.backlog.popleft()
        return self._receive(time.monotonic() + timeout, "any message")

    def expect(self, type=None, timeout=TIMEOUT_S, **wanted):
        """The next message with these fields; others stay for later."""
        if type is not None:
            wanted["type"] = type
        for index, message in enumerate(self.backlog):
            if matches(message, wanted):
                del self.backlog[index]
                return message
        deadline = time.monotonic() + timeout
        while True:
            message = self._receive(deadline, wanted)
            if matches(message, wanted):
                return message
            self.backlog.append(message)

    def until(self, type=None, timeout=TIMEOUT_S, **wanted):
        """Everything that came before the next message with these fields, which is consumed as well.

        With a message that must come after another one, had that been sent, this proves that it was not.
        """
        if type is not None:
            wanted["type"] = type
        before = []
        deadline = time.monotonic() + timeout
        while True:
            message = self.backlog.popleft() if self.backlog else self._receive(deadline, wanted)
            if matches(message, wanted):
                return before
            before.append(message)

    def fence(self):
        """A request and its answer: everything the gateway had sent to this connection before is in the result."""
        number = next(self.ids)
        self.send("ping", id=number)
        return self.until(id=number)

    def closed(self, timeout=TIMEOUT_S):
        """Waits for the gateway to close: code and reason. Messages before it stay for later."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self.backlog.append(self._receive(deadline, "a close"))
        except Closed as end:
            return end.code, end.reason


def refused_status(url, **options):
    """Connects where the upgrade must be refused: the HTTP response."""
    try:
        client = Client(url, **options)
    except InvalidStatus as refused:
        return refused.response
    client.close()
    raise AssertionError(f"{url} was upgraded")
