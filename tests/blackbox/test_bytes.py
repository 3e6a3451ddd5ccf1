"""Nothing is lost, added or rewritten: bodies are the same bytes direct and through podgate."""

import hashlib
import random

import pytest

import faults
import harness
import wire

MIB = 1024 * 1024

OUTPUTS = {
    "integers_above_2_to_53": b'[9007199254740993,12345678901234567890,-9223372036854775809]',
    "nan_and_infinity": b'{"a":NaN,"b":Infinity,"c":-Infinity}',
    "exponents": b"[1E400,-0,0.1e-7,1.0,1.10,100000000000000000000000000000]",
    "raw_utf_8": '"h\u00e9llo \U0001f600 \u4e2d\u6587"'.encode(),
    "escapes": b'"\\u00e9\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\"\\\\"',
    "lone_surrogate": b'"\\ud800"',
    "white_space": b'{ "a" :\t[ 1 ,\r\n 2 ] }',
    "duplicate_members": b'{"a":1,"a":2}',
    "member_named_status": b'{"status":"COMPLETED","id":"other"}',
    "deep": b"[" * 200 + b"]" * 200,
    "null": b"null",
    "empty_string": b'""',
}

# (method, path, request body); what streams and retries keep as it is stands in test_streams.py and
# test_ledger.py
OPERATIONS = [
    ("POST", "run", b'{"input":{"a":1}}'), ("POST", "runsync", b'{"input":{"a":1}}'),
    ("GET", "status/a-u1", None), ("POST", "status/a-u1", b""), ("GET", "status-sync/a-u1", None),
    ("POST", "cancel/a-u1", b""), ("POST", "purge-queue", b""), ("GET", "health", None),
    ("GET", "requests", None), ("POST", "batch", b'[{"input":{}}]'),
    ("GET", "openai/v1/models", None), ("POST", "openai/v1/chat/completions", b'{"model":"m"}'),
    ("POST", "openai/v1/embeddings", b'{"model":"m","input":"x"}'),
]
IDS = [f"{method}-{path}" for method, path, _ in OPERATIONS]


class Echo:
    """Answers with the body that the test wants."""

    def __init__(self):
        self.body = b"{}"

    def __call__(self, received, connection):
        return faults.response(body=self.body)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("bytes"))
    echo = Echo()
    upstream = lab.scripted(echo)
    gateway = lab.podgate(upstream, {"memory": {"bodies": "512MiB"}})
    gateway.upstream, gateway.echo = upstream, echo
    yield gateway
    lab.close()


def answer(output):
    return (b'{"delayTime":824,"executionTime":3391,"id":"a-u1","output":' + output
            + b',"status":"COMPLETED","workerId":"z3jr9rv2k3tt2y"}')


@pytest.mark.parametrize("method, path, body", OPERATIONS, ids=IDS)
@pytest.mark.parametrize("name", OUTPUTS)
def test_answers_are_the_same_bytes(pair, method, path, body, name):
    """A new endpoint each time, since health and status are shared for a while."""
    pair.echo.body = answer(OUTPUTS[name])
    target = f"/v2/{harness.unique('ep')}/{path}"
    direct = wire.request(pair.upstream.port, method, target, harness.UPSTREAM_KEY, body)
    through = pair.request(method, target, pair.key, body)
    assert direct.status == through.status == 200
    assert direct.body == through.body == pair.echo.body


BODIES = {
    "plain": b'{"input":{"prompt":"hi"}}',
    "white_space": b' {\n\t"input" : { "a" : [ ] } }\r\n',
    "integers": b'{"input":{"seed":12345678901234567890,"e":1E400,"m":-0}}',
    "raw_utf_8": '{"input":{"p":"h\u00e9 \U0001f600"}}'.encode(),
    "escapes": b'{"input":{"p":"\\u00e9\\ud83d\\ude00\\/"}}',
    "duplicates": b'{"input":{"a":1},"input":{"a":2}}',
    "further_members": b'{"webhook":"http://127.0.0.1:9/","webhookV2":"x","policy":{"ttl":10000},'
                       b'"s3Config":{"accessSecret":"s"},"input":{},"unknown":[1]}',
}


@pytest.mark.parametrize("path", ["run", "runsync", "openai/v1/chat/completions"])
@pytest.mark.parametrize("name", BODIES)
def test_request_bodies_go_up_as_they_are(pair, path, name):
    pair.echo.body = b'{"id":"a-u1","status":"IN_QUEUE"}'
    reply = pair.request("POST", f"/v2/{harness.unique('ep')}/{path}", pair.key, BODIES[name])
    assert reply.status == 200
    assert pair.upstream.requests[-1].body == BODIES[name]


def random_json(size, frame=b'{"input":{"x":"%s"}}'):
    """Valid JSON of exactly that size with text that doesn't repeat."""
    inner = size - len(frame) + 2
    return frame % random.Random(size).randbytes(inner // 2 + 1).hex()[:inner].encode()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def send_large(gateway, path, body):
    with gateway.connect(timeout=60) as connection:
        connection.send(wire.head("POST", f"/v2/{harness.unique('ep')}/{path}", gateway.key, body))
        wire.try_send(connection, body)
        return connection.read_reply()


@pytest.mark.parametrize("path, size", [("run", 10 * MIB), ("runsync", 20 * MIB),
                                        ("openai/v1/embeddings", 15 * MIB)])
def test_largest_request_bodies_arrive_whole(pair, path, size):
    pair.echo.body = b'{"id":"a-u1","status":"IN_QUEUE"}'
    body = random_json(size)
    assert len(body) == size
    assert send_large(pair, path, body).status == 200
    assert digest(pair.upstream.requests[-1].body) == digest(body)
    pair.upstream.requests.clear()


@pytest.mark.parametrize("path, size", [("run", 10 * MIB + 1), ("runsync", 20 * MIB + 1)])
def test_larger_bodies_are_refused_unread(pair, path, size):
    count = len(pair.upstream.requests)
    with pair.connect() as connection:
        connection.send(wire.head("POST", f"/v2/ep/{path}", pair.key,
                                  fields=[("Content-Length", str(size))]))
        wire.assert_problem(connection.read_reply(), 413)
    assert len(pair.upstream.requests) == count


def test_chunked_body_that_grows_too_large_is_refused(pair):
    count = len(pair.upstream.requests)
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    with pair.connect(timeout=30) as connection:
        connection.send(wire.head("POST", "/v2/ep/run", pair.key,
                                  fields=[("Transfer-Encoding", "chunked")]))
        for _ in range(11):
            wire.try_send(connection, piece)
        wire.assert_problem(connection.read_reply(), 413)
    assert len(pair.upstream.requests) == count


@pytest.mark.parametrize("method, path", [("GET", "status/a-u1"), ("POST", "runsync"),
                                          ("GET", "openai/v1/files"),
                                          ("GET", "status-sync/a-u1")])
@pytest.mark.parametrize("size", [1 * MIB, 10 * MIB, 20 * MIB])
def test_large_answers_arrive_whole(pair, method, path, size):
    pair.echo.body = answer(random_json(size, b'"%s"'))
    body = b'{"input":{}}' if method == "POST" else None
    reply = pair.request(method, f"/v2/{harness.unique('ep')}/{path}", pair.key, body, timeout=60)
    assert reply.status == 200
    assert digest(reply.body) == digest(pair.echo.body)


def test_answer_above_max_result_is_streamed(pair):
    pair.echo.body = answer(random_json(40 * MIB, b'"%s"'))
    reply = pair.request("GET", f"/v2/{harness.unique('ep')}/status/a-u1", pair.key, timeout=60)
    assert reply.status == 200
    assert digest(reply.body) == digest(pair.echo.body)


def test_key_that_upstream_echoes_is_masked(pair):
    """The one change that is made to an answer."""
    pair.echo.body = b'{"error":"key ' + harness.UPSTREAM_KEY.encode() + b' is odd"}'
    for path in ("requests", "openai/v1/models", "health"):
        reply = pair.request("GET", f"/v2/{harness.unique('ep')}/{path}", pair.key)
        assert harness.UPSTREAM_KEY.encode() not in reply.body
        assert reply.body.startswith(b'{"error":"key ')
        assert reply.body.endswith(b' is odd"}')


@pytest.mark.parametrize("status", [400, 402, 404, 409, 418, 429, 500, 503])
def test_json_errors_of_upstream_keep_status_and_bytes(lab, podgate, status):
    body = b'{"status":%d,"title":"T","detail":"d","code":"C", "odd" : 1e5}' % status
    gateway = podgate(lab.scripted(lambda received, connection: faults.response(status, body)))
    for method, path in (("POST", "run"), ("GET", "status/a"), ("GET", "health"),
                         ("POST", "openai/v1/completions")):
        if status == 404 and path == "status/a":
            continue  # a job that nobody knows is told in podgate's own words
        reply = gateway.request(method, f"/v2/{harness.unique('ep')}/{path}", gateway.key,
                                b"{}" if method == "POST" else None)
        assert (reply.status, reply.body) == (status, body), path
        assert not reply.from_gateway
