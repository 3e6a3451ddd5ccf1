"""Every request that breaks HTTP gets its status and our error, the connection ends or goes on as
stated, and podgate-sim never sees a byte of it."""

import pytest

import harness
import malformed
import wire

NAMES = [case.name for case in malformed.CASES]
DRIPPED = [case for case in malformed.CASES if len(case.data) < 1000]


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A podgate whose podgate-sim keeps every byte that it receives."""
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("strict"))
    sim = lab.sim("--workers", "50", log_raw=True)
    podgate = lab.podgate(sim)
    podgate.sim = sim
    yield podgate
    lab.close()


def was_received(podgate, mark):
    return mark.encode() in podgate.sim.raw_path.read_bytes()


def provoke(podgate, case, drip):
    mark = harness.unique()
    data = case.bytes(mark, podgate.key)
    with podgate.connect() as connection:
        if drip:
            connection.send_cut(data, range(1, len(data)))
        else:
            wire.try_send(connection, data)
        reply = connection.read_reply()
        assert reply.status in case.statuses, reply
        wire.assert_problem(reply, reply.status)
        if case.keeps:
            assert reply.field("connection", "keep-alive").lower() != "close"
            assert connection.request("GET", "/podgate/v1/whoami", podgate.key).status == 200
        else:
            assert reply.field("connection", "").lower() == "close"
            assert connection.closes_within(5 * harness.PATIENCE), "bytes or no end behind the answer"
    assert not was_received(podgate, mark)
    return reply


def test_there_are_at_least_80_cases_and_no_name_twice():
    assert len(malformed.CASES) >= 80
    assert len(set(NAMES)) == len(NAMES)


def test_a_good_request_is_received_so_that_the_search_for_marks_can_fail(strict):
    mark = harness.unique()
    data = malformed.post(malformed.CL).replace(b"@MARK@", mark.encode())
    replies, _ = wire.exchange(strict.port, data.replace(b"@KEY@", strict.key.encode()))
    assert replies[0].status == 200
    assert was_received(strict, mark)


@pytest.mark.parametrize("case", malformed.CASES, ids=NAMES)
def test_malformed_whole(strict, case):
    reply = provoke(strict, case, drip=False)
    if reply.status == 405:
        assert "GET" in reply.field("allow", "")


@pytest.mark.parametrize("case", DRIPPED, ids=[case.name for case in DRIPPED])
def test_malformed_byte_by_byte(strict, case):
    provoke(strict, case, drip=True)


@pytest.mark.parametrize("case", malformed.CASES[::8], ids=NAMES[::8])
def test_malformed_behind_a_good_request(strict, case):
    """Pipelined: the good one is answered first, nothing behind the bad one is."""
    mark = harness.unique()
    good = wire.head("GET", "/podgate/v1/whoami", strict.key)
    data = good + case.bytes(mark, strict.key) + wire.head("GET", f"/v2/{mark}/health", strict.key)
    with strict.connect() as connection:
        wire.try_send(connection, data)
        assert connection.read_reply().status == 200
        reply = connection.read_reply()
        assert reply.status in case.statuses
        if not case.keeps:
            assert connection.closes_within(5 * harness.PATIENCE)
            assert not was_received(strict, mark)


def test_malformed_requests_are_counted_and_the_daemon_goes_on(strict):
    for _ in range(5):
        provoke(strict, malformed.LINES[0], drip=False)
    assert sum(value for (name, _), value in strict.metrics().items()
               if "bad_head" in name) >= 5
    assert strict.request("GET", "/podgate/v1/whoami", strict.key).status == 200


# ---- what is right and looks odd -----------------------------------------------------------------

def ask(strict, data):
    replies, closed = wire.exchange(strict.port, data.replace(b"@KEY@", strict.key.encode()))
    return replies[0], closed


def test_one_empty_line_before_a_request_is_ignored(strict):
    reply, _ = ask(strict, b"\r\n" + malformed.get(target=b"/podgate/v1/whoami"))
    assert reply.status == 200


def test_chunked_body_in_one_and_in_many_chunks(strict):
    body = b'{"input":{"mock_return":"whole"}}'
    one = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
    many = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    for chunked in (one, many):
        reply, _ = ask(strict, malformed.post(malformed.TE, body=chunked, target=b"/v2/ep/runsync"))
        assert reply.status == 200
        assert reply.json["output"] == "whole"


def test_chunked_body_with_extension_and_trailer(strict):
    body = b'{"input":{"mock_return":"whole"}}'
    data = b"%X;a=b\r\n" % len(body) + body + b"\r\n0\r\nX-Trailer: t\r\n\r\n"
    reply, _ = ask(strict, malformed.post(malformed.TE, body=data, target=b"/v2/ep/runsync"))
    assert reply.status == 200
    assert reply.json["output"] == "whole"


def test_transfer_encoding_in_any_case(strict):
    data = malformed.post(b"TRANSFER-ENCODING: Chunked\r\n", target=b"/v2/ep/runsync",
                          body=b'1f\r\n{"input":{"mock_return":"aa"}}\n\r\n0\r\n\r\n')
    reply, _ = ask(strict, data)
    assert reply.status == 200, reply
    assert reply.json["output"] == "aa"


def test_absolute_form_with_the_own_authority(strict):
    host = f"127.0.0.1:{strict.port}".encode()
    reply, _ = ask(strict, malformed.get(target=b"http://" + host + b"/podgate/v1/whoami",
                                         host=b"Host: " + host + b"\r\n"))
    assert reply.status == 200


def test_minor_version_2_is_taken_as_1_1(strict):
    reply, _ = ask(strict, malformed.get(target=b"/podgate/v1/whoami", version=b"HTTP/1.2"))
    assert reply.status == 200


def test_http_1_0_without_host(strict):
    reply, closed = ask(strict, malformed.get(target=b"/podgate/v1/whoami", host=b"",
                                              version=b"HTTP/1.0"))
    assert reply.status == 200
    assert closed


def test_upgrade_is_ignored(strict):
    mark = harness.unique()
    reply, _ = ask(strict, malformed.get(
        b"Connection: Upgrade, X-Secret\r\nUpgrade: h2c\r\nX-Secret: " + mark.encode() + b"\r\n",
        target=b"/v2/ep/health"))
    assert reply.status == 200
    assert not was_received(strict, mark)


def test_fields_named_by_connection_do_not_go_up(strict):
    mark = harness.unique()
    reply, _ = ask(strict, malformed.post(
        b"Connection: Accept-Language\r\nAccept-Language: " + mark.encode() + b"\r\n",
        malformed.CL).replace(b"@MARK@", b"m" * 17))
    assert reply.status == 200
    assert not was_received(strict, mark)


def test_refused_while_the_body_arrives_is_answered_and_closed(strict):
    """The answer is not lost by a reset though the caller goes on sending for a while."""
    data = wire.head("POST", "/v2/ep/run", strict.key, fields=[("Content-Length", "10485761")])
    with strict.connect() as connection:
        connection.send(data)
        wire.try_send(connection, b"x" * 40000)
        reply = connection.read_reply()
        wire.assert_problem(reply, 413)
        assert connection.closes_within(5 * harness.PATIENCE)
