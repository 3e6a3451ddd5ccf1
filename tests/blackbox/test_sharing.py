"""Several podgates on one Redis: one result, one poll, and the jobs of one that died go on."""

import collections
import concurrent.futures
import json
import time

import pytest

import harness
import wire
from redis_server import RedisServer

FAST = {"collector": {"first_poll": "500ms", "max_poll": "2s"}}


@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def pair(lab, podgate, redis):
    """Makes some podgates that know the same key, on one Redis."""
    def make(sim, count=2, options=None):
        made = []
        secret = harness.make_key("main")
        for _ in range(count):
            teams = {"alpha": {"key": {"main": harness.key_section(secret)}}}
            made.append(podgate(sim, harness.merge(
                {"team": teams, "store": redis.store(instances=count)}, options or {}),
                start=False))
            made[-1].key = secret.text
            made[-1].options["store"]["path"] = str(made[-1].directory / "spool.db")
            made[-1].start()
        return made
    return make


def submit(gateway, endpoint, **work):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, {"input": work})
    assert reply.status == 200, reply.body
    return reply.json["id"]


def submit_many(gateway, endpoint, count, **work):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: submit(gateway, endpoint, **work), range(count)))


def status(gateway, endpoint, job):
    return gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key)


def test_a_result_is_the_same_bytes_from_every_podgate_for_as_long_as_it_is_kept(lab, pair, redis):
    sim = lab.sim("--workers", "20", "--retention-run", "1500")
    first, second = pair(sim, options={**FAST, "retention": {"completed": "12s"}})
    raw = '{"n":12345678901234567890,"x":[1e400,-0]}'
    job = json.loads(first.request(
        "POST", "/v2/ep/run", first.key,
        ('{"input":{"mock_return":%s,"mock_delay":100}}' % raw).encode()).body)["id"]
    harness.wait_until(lambda: first.metric("podgate_jobs_ended_total", end="completed")
                       + second.metric("podgate_jobs_ended_total", end="completed") == 1)
    harness.wait_until(lambda: wire.request(sim.port, "GET", f"/v2/ep/status/{job}",
                                            sim.key).status == 404)
    asked = len(sim.requests(operation="status"))
    answers = [status(gateway, "ep", job) for gateway in (first, second, first, second)]
    redis.restart()
    harness.wait_until(lambda: second.metric("podgate_store_ready") == 1)
    second.kill()
    second.launch()
    harness.wait_until(second.is_ready, 15)
    answers.append(status(second, "ep", job))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(sim.requests(operation="status")) == asked
    for gateway in (first, second):
        harness.wait_until(lambda: status(gateway, "ep", job).status == 404, 30)
        wire.assert_problem(status(gateway, "ep", job), 404, "job_expired")


def polls_of(sim, endpoint, since):
    """`endpoint` None: of all."""
    wanted = {"endpoint": endpoint} if endpoint else {}
    return sim.requests(since=since, operation="status", **wanted)


def polls_during(sim, endpoint, seconds):
    since = sim.counters()["requests"]
    time.sleep(seconds)  # what is measured is how many come in a time
    return polls_of(sim, endpoint, since)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("jobs, endpoints, interval", [
    (200, 1, 2), pytest.param(10000, 10, 20, marks=pytest.mark.full)])
def test_two_podgates_poll_each_job_as_often_as_one_would_and_take_over(lab, pair, jobs, endpoints,
                                                                        interval):
    options = {"collector": {"first_poll": "500ms", "max_poll": f"{interval}s"}}
    sim = lab.sim("--workers", "0", "--requests-kept", "1000000")
    alone, = pair(sim, 1, options)
    names = [f"ep{number}" for number in range(endpoints)]
    for name in names:
        submit_many(alone, name, jobs // endpoints, mock_return=1)
    # The first polls of young jobs come sooner: they are over when the last ones are this old.
    time.sleep(3 * interval)
    of_one = len(polls_during(sim, None, 4 * interval))
    alone.stop()

    first, second = pair(sim, 2, options)
    time.sleep(12 + interval)  # leases of the one that ended are over
    both = polls_during(sim, None, 4 * interval)
    print(f"{of_one} polls of one podgate, {len(both)} of two")
    assert len(both) <= of_one * 1.05 + 10, (len(both), of_one)
    assert len(both) >= of_one * 0.8, (len(both), of_one)
    times = collections.defaultdict(list)
    for entry in both:
        times[entry["job"]].append(entry["wallMs"])
    assert all(later - earlier > 300 for moments in times.values()
               for earlier, later in zip(moments, moments[1:])), "a job was polled by both at once"

    first.kill()
    first.process = None  # it stays dead
    since = sim.counters()["requests"]
    wanted = {job["id"] for job in sim.jobs()}
    harness.wait_until(
        lambda: wanted <= {entry["job"] for entry in polls_of(sim, None, since)},
        11 + 2 * interval + 5, "all jobs to be polled by the one that is left", interval=1)


@pytest.mark.parametrize("podgates", [1, 2])
def test_a_hundred_watchers_of_a_job_cost_one_request_in_half_a_second(lab, pair, podgates):
    sim = lab.sim("--workers", "20")
    gateways = pair(sim, podgates)
    job = submit(gateways[0], "ep", mock_return="done", mock_delay=4000)
    since = sim.counters()["requests"]
    began = time.monotonic()

    def watch(number):
        gateway = gateways[number % podgates]
        return gateway.request("GET", f"/v2/ep/status-sync/{job}?wait=20000", gateway.key,
                               timeout=30 * harness.PATIENCE)
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(watch, range(100)))
    lasted = time.monotonic() - began
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].json["output"] == "done"
    polls = len(polls_of(sim, "ep", since))
    # Two more: the first of each podgate, before the lease is anybody's.
    assert polls <= lasted / 0.5 + 2 + podgates, (polls, lasted)
    since = sim.counters()["requests"]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(watch, range(40)))
    assert polls_of(sim, "ep", since) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.full)])
def test_redis_stopped_under_load_loses_and_doubles_nothing(lab, pair, redis, seconds):
    sim = lab.sim("--workers", "200")
    gateway, = pair(sim, 1, FAST)
    hot = submit(gateway, "hot", mock_return="hot")
    harness.wait_until(lambda: status(gateway, "hot", hot).json["status"] == "COMPLETED")
    rate, jobs, refused = 200, [], []
    redis.kill()
    began = time.monotonic()

    def one(number):
        time.sleep(max(0, began + number / rate - time.monotonic()))
        reply = gateway.request("POST", "/v2/ep/run", gateway.key,
                                {"input": {"mock_return": number, "nonce": number}})
        if reply.status == 200:
            jobs.append((reply.json["id"], number))
        else:
            refused.append((reply.status, reply.body))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        futures = [pool.submit(one, number) for number in range(rate * seconds)]
        during = status(gateway, "hot", hot)
        for future in futures:
            future.result()
    assert not refused, refused[:3]
    assert during.status == 200 and during.json["output"] == "hot"
    redis.start()
    harness.wait_until(lambda: gateway.metric("podgate_store_ready") == 1, 30)
    harness.wait_until(lambda: gateway.metric("podgate_store_spooled") == 0, 30,
                       "the spool to be drained")
    assert len(sim.jobs()) == len(jobs) + 1, "0 doubled, 0 lost on the way up"
    harness.wait_until(lambda: gateway.metric("podgate_jobs_outstanding") == 0, 60)
    for job, number in jobs:
        reply = status(gateway, "ep", job)
        assert (reply.status, reply.json.get("output")) == (200, number), reply.body
