"""Idempotency-Key through the daemon: one submit for many requests, whatever dies in between."""

import concurrent.futures
import threading

import pytest

import faults
import harness
import redis_server
import wire

MANY = 100


def submit(gateway, endpoint, key, body, operation="run", fields=(), timeout=30):
    return gateway.request("POST", f"/v2/{endpoint}/{operation}", gateway.key, body,
                           [("Idempotency-Key", key), *fields], timeout=timeout * harness.PATIENCE)


def submits(sim, endpoint, operation="run"):
    return sim.requests(endpoint=endpoint, operation=operation)


def all_at_once(count, function):
    """Calls `function` from as many threads at the same moment; their results, None where the
    connection broke."""
    barrier = threading.Barrier(count)

    def call(_):
        barrier.wait(30)
        try:
            return function()
        except (OSError, wire.WireError):
            return None

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def restart(gateway):
    """Starts a podgate again that was killed, on the same files, without the fault that killed it."""
    gateway.environment = None
    gateway.launch()
    harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running(), 15, "the restart")
    assert gateway.is_running(), gateway.log()


def dies(gateway):
    harness.wait_until(lambda: not gateway.is_running(), 20, "the kill")


# ---- one key, many requests ----------------------------------------------------------------------

def test_many_concurrent_requests_with_one_key_make_one_submit(gateway, sim, endpoint):
    key = harness.unique("k")
    replies = all_at_once(MANY, lambda: submit(gateway, endpoint, key, {"input": {"n": 1}}))
    assert [reply.status for reply in replies] == [200] * MANY
    assert len({reply.body for reply in replies}) == 1
    assert sum(reply.field("idempotency-replayed") == "true" for reply in replies) == MANY - 1
    assert len(submits(sim, endpoint)) == 1


def test_they_wait_for_a_slow_upstream(lab, podgate):
    sim = lab.sim("--fault", "delay=1000,operation=run")
    gateway = podgate(sim)
    replies = all_at_once(MANY, lambda: submit(gateway, "ep", "slow", {"input": {"n": 1}}))
    assert [reply.status for reply in replies] == [200] * MANY
    assert len({reply.body for reply in replies}) == 1
    assert len(submits(sim, "ep")) == 1


def test_who_waits_too_long_is_told_to_come_back(lab, podgate):
    sim = lab.sim("--fault", "delay=4000,operation=run")
    gateway = podgate(sim)
    replies = all_at_once(8, lambda: submit(gateway, "ep", "slower", {"input": {"n": 1}}))
    statuses = sorted(reply.status for reply in replies)
    assert statuses == [200] + [409] * 7
    for reply in replies:
        if reply.status == 409:
            wire.assert_problem(reply, 409, "idempotency_in_flight")
            assert reply.field("retry-after") == "1"
    first = next(reply for reply in replies if reply.status == 200)
    again = submit(gateway, "ep", "slower", {"input": {"n": 1}})
    assert (again.status, again.body) == (200, first.body)
    assert len(submits(sim, "ep")) == 1


def test_a_key_belongs_to_its_team_endpoint_and_operation(lab, podgate, sim, endpoint):
    keys = {name: harness.make_key(name) for name in ("one", "two")}
    gateway = podgate(sim, {"team": {
        name: {"key": {name: harness.key_section(key)}} for name, key in keys.items()}})
    gateway.key = keys["one"].text
    first = submit(gateway, endpoint, "shared", {"input": {"n": 1}})
    gateway.key = keys["two"].text
    second = submit(gateway, endpoint, "shared", {"input": {"n": 2}})
    third = submit(gateway, endpoint, "shared", {"input": {"n": 1}}, "runsync")
    assert [reply.status for reply in (first, second, third)] == [200] * 3
    assert len({reply.json["id"] for reply in (first, second, third)}) == 3


def test_a_runsync_is_repeated_with_its_result(gateway, sim, endpoint):
    key = harness.unique("k")
    body = {"input": {"mock_return": {"x": [1, 2.50, None]}, "mock_delay": 300}}
    replies = all_at_once(5, lambda: submit(gateway, endpoint, key, body, "runsync"))
    assert [reply.status for reply in replies] == [200] * 5
    assert len({reply.body for reply in replies}) == 1
    assert replies[0].json["status"] == "COMPLETED"
    assert len(submits(sim, endpoint, "runsync")) == 1


# ---- killed in the middle ------------------------------------------------------------------------

@pytest.mark.parametrize("workers", [1, 2])
def test_killed_once_the_job_is_known_everybody_gets_the_first_answer(lab, podgate, workers):
    sim = lab.sim()
    gateway = podgate(sim, {"workers": workers},
                      environment={"PODGATE_FAULT": "submit.known=kill@1"})
    replies = all_at_once(MANY, lambda: submit(gateway, "ep", "killed", {"input": {"n": 1}}))
    dies(gateway)
    told = {reply.body for reply in replies if reply}  # by the other worker, before it died too
    restart(gateway)
    replies = all_at_once(MANY, lambda: submit(gateway, "ep", "killed", {"input": {"n": 1}}))
    assert [reply.status for reply in replies] == [200] * MANY
    assert len(told | {reply.body for reply in replies}) == 1
    assert all(reply.field("idempotency-replayed") == "true" for reply in replies)
    assert len(submits(sim, "ep")) == 1
    job = replies[0].json["id"]
    assert gateway.request("GET", f"/v2/ep/status/{job}", gateway.key).json["id"] == job


@pytest.mark.parametrize("point, sent", [("submit.sent", 0), ("submit.answered", 1)])
def test_killed_before_the_job_is_known_nothing_is_sent_again(lab, podgate, point, sent):
    sim = lab.sim()
    gateway = podgate(sim, environment={"PODGATE_FAULT": f"{point}=kill@1"})
    all_at_once(10, lambda: submit(gateway, "ep", "killed", {"input": {"n": 1}}))
    dies(gateway)
    restart(gateway)
    replies = all_at_once(10, lambda: submit(gateway, "ep", "killed", {"input": {"n": 1}}))
    for reply in replies:
        wire.assert_problem(reply, 502, "submit_unknown")
    assert len(submits(sim, "ep")) == sent
    # Its caller may take the risk.
    reply = submit(gateway, "ep", "killed", {"input": {"n": 1}},
                   fields=[("Podgate-Resubmit", "accept-duplicate")])
    assert reply.status == 200
    again = submit(gateway, "ep", "killed", {"input": {"n": 1}})
    assert (again.status, again.body) == (200, reply.body)
    assert len(submits(sim, "ep")) == sent + 1


def test_killed_before_it_is_sent_the_key_is_free(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim, environment={"PODGATE_FAULT": "submit.intent=kill@1"})
    all_at_once(10, lambda: submit(gateway, "ep", "killed", {"input": {"n": 1}}))
    dies(gateway)
    restart(gateway)
    replies = []

    def succeeds():
        replies.append(submit(gateway, "ep", "killed", {"input": {"n": 1}}))
        return replies[-1].status == 200

    harness.wait_until(succeeds, 20, "a claim that lapses")
    assert all(reply.status in (200, 409) for reply in replies)
    assert len(submits(sim, "ep")) == 1


def test_killed_at_any_time_one_key_makes_one_submit_at_most(lab, podgate):
    """Whatever the moment, afterwards all requests agree."""
    sim = lab.sim("--fault", "delay=30,operation=run")
    gateway = podgate(sim)
    for turn, pause in enumerate([0.0, 0.005, 0.015, 0.03, 0.045, 0.06]):
        endpoint, key = f"ep{turn}", f"key{turn}"
        timer = threading.Timer(pause, gateway.kill)
        threads = [threading.Thread(target=all_at_once, args=(
            20, lambda: submit(gateway, endpoint, key, {"input": {"n": 1}})))]
        threads[0].start()
        timer.start()
        timer.join()
        threads[0].join()
        restart(gateway)

        def settled():
            reply = submit(gateway, endpoint, key, {"input": {"n": 1}})
            return reply if reply.status != 409 else None

        first = harness.wait_until(settled, 20, "an outcome")
        assert first.status in (200, 502), first
        replies = all_at_once(20, lambda: submit(gateway, endpoint, key, {"input": {"n": 1}}))
        assert {reply.status for reply in replies} == {first.status}
        if first.status == 200:
            assert {reply.body for reply in replies} == {first.body}
        assert len(submits(sim, endpoint)) <= 1


# ---- the way to upstream breaks ------------------------------------------------------------------

@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("action", ["reset", "close"])
def test_broken_at_any_byte_one_key_makes_one_submit_at_most(lab, podgate, full, direction, action):
    """The connection to upstream breaks behind byte N of the exchange, either way: what upstream may
    have taken is never sent again, what it can't have taken is."""
    sim = lab.sim()
    proxy = lab.proxy(sim.port)
    gateway = podgate(proxy, {"workers": 1})
    length = 700 if direction == "up" else 400
    for number, at in enumerate(range(1, length, 7 if full else 37)):
        endpoint, key = f"ep{number}", f"key{number}"
        body = {"input": {"n": "x" * 100}}
        plans = iter([faults.FaultProxy.Plan(at=at, direction=direction, action=action)])
        proxy.next_plan = lambda: next(plans, None) or faults.FaultProxy.Plan()
        proxy.cut_all()  # pooled connections have other plans
        first = submit(gateway, endpoint, key, body)
        again = submit(gateway, endpoint, key, body)
        taken = len(submits(sim, endpoint))
        assert taken <= 1, at
        if first.status == 200:
            assert (again.status, again.body) == (200, first.body), at
            assert taken == 1
        else:
            wire.assert_problem(first, 502)
            wire.assert_problem(again, 502, "submit_unknown")


# ---- several podgates on one Redis ---------------------------------------------------------------

@pytest.fixture
def redis(tmp_path):
    server = redis_server.RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def pair(podgate, sim, redis, **process):
    """Two podgates of one company: the same Redis, the same key."""
    key = harness.make_key("main")
    options = {"store": redis.store(), "team": {"alpha": {"key": {"main": harness.key_section(key)}}}}
    gateways = [podgate(sim, options, **process), podgate(sim, options)]
    for gateway in gateways:
        gateway.key = key.text
        harness.wait_until(lambda: gateway.metric("podgate_store_ready") == 1, 20, "Redis")
    return gateways


def test_two_podgates_make_one_submit_of_one_key(lab, podgate, redis):
    sim = lab.sim("--fault", "delay=300,operation=run")
    gateways = pair(podgate, sim, redis)
    turns = iter(range(MANY))
    replies = all_at_once(MANY, lambda: submit(gateways[next(turns) % 2], "ep", "shared",
                                               {"input": {"n": 1}}))
    assert [reply.status for reply in replies] == [200] * MANY
    assert len({reply.body for reply in replies}) == 1
    assert len(submits(sim, "ep")) == 1
    wire.assert_problem(submit(gateways[1], "ep", "shared", {"input": {"n": 2}}), 422,
                        "idempotency_mismatch")


def test_the_other_podgate_knows_what_a_dead_one_was_told(lab, podgate, redis):
    """Killed when the job was known and nobody told; Redis, too, loses its power."""
    sim = lab.sim()
    gateways = pair(podgate, sim, redis, environment={"PODGATE_FAULT": "submit.known=kill@1"})
    with pytest.raises((OSError, wire.WireError)):
        submit(gateways[0], "ep", "dead", {"input": {"mock_return": 7}})
    dies(gateways[0])
    redis.restart()
    body = {"input": {"mock_return": 7}}

    def told():
        reply = submit(gateways[1], "ep", "dead", body)
        return reply if reply.status != 503 else None  # until it has found Redis again

    reply = harness.wait_until(told, 20, "the key's answer")
    assert reply.status == 200
    assert reply.field("idempotency-replayed") == "true"
    assert len(submits(sim, "ep")) == 1
    job = reply.json["id"]
    reply = gateways[1].request("GET", f"/v2/ep/status-sync/{job}?wait=20000", gateways[1].key)
    assert reply.json["output"] == 7
    restart(gateways[0])


def test_the_other_podgate_never_sends_what_a_dead_one_may_have_sent(lab, podgate, redis):
    sim = lab.sim()
    gateways = pair(podgate, sim, redis, environment={"PODGATE_FAULT": "submit.answered=kill@1"})
    with pytest.raises((OSError, wire.WireError)):
        submit(gateways[0], "ep", "dead", {"input": {"n": 1}})
    dies(gateways[0])
    for _ in range(2):
        reply = submit(gateways[1], "ep", "dead", {"input": {"n": 1}})
        # Whether the one that sent it lives can't be seen from here before its time is over.
        assert reply.status in (409, 502), reply
    assert len(submits(sim, "ep")) == 1
    restart(gateways[0])


def test_while_redis_is_away_keys_are_refused_and_other_submits_are_not(lab, podgate, redis):
    sim = lab.sim()
    gateways = pair(podgate, sim, redis)
    for gateway in gateways:
        gateway.expect_errors("store")
    first = submit(gateways[0], "ep", "before", {"input": {"n": 1}})
    assert first.status == 200
    redis.kill()

    def is_away():
        reply = submit(gateways[0], "ep", "during", {"input": {"n": 1}})
        return reply if reply.status == 503 else None

    reply = harness.wait_until(is_away, 20, "the outage to be noticed")
    wire.assert_problem(reply, 503, "store_unavailable")
    assert reply.field("podgate-degraded") == "store"
    reply = gateways[0].request("POST", "/v2/ep/run", gateways[0].key, {"input": {"n": 2}})
    assert reply.status == 200
    assert reply.field("podgate-degraded") == "store"
    redis.start()

    def is_back():
        reply = submit(gateways[0], "ep", "before", {"input": {"n": 1}})
        return reply if reply.status == 200 else None

    reply = harness.wait_until(is_back, 20, "Redis to be found again")
    assert reply.body == first.body
