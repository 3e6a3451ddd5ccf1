"""Stored results as their callers see them: exact bytes for as long as promised, in whole, in part,
compressed, or not at all when the caller has them."""

import base64
import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess

import pytest

import faults
import harness
import wire


class Upstream:
    """Hands out ids, has one result for all of them, and forgets when the test says so."""

    def __init__(self):
        self.body = b""
        self.known = True
        self.asked = 0
        self.count = 0

    def __call__(self, received, connection):
        if received.target.endswith("/run"):
            self.count += 1
            return faults.response(body=b'{"id":"job-%d-u1","status":"IN_QUEUE"}' % self.count)
        self.asked += 1
        if not self.known:
            return faults.response(status=404, body=b'{"error":"job not found"}')
        job = received.target.rpartition("/")[2].partition("?")[0]
        return faults.response(body=self.body.replace(b"@ID@", job.encode()))


def completed(output):
    return (b'{ "id" :"@ID@",\t"status":"COMPLETED","delayTime":9007199254740993,'
            b'"executionTime":12,"output":' + output + b"}")


class Stored:
    """A finished job at a podgate whose upstream has forgotten it."""

    def __init__(self, gateway, upstream, output):
        upstream.known = True
        upstream.body = completed(output)
        self.gateway, self.upstream = gateway, upstream
        reply = gateway.request("POST", "/v2/ep/run", gateway.key, body=b'{"input":{}}')
        assert reply.status == 200, reply
        self.job = reply.json["id"]
        self.target = f"/v2/ep/status/{self.job}"
        self.bytes = upstream.body.replace(b"@ID@", self.job.encode())
        harness.wait_until(lambda: b"COMPLETED" in self.get().body, what="the job's end")
        upstream.known = False
        upstream.asked = 0

    def get(self, method="GET", **fields):
        names = [(name.replace("_", "-"), value) for name, value in fields.items()]
        reply = self.gateway.request(method, self.target, self.gateway.key, fields=names)
        if method == "HEAD":
            assert reply.body == b""
        return reply


OUTPUTS = {
    "nan": b"[NaN,-Infinity]",
    "integer-above-2-to-53": b"9007199254740993",
    "exponent": b"[1E400,-0.0,1.10]",
    "utf-8": '"é\U0001f600"'.encode(),
    "lone-surrogate": b'"\\ud800"',
    "twice": b'{"a":1,"a":2}',
    "white-space": b"{ \t\r\n}",
}

LARGE = b'"' + b"0123456789abcdef" * (256 * 1024) + b'"'   # 4 MiB
MEDIUM = b"[" + b",".join(b"%d" % (n * n) for n in range(4000)) + b"]"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("results"))
    upstream = Upstream()
    gateway = lab.podgate(lab.scripted(upstream))
    made = {}

    def make(output):
        if output not in made:
            made[output] = Stored(gateway, upstream, output)
        return made[output]
    yield make
    lab.close()


def expand(reply):
    coding = reply.field("content-encoding")
    if coding is None:
        return reply.body
    if coding == "gzip":
        return gzip.decompress(reply.body)
    assert coding == "zstd"
    return subprocess.run(["zstd", "-d", "-q", "-c"], input=reply.body, check=True,
                          capture_output=True).stdout


def digest_of(reply):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(reply.body).digest()).decode()}:"


# ---- the bytes -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_bytes_are_served_when_upstream_has_forgotten_them(stored, name):
    job = stored(OUTPUTS[name])
    for method in ("GET", "POST"):
        reply = job.get(method)
        assert reply.status == 200
        assert reply.body == job.bytes
        assert reply.field("content-type") == "application/json"
        assert reply.field("repr-digest") == digest_of(reply)
        assert re.fullmatch(r'"[0-9a-f]{32}"', reply.field("etag"))
        assert re.match(r"podgate; hit; ttl=60[34]\d{3}", reply.field("cache-status"))
        assert int(reply.field("age")) < 60
        assert reply.field("podgate-origin") is None
    assert job.upstream.asked == 0


def test_metrics_say_what_the_memory_cache_does(podgate, lab):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream))
    job = Stored(gateway, upstream, b"1")

    def hits():
        return gateway.metric("podgate_hot_results_total", event="hit")
    harness.wait_until(lambda: job.get() and hits() > 0)
    before = hits()
    for _ in range(5):
        job.get()
    assert hits() == before + 5
    assert gateway.metric("podgate_hot_results_total", event="stored") == 1
    assert len(job.bytes) < gateway.metric("podgate_hot_results_bytes") < len(job.bytes) + 2000
    assert gateway.metric("podgate_store_ready") == 1
    assert gateway.metric("podgate_store_durability") == 2


def test_what_waits_for_a_finished_job_gets_the_same_bytes_at_once(stored):
    job = stored(OUTPUTS["nan"])
    reply = job.gateway.request("GET", f"/v2/ep/status-sync/{job.job}?wait=300000", job.gateway.key)
    assert reply.body == job.bytes
    assert "hit" in reply.field("cache-status")
    assert job.upstream.asked == 0


def test_completed_without_output_is_kept_and_marked_whoever_asks_when(stored):
    job = stored(OUTPUTS["nan"])
    job.upstream.known = True
    job.upstream.body = b'{"id":"@ID@","status":"COMPLETED"}'
    reply = job.gateway.request("POST", "/v2/ep/run", job.gateway.key, body=b'{"input":{}}')
    target = f"/v2/ep/status/{reply.json['id']}"
    for _ in range(3):
        reply = job.gateway.request("GET", target, job.gateway.key)
        assert reply.field("podgate-warning") == "completed-without-output"
    assert "hit" in reply.field("cache-status")


def test_head_says_what_get_would_say(stored):
    for output in (OUTPUTS["nan"], LARGE):
        job = stored(output)
        got, head = job.get(), job.get("HEAD")
        assert head.status == 200
        for name in ("content-length", "content-type", "etag", "repr-digest", "vary",
                     "accept-ranges"):
            assert head.field(name) == got.field(name)


def test_another_team_gets_what_it_gets_for_a_job_that_never_was(podgate, lab):
    ours, theirs = harness.make_key("ours"), harness.make_key("theirs")
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), {"team": {
        "one": {"key": {"ours": harness.key_section(ours)}},
        "two": {"key": {"theirs": harness.key_section(theirs)}}}})
    gateway.key = ours.text
    job = Stored(gateway, upstream, b"1")
    etag = job.get().field("etag")
    replies = [gateway.request("GET", target, theirs.text, fields=fields)
               for target in (job.target, "/v2/ep/status/never-was-u1")
               for fields in ([], [("If-None-Match", etag)], [("If-None-Match", "*")],
                              [("Range", "bytes=0-0")])]
    assert {reply.status for reply in replies} == {404}
    assert len({reply.body for reply in replies}) == 1
    assert all(reply.field("etag") is None for reply in replies)


# ---- conditions ----------------------------------------------------------------------------------

def test_who_has_the_bytes_gets_none(stored):
    for output in (OUTPUTS["nan"], LARGE):
        job = stored(output)
        etag = job.get().field("etag")
        for value in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            for method in ("GET", "HEAD"):
                reply = job.get(method, If_None_Match=value)
                assert reply.status == 304
                assert reply.body == b""
                assert reply.field("etag") == etag
                assert reply.field("content-length") is None
        assert job.get(If_None_Match='"x"').body == job.bytes


def test_connection_stays_in_step_behind_every_kind_of_answer(stored):
    job = stored(LARGE)
    with job.gateway.connect() as caller:
        for method, fields, status in (
                ("GET", [("If-None-Match", "*")], 304), ("HEAD", [], 200),
                ("GET", [("Range", "bytes=5-9")], 206), ("GET", [("Range", "bytes=99999999-")], 416),
                ("GET", [("Accept-Encoding", "gzip")], 200), ("GET", [], 200)):
            caller.send(wire.head(method, job.target, job.gateway.key, fields=fields))
            reply = caller.read_reply(method=method)
            assert reply.status == status
    assert reply.body == job.bytes


# ---- parts ---------------------------------------------------------------------------------------

def test_a_large_result_can_be_fetched_in_parts(stored):
    job = stored(LARGE)
    whole = job.get()
    assert whole.field("accept-ranges") == "bytes"
    etag, got, step = whole.field("etag"), b"", 1000003
    while len(got) < len(job.bytes):
        reply = job.get(Range=f"bytes={len(got)}-{len(got) + step - 1}", If_Range=etag,
                        Accept_Encoding="gzip, zstd")
        assert reply.status == 206
        end = min(len(got) + step, len(job.bytes))
        assert reply.field("content-range") == f"bytes {len(got)}-{end - 1}/{len(job.bytes)}"
        assert reply.field("repr-digest") == whole.field("repr-digest")
        got += reply.body
    assert got == job.bytes


@pytest.mark.parametrize("value, first, last", [
    ("bytes=0-0", 0, 0), ("bytes=-1", -1, None), ("bytes=10-", 10, None), ("bytes=-99999999", 0, None),
    ("bytes=3-99999999999999999999999999", 3, None)])
def test_one_range_is_a_part(stored, value, first, last):
    job = stored(OUTPUTS["nan"])
    reply = job.get(Range=value)
    assert reply.status == 206
    assert reply.body == job.bytes[first:] if last is None else job.bytes[first:last + 1]


@pytest.mark.parametrize("value", ["bytes=0-1,3-4", "bytes=5-4", "bytes=x-", "lines=0-1", "bytes",
                                   "bytes=-", ""])
def test_what_is_no_single_range_gets_the_whole(stored, value):
    job = stored(OUTPUTS["nan"])
    reply = job.get(Range=value)
    assert reply.status == 200
    assert reply.body == job.bytes


@pytest.mark.parametrize("value", ["bytes=100000-", "bytes=-0", "bytes=99999999999999999999999999-"])
def test_a_range_outside_of_the_result_is_refused(stored, value):
    job = stored(OUTPUTS["nan"])
    reply = job.get(Range=value)
    assert reply.status == 416
    assert reply.field("content-range") == f"bytes */{len(job.bytes)}"
    assert reply.json["code"] == "bad_range"
    assert "status" not in reply.json


def test_a_part_is_never_one_of_other_bytes(stored):
    job = stored(MEDIUM)
    zipped = job.get(Accept_Encoding="gzip").field("etag")
    assert zipped != job.get().field("etag")
    for etag in (zipped, '"0123456789abcdef0123456789abcdef"', "Sun, 06 Nov 1994 08:49:37 GMT"):
        reply = job.get(Range="bytes=5-9", If_Range=etag)
        assert reply.status == 200
        assert reply.body == job.bytes


# ---- codings -------------------------------------------------------------------------------------

@pytest.mark.parametrize("accept, coding", [
    ("gzip, deflate", "gzip"), ("gzip, deflate, br, zstd", "zstd"), ("gzip;q=1.0, zstd;q=0.5", "gzip"),
    ("identity", None), ("deflate, br", None), ("gzip;q=0", None), ("", None),
    ("identity;q=0, gzip", "gzip"), ("*", "zstd"), ("gzip;q=nonsense", None)])
@pytest.mark.parametrize("output", [MEDIUM, LARGE], ids=["medium", "large"])
def test_large_results_are_compressed_as_the_caller_wants(stored, output, accept, coding):
    if coding == "zstd" and shutil.which("zstd") is None:
        pytest.skip("no zstd here to check with (Debian: apt-get install zstd)")
    job = stored(output)
    reply = job.get(Accept_Encoding=accept)
    assert reply.status == 200
    assert reply.field("content-encoding") == coding
    assert reply.field("vary") == "Accept-Encoding"
    assert reply.field("repr-digest") == digest_of(reply)
    assert expand(reply) == job.bytes
    again = job.get(Accept_Encoding=accept, If_None_Match=reply.field("etag"))
    assert again.status == 304
    assert again.field("etag") == reply.field("etag")


def test_small_results_are_sent_as_they_are(stored):
    job = stored(OUTPUTS["nan"])
    reply = job.get(Accept_Encoding="gzip, zstd")
    assert reply.field("content-encoding") is None
    assert reply.body == job.bytes
    assert reply.field("vary") is None


# ---- memory --------------------------------------------------------------------------------------

def test_kept_results_give_way_to_requests(podgate, lab):
    """Hot results may fill all of memory.bodies here: then no request with a body could be taken."""
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), {"memory": {"bodies": "24MiB", "hot_results": "24MiB"}})
    jobs = [Stored(gateway, upstream, b'"' + bytes([97 + n]) * (4 << 20) + b'"') for n in range(8)]
    for job in jobs:
        assert job.get().body == job.bytes
    harness.wait_until(lambda: gateway.metric("podgate_body_bytes") < 17 << 20,
                       what="the memory cache giving way")
    reply = gateway.request("POST", "/v2/ep/run", gateway.key,
                            body=b'{"input":"' + b"x" * (3 << 20) + b'"}')
    assert reply.status == 200
    assert jobs[0].get().body == jobs[0].bytes


# ---- how long ------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["stop", "kill"])
def test_results_outlive_the_process(podgate, lab, how):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream))
    jobs = [Stored(gateway, upstream, output) for output in (b"NaN", MEDIUM, LARGE)]
    etags = [job.get().field("etag") for job in jobs]
    if how == "stop":
        gateway.stop()
    else:
        gateway.kill()
    gateway.start()
    for job, etag in zip(jobs, etags):
        upstream.known = False
        job.upstream.asked = 0
        reply = job.get()
        assert reply.body == job.bytes
        assert reply.field("etag") == etag
        assert "detail=store" in reply.field("cache-status")
        assert expand(job.get(Accept_Encoding="gzip")) == job.bytes
        assert job.get(Range="bytes=1-5").body == job.bytes[1:6]
        assert job.get(If_None_Match=etag).status == 304
    assert upstream.asked == 0


def test_a_result_outlives_the_upstreams_retention_and_not_its_own(podgate, make_sim):
    """The platform's clock goes 600 times faster: its 30 minutes are 3 s."""
    sim = make_sim("--time-scale", "600")
    gateway = podgate(sim, {"upstream": {"retention_run": "3s"}, "retention": {"completed": "8s"}})
    reply = gateway.request("POST", "/v2/ep/run", gateway.key, body=b'{"input":{"a":[1,2]}}')
    job = reply.json["id"]
    target = f"/v2/ep/status/{job}"

    def status():
        return gateway.request("GET", target, gateway.key)
    first = harness.wait_until(lambda: status().json["status"] == "COMPLETED" and status())
    harness.wait_until(lambda: wire.request(sim.port, "GET", target, sim.key).status == 404,
                       what="upstream having forgotten the job")
    assert status().body == first.body
    assert json.loads(first.body)["output"] == {"a": [1, 2]}
    gone = harness.wait_until(lambda: status().status == 404 and status(), 20,
                              what="the result's own end")
    assert gone.json["code"] == "job_expired"
    assert gone.field("podgate-origin") == "gateway"


def test_the_oldest_results_make_room_and_say_so(podgate, lab):
    upstream = Upstream()
    gateway = podgate(lab.scripted(upstream), {"retention": {"max_total": "1MiB", "max_result": "1MiB"}})
    jobs = [Stored(gateway, upstream, b'"' + base64.b64encode(random.randbytes(300000)) + b'"')
            for _ in range(6)]
    gone = harness.wait_until(lambda: jobs[0].get().status == 404 and jobs[0].get(), 30,
                              what="the oldest result's eviction")
    assert gone.json["code"] == "result_evicted"
    assert jobs[-1].get().body == jobs[-1].bytes
    harness.wait_until(lambda: gateway.log_lines("result_evicted", job=jobs[0].job))
    assert gateway.metric("podgate_results_gone_total", reason="evicted") >= 2


def test_a_result_that_nobody_fetched_is_there_when_upstream_has_forgotten_it(podgate, make_sim):
    sim = make_sim("--time-scale", "600")
    gateway = podgate(sim, {"upstream": {"retention_run": "3s"},
                            "collector": {"first_poll": "100ms", "max_poll": "500ms"}})
    replies = [gateway.request("POST", "/v2/ep/run", gateway.key,
                               body=b'{"input":{"number":%d}}' % number) for number in range(20)]
    targets = [f"/v2/ep/status/{reply.json['id']}" for reply in replies]
    harness.wait_until(lambda: all(wire.request(sim.port, "GET", target, sim.key).status == 404
                                   for target in targets), 30)
    for number, target in enumerate(targets):
        reply = gateway.request("GET", target, gateway.key)
        assert reply.status == 200, reply
        assert reply.json["output"] == {"number": number}
        assert "hit" in reply.field("cache-status")
