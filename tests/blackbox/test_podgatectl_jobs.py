"""podgatectl on a running podgate: jobs, submits of which nobody knows, the store, and doctor."""

import json
import os
import shutil
import subprocess
import tempfile

import pytest

import harness
import wire

EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE = 64, 65, 66, 69
EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 75, 77, 78


def run(*arguments, user=None):
    """podgatectl's exit status, standard output and standard error."""
    done = subprocess.run([harness.program("podgatectl"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=60, check=False, user=user)
    assert not harness.SANITIZER_REPORT.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


def rows(table):
    """The lines of a table as dicts; every column must begin where its title does."""
    lines = table.splitlines()
    titles = lines[0].split()
    starts = [lines[0].index(title) for title in titles]
    for line in lines[1:]:
        for start in starts[1:]:
            assert line[start - 1] == " " and line[start] != " ", table
    return [dict(zip(titles, line.split(maxsplit=len(titles) - 1))) for line in lines[1:]]


class Operated:
    """A podgate with its socket, and podgatectl for it."""

    def __init__(self, gateway, path):
        self.gateway = gateway
        self.path = path

    def ctl(self, *arguments, expect=0):
        status, output, errors = run(*arguments, "--socket", self.path)
        assert status == expect, (status, output, errors)
        return output if expect == 0 else errors

    def json(self, *arguments):
        return json.loads(self.ctl(*arguments, "--json"))

    def run_job(self, endpoint, value=1, **job):
        reply = self.gateway.request("POST", f"/v2/{endpoint}/run", self.gateway.key,
                                     {"input": {"mock_return": value, **job}})
        assert reply.status == 200, reply.body
        return reply.json["id"]

    def state_of(self, endpoint, job):
        return self.json("job", endpoint, job)["state"]


@pytest.fixture
def socket_path():
    """Short enough for a Unix socket, wherever the tests' directories are."""
    directory = tempfile.mkdtemp(prefix="podgate-", dir="/tmp")
    yield os.path.join(directory, "admin.sock")
    shutil.rmtree(directory)


@pytest.fixture
def make_redis(tmp_path):
    """Starts a Redis of the test's own; options as on its command line."""
    made = []

    def make(*options):
        port = harness.PORTS.take()
        directory = tmp_path / f"redis-{len(made)}"
        server = harness.Program(directory, "redis")
        server.port = port
        server.spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1",
                      "--dir", str(directory), "--save", "", *options])
        made.append(server)
        harness.wait_until(lambda: "Ready to accept connections" in server.output(), 10)
        return server
    yield make
    for server in made:
        server.kill()
        harness.PORTS.give_back(server.port)


def redis_store(server, **more):
    return {"backend": "redis", "url": f"redis://127.0.0.1:{server.port}/0", **more}


@pytest.fixture
def operated(podgate, sim, socket_path):
    return Operated(podgate(sim, {"admin_socket": socket_path}), socket_path)


@pytest.fixture(params=["embedded", "redis"])
def stored(request, podgate, sim, make_redis, socket_path):
    """The same on each of the stores."""
    options = {"admin_socket": socket_path}
    if request.param == "redis":
        options["store"] = redis_store(make_redis("--appendonly", "yes", "--appendfsync", "always"))
    operated = Operated(podgate(sim, options), socket_path)
    harness.wait_until(lambda: operated.json("store", "status")["state"] == "ready")
    return operated


# ---- jobs ----------------------------------------------------------------------------------------

def test_jobs_are_listed_with_their_state(stored, endpoint):
    done = stored.run_job(endpoint)
    waiting = stored.run_job(endpoint, mock_delay=600000)
    harness.wait_until(lambda: stored.state_of(endpoint, done) == "COMPLETED")
    table = rows(stored.ctl("jobs", "--endpoint", endpoint))
    assert {row["JOB"] for row in table} == {done, waiting}
    assert table[0]["JOB"] == waiting, "newest first"
    by_job = {row["JOB"]: row for row in table}
    assert by_job[done]["STATE"] == "COMPLETED" and by_job[done]["RESULT"] == "KEPT"
    assert by_job[waiting]["RESULT"] == "NONE" and by_job[waiting]["ENDED"] == "-"
    assert by_job[done]["TEAM"] == "alpha"

    def ids(*arguments):
        return [job["id"] for job in stored.json("jobs", "--endpoint", endpoint,
                                                   *arguments)["jobs"]]
    assert ids("--state", "completed") == [done]
    assert ids("--state", "KEPT") == [done]
    assert ids("--state", "LOST") == []
    assert ids("--team", "beta") == []
    assert ids("--since", "1h") == [waiting, done]
    assert ids("--since", "2999-01-01") == []
    assert ids("--limit", "1") == [waiting]
    assert stored.json("jobs", "--endpoint", endpoint, "--limit", "1")["more"] is True


def test_a_job_is_shown_whole(stored, endpoint):
    job = stored.run_job(endpoint, value="x" * 100)
    harness.wait_until(lambda: stored.state_of(endpoint, job) == "COMPLETED")
    shown = stored.json("job", endpoint, job)
    body = stored.gateway.request("GET", f"/v2/{endpoint}/status/{job}",
                                    stored.gateway.key).body
    assert shown["result_bytes"] == len(body)
    assert shown["key"] == "main" and shown["kind"] == "run" and shown["generation"] == 1
    text = stored.ctl("job", endpoint, job)
    assert f"\nsha256         {shown['sha256']}\n" in text
    assert "no such job" in stored.ctl("job", endpoint, "nothing-u1", expect=EX_DATAERR)


def test_a_job_from_before_podgate_is_adopted_and_kept(stored, sim, endpoint):
    job = wire.request(sim.port, "POST", f"/v2/{endpoint}/run", sim.key,
                       {"input": {"mock_return": "old"}}).json["id"]
    assert "alpha" in stored.ctl("adopt", endpoint, job, "--team", "alpha")
    harness.wait_until(lambda: stored.state_of(endpoint, job) == "COMPLETED")
    polls = len(sim.requests(job=job))
    reply = stored.gateway.request("GET", f"/v2/{endpoint}/status/{job}", stored.gateway.key)
    assert reply.json["output"] == "old"
    assert len(sim.requests(job=job)) == polls, "the stored result answers"
    assert "alpha" in stored.ctl("adopt", endpoint, job, "--team", "alpha", expect=EX_DATAERR)
    assert "team" in stored.ctl("adopt", endpoint, job, "--team", "nobody", expect=EX_USAGE)
    harness.wait_until(
        lambda: stored.gateway.log_lines("job_adopted", job=job, uid=os.geteuid()))


# ---- unknown submits -----------------------------------------------------------------------------

def lose_a_submit(operated, sim, endpoint):
    """A submit that upstream took, and whose answer never came: (its name, the job)."""
    before = {entry["id"] for entry in sim.jobs() if entry["endpoint"] == endpoint}
    sim.fault(f"close,endpoint={endpoint},operation=run,executed=yes,count=1")
    reply = operated.gateway.request("POST", f"/v2/{endpoint}/run", operated.gateway.key,
                                     {"input": {"mock_return": "found"}})
    assert reply.status in (502, 504)
    made = [entry["id"] for entry in sim.jobs()
            if entry["endpoint"] == endpoint and entry["id"] not in before]
    assert len(made) == 1, "podgate must not send it again"
    submits = operated.json("unknown", "--endpoint", endpoint)["submits"]
    assert len(submits) == 1
    return submits[0]["submit"], made[0]


def test_an_unknown_submit_is_found_at_upstream_and_settled(stored, sim):
    endpoint = harness.unique("ep")
    known = stored.run_job(endpoint)
    submit, job = lose_a_submit(stored, sim, endpoint)
    row = rows(stored.ctl("unknown", "list", "--endpoint", endpoint))[0]
    assert row["SUBMIT"] == submit and row["TEAM"] == "alpha" and row["KEYED"] == "no"
    assert row["OPERATION"] == "run" and row["KEY"] == "main"
    found = stored.json("unknown", "candidates", submit)
    assert [candidate["id"] for candidate in found["candidates"]] == [job]
    assert found["known"] == 1
    assert job in stored.ctl("unknown", "candidates", submit)
    assert "alpha" in stored.ctl("unknown", "settle", submit, "--job", known, expect=EX_DATAERR)
    assert stored.json("unknown", "--endpoint", endpoint)["submits"], "it must stay listed"
    stored.ctl("unknown", "settle", submit, "--job", job)
    harness.wait_until(lambda: stored.state_of(endpoint, job) == "COMPLETED")
    reply = stored.gateway.request("GET", f"/v2/{endpoint}/status/{job}", stored.gateway.key)
    assert reply.json["output"] == "found"
    assert stored.json("unknown", "--endpoint", endpoint)["submits"] == []
    stored.ctl("unknown", "settle", submit, "--job", job, expect=EX_DATAERR)
    harness.wait_until(lambda: stored.gateway.log_lines("submit_settled", job=job))
    stored.gateway.expect_errors("submit")


def test_an_unknown_submit_that_never_ran(stored, sim):
    endpoint = harness.unique("ep")
    submit, _ = lose_a_submit(stored, sim, endpoint)
    stored.ctl("unknown", "settle", submit, "--never-ran")
    assert stored.json("unknown", "--endpoint", endpoint)["submits"] == []
    assert "no submit has an unknown outcome" in stored.ctl("unknown", "--endpoint", endpoint)
    stored.gateway.expect_errors("submit")


@pytest.mark.parametrize("ran", [True, False])
def test_an_idempotency_key_is_settled_with_its_submit(stored, sim, ran):
    endpoint = harness.unique("ep")
    gateway = stored.gateway

    def submit():
        return gateway.request("POST", f"/v2/{endpoint}/run", gateway.key,
                               {"input": {"mock_return": "keyed"}},
                               [("Idempotency-Key", "order-7")])
    sim.fault(f"close,endpoint={endpoint},operation=run,executed=yes,count=1")
    assert submit().status == 502
    again = submit()
    assert again.status == 502 and again.json["code"] == "submit_unknown", "never sent again"
    entry = stored.json("unknown", "--endpoint", endpoint)["submits"][0]
    assert entry["has_idempotency_key"] and "order-7" not in json.dumps(entry)
    job = stored.json("unknown", "candidates", entry["submit"])["candidates"][0]["id"]
    if ran:
        stored.ctl("unknown", "settle", entry["submit"], "--job", job)
    else:
        stored.ctl("unknown", "settle", entry["submit"], "--never-ran")
    reply = submit()
    assert reply.status == 200, reply.body
    assert (reply.json["id"] == job) == ran
    made = [entry for entry in sim.jobs() if entry["endpoint"] == endpoint]
    assert len(made) == (1 if ran else 2)
    gateway.expect_errors("submit")


def test_an_upstream_without_a_list_of_jobs_is_told(operated, sim):
    endpoint = harness.unique("ep")
    submit, _ = lose_a_submit(operated, sim, endpoint)
    sim.fault(f"status=404,endpoint={endpoint},operation=requests")
    assert "has no list" in operated.ctl("unknown", "candidates", submit, expect=EX_UNAVAILABLE)
    operated.gateway.expect_errors("submit")


# ---- the socket ----------------------------------------------------------------------------------

def test_store_status(operated, endpoint):
    job = operated.run_job(endpoint)
    harness.wait_until(lambda: operated.state_of(endpoint, job) == "COMPLETED")
    status = operated.json("store", "status")
    assert (status["backend"], status["state"], status["durability"]) == (
        "embedded", "ready", "durable")
    assert status["counts"]["jobs"] >= 1 and status["counts"]["results"] >= 1
    assert "counts.unknown_submits" in operated.ctl("store", "status")


def test_the_socket_is_found_by_the_configuration(operated):
    status, output, errors = run("store", "status", "-c", operated.gateway.config_path)
    assert status == 0, errors
    assert "embedded" in output


def test_nobody_answers(socket_path):
    status, output, errors = run("jobs", "--socket", socket_path)
    assert (status, output) == (EX_UNAVAILABLE, "")
    assert socket_path in errors and "is podgate running" in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_others_may_not_use_the_socket(operated):
    os.chmod(os.path.dirname(operated.path), 0o755)
    copy = os.path.join(os.path.dirname(operated.path), "podgatectl")
    shutil.copy(harness.program("podgatectl"), copy)

    def as_nobody():
        done = subprocess.run([copy, "jobs", "--socket", operated.path], capture_output=True,
                              text=True, timeout=60, check=False, user=65534, group=65534,
                              extra_groups=[])
        return done.returncode, done.stderr
    status, errors = as_nobody()
    assert status == EX_NOPERM, errors
    # Whoever opens the file's mode to all has not given them the group.
    os.chmod(operated.path, 0o666)
    status, errors = as_nobody()
    assert status == EX_NOPERM and "group" in errors
    os.chown(operated.path, -1, 65534)
    status, errors = as_nobody()
    assert status == 0, errors


@pytest.mark.parametrize("arguments", [
    ("jobs", "x"), ("jobs", "--since", "yesterday"), ("jobs", "--limit", "0"), ("job", "ep"),
    ("job", "ep", "a/b"), ("adopt", "ep", "a"), ("unknown", "forget", "a"),
    ("unknown", "settle", "0" * 32), ("unknown", "settle", "xyz", "--never-ran"),
    ("unknown", "settle", "0" * 32, "--job", "a", "--never-ran"), ("store",),
    ("store", "salvage", "a"), ("doctor", "x"),
])
def test_wrong_use(arguments, socket_path):
    status, output, errors = run(*arguments, "--socket", socket_path)
    assert (status, output) == (EX_USAGE, "")
    assert errors.count("\n") == 1


def test_bad_state_is_told_by_podgate(operated):
    assert "TOO_LARGE" in operated.ctl("jobs", "--state", "broken", expect=EX_USAGE)


# ---- salvage -------------------------------------------------------------------------------------

def damage(path, first):
    """Overwrites a part of every fourth page from page `first` on."""
    with open(path, "r+b") as file:
        for offset in range(4096 * first, os.path.getsize(path), 4 * 4096):
            file.seek(offset)
            file.write(os.urandom(512))


def test_salvage_saves_what_can_be_read(podgate, make_sim, socket_path, endpoint):
    sim = make_sim()
    operated = Operated(podgate(sim, {"admin_socket": socket_path}), socket_path)
    jobs = [operated.run_job(endpoint, value=str(number) * 9000) for number in range(40)]
    harness.wait_until(lambda: len(operated.json(
        "jobs", "--endpoint", endpoint, "--state", "COMPLETED")["jobs"]) == len(jobs))
    key = operated.gateway.key
    bodies = {job: operated.gateway.request("GET", f"/v2/{endpoint}/status/{job}", key).body
              for job in jobs}
    operated.gateway.stop()
    path = operated.gateway.effective["store"]["path"]
    damage(path, 30)
    new = path + ".new"
    status, output, errors = run("store", "salvage", path, new)
    assert status == 0, errors
    assert "results" in output
    status, _, errors = run("store", "salvage", path, new)
    assert status == EX_DATAERR and new in errors, "a file that is there must stay"
    status, _, errors = run("store", "salvage", path + ".nothing", new + "2")
    assert status == EX_NOINPUT and "nothing" in errors
    os.rename(new, path)
    gateway = operated.gateway
    gateway.start()
    served = {job: gateway.request("GET", f"/v2/{endpoint}/status/{job}", key) for job in jobs}
    whole = [job for job in jobs if served[job].status == 200 and served[job].body == bodies[job]]
    assert len(whole) >= 10
    for job in jobs:
        assert served[job].status in (200, 404), "no job may break podgate"
    gateway.expect_errors(".*")


# ---- doctor --------------------------------------------------------------------------------------

def doctor(path, expect=0):
    """What doctor found: what to finding and text."""
    status, output, errors = run("doctor", "-c", path, "--json")
    assert status == expect, (status, output, errors)
    return {entry["what"]: (entry["finding"], entry["text"]) for entry in json.loads(output)}


def test_doctor_finds_all_well(operated):
    found = doctor(operated.gateway.config_path)
    assert {what: finding for what, (finding, _) in found.items()} == {
        "configuration": "good", "secrets": "good", "room": "good", "database": "good",
        "upstream": "good", "podgate": "good"}
    status, output, _ = run("doctor", "-c", operated.gateway.config_path)
    assert status == 0 and output.count("\ngood") == 5


def test_doctor_tells_of_an_upstream_that_is_away(podgate, socket_path):
    gateway = podgate("http://127.0.0.1:1/v2", {"admin_socket": socket_path})
    found = doctor(gateway.config_path, EX_UNAVAILABLE)
    assert found["upstream"][0] == "bad"


def test_doctor_tells_of_a_refused_key(podgate, sim, socket_path):
    gateway = podgate(sim, {"admin_socket": socket_path, "endpoint": {"ep": {"runsync": "durable"}}})
    secret = gateway.effective["upstream"]["api_key_file"]
    with open(secret, "w", encoding="ascii") as file:
        file.write("rpa_WRONGKEY0123456789\n")
    found = doctor(gateway.config_path, EX_NOPERM)
    assert found["upstream"][0] == "bad" and "refuses" in found["upstream"][1]


def test_doctor_tells_of_a_damaged_database(operated, endpoint):
    for _ in range(50):
        operated.run_job(endpoint, value="x" * 3000)
    operated.gateway.stop()
    path = operated.gateway.effective["store"]["path"]
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for offset in range(4096, size, 4096):
            file.seek(offset)
            file.write(os.urandom(512))
    found = doctor(operated.gateway.config_path, EX_DATAERR)
    assert found["database"][0] == "bad" and "salvage" in found["database"][1]
    assert found["podgate"][0] == "warning", "it doesn't run"


def test_doctor_tells_of_rights_and_mistakes(podgate, sim, socket_path):
    gateway = podgate(sim, {"admin_socket": socket_path})
    gateway.stop()
    os.chmod(gateway.effective["store"]["path"], 0o644)
    found = doctor(gateway.config_path)
    assert found["configuration"][0] == "good"
    status, output, errors = run("doctor", "-c", "/nonexistent/podgate.conf")
    assert status == EX_NOINPUT and output == "" and errors
    gateway.config_path.write_text("workers = many\n")
    status, output, errors = run("doctor", "-c", gateway.config_path)
    assert status == EX_CONFIG and "workers" in errors


def test_an_input_key_that_is_none_is_told_before_the_start(podgate, sim, tmp_path):
    secret = tmp_path / "input_key"
    secret.write_text("too short\n")
    secret.chmod(0o600)
    gateway = podgate(sim, {"store": {"input_key_file": str(secret)}}, start=False)
    gateway.write_config()
    for arguments in (("check",), ("doctor",)):
        status, output, errors = run(*arguments, "-c", gateway.config_path)
        assert status == EX_CONFIG and "input_key_file" in errors + output
    secret.write_text("00" * 32 + "\n")
    assert run("check", "-c", gateway.config_path)[0] == 0


# ---- doctor and Redis ----------------------------------------------------------------------------

def test_doctor_finds_a_durable_redis_well(podgate, sim, make_redis, socket_path):
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    gateway = podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)})
    found = doctor(gateway.config_path)
    redis = {what: finding for what, (finding, _) in found.items() if what.startswith("redis ")}
    assert redis and set(redis.values()) == {"good"}, found
    assert found["podgate"][0] == "good"


def about_redis(found, wanted):
    """Texts of the findings on Redis of this kind."""
    return [text for what, (finding, text) in found.items()
            if what.startswith("redis ") and finding == wanted]


def test_doctor_warns_of_a_redis_that_can_forget(podgate, sim, make_redis, socket_path):
    server = make_redis()
    gateway = podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)}, start=False)
    gateway.write_config()
    found = doctor(gateway.config_path)
    assert any("appendonly" in text for text in about_redis(found, "warning")), found
    server.kill()
    assert about_redis(doctor(gateway.config_path, EX_UNAVAILABLE), "bad")


def test_doctor_tells_of_a_redis_that_throws_away(podgate, sim, make_redis, socket_path):
    server = make_redis("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    gateway = podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)}, start=False)
    gateway.write_config()
    found = doctor(gateway.config_path, EX_UNAVAILABLE)
    assert any("allkeys-lru" in text for text in about_redis(found, "bad")), found


def test_doctor_tells_of_a_redis_password(podgate, sim, make_redis, tmp_path, socket_path):
    server = make_redis("--appendonly", "yes", "--appendfsync", "always", "--requirepass", "sesame")
    gateway = podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)}, start=False)
    gateway.write_config()
    assert "bad" in {finding for what, (finding, _) in
                     doctor(gateway.config_path, EX_UNAVAILABLE).items()}
    secret = tmp_path / "password"
    secret.write_text("sesame\n")
    secret.chmod(0o600)
    gateway.options["store"]["password_file"] = str(secret)
    gateway.write_config()
    doctor(gateway.config_path)


# ---- Redis away ----------------------------------------------------------------------------------

def test_the_operator_sees_that_redis_is_away(podgate, sim, make_redis, socket_path, endpoint):
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    operated = Operated(podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)}),
                        socket_path)
    job = operated.run_job(endpoint)
    harness.wait_until(lambda: operated.state_of(endpoint, job) == "COMPLETED")
    status = operated.json("store", "status")
    assert (status["backend"], status["state"], status["shared"]) == ("redis", "ready", True)
    server.kill()
    operated.gateway.expect_errors("store", "spool")
    harness.wait_until(lambda: operated.json("store", "status")["state"] == "spooling")
    assert "store" in operated.ctl("jobs", expect=EX_TEMPFAIL)
    findings = doctor(operated.gateway.config_path, EX_UNAVAILABLE)
    assert findings["podgate"] == ("bad", "it runs, but its store is spooling")


def test_metrics_tell_what_is_stored_and_what_waits_for_redis(podgate, sim, make_redis, socket_path,
                                                              endpoint):
    server = make_redis("--appendonly", "yes", "--appendfsync", "always")
    operated = Operated(podgate(sim, {"admin_socket": socket_path, "store": redis_store(server)}),
                        socket_path)
    gateway = operated.gateway
    job = operated.run_job(endpoint, value="x" * 500)
    harness.wait_until(lambda: operated.state_of(endpoint, job) == "COMPLETED")
    harness.wait_until(lambda: gateway.metric("podgate_store_bytes") >= 500, 20)
    assert gateway.metric("podgate_store_spooled") == 0
    server.kill()
    gateway.expect_errors("store", "spool")
    harness.wait_until(lambda: gateway.metric("podgate_store_ready") == 0)
    operated.run_job(endpoint)
    harness.wait_until(lambda: gateway.metric("podgate_store_spooled") > 0, 20)
