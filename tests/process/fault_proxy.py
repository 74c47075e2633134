"""A TCP proxy between a gateway and Redis that does what networks do: it delays, swallows one direction, cuts, refuses."""

import contextlib
import socket
import struct
import threading
import time

UP, DOWN = "up", "down"  # towards Redis, and back


class Pipe:
    """One connection through the proxy."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.subscribed = False
        self.deaf = False
        self.over = False
        for source, sink, direction in ((client, server, UP), (server, client, DOWN)):
            threading.Thread(target=self.carry, args=(source, sink, direction), daemon=True).start()

    def carry(self, source, sink, direction):
        try:
            while data := source.recv(65536):
                if direction == UP and b"SUBSCRIBE\r\n" in data.upper():
                    self.subscribed = True
                if self.proxy.delay:
                    time.sleep(self.proxy.delay)
                # What is held arrives when the network is whole again, as TCP sends it again until then.
                with self.proxy.changed:
                    self.proxy.changed.wait_for(lambda: self.over or not self.held(direction))
                if self.over:
                    break
                allowed = self.proxy.take_cut(direction, len(data))
                if allowed is not None:
                    sink.sendall(data[:allowed])
                    break
                sink.sendall(data)
        except OSError:
            pass
        self.end()

    def held(self, direction):
        return direction in self.proxy.swallowed or (self.deaf and direction == DOWN)

    def end(self):
        with self.proxy.changed:
            self.over = True
            self.proxy.changed.notify_all()
            self.proxy.pipes.discard(self)
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                # A reset, so that nobody waits for a goodbye.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class FaultProxy:
    """Listens on a free port, and carries every connection to `port`; in a `with`."""

    def __init__(self, port):
        self.target = port
        self.delay = 0.0
        self.swallowed = set()
        self.refusing = False
        self.accepted = 0
        self.cut_after = {}
        self.changed = threading.Condition()
        self.pipes = set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                if self.refusing:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                self.pipes.add(Pipe(self, client, server))

    # Faults

    def swallow(self, *directions):
        """Nothing goes that way any more; connections stay open."""
        with self.changed:
            self.swallowed = set(directions)
            self.changed.notify_all()

    def deafen(self):
        """Connections that are subscribed hear nothing more; later ones do."""
        with self.changed:
            heard = [pipe for pipe in self.pipes if pipe.subscribed]
            for pipe in heard:
                pipe.deaf = True
        return len(heard)

    def cut(self):
        """Ends every connection."""
        with self.changed:
            pipes = list(self.pipes)
        for pipe in pipes:
            pipe.end()

    def cut_in_the_middle(self, direction, least=2):
        """Of the next piece of at least so many bytes half arrives, then that connection ends."""
        with self.changed:
            self.cut_after[direction] = least

    def refuse(self, refusing=True):
        """New connections are refused, and those there are end."""
        self.refusing = refusing
        if refusing:
            self.cut()

    def partition(self):
        """As if the cable were out: nothing goes either way, and nobody is told."""
        self.swallow(UP, DOWN)

    def heal(self):
        self.delay, self.refusing = 0.0, False
        self.swallow()

    def take_cut(self, direction, size):
        """How much of a piece may pass before the cut; `None`: there is none."""
        with self.changed:
            if size < self.cut_after.get(direction, size + 1):
                return None
            del self.cut_after[direction]
            return size // 2
