"""A service that decides: who connects, and what becomes of messages."""

import contextlib
import http.server
import json
import socket
import threading
import time

from gateway import eventually


class Decider:
    """Answers questions on a free port. `decide` takes a question and returns the answer: a value for JSON, a status, or a status and bytes.

    It is on keep-alive, as services are; `chunked` answers in chunks. While `held` is set, questions wait.
    """

    def __init__(self, decide=lambda question: {}, *, chunked=False, port=0):
        self.decide, self.chunked = decide, chunked
        self.questions, self.headers, self.bodies, self.sockets = [], [], [], []
        self.connections, self.under_way, self.most_under_way = 0, 0, 0
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.open.set()
        decider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                with decider.lock:
                    decider.connections += 1
                    decider.sockets.append(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                question = json.loads(body)
                with decider.lock:
                    decider.questions.append(question)
                    decider.headers.append({name.lower(): value for name, value in self.headers.items()})
                    decider.bodies.append(body)
                    decider.under_way += 1
                    decider.most_under_way = max(decider.most_under_way, decider.under_way)
                decider.open.wait(30)
                answer = decider.decide(question)
                with decider.lock:
                    decider.under_way -= 1
                try:
                    self.answer(answer)
                except OSError:
                    pass

            def answer(self, answer):
                if isinstance(answer, int):
                    answer = answer, b""
                status, data = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
                self.send_response(status)
                if decider.chunked and status != 204:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    middle = len(data) // 2
                    for part in (data[:middle], data[middle:]):
                        if part:
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    if status != 204:
                        self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/decide"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hold(self):
        """From now on questions wait."""
        self.open.clear()

    def release(self):
        self.open.set()

    def asked(self, count=1, timeout=10):
        """Waits until so many questions have come."""
        eventually(lambda: len(self.questions) >= count, f"{count} questions", timeout)
        return self.questions

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()
        self.server.shutdown()
        self.server.server_close()
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Hanging:
    """A service that takes connections and requests, and says nothing."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return reserved.getsockname()[1]


def elapsed(began):
    return time.monotonic() - began
