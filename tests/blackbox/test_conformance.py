"""The conformance list of the upstream contract, line by line. tests/conformance-report makes
docs/conformance.md of what became of these."""

import asyncio
import json
import math
import socket
import struct
import time

import aiohttp
import pytest

import faults
import harness
import sdks
import wire

appendix_b = pytest.mark.appendix_b

CLIENTS = ["python", "asyncio", "javascript", f"go-{sdks.go_kind()}"]


@pytest.fixture
def through(gateway, sim, endpoint):
    """Where the SDKs are pointed at in this file: always podgate."""
    return sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, sim, endpoint)


def submit(through, operation="run", query="", **job_input):
    reply = wire.request(through.port, "POST", f"/v2/{through.endpoint}/{operation}{query}",
                         through.key, {"input": job_input}, timeout=100)
    assert reply.status == 200, reply
    return reply.json["id"]


def ask(through, path, method="GET", body=None, **options):
    return wire.request(through.port, method, f"/v2/{through.endpoint}/{path}", through.key, body,
                        **options)


def ended(through, job):
    def condition():
        reply = ask(through, f"status/{job}")
        return reply if reply.json["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None
    return harness.wait_until(condition, 20, f"the end of {job}")


def stream_with(client, through, job_input):
    """All outputs of a streaming job, as this client gives them."""
    if client == "javascript":
        elements = sdks.javascript(through, "runThenStream", input=job_input)["elements"]
        return [element["output"] for element in elements]
    if client.startswith("go"):
        elements = sdks.go(through, "runThenStream", input=job_input)["elements"]
        return [element["output"] for element in elements]
    with sdks.python(through) as runpod:
        if client == "python":
            return list(runpod.Endpoint(through.endpoint).run({"input": job_input}).stream())

        async def work():
            async with aiohttp.ClientSession() as session:
                job = await runpod.AsyncioEndpoint(through.endpoint, session).run(job_input)
                return [output async for output in job.stream()]
        return asyncio.run(work())


@appendix_b(1)
@pytest.mark.parametrize("operation", ["status", "status-sync", "stream"])
def test_get_and_post_give_identical_bodies(through, operation):
    job = submit(through, mock_return={"a": 1})
    ended(through, job)
    bodies = [ask(through, f"{operation}/{job}").body,
              ask(through, f"{operation}/{job}", "POST", b"").body,
              ask(through, f"{operation}/{job}", "POST", b"{}").body]
    assert bodies[0] == bodies[1] == bodies[2]
    assert json.loads(bodies[0])["status"] == "COMPLETED"


@appendix_b(2)
def test_two_slashes_are_one(through):
    for path in (f"/v2//{through.endpoint}/run", f"/v2/{through.endpoint}//run",
                 f"//v2/{through.endpoint}/run"):
        reply = wire.request(through.port, "POST", path, through.key, {"input": {"a": 1}})
        assert reply.status == 200, path
        assert reply.json["status"] == "IN_QUEUE"
    seen = through.sim.requests(endpoint=through.endpoint)
    assert [entry["target"] for entry in seen] == [f"/v2/{through.endpoint}/run"] * 3


@appendix_b(3)
@pytest.mark.parametrize("name, scheme", [("authorization", ""), ("Authorization", "Bearer "),
                                          ("AUTHORIZATION", "bearer "), ("Authorization", "BEARER ")])
def test_every_form_of_the_key_is_taken(gateway, name, scheme):
    reply = gateway.request("GET", "/podgate/v1/whoami", fields=[(name, scheme + gateway.key)])
    assert reply.status == 200


@appendix_b(4)
def test_every_success_is_200_and_json(through):
    job = submit(through, mock_error="boom")
    ended(through, job)
    running = submit(through, mock_delay=60000)
    replies = [
        ask(through, "run", "POST", {"input": {"a": 1}}),
        ask(through, "runsync", "POST", {"input": {"a": 1}}),
        ask(through, f"status/{job}"), ask(through, f"status-sync/{job}"),
        ask(through, f"stream/{job}"), ask(through, f"retry/{job}", "POST"),
        ask(through, f"cancel/{running}", "POST"), ask(through, "purge-queue", "POST"),
        ask(through, "health"), ask(through, "openai/v1/models"),
    ]
    for reply in replies:
        assert reply.status == 200, reply
        assert reply.field("content-type") == "application/json", reply


@appendix_b(5)
def test_run_answers_within_the_clients_three_seconds(through):
    began = time.monotonic()
    submit(through, a=1)
    assert time.monotonic() - began < 3 * harness.PATIENCE
    assert sdks.javascript(through, "run", input={"a": 1})["id"]
    assert sdks.go(through, "runDefault", input={"a": 1})["id"]


@appendix_b(6)
def test_stream_without_wait_holds_but_not_for_ten_seconds(through):
    job = submit(through, mock_delay=60000)
    began = time.monotonic()
    reply = ask(through, f"stream/{job}")
    took = time.monotonic() - began
    ask(through, f"cancel/{job}", "POST")
    assert reply.json == {"status": "IN_PROGRESS", "stream": []}
    assert 5 < took < 9.9


@appendix_b(6)
def test_python_loses_no_chunk_of_sparse_output(through, full):
    """Chunks further apart than the client's time-out of 10 s; a minute of them with --full."""
    chunks = 7 if full else 3
    outputs = stream_with("python", through, {"mock_stream": chunks, "mock_stream_interval": 10500})
    assert outputs == [{"index": index} for index in range(chunks)]


@appendix_b(7)
@pytest.mark.parametrize("client", CLIENTS)
def test_every_yield_arrives_once_and_in_order(through, client):
    outputs = stream_with(client, through, {"mock_stream": 25, "mock_stream_interval": 100})
    assert outputs == [{"index": index} for index in range(25)]


@appendix_b(8)
@pytest.mark.parametrize("client", CLIENTS)
def test_last_chunks_with_the_terminal_status(through, client):
    assert stream_with(client, through, {"mock_stream": ["first", "last"]}) == ["first", "last"]


@appendix_b(8)
def test_stream_after_the_end_is_empty(through):
    job = submit(through, mock_stream=["only"])
    ended(through, job)
    assert ask(through, f"stream/{job}").json == {"status": "COMPLETED",
                                                  "stream": [{"output": "only"}]}
    for _ in range(2):
        assert ask(through, f"stream/{job}").json == {"status": "COMPLETED", "stream": []}


@appendix_b(9)
def test_status_sync_returns_within_its_wait(through):
    job = submit(through, mock_delay=60000)
    for wait_ms in (1000, 2500):
        began = time.monotonic()
        reply = ask(through, f"status-sync/{job}?wait={wait_ms}")
        took = time.monotonic() - began
        assert reply.json["status"] == "IN_PROGRESS"
        assert wait_ms / 1000 - 0.1 < took < wait_ms / 1000 + 1 * harness.PATIENCE
    ask(through, f"cancel/{job}", "POST")


class SlowJob:
    """An upstream whose /runsync comes back at once without a result, as it does after its hold."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.begun = None

    def __call__(self, received, connection):
        self.begun = self.begun or time.monotonic()
        if time.monotonic() - self.begun < self.seconds:
            return faults.response(body=b'{"id":"sync-1-u1","status":"IN_PROGRESS"}')
        return faults.response(body=b'{"delayTime":1,"executionTime":2,"id":"sync-1-u1",'
                                    b'"output":7,"status":"COMPLETED"}')


@appendix_b(9)
def test_javascript_run_sync_makes_few_requests(lab, podgate, full):
    seconds = 95 if full else 4
    upstream = lab.scripted(SlowJob(seconds))
    gateway = podgate(upstream)
    target = sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, None, "ep")
    result = sdks.javascript(target, "runSyncTimeout", input={"a": 1}, timeout=200000)
    assert result["output"] == 7
    harness.wait_until(lambda: gateway.log_lines("request_done", operation="status-sync"))
    assert len(gateway.log_lines("request_done")) <= math.ceil(seconds / 90) + 1


@appendix_b(10)
def test_wait_out_of_range_is_refused_in_upstreams_words(through):
    for wait in ("29", "0", "300001"):
        reply = ask(through, f"runsync?wait={wait}", "POST", {"input": {"a": 1}})
        assert reply.status == 400
        assert reply.json["error"] == "wait is invalid; must be between 1000 and 300000"


@appendix_b(10)
def test_go_with_timeout_zero_is_refused_and_nothing_is_submitted(through):
    with pytest.raises(sdks.SdkError, match="400"):
        sdks.go(through, "runSyncTimeout", input={"a": 1}, timeout=0)
    assert [job for job in through.sim.jobs() if job["endpoint"] == through.endpoint] == []


@appendix_b(11)
def test_error_of_a_failed_job_stays_a_string(through):
    job = submit(through, mock_error=True)
    body = ended(through, job)
    assert isinstance(body.json["error"], str)
    assert "error_type" in json.loads(body.json["error"])
    direct = wire.request(through.sim.port, "GET", f"/v2/{through.endpoint}/status/{job}",
                          through.sim.key)
    assert body.body == direct.body
    output = sdks.go(through, "status", id=job)
    assert output["error"] == body.json["error"]


@appendix_b(11)
def test_error_that_is_an_object_passes_through(lab, podgate):
    body = b'{"error":{"why":"odd"},"id":"a-u1","status":"FAILED"}'
    gateway = podgate(lab.scripted(lambda received, connection: faults.response(body=body)))
    assert gateway.request("GET", "/v2/ep/status/a-u1", gateway.key).body == body


ODD_OUTPUT = (b'{"big":12345678901234567890,"minus":-0,"huge":1E400,"exact":9007199254740993,'
              b'"escaped":"\\u00e9\\ud83d\\ude00\\/","raw":"\xc3\xa9\xf0\x9f\x98\x80","nan":NaN,'
              b'"infinity":-Infinity, "spaced" : [ 1 , 2 ] }')


@appendix_b(12)
@pytest.mark.parametrize("operation", ["status", "status-sync", "runsync"])
def test_output_is_byte_identical(lab, podgate, operation):
    body = b'{"delayTime":1,"executionTime":2,"id":"a-u1","output":' + ODD_OUTPUT + \
           b',"status":"COMPLETED","workerId":"w"}'
    gateway = podgate(lab.scripted(lambda received, connection: faults.response(body=body)))
    if operation == "runsync":
        reply = gateway.request("POST", "/v2/ep/runsync", gateway.key, {"input": {}})
    else:
        reply = gateway.request("GET", f"/v2/ep/{operation}/a-u1", gateway.key)
    assert reply.status == 200
    assert reply.body == body


HTML = b"<html><head><title>502 Bad Gateway</title></head><body>cloud</body></html>"


@appendix_b(13)
def test_html_502_becomes_json_502(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(
        502, HTML, content_type="text/html"))
    gateway = podgate(upstream)
    for method, path in (("POST", "run"), ("GET", "status/a-u1"), ("GET", "health")):
        reply = gateway.request(method, f"/v2/{harness.unique('ep')}/{path}", gateway.key,
                                {"input": {}} if method == "POST" else None)
        wire.assert_problem(reply, 502)
        assert b"<html" not in reply.body


@appendix_b(13)
def test_asyncio_ends_with_an_exception_on_html_502(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(
        502, HTML, content_type="text/html"))
    gateway = podgate(upstream)
    target = sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, None, "ep")

    async def work():
        async with aiohttp.ClientSession() as session:
            with sdks.python(target) as runpod:
                endpoint = runpod.AsyncioEndpoint("ep", session)
                with pytest.raises(KeyError, match="id"):
                    await endpoint.run({"a": 1})
                from runpod.endpoint.asyncio.asyncio_runner import Job
                job = Job("ep", "a-u1", session, endpoint.headers)
                with pytest.raises(KeyError, match="status"):
                    await job.output(timeout=20)
    asyncio.run(work())


@appendix_b(14)
def test_200_with_a_bare_error_is_forwarded_and_counted(lab, podgate):
    body = b'{"error":"no capacity for this input"}'
    gateway = podgate(lab.scripted(lambda received, connection: faults.response(body=body)))
    before = submits_without_id(gateway)
    reply = gateway.request("POST", "/v2/ep/run", gateway.key, {"input": {}})
    assert (reply.status, reply.body) == (200, body)
    assert submits_without_id(gateway) == before + 1


def submits_without_id(gateway):
    return sum(value for (name, labels), value in gateway.metrics().items()
               if any("without_id" in label for _, label in labels) or "without_id" in name)


@appendix_b(17)
def test_purge_is_denied_without_the_operation(lab, podgate, sim):
    plain, purge = harness.make_key("plain"), harness.make_key("purge")
    gateway = podgate(sim, {"team": {"alpha": {"key": {
        "plain": harness.key_section(plain, operations=["run", "status"]),
        "purge": harness.key_section(purge, operations=["run", "purge"])}}}})
    name = harness.unique("ep")
    reply = gateway.request("POST", f"/v2/{name}/purge-queue", plain.text)
    problem = wire.assert_problem(reply, 403)
    assert "status" not in problem
    reply = gateway.request("POST", f"/v2/{name}/purge-queue", purge.text)
    assert reply.json == {"removed": 0, "status": "completed"}
    assert sim.requests(endpoint=name) == []  # whose queue the others' jobs are in


@appendix_b(18)
@pytest.mark.parametrize("path", ["job-take/pod", "job-take-batch/pod", "job-done/pod/job",
                                  "job-stream/pod/job", "job-stop/pod", "ping/pod"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_worker_routes_do_not_exist(through, path, method):
    reply = ask(through, path, method, b"" if method == "POST" else None)
    wire.assert_problem(reply, 404)
    assert through.sim.requests(endpoint=through.endpoint) == []


@appendix_b(18)
def test_flash_is_out_of_reach(gateway, sim):
    mark = harness.unique()
    reply = gateway.request("POST", "/v2/flash/runsync", gateway.key, {"input": {"m": mark}},
                            [("X-Flash-App", "a"), ("X-Flash-Environment", "b"),
                             ("X-Flash-Endpoint", "c")])
    wire.assert_problem(reply, 404)
    assert sim.count_containing(mark) == 0


MIB = 1024 * 1024


def body_of(size):
    frame = b'{"input":{"mock_return":1,"x":""}}'
    return frame.replace(b'""', b'"' + b"x" * (size - len(frame)) + b'"')


@appendix_b(19)
@pytest.mark.parametrize("operation, size, status", [
    ("run", 10 * MIB, 200), ("run", 10 * MIB + 1, 413),
    ("runsync", 20 * MIB, 200), ("runsync", 20 * MIB + 1, 413)])
def test_body_sizes(through, operation, size, status):
    reply = ask_large(through, operation, body_of(size))
    assert reply.status == status
    if status == 413:
        wire.assert_problem(reply, 413)
        assert through.sim.requests(endpoint=through.endpoint) == []


def ask_large(through, operation, body):
    with wire.Wire.connect(through.port, timeout=60) as connection:
        connection.send(wire.head("POST", f"/v2/{through.endpoint}/{operation}", through.key, body))
        wire.try_send(connection, body)
        return connection.read_reply()


@appendix_b(20)
def test_idle_connection_is_kept(through, full):
    with wire.Wire.connect(through.port, timeout=30) as connection:
        assert connection.request("GET", "/podgate/v1/whoami", through.key).status == 200
        time.sleep(101 if full else 12)
        assert connection.request("GET", "/podgate/v1/whoami", through.key).status == 200


@appendix_b(20)
def test_idle_time_out_is_at_least_100_seconds(gateway):
    dumped = harness.run_podgate("--dump", "-c", gateway.config_path)
    assert dumped.returncode == 0, dumped.stderr
    idle = dumped.stdout.split("timeouts", 1)[1].split("idle", 1)[1].split("=", 1)[1]
    text = idle.split("\n", 1)[0].strip().strip('"')
    seconds = int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]
    assert seconds >= 100


def data_segments_received(sock):
    information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return struct.unpack_from("I", information, 152)[0]


@appendix_b(20)
@pytest.mark.parametrize("path", ["/podgate/v1/whoami", "/v2/{}/health", "/v2/{}/nothing"])
def test_head_and_body_leave_in_one_segment(through, path):
    with wire.Wire.connect(through.port) as connection:
        for number in range(1, 6):
            connection.request("GET", path.format(through.endpoint), through.key)
            assert data_segments_received(connection.sock) == number


@appendix_b(22)
def test_health_passes_the_model_of_flash(through):
    health = ask(through, "health").json
    workers = {"idle", "initializing", "ready", "running", "throttled", "unhealthy"}
    jobs = {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert set(health["workers"]) >= workers
    assert set(health["jobs"]) >= jobs
    for part, names in (("workers", workers), ("jobs", jobs)):
        assert all(type(health[part][name]) is int for name in names)
