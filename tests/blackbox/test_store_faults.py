"""The store fails: what goes up then, what is still served, and what is there when it is well again."""

import base64
import concurrent.futures
import os
import pathlib
import sqlite3
import subprocess

import pytest

import harness
import wire
from redis_server import RedisServer

EX_DATAERR, EX_TEMPFAIL, EX_CONFIG = 65, 75, 78
FAST = {"collector": {"first_poll": "100ms", "max_poll": "1s"}}
STORE_ERRORS = ("event=store_", "event=result_not_stored")


def run(gateway, value=1, endpoint="ep", fields=(), **work):
    return gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                           {"input": {"mock_return": value, **work}}, fields,
                           timeout=30 * harness.PATIENCE)


def submit(gateway, value=1, endpoint="ep", **work):
    reply = run(gateway, value, endpoint, **work)
    assert reply.status == 200, reply
    return reply.json["id"]


def status(gateway, job, endpoint="ep"):
    return gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key,
                           timeout=30 * harness.PATIENCE)


def ended(gateway):
    return gateway.metric("podgate_jobs_ended_total", end="completed")


def finish(gateway, value=1):
    """A job whose result is stored: its id and the bytes."""
    before = ended(gateway)
    job = submit(gateway, value)
    harness.wait_until(lambda: ended(gateway) > before, 15)
    return job, status(gateway, job).body


def sent(sim, endpoint=None):
    return len(sim.requests(operation="run", **({"endpoint": endpoint} if endpoint else {})))


def store_faults(gateway, reason=None):
    labels = {"reason": reason} if reason else {}
    return gateway.metric("podgate_faults_total", part="store", **labels)


def restart(gateway, environment=None):
    gateway.kill()
    gateway.environment = environment
    gateway.launch()
    harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running(), 15, "the restart")
    assert gateway.is_running(), gateway.log()[-3000:]


# ---- the embedded store --------------------------------------------------------------------------

def refused_before_it_goes_up(sim, gateway):
    before = sent(sim)
    for fields in ((), [("Idempotency-Key", harness.unique())]):
        reply = run(gateway, fields=fields)
        wire.assert_problem(reply, 503, "store_unavailable")
        assert reply.field("podgate-degraded") == "store"
        assert reply.field("retry-after")
    assert sent(sim) == before


@pytest.mark.parametrize("fault", ["store.commit=ENOSPC@5+", "store.commit=EIO@5+",
                                   "store.begin=EIO@5+", "store.sync=EIO@5+"])
def test_what_cant_be_written_is_refused_before_it_goes_up(podgate, make_sim, fault):
    sim = make_sim("--workers", "10")
    gateway = podgate(sim, FAST)
    done, result = finish(gateway, {"a": 1})
    running = submit(gateway, 2, mock_delay=3000)
    gateway.expect_errors(*STORE_ERRORS, "event=submit_not_recorded")
    restart(gateway, {"PODGATE_FAULT": fault})
    taken = []

    def refused():
        before = sent(sim)
        reply = run(gateway)
        if reply.status == 200:
            taken.append(reply.json["id"])
            assert sent(sim) == before + 1
            return False
        wire.assert_problem(reply, 503, "store_unavailable")
        return sent(sim) == before
    harness.wait_until(refused, 15, "the store's failure")
    refused_before_it_goes_up(sim, gateway)
    assert status(gateway, done).body == result
    assert status(gateway, running).status == 200
    assert store_faults(gateway) > 0
    if "begin" not in fault:  # that one is "locked", as by a backup: it isn't away for it
        assert gateway.metric("podgate_store_ready") == 0
    assert gateway.is_running()
    restart(gateway)
    assert gateway.metric("podgate_store_ready") == 1
    for job in [running, *taken]:
        harness.wait_until(lambda: status(gateway, job).json.get("status") == "COMPLETED", 15)
    assert status(gateway, done).body == result


@pytest.mark.parametrize("fault", ["store.commit=ENOSPC", "store.sync=EIO", "store.step=EIO"])
def test_a_store_that_fails_for_a_while_recovers_by_itself(podgate, make_sim, fault):
    sim = make_sim("--workers", "10")
    rules = ",".join(f"{fault}@{number}" for number in range(15, 35))
    gateway = podgate(sim, FAST, environment={"PODGATE_FAULT": rules})
    gateway.expect_errors(*STORE_ERRORS, "event=submit_not_recorded")
    taken, refused = {}, 0

    def over():
        nonlocal refused
        before = sent(sim)
        reply = run(gateway, len(taken))
        if reply.status == 200:
            taken[reply.json["id"]] = len(taken)
            return refused > 0 and len(taken) > 10 and gateway.metric("podgate_store_ready") == 1
        wire.assert_problem(reply, 503, "store_unavailable")
        assert sent(sim) == before
        refused += 1
        return False
    harness.wait_until(over, 30)
    for job, value in taken.items():
        harness.wait_until(lambda: status(gateway, job).json.get("output") == value, 20)
    assert len(sim.jobs()) == len(taken)
    assert store_faults(gateway) > 0
    restart(gateway)
    for job, value in taken.items():
        assert status(gateway, job).json["output"] == value


def test_a_result_that_couldnt_be_stored_is_served_and_stored_later(podgate, make_sim):
    sim = make_sim("--workers", "10")
    gateway = podgate(sim, FAST)
    job = submit(gateway, "late", mock_delay=1500)
    gateway.expect_errors(*STORE_ERRORS)
    rules = ",".join(f"store.commit=ENOSPC@{number}" for number in range(2, 12))
    restart(gateway, {"PODGATE_FAULT": rules})
    harness.wait_until(lambda: status(gateway, job).json.get("output") == "late", 15)
    harness.wait_until(lambda: ended(gateway) == 1, 30)
    restart(gateway)
    before = len(sim.requests(operation="status"))
    assert status(gateway, job).json["output"] == "late"
    assert len(sim.requests(operation="status")) == before


class SmallDisk(harness.Podgate):
    """podgate whose store lies on a file system of a few MiB, which nobody else sees."""

    def launch(self):
        disk = self.directory / "disk"
        disk.mkdir(exist_ok=True)
        self.spawn(["unshare", "-Urm", "sh", "-c",
                    f"mount -t tmpfs -o size=12m none {disk} && exec \"$@\"", "podgate",
                    harness.program("podgate"), "-c", str(self.config_path)], self.environment)


def can_mount():
    done = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"],
                          capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no user namespaces here")
@pytest.mark.full  # on 12 MiB a delete of 0.4 MB finds no room for some seconds, now and then
def test_a_full_disk_refuses_submits_and_takes_deletes(lab, podgate, make_sim):
    sim = make_sim("--workers", "10")
    model = podgate(sim, FAST, start=False)
    gateway = SmallDisk(model.directory, harness.merge(model.options, {
        "store": {"path": str(model.directory / "disk" / "podgate.db")}}))
    gateway.key = model.key
    gateway.expect_errors(*STORE_ERRORS, "event=submit_not_recorded")
    lab.made.append(gateway)
    gateway.start()
    jobs = []
    for _ in range(200):
        before = sent(sim)
        reply = run(gateway, base64.b64encode(os.urandom(400000)).decode())
        if reply.status == 503:
            break
        assert reply.status == 200
        jobs.append(reply.json["id"])
        # Stored, or known not to be: only then comes the next.
        harness.wait_until(lambda: ended(gateway) == len(jobs)
                           or gateway.metric("podgate_store_ready") == 0, 15)
    wire.assert_problem(reply, 503, "store_unavailable")
    assert sent(sim) == before
    assert len(jobs) > 5
    stored = jobs[:int(ended(gateway))]
    results = {job: status(gateway, job) for job in jobs}
    assert {reply.status for reply in results.values()} == {200}
    assert gateway.log_lines("store_full")
    for job in stored[:len(stored) // 2]:
        # Perhaps not at once: each writes as much into the log as the result had.
        harness.wait_until(lambda: gateway.request("DELETE", f"/v2/ep/jobs/{job}",
                                                   gateway.key).status == 200, 10)
    later = harness.wait_until(lambda: (reply := run(gateway, "x")).status == 200 and reply, 20)
    jobs.append(later.json["id"])
    harness.wait_until(lambda: gateway.metric("podgate_jobs_outstanding") == 0, 30)
    harness.wait_until(lambda: ended(gateway) == len(jobs), 20)
    for job in jobs[len(stored) // 2:-1]:
        assert status(gateway, job).body == results[job].body or job not in stored


# ---- a file that podgate can't use ---------------------------------------------------------------

def refuses_to_start(gateway, code, *words):
    gateway.launch()
    assert gateway.wait(20) == code, gateway.log()
    gateway.process = None
    text = gateway.log()
    for word in words:
        assert word in text, text
    return text


def stopped(podgate, sim):
    """A podgate with some results in its file, stopped, and the file."""
    gateway = podgate(sim, FAST)
    for number in range(20):
        submit(gateway, "x" * 1000 + str(number))
    harness.wait_until(lambda: ended(gateway) == 20, 20)
    gateway.signal(15)
    assert gateway.wait() == 0
    gateway.expect_errors("salvage", "newer", "level=error")
    return gateway, pathlib.Path(gateway.effective["store"]["path"])


def overwrite_pages(path):
    data = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(data), 4096 * 3):
        data[at:at + 4096] = os.urandom(min(4096, len(data) - at))
    path.write_bytes(data)


def overwrite_begin(path):
    path.write_bytes(b"This is no database, but somebody's shopping list.\n" * 400)


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [overwrite_pages, overwrite_begin, cut])
def test_a_damaged_database_is_left_alone(podgate, make_sim, damage):
    gateway, path = stopped(podgate, make_sim())
    damage(path)
    before = path.read_bytes()
    refuses_to_start(gateway, EX_DATAERR, "podgatectl store salvage", str(path))
    assert path.read_bytes() == before


def test_a_database_of_a_newer_podgate_is_left_alone(podgate, make_sim):
    gateway, path = stopped(podgate, make_sim())
    with sqlite3.connect(path) as database:
        version, = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")
    database.close()
    refuses_to_start(gateway, EX_DATAERR, "newer")
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (version + 1,)
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (20,)
    database.close()


def test_somebody_elses_database_is_left_alone(podgate, make_sim):
    sim = make_sim()
    gateway = podgate(sim, start=False)
    path = gateway.directory / "podgate.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE diary (day TEXT)")
        database.execute("INSERT INTO diary VALUES ('monday')")
    database.close()
    gateway.expect_errors("level=error")
    gateway.write_config()
    refuses_to_start(gateway, EX_DATAERR, str(path))
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT day FROM diary").fetchone() == ("monday",)
    database.close()


def test_two_podgates_dont_share_a_file(podgate, make_sim):
    sim = make_sim()
    first = podgate(sim)
    second = podgate(sim, {"store": {"path": first.effective["store"]["path"]}}, start=False)
    second.expect_errors("level=error")
    second.write_config()
    refuses_to_start(second, EX_TEMPFAIL, first.effective["store"]["path"])
    job, result = finish(first)
    first.kill()
    first.process = None
    second.launch()
    harness.wait_until(second.is_ready, 15)
    assert status(second, job).body == result


# ---- Redis ---------------------------------------------------------------------------------------

@pytest.fixture
def redis(tmp_path):
    server = RedisServer(tmp_path / "redis", "--enable-debug-command", "yes")
    yield server
    server.thaw()
    server.stop()


def cli(redis, *arguments):
    done = subprocess.run(["redis-cli", "-p", str(redis.port), *arguments], capture_output=True,
                          text=True, timeout=20, check=True)
    return done.stdout.strip()


@pytest.fixture
def on_redis(lab, podgate, redis):
    """Makes a podgate on the Redis; all that are made know the same key."""
    secret = harness.make_key("main")
    # Without "adopt": what a podgate doesn't know it must not learn from the upstream here.
    section = harness.key_section(secret, operations=["run", "status", "delete"])

    def make(sim, options=None, start=True, **store):
        gateway = podgate(sim, harness.merge({
            **FAST, "team": {"alpha": {"key": {"main": section}}},
            "store": redis.store(**store)}, options or {}), start=False)
        gateway.key = secret.text
        gateway.options["store"]["path"] = str(gateway.directory / "spool.db")
        gateway.expect_errors(*STORE_ERRORS)
        return gateway.start() if start else gateway
    return make


def ready(gateway, expected=1):
    return gateway.metric("podgate_store_ready") == expected


class Outage:
    """Redis is of no use in some way, and then it is well again."""

    def __init__(self, redis):
        self.redis = redis
        self.replaced = None

    def __repr__(self):
        return type(self).__name__

    def end(self):
        pass


class Frozen(Outage):
    def begin(self):
        self.redis.freeze()

    def end(self):
        self.redis.thaw()


class Killed(Outage):
    def begin(self):
        self.redis.kill()

    def end(self):
        self.redis.start()


class Full(Outage):
    def begin(self):
        cli(self.redis, "config", "set", "maxmemory", "1")

    def end(self):
        cli(self.redis, "config", "set", "maxmemory", "0")


class WantsPassword(Outage):
    def begin(self):
        cli(self.redis, "config", "set", "requirepass", "secret")
        cli(self.redis, "-a", "secret", "client", "kill", "type", "normal")

    def end(self):
        cli(self.redis, "-a", "secret", "config", "set", "requirepass", "")


class ReadOnly(Outage):
    def begin(self):
        cli(self.redis, "config", "set", "replica-serve-stale-data", "yes")
        cli(self.redis, "replicaof", "127.0.0.1", "1")

    def end(self):
        cli(self.redis, "replicaof", "no", "one")


class NotSaving(Outage):
    """MISCONF: the last save failed, and writes are refused for it."""

    def begin(self):
        directory = pathlib.Path(self.redis.directory) / "dump.rdb"
        directory.mkdir(exist_ok=True)
        cli(self.redis, "config", "set", "save", "3600 1")
        cli(self.redis, "set", "unrelated", "1")
        cli(self.redis, "bgsave")
        harness.wait_until(lambda: "rdb_last_bgsave_status:err" in cli(self.redis, "info",
                                                                       "persistence"))

    def end(self):
        cli(self.redis, "config", "set", "save", "")


OUTAGES = [Frozen, Killed, Full, WantsPassword, ReadOnly, NotSaving]


@pytest.mark.parametrize("kind", OUTAGES, ids=lambda kind: kind.__name__)
def test_submits_are_spooled_and_reads_go_on_whatever_ails_redis(on_redis, redis, make_sim, kind):
    sim = make_sim("--workers", "20")
    gateway = on_redis(sim)
    done, result = finish(gateway, {"a": 1})
    running = submit(gateway, "running", mock_delay=1500)
    outage = kind(redis)
    outage.begin()
    first = run(gateway, "first")
    assert first.status == 200, first
    harness.wait_until(lambda: ready(gateway, 0), 15)
    spooled = run(gateway, "spooled")
    assert spooled.status == 200
    assert spooled.field("podgate-degraded") == "store"
    before = sent(sim)
    keyed = run(gateway, "keyed", fields=[("Idempotency-Key", "k")])
    wire.assert_problem(keyed, 503, "store_unavailable")
    assert sent(sim) == before
    assert status(gateway, done).body == result
    jobs = {running: "running", first.json["id"]: "first", spooled.json["id"]: "spooled"}
    for job, value in jobs.items():  # they are followed to their ends meanwhile
        harness.wait_until(lambda: status(gateway, job).json.get("output") == value, 20)
    assert store_faults(gateway) > 0
    outage.end()
    harness.wait_until(lambda: ready(gateway) and gateway.metric("podgate_store_spooled") == 0, 40)
    assert len(sim.jobs()) == len(jobs) + 1
    other = on_redis(sim)
    for job, value in jobs.items():
        harness.wait_until(lambda: status(other, job).json.get("output") == value, 15)
    assert run(gateway, "keyed", fields=[("Idempotency-Key", "k")]).status == 200


def test_refuse_refuses_and_reads_go_on(on_redis, redis, make_sim):
    sim = make_sim("--workers", "20")
    gateway = on_redis(sim, on_outage="refuse")
    done, result = finish(gateway)
    redis.kill()
    harness.wait_until(lambda: ready(gateway, 0), 15)
    before = sent(sim)
    for fields in ((), [("Idempotency-Key", "k")]):
        reply = run(gateway, fields=fields)
        wire.assert_problem(reply, 503, "store_unavailable")
        assert reply.field("podgate-degraded") == "store"
    assert sent(sim) == before
    assert status(gateway, done).body == result  # from memory
    redis.start()
    harness.wait_until(lambda: ready(gateway), 30)
    assert run(gateway).status == 200


def test_podgate_starts_while_redis_is_away(on_redis, redis, make_sim):
    sim = make_sim("--workers", "20")
    redis.kill()
    gateway = on_redis(sim)
    assert ready(gateway, 0)
    reply = run(gateway, "early")
    assert (reply.status, reply.field("podgate-degraded")) == (200, "store")
    gateway.kill()  # and again, with something in its spool
    gateway.launch()
    harness.wait_until(gateway.is_ready, 15)
    redis.start()
    harness.wait_until(lambda: ready(gateway) and gateway.metric("podgate_store_spooled") == 0, 40)
    other = on_redis(sim)
    harness.wait_until(lambda: status(other, reply.json["id"]).json.get("output") == "early", 15)


def test_require_durable_refuses_a_redis_that_forgets(on_redis, redis, make_sim):
    cli(redis, "config", "set", "appendfsync", "everysec")
    sim = make_sim()
    gateway = on_redis(sim, require_durable=True, start=False)
    gateway.expect_errors("level=error")
    gateway.write_config()
    refuses_to_start(gateway, EX_CONFIG, "require_durable")
    cli(redis, "config", "set", "appendfsync", "always")
    gateway.launch()
    harness.wait_until(gateway.is_ready, 15)
    harness.wait_until(lambda: gateway.metric("podgate_store_durability") == 2)


def test_what_isnt_durable_is_said(on_redis, redis, make_sim):
    cli(redis, "config", "set", "appendfsync", "everysec")
    gateway = on_redis(make_sim())
    harness.wait_until(lambda: gateway.metric("podgate_store_durability") == 1)
    assert "level=warning" in gateway.log()


@pytest.mark.parametrize("how", ["flushall", "restart"])
def test_a_redis_that_comes_back_empty_is_told_again(on_redis, redis, make_sim, how):
    """What was written while it was away is in the spool for a day; and running jobs are known."""
    sim = make_sim("--workers", "20")
    gateway = on_redis(sim)
    redis.kill()
    harness.wait_until(lambda: ready(gateway, 0), 15)
    jobs = {submit(gateway, f"spooled-{number}"): f"spooled-{number}" for number in range(5)}
    for job, value in jobs.items():
        harness.wait_until(lambda: status(gateway, job).json.get("output") == value, 15)
    redis.start()
    harness.wait_until(lambda: ready(gateway) and gateway.metric("podgate_store_spooled") == 0, 40)
    if how == "flushall":
        cli(redis, "flushall")
        cli(redis, "client", "kill", "type", "normal")
    else:
        redis.kill()
        for path in pathlib.Path(redis.directory).glob("appendonlydir/*"):
            path.unlink()
        redis.start()
    harness.wait_until(lambda: store_faults(gateway, "emptied") > 0, 20)
    harness.wait_until(lambda: ready(gateway) and gateway.metric("podgate_store_spooled") == 0, 40)
    other = on_redis(sim)
    for job, value in jobs.items():
        harness.wait_until(lambda: status(other, job).json.get("output") == value, 15)
    assert run(gateway, "later").status == 200


def test_two_podgates_of_which_one_loses_redis(lab, on_redis, redis, make_sim):
    sim = make_sim("--workers", "20")
    way = lab.proxy(redis.port)
    first = on_redis(sim, {"store": {"url": f"redis://127.0.0.1:{way.port}/0", "instances": 2}})
    second = on_redis(sim, {"store": {"instances": 2}})
    common = submit(second, "common", mock_delay=1500)
    way.refuse()
    harness.wait_until(lambda: ready(first, 0), 15)
    alone = run(first, "alone")
    assert (alone.status, alone.field("podgate-degraded")) == (200, "store")
    assert run(second, "well").field("podgate-degraded") is None
    harness.wait_until(lambda: status(second, common).json.get("output") == "common", 15)
    harness.wait_until(lambda: status(first, alone.json["id"]).json.get("output") == "alone", 15)
    wire.assert_problem(status(second, alone.json["id"]), 404, "job_not_found")
    way.open()
    harness.wait_until(lambda: ready(first) and first.metric("podgate_store_spooled") == 0, 40)
    for gateway in (first, second):
        for job, value in ((common, "common"), (alone.json["id"], "alone")):
            harness.wait_until(lambda: status(gateway, job).json.get("output") == value, 15)
    assert len(sim.jobs()) == 3


# ---- foreign values under podgate's prefix -------------------------------------------------------

def key_of(redis, kind, name):
    key, = [key for key in cli(redis, "--scan", "--pattern", f"podgate:*:{kind}:{name}").splitlines()]
    return key


def spoil_type(redis, endpoint, job):
    key = key_of(redis, "job", f"{endpoint}/{job}")
    cli(redis, "del", key)
    cli(redis, "rpush", key, "what", "is", "this")


def spoil_numbers(redis, endpoint, job):
    key = key_of(redis, "job", f"{endpoint}/{job}")
    for field in cli(redis, "hkeys", key).splitlines():
        if field != "t":
            cli(redis, "hset", key, field, "many")


def spoil_state(redis, endpoint, job):
    cli(redis, "hset", key_of(redis, "job", f"{endpoint}/{job}"), "s", "99", "f", "99")


def spoil_version(redis, endpoint, job):
    cli(redis, "hset", key_of(redis, "job", f"{endpoint}/{job}"), "v", "77")


def empty_record(redis, endpoint, job):
    key = key_of(redis, "job", f"{endpoint}/{job}")
    cli(redis, "del", key)
    cli(redis, "hset", key, "x", "1")


@pytest.mark.parametrize("spoil", [spoil_type, spoil_numbers, spoil_state, spoil_version,
                                   empty_record])
def test_a_malformed_record_is_that_jobs_trouble_alone(on_redis, redis, make_sim, spoil):
    sim = make_sim("--workers", "0")
    gateway = on_redis(sim)
    jobs = [submit(gateway, number) for number in range(6)]
    broken = jobs[2]
    spoil(redis, "ep", broken)
    gateway.expect_errors("level=error")
    harness.wait_until(lambda: store_faults(gateway, "malformed_value") > 0, 20)
    told = status(gateway, broken)
    assert told.status in (404, 500, 502, 503), told
    assert told.from_gateway
    sim.set_endpoint("ep", workers=10)
    for number, job in enumerate(jobs):
        if job != broken:
            harness.wait_until(lambda: status(gateway, job).json.get("output") == number, 20)
    listed = gateway.request("GET", "/v2/ep/jobs", gateway.key)
    assert listed.status == 200
    assert set(jobs) - {broken} <= {entry["id"] for entry in listed.json["jobs"]}
    assert any("malformed" in line or broken in line for line in gateway.log().splitlines()
               if "level=warning" in line or "level=error" in line)
    assert ready(gateway)
    assert run(gateway).status == 200


def test_garbage_in_the_schedule_stops_nobody(on_redis, redis, make_sim):
    sim = make_sim("--workers", "0")
    gateway = on_redis(sim)
    jobs = [submit(gateway, number) for number in range(5)]
    due = key_of(redis, "due", "ep")
    for member in ("", "not a job", "../../etc/passwd", "\x01\u00ff", "x" * 5000):
        cli(redis, "zadd", due, "1", member)
        cli(redis, "zadd", due.replace(":due:", ":ready:"), "1", member + "r")
    gateway.expect_errors("level=error")
    sim.set_endpoint("ep", workers=10)
    for number, job in enumerate(jobs):
        harness.wait_until(lambda: status(gateway, job).json.get("output") == number, 20)
    harness.wait_until(lambda: cli(redis, "zcard", due) == "0", 30)
    assert ready(gateway)


@pytest.mark.parametrize("kind", ["due", "ready", "kept", "expiry", "endpoints", "all", "counts",
                                  "team"])
def test_a_foreign_value_in_the_place_of_an_index_is_put_aside(on_redis, redis, make_sim, kind):
    sim = make_sim("--workers", "10")
    gateway = on_redis(sim)
    submit(gateway, "before")
    due = key_of(redis, "job", "ep/*")
    shard = due.split(":job:")[0]
    name = {"due": "due:ep", "ready": "ready:ep", "team": "team:alpha"}.get(kind, kind)
    gateway.expect_errors("level=error")
    cli(redis, "del", f"{shard}:{name}")
    cli(redis, "set", f"{shard}:{name}", "somebody's")
    jobs = {}
    for number in range(3):
        reply = harness.wait_until(lambda: (reply := run(gateway, number)).status == 200 and reply,
                                   10)
        jobs[reply.json["id"]] = number
    for job, number in jobs.items():
        harness.wait_until(lambda: status(gateway, job).json.get("output") == number, 30)
    assert cli(redis, "type", f"{shard}:{name}") != "string"
    assert ready(gateway)


def test_a_foreign_result_is_that_jobs_trouble_alone(on_redis, redis, make_sim):
    sim = make_sim("--workers", "10", "--retention-run", "300")
    gateway = on_redis(sim)
    (broken, _), (good, result) = finish(gateway, 1), finish(gateway, 2)
    key = key_of(redis, "result", f"ep/{broken}")
    cli(redis, "del", key)
    cli(redis, "rpush", key, "what", "is", "this")
    gateway.expect_errors("level=error")
    restart(gateway)  # so that nothing is in memory
    reply = status(gateway, broken)
    assert reply.status >= 404 and reply.from_gateway, reply
    assert status(gateway, good).body == result
    assert gateway.request("GET", "/v2/ep/jobs", gateway.key).status == 200
    assert ready(gateway)
