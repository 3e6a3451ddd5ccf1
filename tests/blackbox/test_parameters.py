"""Parameters, conditions and keys that are malformed, and the list of a team's jobs page by page."""

import json

import pytest

import harness
import wire


def run(gateway, endpoint, value, **work):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                            {"input": {"mock_return": value, **work}})
    assert reply.status == 200, reply
    return reply.json["id"]


def ended(gateway, endpoint, job):
    reply = gateway.request("GET", f"/v2/{endpoint}/status-sync/{job}?wait=20000", gateway.key,
                            timeout=30 * harness.PATIENCE)
    assert reply.json["status"] in ("COMPLETED", "FAILED"), reply
    return reply


def refused_count(gateway, operation):
    return gateway.metric("podgate_requests_total", operation=operation, status="4xx")


# ---- what is malformed ---------------------------------------------------------------------------

BAD_QUERIES = [
    ("jobs", "jobs", "status=DONE", "bad_status"),
    ("jobs", "jobs", "status=COMPLETED&status=FAILED", "bad_status"),
    ("jobs", "jobs", "since=yesterday", "bad_since"),
    ("jobs", "jobs", "since=2026-02-30", "bad_since"),
    ("jobs", "jobs", "since=99999999999999999999", "bad_since"),
    ("jobs", "jobs", "limit=0", "bad_limit"),
    ("jobs", "jobs", "limit=1001", "bad_limit"),
    ("jobs", "jobs", "limit=1&limit=2", "bad_limit"),
    ("jobs", "jobs", "cursor=", "bad_cursor"),
    ("jobs", "jobs", "cursor=../../etc", "bad_cursor"),
    ("jobs", "jobs", "cursor=" + "A" * 2000, "bad_cursor"),
    ("status", "status/JOB", "ttl=", "bad_ttl"),
    ("status", "status/JOB", "ttl=-1", "bad_ttl"),
    ("status", "status/JOB", "ttl=1s", "bad_ttl"),
    ("status", "status/JOB", "ttl=60000&ttl=1", "bad_ttl"),
    ("stream", "stream/JOB", "from=-1", "bad_from"),
    ("stream", "stream/JOB", "from=two", "bad_from"),
    ("stream", "stream/JOB", "from=0&from=1", "bad_from"),
]


@pytest.mark.parametrize("operation,path,query,code", BAD_QUERIES)
def test_a_malformed_parameter_is_told_and_counted_and_changes_nothing(
        gateway, sim, endpoint, operation, path, query, code):
    job = run(gateway, endpoint, 1)
    before = ended(gateway, endpoint, job)
    counted, asked = refused_count(gateway, operation), len(sim.requests(endpoint=endpoint))
    reply = gateway.request("GET", f"/v2/{endpoint}/{path.replace('JOB', job)}?{query}", gateway.key)
    wire.assert_problem(reply, 400, code)
    harness.wait_until(lambda: refused_count(gateway, operation) > counted)
    assert len(sim.requests(endpoint=endpoint)) == asked
    after = gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key)
    assert (after.status, after.body) == (200, before.body)


@pytest.mark.parametrize("value", ["", '""', "a b", '"half', "x" * 256, '"' + "y" * 256 + '"',
                                   "k\xe4se", '"a";q=1'])
@pytest.mark.parametrize("operation", ["run", "runsync", "retry"])
def test_a_malformed_idempotency_key_is_told_and_sends_nothing(gateway, sim, endpoint, operation,
                                                               value):
    path = f"/v2/{endpoint}/{operation}" + ("/some-job" if operation == "retry" else "")
    reply = gateway.request("POST", path, gateway.key, {"input": {"mock_return": 1}},
                            [("Idempotency-Key", value)])
    wire.assert_problem(reply, 400, "bad_idempotency_key")
    assert sim.requests(endpoint=endpoint) == []


def test_a_key_of_255_characters_is_taken_with_and_without_quotes(gateway, sim, endpoint):
    bodies = {gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, {"input": {"a": 1}},
                              [("Idempotency-Key", key)]).body
              for key in ("k" * 255, '"' + "k" * 255 + '"')}
    assert len(bodies) == 1
    assert len(sim.requests(endpoint=endpoint, operation="run")) == 1


def test_there_is_no_ledger_for_flash_so_a_key_is_refused_there(podgate, lab):
    sim = lab.sim()
    secret = harness.make_key("main")
    gateway = podgate(sim, {"team": {"alpha": {"endpoints": ["flash"], "key": {
        "main": harness.key_section(secret)}}}}, start=False)
    gateway.start()
    reply = gateway.request("POST", "/v2/flash/run", secret.text, {"input": {}},
                            [("Idempotency-Key", "k")])
    wire.assert_problem(reply, 501, "idempotency_key_unsupported")
    assert sim.requests() == []


def test_a_retry_is_repeated_by_its_key(gateway, sim, endpoint):
    job = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                          {"input": {"mock_error": "x"}}).json["id"]
    assert ended(gateway, endpoint, job).json["status"] == "FAILED"
    replies = [gateway.request("POST", f"/v2/{endpoint}/retry/{job}", gateway.key, None,
                               [("Idempotency-Key", "again")]) for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3, replies
    assert len({reply.body for reply in replies}) == 1
    assert [reply.field("idempotency-replayed") for reply in replies] == [None, "true", "true"]
    assert len(sim.requests(endpoint=endpoint, operation="retry")) == 1


# ---- the list ------------------------------------------------------------------------------------

def test_the_list_of_jobs_is_paged_newest_first(gateway, sim, endpoint):
    jobs = [run(gateway, endpoint, number) for number in range(7)]
    for job in jobs:
        ended(gateway, endpoint, job)
    asked = len(sim.requests(endpoint=endpoint))

    def page(query):
        reply = gateway.request("GET", f"/v2/{endpoint}/jobs?{query}", gateway.key)
        assert reply.status == 200, reply
        assert reply.field("podgate-origin") == "gateway"
        return reply.json
    found, cursor, pages = [], "", 0
    while cursor is not None:
        answer = page("limit=3" + (f"&cursor={cursor}" if cursor else ""))
        assert len(answer["jobs"]) <= 3
        found += answer["jobs"]
        cursor = answer["cursor"]
        pages += 1
        if pages == 1:
            newcomer = run(gateway, endpoint, "new", mock_delay=60000)  # shifts no page
    assert [entry["id"] for entry in found] == jobs[::-1]
    assert pages == 3
    assert {entry["status"] for entry in found} == {"COMPLETED"}
    assert {entry["result"] for entry in found} == {"kept"}
    times = [entry["submittedAt"] for entry in found]
    assert times == sorted(times, reverse=True)
    assert all(entry["endedAt"] >= entry["submittedAt"] for entry in found)
    everything = page("")["jobs"]
    assert [entry["id"] for entry in everything] == [newcomer, *jobs[::-1]]
    assert everything[0]["result"] == "pending"
    assert [entry["id"] for entry in page("status=COMPLETED")["jobs"]] == jobs[::-1]
    assert page("status=TIMED_OUT")["jobs"] == []
    assert [entry["id"] for entry in page(f"since={everything[0]['submittedAt']}")["jobs"]] == \
        [newcomer]
    assert len(sim.requests(endpoint=endpoint)) <= asked + 3  # the newcomer's alone
    gateway.request("POST", f"/v2/{endpoint}/cancel/{newcomer}", gateway.key)
    size = len(gateway.request("GET", f"/v2/{endpoint}/status/{jobs[0]}", gateway.key).body)
    assert found[-1]["resultBytes"] == size
    assert json.dumps(found[-1])  # plain JSON throughout
