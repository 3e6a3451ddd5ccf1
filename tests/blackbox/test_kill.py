"""Nobody polls, and everything is killed at random: nothing that was acknowledged is lost, nothing is
submitted twice, and what nobody knows is listed.

The seed is printed; PODGATE_TEST_SEED=N repeats its decisions (not the kernel's)."""

import collections
import hashlib
import json
import os
import random
import threading
import time

import pytest

import harness
import wire
from redis_server import RedisServer

KINDS = ("run", "run", "run", "runsync", "durable", "stream")
THREADS = 8
SCALE = 10  # the upstream forgets ten times sooner, and works ten times faster
RETENTION = {"retention_run": "180s", "retention_runsync": "6s"}


def options_of(redis, directory, socket_path):
    endpoints = {"*": {"capture_stream": False, "phantom_grace": "15s"},
                 "durable": {"runsync": "durable"}, "stream": {"capture_stream": True}}
    options = {"admin_socket": socket_path, "workers": 2, "endpoint": endpoints,
               "collector": {"first_poll": "200ms", "max_poll": "2s"},
               "upstream": {**RETENTION, "read_timeout": "3s"}}
    if redis:
        options["store"] = redis.store(path=str(directory / "spool.db"))
    return options


class Callers:
    """Submit from some threads, once each, and never ask what became of it."""

    def __init__(self, gateway, count, seed, duration):
        self.gateway = gateway
        self.pause = duration / count * THREADS * 2  # on the average once, beside the work itself
        self.jobs = {}     # id -> (endpoint, nonce)
        self.bodies = {}   # nonce -> the submit's body
        self.answers = []  # (status, code) of what was refused
        self.unanswered = 0
        self.lock = threading.Lock()
        numbers = list(range(count))
        random.Random(seed).shuffle(numbers)
        self.left = numbers
        self.seed = seed
        self.threads = [threading.Thread(target=self.work) for _ in range(THREADS)]

    def work(self):
        while True:
            with self.lock:
                if not self.left:
                    return
                number = self.left.pop()
            time.sleep(random.uniform(0, self.pause))
            self.submit(number)

    def submit(self, number):
        chance = random.Random(self.seed * 1_000_003 + number)
        kind = chance.choice(KINDS)
        nonce = f"n{self.seed}x{number}"
        work = {"mock_return": nonce, "nonce": nonce,
                "mock_delay": int(10 ** chance.uniform(0, 4.48))}  # 1 ms to 30 s
        if kind == "stream":
            work["mock_stream"] = [nonce] * 3
            work["mock_delay"] = min(work["mock_delay"], 3000)
        operation = {"run": "run", "stream": "run"}.get(kind, "runsync")
        wait = "?wait=2000" if operation == "runsync" else ""
        body = json.dumps({"input": work}).encode()
        self.bodies[nonce] = f"{wait or '?'}\n".encode() + body  # as it is digested
        while True:
            try:
                reply = self.gateway.request(
                    "POST", f"/v2/{kind}/{operation}{wait}", self.gateway.key, body,
                    timeout=60 * harness.PATIENCE)
            except ConnectionRefusedError:
                time.sleep(0.02)  # between a kill and the restart: nothing was sent
                continue
            except (OSError, wire.WireError):
                with self.lock:
                    self.unanswered += 1
                return
            break
        with self.lock:
            if reply.status == 200 and "id" in reply.json:
                self.jobs[reply.json["id"]] = (kind, nonce)
            else:
                self.answers.append((reply.status, reply.json.get("code")))


class Killer(threading.Thread):
    """At random times until told to stop; each of `strikes` is (how many, what)."""

    def __init__(self, seed, duration, strikes):
        super().__init__()
        chance = random.Random(seed)
        self.plan = sorted((chance.uniform(0.3, duration), number, strike)
                           for number, (count, strike) in enumerate(strikes) for _ in range(count))
        self.failure = None

    def run(self):
        began = time.monotonic()
        try:
            for at, _, strike in self.plan:
                time.sleep(max(0, began + at - time.monotonic()))
                strike()
        except BaseException as failure:  # told by the test
            self.failure = failure


def restart(gateway):
    gateway.kill()
    gateway.launch()
    harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running(), 30, "the restart")
    assert gateway.is_running(), gateway.log()[-3000:]


def digests_of_unknown(socket_path):
    """Of the query and body of each submit that podgatectl lists."""
    done = harness.run_podgatectl("--socket", socket_path, "unknown", "--limit", "100000", "--json")
    assert done.returncode == 0, done.stderr
    return {submit["sha256"] for submit in json.loads(done.stdout)["submits"]}


def nonce_of(job):
    start = job["inputStart"]
    at = start.find('"nonce"')
    return start[at:].split('"')[3] if at >= 0 else None


def storm(lab, tmp_path, backend, jobs, kills, redis_kills, front_kills, duration):
    seed = int(os.environ.get("PODGATE_TEST_SEED") or random.randrange(1_000_000))
    print(f"PODGATE_TEST_SEED={seed}")
    redis = RedisServer(tmp_path / "redis") if backend == "redis" else None
    socket_path = str(tmp_path / "admin.sock")
    sim = lab.sim("--workers", "500", "--time-scale", str(SCALE))
    gateway = lab.podgate(sim, options_of(redis, tmp_path, socket_path))
    gateway.expect_errors("event=")  # what is struck may say so; what matters is counted below
    try:
        callers = Callers(gateway, jobs, seed, duration)
        strikes = [(kills, lambda: restart(gateway)),
                   (front_kills, lambda: sim.control("POST", "front", {"down_ms": 300}))]
        if redis:
            strikes.append((redis_kills, redis.restart))
        killer = Killer(seed, duration, strikes)
        killer.start()
        for thread in callers.threads:
            thread.start()
        for thread in callers.threads:
            thread.join()
        killer.join()
        if killer.failure:
            raise killer.failure
        check(sim, gateway, callers, socket_path)
        gateway.stop()
    finally:
        if redis:
            redis.stop()


def check(sim, gateway, callers, socket_path):
    accepted = sim.jobs()
    nonces = [nonce_of(job) for job in accepted]
    assert len(nonces) == len(set(nonces)), "submitted twice: " + str(
        {nonce for nonce in nonces if nonces.count(nonce) > 1})

    # Whatever was acknowledged comes to its end without anybody asking, with its own result.
    def settled():
        return gateway.metric("podgate_jobs_outstanding") == 0
    harness.wait_until(settled, 120, "all jobs to end", interval=0.5)
    lost = []
    for job, (endpoint, nonce) in callers.jobs.items():
        reply = gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key)
        if reply.status != 200 or reply.json["status"] != "COMPLETED":
            lost.append((job, endpoint, reply.status, reply.body[:200]))
        elif endpoint != "stream":
            assert reply.json["output"] == nonce
    assert not lost, f"{len(lost)} of {len(callers.jobs)} lost: {lost[:5]}"

    # What upstream took but the caller wasn't told: in the ledger, or listed as unknown.
    missing = []
    for job in accepted:
        if job["id"] not in callers.jobs:
            done = harness.run_podgatectl("--socket", socket_path, "job", job["endpoint"],
                                          job["id"])
            if done.returncode != 0:
                missing.append(job)
    def unexplained():
        unknown = digests_of_unknown(socket_path) if missing else set()
        return [job for job in missing
                if hashlib.sha256(callers.bodies[nonce_of(job)]).hexdigest() not in unknown]
    # With a shared store nobody can tell a podgate that died from one that is slow, so that a submit
    # counts as unknown only when its time is over.
    harness.wait_until(lambda: not unexplained(), 150, "the listing of what is unknown", interval=2)
    print(f"{len(callers.jobs)} acknowledged, {callers.unanswered} unanswered, "
          f"{len(missing)} listed as unknown; refusals: {collections.Counter(callers.answers)}")


@pytest.mark.parametrize("backend", ["embedded", "redis"])
def test_nothing_is_lost_or_doubled_by_kills(lab, tmp_path, backend):
    storm(lab, tmp_path, backend, jobs=150, kills=5, redis_kills=2, front_kills=2, duration=8)


@pytest.mark.full
@pytest.mark.parametrize("backend", ["embedded", "redis"])
def test_nothing_is_lost_or_doubled_by_a_storm_of_kills(lab, tmp_path, backend):
    storm(lab, tmp_path, backend, jobs=2000, kills=50, redis_kills=20, front_kills=20,
          duration=75)
