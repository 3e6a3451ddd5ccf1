"""/status-sync waits inside podgate: many callers, one upstream request per job and interval."""

import asyncio
import json
import time

import pytest

import harness
import wire

JOBS = 10


async def hold(port, data, gate, results):
    """One held caller: (status, job state, when the answer was whole)."""
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    results.append((int(head.split(b" ", 2)[1]), json.loads(body)["status"], time.monotonic()))
    writer.close()


def watch(gateway, sim, endpoint, callers, wait_ms=120000):
    """Holds callers on jobs, ends the jobs, and says how it went."""
    jobs = [gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                            {"input": {"mock_delay": 3600000}}).json["id"] for _ in range(JOBS)]
    times = {}

    async def work():
        gate, results = asyncio.Semaphore(200), []
        times["begun"] = time.monotonic()
        tasks = [asyncio.create_task(hold(gateway.port, wire.head(
            "GET", f"/v2/{endpoint}/status-sync/{jobs[number % JOBS]}?wait={wait_ms}",
            gateway.key), gate, results)) for number in range(callers)]
        while gateway.metric("podgate_waiting_callers") < callers:
            await asyncio.sleep(0.1)
            assert time.monotonic() - times["begun"] < 60 * harness.PATIENCE
        await asyncio.sleep(2)
        times["held"] = time.monotonic()
        await asyncio.to_thread(end_all)
        await asyncio.gather(*tasks)
        return results

    def end_all():
        for job in jobs:
            reply = wire.request(sim.port, "POST", f"/v2/{endpoint}/cancel/{job}", sim.key)
            assert reply.status == 200
        times["ended"] = time.monotonic()

    return jobs, asyncio.run(work()), times


def test_many_callers_make_one_request_per_job_and_interval(lab, podgate, make_sim, full):
    callers = 5000 if full else 500
    sim = make_sim("--workers", str(JOBS), "--requests-kept", "100000")
    gateway = podgate(sim, {"memory": {"connections_per_address": 0}})
    connections_before = sim.counters()["connections"]
    jobs, results, times = watch(gateway, sim, "ep", callers)
    assert len(results) == callers
    assert {result[:2] for result in results} == {(200, "CANCELLED")}
    last = max(result[2] for result in results)
    # One second is what is promised; this process itself needs time to read all the answers.
    assert last - times["ended"] < (1 + callers / 1000) * harness.PATIENCE
    for job in jobs:
        asked = sim.requests(job=job, operation="status")
        assert len(asked) <= (last - times["begun"]) / 0.5 + 2
        stamps = [entry["wallMs"] for entry in asked]
        close = sum(after - before < 400 for before, after in zip(stamps, stamps[1:]))
        assert close <= 1, stamps
        assert not sim.requests(job=job, operation="status-sync")
    assert sim.counters()["connections"] - connections_before < 100 + JOBS


def test_callers_on_both_workers_share_their_polls(lab, podgate, make_sim):
    """A job's callers sit on all workers, which share its polls all the same."""
    sim = make_sim("--workers", str(JOBS))
    gateway = podgate(sim, {"workers": 4})
    jobs, results, times = watch(gateway, sim, "ep", 80)
    assert len(results) == 80
    last = max(result[2] for result in results)
    for job in jobs:
        assert len(sim.requests(job=job, operation="status")) <= (last - times["begun"]) / 0.5 + 2


def test_finished_job_is_answered_at_once(gateway, endpoint):
    job = gateway.request("POST", f"/v2/{endpoint}/runsync", gateway.key,
                          {"input": {"mock_return": 3}}).json["id"]
    began = time.monotonic()
    reply = gateway.request("GET", f"/v2/{endpoint}/status-sync/{job}?wait=60000", gateway.key)
    assert reply.json["output"] == 3
    assert time.monotonic() - began < 3 * harness.PATIENCE


def test_unknown_job_is_upstreams_404(gateway, endpoint):
    reply = gateway.request("GET", f"/v2/{endpoint}/status-sync/nothing-u1?wait=5000", gateway.key)
    assert reply.status == 404


def test_works_though_upstream_lacks_the_route(lab, podgate, make_sim):
    sim = make_sim()
    sim.fault("phantom,operation=status-sync")
    gateway = podgate(sim)
    job = gateway.request("POST", "/v2/ep/run", gateway.key,
                          {"input": {"mock_delay": 1200, "mock_return": 4}}).json["id"]
    reply = gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=30000", gateway.key, timeout=40)
    assert reply.json["output"] == 4
    assert not sim.requests(operation="status-sync")


def test_wait_ends_with_the_present_state(gateway, endpoint):
    job = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                          {"input": {"mock_delay": 60000}}).json["id"]
    began = time.monotonic()
    reply = gateway.request("POST", f"/v2/{endpoint}/status-sync/{job}?wait=1500", gateway.key)
    took = time.monotonic() - began
    assert reply.status == 200
    assert reply.json["status"] == "IN_PROGRESS"
    assert 1.4 < took < 1.5 + 1 * harness.PATIENCE


def test_caller_that_leaves_does_not_disturb_the_others(gateway, endpoint):
    job = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                          {"input": {"mock_delay": 2500, "mock_return": 9}}).json["id"]
    target = f"/v2/{endpoint}/status-sync/{job}?wait=30000"
    with gateway.connect() as leaving, gateway.connect() as staying:
        for connection in (leaving, staying):
            connection.send(wire.head("GET", target, gateway.key))
        leaving.reset()
        assert staying.read_reply().json["output"] == 9


def test_nobody_left_nobody_asks(lab, podgate, make_sim):
    """But for the collector, which is made to look an hour later here."""
    sim = make_sim()
    gateway = podgate(sim, {"collector": {"first_poll": "1h", "max_poll": "1h"}})
    job = gateway.request("POST", "/v2/ep/run", gateway.key,
                          {"input": {"mock_delay": 3600000}}).json["id"]
    with gateway.connect() as connection:
        connection.send(wire.head("GET", f"/v2/ep/status-sync/{job}?wait=120000", gateway.key))
        harness.wait_until(lambda: len(sim.requests(job=job)) >= 2)
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == 0)
    count = len(sim.requests(job=job))
    time.sleep(1.5)
    assert len(sim.requests(job=job)) <= count + 1


@pytest.mark.parametrize("seconds", [2])
def test_upstream_that_fails_for_a_while_does_not_end_the_wait(lab, podgate, make_sim, seconds):
    """Held callers are carried over an outage, or told; never left hanging."""
    sim = make_sim()
    gateway = podgate(sim)
    job = gateway.request("POST", "/v2/ep/run", gateway.key,
                          {"input": {"mock_delay": 4000, "mock_return": 5}}).json["id"]
    with gateway.connect(timeout=40) as connection:
        connection.send(wire.head("GET", f"/v2/ep/status-sync/{job}?wait=30000", gateway.key))
        harness.wait_until(lambda: sim.requests(job=job))
        sim.control("POST", "front", {"down_ms": seconds * 1000})
        reply = connection.read_reply()
    assert reply.status in (200, 502, 503, 504)
    if reply.status == 200:
        assert reply.json["output"] == 5
