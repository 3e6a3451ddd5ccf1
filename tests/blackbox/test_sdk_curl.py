"""curl, called as the upstream's reference shows it: the bare key in `authorization`."""

import json

import harness
import sdks

BODY = '{ "input": { "prompt": "Hello, world!" }}'


def url(target, path):
    return f"{target.base_url}/{target.endpoint}/{path}"


def submit(target, path="run", body='{"input": {"prompt": "Hello, world!"}}'):
    status, answer = sdks.curl("--request", "POST", "--url", url(target, path),
                               "-H", "accept: application/json", "-H", f"authorization: {target.key}",
                               "-H", "content-type: application/json", "-d", body)
    assert status == 200, answer
    return json.loads(answer)


def read(target, path, method="GET"):
    status, answer = sdks.curl("--request", method, "--url", url(target, path),
                               "-H", f"authorization: {target.key}")
    assert status == 200, answer
    return json.loads(answer)


def ended(target, job):
    def condition():
        answer = read(target, f"status/{job}")
        return answer if answer["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None
    return harness.wait_until(condition, what=f"the end of {job}")


def test_runsync(target):
    answer = submit(target, "runsync?wait=120000", BODY)
    assert answer["status"] == "COMPLETED"
    assert answer["output"] == {"prompt": "Hello, world!"}


def test_run_and_status(target):
    job = submit(target)
    assert job["status"] == "IN_QUEUE"
    assert ended(target, job["id"])["output"] == {"prompt": "Hello, world!"}


def test_status_with_ttl(target):
    job = submit(target)["id"]
    assert read(target, f"status/{job}?ttl=6000")["id"] == job


def test_stream(target):
    job = submit(target, body='{"input": {"mock_stream": ["a", "b"]}}')["id"]
    ended(target, job)
    status, answer = sdks.curl("--request", "GET", "--url", url(target, f"stream/{job}"),
                               "-H", "accept: application/json", "-H",
                               f"authorization: {target.key}")
    assert status == 200
    assert json.loads(answer) == {"status": "COMPLETED",
                                  "stream": [{"output": "a"}, {"output": "b"}]}


def test_cancel(target):
    job = submit(target, body='{"input": {"mock_delay": 60000}}')["id"]
    assert read(target, f"cancel/{job}", "POST") == {"id": job, "status": "CANCELLED"}


def test_retry(target):
    job = submit(target, body='{"input": {"mock_error": "boom"}}')["id"]
    assert ended(target, job)["status"] == "FAILED"
    assert read(target, f"retry/{job}", "POST") == {"id": job, "status": "IN_QUEUE"}
    assert ended(target, job)["status"] == "FAILED"
    assert len([run for run in target.sim.runs() if run["id"] == job]) == 2


def test_purge_queue(target):
    target.sim.set_endpoint(target.endpoint, workers=0)
    submit(target)
    submit(target)
    assert read(target, "purge-queue", "POST") == {"removed": 2, "status": "completed"}


def test_health(target):
    health = read(target, "health")
    assert set(health["workers"]) >= {"idle", "running"}


def test_upload_of_megabytes_with_expect(target, tmp_path):
    """curl waits for "100 Continue" before a large body."""
    path = tmp_path / "body.json"
    path.write_text(json.dumps({"input": {"text": "x" * 3_000_000, "mock_return": "done"}}))
    status, answer = sdks.curl("--request", "POST", "--url", url(target, "runsync"),
                               "-H", f"authorization: {target.key}", "-H", "expect: 100-continue",
                               "-H", "content-type: application/json", "--data-binary", f"@{path}")
    assert status == 200, answer
    assert json.loads(answer)["output"] == "done"
