"""Streams: the upstream hands out each chunk once, podgate hands it on once to each key that read it
whole, and again to who didn't."""

import asyncio
import json
import random
import re
import shutil
import signal
import socket
import threading
import time

import aiohttp
import pytest
import requests

import faults
import harness
import redis_server
import sdks
import wire

appendix_b = pytest.mark.appendix_b


# ---- an upstream whose stream is destructive -----------------------------------------------------

class Upstream:
    """The queue API as far as streams need it. Chunks are handed out once; who reads a job's stream
    at once with another is counted."""

    def __init__(self):
        self.lock = threading.Condition()
        self.jobs = {}
        self.most_readers = 0
        self.handed_out = []

    def job(self, job):
        return self.jobs.setdefault(job, {"chunks": [], "status": "IN_PROGRESS", "readers": 0})

    def push(self, job, *chunks):
        with self.lock:
            self.job(job)["chunks"] += [chunk if isinstance(chunk, bytes) else
                                        json.dumps({"output": chunk}).encode() for chunk in chunks]
            self.lock.notify_all()

    def end(self, job, status="COMPLETED"):
        with self.lock:
            self.job(job)["status"] = status
            self.lock.notify_all()

    def __call__(self, received, connection):
        path, _, query = received.target.partition("?")
        operation, job = (path.strip("/").split("/") + [""])[2:4]
        if operation == "run":
            job = harness.unique("job") + "-u1"
            self.job(job)
            return faults.response(body=b'{"id":"%s","status":"IN_QUEUE"}' % job.encode())
        if operation == "stream":
            return self.stream(job, int(re.search(r"wait=(\d+)", query).group(1)) / 1000)
        if operation == "cancel":
            self.end(job, "CANCELLED")
        status = self.job(job)["status"]
        body = {"id": job, "status": status}
        if status == "COMPLETED":
            body["output"] = "all"
        return faults.response(body=json.dumps(body).encode())

    def stream(self, name, wait):
        deadline = time.monotonic() + wait
        with self.lock:
            job = self.job(name)
            job["readers"] += 1
            self.most_readers = max(self.most_readers, job["readers"])
            while not job["chunks"] and job["status"] == "IN_PROGRESS":
                if not self.lock.wait(deadline - time.monotonic()):
                    break
            chunks, job["chunks"] = job["chunks"][:200], job["chunks"][200:]
            self.handed_out += chunks
            job["readers"] -= 1
            status = job["status"]
        return faults.response(body=b'{"status":"%s","stream":[%s]}' % (status.encode(),
                                                                       b",".join(chunks)))


@pytest.fixture
def upstream():
    return Upstream()


TWO_KEYS = [harness.make_key("one"), harness.make_key("two")]


def team_of(*keys):
    return {"alpha": {"key": {key.id: harness.key_section(key) for key in keys}}}


@pytest.fixture
def gateway(lab, podgate, upstream):
    gateway = podgate(lab.scripted(upstream), {"team": team_of(*TWO_KEYS)})
    gateway.key, gateway.second_key = (key.text for key in TWO_KEYS)
    return gateway


def submit(gateway, endpoint="ep", **mock):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, {"input": mock})
    assert reply.status == 200, reply
    return reply.json["id"]


def stream_path(job, query="", endpoint="ep"):
    return f"/v2/{endpoint}/stream/{job}{query}"


def poll(gateway, job, query="", key=None, timeout=30, endpoint="ep"):
    reply = gateway.request("GET", stream_path(job, query, endpoint), key or gateway.key,
                            timeout=timeout * harness.PATIENCE)
    assert reply.status == 200, reply
    answer = reply.json
    assert set(answer) == {"status", "stream"}
    return answer


def outputs(answer):
    return [element["output"] for element in answer["stream"]]


def read_all(gateway, job, query="?wait=3000", key=None):
    """Polls to the end as the JavaScript and Go clients do."""
    found = []
    while True:
        answer = poll(gateway, job, query, key)
        found += outputs(answer)
        if answer["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
            return found, answer["status"]


# ---- each chunk once -----------------------------------------------------------------------------

def test_elements_are_the_same_bytes(gateway, upstream):
    job = submit(gateway)
    elements = [b'{"output":[9007199254740993,1E400,-0,NaN]}', b'{ "output" : "\\u00e9", "m":{} }',
                '{"output":"h\u00e9 \U0001f600"}'.encode(), b'"text"', b'{"output":"],[{"}']
    upstream.push(job, *elements)
    reply = gateway.request("GET", stream_path(job), gateway.key)
    assert reply.body == b'{"status":"IN_PROGRESS","stream":[' + b",".join(elements) + b"]}"
    assert reply.field("content-type") == "application/json"
    assert not reply.from_gateway


def test_last_chunks_ride_with_the_end_and_then_there_are_none(gateway, upstream):
    job = submit(gateway)
    upstream.push(job, 0, 1)
    upstream.end(job)
    assert poll(gateway, job) == {"status": "COMPLETED", "stream": [{"output": 0}, {"output": 1}]}
    for _ in range(3):
        assert poll(gateway, job) == {"status": "COMPLETED", "stream": []}


def test_450_chunks_come_200_at_a_time(gateway, upstream):
    job = submit(gateway)
    upstream.push(job, *range(450))
    upstream.end(job)
    sizes, found = [], []
    while True:
        answer = poll(gateway, job)
        sizes.append(len(answer["stream"]))
        found += outputs(answer)
        if answer["status"] == "COMPLETED":
            break
    assert found == list(range(450))
    assert max(sizes) == 200


def test_chunks_of_a_megabyte_are_whole(gateway, upstream):
    job = submit(gateway)
    texts = [letter * 1_000_000 for letter in "abc"]
    upstream.push(job, *texts)
    upstream.end(job)
    assert read_all(gateway, job) == (texts, "COMPLETED")


def test_two_keys_both_get_everything_and_upstream_sees_one_reader(gateway, upstream):
    job = submit(gateway)
    found = {}

    def work(name, key):
        found[name] = read_all(gateway, job, key=key)
    threads = [threading.Thread(target=work, args=(key, key))
               for key in (gateway.key, gateway.second_key)]
    for thread in threads:
        thread.start()
    for number in range(50):
        upstream.push(job, number)
        time.sleep(0.01)
    upstream.end(job)
    for thread in threads:
        thread.join(60)
    assert list(found.values()) == [(list(range(50)), "COMPLETED")] * 2
    assert upstream.most_readers == 1
    assert len(upstream.handed_out) == 50


def test_many_polls_of_one_key_at_once_share_the_chunks(gateway, upstream):
    """Each is given to one of them, none to none; upstream sees one reader."""
    job = submit(gateway)
    found, lock = [], threading.Lock()

    def work():
        for _ in range(30):
            answer = poll(gateway, job, "?wait=2000")
            with lock:
                found.extend(outputs(answer))
            if answer["status"] == "COMPLETED":
                return
    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for number in range(120):
        upstream.push(job, number)
        time.sleep(0.01)
    upstream.end(job)
    for thread in threads:
        thread.join(90)
    assert sorted(found) == list(range(120))
    assert upstream.most_readers == 1


# ---- hang-ups ------------------------------------------------------------------------------------

def ask_raw(gateway, job, query="", fields=()):
    connection = wire.Wire.connect(gateway.port, timeout=20 * harness.PATIENCE)
    connection.send(wire.head("GET", stream_path(job, query), gateway.key, fields=fields))
    return connection


def wait_for_bytes(connection, count):
    harness.wait_until(lambda: len(connection.sock.recv(count, socket.MSG_PEEK)) >= count, 20,
                       "the whole answer", interval=0.001)


@pytest.mark.parametrize("fields", [(), (("Connection", "close"),)], ids=["keep", "close"])
def test_hang_up_at_each_byte(gateway, upstream, full, fields):
    """Whoever leaves before the last byte finds the chunk again, whoever has read it doesn't."""
    job = submit(gateway)
    upstream.push(job, "first")
    with ask_raw(gateway, job, fields=fields) as connection:
        connection.fill()
        total = len(connection.buffer)
        assert connection.buffer.endswith(b"]}")
    steps = set(range(0, total + 1, 1 if full else 23)) | {1, total - 1, total}
    for step, count in enumerate(sorted(steps)):
        chunk = f"{step:05}"
        upstream.push(job, chunk)
        with ask_raw(gateway, job, fields=fields) as connection:
            wait_for_bytes(connection, total)
            data = b""
            while len(data) < count:
                data += connection.sock.recv(count - len(data))
        if count < total:
            assert outputs(poll(gateway, job)) == [chunk], f"hung up after {count} of {total} bytes"
    upstream.push(job, "last")
    assert outputs(poll(gateway, job)) == ["last"]


def test_hang_up_while_waiting_takes_nothing_along(gateway, upstream):
    job = submit(gateway)
    for number in range(20):
        connection = ask_raw(gateway, job)
        harness.wait_until(lambda: upstream.job(job)["readers"] == 1, 10, "the reader")
        connection.close()
        upstream.push(job, number)
        assert outputs(poll(gateway, job)) == [number]


@pytest.mark.parametrize("seed", range(3))
def test_each_chunk_once_through_random_hang_ups(gateway, upstream, seed):
    """A client that counts what it read whole, and drops every third connection somewhere."""
    dice = random.Random(seed)
    job = submit(gateway)
    found = []
    pushing = threading.Thread(target=push_slowly, args=(upstream, job, 150, dice.random() * 0.02))
    pushing.start()
    while True:
        with ask_raw(gateway, job, "?wait=2000") as connection:
            if dice.random() < 0.33:
                time.sleep(dice.random() * 0.05)
                connection.sock.settimeout(dice.random() * 0.05 + 0.001)
                try:
                    # The last bracket is never among what is read.
                    connection.sock.recv(dice.randrange(1, 150))
                except TimeoutError:
                    pass
                if dice.random() < 0.5:
                    connection.reset()
                continue
            answer = connection.read_reply().json
        found += outputs(answer)
        if answer["status"] == "COMPLETED":
            break
    pushing.join()
    assert found == list(range(150))
    assert upstream.most_readers == 1


def push_slowly(upstream, job, count, pause):
    for number in range(count):
        upstream.push(job, number)
        time.sleep(pause)
    upstream.end(job)


# ---- waiting -------------------------------------------------------------------------------------

def test_wait_is_clamped_and_kept(gateway, upstream):
    job = submit(gateway)
    for wait, least in (("0", 1), ("2500", 2.5)):
        began = time.monotonic()
        assert poll(gateway, job, f"?wait={wait}")["stream"] == []
        assert least - 0.1 < time.monotonic() - began < least + 1.5 * harness.PATIENCE
    with ask_raw(gateway, job, "?wait=999999999999999999999") as connection:
        connection.sock.settimeout(1.5)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
        connection.sock.settimeout(20)
        upstream.push(job, 1)
        assert outputs(connection.read_reply().json) == [1]


# ---- replays and events --------------------------------------------------------------------------

def test_from_replays_and_moves_nothing(gateway, upstream):
    job = submit(gateway)
    upstream.push(job, *range(10))
    upstream.end(job)
    assert outputs(poll(gateway, job, "?from=4")) == [4, 5, 6, 7, 8, 9]
    assert poll(gateway, job, "?from=10") == {"status": "COMPLETED", "stream": []}
    assert read_all(gateway, job) == (list(range(10)), "COMPLETED")
    assert outputs(poll(gateway, job, "?from=0")) == list(range(10))
    for bad in ("x", "-1", "", "1.5"):
        wire.assert_problem(gateway.request("GET", stream_path(job, f"?from={bad}"), gateway.key),
                            400, "bad_from")


class Events:
    """A reader of Server-Sent Events, as the standard says."""

    def __init__(self, gateway, job, last=None, query=""):
        fields = [("Accept", "text/event-stream")]
        fields += [("Last-Event-ID", last)] if last is not None else []
        self.connection = ask_raw(gateway, job, query, fields)
        _, self.status, _, self.fields = self.connection.read_head()
        self.text = b""

    def __iter__(self):
        """(id, event, data) of each."""
        while True:
            while b"\n\n" not in self.text:
                chunk = self.connection.read_chunk()
                if not chunk:
                    return
                self.text += chunk
            block, _, self.text = self.text.partition(b"\n\n")
            lines = dict(line.split(": ", 1) for line in block.decode().split("\n")
                         if not line.startswith(":"))
            if lines:
                yield lines.get("id"), lines.get("event"), lines["data"]

    def close(self):
        self.connection.close()


def test_events_are_numbered_and_end_with_the_status(gateway, upstream):
    job = submit(gateway)
    events = Events(gateway, job)
    assert events.status == 200
    assert dict(events.fields)["content-type"] == "text/event-stream"
    upstream.push(job, b'{"output":\n"a"}', 1)
    upstream.end(job)
    assert list(events) == [("0", None, '{"output": "a"}'), ("1", None, '{"output": 1}'),
                            (None, "end", '{"status":"COMPLETED"}')]
    # Nothing was taken from who polls.
    assert read_all(gateway, job) == (["a", 1], "COMPLETED")


def test_an_event_leaves_when_its_chunk_comes(gateway, upstream):
    job = submit(gateway)
    events = Events(gateway, job)
    reading = iter(events)
    for number in range(5):
        upstream.push(job, number)  # and no other before this one was read
        assert next(reading) == (str(number), None, json.dumps({"output": number}))
    events.close()


def test_events_resumed_with_the_last_id_are_complete(gateway, upstream):
    dice = random.Random(7)
    job = submit(gateway)
    threading.Thread(target=push_slowly, args=(upstream, job, 200, 0.005)).start()
    found, last, ended = [], None, None
    while not ended:
        events = Events(gateway, job, last)
        leave_after = dice.randrange(1, 40)
        for number, event, data in events:
            if event == "end":
                ended = json.loads(data)
                break
            found.append(json.loads(data)["output"])
            last = number
            leave_after -= 1
            if leave_after == 0:
                break
        events.close()
    assert ended == {"status": "COMPLETED"}
    assert found == list(range(200))


def test_heartbeats_come_while_nothing_does(gateway, upstream):
    job = submit(gateway)
    with ask_raw(gateway, job, fields=[("Accept", "text/event-stream")]) as connection:
        connection.read_head()
        began = time.monotonic()
        assert connection.read_chunk() == b":\n\n"
        assert connection.read_chunk() == b":\n\n"
        assert time.monotonic() - began < 17 * harness.PATIENCE


def test_slow_reader_of_events_costs_no_memory(gateway, upstream):
    """24 MB of chunks wait in the store, not in podgate, until they are read."""
    job = submit(gateway)
    text = "x" * 100_000
    for _ in range(4):
        upstream.push(job, *[text] * 60)
    upstream.end(job)
    events = Events(gateway, job)
    harness.wait_until(lambda: gateway.metric("podgate_stream_chunks_total", event="stored") == 240,
                       60, "all chunks in the store")
    before = gateway.rss_bytes()
    slow = [Events(gateway, job) for _ in range(20)]
    time.sleep(1)
    assert gateway.rss_bytes() - before < 40 * 1024 * 1024 * harness.PATIENCE
    assert sum(1 for number, _, data in events if number and len(data) > 100_000) == 240
    for each in slow:
        each.close()


def test_events_of_another_teams_job_look_like_none(lab, podgate, upstream):
    keys = harness.make_key("mine"), harness.make_key("theirs")
    gateway = podgate(lab.scripted(upstream), {
        "team": {"one": {"key": {"mine": harness.key_section(keys[0])}},
                 "two": {"key": {"theirs": harness.key_section(
                     keys[1], operations=["run", "status", "stream"])}}}})
    gateway.key = keys[0].text
    job = submit(gateway)
    upstream.push(job, 1)
    for fields in ((), [("Accept", "text/event-stream")]):
        bodies = [gateway.request("GET", stream_path(name), keys[1].text, fields=fields)
                  for name in (job, "never-was-u1")]
        for reply in bodies:
            wire.assert_problem(reply, 404, "job_not_found")
        assert bodies[0].body == bodies[1].body
    assert outputs(poll(gateway, job)) == [1]


# ---- cancelled -----------------------------------------------------------------------------------

def test_cancelled_is_said_once_to_each_key(gateway, upstream):
    job = submit(gateway)
    upstream.push(job, 0)
    upstream.end(job, "CANCELLED")
    assert poll(gateway, job) == {"status": "CANCELLED", "stream": [{"output": 0}]}
    for _ in range(2):
        assert poll(gateway, job) == {"status": "FAILED", "stream": []}
    assert poll(gateway, job, key=gateway.second_key)["status"] == "CANCELLED"
    assert poll(gateway, job, "?from=0")["status"] == "CANCELLED"


def test_faithful_says_cancelled_for_ever(lab, podgate, upstream):
    gateway = podgate(lab.scripted(upstream),
                      {"endpoint": {"ep": {"stream_cancelled": "faithful"}}})
    job = submit(gateway)
    upstream.end(job, "CANCELLED")
    for _ in range(3):
        assert poll(gateway, job) == {"status": "CANCELLED", "stream": []}


# ---- restarts ------------------------------------------------------------------------------------

def restart(gateway):
    gateway.launch()
    harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running(), 15, "the restart")
    assert gateway.is_running(), gateway.log()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_restart_in_mid_stream_loses_nothing(gateway, upstream, how):
    """Killed podgates may repeat an answer whose end they didn't write down; none is lost."""
    job = submit(gateway)
    found = []
    for turn in range(6):
        upstream.push(job, *range(turn * 10, turn * 10 + 10))
        answer = outputs(poll(gateway, job))
        # Repeated perhaps, but never with a gap.
        assert answer == list(range(answer[0], answer[-1] + 1)) and answer[0] <= len(set(found))
        found += answer
        if how == signal.SIGTERM:
            gateway.signal(how)
            assert gateway.wait(15) == 0
        else:
            gateway.kill()
        restart(gateway)
    upstream.end(job)
    rest, status = read_all(gateway, job)
    found += rest
    assert status == "COMPLETED"
    if how == signal.SIGTERM:
        assert found == list(range(60))
    else:
        assert list(dict.fromkeys(found)) == list(range(60))
    assert outputs(poll(gateway, job, "?from=0")) == list(range(60))


def test_what_was_read_before_a_poll_of_another_is_not_repeated_after_a_kill(gateway, upstream):
    """An answer counts as read when the caller goes on, and that is written down."""
    job = submit(gateway)
    with wire.Wire.connect(gateway.port) as connection:
        upstream.push(job, 0)
        assert outputs(connection.request("GET", stream_path(job), gateway.key).json) == [0]
        assert connection.request("GET", "/podgate/v1/whoami", gateway.key).status == 200
        harness.wait_until(lambda: gateway.metric("podgate_store_calls_total",
                                                  operation="set-cursor", result="ok") >= 1)
    gateway.kill()
    restart(gateway)
    upstream.push(job, 1)
    assert outputs(poll(gateway, job)) == [1]


# ---- captured ------------------------------------------------------------------------------------

def test_captured_stream_is_there_when_upstream_has_forgotten_it(lab, podgate, upstream):
    gateway = podgate(lab.scripted(upstream), {"endpoint": {"ep": {"capture_stream": True}}})
    job = submit(gateway)
    upstream.push(job, *range(5))
    harness.wait_until(lambda: len(upstream.handed_out) == 5, 20, "podgate to read the stream")
    upstream.push(job, 5)
    upstream.end(job)
    harness.wait_until(lambda: gateway.metric("podgate_stream_chunks_total", event="stored") == 6,
                       20, "the chunks in the store")
    gateway.kill()
    restart(gateway)
    assert read_all(gateway, job) == (list(range(6)), "COMPLETED")


# ---- an upstream that fails ----------------------------------------------------------------------

def test_answer_that_breaks_off_keeps_its_whole_chunks(lab, podgate, upstream):
    broken = []

    def answer(received, connection):
        whole = upstream(received, connection)
        if "/stream/" in received.target and upstream.handed_out and not broken:
            broken.append(True)
            return whole[:-15], "close"
        return whole
    gateway = podgate(lab.scripted(answer))
    gateway.expect_errors("stream_chunks_lost")
    job = submit(gateway)
    upstream.push(job, "one", "two", "a long one that is cut")
    assert outputs(poll(gateway, job)) == ["one", "two"]
    assert gateway.metric("podgate_stream_chunks_total", event="lost") == 1
    upstream.push(job, "next")
    assert outputs(poll(gateway, job)) == ["next"]


# ---- the SDKs ------------------------------------------------------------------------------------

def python_goes_on(target, job, chunks):
    """All chunks, and how often a connection broke before the end."""
    with sdks.python(target) as runpod:
        request = runpod.endpoint.Job(target.endpoint, job, runpod.endpoint.runner.RunPodClient())
        for broken in range(1000):
            try:
                for chunk in request.stream():
                    chunks.append(chunk)
                return broken
            except requests.RequestException:
                pass
    raise AssertionError("no end of it")


def asyncio_goes_on(target, job, chunks):
    async def work(runpod):
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": f"Bearer {target.key}"}
            request = runpod.endpoint.AsyncioJob(target.endpoint, job, session, headers)
            for broken in range(1000):
                try:
                    async for chunk in request.stream():
                        chunks.append(chunk)
                    return broken
                except aiohttp.ClientError:
                    pass
        raise AssertionError("no end of it")
    with sdks.python(target) as runpod:
        return asyncio.run(work(runpod))


def other_goes_on(client):
    def goes_on(target, job, chunks):
        result = client(target, "streamOn", id=job)
        chunks += [element["output"] for element in result["elements"]]
        return result["broken"]
    return goes_on


GOES_ON = {"python": python_goes_on, "asyncio": asyncio_goes_on,
           "javascript": other_goes_on(sdks.javascript), f"go-{sdks.go_kind()}": other_goes_on(sdks.go)}


@appendix_b(7)
@pytest.mark.parametrize("client", GOES_ON)
def test_each_client_gets_each_chunk_once_though_connections_drop(lab, podgate, full, client):
    """The proxy resets each connection somewhere in an answer, which the client tells its caller; who
    goes on from there gets what is missing. A minute of it with --full."""
    sim = lab.sim()
    gateway = podgate(sim)
    dice = random.Random(3)
    proxy = lab.proxy(gateway.port)
    proxy.next_plan = lambda: proxy.Plan(at=dice.randrange(100, 900), direction="down")
    job = gateway.request("POST", "/v2/ep/run", gateway.key, {"input": {
        "mock_stream": 12, "mock_stream_interval": 5000 if full else 700}}).json["id"]
    target = sdks.Target("podgate", proxy.base_url, proxy.port, gateway.key, sim, "ep")
    chunks = []
    broken = GOES_ON[client](target, job, chunks)
    assert chunks == [{"index": index} for index in range(12)]
    assert broken >= 1 and proxy.count >= 3


@appendix_b(21)
def test_python_ends_on_cancelled(lab, podgate):
    sim = lab.sim()
    gateway = podgate(sim)
    target = sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, sim, "ep")
    with sdks.python(target) as runpod:
        request = runpod.Endpoint("ep").run({"input": {"mock_delay": 60000}})
        request.cancel()
        assert list(request.stream()) == []

        async def work():
            async with aiohttp.ClientSession() as session:
                job = await runpod.AsyncioEndpoint("ep", session).run(
                    {"input": {"mock_delay": 60000}})
                await job.cancel()
                return [chunk async for chunk in job.stream()]
        assert asyncio.run(work()) == []


@appendix_b(6)
@pytest.mark.parametrize("client", ["javascript", "go"])
def test_other_clients_get_sparse_chunks_once(lab, podgate, client):
    sim = lab.sim()
    gateway = podgate(sim)
    target = sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, sim, "ep")
    result = getattr(sdks, client)(target, "runThenStream",
                                   input={"mock_stream": 6, "mock_stream_interval": 3000})
    assert result["elements"] == [{"output": {"index": index}} for index in range(6)]
    assert len(sim.requests(endpoint="ep", operation="stream")) < 40


# ---- several podgates ----------------------------------------------------------------------------

@pytest.fixture
def pair(lab, podgate, upstream):
    """Two podgates on one Redis before one upstream."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server isn't installed")
    redis = redis_server.RedisServer(lab.next_directory("redis"))
    lab.made.append(redis)
    scripted = lab.scripted(upstream)
    gateways = [podgate(scripted, {"team": team_of(*TWO_KEYS), "store": redis.store()})
                for _ in range(2)]
    for gateway in gateways:
        gateway.key, gateway.second_key = (key.text for key in TWO_KEYS)
    return gateways


def test_two_podgates_read_a_stream_once(pair, upstream):
    """A client that goes from one to the other gets each chunk once, and upstream sees one reader."""
    job = submit(pair[0])
    threading.Thread(target=push_slowly, args=(upstream, job, 60, 0.05)).start()
    found, status, turn = [], None, 0
    while status != "COMPLETED":
        gateway = pair[turn % 2]
        before = cursors_written(gateway)
        answer = poll(gateway, job, "?wait=3000")
        found += outputs(answer)
        status = answer["status"]
        turn += 1
        if answer["stream"]:  # the other may be asked once this one has written down what was read
            harness.wait_until(lambda: cursors_written(gateway) > before, 10, "the cursor")
    assert found == list(range(60))
    assert upstream.most_readers == 1
    assert outputs(poll(pair[turn % 2], job, "?from=0")) == list(range(60))


def cursors_written(gateway):
    return gateway.metric("podgate_store_calls_total", operation="set-cursor", result="ok")


def test_both_podgates_hand_on_what_one_reads(pair, upstream):
    job = submit(pair[0])
    found = {}

    def work(gateway, key):
        found[key] = read_all(gateway, job, key=key)
    threads = [threading.Thread(target=work, args=(pair[0], pair[0].key)),
               threading.Thread(target=work, args=(pair[1], pair[1].second_key))]
    for thread in threads:
        thread.start()
    push_slowly(upstream, job, 60, 0.05)
    for thread in threads:
        thread.join(60 * harness.PATIENCE)
    assert list(found.values()) == [(list(range(60)), "COMPLETED")] * 2
    assert upstream.most_readers == 1


def test_another_podgate_takes_over_a_dead_ones_stream(pair, upstream):
    job = submit(pair[0])
    upstream.push(job, 0)
    assert outputs(poll(pair[0], job, key=pair[0].second_key)) == [0]
    pair[0].kill()
    pair[0].process = None
    upstream.push(job, 1)
    upstream.end(job)
    found, status = read_all(pair[1], job, "?wait=20000", pair[1].key)
    assert (found, status) == ([0, 1], "COMPLETED")
