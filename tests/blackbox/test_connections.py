"""Connections of callers: time-outs, limits, the PROXY protocol, TLS, Unix sockets, and who leaves."""

import contextlib
import select
import socket
import ssl
import struct
import time

import pytest

import harness
import wire
from certificates import Authority

WHOAMI = "/podgate/v1/whoami"
SHORT = {"timeouts": {"head": "500ms", "body": "500ms", "idle": "700ms", "send": "1s"}}


def whoami(gateway, connection=None, **options):
    if connection is not None:
        return connection.request("GET", WHOAMI, gateway.key)
    return gateway.request("GET", WHOAMI, gateway.key, **options)


# ---- time-outs -----------------------------------------------------------------------------------

def test_head_that_never_ends_is_408(podgate, sim):
    gateway = podgate(sim, SHORT)
    with gateway.connect() as connection:
        connection.send(b"GET /podgate/v1/whoami HTTP/1.1\r\nHost: a\r\n")
        wire.assert_problem(connection.read_reply(), 408)
        assert connection.closes_within(5)


def test_head_that_drips_is_408(podgate, sim):
    """The limit is on the whole head, not on silence."""
    gateway = podgate(sim, SHORT)
    with gateway.connect() as connection:
        with contextlib.suppress(OSError):
            for byte in wire.head("GET", WHOAMI, gateway.key, fields=[("X-A", "b" * 200)]):
                connection.send(bytes([byte]))
                time.sleep(0.01)
        wire.assert_problem(connection.read_reply(), 408)
        assert connection.closes_within(5)


def test_body_that_stops_is_408_and_nothing_goes_up(podgate, sim, endpoint):
    gateway = podgate(sim, SHORT)
    began = time.monotonic()
    with gateway.connect() as connection:
        connection.send(wire.head("POST", f"/v2/{endpoint}/run", gateway.key,
                                  fields=[("Content-Length", "1000")]) + b'{"input":')
        wire.assert_problem(connection.read_reply(), 408)
        assert connection.closes_within(5)
    assert time.monotonic() - began < 5 * harness.PATIENCE, "timeouts.body does not count"
    assert sim.requests(endpoint=endpoint) == []


def test_body_slower_than_1_kib_per_second_is_408(podgate, sim, endpoint):
    """It never falls silent, and is too slow all the same."""
    gateway = podgate(sim, {"timeouts": {"body": "1s"}})
    with gateway.connect(timeout=0.02) as connection:
        connection.send(wire.head("POST", f"/v2/{endpoint}/run", gateway.key,
                                  fields=[("Content-Length", "100000")]))
        deadline = time.monotonic() + 30 * harness.PATIENCE
        answered = False
        while not answered and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                connection.send(b"x")
            time.sleep(0.05)
            with contextlib.suppress(TimeoutError):
                answered = connection.fill() or True
        wire.assert_problem(connection.read_reply(), 408)
    assert sim.requests(endpoint=endpoint) == []


def test_idle_connection_is_closed_without_a_word(podgate, sim):
    gateway = podgate(sim, SHORT)
    with gateway.connect() as connection:
        assert whoami(gateway, connection).status == 200
        assert connection.closes_within(5 * harness.PATIENCE)


def test_connection_without_a_byte_is_closed(podgate, sim):
    gateway = podgate(sim, SHORT)
    with gateway.connect() as connection:
        connection.sock.settimeout(5 * harness.PATIENCE)
        data = connection.read_to_end()
        assert data == b"" or b" 408 " in data.split(b"\r\n")[0]


def test_caller_that_takes_nothing_of_its_answer_is_closed(lab, podgate):
    import faults
    big = b'{"id":"a","status":"COMPLETED","output":"' + b"x" * 20_000_000 + b'"}'
    upstream = lab.scripted(lambda received, connection: faults.response(body=big))
    gateway = podgate(upstream, SHORT)
    with gateway.connect() as connection:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(wire.head("GET", "/v2/ep/status/a", gateway.key))
        harness.wait_until(lambda: gateway.metric("podgate_connections_open") == 0, 15,
                           "the slow reader to be closed")
    assert whoami(gateway).status == 200


def test_time_outs_do_not_strike_a_held_caller(podgate, sim, endpoint):
    gateway = podgate(sim, SHORT)
    reply = gateway.request("POST", f"/v2/{endpoint}/runsync", gateway.key,
                            {"input": {"mock_delay": 2000, "mock_return": 8}})
    assert reply.json["output"] == 8


# ---- limits --------------------------------------------------------------------------------------

def refused(gateway, **options):
    """True when a further connection is not served: 503, or closed."""
    with gateway.connect(**options) as connection:
        wire.try_send(connection, wire.head("GET", WHOAMI, gateway.key))
        try:
            return connection.read_reply().status == 503
        except wire.WireError:
            return True


def test_connections_per_address(podgate, sim):
    gateway = podgate(sim, {"memory": {"connections_per_address": 5}})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(gateway.connect()) for _ in range(5)]
        assert [whoami(gateway, connection).status for connection in held] == [200] * 5
        assert refused(gateway)
        assert whoami(gateway, source="127.0.0.2").status == 200
        held[0].close()
        harness.wait_until(lambda: not refused(gateway))
        assert whoami(gateway, held[1]).status == 200


def test_connections_in_all(podgate, sim):
    gateway = podgate(sim, {"memory": {"connections": 6}})
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(gateway.connect(source=f"127.0.0.{number + 1}"))
                for number in range(6)]
        assert [whoami(gateway, connection).status for connection in held] == [200] * 6
        assert refused(gateway, source="127.0.0.77")
        assert whoami(gateway, held[0]).status == 200
        assert gateway.metric("podgate_connections_refused_total") >= 1
    harness.wait_until(lambda: not refused(gateway))


def test_running_out_of_descriptors_does_not_spin(podgate, sim):
    gateway = podgate(sim)
    gateway.limit_descriptors(80)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(gateway.connect())
        assert whoami(gateway, served).status == 200
        for _ in range(150):
            stack.enter_context(gateway.connect())
        harness.wait_until(lambda: gateway.descriptor_count() >= 60)
        before = gateway.cpu_seconds()
        time.sleep(2)
        assert gateway.cpu_seconds() - before < 0.5 * harness.PATIENCE
        assert whoami(gateway, served).status == 200, "an older connection is not served any more"
    harness.wait_until(lambda: whoami(gateway).status == 200)
    gateway.expect_errors("descriptor")


def test_callers_never_take_the_descriptors_of_their_own_requests(podgate, sim, endpoint):
    gateway = podgate(sim, {"memory": {"connections_per_address": 0}}, nofile=128)
    with contextlib.ExitStack() as stack:
        older = [stack.enter_context(gateway.connect()) for _ in range(20)]
        assert all(whoami(gateway, connection).status == 200 for connection in older)
        for _ in range(200):
            stack.enter_context(gateway.connect())
        harness.wait_until(lambda: gateway.metric("podgate_connections_refused_total",
                                                  limit="total") >= 100)
        for connection in older:
            reply = connection.request("POST", f"/v2/{endpoint}/run", gateway.key, b'{"input": {}}')
            assert reply.status == 200, reply
        assert gateway.metric("podgate_connections_refused_total", limit="descriptors") == 0
    assert "event=connections_capped" in gateway.log()


def test_want_of_descriptors_is_not_the_upstreams_fault(podgate, sim, endpoint):
    gateway = podgate(sim, {"workers": 1})
    with gateway.connect() as served:
        assert whoami(gateway, served).status == 200
        gateway.limit_descriptors(5)  # fewer than are open
        reply = served.request("POST", f"/v2/{endpoint}/run", gateway.key, b'{"input": {}}')
        wire.assert_problem(reply, 503, "overloaded")
        assert reply.field("retry-after") == "1"
        gateway.limit_descriptors(1024)
        reply = served.request("POST", f"/v2/{endpoint}/run", gateway.key, b'{"input": {}}')
        assert reply.status == 200


def test_budget_for_bodies_is_kept(podgate, sim, endpoint):
    """More than the budget gets 503; what was taken is given back."""
    gateway = podgate(sim, {"memory": {"bodies": "4MiB"}})
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(gateway.connect()) for _ in range(4)]
        for connection in connections:
            connection.send(wire.head("POST", f"/v2/{endpoint}/run", gateway.key,
                                      fields=[("Content-Length", "2000000")]))
            wire.try_send(connection, b'{"input":"' + b"x" * 1_500_000)
        # Which of them come too late is the workers' affair.
        answered, _, _ = select.select([each.sock for each in connections], [], [],
                                       10 * harness.PATIENCE)
        assert answered, "all bodies were taken"
        refused = next(each for each in connections if each.sock is answered[0])
        refused.sock.settimeout(10 * harness.PATIENCE)
        reply = refused.read_reply()
        wire.assert_problem(reply, 503)
        assert int(reply.field("retry-after")) >= 1
    def accepted():
        reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                                {"input": {"x": "y" * 1_000_000}})
        return reply.status == 200
    harness.wait_until(accepted)


# ---- the PROXY protocol --------------------------------------------------------------------------

def version_2(source, command=0x21, family=0x11):
    addresses = socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 1, 80)
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, family]) + struct.pack(">H", 12) + addresses


@pytest.fixture
def balanced(lab, podgate, sim):
    key = harness.make_key("main")
    gateway = podgate(sim, {
        "proxy_protocol_from": ["127.0.0.1/32"],
        "team": {"alpha": {"key": {"main": harness.key_section(key, allow_from=["192.0.2.0/24"])}}}})
    gateway.key = key.text
    return gateway


@pytest.mark.parametrize("head", [
    lambda source: f"PROXY TCP4 {source} 127.0.0.1 1234 80\r\n".encode(), version_2],
    ids=["v1", "v2"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte-by-byte"])
def test_proxy_protocol_says_who_calls(balanced, head, cut):
    for source, status in (("192.0.2.7", 200), ("198.51.100.7", 403)):
        with balanced.connect() as connection:
            data = head(source) + wire.head("GET", WHOAMI, balanced.key)
            connection.send_cut(data, range(1, len(data)) if cut else ())
            assert connection.read_reply().status == status
            assert whoami(balanced, connection).status == status


def test_proxy_protocol_is_not_believed_from_others(balanced):
    data = b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 80\r\n" + wire.head("GET", WHOAMI, balanced.key)
    with balanced.connect(source="127.0.0.2") as connection:
        wire.try_send(connection, data)
        wire.assert_problem(connection.read_reply(), 400)
    assert whoami(balanced, source="127.0.0.2").status == 403


@pytest.mark.parametrize("data", [
    b"GET /podgate/v1/whoami HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PROXY TCP4 999.0.2.7 127.0.0.1 1 80\r\n", b"PROXY TCP4 192.0.2.7\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1 80 " + b"x" * 200, b"PROXY FOO\r\n",
    b"PROXY TCP4 192.0.2.7 127.0.0.1 1 80\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + b"\0" * 12,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab", b"\r\n\r\n\0\r\nQUAT\n\x21\x11\0\x0c" + b"\0" * 12],
    ids=["missing", "bad_address", "short", "long", "unknown", "bare_lf", "v3", "v2_short", "v2_magic"])
def test_bad_proxy_protocol_ends_the_connection(balanced, data):
    with balanced.connect() as connection:
        wire.try_send(connection, data + wire.head("GET", WHOAMI, balanced.key))
        connection.sock.settimeout(5 * harness.PATIENCE)
        answer = connection.read_to_end()
        assert not answer.startswith(b"HTTP/1.1 200")
    with balanced.connect() as connection:
        connection.send(version_2("192.0.2.9") + wire.head("GET", WHOAMI, balanced.key))
        assert connection.read_reply().status == 200


def test_proxy_protocol_local_is_the_balancer_itself(balanced):
    """A health check of the balancer: v2 LOCAL, v1 UNKNOWN."""
    for head in (version_2("0.0.0.0", command=0x20, family=0), b"PROXY UNKNOWN\r\n"):
        with balanced.connect() as connection:
            connection.send(head + wire.head("GET", WHOAMI, balanced.key))
            assert connection.read_reply().status == 403


# ---- requests on one connection ------------------------------------------------------------------

def test_pipelined_requests_are_answered_in_order(gateway, endpoint):
    targets = [WHOAMI, f"/v2/{endpoint}/health", "/v2/nowhere", f"/v2/{endpoint}/status/none-u1"] * 5
    ids = [f"pipe-{number}-{harness.unique()}" for number in range(len(targets))]
    data = b"".join(wire.head("GET", target, gateway.key, fields=[("X-Request-Id", name)])
                    for target, name in zip(targets, ids))
    for cuts in ((), range(1, len(data), 97)):
        with gateway.connect() as connection:
            connection.send_cut(data, cuts)
            replies = [connection.read_reply() for _ in targets]
            assert [reply.field("x-request-id") for reply in replies] == ids
            assert [reply.status for reply in replies] == [200, 200, 404, 404] * 5


def test_pipelined_submits_keep_their_bodies(gateway, endpoint):
    bodies = [b'{"input":{"mock_return":%d,"pad":"%s"}}' % (number, b"x" * (number * 700))
              for number in range(8)]
    data = b"".join(wire.head("POST", f"/v2/{endpoint}/runsync", gateway.key, body) + body
                    for body in bodies)
    with gateway.connect(timeout=30) as connection:
        connection.send(data)
        assert [connection.read_reply().json["output"] for _ in bodies] == list(range(8))


def test_connection_close_is_obeyed(gateway):
    with gateway.connect() as connection:
        connection.send(wire.head("GET", WHOAMI, gateway.key, fields=[("Connection", "close")]))
        reply = connection.read_reply()
        assert reply.status == 200
        assert reply.field("connection").lower() == "close"
        assert connection.closes_within(5)


def test_http_1_0_closes_unless_asked_to_stay(gateway):
    with gateway.connect() as connection:
        connection.send(wire.head("GET", WHOAMI, gateway.key, version="HTTP/1.0"))
        assert connection.read_reply().status == 200
        assert connection.closes_within(5)
    with gateway.connect() as connection:
        for _ in range(2):
            connection.send(wire.head("GET", WHOAMI, gateway.key, version="HTTP/1.0",
                                      fields=[("Connection", "keep-alive")]))
            reply = connection.read_reply()
            assert reply.status == 200
            if reply.field("connection", "").lower() != "keep-alive":
                break


def test_caller_may_shut_its_sending_side(gateway):
    """A half-closed caller still gets the answer to a whole request, or a clean end."""
    with gateway.connect() as connection:
        connection.send(wire.head("GET", WHOAMI, gateway.key))
        reply = connection.read_reply()
        connection.finish()
        assert reply.status == 200
        assert connection.closes_within(5)


def test_one_connection_serves_thousands_of_requests(gateway):
    with gateway.connect() as connection:
        assert {whoami(gateway, connection).status for _ in range(2000)} == {200}


# ---- who leaves ----------------------------------------------------------------------------------

@pytest.mark.parametrize("way", ["reset", "close"])
def test_hang_up_of_a_held_caller_is_noticed(podgate, sim, endpoint, way):
    gateway = podgate(sim)
    job = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                          {"input": {"mock_delay": 3600000}}).json["id"]
    connection = gateway.connect()
    connection.send(wire.head("GET", f"/v2/{endpoint}/status-sync/{job}?wait=300000", gateway.key))
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == 1)
    connection.reset() if way == "reset" else connection.close()
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == 0, 3, "the hang-up")
    assert gateway.metric("podgate_caller_hangups_total") >= 1


def test_descriptors_and_requests_come_back(podgate, sim, endpoint):
    """After a hundred callers who left in all kinds of places nothing is left of them."""
    gateway = podgate(sim)
    assert gateway.request("GET", f"/v2/{endpoint}/health", gateway.key).status == 200
    before = gateway.descriptor_count()
    head = wire.head("POST", f"/v2/{endpoint}/runsync", gateway.key,
                     body=b'{"input":{"mock_delay":300}}')
    data = head + b'{"input":{"mock_delay":300}}'
    for number in range(100):
        connection = gateway.connect()
        connection.send(data[:len(data) * number // 99])
        connection.reset() if number % 2 else connection.close()
    harness.wait_until(lambda: gateway.metric("podgate_connections_open") == 0, 15)
    harness.wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 0, 15)
    idle = gateway.metric("podgate_upstream_connections_open")
    harness.wait_until(lambda: gateway.descriptor_count() <= before + idle + 1)


# ---- Unix sockets --------------------------------------------------------------------------------

def test_unix_listener(podgate, sim, tmp_path, endpoint):
    path = tmp_path / "http.sock"
    gateway = podgate(sim, {"listen": [f"unix:{path}"]})
    with wire.Wire.connect(0, path=path) as connection:
        assert whoami(gateway, connection).status == 200
        assert connection.request("POST", f"/v2/{endpoint}/run", gateway.key,
                                  b'{"input":{"a":1}}').status == 200
    gateway.stop()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(podgate, sim, tmp_path):
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    gateway = podgate(sim, {"listen": [f"unix:{path}"]})
    with wire.Wire.connect(0, path=path) as connection:
        assert whoami(gateway, connection).status == 200


def test_unix_caller_is_in_no_network(podgate, sim, tmp_path):
    key = harness.make_key("main")
    path = tmp_path / "http.sock"
    gateway = podgate(sim, {"listen": [f"unix:{path}"], "team": {"alpha": {"key": {
        "main": harness.key_section(key, allow_from=["127.0.0.0/8"])}}}})
    gateway.key = key.text
    with wire.Wire.connect(0, path=path) as connection:
        assert whoami(gateway, connection).status == 403


# ---- TLS -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_gateway(tmp_path_factory, authority):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("tls-podgate"))
    port = harness.PORTS.take()
    first, second = authority.issue("first.test", "127.0.0.1"), authority.issue("*.second.test")
    gateway = lab.podgate(lab.sim(), {
        "listen": [f"tls:127.0.0.1:{port}"],
        "tls": [{"certificate": str(first[0]), "key": str(first[1])},
                {"certificate": str(second[0]), "key": str(second[1])}]})
    gateway.tls_port = port
    yield gateway
    lab.close()
    harness.PORTS.give_back(port)


def over_tls(gateway, context, name="first.test", **options):
    return wire.Wire.connect(gateway.tls_port, tls=context, server_name=name, **options)


@pytest.mark.parametrize("name", ["first.test", "a.second.test", "127.0.0.1"])
def test_certificate_is_chosen_by_name(tls_gateway, authority, name):
    with over_tls(tls_gateway, authority.client(), name) as connection:
        assert whoami(tls_gateway, connection).status == 200
        names = [value for _, value in connection.sock.getpeercert()["subjectAltName"]]
        assert ("*.second.test" in names) == name.endswith("second.test")


def test_unknown_name_gets_the_first_certificate(tls_gateway, authority):
    context = authority.client()
    context.check_hostname = False
    with over_tls(tls_gateway, context, "unknown.test") as connection:
        assert ("DNS", "first.test") in connection.sock.getpeercert()["subjectAltName"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(tls_gateway, authority, version):
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    with over_tls(tls_gateway, context) as connection:
        assert connection.sock.version() == version.name.replace("_", ".")
        assert whoami(tls_gateway, connection).status == 200


def test_tls_1_1_is_refused(tls_gateway, authority):
    context = authority.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        over_tls(tls_gateway, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_is_resumed_by_ticket(tls_gateway, authority, version):
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    session = None
    reused = []
    for _ in range(4):
        with socket.create_connection(("127.0.0.1", tls_gateway.tls_port), 10) as plain:
            with context.wrap_socket(plain, server_hostname="first.test", session=session) as sock:
                connection = wire.Wire(sock)
                assert whoami(tls_gateway, connection).status == 200
                reused.append(sock.session_reused)
                session = sock.session
    assert reused[0] is False
    assert True in reused[1:]


def test_alpn_is_http_1_1(tls_gateway, authority):
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with over_tls(tls_gateway, context) as connection:
        assert connection.sock.selected_alpn_protocol() == "http/1.1"


def test_large_bodies_over_tls(tls_gateway, authority):
    body = b'{"input":{"x":"' + b"y" * 8_000_000 + b'"}}'
    with over_tls(tls_gateway, authority.client(), timeout=60) as connection:
        connection.send(wire.head("POST", "/v2/ep/runsync", tls_gateway.key, body) + body)
        reply = connection.read_reply()
        assert reply.status == 200
        assert reply.json["output"] == {"x": "y" * 8_000_000}


def test_plain_http_to_a_tls_listener_gets_no_answer(tls_gateway):
    with wire.Wire.connect(tls_gateway.tls_port) as connection:
        connection.send(wire.head("GET", WHOAMI, tls_gateway.key))
        connection.sock.settimeout(10)
        assert not connection.read_to_end().startswith(b"HTTP/1.1 200")


def test_handshake_that_never_ends_is_closed(podgate, sim, authority):
    certificate, key = authority.issue("third.test")
    port = harness.PORTS.take()
    try:
        podgate(sim, {"listen": [f"tls:127.0.0.1:{port}"], "timeouts": {"handshake": "500ms"},
                      "tls": [{"certificate": str(certificate), "key": str(key)}]})
        with wire.Wire.connect(port) as connection:
            connection.send(b"\x16\x03\x01\x00\xa5\x01")
            connection.sock.settimeout(5 * harness.PATIENCE)
            assert connection.read_to_end() is not None
    finally:
        harness.PORTS.give_back(port)


def test_malformed_requests_over_tls(tls_gateway, authority):
    import malformed
    for case in malformed.CASES[::10]:
        with over_tls(tls_gateway, authority.client()) as connection:
            wire.try_send(connection, case.bytes(harness.unique(), tls_gateway.key))
            assert connection.read_reply().status in case.statuses, case.name
