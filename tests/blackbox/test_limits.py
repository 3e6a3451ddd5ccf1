"""Rates and concurrency per key."""

import threading
import time

import pytest

import harness
import wire

WHOAMI = "/podgate/v1/whoami"


@pytest.fixture
def limited(lab, podgate, sim):
    """Makes a podgate whose key "main" has these limits; "free" has none."""
    def make(**options):
        main, free = harness.make_key("main"), harness.make_key("free")
        gateway = podgate(sim, {"team": {"alpha": {"key": {
            "main": harness.key_section(main, **options), "free": harness.key_section(free)}}}})
        gateway.key, gateway.free = main.text, free.text
        return gateway
    return make


def ask(gateway, endpoint, key=None):
    return gateway.request("GET", f"/v2/{endpoint}/status/none-u1", key or gateway.key)


def spend(gateway, endpoint, most=500):
    """Requests until the first 429: how many passed, and that answer."""
    with gateway.connect() as connection:
        for count in range(most):
            reply = connection.request("GET", f"/v2/{endpoint}/status/none-u1", gateway.key)
            if reply.status == 429:
                return count, reply
            assert reply.status == 404
    return most, None


def test_rate_lets_the_burst_through_then_refuses(limited, endpoint):
    gateway = limited(rate=["1/m"], burst=7)
    passed, reply = spend(gateway, endpoint)
    assert passed == 7
    wire.assert_problem(reply, 429)
    assert 1 <= int(reply.field("retry-after")) <= 60
    assert ask(gateway, endpoint, gateway.free).status == 404


def test_refused_requests_do_not_reach_upstream(limited, sim, endpoint):
    gateway = limited(rate=["1/h"], burst=1)
    for _ in range(5):
        gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, {"input": {"a": 1}})
    assert len(sim.requests(endpoint=endpoint)) == 1


def test_rate_grows_back(limited, endpoint):
    gateway = limited(rate=["5/s"], burst=2)
    spend(gateway, endpoint)
    harness.wait_until(lambda: ask(gateway, endpoint).status == 404, 5)


def test_rate_is_kept_over_time(limited, endpoint):
    """Never more than the rate times the time that passed, plus the burst."""
    gateway = limited(rate=["20/s"], burst=5)
    passed, began = 0, time.monotonic()
    with gateway.connect() as connection:
        while time.monotonic() - began < 2:
            reply = connection.request("GET", f"/v2/{endpoint}/status/none-u1", gateway.key)
            passed += reply.status != 429
        took = time.monotonic() - began
    assert passed <= 20 * took + 5 + 1


def test_strictest_of_several_rates_counts(limited, endpoint):
    gateway = limited(rate=["1000/s", "3/h"])
    passed, reply = spend(gateway, endpoint)
    assert reply is not None
    assert passed <= 3
    assert int(reply.field("retry-after")) >= 1


def test_refused_request_costs_nothing_of_the_other_rates(limited, endpoint):
    gateway = limited(rate=["2/s", "100/h"])
    refused = 0
    with gateway.connect() as connection:
        for _ in range(300):
            refused += connection.request("GET", f"/v2/{endpoint}/status/none-u1",
                                          gateway.key).status == 429
    assert refused > 250
    harness.wait_until(lambda: ask(gateway, endpoint).status == 404, 5)


def test_retry_after_of_reads_is_at_most_ten_seconds(limited, endpoint):
    """The Python client obeys it blindly."""
    gateway = limited(rate=["1/h"], burst=1)
    _, reply = spend(gateway, endpoint)
    assert 1 <= int(reply.field("retry-after")) <= 10


def test_callers_at_once_share_the_burst(limited, endpoint):
    """Sixteen threads, two workers, one count."""
    gateway = limited(rate=["1/h"], burst=50)
    statuses = []

    def caller():
        with gateway.connect() as connection:
            for _ in range(10):
                statuses.append(connection.request("GET", f"/v2/{endpoint}/status/none-u1",
                                                   gateway.key).status)
    threads = [threading.Thread(target=caller) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(404) == 50
    assert statuses.count(429) == 110


def test_concurrency_refuses_one_more_and_gives_slots_back(limited, endpoint):
    gateway = limited(concurrency=3)
    job = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                          {"input": {"mock_delay": 3600000}}).json["id"]
    target = f"/v2/{endpoint}/status-sync/{job}?wait=60000"
    held = [gateway.connect() for _ in range(3)]
    for connection in held:
        connection.send(wire.head("GET", target, gateway.key))
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == 3)
    reply = ask(gateway, endpoint)
    wire.assert_problem(reply, 429)
    assert int(reply.field("retry-after")) >= 1
    assert ask(gateway, endpoint, gateway.free).status == 404
    held.pop().reset()
    harness.wait_until(lambda: ask(gateway, endpoint).status == 404, 3, "the slot of a hung-up caller")
    for connection in held:
        connection.reset()
    harness.wait_until(lambda: gateway.metric("podgate_waiting_callers") == 0, 3)
    gateway.request("POST", f"/v2/{endpoint}/cancel/{job}", gateway.free)


@pytest.mark.parametrize("refusal", ["body_too_large", "bad_json", "wrong_endpoint"])
def test_slots_come_back_after_refusals(limited, endpoint, refusal):
    gateway = limited(concurrency=1, endpoints=["ep*"])
    for _ in range(5):
        if refusal == "body_too_large":
            with gateway.connect() as connection:
                connection.send(wire.head("POST", f"/v2/{endpoint}/run", gateway.key,
                                          fields=[("Content-Length", "10485761")]))
                assert connection.read_reply().status == 413
        elif refusal == "bad_json":
            assert gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, b"{").status == 400
        else:
            assert gateway.request("GET", "/v2/other/health", gateway.key).status == 403
        harness.wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 0, 3)
    harness.wait_until(lambda: ask(gateway, endpoint).status == 404, 3)


def test_slot_comes_back_when_the_caller_leaves_inside_its_body(limited, sim, endpoint):
    gateway = limited(concurrency=1)
    with gateway.connect() as connection:
        connection.send(wire.head("POST", f"/v2/{endpoint}/run", gateway.key,
                                  fields=[("Content-Length", "1000")]) + b'{"input":')
        harness.wait_until(lambda: gateway.metric("podgate_requests_in_flight") == 1)
        assert ask(gateway, endpoint).status == 429
        connection.reset()
    harness.wait_until(lambda: ask(gateway, endpoint).status == 404, 3)
    assert not sim.requests(endpoint=endpoint, operation="run")


def test_slot_is_free_for_who_has_read_the_answer(limited, endpoint):
    """One request after the other, each on a connection of its own, is never more than one."""
    gateway = limited(concurrency=1)
    for _ in range(300):
        assert gateway.request("GET", WHOAMI, gateway.key).status == 200
    for _ in range(50):
        assert ask(gateway, endpoint).status == 404
