"""podgate-sim against the upstream contract: bodies, states, streams, times, limits, records."""

import hashlib
import json
import re
import resource
import socket
import threading
import http.server

import pytest

import wire
from harness import unique, wait_until

RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-u1")
WORKER_ID = re.compile(r"[a-z0-9]{14}")


class Caller:
    """Speaks to one endpoint of a sim."""

    def __init__(self, sim, endpoint=None):
        self.sim = sim
        self.endpoint = endpoint or unique("ep")

    def __call__(self, method, path, body=None, **options):
        options.setdefault("key", self.sim.key)
        return wire.request(self.sim.port, method, f"/v2/{self.endpoint}/{path}", body=body,
                            **options)

    def submit(self, operation="run", **job_input):
        reply = self("POST", operation, {"input": job_input})
        assert reply.status == 200, reply
        return reply.json["id"]

    def status(self, job):
        return self("GET", f"status/{job}").json

    def ended(self, job):
        def look():
            status = self.status(job)
            return status if status["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None
        return wait_until(look, 20, f"the end of {job}")


@pytest.fixture
def caller(sim, endpoint):
    return Caller(sim, endpoint)


def own(make_sim, *arguments, **options):
    return Caller(make_sim(*arguments, **options))


# ---- bodies (Appendix A) -------------------------------------------------------------------------

def test_run_answers_id_and_in_queue(caller):
    reply = caller("POST", "run", {"input": {"prompt": "hi"}})
    assert reply.status == 200
    assert reply.field("content-type") == "application/json"
    assert reply.body == b'{"id":"%s","status":"IN_QUEUE"}' % reply.json["id"].encode()
    assert RUN_ID.fullmatch(reply.json["id"])


def test_runsync_answers_the_whole_result_with_a_sync_id(caller):
    output = b'[{"image":"https://image.url","seed":12345678901234567890}]'
    reply = caller("POST", "runsync", b'{"input":{"mock_return":%s,"mock_delay":30}}' % output)
    body = reply.json
    assert body["id"].startswith("sync-") and RUN_ID.fullmatch(body["id"][5:])
    assert WORKER_ID.fullmatch(body["workerId"])
    assert reply.body == (
        b'{"delayTime":%d,"executionTime":%d,"id":"%s","output":%s,"status":"COMPLETED",'
        b'"workerId":"%s"}' % (body["delayTime"], body["executionTime"], body["id"].encode(), output,
                               body["workerId"].encode()))
    assert body["executionTime"] >= 30


@pytest.mark.parametrize("text", [
    b"NaN", b"-Infinity", b"1E400", b"-0", b"9007199254740993", b'{"a":1,"a":2}', b'[ 1 ,\t2 ]',
    '"\u00e9\U0001f600 raw"'.encode(), b'"\\u00e9\\ud83d\\ude00\\/"', b"[[[[[]]]]]", b"null", b'""'])
def test_output_is_the_same_bytes(caller, text):
    job = json.loads(caller("POST", "run", b'{"input":{"mock_return":%s}}' % text).body)["id"]
    wait_until(lambda: b"COMPLETED" in caller("GET", f"status/{job}").body)
    assert b',"output":%s,"status"' % text in caller("GET", f"status/{job}").body


def test_without_mock_keys_the_output_is_the_input(caller):
    text = b'{"z": 1.50, "a":18446744073709551617}'
    reply = caller("POST", "runsync", b'{"input":%s}' % text)
    assert b'"output":%s,' % text in reply.body


def test_in_progress_names_worker_and_delay_only(caller):
    job = caller.submit(mock_delay=60000)
    body = caller.status(job)
    assert list(body) == ["delayTime", "id", "status", "workerId"]
    assert body["status"] == "IN_PROGRESS"
    caller("POST", f"cancel/{job}")


def test_in_queue_is_id_and_status_alone(make_sim):
    caller = own(make_sim, "--workers", "0")
    job = caller.submit(a=1)
    assert caller("GET", f"status/{job}").body == b'{"id":"%s","status":"IN_QUEUE"}' % job.encode()


def test_progress_shows_as_output_while_the_job_runs(caller):
    job = caller.submit(mock_delay=1500, mock_progress=[{"progress": "1/2"}, {"progress": "2/2"}],
                        mock_return="done")
    body = wait_until(lambda: (lambda s: s if s.get("output") == {"progress": "2/2"} else None)(
        caller.status(job)))
    assert body["status"] == "IN_PROGRESS"
    assert list(body) == ["delayTime", "executionTime", "id", "output", "status", "workerId"]
    assert caller.ended(job)["output"] == "done"


def test_failed_with_an_error_and_the_rest_as_output(caller):
    body = caller("POST", "runsync",
                  {"input": {"mock_error": "bad", "mock_return": {"code": 7}}}).json
    assert (body["status"], body["error"], body["output"]) == ("FAILED", "bad", {"code": 7})
    assert list(body) == sorted(body)


def test_failed_like_a_handler_that_raised(caller):
    body = caller("POST", "runsync", {"input": {"mock_error": True}}).json
    detail = json.loads(body["error"])
    assert set(detail) == {"error_type", "error_message", "error_traceback", "hostname", "worker_id",
                           "runpod_version"}
    assert "output" not in body


def test_error_that_is_no_string_completes_without_output(caller):
    body = caller("POST", "runsync", {"input": {"mock_error": {"code": 1}}}).json
    assert body["status"] == "COMPLETED" and "output" not in body and "error" not in body


def test_completed_without_output(caller):
    body = caller("POST", "runsync", {"input": {"mock_no_output": True}}).json
    assert body["status"] == "COMPLETED" and "output" not in body


def test_lost_worker_is_replaced_once_then_the_job_fails(caller):
    job = caller.submit(mock_crash=True, mock_delay=10)
    body = caller.ended(job)
    assert body["error"] == "job timed out after 1 retries"
    assert (body["status"], body["retries"]) == ("FAILED", 1)
    job = caller.submit(mock_crash=1, mock_delay=10)
    body = caller.ended(job)
    assert (body["status"], body["retries"]) == ("COMPLETED", 1)


@pytest.mark.parametrize("body", [{"input": {}}, {"input": None}, {}])
def test_empty_input_kills_the_job(make_sim, body):
    caller = own(make_sim, "--time-scale", "100")
    job = caller("POST", "run", body).json["id"]
    assert caller.ended(job)["error"] == "job timed out after 1 retries"


def test_empty_input_can_be_echoed(make_sim):
    caller = own(make_sim, "--empty-input", "echo")
    assert caller("POST", "runsync", {"input": {}}).json["output"] == {}


def test_timed_out_on_demand(caller):
    assert caller.ended(caller.submit(mock_status="TIMED_OUT"))["status"] == "TIMED_OUT"


# ---- refusals ------------------------------------------------------------------------------------

@pytest.mark.parametrize("wait", ["29", "999", "300001", "0", "x", "-1000"])
def test_runsync_refuses_a_wait_out_of_range(caller, wait):
    reply = caller("POST", f"runsync?wait={wait}", {"input": {"a": 1}})
    assert reply.status == 400
    assert reply.body == b'{"error":"wait is invalid; must be between 1000 and 300000"}'


@pytest.mark.parametrize("value", [b"[1]", b"1", b'"x"', b"true"])
def test_input_must_be_an_object(caller, value):
    reply = caller("POST", "run", b'{"input":%s}' % value)
    assert reply.status == 400 and "error" in reply.json


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input":{}', b'{"input":{"a":01}}', b'{"a":+1}',
                                  b'{"input":{}}x', b'{"input":{"a":"\x01"}}', b"null"])
def test_body_must_be_a_json_object(caller, body):
    reply = caller("POST", "run", body)
    assert reply.status == 400
    assert reply.body == b'{"error":"json is invalid; max size is 10 MB"}'


def sized(total):
    prefix, suffix = b'{"input":{"a":"', b'"}}'
    return prefix + b"x" * (total - len(prefix) - len(suffix)) + suffix


@pytest.mark.parametrize("operation, limit", [("run", 10 << 20), ("runsync", 20 << 20)])
def test_body_limits_are_exact(caller, operation, limit):
    assert caller("POST", operation, sized(limit), timeout=60).status == 200
    assert caller("POST", operation, sized(limit + 1), timeout=60).status == 400


def test_unknown_job_is_404(caller):
    for path in ("status/x", "status-sync/x", "stream/x", "cancel/x", "retry/x"):
        reply = caller("POST", path)
        assert reply.status == 404
        assert reply.body == b'{"detail":"job not found","status":404,"title":"Not Found"}'


def test_another_endpoint_does_not_know_the_job(sim, caller):
    job = caller.submit(a=1)
    assert Caller(sim)("GET", f"status/{job}").status == 404


def test_endpoints_can_be_restricted(make_sim):
    sim = make_sim("--endpoint", "one", "--endpoint", "two")
    assert Caller(sim, "one")("GET", "health").status == 200
    reply = Caller(sim, "three")("GET", "health")
    assert reply.body == b'{"detail":"endpoint not found","status":404,"title":"Not Found"}'


@pytest.mark.parametrize("value", ["{key}", "Bearer {key}", "bearer {key}", "BEARER   {key}"])
def test_key_alone_or_as_bearer(caller, value):
    fields = [("AUTHORIZATION", value.format(key=caller.sim.key))]
    assert caller("GET", "health", key=None, fields=fields).status == 200


def test_wrong_key_and_no_key(caller):
    reply = caller("GET", "health", key=None)
    assert reply.status == 401
    assert reply.body == b'{"detail":"no token provided","status":401,"title":"Unauthorized"}'
    reply = caller("GET", "health", key="rpa_other")
    assert reply.body == b'{"detail":"invalid api key","status":401,"title":"Unauthorized"}'


@pytest.mark.parametrize("method, path, status", [
    ("GET", "run", 405), ("GET", "cancel/x", 405), ("POST", "health", 405), ("DELETE", "status/x", 405),
    ("GET", "nothing", 404), ("POST", "run/more", 404), ("GET", "status", 404)])
def test_wrong_methods_and_unknown_paths(caller, method, path, status):
    assert caller(method, path).status == status


def test_duplicate_slashes_collapse(sim, endpoint):
    reply = wire.request(sim.port, "POST", f"/v2//{endpoint}///run", key=sim.key,
                         body={"input": {"a": 1}})
    assert reply.status == 200
    assert sim.requests(endpoint=endpoint)[0]["target"] == f"/v2//{endpoint}///run"


def test_paused_endpoint_is_409(caller):
    caller.sim.set_endpoint(caller.endpoint, paused=True)
    reply = caller("POST", "run", {"input": {"a": 1}})
    assert reply.status == 409
    assert reply.json["code"] == "ENDPOINT_PAUSED" and reply.json["status"] == 409
    caller.sim.set_endpoint(caller.endpoint, paused=False)
    assert caller("POST", "run", {"input": {"a": 1}}).status == 200


# ---- reading jobs --------------------------------------------------------------------------------

def test_get_and_post_answer_the_same(caller):
    job = caller.submit(mock_return=[1])
    caller.ended(job)
    for path in (f"status/{job}", f"status-sync/{job}", f"stream/{job}"):
        bodies = {caller("GET", path).body, caller("POST", path).body, caller("POST", path, {}).body}
        assert len(bodies) == 1


def test_runsync_that_does_not_end_in_time_answers_id_and_status(caller):
    reply = caller("POST", "runsync?wait=1000", {"input": {"mock_delay": 60000}})
    assert reply.status == 200 and list(reply.json) == ["id", "status"]
    assert reply.json["status"] == "IN_PROGRESS"
    caller("POST", f"cancel/{reply.json['id']}")


def test_status_sync_is_answered_by_the_end(caller):
    job = caller.submit(mock_delay=300)
    assert caller("GET", f"status-sync/{job}?wait=20000").json["status"] == "COMPLETED"


def test_status_sync_without_wait_time_answers_at_once(caller):
    job = caller.submit(mock_delay=60000)
    assert caller("POST", f"status-sync/{job}?wait=0").json["status"] == "IN_PROGRESS"
    caller("POST", f"cancel/{job}")


def test_cancel_of_a_running_and_of_a_queued_job(make_sim):
    caller = own(make_sim, "--workers", "1")
    running, queued = caller.submit(mock_delay=60000), caller.submit(a=1)
    for job in (queued, running):
        expected = b'{"id":"%s","status":"CANCELLED"}' % job.encode()
        assert caller("POST", f"cancel/{job}").body == expected
        assert caller("GET", f"status/{job}").body == expected
    health = caller("GET", "health").json
    assert health["jobs"] == {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0,
                              "retried": 0}


def test_retry_runs_a_failed_job_again_under_its_id(caller):
    job = caller.submit(mock_error="bad", mock_delay=200)
    caller.ended(job)
    assert caller("POST", f"retry/{job}").json == {"id": job, "status": "IN_QUEUE"}
    assert "error" not in caller.status(job)
    assert caller.ended(job)["error"] == "bad"
    done = caller.submit(a=1)
    caller.ended(done)
    assert caller("POST", f"retry/{done}").status == 400


def test_purge_takes_queued_jobs_only(make_sim):
    caller = own(make_sim, "--workers", "1")
    running = caller.submit(mock_delay=60000)
    queued = [caller.submit(a=n) for n in range(2)]
    assert caller("POST", "purge-queue").body == b'{"removed":2,"status":"completed"}'
    assert {caller("GET", f"status/{job}").status for job in queued} == {404}
    assert caller.status(running)["status"] == "IN_PROGRESS"


def test_health_counts_jobs_and_workers(make_sim):
    caller = own(make_sim, "--workers", "2")
    caller.ended(caller.submit(a=1))
    caller.ended(caller.submit(mock_error="x"))
    for _ in range(3):
        caller.submit(mock_delay=60000)
    assert caller("GET", "health").body == (
        b'{"jobs":{"completed":1,"failed":1,"inProgress":2,"inQueue":1,"retried":0},'
        b'"workers":{"idle":0,"initializing":0,"ready":0,"running":2,"throttled":0,"unhealthy":0}}')


def test_low_priority_waits_for_the_others(make_sim):
    caller = own(make_sim, "--workers", "0")
    low = caller("POST", "run", {"input": {"n": 1}, "policy": {"lowPriority": True}}).json["id"]
    other = caller.submit(n=2)
    caller.sim.set_endpoint(caller.endpoint, workers=1)
    caller.ended(low)
    caller.ended(other)
    assert [run["id"] for run in caller.sim.runs()] == [other, low]


def test_requests_lists_the_jobs(caller):
    jobs = [caller.submit(a=n) for n in range(2)]
    listed = caller("GET", "requests").json["requests"]
    assert [entry["id"] for entry in listed] == jobs


# ---- streams -------------------------------------------------------------------------------------

def read_stream(caller, job, query=""):
    replies = []
    while True:
        reply = caller("GET", f"stream/{job}{query}").json
        replies.append(reply)
        if reply["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return replies


def test_chunks_come_once_in_order_and_the_last_with_the_end(caller):
    job = caller.submit(mock_stream=[{"word": word} for word in "a b c d".split()],
                        mock_stream_interval=120)
    replies = read_stream(caller, job)
    chunks = [element for reply in replies for element in reply["stream"]]
    assert chunks == [{"output": {"word": word}} for word in "a b c d".split()]
    assert replies[-1] == {"status": "COMPLETED", "stream": [{"output": {"word": "d"}}]}
    assert caller("GET", f"stream/{job}").body == b'{"status":"COMPLETED","stream":[]}'


def test_at_most_200_chunks_in_one_reply(caller):
    job = caller.submit(mock_stream=450)
    caller.ended(job)
    sizes = [len(caller("GET", f"stream/{job}").json["stream"]) for _ in range(4)]
    assert sizes == [200, 200, 50, 0]


def test_chunks_are_the_same_bytes(caller):
    reply = caller("POST", "run", b'{"input":{"mock_stream":[NaN, {"n": 12345678901234567890}]}}')
    job = reply.json["id"]
    wait_until(lambda: b"COMPLETED" in caller("GET", f"status/{job}").body)
    assert caller("GET", f"stream/{job}").body == (
        b'{"status":"COMPLETED","stream":[{"output":NaN},{"output":{"n": 12345678901234567890}}]}')


def test_stream_waits_for_a_chunk(caller):
    job = caller.submit(mock_delay=60000)
    assert caller("GET", f"stream/{job}?wait=1000").json == {"status": "IN_PROGRESS", "stream": []}
    caller("POST", f"cancel/{job}")
    assert caller("GET", f"stream/{job}").json == {"status": "CANCELLED", "stream": []}


def test_each_chunk_goes_to_one_of_two_readers(caller):
    job = caller.submit(mock_stream=40, mock_stream_interval=15)
    found = []

    def read():
        for reply in read_stream(caller, job):
            found.extend(element["output"]["index"] for element in reply["stream"])

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert sorted(found) == list(range(40))


def test_reader_that_hung_up_takes_no_chunk(caller):
    job = caller.submit(mock_stream=[1], mock_delay=800, mock_queue_delay=300)
    hang_ups = caller.sim.counters()["hangUps"]
    with wire.Wire.connect(caller.sim.port) as connection:
        connection.send(wire.head("GET", f"/v2/{caller.endpoint}/stream/{job}", caller.sim.key))
        wait_until(lambda: caller.sim.requests(job=job))
    wait_until(lambda: caller.sim.counters()["hangUps"] > hang_ups)
    chunks = [element for reply in read_stream(caller, job) for element in reply["stream"]]
    assert chunks == [{"output": 1}]


@pytest.mark.parametrize("aggregate, output", [(True, [1, 2]), (False, [])])
def test_aggregate_of_a_stream(caller, aggregate, output):
    body = caller("POST", "runsync",
                  {"input": {"mock_stream": [1, 2], "mock_aggregate": aggregate}}).json
    assert body["output"] == output


# ---- time ----------------------------------------------------------------------------------------

def test_results_are_forgotten_after_their_retention(make_sim):
    """30 minutes and 1 minute at 600 times the speed: 3 s and 0.1 s."""
    caller = own(make_sim, "--time-scale", "600")
    job = caller.submit(a=1)
    sync = caller("POST", "runsync", {"input": {"a": 1}}).json["id"]
    caller.ended(job)
    wait_until(lambda: caller("GET", f"status/{sync}").status == 404)
    assert caller("GET", f"status/{job}").status == 200
    reply = wait_until(lambda: (lambda r: r if r.status == 404 else None)(
        caller("GET", f"status/{job}")), 20)
    assert reply.json["detail"] == "job not found"


def test_ttl_of_status_shortens_the_retention(caller):
    job = caller.submit(a=1)
    caller.ended(job)
    assert caller("GET", f"status/{job}?ttl=300").status == 200
    wait_until(lambda: caller("GET", f"status/{job}").status == 404)


def test_policy_ttl_deletes_a_job_in_any_state(make_sim):
    caller = own(make_sim, "--time-scale", "20")
    body = {"input": {"mock_delay": 600000}, "policy": {"ttl": 10000}}
    job = caller("POST", "run", body).json["id"]
    assert caller.status(job)["status"] == "IN_PROGRESS"
    wait_until(lambda: caller("GET", f"status/{job}").status == 404)
    assert caller("GET", "health").json["jobs"]["inProgress"] == 0


def test_execution_timeout_fails_the_job_a_little_late(make_sim):
    caller = own(make_sim, "--time-scale", "50")
    body = {"input": {"mock_delay": 600000}, "policy": {"executionTimeout": 5000}}
    job = caller("POST", "run", body).json["id"]
    status = caller.ended(job)
    assert (status["status"], status["error"]) == ("FAILED", "executionTimeout exceeded")
    assert status["executionTime"] >= 8000


def test_scaled_times_are_reported_in_the_platforms_milliseconds(make_sim):
    caller = own(make_sim, "--time-scale", "1000")
    status = caller.ended(caller.submit(mock_delay=60000))
    assert status["executionTime"] >= 60000


# ---- openai --------------------------------------------------------------------------------------

def test_openai_plain_and_models(caller):
    reply = caller("POST", "openai/v1/chat/completions", {"model": "m", "messages": []})
    assert reply.json["object"] == "chat.completion" and reply.json["model"] == "m"
    assert caller("GET", "openai/v1/models").json["object"] == "list"
    raw = caller("POST", "openai/v1/embeddings", b'{"mock_return":[NaN, 1E400]}')
    assert raw.body == b"[NaN, 1E400]"


def test_openai_stream_is_events_up_to_done(caller):
    body = {"model": "m", "stream": True, "mock_stream": 3, "mock_stream_interval": 5}
    reply = caller("POST", "openai/v1/chat/completions", body)
    assert reply.field("content-type").startswith("text/event-stream")
    events = reply.body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    parsed = [json.loads(event[6:]) for event in events[:-2]]
    assert [event["choices"][0]["finish_reason"] for event in parsed] == [None, None, "stop"]


def test_openai_stream_stops_for_a_slow_reader(caller):
    body = json.dumps({"stream": True, "mock_stream": 2000000}).encode()
    with wire.Wire.connect(caller.sim.port) as connection:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.send(wire.head("POST", f"/v2/{caller.endpoint}/openai/v1/completions",
                                  caller.sim.key, body) + body)
        connection.read_head()
        before = caller.sim.rss_bytes()
        for _ in range(50):
            caller("GET", "health")
        assert caller.sim.rss_bytes() < before + (32 << 20)


# ---- batch ---------------------------------------------------------------------------------------

def test_batch_runs_its_requests_after_finalize(caller):
    batch = caller("POST", "batch", [{"input": {"n": 1}}, {"input": {"mock_error": "bad"}}]).json
    assert batch["status"] == "DRAFT" and batch["id"].startswith("batch_")
    path = f"batch/{batch['id']}"
    assert caller("POST", f"{path}/requests", {"requests": [{"input": {"n": 3}}]}).status == 200
    assert caller("GET", path).json["requestTotal"] == 3
    assert caller("POST", f"{path}/finalize").json["status"] == "FINALIZED"
    assert caller("POST", f"{path}/requests", []).status == 400
    summary = wait_until(lambda: (lambda s: s if s["requestCompleted"] + s["requestFailed"] == 3
                                  else None)(caller("GET", path).json))
    assert (summary["requestCompleted"], summary["requestFailed"]) == (2, 1)
    page = caller("GET", f"{path}/requests?offset=1&limit=1").json
    assert page["hasMore"] is True and page["requests"][0]["error"] == "bad"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", page["requests"][0]["completedAt"])
    assert [entry["id"] for entry in caller("GET", "batch").json["batches"]] == [batch["id"]]


def test_batch_cancel_leaves_running_requests(make_sim):
    caller = own(make_sim, "--workers", "1")
    batch = caller("POST", "batch", [{"input": {"mock_delay": 700}}] * 3).json["id"]
    caller("POST", f"batch/{batch}/finalize")
    assert caller("POST", f"batch/{batch}/cancel").json["status"] == "CANCELLED"
    states = wait_until(lambda: (lambda s: s if "IN_PROGRESS" not in s else None)(
        [entry["status"] for entry in caller("GET", f"batch/{batch}/requests").json["requests"]]))
    assert sorted(states) == ["CANCELLED", "CANCELLED", "COMPLETED"]


# ---- limits --------------------------------------------------------------------------------------

def test_purge_is_limited_to_two_in_ten_seconds(make_sim):
    caller = own(make_sim, limits=True)
    statuses = [caller("POST", "purge-queue").status for _ in range(5)]
    assert statuses.count(429) >= 2  # a window may end in between
    assert Caller(caller.sim)("POST", "purge-queue").status == 200


def test_status_status_sync_and_stream_share_a_bucket(make_sim):
    caller = own(make_sim, "--workers", "0", limits=True)
    job = caller.submit(a=1)
    held = [wire.Wire.connect(caller.sim.port) for _ in range(400)]
    try:
        for connection in held:
            connection.send(wire.head("GET", f"/v2/{caller.endpoint}/status-sync/{job}",
                                      caller.sim.key))
        wait_until(lambda: caller.sim.counters()["requests"] >= 401)
        reply = caller("GET", f"stream/{job}")
        assert reply.status == 429
        assert reply.json["title"] == "Too Many Requests"
        assert caller("GET", "health").status == 200
        held.pop().close()
        wait_until(lambda: caller("GET", f"status/{job}").status == 200)
    finally:
        for connection in held:
            connection.close()


# ---- webhooks ------------------------------------------------------------------------------------

class Receiver:
    """An HTTP server that answers each delivery with the next of `statuses`."""

    def __init__(self, statuses):
        receiver = self
        self.deliveries = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.deliveries.append((self.path, dict(self.headers), body))
                self.send_response(statuses[min(len(receiver.deliveries), len(statuses)) - 1])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *unused):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?a=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.server.shutdown()
        self.server.server_close()


def test_webhook_gets_the_whole_job(caller):
    with Receiver([200]) as receiver:
        body = {"input": {"x": 1, "mock_return": [2]}, "webhook": receiver.url}
        job = caller("POST", "run", body).json["id"]
        wait_until(lambda: receiver.deliveries)
        path, fields, raw = receiver.deliveries[0]
        delivered = json.loads(raw)
        assert path == "/hook?a=1"
        assert fields["Content-Type"] == "application/json"
        assert list(delivered) == ["delayTime", "executionTime", "id", "input", "output", "status",
                                   "webhook"]
        assert (delivered["id"], delivered["input"]) == (job, body["input"])


def test_webhook_is_repeated_twice_and_of_a_cancelled_job_without_times(make_sim):
    caller = own(make_sim, "--time-scale", "50")
    with Receiver([500, 302, 200]) as receiver:
        job = caller("POST", "run", {"input": {"mock_delay": 600000}, "webhook": receiver.url}
                     ).json["id"]
        caller("POST", f"cancel/{job}")
        wait_until(lambda: len(receiver.deliveries) == 3)
        bodies = {raw for _, _, raw in receiver.deliveries}
        assert len(bodies) == 1
        assert list(json.loads(bodies.pop())) == ["id", "input", "status", "webhook"]


# ---- records -------------------------------------------------------------------------------------

def test_requests_are_recorded_as_received(caller):
    body = b'{"input":{"nonce":"\xff\x00"}}'
    caller("POST", "run?a=%2f", body, fields=[("X-Thing", "one"), ("x-thing", "two")])
    entry = caller.sim.requests(endpoint=caller.endpoint)[0]
    assert entry["target"] == f"/v2/{caller.endpoint}/run?a=%2f"
    assert [pair for pair in entry["headers"] if pair[0].lower() == "x-thing"] == [
        ["X-Thing", "one"], ["x-thing", "two"]]
    assert entry["bodySha256"] == hashlib.sha256(body).hexdigest()
    assert (entry["bodyBytes"], entry["bodyStart"]) == (len(body), body.decode("latin-1"))


def test_jobs_and_runs_are_recorded(make_sim):
    caller = own(make_sim)
    nonce = unique()
    job = caller.submit(nonce=nonce, mock_crash=1)
    status = caller.ended(job)
    entry, = caller.sim.jobs()
    assert entry["id"] == job and nonce in entry["inputStart"]
    runs = caller.sim.runs()
    assert [run["state"] for run in runs] == ["IN_QUEUE", "COMPLETED"]
    assert runs[-1]["executionTime"] == status["executionTime"]
    assert caller.sim.control("GET", "runs/count") == {"count": 2}
    assert caller.sim.control("GET", "runs?since=1")["runs"] == runs[1:]
    caller.sim.control("DELETE", "runs")
    assert caller.sim.control("GET", "runs/count") == {"count": 0}


def test_ring_of_requests_forgets_the_oldest(make_sim):
    caller = own(make_sim, "--requests-kept", "3")
    for _ in range(5):
        caller("GET", "health")
    assert [entry["number"] for entry in caller.sim.requests()] == [3, 4, 5]
    assert caller.sim.control("GET", "requests/count") == {"count": 5}


def test_raw_log_holds_every_byte_even_of_no_request(make_sim):
    caller = own(make_sim, log_raw=True)
    noise = b"\x00\x01NOT HTTP " + unique().encode() + b"\r\n\r\n"
    wire.exchange(caller.sim.port, noise)
    caller("GET", "health")
    assert noise in caller.sim.raw_path.read_bytes()
    assert caller.sim.counters()["bytesIn"] == len(caller.sim.raw_path.read_bytes())


def test_front_down_cuts_everybody_and_the_queue_survives(make_sim):
    caller = own(make_sim, "--workers", "0")
    job = caller.submit(a=1)
    with wire.Wire.connect(caller.sim.port) as connection:
        connection.send(wire.head("GET", f"/v2/{caller.endpoint}/status-sync/{job}", caller.sim.key))
        wait_until(lambda: caller.sim.requests(job=job))
        caller.sim.control("POST", "front", {"down_ms": 400})
        caller.sim.control("POST", "front", {"down_ms": 400})  # down already
        assert connection.closes_within(5)
    wait_until(lambda: refuses(caller.sim.port))
    wait_until(lambda: not refuses(caller.sim.port))
    caller.sim.set_endpoint(caller.endpoint, workers=1)
    assert caller.ended(job)["status"] == "COMPLETED"


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_holds_thousands_of_callers(caller, full):
    count = 8000 if full else 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    job = caller.submit(mock_delay=3600000)
    held = []
    try:
        for _ in range(count):
            held.append(wire.Wire.connect(caller.sim.port))
            held[-1].send(wire.head("GET", f"/v2/{caller.endpoint}/status-sync/{job}?wait=120000",
                                    caller.sim.key))
        wait_until(lambda: caller.sim.counters()["requests"] >= count)
        assert caller("GET", "health").status == 200
        caller("POST", f"cancel/{job}")
        assert {connection.read_reply().json["status"] for connection in held} == {"CANCELLED"}
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
