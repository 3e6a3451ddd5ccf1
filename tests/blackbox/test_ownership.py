"""A job belongs to a team. To all others it is a job that never was: on each route, to the byte, and at
the same cost."""

import concurrent.futures
import time

import pytest

import faults
import harness
import wire

QUIET = {"collector": {"first_poll": "10s", "max_poll": "60s"}}
WITHOUT_ADOPT = [name for name in harness.ALL_OPERATIONS if name not in ("adopt", "purge-all")]
UNKNOWN = "11111111-1111-4111-8111-111111111111-u1"

# What one can ask of a job: method, route, fields.
QUESTIONS = {
    "status": ("GET", "status/{}", []),
    "status-post": ("POST", "status/{}", []),
    "status-head": ("HEAD", "status/{}", []),
    "status-ttl": ("GET", "status/{}?ttl=1000", []),
    "status-if-none-match": ("GET", "status/{}", [("If-None-Match", "*")]),
    "status-range": ("GET", "status/{}", [("Range", "bytes=0-0")]),
    "status-gzip": ("GET", "status/{}", [("Accept-Encoding", "gzip")]),
    "status-sync": ("GET", "status-sync/{}?wait=1000", []),
    "status-sync-post": ("POST", "status-sync/{}?wait=1000", []),
    "stream": ("GET", "stream/{}?wait=1000", []),
    "stream-post": ("POST", "stream/{}?wait=1000", []),
    "stream-from": ("GET", "stream/{}?from=0&wait=1000", []),
    "events": ("GET", "stream/{}", [("Accept", "text/event-stream")]),
    "events-resumed": ("GET", "stream/{}", [("Accept", "text/event-stream"),
                                            ("Last-Event-ID", "0")]),
    "cancel": ("POST", "cancel/{}", []),
    "retry": ("POST", "retry/{}", []),
    "retry-keyed": ("POST", "retry/{}", [("Idempotency-Key", "again")]),
    "delete": ("DELETE", "jobs/{}", []),
}
# What a question costs the store; the collector's and the clean-up's are left out.
BACKGROUND = {"claim-due", "list-endpoints", "claim-cancels", "expire", "count", "reschedule",
              "put-result", "list-unknown"}


class House:
    """Two teams at one podgate, with jobs of the first in each state."""

    def __init__(self, lab):
        self.sim = lab.sim("--workers", "50")
        self.ours, self.theirs = harness.make_key("ours"), harness.make_key("theirs")
        self.gateway = lab.podgate(self.sim, {**QUIET, "team": {
            "one": {"key": {"ours": harness.key_section(self.ours)}},
            "two": {"key": {"theirs": harness.key_section(
                self.theirs, operations=WITHOUT_ADOPT)}}}})
        self.jobs = {"running": self.submit(mock_delay=60000),
                     "completed": self.submit(mock_return={"secret": 1}),
                     "failed": self.submit(mock_error="secret"),
                     "deleted": self.submit(mock_return=1)}
        for name in ("completed", "failed", "deleted"):
            reply = self.ask(self.ours, "GET", f"status-sync/{self.jobs[name]}?wait=10000")
            assert reply.json["status"] in ("COMPLETED", "FAILED")
        assert self.ask(self.ours, "DELETE", f"jobs/{self.jobs['deleted']}").status == 200
        assert self.ask(self.ours, "GET", f"stream/{self.jobs['completed']}").status == 200

    def submit(self, **work):
        reply = self.ask(self.ours, "POST", "run", {"input": work})
        assert reply.status == 200, reply
        return reply.json["id"]

    def ask(self, key, method, path, body=None, fields=()):
        return self.gateway.request(method, f"/v2/ep/{path}", key.text, body, fields)

    def store_calls(self):
        return {tuple(sorted(labels)): value
                for (name, labels), value in self.gateway.metrics().items()
                if name == "podgate_store_calls_total"
                and dict(labels)["operation"] not in BACKGROUND}

    def calm(self):
        """The calls, once no more of them come: some things are written behind the answer."""
        calls = self.store_calls()
        time.sleep(0.03)
        return calls if calls == self.store_calls() else None

    def cost(self, question):
        """The answer, and which calls of the store it took."""
        before = harness.wait_until(self.calm)
        reply = question()
        after = harness.wait_until(self.calm)
        return reply, {labels: value - before.get(labels, 0) for labels, value in after.items()
                       if value != before.get(labels, 0)}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("ownership"))
    yield House(lab)
    lab.close()


def essence(reply):
    """All that is sent but what differs with each answer."""
    fields = [(name, value) for name, value in reply.fields if name not in ("x-request-id", "date")]
    return reply.status, reply.reason, fields, reply.body


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_foreign_job_is_one_that_never_was(house, name):
    method, path, fields = QUESTIONS[name]
    since = house.sim.counters()["requests"]
    unknown = house.ask(house.theirs, method, path.format(UNKNOWN), fields=fields)
    assert unknown.status == 404
    if method != "HEAD":
        wire.assert_problem(unknown, 404, "job_not_found")
    for job in house.jobs.values():
        foreign = house.ask(house.theirs, method, path.format(job), fields=fields)
        assert essence(foreign) == essence(unknown)
    asked = {entry["operation"] for entry in house.sim.requests(since=since)}
    assert not asked - {"status"}, "the collector's own polls only"
    # Nothing has happened to them.
    assert house.ask(house.ours, "GET", f"status/{house.jobs['running']}").json["status"] in (
        "IN_QUEUE", "IN_PROGRESS")
    assert house.ask(house.ours, "GET", f"status/{house.jobs['completed']}").json["output"] == {
        "secret": 1}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_foreign_job_costs_what_one_costs_that_never_was(house, name):
    method, path, fields = QUESTIONS[name]

    def cost(job):
        own = [(field, harness.unique() if field == "Idempotency-Key" else value)
               for field, value in fields]
        return house.cost(lambda: house.ask(house.theirs, method, path.format(job), fields=own))[1]
    # Where the first question brought something into memory the second must not profit.
    for turn in range(2):
        unknown = cost(UNKNOWN)
        for state, job in house.jobs.items():
            foreign = cost(job)
            assert sum(foreign.values()) == sum(unknown.values()), (turn, state, foreign, unknown)


def test_the_list_has_ones_own_jobs_only(house):
    def listed(key, query=""):
        reply = house.ask(key, "GET", f"jobs{query}")
        assert reply.status == 200
        return {entry["id"] for entry in reply.json["jobs"]}
    mine = house.ask(house.theirs, "POST", "run", {"input": {"mock_delay": 60000}}).json["id"]
    assert listed(house.theirs) == {mine}
    assert set(house.jobs.values()) <= listed(house.ours)
    assert mine not in listed(house.ours)
    for query in ("?status=COMPLETED", "?status=FAILED", "?since=1"):
        assert listed(house.theirs, query) <= {mine}
    cursor = house.ask(house.ours, "GET", "jobs?limit=1").json["cursor"]
    assert cursor
    reply = house.ask(house.theirs, "GET", f"jobs?cursor={cursor}")
    assert reply.status in (200, 400)
    if reply.status == 200:
        assert not {entry["id"] for entry in reply.json["jobs"]} & set(house.jobs.values())


def test_one_idempotency_key_of_two_teams_is_two_submits(house, endpoint):
    def submit(key):
        reply = house.gateway.request("POST", f"/v2/{endpoint}/run", key.text, {"input": {"a": 1}},
                                      [("Idempotency-Key", "the-same")])
        assert reply.status == 200
        return reply
    first, second = submit(house.ours), submit(house.theirs)
    assert first.json["id"] != second.json["id"]
    assert second.field("idempotency-replayed") is None
    assert len(house.sim.requests(endpoint=endpoint, operation="run")) == 2
    for key, reply in ((house.ours, first), (house.theirs, second)):
        again = submit(key)
        assert again.body == reply.body
        assert again.field("idempotency-replayed") == "true"
    other_body = house.gateway.request("POST", f"/v2/{endpoint}/run", house.theirs.text,
                                       {"input": {"a": 2}}, [("Idempotency-Key", "mine-alone")])
    assert other_body.status == 200
    assert house.gateway.request("POST", f"/v2/{endpoint}/run", house.ours.text, {"input": {"a": 3}},
                                 [("Idempotency-Key", "mine-alone")]).status == 200


def test_equal_inputs_of_two_teams_are_two_jobs(podgate, make_sim):
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    sim = make_sim("--workers", "5")
    gateway = podgate(sim, {"endpoint": {"ep": {"dedupe": "input"}}, "team": {
        "one": {"key": {"ours": harness.key_section(ours)}},
        "two": {"key": {"theirs": harness.key_section(theirs)}}}})

    def submit(key):
        reply = gateway.request("POST", "/v2/ep/run", key.text, {"input": {"mock_delay": 3000}})
        assert reply.status == 200
        return reply.json["id"]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(submit, [ours, theirs] * 4))
    assert len(set(ids[0::2])) == len(set(ids[1::2])) == 1
    assert ids[0] != ids[1]
    assert len(sim.jobs()) == 2


# ---- jobs from before podgate --------------------------------------------------------------------

def test_only_keys_with_the_operation_adopt_and_the_job_is_their_teams(podgate, make_sim):
    adopter, plain = harness.make_key("adopter"), harness.make_key("plain")
    late = harness.make_key("late")
    sim = make_sim("--workers", "5")
    gateway = podgate(sim, {"collector": {"first_poll": "100ms", "max_poll": "1s"}, "team": {
        "one": {"key": {"adopter": harness.key_section(adopter)}},
        "two": {"key": {"plain": harness.key_section(plain, operations=WITHOUT_ADOPT)}},
        "three": {"key": {"late": harness.key_section(late)}}}})

    def submit(**work):
        return wire.request(sim.port, "POST", "/v2/ep/run", sim.key, {"input": work}).json["id"]

    def status(key, job):
        return gateway.request("GET", f"/v2/ep/status/{job}", key.text)
    running, done = submit(mock_delay=2000, mock_return=5), submit(mock_return=6)
    harness.wait_until(lambda: wire.request(sim.port, "GET", f"/v2/ep/status/{done}", sim.key)
                       .json["status"] == "COMPLETED")
    for job in (running, done):
        wire.assert_problem(status(plain, job), 404, "job_not_found")
    assert status(adopter, running).json["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert status(adopter, done).json["output"] == 6
    for key in (plain, late):  # it belongs to somebody now
        for job in (running, done):
            wire.assert_problem(status(key, job), 404, "job_not_found")
    wire.assert_problem(status(adopter, UNKNOWN), 404, "job_not_found")
    # From now on it is followed as any other.
    harness.wait_until(lambda: gateway.metric("podgate_jobs_ended_total", end="completed") == 2, 15)
    assert status(adopter, running).json["output"] == 5
    listed = gateway.request("GET", "/v2/ep/jobs", adopter.text).json["jobs"]
    assert {entry["id"] for entry in listed} == {running, done}


def test_two_teams_that_adopt_at_once_dont_share(podgate, make_sim):
    keys = [harness.make_key(f"k{number}") for number in range(6)]
    sim = make_sim("--workers", "5")
    gateway = podgate(sim, {"team": {f"team{number}": {"key": {f"k{number}": harness.key_section(key)}}
                                     for number, key in enumerate(keys)}})
    for turn in range(5):
        job = wire.request(sim.port, "POST", "/v2/ep/run", sim.key,
                           {"input": {"mock_delay": 5000}}).json["id"]

        def status(key):
            return gateway.request("GET", f"/v2/ep/status/{job}", key.text)
        with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
            replies = list(pool.map(status, keys))
        assert sorted(reply.status for reply in replies) == [200] + [404] * (len(keys) - 1), turn
        again = [status(key).status for key in keys]
        assert again == [reply.status for reply in replies]


def test_an_id_that_the_upstream_gives_twice_stays_with_its_owner(podgate, lab):
    def answer(received, connection):
        if received.target.endswith("/run"):
            return faults.response(body=b'{"id":"the-same-u1","status":"IN_QUEUE"}')
        return faults.response(body=b'{"id":"the-same-u1","status":"IN_PROGRESS"}')
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    gateway = podgate(lab.scripted(answer), {"team": {
        "one": {"key": {"ours": harness.key_section(ours)}},
        "two": {"key": {"theirs": harness.key_section(theirs)}}}})
    gateway.expect_errors("submit_mismatch", "submit")
    first = gateway.request("POST", "/v2/ep/run", ours.text, {"input": {}})
    assert first.status == 200
    wire.assert_problem(gateway.request("POST", "/v2/ep/run", theirs.text, {"input": {}}), 502,
                        "upstream_mismatch")
    assert gateway.request("GET", "/v2/ep/status/the-same-u1", ours.text).status == 200
    wire.assert_problem(gateway.request("GET", "/v2/ep/status/the-same-u1", theirs.text), 404,
                        "job_not_found")
    assert gateway.metric("podgate_warnings_total", warning="submit_mismatch") >= 1
