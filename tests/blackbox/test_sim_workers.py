"""The worker's side of podgate-sim, with the loop of the real `runpod` package and by hand."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import wire
from harness import unique, wait_until
from test_sim import Caller, read_stream

PLAIN = """
import time
import runpod

def handler(job):
    given = job["input"]
    if "raise" in given:
        raise ValueError(given["raise"])
    if "progress" in given:
        runpod.serverless.progress_update(job, given["progress"])
    time.sleep(given.get("sleep", 0))
    if "fail" in given:
        return {"error": given["fail"], "code": 7}
    if "special" in given:
        return [float("nan"), 2 ** 60 + 1, "\\u00e9"]
    return {"echo": given}

runpod.serverless.start({"handler": handler})
"""

GENERATOR = """
import runpod

def handler(job):
    for number in range(job["input"]["count"]):
        if number == job["input"].get("raise_at"):
            raise ValueError("boom")
        yield {"number": number}

runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
"""


class Worker:
    """A process of the real package's worker loop."""

    def __init__(self, caller, directory, code):
        self.id = unique("pod")
        script = pathlib.Path(directory) / f"{self.id}.py"
        script.write_text(code)
        base = f"http://127.0.0.1:{caller.sim.port}/v2/{caller.endpoint}"
        environment = dict(
            os.environ, RUNPOD_WEBHOOK_GET_JOB=base + "/job-take/$ID?gpu=X",
            RUNPOD_WEBHOOK_POST_OUTPUT=base + "/job-done/$RUNPOD_POD_ID/$ID?gpu=X",
            RUNPOD_WEBHOOK_POST_STREAM=base + "/job-stream/$RUNPOD_POD_ID/$ID?gpu=X",
            RUNPOD_WEBHOOK_PING=base + "/ping/$RUNPOD_POD_ID", RUNPOD_PING_INTERVAL="1000",
            RUNPOD_AI_API_KEY="worker-key", RUNPOD_POD_ID=self.id,
            RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true", RUNPOD_SKIP_GPU_CHECK="true")
        self.log = open(pathlib.Path(directory) / f"{self.id}.log", "wb")
        self.process = subprocess.Popen([sys.executable, str(script)], env=environment,
                                        stdout=self.log, stderr=subprocess.STDOUT,
                                        start_new_session=True)

    def kill(self):
        """With its ping process, as when a machine dies."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()


@pytest.fixture
def start_worker(tmp_path):
    started = []

    def start(caller, code=PLAIN):
        started.append(Worker(caller, tmp_path, code))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def caller(make_sim):
    return Caller(make_sim("--workers", "0", "--worker-key", "worker-key", "--worker-silence", "3000"))


def test_real_worker_runs_jobs(caller, start_worker):
    worker = start_worker(caller)
    body = caller("POST", "runsync", {"input": {"text": "hi"}}, timeout=90).json
    assert (body["status"], body["output"], body["workerId"]) == (
        "COMPLETED", {"echo": {"text": "hi"}}, worker.id)
    assert caller("GET", "health").json["workers"]["idle"] == 1

    body = caller("POST", "runsync", {"input": {"raise": "boom"}}).json
    assert body["status"] == "FAILED" and '"error_message": "boom"' in body["error"]

    body = caller("POST", "runsync", {"input": {"fail": "bad"}}).json
    assert (body["status"], body["error"], body["output"]) == ("FAILED", "bad", {"code": 7})

    reply = caller("POST", "runsync", {"input": {"special": 1}})
    assert '"output":[NaN, 1152921504606846977, "\u00e9"],'.encode() in reply.body

    job = caller.submit(progress={"step": 1}, sleep=1)
    wait_until(lambda: caller.status(job).get("output") == {"step": 1})
    assert caller.status(job)["status"] == "IN_PROGRESS"
    assert caller.ended(job)["output"] == {"echo": {"progress": {"step": 1}, "sleep": 1}}


def test_real_generator_streams_and_aggregates(caller, start_worker):
    start_worker(caller, GENERATOR)
    job = caller.submit(count=5)
    chunks = [element for reply in read_stream(caller, job) for element in reply["stream"]]
    assert chunks == [{"output": {"number": number}} for number in range(5)]
    assert caller.status(job)["output"] == [{"number": number} for number in range(5)]

    job = caller.submit(count=5, raise_at=2)
    replies = read_stream(caller, job)
    assert replies[-1]["status"] == "FAILED"
    assert sum(len(reply["stream"]) for reply in replies) == 2
    assert "boom" in caller.status(job)["error"]


def test_openai_call_is_run_as_a_job(caller, start_worker):
    start_worker(caller)
    sent = b'{"model":"m","n":12345678901234567890}'
    reply = caller("POST", "openai/v1/chat/completions", sent, timeout=90)
    given = reply.json["echo"]
    assert given["openai_route"] == "/v1/chat/completions"
    assert given["openai_input"] == {"model": "m", "n": 12345678901234567890}
    assert caller("GET", "openai/v1/models").json == {"echo": {"openai_route": "/v1/models"}}
    assert caller("POST", "openai/v1/x", {"a": 1}).status == 200


def test_killed_worker_is_noticed_and_its_job_runs_again(caller, start_worker):
    first = start_worker(caller)
    job = caller.submit(sleep=2)
    wait_until(lambda: caller.status(job).get("workerId") == first.id, 60)
    first.kill()
    second = start_worker(caller)
    status = wait_until(lambda: (lambda s: s if s["status"] == "COMPLETED" else None)(
        caller.status(job)), 60)
    assert (status["workerId"], status["retries"]) == (second.id, 1)
    assert [run["state"] for run in caller.sim.runs()] == ["IN_QUEUE", "COMPLETED"]


# ---- by hand -------------------------------------------------------------------------------------

def worker_call(caller, method, path, body=None, key="worker-key"):
    return wire.request(caller.sim.port, method, f"/v2/{caller.endpoint}/{path}", body=body,
                        fields=[("Authorization", key)])


def test_silent_worker_twice_fails_the_job(make_sim):
    caller = Caller(make_sim("--workers", "0", "--worker-silence", "300"))
    job = caller.submit(a=1)
    for pod in ("one", "two"):
        taken = wait_until(lambda: (lambda r: r if r.status == 200 else None)(
            worker_call(caller, "GET", f"job-take/{pod}?x=1")))
        assert taken.json == {"id": job, "input": {"a": 1}}
    status = caller.ended(job)
    assert (status["status"], status["error"], status["retries"]) == (
        "FAILED", "job timed out after 1 retries", 1)
    assert worker_call(caller, "POST", f"job-done/two/{job}?x=1", {"output": 1}).status == 404


def test_worker_started_anew_gives_its_job_back(caller):
    job = caller.submit(a=1)
    assert worker_call(caller, "GET", "job-take/pod?x=1").json["id"] == job
    taken = worker_call(caller, "GET", "job-take/pod?x=1&job_in_progress=0")
    assert taken.json["id"] == job
    assert caller.status(job)["retries"] == 1


def test_no_job_is_204_and_a_held_request_gets_the_next_job(make_sim):
    caller = Caller(make_sim("--workers", "0", "--job-take-wait", "100"))
    assert worker_call(caller, "GET", "job-take/pod?x=1").status == 204
    caller = Caller(make_sim("--workers", "0", "--job-take-wait", "20000"))
    with wire.Wire.connect(caller.sim.port) as connection:
        connection.send(wire.head("GET", f"/v2/{caller.endpoint}/job-take/pod?x=1"))
        wait_until(lambda: caller.sim.control("GET", "worker-requests/count")["count"] == 1)
        job = caller.submit(a=1)
        assert connection.read_reply().json["id"] == job


def test_batch_of_jobs(caller):
    jobs = [caller.submit(n=number) for number in range(3)]
    taken = worker_call(caller, "GET", "job-take-batch/pod?x=1&batch_size=2").json
    assert [job["id"] for job in taken] == jobs[:2]


def test_worker_gets_input_webhook_and_s3_configuration(caller):
    sent = (b'{"input":{"n":1E400},"webhook":"http://127.0.0.1:9/","s3Config":{"bucketName":"b"},'
            b'"policy":{}}')
    job = caller("POST", "run", sent).json["id"].encode()
    assert worker_call(caller, "GET", "job-take/pod?x=1").body == (
        b'{"id":"%s","input":{"n":1E400},"s3Config":{"bucketName":"b"},'
        b'"webhook":"http://127.0.0.1:9/"}' % job)


def test_cancelled_job_is_told_to_its_worker(caller):
    job = caller.submit(a=1)
    worker_call(caller, "GET", "job-take/pod?x=1")
    with wire.Wire.connect(caller.sim.port) as connection:
        connection.send(wire.head("GET", f"/v2/{caller.endpoint}/job-stop/pod?x=1", "worker-key"))
        caller("POST", f"cancel/{job}")
        assert connection.read_reply().json == {"jobsToStop": [job]}
    assert worker_call(caller, "POST", f"job-done/pod/{job}?x=1", {"output": 1}).status == 404


@pytest.mark.parametrize("body, status, output", [
    (b'{"output": [1E400]}', "COMPLETED", b'"output":[1E400],'), (b"{}", "COMPLETED", None),
    (b'{"output":1,"error":{"a":1}}', "COMPLETED", None), (b"not json", "COMPLETED", None),
    (b'{"error":"x","output":{"c":7}}', "FAILED", b'"output":{"c":7},')])
def test_results(caller, body, status, output):
    job = caller.submit(a=1)
    worker_call(caller, "GET", "job-take/pod?x=1")
    reply = worker_call(caller, "POST", f"job-done/pod/{job}?x=1&isStream=false", body)
    assert reply.status == (400 if body == b"not json" else 200)
    raw = caller("GET", f"status/{job}").body
    assert b'"status":"%s"' % status.encode() in raw
    assert output in raw if output else b'"output"' not in raw


def test_late_progress_does_not_bring_a_finished_job_back(caller):
    job = caller.submit(a=1)
    worker_call(caller, "GET", "job-take/pod?x=1")
    worker_call(caller, "POST", f"job-done/pod/{job}?x=1", {"output": 1})
    worker_call(caller, "POST", f"job-done/pod/{job}?x=1", {"status": "IN_PROGRESS", "output": 2})
    assert (caller.status(job)["status"], caller.status(job)["output"]) == ("COMPLETED", 1)


def test_workers_need_their_key_and_callers_do_not_see_their_requests(caller):
    assert worker_call(caller, "GET", "job-take/pod?x=1", key="other").status == 401
    assert worker_call(caller, "GET", "ping/pod", key="Bearer worker-key").status == 200
    assert caller.sim.requests() == []


def test_faults_strike_workers_only_by_name(caller):
    caller.sim.fault("status=500")
    assert worker_call(caller, "GET", "ping/pod").status == 200
    caller.sim.clear_faults()
    caller.sim.fault("status=500,operation=ping")
    assert worker_call(caller, "GET", "ping/pod").status == 500
