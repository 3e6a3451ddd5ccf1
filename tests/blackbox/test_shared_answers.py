"""What crosses from one caller, state or buffer to another, and must not: callers' bytes, answers from
before a change, the upstream's key, a slow caller's time."""

import signal
import threading
import time

import faults
import harness
import wire

JOB = "j-u1"


def result(count):
    return b'{"id":"%s","status":"COMPLETED","output":"%s"}' % (JOB.encode(), b"x" * count)


def test_a_head_that_never_came_whole_gets_nothing_of_anothers(podgate, sim):
    """The 408 comes long after the buffer with the beginning of the head was used for others."""
    gateway = podgate(sim, {"workers": 1, "cors_origins": ["*"], "timeouts": {"head": "1s"}})
    with gateway.connect() as caller:
        caller.send(b"GET /podgate/v1/whoami HTTP/1.1\r\nOrigin: http://" + b"o" * 120 + b"\r\nX-A: b")
        for _ in range(3):
            reply = gateway.request("GET", "/podgate/v1/whoami", gateway.key,
                                    fields=[("X-Other", "S" * 300)])
            assert reply.status == 200
        caller.sock.settimeout(10 * harness.PATIENCE)
        answer = caller.read_to_end()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert gateway.key.encode() not in answer
    assert b"SSSS" not in answer
    assert b"access-control-allow-origin" not in answer.lower()


def test_status_sync_gives_a_result_above_max_result_at_once(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(body=result(3 << 20)))
    gateway = podgate(upstream, {"retention": {"max_result": "1MiB"}})
    reply = gateway.request("GET", f"/v2/ep/status-sync/{JOB}?wait=300000", gateway.key,
                            timeout=20 * harness.PATIENCE)
    assert reply.status == 200
    assert reply.body == result(3 << 20)
    assert len(upstream.requests) == 2  # the shared one, and one of the caller's own


def test_nobody_is_told_after_a_cancel_what_was_asked_before_it(lab, podgate):
    asked, cancelled, go_on = threading.Event(), threading.Event(), threading.Event()

    def answer(received, connection):
        if "/cancel/" in received.target:
            cancelled.set()
        elif not cancelled.is_set():
            asked.set()
            go_on.wait(60)
            return faults.response(body=b'{"id":"j-u1","status":"IN_PROGRESS"}')
        return faults.response(body=b'{"id":"j-u1","status":"CANCELLED"}')

    gateway = podgate(lab.scripted(answer), {"workers": 1})
    with gateway.connect() as before, gateway.connect() as after:
        before.send(wire.head("GET", f"/v2/ep/status/{JOB}", gateway.key))
        assert asked.wait(20)
        reply = gateway.request("POST", f"/v2/ep/cancel/{JOB}", gateway.key)
        assert reply.status == 200
        after.send(wire.head("GET", f"/v2/ep/status/{JOB}", gateway.key))
        harness.wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 2)
        go_on.set()
        assert after.read_reply().json["status"] == "CANCELLED"
        assert before.read_reply().json["status"] == "CANCELLED"


def test_the_key_comes_back_in_no_field(lab, podgate):
    def answer(received, connection):
        key = received.field("authorization").split()[-1]
        name = b"k-u1" if received.target.endswith("/run") else b"j-u1"
        return faults.response(body=b'{"id":"' + name + b'"}', content_type=f"application/json; key={key}",
                               fields=[("ETag", f'"{key}"'), ("Retry-After", key)])

    gateway = podgate(lab.scripted(answer))
    for method, target in [("GET", f"/v2/ep/status/{JOB}"), ("POST", "/v2/ep/run"),
                           ("POST", "/v2/ep/openai/v1/completions")]:
        reply = gateway.request(method, target, gateway.key,
                                {"input": {}} if method == "POST" else None)
        assert reply.status == 200
        assert "***" in reply.field("content-type")
        assert harness.UPSTREAM_KEY not in str(reply.fields)


def test_the_key_comes_back_in_no_two_pieces(lab, podgate):
    """An echo may be cut anywhere by the network, and each part is passed on as it comes."""
    def answer(received, connection):
        key = received.field("authorization").encode().split()[-1]
        text = b"data: " + key + b"\n\ndata: " + key[:7] + b"\n\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
        size = int(received.target.rpartition("/")[2])
        for begin in range(0, len(text), size):
            piece = text[begin:begin + size]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(0.002)
        return b"0\r\n\r\n"

    gateway = podgate(lab.scripted(answer))
    key = harness.UPSTREAM_KEY.encode()
    for size in (1, 2, 7, 10, 1000):
        reply = gateway.request("POST", f"/v2/ep/openai/v1/{size}", gateway.key, {"stream": True})
        assert reply.body == b"data: " + b"*" * len(key) + b"\n\ndata: " + key[:7] + b"\n\n", size


def test_a_slow_caller_has_longer_than_the_upstream(lab, podgate):
    """A result above max_result is passed on as fast as its caller takes it: his time is not held
    against the upstream."""
    upstream = lab.scripted(lambda received, connection: faults.response(body=result(24 << 20)))
    gateway = podgate(upstream, {"retention": {"max_result": "1MiB"},
                                 "upstream": {"read_timeout": "2s"}})
    with gateway.connect() as caller:
        caller.send(wire.head("GET", f"/v2/ep/status/{JOB}", gateway.key))
        time.sleep(4)
        assert caller.read_reply().body == result(24 << 20)


def test_an_answer_is_charged_to_the_budget_once(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(body=result(30 << 20)))
    gateway = podgate(upstream, {"workers": 1, "memory": {"bodies": "40MiB"},
                                 "retention": {"max_result": "32MiB"}})
    reply = gateway.request("GET", f"/v2/ep/status/{JOB}", gateway.key)
    assert reply.body == result(30 << 20)
    assert len(upstream.requests) == 1


def test_a_reload_that_changes_nothing_takes_no_memory(podgate):
    """A TLS context with the system's authorities takes most of a megabyte, and the key a locked page."""
    def locked_pages():
        status = open(f"/proc/{gateway.pid}/status", encoding="utf-8").read()
        return int(status.partition("VmLck:")[2].split()[0])

    gateway = podgate("https://127.0.0.1:1/v2", {"workers": 1})
    gateway.expect_errors("event=configuration_")
    text = gateway.config_path.read_text(encoding="utf-8")
    before = locked_pages()
    for number in range(1, 6):
        # A wrong configuration between the right ones, so that each reload has a line of its own.
        for content, event in [("nonsense = 1\n", "configuration_kept"),
                               (text, "configuration_loaded")]:
            gateway.config_path.write_text(content, encoding="utf-8")
            gateway.signal(signal.SIGHUP)
            harness.wait_until(lambda e=event, n=number: len(gateway.log_lines(e)) == n)
    assert locked_pages() == before


def test_a_submit_whose_answer_stops_behind_its_id_is_known(lab, podgate):
    """Cut off or silent: the job exists, and its caller gets the id."""
    upstream = lab.scripted(lambda received, connection: (
        faults.response(body=b'{"id":"j-u1","status":', length=100), "stall"))
    gateway = podgate(upstream, {"upstream": {"submit_timeout": "1s"}})
    reply = gateway.request("POST", "/v2/ep/run", gateway.key, {"input": {}})
    assert reply.status == 200
    assert reply.json["id"] == JOB
    assert len(upstream.requests) == 1


def test_a_408_leaves_a_submit_unknown(lab, podgate):
    for body, content_type in [(b'{"error":"late"}', "application/json"), (b"late", "text/html")]:
        upstream = lab.scripted(lambda received, connection, b=body, t=content_type:
                                faults.response(408, body=b, content_type=t))
        gateway = podgate(upstream)
        reply = gateway.request("POST", "/v2/ep/run", gateway.key, {"input": {}})
        assert reply.status == 408
        assert gateway.metric("podgate_warnings_total", warning="submit_unknown") == 1
        assert len(upstream.requests) == 1


def test_the_end_takes_callers_off_the_flights_of_other_workers(podgate, make_sim):
    """Held callers sit on all workers while their flights belong to others, some of which end first."""
    sim = make_sim("--workers", "8")
    gateway = podgate(sim, {"workers": 4, "drain_timeout": "1s"})
    jobs = [gateway.request("POST", "/v2/ep/run", gateway.key,
                            {"input": {"mock_delay": 3600000}}).json["id"] for _ in range(8)]
    callers = [gateway.connect() for _ in range(64)]
    for number, caller in enumerate(callers):
        caller.send(wire.head("GET", f"/v2/ep/status-sync/{jobs[number % 8]}?wait=300000",
                              gateway.key))
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == len(callers))
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0
    gateway.check_log()
    for caller in callers:
        caller.close()
