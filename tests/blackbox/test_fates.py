"""What becomes of a job, other than that its result is kept: lost, expired, too large, purged, deleted,
or hidden behind answers that can't be stored. Nothing of it goes silently."""

import base64
import concurrent.futures
import gzip
import json
import random
import time

import pytest

import faults
import harness
import wire

appendix_b = pytest.mark.appendix_b

FAST = {"collector": {"first_poll": "100ms", "max_poll": "1s"}}
AT_ONCE = {"endpoint": {"*": {"phantom_grace": "0s"}}}
NOT_FOUND = faults.response(404, b'{"error":"job not found"}')


class Upstream:
    """Gives an id to every submit, and says of each job what `says` has for it: the bytes of an answer,
    or something that gives them from the id. What it has nothing for is running."""

    def __init__(self):
        self.says = {}
        self.count = 0
        self.asked = {}

    def __call__(self, received, connection):
        if received.target.endswith("/run"):
            self.count += 1
            return faults.response(body=b'{"id":"job-%d-u1","status":"IN_QUEUE"}' % self.count)
        job = received.target.partition("?")[0].rpartition("/")[2]
        self.asked[job] = self.asked.get(job, 0) + 1
        answer = self.says.get(job, running)
        return answer(job) if callable(answer) else answer


def running(job):
    return faults.response(body=b'{"id":"%s","status":"IN_PROGRESS"}' % job.encode())


def queued(job):
    return faults.response(body=b'{"id":"%s","status":"IN_QUEUE"}' % job.encode())


def result_bytes(job, output=b'{"a":1}'):
    return b'{"id":"%s","status":"COMPLETED","output":%s}' % (job.encode(), output)


def completed(job):
    return faults.response(body=result_bytes(job))


def submit(gateway, endpoint="ep", key=None, **body):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", key or gateway.key,
                            {"input": {"a": 1}, **body})
    assert reply.status == 200, reply
    return reply.json["id"]


def status(gateway, job, endpoint="ep", key=None, query=""):
    return gateway.request("GET", f"/v2/{endpoint}/status/{job}{query}", key or gateway.key)


def ended(gateway, end):
    return gateway.metric("podgate_jobs_ended_total", end=end)


def listed(gateway, state):
    done = harness.run_podgatectl("-c", gateway.config_path, "jobs", "--state", state, "--json")
    assert done.returncode == 0, done.stderr
    return [job["id"] for job in json.loads(done.stdout)["jobs"]]


def in_list(gateway, job, key=None):
    """The job as its team's list has it: as the ledger knows it."""
    reply = gateway.request("GET", "/v2/ep/jobs", key or gateway.key)
    entry, = [entry for entry in reply.json["jobs"] if entry["id"] == job]
    return entry


def refused(reply, code):
    return wire.assert_problem(reply, 404, code)


# ---- upstream doesn't know the job ---------------------------------------------------------------

@appendix_b(15)
def test_a_404_for_a_young_job_is_in_queue(podgate, lab):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), FAST)
    upstream.says["job-1-u1"] = NOT_FOUND
    job = submit(gateway)
    harness.wait_until(lambda: upstream.asked.get(job, 0) >= 3)
    for operation in ("status", "status-sync"):
        wait = "?wait=1000" if operation == "status-sync" else ""
        reply = gateway.request("GET", f"/v2/ep/{operation}/{job}{wait}", gateway.key)
        assert (reply.status, reply.json) == (200, {"id": job, "status": "IN_QUEUE"})
    upstream.says[job] = completed
    harness.wait_until(lambda: ended(gateway, "completed") == 1)
    assert status(gateway, job).body == result_bytes(job)
    assert ended(gateway, "lost") == 0


def test_what_was_known_is_told_while_upstream_doesnt_know_the_job(podgate, lab):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), FAST)
    job = submit(gateway)
    harness.wait_until(lambda: in_list(gateway, job)["status"] == "IN_PROGRESS")
    upstream.says[job] = NOT_FOUND
    asked = upstream.asked[job]
    harness.wait_until(lambda: upstream.asked[job] >= asked + 2)
    reply = status(gateway, job)
    assert (reply.status, reply.json["status"]) == (200, "IN_PROGRESS")


def test_a_job_that_upstream_forgot_is_lost_and_can_be_found_again(podgate, lab, tmp_path):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), harness.merge(
        FAST, {**AT_ONCE, "admin_socket": str(tmp_path / "admin.sock")}))
    gateway.expect_errors("event=job_lost")
    job, other = submit(gateway), submit(gateway)
    harness.wait_until(lambda: in_list(gateway, job)["status"] == "IN_PROGRESS")
    upstream.says[job] = NOT_FOUND
    began = time.monotonic()
    harness.wait_until(lambda: gateway.metric("podgate_polls_total", outcome="missing") >= 3)
    assert status(gateway, job).json["status"] == "IN_PROGRESS"  # not given up at once
    harness.wait_until(lambda: ended(gateway, "lost") == 1, 45, interval=0.2)
    assert time.monotonic() - began > 29
    refused(status(gateway, job), "result_lost")
    refused(gateway.request("GET", f"/v2/ep/status-sync/{job}", gateway.key), "result_lost")
    line, = gateway.log_lines("job_lost")
    assert (line["job"], line["endpoint"], line["level"]) == (job, "ep", "error")
    assert listed(gateway, "LOST") == [job]
    entry = in_list(gateway, job)
    assert (entry["status"], entry["result"]) == (None, "lost")
    assert status(gateway, other).json["status"] == "IN_PROGRESS"
    gateway.kill()  # it is looked for after a restart, too
    gateway.launch()
    harness.wait_until(gateway.is_ready, 15)
    refused(status(gateway, job), "result_lost")
    upstream.says[job] = completed
    harness.wait_until(lambda: status(gateway, job).status == 200, 30)
    assert status(gateway, job).body == result_bytes(job)
    assert listed(gateway, "LOST") == []
    assert listed(gateway, "COMPLETED") == [job]


def test_a_404_after_the_jobs_own_time_is_its_end(podgate, lab, tmp_path):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), harness.merge(
        FAST, {**AT_ONCE, "admin_socket": str(tmp_path / "admin.sock")}))
    job = submit(gateway, policy={"ttl": 3000})
    harness.wait_until(lambda: upstream.asked.get(job))
    upstream.says[job] = NOT_FOUND
    harness.wait_until(lambda: ended(gateway, "ttl_expired") == 1, 20)
    refused(status(gateway, job), "job_expired")
    assert ended(gateway, "lost") == 0
    assert listed(gateway, "TTL_EXPIRED") == [job]


# ---- results that are over -----------------------------------------------------------------------

@appendix_b(16)
def test_a_result_outlives_thirty_minutes_upstream_and_not_its_ttl(podgate, make_sim):
    """The platform's clock goes 600 times faster, so that its 30 minutes are 3 s."""
    sim = make_sim("--time-scale", "600")
    gateway = podgate(sim, harness.merge(FAST, {"upstream": {"retention_run": "3s"}}))
    job = submit(gateway)
    harness.wait_until(lambda: ended(gateway, "completed") == 1)
    first = status(gateway, job)
    assert first.json["status"] == "COMPLETED"
    harness.wait_until(lambda: wire.request(sim.port, "GET", f"/v2/ep/status/{job}",
                                            sim.key).status == 404, 20)
    assert status(gateway, job).body == first.body
    assert status(gateway, job, query="?ttl=1500").body == first.body
    gone = harness.wait_until(lambda: status(gateway, job).status == 404 and status(gateway, job), 15)
    refused(gone, "job_expired")


def test_a_result_that_is_too_large_is_passed_on_and_not_kept(podgate, lab, tmp_path):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), harness.merge(
        FAST, {"endpoint": {"*": {"phantom_grace": "0s", "max_result": "1MiB"}},
               "admin_socket": str(tmp_path / "admin.sock")}))
    job = submit(gateway)
    output = b'"' + b"x" * (3 << 20) + b'"'
    upstream.says[job] = faults.response(body=result_bytes(job, output))
    harness.wait_until(lambda: ended(gateway, "too_large") == 1)
    assert listed(gateway, "TOO_LARGE") == [job]
    for _ in range(2):
        assert status(gateway, job).body == result_bytes(job, output)
    other = submit(gateway)
    upstream.says[other] = completed
    harness.wait_until(lambda: status(gateway, other).body == result_bytes(other))
    upstream.says[job] = NOT_FOUND
    refused(status(gateway, job), "result_too_large")
    assert ended(gateway, "lost") == 0
    entry = in_list(gateway, job)
    assert entry["result"] == "too_large"


def test_results_give_way_when_all_together_are_too_large(podgate, lab):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), harness.merge(
        FAST, {"retention": {"max_total": "1MiB", "max_result": "1MiB"}}))
    jobs = []
    for number in range(1, 7):
        output = b'"' + base64.b64encode(random.randbytes(300000)) + b'"'
        job = f"job-{number}-u1"
        upstream.says[job] = faults.response(body=result_bytes(job, output))
        jobs.append(submit(gateway))
        harness.wait_until(lambda: ended(gateway, "completed") == number)
    harness.wait_until(lambda: status(gateway, jobs[0]).status == 404, 20)
    refused(status(gateway, jobs[0]), "result_evicted")
    assert status(gateway, jobs[-1]).status == 200
    gateway.kill()
    gateway.launch()
    harness.wait_until(gateway.is_ready, 15)
    refused(status(gateway, jobs[0]), "result_evicted")
    assert status(gateway, jobs[-1]).status == 200


def test_what_its_team_deleted_is_gone_at_once_and_for_nobody_else(podgate, lab):
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    plain = harness.make_key("plain")
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), harness.merge(FAST, {"team": {
        "one": {"key": {"ours": harness.key_section(ours),
                        "plain": harness.key_section(plain, operations=["run", "status"])}},
        "two": {"key": {"theirs": harness.key_section(theirs)}}}}))
    job = submit(gateway, key=ours.text)
    target = f"/v2/ep/jobs/{job}"
    wire.assert_problem(gateway.request("DELETE", target, ours.text), 409, "job_not_ended")
    upstream.says[job] = completed
    harness.wait_until(lambda: ended(gateway, "completed") == 1)
    refused(gateway.request("DELETE", target, theirs.text), "job_not_found")
    wire.assert_problem(gateway.request("DELETE", target, plain.text), 403, "operation_not_allowed")
    assert status(gateway, job, key=ours.text).body == result_bytes(job)
    reply = gateway.request("DELETE", target, ours.text)
    assert (reply.status, reply.json) == (200, {"id": job, "result": "deleted"})
    for _ in range(2):
        refused(status(gateway, job, key=ours.text), "result_deleted")
        refused(gateway.request("DELETE", target, ours.text), "result_deleted")
        refused(status(gateway, job, key=theirs.text), "job_not_found")
        refused(gateway.request("DELETE", target, theirs.text), "job_not_found")
        gateway.kill()
        gateway.launch()
        harness.wait_until(gateway.is_ready, 15)
    data = b"".join(path.read_bytes() for path in gateway.directory.glob("podgate.db*"))
    assert job.encode() in data


# ---- a purge of one's own ------------------------------------------------------------------------

def state_at(sim, job, endpoint="ep"):
    return wire.request(sim.port, "GET", f"/v2/{endpoint}/status/{job}", sim.key).json["status"]


def test_a_purge_cancels_the_teams_own_queued_jobs_also_after_a_kill(podgate, make_sim):
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    operations = ["run", "status", "purge"]
    sim = make_sim("--workers", "1")
    gateway = podgate(sim, harness.merge(FAST, {"team": {
        "one": {"key": {"ours": harness.key_section(ours, operations=operations)}},
        "two": {"key": {"theirs": harness.key_section(theirs, operations=operations)}}}}))

    def submit_job(key, delay=60000):
        reply = gateway.request("POST", "/v2/ep/run", key.text, {"input": {"mock_delay": delay}})
        return reply.json["id"]

    started = submit_job(ours)
    harness.wait_until(lambda: in_list(gateway, started, ours.text)["status"] == "IN_PROGRESS")
    queued = [submit_job(ours) for _ in range(12)]
    foreign = submit_job(theirs)
    elsewhere = gateway.request("POST", "/v2/other/run", ours.text, {"input": {"a": 1}}).json["id"]
    reply = gateway.request("POST", "/v2/ep/purge-queue", ours.text)
    assert (reply.status, reply.json) == (200, {"removed": len(queued), "status": "completed"})
    gateway.kill()
    gateway.launch()
    harness.wait_until(gateway.is_ready, 15)
    harness.wait_until(lambda: all(state_at(sim, job) == "CANCELLED" for job in queued), 30)
    assert state_at(sim, started) == "IN_PROGRESS"
    assert state_at(sim, foreign) == "IN_QUEUE"
    assert state_at(sim, elsewhere, "other") != "CANCELLED"
    assert not sim.requests(operation="purge-queue")
    for job in queued:
        harness.wait_until(lambda: status(gateway, job, key=ours.text).json["status"] == "CANCELLED")
    assert {entry["job"] for entry in sim.requests(operation="cancel")} == set(queued)
    again = gateway.request("POST", "/v2/ep/purge-queue", ours.text)
    assert again.json == {"removed": 0, "status": "completed"}


def test_a_purge_keeps_to_the_upstreams_limit_and_spares_what_started(podgate, make_sim):
    """Half of upstream's 100 cancels in 10 s: 5 a second, after a burst of 5."""
    key = harness.make_key("ours")
    sim = make_sim("--workers", "0")
    gateway = podgate(sim, harness.merge(FAST, {"team": {"one": {"key": {
        "ours": harness.key_section(key, operations=["run", "status", "purge"])}}}}))

    def submit_job(_):
        return gateway.request("POST", "/v2/ep/run", key.text,
                               {"input": {"mock_delay": 60000}}).json["id"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        queued = list(pool.map(submit_job, range(25)))
    assert gateway.request("POST", "/v2/ep/purge-queue", key.text).json["removed"] == len(queued)
    harness.wait_until(lambda: len(sim.requests(operation="cancel")) >= 5)
    sim.set_endpoint("ep", workers=5)  # these have started before their turn came
    harness.wait_until(lambda: gateway.metric("podgate_purge_cancels_total") == len(queued), 30)
    moments = sorted(entry["wallMs"] for entry in sim.requests(operation="cancel"))
    for first, sixteenth in zip(moments, moments[15:]):
        assert sixteenth - first >= 1500, moments
    skipped = int(gateway.metric("podgate_purge_cancels_total", outcome="skipped"))
    done = int(gateway.metric("podgate_purge_cancels_total", outcome="done"))
    assert skipped >= 1 and done >= 5 and skipped + done == len(queued)
    words = [state_at(sim, job) for job in queued]
    assert words.count("CANCELLED") == done
    assert words.count("IN_PROGRESS") >= 1


# ---- answers that can't be stored ----------------------------------------------------------------

def twice(name):
    def answer(job):
        return faults.response(body=result_bytes(job)[:-1] + b',"%s":"%s"}' % (
            name.encode(), job.encode() if name == "id" else b"FAILED"))
    return answer


def gzipped(job):
    return faults.response(body=gzip.compress(result_bytes(job)),
                           fields=[("Content-Encoding", "gzip")])


def truncated(job):
    body = result_bytes(job)
    return faults.response(body=body[:-9], length=len(body)), "close"


BAD = {
    "not_json": ("not_json", lambda job: faults.response(body=result_bytes(job)[:-1])),
    "html": ("not_json", faults.response(body=b"<html>", content_type="text/html")),
    "other_id": ("other_id", lambda job: completed(f"x{job}")),
    "without_id": ("other_id", faults.response(body=b'{"status":"COMPLETED","output":1}')),
    "id_is_a_number": ("other_id", faults.response(body=b'{"id":1,"status":"COMPLETED"}')),
    "id_twice": ("twice", twice("id")),
    "status_twice": ("twice", twice("status")),
    "without_status": ("no_status", lambda job: faults.response(
        body=b'{"id":"%s","output":1}' % job.encode())),
    "unknown_status": ("no_status", lambda job: faults.response(
        body=b'{"id":"%s","status":"DONE"}' % job.encode())),
    "truncated": ("cut", truncated),
    "gzip": ("encoded", gzipped),
}


@pytest.mark.parametrize("backend_restart", [False, True], ids=["runs_on", "killed"])
def test_what_cant_be_stored_is_asked_for_until_it_can(podgate, lab, backend_restart):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), {**FAST, "endpoint": {"*": {"phantom_grace": "0s"}}})
    jobs = {}
    for number, name in enumerate(BAD, 1):
        upstream.says[f"job-{number}-u1"] = BAD[name][1]
        jobs[name] = submit(gateway, f"{name.replace('_', '-')}")
    wanted = {reason for reason, _ in BAD.values()}
    harness.wait_until(lambda: all(gateway.metric("podgate_results_bad_total", reason=reason) >= 1
                                   for reason in wanted), 15)
    harness.wait_until(lambda: {line["job"] for line in gateway.log_lines("result_bad")}
                       == set(jobs.values()), 15)
    good = {}  # beside each that isn't
    for name in BAD:
        good[name] = submit(gateway, name.replace("_", "-"))
        upstream.says[good[name]] = completed
    for name, job in good.items():
        harness.wait_until(lambda: status(gateway, job, name.replace("_", "-")).status == 200
                           and status(gateway, job, name.replace("_", "-")).body
                           == result_bytes(job), 20, f"the good job beside {name}")
    told = {name: status(gateway, job, name.replace("_", "-")) for name, job in jobs.items()}
    for name, reply in told.items():
        if BAD[name][0] != "no_status":  # podgate doesn't know all of upstream's words for ever
            assert reply.status in (502, 503), (name, reply)
    assert ended(gateway, "completed") == len(good)
    if backend_restart:
        gateway.kill()
        gateway.launch()
        harness.wait_until(gateway.is_ready, 15)
    for job in jobs.values():
        upstream.says[job] = completed
    before = 0 if backend_restart else len(good)
    harness.wait_until(lambda: ended(gateway, "completed") == before + len(jobs), 30)
    for name, job in jobs.items():
        assert status(gateway, job, name.replace("_", "-")).body == result_bytes(job)


def test_what_a_purge_of_all_took_away_is_cancelled_and_not_lost(podgate, lab):
    """Upstream says 404 for purged jobs, other teams' too."""
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    upstream = Upstream()
    upstream.says = dict.fromkeys(("job-1-u1", "job-2-u1"), queued)
    gateway = podgate(lab.scripted(upstream), harness.merge(FAST, {**AT_ONCE, "team": {
        "one": {"key": {"ours": harness.key_section(ours)}},
        "two": {"key": {"theirs": harness.key_section(theirs)}}}}))
    jobs = {key: gateway.request("POST", "/v2/ep/run", key.text, {"input": {"a": 1}}).json["id"]
            for key in (ours, theirs)}
    gateway.request("POST", "/v2/ep/purge-queue", ours.text)
    for job in jobs.values():
        upstream.says[job] = NOT_FOUND
    harness.wait_until(lambda: ended(gateway, "cancelled") == 2, 20)
    for key, job in jobs.items():
        reply = gateway.request("GET", f"/v2/ep/status/{job}", key.text)
        assert (reply.status, reply.json["status"]) == (200, "CANCELLED")
    assert ended(gateway, "lost") == 0


def test_a_job_whose_result_upstream_keeps_for_a_moment_only_is_seen_in_time(podgate, make_sim):
    """?ttl= was told while the job ran, and the collector would look much later."""
    sim = make_sim("--workers", "5")
    gateway = podgate(sim, {"collector": {"first_poll": "30s", "max_poll": "30s"}})
    job = submit(gateway, input={"mock_return": 1, "mock_delay": 2500})
    assert status(gateway, job, query="?ttl=2000").status == 200
    harness.wait_until(lambda: ended(gateway, "completed") == 1, 6)
    harness.wait_until(lambda: wire.request(sim.port, "GET", f"/v2/ep/status/{job}",
                                            sim.key).status == 404, 20)
    assert status(gateway, job).json["output"] == 1
