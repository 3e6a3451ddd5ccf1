"""The JavaScript SDK: each operation as the upstream's reference shows it."""

import pytest

import harness
import sdks

PROMPT = {"prompt": "Hello, World!"}
JOB = "60902e6c-0000-4000-8000-000000000000-u1"


def test_run_sync_gives_the_whole_job(target):
    result = sdks.javascript(target, "runSync", input=PROMPT)
    assert result["output"] == PROMPT
    assert result["status"] == "COMPLETED"
    assert result["completed"] and result["succeeded"]
    assert result["id"].startswith("sync-")


def test_run_gives_an_id(target):
    result = sdks.javascript(target, "run", input=PROMPT)
    assert result["id"]
    assert result["status"] == "IN_QUEUE"


def test_run_then_status(target):
    result = sdks.javascript(target, "runThenStatus", input=PROMPT)
    assert result["status"] in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert result["started"]


def test_status_of_a_finished_job(target):
    job = sdks.javascript(target, "run", input=PROMPT)["id"]
    done = harness.wait_until(lambda: finished(sdks.javascript(target, "status", id=job)))
    assert done["output"] == PROMPT
    assert done["succeeded"]


def finished(job):
    return job if job["status"] == "COMPLETED" else None


def test_status_sync_waits_for_the_end(target):
    job = sdks.javascript(target, "run", input={"mock_delay": 1200, "mock_return": 5})["id"]
    done = sdks.javascript(target, "statusSync", id=job)
    assert done["status"] == "COMPLETED"
    assert done["output"] == 5


def test_stream_yields_each_element_once_and_in_order(target):
    result = sdks.javascript(target, "runThenStream",
                             input={**PROMPT, "mock_stream": 7, "mock_stream_interval": 100})
    assert result["elements"] == [{"output": {"index": index}} for index in range(7)]


def test_cancel(target):
    result = sdks.javascript(target, "runThenCancel", input={**PROMPT, "mock_delay": 60000})
    assert result["status"] == "CANCELLED"


def test_purge_queue(target):
    target.sim.set_endpoint(target.endpoint, workers=0)
    sdks.javascript(target, "run", input=PROMPT)
    assert sdks.javascript(target, "purgeQueue") == {"removed": 1, "status": "completed"}


def test_health(target):
    health = sdks.javascript(target, "health")
    assert set(health) == {"jobs", "workers"}


def test_failed_job_has_its_error_as_text(target):
    result = sdks.javascript(target, "runSync", input={"mock_error": "boom"})
    assert result["status"] == "FAILED"
    assert result["error"] == "boom"
    assert result["completed"] and not result["succeeded"]


def test_unknown_job_throws_with_the_response(target):
    with pytest.raises(sdks.SdkError) as caught:
        sdks.javascript(target, "status", id=JOB)
    assert caught.value.status == 404
    assert caught.value.data["detail"]
