"""Event streams: each event leaves when it comes, and a slow reader holds the upstream back."""

import socket
import statistics
import threading
import time

import pytest

import harness
import wire

EVENTS = 100
BODY = b'{"model":"m","stream":true}'
HEAD = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n")


def chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


def event(number):
    return b'data: {"n":%d,"at":%d}\n\n' % (number, time.monotonic_ns())


class LockStep:
    """Sends an event only when the reader says that it has the one before: with anything buffered on
    the way nothing would move."""

    def __init__(self, events, framing="chunked"):
        self.events = events
        self.framing = framing
        self.turn = threading.Semaphore(1)

    def __call__(self, received, connection):
        if self.framing == "chunked":
            connection.sendall(HEAD)
        else:
            connection.sendall(HEAD.replace(b"Transfer-Encoding: chunked\r\n", b""))
        for number in range(self.events):
            if not self.turn.acquire(timeout=30):
                return "reset"
            data = event(number)
            connection.sendall(chunk(data) if self.framing == "chunked" else data)
        self.turn.acquire(timeout=30)
        return b"0\r\n\r\n" if self.framing == "chunked" else "close"


def ask_for_stream(gateway, path="openai/v1/chat/completions", timeout=30, version="HTTP/1.1"):
    connection = wire.Wire.connect(gateway.port, timeout=timeout)
    connection.send(wire.head("POST", f"/v2/ep/{path}", gateway.key, BODY, version=version) + BODY)
    return connection


def test_events_arrive_one_by_one(lab, podgate):
    script = LockStep(EVENTS)
    gateway = podgate(lab.scripted(script))
    with ask_for_stream(gateway) as connection:
        _, status, _, fields = connection.read_head()
        assert status == 200
        assert ("content-type", "text/event-stream; charset=utf-8") in fields
        assert ("transfer-encoding", "chunked") in fields
        for number in range(EVENTS):
            data = b""
            while not data.endswith(b"\n\n"):
                data += connection.read_chunk()
            assert b'"n":%d,' % number in data
            script.turn.release()
        assert connection.read_chunk() == b""
        assert connection.request("GET", "/podgate/v1/whoami", gateway.key).status == 200


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_events_arrive_one_by_one_over_http_1_0(lab, podgate, framing):
    """No chunked coding for a caller of 1.0; and an upstream that ends by closing."""
    script = LockStep(10, framing)
    gateway = podgate(lab.scripted(script))
    with ask_for_stream(gateway, version="HTTP/1.0") as connection:
        _, status, _, fields = connection.read_head()
        assert status == 200
        assert "transfer-encoding" not in dict(fields)
        for number in range(10):
            while b"\n\n" not in connection.buffer:
                assert connection.fill()
            data, _, connection.buffer = connection.buffer.partition(b"\n\n")
            assert b'"n":%d,' % number in data
            script.turn.release()
        assert connection.read_to_end() == b""


class Paced:
    """Events 50 ms apart, each with the time of its sending."""

    def __call__(self, received, connection):
        connection.sendall(HEAD)
        for number in range(EVENTS):
            connection.sendall(chunk(event(number)))
            time.sleep(0.05)
        return b"0\r\n\r\n"


def delays_ms(port, key):
    delays = []
    with wire.Wire.connect(port, timeout=30) as connection:
        connection.send(wire.head("POST", "/v2/ep/openai/v1/chat/completions", key, BODY) + BODY)
        connection.read_head()
        while data := connection.read_chunk():
            now = time.monotonic_ns()
            sent = int(data.partition(b'"at":')[2].partition(b"}")[0])
            delays.append((now - sent) / 1e6)
    assert len(delays) == EVENTS
    return delays


def test_added_delay_of_events_is_small(lab, podgate):
    """Direct and through podgate in turn; the bound leaves room for a busy machine, while an event
    that waited for the next one would be 50 ms late."""
    upstream = lab.scripted(Paced())
    gateway = podgate(upstream)
    direct = delays_ms(upstream.port, harness.UPSTREAM_KEY)
    through = delays_ms(gateway.port, gateway.key)
    added = statistics.median(through) - statistics.median(direct)
    print(f"median added delay: {added:.3f} ms")
    assert added < 2 + 10 * harness.PATIENCE


class Flood:
    """An endless stream, counting what the kernel took."""

    def __init__(self):
        self.sent = 0
        self.ended = False

    def __call__(self, received, connection):
        piece = chunk(b"data: " + b"x" * 65000 + b"\n\n")
        try:
            connection.sendall(HEAD)
            while True:
                self.sent += connection.send(piece)
        finally:
            self.ended = True


def stands_still(read, seconds=1.5):
    """Waits until a number stops growing, and returns it."""
    deadline = time.monotonic() + 30 * harness.PATIENCE
    last, since = read(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = read()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > seconds:
            return now
    raise AssertionError(f"it goes on growing: {last}")


def test_slow_reader_stops_the_upstream_being_read(lab, podgate):
    flood = Flood()
    gateway = podgate(lab.scripted(flood))
    gateway.request("GET", "/podgate/v1/whoami", gateway.key)
    before = gateway.rss_bytes()
    connection = ask_for_stream(gateway)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.fill()
    held = stands_still(lambda: flood.sent)
    assert held < 64 * 1024 * 1024  # what sockets on the way hold, and no more
    if not harness.SANITIZED:
        assert gateway.rss_bytes() - before < 16 * 1024 * 1024
    for _ in range(200):
        connection.fill()
    harness.wait_until(lambda: flood.sent > held, 10, "the upstream to be read again")
    connection.close()
    harness.wait_until(lambda: flood.ended, 10, "the upstream's connection to end with the caller's")


def test_stream_that_breaks_off_does_not_look_whole(lab, podgate):
    def answer(received, connection):
        connection.sendall(HEAD + chunk(event(0)))
        return "reset"
    gateway = podgate(lab.scripted(answer))
    with ask_for_stream(gateway) as connection:
        connection.read_head()
        with pytest.raises(wire.WireError):
            while connection.read_chunk():
                pass
            raise AssertionError("the stream ended as if it were whole")


def test_stream_that_falls_silent_ends_by_the_idle_time_out(lab, podgate):
    def answer(received, connection):
        connection.sendall(HEAD + chunk(event(0)))
        return "stall"
    gateway = podgate(lab.scripted(answer), {"upstream": {"idle_timeout": "1s"}})
    with ask_for_stream(gateway) as connection:
        connection.read_head()
        assert connection.read_chunk()
        with pytest.raises(wire.WireError):
            connection.read_chunk()


def test_stream_may_outlast_every_total_time_out(lab, podgate):
    """No cap on duration: only silence ends it."""
    script = LockStep(30)
    gateway = podgate(lab.scripted(script), {"upstream": {
        "read_timeout": "300ms", "submit_timeout": "300ms", "idle_timeout": "3s"}})
    with ask_for_stream(gateway) as connection:
        connection.read_head()
        for _ in range(30):
            assert connection.read_chunk()
            time.sleep(0.05)
            script.turn.release()
        assert connection.read_chunk() == b""


def test_caller_that_leaves_a_stream_ends_it_upstream(lab, podgate):
    flood = Flood()
    gateway = podgate(lab.scripted(flood))
    connection = ask_for_stream(gateway)
    connection.fill()
    connection.reset()
    harness.wait_until(lambda: flood.ended, 10, "the upstream's connection to end with the caller's")
    assert gateway.request("GET", "/podgate/v1/whoami", gateway.key).status == 200
