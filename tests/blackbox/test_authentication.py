"""Who may come in: keys, what they may do, and what those see who may not."""

import time

import pytest

import harness
import wire

RUN = {"input": {"a": 1}}


class Keyring:
    """A podgate with keys of many kinds."""

    def __init__(self, lab, sim):
        self.sim = sim
        self.keys = {}
        sections = {}

        def add(name, **options):
            key = harness.make_key(name)
            self.keys[name] = key
            sections[name] = harness.key_section(key, **options)

        add("good")
        add("expired", expires="2020-01-01")
        add("future", expires="2099-12-31")
        add("reader", operations=["status", "health"])
        add("exact", endpoints=["alpha"])
        add("prefix", endpoints=["al*", "beta"])
        add("flash", endpoints=["flash"])
        add("starred", endpoints=["*", "fl*"])
        add("here", allow_from=["127.0.0.0/8"])
        add("there", allow_from=["192.0.2.0/24"])
        add("one", allow_from=["127.0.0.9/32"])
        self.podgate = lab.podgate(sim, {"team": {
            "vision": {"key": sections},
            "narrow": {"endpoints": ["alpha"],
                       "key": {"narrow": harness.key_section(self.make("narrow"))}}}})

    def make(self, name):
        self.keys[name] = harness.make_key(name)
        return self.keys[name]

    def ask(self, name, method="GET", target="/v2/alpha/health", body=None, **options):
        return self.podgate.request(method, target, self.keys[name].text, body, **options)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("keys"))
    yield Keyring(lab, lab.sim())
    lab.close()


def refused_keys(ring):
    good = ring.keys["good"].text
    wrong_checksum = good[:-1] + ("A" if good[-1] != "A" else "B")
    return {
        "missing": None,
        "empty": "",
        "only_the_scheme": "Bearer",
        "other_scheme": "Basic dXNlcjpwYXNz",
        "two_words": f"Bearer {good} {good}",
        "unknown": "Bearer " + harness.make_key("nobody").text,
        "wrong_secret": "Bearer " + harness.make_key("good").text,
        "expired": "Bearer " + ring.keys["expired"].text,
        "wrong_checksum": "Bearer " + wrong_checksum,
        "too_short": "Bearer " + good[:-1],
        "too_long": "Bearer " + good + "a",
        "other_case": "Bearer " + good.swapcase(),
        "not_a_key": "Bearer hello",
        "the_upstream_key": "Bearer " + harness.UPSTREAM_KEY,
        "very_long": "Bearer " + "a" * 5000,
    }


def failing_request(ring, value, source):
    fields = [] if value is None else [("Authorization", value)]
    return wire.request(ring.podgate.port, "POST", "/v2/alpha/run", body=RUN, fields=fields,
                        source=source)


def test_all_refused_keys_get_the_same_bytes(ring):
    replies = {}
    for number, (name, value) in enumerate(refused_keys(ring).items()):
        reply = failing_request(ring, value, f"127.0.1.{number + 1}")
        wire.assert_problem(reply, 401)
        fields = [field for field in reply.fields if field[0] not in ("date", "x-request-id")]
        replies[name] = (reply.body, fields)
    assert len({repr(reply) for reply in replies.values()}) == 1, replies
    assert [entry for entry in ring.sim.requests(operation="run")] == []


def test_failures_are_logged_with_address_and_without_the_key(ring):
    key = harness.make_key("nobody").text
    failing_request(ring, "Bearer " + key, "127.0.2.1")
    line = harness.wait_until(lambda: [line for line in ring.podgate.log().splitlines()
                                       if "127.0.2.1" in line])[0]
    assert "key_unknown" in line
    # Nothing of what a stranger asked for, but the operation's name.
    done = harness.wait_until(lambda: [line for line in ring.podgate.log().splitlines()
                                       if "event=request_done" in line and "127.0.2.1" in line])[0]
    assert "endpoint=" not in done and "job=" not in done
    assert key not in ring.podgate.log()
    assert key[len("pg_nobody_"):] not in ring.podgate.log()


def test_key_that_expires_later_is_good(ring):
    assert ring.ask("future").status == 200


@pytest.mark.parametrize("method, target", [
    ("POST", "/v2/alpha/run"), ("POST", "/v2/alpha/runsync"), ("GET", "/v2/alpha/stream/j"),
    ("POST", "/v2/alpha/cancel/j"), ("POST", "/v2/alpha/retry/j"), ("POST", "/v2/alpha/purge-queue"),
    ("GET", "/v2/alpha/openai/v1/models"), ("GET", "/v2/alpha/requests"), ("GET", "/v2/alpha/batch")])
def test_operation_that_a_key_may_not_use_is_403(ring, method, target):
    before = ring.sim.counters()["requests"]
    reply = ring.ask("reader", method, target, RUN if method == "POST" else None)
    wire.assert_problem(reply, 403)
    assert ring.sim.counters()["requests"] == before


def test_operation_status_covers_status_sync(ring):
    for operation in ("status", "status-sync"):
        assert ring.ask("reader", target=f"/v2/alpha/{operation}/nothing-u1").status == 404


@pytest.mark.parametrize("key, endpoint, status", [
    ("exact", "alpha", 200), ("exact", "alpha2", 403), ("exact", "alph", 403),
    ("exact", "ALPHA", 403), ("prefix", "alpha", 200), ("prefix", "al", 200),
    ("prefix", "alabama", 200), ("prefix", "beta", 200), ("prefix", "beta2", 403),
    ("prefix", "a", 403), ("narrow", "alpha", 200), ("narrow", "beta", 403), ("good", "zeta", 200)])
def test_endpoints_are_exact_names_or_prefixes(ring, key, endpoint, status):
    reply = ring.ask(key, target=f"/v2/{endpoint}/health")
    assert reply.status == status
    if status == 403:
        wire.assert_problem(reply, 403)


def test_flash_is_reached_only_by_who_names_it(ring):
    fields = [("X-Flash-App", "app"), ("X-Flash-Environment", "env"), ("X-Flash-Endpoint", "end")]
    for key in ("good", "starred", "exact"):
        assert ring.ask(key, "POST", "/v2/flash/runsync", RUN, fields=fields).status == 404
    assert ring.sim.requests(endpoint="flash") == []
    assert ring.ask("flash", "POST", "/v2/flash/runsync", RUN, fields=fields).status == 200
    seen = ring.sim.requests(endpoint="flash")[0]["fields"]
    assert seen["x-flash-app"] == "app"
    assert seen["x-flash-environment"] == "env"
    assert seen["x-flash-endpoint"] == "end"


def test_fields_of_flash_do_not_go_up_elsewhere(ring):
    name = harness.unique("alpha")
    ring.ask("good", "POST", f"/v2/{name}/run", RUN, fields=[("X-Flash-App", "app")])
    assert "x-flash-app" not in ring.sim.requests(endpoint=name)[0]["fields"]


@pytest.mark.parametrize("key, source, status", [
    ("here", "127.0.0.1", 200), ("here", "127.9.9.9", 200), ("there", "127.0.0.1", 403),
    ("one", "127.0.0.9", 200), ("one", "127.0.0.8", 403)])
def test_allow_from(ring, key, source, status):
    reply = ring.ask(key, source=source)
    assert reply.status == status
    if status == 403:
        wire.assert_problem(reply, 403)


@pytest.mark.parametrize("path", ["job-take/pod", "job-take-batch/pod", "job-done/pod/job",
                                  "job-stream/pod/job", "job-stop/pod", "ping/pod"])
def test_worker_routes_are_404_for_every_key(ring, path):
    for key in ("good", "starred", "flash"):
        for endpoint in ("alpha", "flash"):
            wire.assert_problem(ring.ask(key, target=f"/v2/{endpoint}/{path}"), 404)


def test_the_callers_credentials_never_go_up(ring):
    name = harness.unique("alpha")
    ring.ask("good", "POST", f"/v2/{name}/run", RUN,
             fields=[("Cookie", "session=1"), ("Proxy-Authorization", "Basic x"),
                     ("X-Forwarded-For", "203.0.113.1"), ("Forwarded", "for=203.0.113.1")])
    fields = ring.sim.requests(endpoint=name)[0]["fields"]
    assert fields["authorization"] == "Bearer " + harness.UPSTREAM_KEY
    assert not {"cookie", "proxy-authorization", "x-forwarded-for", "forwarded"} & set(fields)
    assert ring.keys["good"].text not in str(fields)


# ---- slowing -------------------------------------------------------------------------------------

def test_failures_are_slowed_per_address_and_a_valid_key_never_is(ring):
    """10 failures in 10 s are free; the next ones are answered after 1 s."""
    source = "127.0.3.1"

    def seconds(value):
        began = time.monotonic()
        status = failing_request(ring, value, source).status
        return status, time.monotonic() - began

    for _ in range(10):
        assert seconds("Bearer nothing")[0] == 401
    status, took = seconds("Bearer nothing")
    assert status == 401
    assert 0.9 < took < 3 * harness.PATIENCE
    status, took = seconds("Bearer " + ring.keys["good"].text)
    assert status == 200
    assert took < 0.9 * harness.PATIENCE
    began = time.monotonic()
    assert failing_request(ring, "Bearer nothing", "127.0.3.2").status == 401
    assert time.monotonic() - began < 0.9 * harness.PATIENCE, "another address is slowed too"


# ---- the key before the body ---------------------------------------------------------------------

@pytest.mark.parametrize("fields, status", [
    ([("Authorization", "Bearer nothing")], 401), ([], 401)])
def test_key_is_checked_before_the_body_is_read(ring, fields, status):
    head = wire.head("POST", "/v2/alpha/run", fields=[*fields, ("Content-Length", "10000000")])
    with ring.podgate.connect(source="127.0.4.1") as connection:
        connection.send(head)
        wire.assert_problem(connection.read_reply(), status)


def expecting(connection, ring, key, target="/v2/alpha/runsync", length=25):
    connection.send(wire.head("POST", target, key, fields=[
        ("Expect", "100-continue"), ("Content-Length", str(length)),
        ("Content-Type", "application/json")]))


def test_100_continue_comes_after_key_route_and_size(ring):
    body = b'{"input":{"mock_return":1}}'
    with ring.podgate.connect() as connection:
        expecting(connection, ring, ring.keys["good"].text, length=len(body))
        version, status, _, fields = connection.read_head()
        assert (version, status, fields) == ("HTTP/1.1", 100, [])
        connection.send(body)
        reply = connection.read_reply()
        assert reply.status == 200
        assert reply.json["output"] == 1


@pytest.mark.parametrize("case", ["key", "route", "size", "operation", "endpoint", "method"])
def test_100_continue_never_comes_for_a_request_that_is_refused(ring, case):
    key = {"key": "pg_nothing", "operation": ring.keys["reader"].text,
           "endpoint": ring.keys["exact"].text}.get(case, ring.keys["good"].text)
    target = {"route": "/v2/alpha/job-done/x", "endpoint": "/v2/beta/run",
              "method": "/v2/alpha/health"}.get(case, "/v2/alpha/run")
    with ring.podgate.connect(source="127.0.4.2") as connection:
        expecting(connection, ring, key, target, 10485761 if case == "size" else 25)
        reply = connection.read_reply()
    wire.assert_problem(reply, {"key": 401, "route": 404, "size": 413, "operation": 403,
                                "endpoint": 403, "method": 405}[case])
    assert reply.interim == []
