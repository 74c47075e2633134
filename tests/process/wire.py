"""Bytes on a socket, for what a well-behaved library would not send."""

import base64
import socket
import struct
import time

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
TIMEOUT_S = 10
KEY = base64.b64encode(bytes(range(16))).decode()
ACCEPT = "Bz3qJYTGdOe8gUSpLosEdiLKDrk="  # of KEY, by RFC 6455 section 4.2.2


def mask(payload, key):
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True, key=b"\x11\x22\x33\x44", length=None, width=None):
    """A client frame. `length` lies about the length, `width` forces 0, 2 or 8 bytes of extended length."""
    if isinstance(payload, str):
        payload = payload.encode()
    length = len(payload) if length is None else length
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    short = {0: length, 2: 126, 8: 127}[width]
    head += bytes([(0x80 if masked else 0) | short])
    head += {0: b"", 2: struct.pack(">H", length & 0xFFFF), 8: struct.pack(">Q", length)}[width]
    return head + (key + mask(payload, key) if masked else payload)


def upgrade_request(path="/ws?user_id=raw", host="localhost", headers=(), key=KEY):
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Ended(AssertionError):
    """The peer's stream ended while bytes were waited for."""


class Response:
    """An HTTP response."""

    def __init__(self, head, body):
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.version, status, self.phrase = (status_line.split(" ", 2) + [""])[:3]
        self.status = int(status)
        self.headers = {}
        for line in lines:
            name, value = line.split(":", 1)
            self.headers.setdefault(name.lower(), value.strip())
        self.body = body

    def __repr__(self):
        return f"<{self.status} {self.phrase} {self.headers} {self.body!r}>"


class Wire:
    """A plain TCP connection to the gateway."""

    def __init__(self, gateway, *, receive_buffer=None, source=None):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect((gateway.host, gateway.port))
        self.received = bytearray()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def reset(self):
        """Ends with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _fill(self, deadline):
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"nothing came in time; so far {bytes(self.received[:200])!r}") from None
        except ConnectionError as error:
            raise Ended(f"{error} after {bytes(self.received[:200])!r}") from None
        if not data:
            raise Ended(f"end of stream after {bytes(self.received[:200])!r}")
        self.received += data

    def take(self, count, timeout=TIMEOUT_S):
        deadline = time.monotonic() + timeout
        while len(self.received) < count:
            self._fill(deadline)
        taken = bytes(self.received[:count])
        del self.received[:count]
        return taken

    def ended(self, timeout=TIMEOUT_S):
        """Reads to the end of the stream: what came before it."""
        deadline = time.monotonic() + timeout
        try:
            while True:
                self._fill(deadline)
        except Ended:
            return bytes(self.received)

    def response(self, timeout=TIMEOUT_S):
        deadline = time.monotonic() + timeout
        while b"\r\n\r\n" not in self.received:
            self._fill(deadline)
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        response = Response(head, b"")
        length = int(response.headers.get("content-length", 0))
        del self.received[: len(head) + 4]
        response.body = self.take(length, max(0.001, deadline - time.monotonic()))
        return response

    def upgrade(self, path="/ws?user_id=raw", **options):
        self.send(upgrade_request(path, **options))
        response = self.response()
        assert response.status == 101, response
        return response

    def frame(self, timeout=TIMEOUT_S):
        """The next frame: (fin, rsv, opcode, payload)."""
        deadline = time.monotonic() + timeout
        left = lambda: max(0.001, deadline - time.monotonic())
        first, second = self.take(2, left())
        assert not second & 0x80, "a server must not mask"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2, left()))
            assert length >= 126, "a length must be minimal"
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8, left()))
            assert length >= 65536, "a length must be minimal"
        return bool(first & 0x80), first >> 4 & 7, first & 0xF, self.take(length, left())

    def opcode(self, opcode, timeout=TIMEOUT_S):
        """The payload of the next frame with this opcode; others are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            _, _, got, payload = self.frame(max(0.001, deadline - time.monotonic()))
            if got == opcode:
                return payload

    def close_code(self, timeout=TIMEOUT_S):
        """The code and reason of the close frame; frames before it are passed over."""
        payload = self.opcode(CLOSE, timeout)
        if not payload:
            return None, ""
        return struct.unpack(">H", payload[:2])[0], payload[2:].decode()

    def answer_close(self, code):
        try:
            self.send(frame(CLOSE, struct.pack(">H", code) if code else b""))
        except ConnectionError:
            pass
