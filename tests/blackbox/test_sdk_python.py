"""Runpod's Python package, synchronous and asyncio: each operation as the upstream's reference shows
it, and what the package is known to stumble over."""

import asyncio
import time

import aiohttp
import pytest
import requests

import harness
import sdks

PROMPT = {"prompt": "Hello, world!"}


@pytest.fixture
def runpod(target):
    with sdks.python(target) as package:
        yield package


def test_run_sync_gives_the_output(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    assert endpoint.run_sync({"prompt": "Hello, world!"}, timeout=60) == PROMPT


def test_run_then_status_then_output(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    run_request = endpoint.run({"prompt": "Hello, world!"})
    assert run_request.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert run_request.output(timeout=60) == PROMPT


def test_status_of_a_job_with_wrapped_input(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    run_request = endpoint.run({"input": PROMPT})
    harness.wait_until(lambda: run_request.status() == "COMPLETED")
    assert run_request.output() == PROMPT


def test_stream_yields_each_output_once_and_in_order(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    run_request = endpoint.run({"input": {**PROMPT, "mock_stream": 7, "mock_stream_interval": 150}})
    assert list(run_request.stream()) == [{"index": index} for index in range(7)]


def test_cancel_stops_a_running_job(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    run_request = endpoint.run({"input": {**PROMPT, "mock_delay": 60000}})
    assert run_request.status() in ("IN_QUEUE", "IN_PROGRESS")
    assert run_request.cancel() == {"id": run_request.job_id, "status": "CANCELLED"}
    assert run_request.status() == "CANCELLED"


def test_purge_queue_counts_what_it_removed(runpod, target):
    target.sim.set_endpoint(target.endpoint, workers=0)
    endpoint = runpod.Endpoint(target.endpoint)
    for _ in range(2):
        endpoint.run({"prompt": "Hello, world!"})
    assert endpoint.purge_queue(timeout=3) == {"removed": 2, "status": "completed"}


def test_health_has_jobs_and_workers(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    endpoint.run_sync({"prompt": "Hello, world!"}, timeout=60)
    health = endpoint.health()
    assert set(health) == {"jobs", "workers"}
    assert health["jobs"]["completed"] == 1


def test_run_sync_of_a_slow_job(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    assert endpoint.run_sync({"input": {"mock_delay": 1500, "mock_return": 17}}, timeout=60) == 17


def test_failed_job_ends_run_sync_without_an_exception(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    assert endpoint.run_sync({"input": {"mock_error": "boom"}}, timeout=60) is None


def test_unknown_job_is_an_http_error(runpod, target):
    endpoint = runpod.Endpoint(target.endpoint)
    run_request = endpoint.run(PROMPT)
    run_request.job_id = "60902e6c-0000-4000-8000-000000000000-u1"
    with pytest.raises(requests.HTTPError, match="404"):
        run_request.status()


def test_wrong_key_is_said_so(target):
    with sdks.python(target) as runpod:
        runpod.api_key = harness.make_key("main").text
        with pytest.raises(RuntimeError, match="401"):
            runpod.Endpoint(target.endpoint).health()


# ---- asyncio -------------------------------------------------------------------------------------

def with_session(function):
    async def main():
        async with aiohttp.ClientSession() as session:
            return await function(session)
    return asyncio.run(main())


def test_asyncio_run_status_output(runpod, target):
    async def work(session):
        endpoint = runpod.AsyncioEndpoint(target.endpoint, session)
        job = await endpoint.run({"prompt": "Hello, world!"})
        status = await job.status()
        return status, await job.output(timeout=60)
    status, output = with_session(work)
    assert status in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
    assert output == PROMPT


def test_asyncio_stream_yields_each_output_once_and_in_order(runpod, target):
    async def work(session):
        endpoint = runpod.AsyncioEndpoint(target.endpoint, session)
        job = await endpoint.run({**PROMPT, "mock_stream": 6, "mock_stream_interval": 200})
        return [output async for output in job.stream()]
    assert with_session(work) == [{"index": index} for index in range(6)]


def test_asyncio_cancel(runpod, target):
    async def work(session):
        endpoint = runpod.AsyncioEndpoint(target.endpoint, session)
        job = await endpoint.run({**PROMPT, "mock_delay": 60000})
        return job.job_id, await job.cancel(), await job.status()
    job_id, cancelled, status = with_session(work)
    assert cancelled == {"id": job_id, "status": "CANCELLED"}
    assert status == "CANCELLED"


def test_asyncio_health(runpod, target):
    async def work(session):
        return await runpod.AsyncioEndpoint(target.endpoint, session).health()
    assert set(with_session(work)) == {"jobs", "workers"}


def test_asyncio_refused_run_raises_and_does_not_poll(target):
    async def work(session):
        with sdks.python(target) as runpod:
            runpod.api_key = harness.make_key("main").text
            endpoint = runpod.AsyncioEndpoint(target.endpoint, session)
            await endpoint.run(PROMPT)
    began = time.monotonic()
    with pytest.raises(KeyError, match="id"):
        with_session(work)
    assert time.monotonic() - began < 10 * harness.PATIENCE
