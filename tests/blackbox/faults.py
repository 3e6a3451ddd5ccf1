"""Upstreams that misbehave: a proxy that strikes at a given byte, and a server that says what a test
wants said."""

import contextlib
import socket
import struct
import threading
import time


def abort(sock):
    """Ends a connection by RST. A thread that waits in recv() holds the connection open, so it is
    woken first, which by itself sends nothing."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        sock.close()


def shut(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        sock.close()


class FaultProxy:
    """A TCP proxy on a free port. What it does to a connection is a Plan; a new one is taken from
    `next_plan` for each connection, so that a test can change it as it goes."""

    class Plan:
        """Offsets count the bytes of one direction: "up" from podgate, "down" to it."""

        def __init__(self, at=None, direction="up", action="reset", delay=0, drip=0, flip=None):
            self.at = at                # strike after so many bytes; None: never
            self.direction = direction
            self.action = action        # reset, close or stall
            self.delay = delay          # seconds before the first byte is passed on
            self.drip = drip            # > 0: pieces of so many bytes, 1 ms between them
            self.flip = flip            # downward byte at this offset is inverted
            self.struck = False         # from then on nothing is passed on in either direction

    def __init__(self, port, plan=None):
        self.target = port
        self.next_plan = plan or self.Plan
        self.connections = []
        self.count = 0
        self.refusing = False
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.listener = None
        self.port = None
        self.open()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v2"

    def open(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port or 0))
        self.listener.listen(1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept_all, args=(self.listener,), daemon=True).start()

    def refuse(self):
        """From now on connections are refused, and those that are open end."""
        shut(self.listener)
        self.cut_all()

    def cut_all(self):
        with self.lock:
            connections, self.connections = self.connections, []
        for sock in connections:
            abort(sock)

    def stop(self):
        self.stopped.set()
        shut(self.listener)
        self.cut_all()

    def accept_all(self, listener):
        while not self.stopped.is_set():
            try:
                near, _ = listener.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self.serve, args=(near, self.next_plan()), daemon=True).start()

    def serve(self, near, plan):
        try:
            far = socket.create_connection(("127.0.0.1", self.target), 10)
        except OSError:
            abort(near)
            return
        for sock in (near, far):
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            self.connections += [near, far]
        down = threading.Thread(target=self.pump, args=(far, near, "down", plan), daemon=True)
        down.start()
        self.pump(near, far, "up", plan)

    def pump(self, source, sink, direction, plan):
        passed = 0
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    with contextlib.suppress(OSError):
                        sink.shutdown(socket.SHUT_WR)
                    return
                if passed == 0 and plan.delay:
                    time.sleep(plan.delay)
                if plan.flip is not None and direction == "down":
                    at = plan.flip - passed
                    if 0 <= at < len(data):
                        data = data[:at] + bytes([data[at] ^ 0xff]) + data[at + 1:]
                struck = (plan.at is not None and plan.direction == direction
                          and passed + len(data) >= plan.at)
                if plan.struck:
                    return
                if struck:
                    plan.struck = True
                    data = data[:plan.at - passed]
                self.write(sink, data, plan)
                passed += len(data)
                if struck:
                    self.strike(source, sink, plan)
                    return
        except OSError:
            shut(source)
            shut(sink)

    @staticmethod
    def write(sink, data, plan):
        if not plan.drip:
            sink.sendall(data)
            return
        for begin in range(0, len(data), plan.drip):
            sink.sendall(data[begin:begin + plan.drip])
            time.sleep(0.001)

    def strike(self, source, sink, plan):
        if plan.action == "stall":
            self.stopped.wait(60)
        end = abort if plan.action == "reset" else shut
        end(source)
        end(sink)


class Received:
    """A request as the scripted upstream read it."""

    def __init__(self, head, body):
        self.head = head
        self.body = body
        lines = head.split(b"\r\n")
        self.method, self.target, _ = lines[0].decode("latin-1").split(" ")
        self.fields = {}
        for line in lines[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            self.fields.setdefault(name.lower(), []).append(value.strip())

    def field(self, name):
        values = self.fields.get(name.lower())
        return values[0] if values else None


def response(status=200, body=b"{}", fields=(), content_type="application/json", length=None):
    """The bytes of a well-formed answer (unless `length` lies)."""
    lines = [f"HTTP/1.1 {status} Scripted"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class ScriptedUpstream:
    """A server that reads whole requests and answers each with what `answer(received, connection)`
    gives: bytes (the connection goes on), None (the answer function did all by itself), or a string:
    "close", "reset", "stall"; a tuple of bytes and such a string does both."""

    def __init__(self, answer=None, tls=None, read_first=True):
        self.answer = answer or (lambda received, connection: response())
        self.tls = tls
        self.read_first = read_first
        self.requests = []
        self.raw = []
        self.connections = []
        self.connection_count = 0
        self.stopped = threading.Event()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept_all, daemon=True).start()

    @property
    def base_url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v2"

    def stop(self):
        self.stopped.set()
        shut(self.listener)
        for sock in self.connections:
            abort(sock)

    def accept_all(self):
        while not self.stopped.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connection_count += 1
            self.connections.append(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.connections.append(sock)
            buffer = b""
            while True:
                received, buffer = self.read_request(sock, buffer)
                if received is None:
                    break
                self.requests.append(received)
                if not self.act(sock, self.answer(received, sock)):
                    return
        except OSError:
            pass
        shut(sock)

    def read_request(self, sock, buffer):
        while b"\r\n\r\n" not in buffer:
            data = sock.recv(65536)
            if not data:
                return None, b""
            self.raw.append(data)
            buffer += data
        head, _, buffer = buffer.partition(b"\r\n\r\n")
        received = Received(head, b"")
        length = int(received.field("content-length") or 0)
        parts = [buffer]
        have = len(buffer)
        while have < length:
            data = sock.recv(1 << 20)
            if not data:
                return None, b""
            parts.append(data)
            have += len(data)
        buffer = b"".join(parts)
        received.body = buffer[:length]
        return received, buffer[length:]

    def act(self, sock, what):
        """False when the connection is over."""
        if what is None:
            return True
        data, end = what if isinstance(what, tuple) else (
            (what, None) if isinstance(what, bytes) else (b"", what))
        if data:
            sock.sendall(data)
        if end is None:
            return True
        if end == "stall":
            self.stopped.wait(120)
        elif end == "reset":
            if data:
                time.sleep(0.05)  # RST throws away what the peer has not read yet
            abort(sock)
        shut(sock)
        return False
