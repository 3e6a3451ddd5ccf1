"""What podgate acknowledged is in its ledger, whatever dies, and what nobody knows is listed."""

import json
import re
import time

import pytest

import harness
import wire


def restart(gateway):
    gateway.environment = None
    gateway.launch()
    harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running(), 15, "the restart")
    assert gateway.is_running(), gateway.log()


def dies(gateway):
    harness.wait_until(lambda: not gateway.is_running(), 20, "the kill")


def unknown(gateway):
    """The submits that podgatectl lists, a line each."""
    listed = harness.run_podgatectl("-c", gateway.config_path, "unknown")
    assert listed.returncode == 0, listed.stderr
    return [line for line in listed.stdout.splitlines() if re.search(r"\b[0-9a-f]{32}\b", line)]


def run(gateway, body=None, endpoint="ep", operation="run", **options):
    return gateway.request("POST", f"/v2/{endpoint}/{operation}", gateway.key,
                           body or {"input": {"n": 1}}, timeout=30 * harness.PATIENCE, **options)


def status(gateway, job, endpoint="ep"):
    return gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key)


# ---- kill ----------------------------------------------------------------------------------------

def test_what_was_acknowledged_is_there_after_a_kill(lab, podgate):
    sim = lab.sim("--workers", "20")
    gateway = podgate(sim)
    jobs = []
    for turn in range(5):
        for number in range(20):
            reply = run(gateway, {"input": {"mock_return": f"{turn}-{number}"}})
            assert reply.status == 200
            jobs.append((reply.json["id"], f"{turn}-{number}"))
        gateway.kill()
        restart(gateway)
    for job, output in jobs:
        reply = gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=10000", gateway.key)
        assert reply.status == 200
        assert reply.json["output"] == output


@pytest.mark.parametrize("operation", ["run", "runsync"])
@pytest.mark.parametrize("point, sent, known, listed", [
    ("submit.intent", 0, False, 0),
    ("submit.sent", 0, False, 1),
    ("submit.answered", 1, False, 1),
    ("submit.known", 1, True, 0),
])
def test_killed_at_each_step(lab, podgate, tmp_path, operation, point, sent, known, listed):
    sim = lab.sim()
    options = {"admin_socket": str(tmp_path / "admin.sock")}
    gateway = podgate(sim, options, environment={"PODGATE_FAULT": f"{point}=kill@1"})
    with pytest.raises((OSError, wire.WireError)):
        run(gateway, {"input": {"mock_return": 7}}, operation=operation)
    dies(gateway)
    restart(gateway)
    assert len(sim.requests(endpoint="ep", operation=operation)) == sent
    if known:
        reply = gateway.request("GET", f"/v2/ep/status-sync/{sim.jobs()[0]['id']}?wait=10000",
                                gateway.key)
        assert reply.json["output"] == 7
    assert len(unknown(gateway)) == listed


# ---- a store that fails --------------------------------------------------------------------------

def test_a_job_that_could_not_be_written_is_written_later(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, environment={"PODGATE_FAULT": "submit.answered=EIO@1"})
    gateway.expect_errors("submit_not_recorded")
    reply = run(gateway, {"input": {"mock_return": 7}})
    assert reply.status == 200
    assert reply.field("podgate-warning") == "not-recorded"
    job = reply.json["id"]
    assert status(gateway, job).status == 200
    harness.wait_until(lambda: gateway.log_lines("submit_recorded_late"), 10, "the late record")
    assert gateway.log_lines("submit_not_recorded")[0]["job"] == job
    assert gateway.metric("podgate_submits_total", outcome="not_recorded") == 1
    gateway.kill()
    restart(gateway)
    reply = gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=10000", gateway.key)
    assert reply.json["output"] == 7


def test_a_job_that_is_not_written_yet_is_not_said_to_be_unknown(lab, podgate):
    """Its caller was told that it is there. (A key that may adopt has it entered by asking.)"""
    sim = lab.sim()
    key = harness.make_key("plain")
    operations = ["run", "status", "stream", "cancel", "retry"]
    gateway = podgate(sim, {"team": {"alpha": {"key": {"plain": harness.key_section(
        key, operations=operations)}}}}, environment={"PODGATE_FAULT": "submit.answered=EIO@1"})
    gateway.key = key.text
    gateway.expect_errors("submit_not_recorded")
    job = run(gateway, {"input": {"mock_return": 7}}).json["id"]
    seen = []

    def is_there():
        seen.append((status(gateway, job).status,
                     gateway.request("GET", f"/v2/ep/stream/{job}", gateway.key).status))
        return seen[-1] == (200, 200)
    harness.wait_until(is_there, 10, "the late record", interval=0)
    assert {code for both in seen for code in both} <= {200, 503}, seen


def test_a_record_that_is_written_twice_is_one(lab, podgate):
    """The store has it, and podgate thinks that it hasn't."""
    sim = lab.sim()
    gateway = podgate(sim, environment={"PODGATE_FAULT": "submit.known=EIO@1"})
    gateway.expect_errors("submit_not_recorded")
    reply = run(gateway, {"input": {"mock_return": 7}})
    assert reply.status == 200
    harness.wait_until(lambda: gateway.log_lines("submit_recorded_late"), 10, "the late record")
    reply = gateway.request("GET", f"/v2/ep/status-sync/{reply.json['id']}?wait=10000", gateway.key)
    assert reply.json["output"] == 7
    assert gateway.metric("podgate_warnings_total", reason="submit_mismatch") == 0


def test_nothing_goes_up_that_could_not_be_marked(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, environment={"PODGATE_FAULT": "submit.sent=EIO@1"})
    reply = run(gateway)
    wire.assert_problem(reply, 503, "store_unavailable")
    assert reply.field("podgate-degraded") == "store"
    assert run(gateway).status == 200
    assert len(sim.requests(endpoint="ep", operation="run")) == 1


# ---- callers that leave --------------------------------------------------------------------------

def test_a_caller_that_leaves_at_any_time_leaves_no_job_behind(lab, podgate, full):
    """Whenever the caller hangs up: upstream gets his request once or never, and what it got is in
    the ledger."""
    sim = lab.sim("--fault", "delay=20,operation=run", "--workers", "50")
    gateway = podgate(sim)
    pauses = [number / 1000 for number in range(0, 60, 2 if full else 6)]
    for number, pause in enumerate(pauses):
        with gateway.connect() as caller:
            body = json.dumps({"input": {"mock_return": number}}).encode()
            caller.send(wire.head("POST", f"/v2/ep{number}/run", gateway.key, body) + body)
            time.sleep(pause)
            caller.reset()
    harness.wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 0, 20)
    for number in range(len(pauses)):
        taken = sim.requests(endpoint=f"ep{number}", operation="run")
        assert len(taken) <= 1
        jobs = [job for job in sim.jobs() if job["endpoint"] == f"ep{number}"]
        assert len(jobs) == len(taken)
        for job in jobs:
            reply = gateway.request("GET", f"/v2/ep{number}/status-sync/{job['id']}?wait=10000",
                                    gateway.key)
            assert reply.json["output"] == number


# ---- runsync = "durable" and dedupe --------------------------------------------------------------

def test_a_durable_runsync_answers_in_the_shape_of_runsync(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, {"endpoint": {"ep": {"runsync": "durable"}}})
    reply = run(gateway, {"input": {"mock_return": {"a": 1}, "mock_delay": 700}}, operation="runsync")
    assert reply.status == 200
    assert reply.json["status"] == "COMPLETED"
    assert reply.json["output"] == {"a": 1}
    assert not sim.requests(endpoint="ep", operation="runsync")
    assert len(sim.requests(endpoint="ep", operation="run")) == 1
    assert status(gateway, reply.json["id"]).body == reply.body


def test_a_durable_runsync_outlives_a_kill(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, {"endpoint": {"ep": {"runsync": "durable"}}})
    with gateway.connect() as caller:
        body = b'{"input":{"mock_return":7,"mock_delay":1500}}'
        caller.send(wire.head("POST", "/v2/ep/runsync", gateway.key, body) + body)
        harness.wait_until(lambda: sim.jobs(), 10, "the job")
        job = sim.jobs()[0]["id"]
        harness.wait_until(lambda: status(gateway, job).status == 200, 10, "the ledger's entry")
        gateway.kill()
    restart(gateway)
    reply = gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=20000", gateway.key)
    assert reply.json["output"] == 7


def test_a_durable_runsync_takes_what_run_takes(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, {"endpoint": {"ep": {"runsync": "durable"}}})
    body = b'{"input":{"x":"' + b"x" * (10 << 20) + b'"}}'
    wire.assert_problem(run(gateway, body, operation="runsync"), 413, "body_too_large")
    assert run(gateway, body, endpoint="other", operation="runsync").status == 200
    assert not sim.requests(endpoint="ep")


def test_equal_inputs_are_one_job(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, {"endpoint": {"ep": {"dedupe": "input"}}})
    body = {"input": {"mock_return": 7, "mock_delay": 300}}
    first = run(gateway, body)
    second = run(gateway, body)
    third = run(gateway, body, operation="runsync")
    assert first.json["id"] == second.json["id"] == third.json["id"]
    assert second.field("cache-status").startswith("podgate; hit")
    assert third.json["output"] == 7
    assert len(sim.jobs()) == 1
    assert run(gateway, {"input": {"mock_return": 8}}).json["id"] != first.json["id"]


# ---- /retry --------------------------------------------------------------------------------------

FAILING = {"input": {"mock_error": "x"}}


def fail(gateway, endpoint="ep"):
    job = run(gateway, FAILING, endpoint).json["id"]
    reply = gateway.request("GET", f"/v2/{endpoint}/status-sync/{job}?wait=10000", gateway.key)
    assert reply.json["status"] == "FAILED", reply
    return job


def test_a_retry_runs_the_job_again_under_its_id(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim)
    job = fail(gateway)
    reply = gateway.request("POST", f"/v2/ep/retry/{job}", gateway.key)
    assert (reply.status, reply.json["id"]) == (200, job)
    assert len(sim.requests(endpoint="ep", operation="retry")) == 1
    reply = gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=10000", gateway.key)
    assert reply.json["status"] == "FAILED"
    harness.wait_until(lambda: len(sim.runs()) == 2, 10, "the second run")


def test_a_retry_of_what_upstream_forgot(lab, podgate):
    sim = lab.sim("--retention-run", "300")
    gateway = podgate(sim, {"endpoint": {"kept": {"keep_input": True}}})
    for endpoint, expected in (("kept", 200), ("ep", 404)):
        job = fail(gateway, endpoint)
        harness.wait_until(lambda: wire.request(sim.port, "GET", f"/v2/{endpoint}/status/{job}",
                                                sim.key).status == 404, 10, "the sim to forget")
        reply = gateway.request("POST", f"/v2/{endpoint}/retry/{job}", gateway.key)
        assert reply.status == expected, reply
        if expected == 200:
            assert reply.json == {"id": job, "status": "IN_QUEUE"}
            reply = gateway.request("GET", f"/v2/kept/status-sync/{job}?wait=10000", gateway.key)
            assert reply.json["id"] == job
            assert reply.json["status"] == "FAILED"
            assert len(sim.requests(endpoint="kept", operation="run")) == 2


def test_a_retry_of_a_job_that_did_not_fail_is_400(gateway, sim, endpoint):
    job = run(gateway, {"input": {"mock_return": 1}}, endpoint).json["id"]
    gateway.request("GET", f"/v2/{endpoint}/status-sync/{job}?wait=10000", gateway.key)
    wire.assert_problem(gateway.request("POST", f"/v2/{endpoint}/retry/{job}", gateway.key), 400,
                        "retry_wrong_state")
    assert not sim.requests(endpoint=endpoint, operation="retry")
