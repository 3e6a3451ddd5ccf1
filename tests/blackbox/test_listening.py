"""Listening sockets: limits of connections, descriptors that run out, busy ports, the PROXY protocol,
Unix sockets, sockets passed by systemd, and a drain that loses nobody."""

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import tempfile
import threading
import time

import pytest

import harness
import wire
from harness import wait_until

NOWHERE = "http://127.0.0.1:1/v2"
HEAD = b"GET /nothing HTTP/1.1\r\nHost: podgate.test\r\n\r\n"


def told_503(connection):
    reply = connection.read_reply()
    wire.assert_problem(reply, 503, "too_many_connections")
    assert reply.field("Connection") == "close"
    assert reply.field("Retry-After")
    assert connection.closes_within()
    return True


def is_served(connection):
    connection.send(HEAD)
    return connection.read_reply().status == 404


# ---- limits --------------------------------------------------------------------------------------

def test_connections_above_the_limit_get_503_and_older_ones_are_served(podgate):
    gateway = podgate(NOWHERE, {"memory": {"connections": 5}})
    older = [gateway.connect() for _ in range(5)]
    assert all(is_served(connection) for connection in older)
    for _ in range(3):
        with gateway.connect() as newest:
            told_503(newest)
    assert all(is_served(connection) for connection in older)
    assert gateway.metric("podgate_connections_refused_total") == 3
    older.pop().close()
    wait_until(lambda: gateway.metric("podgate_connections_open") == 4)
    with gateway.connect() as another:
        assert is_served(another)
    wait_until(lambda: gateway.log_lines("connections_refused", limit="connections"))
    for connection in older:
        connection.close()


def connect_from(address, port):
    """A connection from another loopback address."""
    sock = socket.create_connection(("127.0.0.1", port), 20, (address, 0))
    return wire.Wire(sock)


def test_one_address_with_too_many_connections_gets_503_and_others_do_not(podgate):
    gateway = podgate(NOWHERE, {"memory": {"connections": 100, "connections_per_address": 3}})
    held = [gateway.connect() for _ in range(3)]
    assert all(is_served(connection) for connection in held)
    with gateway.connect() as newest:
        told_503(newest)
    with connect_from("127.0.0.3", gateway.port) as other:
        assert is_served(other)
    held.pop().close()
    wait_until(lambda: gateway.metric("podgate_connections_open") == 2)
    with gateway.connect() as another:
        assert is_served(another)
    for connection in held:
        connection.close()


def test_no_descriptors_left_pauses_without_spinning_and_goes_on_later(podgate):
    gateway = podgate(NOWHERE, {"memory": {"connections": 5000, "connections_per_address": 0}})
    gateway.limit_descriptors(80)
    older = gateway.connect()
    assert is_served(older)
    callers = [gateway.connect(timeout=10) for _ in range(200)]
    wait_until(lambda: gateway.log_lines("listener_paused"))
    before = gateway.cpu_seconds()
    time.sleep(1)
    assert gateway.cpu_seconds() - before < 0.5 * harness.PATIENCE
    assert is_served(older)
    for caller in [older, *callers]:
        caller.close()
    wait_until(lambda: is_served_anew(gateway), what="a caller after the pause")
    assert gateway.metric("podgate_connections_refused_total") >= 1
    wait_until(lambda: gateway.log_lines("listener_resumed"))
    assert len(gateway.log_lines("listener_paused")) <= 2 * 2


def is_served_anew(gateway):
    try:
        with gateway.connect(timeout=2) as connection:
            return is_served(connection)
    except (OSError, wire.WireError):
        return False


# ---- opening -------------------------------------------------------------------------------------

def test_busy_port_is_named_even_when_its_owner_is_another_podgate(podgate):
    gateway = podgate(NOWHERE)
    second = harness.run_podgate("-c", gateway.config_path)
    assert second.returncode == 69
    assert f'listen "127.0.0.1:{gateway.port}": Address already in use' in second.stderr
    assert is_served_anew(gateway)


@pytest.fixture
def short_directory():
    """The path of a Unix socket has 107 bytes at the most."""
    path = tempfile.mkdtemp(prefix="podgate-")
    yield path
    shutil.rmtree(path)



def test_unix_socket_is_served_replaced_when_stale_and_taken_away(podgate, short_directory):
    path = os.path.join(short_directory, "http.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    gateway = podgate(NOWHERE, {"listen": [f"unix:{path}"]})
    with wire.Wire.connect(0, path=path) as connection:
        assert is_served(connection)
    second = harness.run_podgate("-c", gateway.config_path)
    assert second.returncode == 69
    assert "another process answers on this socket" in second.stderr
    with wire.Wire.connect(0, path=path) as connection:
        assert is_served(connection)
    gateway.stop()
    assert not os.path.exists(path)


def test_file_that_is_no_socket_is_left_alone(lab, short_directory):
    path = os.path.join(short_directory, "precious")
    with open(path, "w") as file:
        file.write("data")
    gateway = lab.podgate(NOWHERE, {"listen": [f"unix:{path}"]}, start=False)
    gateway.write_config()
    ended = harness.run_podgate("-c", gateway.config_path)
    gateway.forget_ports()
    assert ended.returncode == 69
    assert "not a socket" in ended.stderr
    with open(path) as file:
        assert file.read() == "data"


@pytest.fixture
def silent_upstream():
    """The port of an upstream that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        yield silent.getsockname()[1]


class Passing:
    """Passes a listening socket like systemd does."""

    def __init__(self, gateway):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        gateway.write_config()
        self.socket.bind(("127.0.0.1", gateway.port))
        self.socket.listen(128)
        self.gateway = gateway

    def launch(self):
        descriptor = self.socket.fileno()

        def before():
            os.dup2(descriptor, 3)
        command = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$@"'
        self.gateway.spawn(["/bin/sh", "-c", command, "sh", harness.program("podgate"), "-c",
                            str(self.gateway.config_path)], before=before, pass_fds=(3, descriptor))
        wait_until(self.gateway.is_ready)


def test_passed_socket_refuses_nobody_across_a_restart(lab):
    gateway = lab.podgate(NOWHERE, start=False)
    passing = Passing(gateway)
    passing.launch()
    assert is_served_anew(gateway)
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0
    # Nobody accepts now, and nobody is refused.
    with gateway.connect() as waiting:
        waiting.send(HEAD)
        passing.launch()
        assert waiting.read_reply().status == 404
    passing.socket.close()


def watched_descriptors(pid):
    """The descriptors in all epoll sets of a process."""
    watched = set()
    for descriptor in os.listdir(f"/proc/{pid}/fdinfo"):
        # One may be closed while the others are looked at.
        with contextlib.suppress(FileNotFoundError), \
                open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
            watched |= set(re.findall(r"^tfd:\s+(\d+)", file.read(), re.MULTILINE))
    return watched


def test_drain_leaves_no_passed_socket_in_an_epoll_set(lab, silent_upstream):
    """One that stayed there would wake its worker for ever, as soon as a caller waits in it."""
    gateway = lab.podgate(silent_upstream, start=False)
    passing = Passing(gateway)
    passing.launch()
    assert "3" in watched_descriptors(gateway.pid)
    # A request without an answer holds the drain up.
    held = gateway.connect()
    held.send(wire.head("GET", "/v2/ep/health", gateway.key))
    wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 1)
    gateway.signal(signal.SIGTERM)
    wait_until(lambda: "3" not in watched_descriptors(gateway.pid))
    assert gateway.is_running()
    held.close()
    gateway.wait()
    passing.socket.close()


# ---- PROXY protocol ------------------------------------------------------------------------------

BALANCER = {"proxy_protocol_from": ["127.0.0.2/32"]}
V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2_head(source, port):
    return V2 + b"\x21\x11\x00\x0c" + socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + \
        struct.pack("!HH", port, 80)


@pytest.mark.parametrize("head", [b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n",
                                  v2_head("192.0.2.7", 40000)], ids=["v1", "v2"])
def test_proxy_head_names_the_caller_at_any_split(podgate, head):
    key = harness.make_key("far")
    gateway = podgate(NOWHERE, {**BALANCER, "team": {"a": {"key": {"far": harness.key_section(
        key, allow_from=["192.0.2.7/32"])}}}})
    request = wire.head("GET", "/podgate/v1/whoami", key.text)
    for cut in range(0, len(head) + 1):
        with connect_from("127.0.0.2", gateway.port) as connection:
            connection.send_cut(head + request, [cut] if cut else [])
            assert connection.read_reply().status == 200
    # The same key straight from the balancer's address, and past it.
    with connect_from("127.0.0.2", gateway.port) as connection:
        connection.send(b"PROXY UNKNOWN\r\n" + request)
        assert connection.read_reply().status == 403
    with gateway.connect() as connection:
        connection.send(request)
        assert connection.read_reply().status == 403


@pytest.mark.parametrize("head", [b"", b"PROXY TCP4 192.0.2.7 198.51.100.1 040000 443\r\n",
                                  b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n",
                                  V2 + b"\x21\x12\x00\x00", V2 + b"\x20\x00\xff\xff"])
def test_balancer_without_a_valid_proxy_head_is_closed(podgate, head):
    gateway = podgate(NOWHERE, BALANCER)
    with connect_from("127.0.0.2", gateway.port) as connection:
        wire.try_send(connection, head + HEAD)
        assert connection.closes_within()


def test_proxy_head_of_a_stranger_is_a_bad_request(podgate):
    gateway = podgate(NOWHERE, BALANCER)
    with gateway.connect() as connection:
        connection.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n" + HEAD)
        assert connection.read_reply().status in (400, 505)


def test_half_a_proxy_head_does_not_spin_and_its_end_is_noticed(podgate):
    gateway = podgate(NOWHERE, BALANCER)
    with connect_from("127.0.0.2", gateway.port) as connection:
        connection.send(b"PROXY TCP4 192.0")
        wait_until(lambda: gateway.metric("podgate_connections_open") == 1)
        before = gateway.cpu_seconds()
        time.sleep(1)
        assert gateway.cpu_seconds() - before < 0.1 * harness.PATIENCE
        connection.finish()
        wait_until(lambda: gateway.metric("podgate_connections_open") == 0, 5)


def test_callers_behind_a_balancer_are_limited_by_their_own_address(podgate):
    gateway = podgate(NOWHERE, {**BALANCER, "memory": {"connections": 100,
                                                       "connections_per_address": 2}})
    held = []
    for number in range(6):
        connection = connect_from("127.0.0.2", gateway.port)
        connection.send(b"PROXY TCP4 192.0.2.%d 198.51.100.1 40000 443\r\n" % (number // 2))
        assert is_served(connection)
        held.append(connection)
    with connect_from("127.0.0.2", gateway.port) as connection:
        connection.send(b"PROXY TCP4 192.0.2.0 198.51.100.1 40000 443\r\n")
        assert connection.closes_within()
    for connection in held:
        connection.close()


# ---- drain ---------------------------------------------------------------------------------------

DRAIN_IDLE = 0.5  # so long an idle connection is kept once podgate drains


class Callers:
    """Callers that ask without a pause, each on a new connection or all on one, until nobody takes
    their connection any more. What was sent on a connection that was taken must be answered."""

    def __init__(self, port, count):
        self.port = port
        self.answered = 0
        self.lost = []
        self.lock = threading.Lock()
        targets = [self.ask_anew, self.ask_again]
        self.threads = [threading.Thread(target=targets[i % 2]) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self, connection, silent_since):
        """True: the connection may be used again. Who was silent for long may have been closed, and
        a busy machine makes silent."""
        try:
            silent = time.monotonic() - silent_since
            connection.send(HEAD)
            reply = connection.read_reply()
        except (OSError, wire.WireError) as problem:
            with self.lock:
                if silent < DRAIN_IDLE / 2:
                    self.lost.append(repr(problem))
            return False
        with self.lock:
            self.answered += 1
        return reply.field("Connection") != "close"

    def ask_anew(self):
        while True:
            begun = time.monotonic()
            try:
                connection = wire.Wire.connect(self.port)
            except OSError:
                return
            with connection:
                self.ask(connection, begun)

    def ask_again(self):
        while True:
            begun = time.monotonic()
            try:
                connection = wire.Wire.connect(self.port)
            except OSError:
                return
            with connection:
                while self.ask(connection, begun):
                    begun = time.monotonic()

    def join(self):
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def test_drain_under_load_answers_everybody_who_was_accepted(podgate, full):
    for _ in range(20 if full else 3):
        gateway = podgate(NOWHERE)
        callers = Callers(gateway.port, 8)
        wait_until(lambda: callers.answered > 50)
        gateway.signal(signal.SIGTERM)
        callers.join()
        assert gateway.wait() == 0
        assert callers.lost == []
