"""The Go SDK: each operation as the upstream's reference shows it, with what doesn't compile there
mended. Without that module the client is built with a stand-in that sends the same requests; each
test's id says which of the two it is."""

import pytest

import harness
import sdks

PROMPT = {"prompt": "Hello World"}
JOB = "60902e6c-0000-4000-8000-000000000000-u1"


@pytest.fixture(params=[f"go-{sdks.go_kind()}"], autouse=True)
def kind(request):
    return request.param


def test_run_sync_gives_the_whole_job(target):
    output = sdks.go(target, "runSync", input=PROMPT)
    assert output["output"] == PROMPT
    assert output["status"] == "COMPLETED"
    assert isinstance(output["executionTime"], int)


def test_run_gives_an_id(target):
    output = sdks.go(target, "run", input=PROMPT)
    assert output["id"]
    assert output["status"] == "IN_QUEUE"


def test_status(target):
    job = sdks.go(target, "run", input=PROMPT)["id"]
    done = harness.wait_until(lambda: finished(sdks.go(target, "status", id=job)))
    assert done["output"] == PROMPT


def finished(job):
    return job if job["status"] == "COMPLETED" else None


def test_status_sync_waits_for_the_end(target):
    job = sdks.go(target, "run", input={"mock_delay": 1200, "mock_return": 5})["id"]
    done = sdks.go(target, "statusSync", id=job, timeout=60)
    assert done["status"] == "COMPLETED"
    assert done["output"] == 5


def test_stream_yields_each_element_once_and_in_order(target):
    result = sdks.go(target, "runThenStream",
                     input={**PROMPT, "mock_stream": 7, "mock_stream_interval": 100})
    assert result["elements"] == [{"output": {"index": index}} for index in range(7)]


def test_cancel(target):
    job = sdks.go(target, "run", input={**PROMPT, "mock_delay": 60000})["id"]
    assert sdks.go(target, "cancel", id=job) == {"id": job, "status": "CANCELLED"}


def test_purge_queue(target):
    target.sim.set_endpoint(target.endpoint, workers=0)
    sdks.go(target, "run", input=PROMPT)
    assert sdks.go(target, "purgeQueue") == {"removed": 1, "status": "completed"}


def test_health(target):
    health = sdks.go(target, "health")
    assert set(health) == {"jobs", "workers"}


def test_failed_job_decodes(target):
    output = sdks.go(target, "runSync", input={"mock_error": "boom"})
    assert output["status"] == "FAILED"
    assert output["error"] == "boom"


def test_empty_input_is_sent_as_an_empty_object(target):
    output = sdks.go(target, "runDefault", input={})
    assert output["id"]


def test_base_url_with_a_trailing_slash(target):
    output = sdks.go(target, "run", input=PROMPT, base_url=target.base_url + "/")
    assert output["id"]


def test_unknown_job_is_an_error(target):
    with pytest.raises(sdks.SdkError, match="404"):
        sdks.go(target, "status", id=JOB)
