"""What callers see when the upstream misbehaves, and what podgate then does."""

import json
import socket
import threading
import time

import pytest

import faults
import harness
import wire
from certificates import Authority

RUN = {"input": {"a": 1}}
JOB = b'{"id":"a-u1","status":"IN_PROGRESS"}'
ACCEPTED = b'{"id":"a-u1","status":"IN_QUEUE"}'
HTML = b"<html><body>error code: 502</body></html>"

SHORT = {"upstream": {"connect_timeout": "500ms", "read_timeout": "600ms", "submit_timeout": "600ms",
                      "runsync_margin": "600ms"}}

# (method, path) of one operation of each kind. What the upstream says to the reader of a stream and
# to a /retry goes through the ledger first: test_streams.py and test_ledger.py have those.
READS = [("GET", "status/a-u1"), ("GET", "health"), ("POST", "status/a-u1")]
SUBMITS = [("POST", "run"), ("POST", "runsync")]
OTHERS = [("POST", "cancel/a-u1"), ("GET", "openai/v1/models"), ("GET", "requests")]
ALL = READS + SUBMITS + OTHERS


def names(operations):
    return [f"{method}-{path.split('/')[0]}" for method, path in operations]


def ask(gateway, method, path, **options):
    """One request on an endpoint of its own, so that breakers and shared answers don't meddle."""
    body = RUN if method == "POST" and path.startswith("run") else None
    return gateway.request(method, f"/v2/{harness.unique('ep')}/{path}", gateway.key, body, **options)


@pytest.fixture
def scripted(lab, podgate):
    """Makes a podgate before an upstream that answers so: scripted(answer, options)."""
    def make(answer, options=None, **upstream):
        if not callable(answer):
            fixed = answer
            def answer(received, connection):
                return fixed
        server = lab.scripted(answer, **upstream)
        gateway = podgate(server, options or {})
        gateway.upstream = server
        return gateway
    return make


def still_serves(gateway):
    assert gateway.request("GET", "/podgate/v1/whoami", gateway.key).status == 200


# ---- no connection -------------------------------------------------------------------------------

@pytest.mark.parametrize("method, path", ALL, ids=names(ALL))
def test_refused_connection_is_502(lab, podgate, method, path):
    port = harness.PORTS.take()
    try:
        gateway = podgate(port)
        wire.assert_problem(ask(gateway, method, path), 502)
        still_serves(gateway)
    finally:
        harness.PORTS.give_back(port)


@pytest.mark.parametrize("method, path", [("GET", "status/a"), ("POST", "run")])
def test_name_that_does_not_exist_is_502(lab, podgate, method, path):
    gateway = podgate("http://no-such-host.invalid/v2", {"upstream": {"connect_timeout": "1s"}})
    reply = ask(gateway, method, path, timeout=30)
    wire.assert_problem(reply, 502)
    still_serves(gateway)


def test_connection_that_comes_back_is_used_again(lab, podgate, make_sim):
    sim = make_sim()
    proxy = lab.proxy(sim.port)
    gateway = podgate(proxy)
    assert ask(gateway, "GET", "health").status == 200
    proxy.refuse()
    assert ask(gateway, "GET", "health").status == 502
    proxy.open()
    harness.wait_until(lambda: ask(gateway, "GET", "health").status == 200, 15)


# ---- TLS -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def secure(lab, podgate, context, ca_file=None, url=None, **upstream):
    server = lab.scripted(lambda received, connection: faults.response(body=JOB), tls=context)
    options = {"upstream": {**({"ca_file": str(ca_file)} if ca_file else {}), **upstream}}
    gateway = podgate(url.format(server.port) if url else server, options)
    gateway.upstream = server
    return gateway


def test_tls_upstream_with_its_own_authority(lab, podgate, authority):
    gateway = secure(lab, podgate, authority.server("127.0.0.1"), authority.path)
    for _ in range(3):
        assert ask(gateway, "GET", "status/a-u1").body == JOB
    assert gateway.upstream.requests[0].field("authorization") == "Bearer " + harness.UPSTREAM_KEY


@pytest.mark.parametrize("kind", ["unknown_authority", "other_name", "expired"])
@pytest.mark.parametrize("method, path", [("GET", "status/a-u1"), ("POST", "run")])
def test_wrong_certificate_is_502_and_the_key_is_never_sent(lab, podgate, authority, tmp_path, kind,
                                                            method, path):
    context = {"unknown_authority": lambda: Authority(tmp_path).server("127.0.0.1"),
               "other_name": lambda: authority.server("other.test"),
               "expired": lambda: authority.server("127.0.0.1", days=(-20, -10))}[kind]()
    gateway = secure(lab, podgate, context, authority.path)
    wire.assert_problem(ask(gateway, method, path), 502, "upstream_tls")
    assert gateway.upstream.requests == []
    assert gateway.upstream.raw == []


def test_server_name_is_sent_and_checked(lab, podgate, authority):
    asked = []
    context = authority.server("localhost")
    context.sni_callback = lambda connection, name, context: asked.append(name)
    gateway = secure(lab, podgate, context, authority.path, "https://localhost:{}/v2")
    assert ask(gateway, "GET", "status/a-u1").status == 200
    assert asked and set(asked) == {"localhost"}


def test_plain_server_behind_https_is_502(lab, podgate, make_sim):
    sim = make_sim()
    gateway = podgate(f"https://127.0.0.1:{sim.port}/v2")
    wire.assert_problem(ask(gateway, "GET", "status/a-u1"), 502, "upstream_tls")


def test_verification_can_be_turned_off(lab, podgate, tmp_path):
    gateway = secure(lab, podgate, Authority(tmp_path).server("other.test"), verify=False)
    assert ask(gateway, "GET", "status/a-u1").status == 200


# ---- the company's proxy -------------------------------------------------------------------------

class CompanyProxy(faults.ScriptedUpstream):
    """Answers CONNECT, then joins the two sides."""

    def __init__(self, status=200):
        super().__init__()
        self.status = status
        self.asked = []

    def read_request(self, sock, buffer):
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(1)
            if not data:
                return None, b""
            head += data
        self.asked.append(head)
        if self.status != 200:
            sock.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.status)
            return None, b""
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        far = socket.create_connection((host, int(port)), 10)
        sock.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        pump = faults.FaultProxy.pump
        plan = faults.FaultProxy.Plan()
        threading.Thread(target=pump, args=(self, far, sock, "down", plan), daemon=True).start()
        pump(self, sock, far, "up", plan)
        return None, b""

    write = staticmethod(faults.FaultProxy.write)


def test_connect_through_a_proxy(lab, podgate, authority):
    proxy = CompanyProxy()
    lab.made.append(proxy)
    gateway = secure(lab, podgate, authority.server("127.0.0.1"), authority.path,
                     proxy=f"http://127.0.0.1:{proxy.port}")
    assert ask(gateway, "GET", "status/a-u1").body == JOB
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{gateway.upstream.port} HTTP/1.1".encode())
    assert harness.UPSTREAM_KEY.encode() not in b"".join(proxy.asked)


def test_proxy_that_refuses_is_502(lab, podgate, authority):
    proxy = CompanyProxy(403)
    lab.made.append(proxy)
    gateway = secure(lab, podgate, authority.server("127.0.0.1"), authority.path,
                     proxy=f"http://127.0.0.1:{proxy.port}")
    wire.assert_problem(ask(gateway, "GET", "status/a-u1"), 502)
    assert gateway.upstream.requests == []


# ---- time-outs -----------------------------------------------------------------------------------

@pytest.mark.parametrize("method, path", [("GET", "status/a-u1"), ("GET", "health"), ("POST", "run"),
                                          ("POST", "cancel/a-u1"), ("POST", "retry/a-u1")])
def test_silent_upstream_is_504(scripted, method, path):
    gateway = scripted("stall", SHORT)
    reply = ask(gateway, method, path)
    wire.assert_problem(reply, 504)
    if path in ("run", "retry/a-u1"):
        assert len(gateway.upstream.requests) == 1, "a submit that may have been accepted was sent again"


def test_silent_upstream_of_runsync_is_504_after_the_wait(scripted):
    gateway = scripted("stall", SHORT)
    began = time.monotonic()
    wire.assert_problem(ask(gateway, "POST", "runsync?wait=1000"), 504)
    assert 1.4 < time.monotonic() - began < 6 * harness.PATIENCE
    assert len(gateway.upstream.requests) == 1


@pytest.mark.parametrize("method, path", [("GET", "status/a-u1"), ("POST", "run")])
def test_drip_is_ended_by_the_total_deadline(scripted, method, path):
    """A byte each 50 ms is never silent for long."""
    def answer(received, connection):
        for byte in faults.response(body=JOB + b" " * 400):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    gateway = scripted(answer, SHORT)
    began = time.monotonic()
    wire.assert_problem(ask(gateway, method, path), 504)
    assert time.monotonic() - began < 5 * harness.PATIENCE


# ---- broken answers ------------------------------------------------------------------------------

GOOD = faults.response(body=JOB)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

BROKEN = {
    "nothing": "close",
    "reset": "reset",
    "half_a_head": (GOOD[:20], "close"),
    "half_a_body": (GOOD[:-5], "close"),
    "reset_in_the_body": (GOOD[:-5], "reset"),
    "length_too_large": (faults.response(body=JOB, length=len(JOB) + 9), "close"),
    "chunk_cut_off": (CHUNKED + b"24\r\n" + JOB[:10], "close"),
    "chunks_without_an_end": (CHUNKED + b"24\r\n" + JOB + b"\r\n", "close"),
    "chunk_size_bad": (CHUNKED + b"xyz\r\n" + JOB + b"\r\n0\r\n\r\n", "close"),
    "chunk_without_crlf": (CHUNKED + b"24\r\n" + JOB + b"0\r\n\r\n", "close"),
    "length_twice": faults.response(body=JOB, fields=[("Content-Length", str(len(JOB)))]),
    "length_and_chunked": faults.response(body=b"24\r\n" + JOB + b"\r\n0\r\n\r\n",
                                          fields=[("Transfer-Encoding", "chunked")]),
    "length_negative": faults.response(body=JOB, length=-1),
    "unknown_coding": faults.response(body=JOB, fields=[("Transfer-Encoding", "xchunked")]),
    "nul_in_a_field": GOOD.replace(b"Scripted\r\n", b"Scripted\r\nX-A: a\0b\r\n"),
    "bare_lf": GOOD.replace(b"\r\n", b"\n"),
    "no_colon": GOOD.replace(b"Scripted\r\n", b"Scripted\r\nnonsense\r\n"),
    "obs_fold": GOOD.replace(b"Scripted\r\n", b"Scripted\r\nX-A: a\r\n b\r\n"),
    "head_above_64_kib": GOOD.replace(b"Scripted\r\n", b"Scripted\r\nX-A: " + b"a" * 70000 + b"\r\n"),
    "no_http": (b"SSH-2.0-OpenSSH_9.2\r\n", "close"),
    "http_2": (GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), "close"),
    "status_of_two_digits": GOOD.replace(b"200", b"20"),
    "status_not_a_number": GOOD.replace(b"200", b"abc"),
    "encoded_though_not_asked_for": faults.response(body=JOB, fields=[("Content-Encoding", "gzip")]),
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "nine_times_102": b"HTTP/1.1 102 Processing\r\n\r\n" * 9 + GOOD,
    "not_json": faults.response(body=b"hello"),
    "json_cut_off": faults.response(body=JOB[:-3]),
    "html": faults.response(body=HTML, content_type="text/html"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answer_to_a_read_is_502(scripted, name):
    gateway = scripted(BROKEN[name])
    wire.assert_problem(ask(gateway, "GET", "status/a-u1"), 502)
    still_serves(gateway)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answer_to_a_submit_is_502_and_it_is_not_sent_again(scripted, name):
    gateway = scripted(BROKEN[name])
    reply = ask(gateway, "POST", "run")
    assert len(gateway.upstream.requests) == 1
    if name in ("half_a_body", "reset_in_the_body", "length_too_large", "chunks_without_an_end",
                "json_cut_off", "chunk_without_crlf", "chunk_cut_off") and reply.status == 200:
        assert reply.json["id"] == "a-u1"  # cut off behind a whole id, the job is known
    else:
        wire.assert_problem(reply, 502)
    still_serves(gateway)


def test_broken_read_is_sent_once_more(scripted):
    gateway = scripted("close")
    wire.assert_problem(ask(gateway, "GET", "status/a-u1"), 502)
    assert len(gateway.upstream.requests) == 2


def test_second_try_of_a_read_serves(scripted):
    tries = []
    def answer(received, connection):
        tries.append(received)
        return "reset" if len(tries) == 1 else faults.response(body=JOB)
    reply = ask(scripted(answer), "GET", "status/a-u1")
    assert reply.body == JOB


@pytest.mark.parametrize("method, path", [("POST", "cancel/a-u1"), ("POST", "purge-queue")])
def test_what_is_neither_read_nor_submit_is_never_sent_twice(scripted, method, path):
    gateway = scripted("close")
    wire.assert_problem(ask(gateway, method, path), 502)
    assert len(gateway.upstream.requests) == 1


def test_eight_interim_answers_are_skipped(scripted):
    gateway = scripted(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 8 + GOOD)
    reply = ask(gateway, "GET", "status/a-u1")
    assert reply.body == JOB
    assert reply.interim == []


def test_bytes_beyond_the_answer_end_the_connection(scripted):
    """They could be taken for the answer to the next request."""
    gateway = scripted(GOOD + b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"wrong"',
                       {"workers": 1})
    for _ in range(3):
        assert ask(gateway, "GET", "status/a-u1").body == JOB
    assert gateway.upstream.connection_count == 3


def test_good_answers_share_a_connection(scripted):
    gateway = scripted(GOOD, {"workers": 1})
    for _ in range(5):
        assert ask(gateway, "GET", "status/a-u1").body == JOB
    assert gateway.upstream.connection_count == 1


def test_answer_that_ends_with_the_connection_is_whole(scripted):
    gateway = scripted((b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + JOB, "close"))
    assert ask(gateway, "GET", "status/a-u1").body == JOB


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method, path", [("GET", "status/a-u1"), ("POST", "run")])
def test_redirect_is_502_and_not_followed(lab, scripted, method, path, status):
    elsewhere = lab.scripted()
    gateway = scripted(faults.response(status, fields=[
        ("Location", f"http://127.0.0.1:{elsewhere.port}/v2/ep/run")]))
    reply = ask(gateway, method, path)
    wire.assert_problem(reply, 502)
    assert reply.field("location") is None
    assert elsewhere.connection_count == 0


# ---- statuses ------------------------------------------------------------------------------------

BUSY = b'{"detail":"slow down","status":429,"title":"Too Many Requests"}'


@pytest.mark.parametrize("given, expected", [(None, range(1, 11)), ("3", [3]), ("3600", range(1, 11)),
                                             ("0", range(1, 11)), ("soon", range(1, 11)),
                                             ("Wed, 21 Oct 2099 07:28:00 GMT", range(1, 11))])
@pytest.mark.parametrize("method, path", READS, ids=names(READS))
def test_429_of_a_read_has_a_short_retry_after(scripted, method, path, given, expected):
    gateway = scripted(faults.response(429, BUSY, [("Retry-After", given)] if given else []))
    reply = ask(gateway, method, path)
    assert (reply.status, reply.body) == (429, BUSY)
    assert int(reply.field("retry-after")) in expected


@pytest.mark.parametrize("method, path", SUBMITS, ids=names(SUBMITS))
def test_429_of_a_submit_passes_with_retry_after(scripted, method, path):
    gateway = scripted(faults.response(429, BUSY))
    reply = ask(gateway, method, path)
    assert (reply.status, reply.body) == (429, BUSY)
    assert int(reply.field("retry-after")) >= 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("method, path", ALL, ids=names(ALL))
def test_5xx_in_json_keeps_status_and_bytes(scripted, method, path, status):
    body = b'{"error":"worker crashed" }'
    reply = ask(scripted(faults.response(status, body)), method, path)
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
@pytest.mark.parametrize("method, path", ALL, ids=names(ALL))
def test_5xx_that_is_not_json_is_our_502(scripted, method, path, status):
    reply = ask(scripted(faults.response(status, HTML, content_type="text/html")), method, path)
    wire.assert_problem(reply, 502)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 418, 429])
@pytest.mark.parametrize("method, path", ALL, ids=names(ALL))
def test_4xx_that_is_not_json_keeps_its_status_with_our_body(scripted, method, path, status):
    reply = ask(scripted(faults.response(status, HTML, content_type="text/html")), method, path)
    wire.assert_problem(reply, status)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method, path", ALL, ids=names(ALL))
def test_refusal_of_the_operators_key_is_502(scripted, method, path, status):
    gateway = scripted(faults.response(
        status, b'{"detail":"invalid api key","status":%d,"title":"No"}' % status))
    gateway.expect_errors("credential")
    reply = ask(gateway, method, path)
    wire.assert_problem(reply, 502, "upstream_credential")


def test_wrong_upstream_key_against_the_stand_in(lab, podgate):
    sim = lab.sim(key="rpa_another")
    gateway = podgate(sim)
    gateway.expect_errors("credential")
    wire.assert_problem(ask(gateway, "POST", "run"), 502, "upstream_credential")


@pytest.mark.parametrize("body", [b'{"error":"no"}', b'{"status":"IN_QUEUE"}', b"{}", b"[]", b"null"])
def test_200_without_an_id_is_forwarded(scripted, body):
    gateway = scripted(faults.response(body=body))
    reply = ask(gateway, "POST", "run")
    assert (reply.status, reply.body) == (200, body)


def test_completed_without_output_is_passed_on_with_a_warning(scripted):
    body = b'{"delayTime":9533,"executionTime":88,"id":"a-u1","status":"COMPLETED","workerId":"w"}'
    reply = ask(scripted(faults.response(body=body)), "GET", "status/a-u1")
    assert (reply.status, reply.body) == (200, body)
    assert reply.field("podgate-warning") == "completed-without-output"


def test_health_of_before_is_served_while_upstream_fails(scripted):
    good = [True]
    health = b'{"jobs":{"completed":1},"workers":{"idle":1}}'
    def answer(received, connection):
        return faults.response(body=health) if good[0] else faults.response(500, HTML, content_type="")
    gateway = scripted(answer)
    assert gateway.request("GET", "/v2/ep/health", gateway.key).body == health
    good[0] = False
    time.sleep(1.1)  # the answer is fresh for a second
    reply = gateway.request("GET", "/v2/ep/health", gateway.key)
    assert (reply.status, reply.body) == (200, health)
    assert "podgate" in reply.field("cache-status", "")


# ---- the upstream's key --------------------------------------------------------------------------

def test_upstream_key_is_read_again_when_its_file_changes(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(body=JOB))
    gateway = podgate(upstream)
    ask(gateway, "GET", "status/a-u1")
    path = gateway.directory / "upstream_key"
    path.write_text("rpa_ROTATED\n")
    def rotated():
        ask(gateway, "GET", "status/a-u1")
        return upstream.requests[-1].field("authorization") == "Bearer rpa_ROTATED"
    harness.wait_until(rotated, 15, "the new upstream key", interval=0.2)
    harness.wait_until(lambda: gateway.log_lines("upstream_key_loaded"))


def test_upstream_key_file_that_goes_and_comes_is_told_once_each(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(body=JOB))
    gateway = podgate(upstream)
    gateway.expect_errors("upstream_key_unusable")
    path = gateway.directory / "upstream_key"
    away = path.rename(path.with_name("away"))
    harness.wait_until(lambda: gateway.log_lines("upstream_key_unusable"), 10)
    assert ask(gateway, "GET", "status/a-u1").status == 200, "the old key goes on"
    away.rename(path)
    harness.wait_until(lambda: gateway.log_lines("upstream_key_usable"), 10)
    assert len(gateway.log_lines("upstream_key_unusable")) == 1


def test_upstream_key_from_a_systemd_credential(lab, podgate, tmp_path):
    upstream = lab.scripted(lambda received, connection: faults.response(body=JOB))
    (tmp_path / "runpod").write_text("rpa_CREDENTIAL\n")
    gateway = podgate(upstream, {"upstream": {"api_key_file": None, "api_key_credential": "runpod"}},
                      environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    ask(gateway, "GET", "status/a-u1")
    assert upstream.requests[-1].field("authorization") == "Bearer rpa_CREDENTIAL"


def test_upstream_key_from_the_environment(lab, podgate):
    upstream = lab.scripted(lambda received, connection: faults.response(body=JOB))
    gateway = podgate(upstream, {"upstream": {"api_key_file": None, "api_key_env": "TEST_KEY"}},
                      environment={"TEST_KEY": "rpa_ENVIRONMENT"})
    ask(gateway, "GET", "status/a-u1")
    assert upstream.requests[-1].field("authorization") == "Bearer rpa_ENVIRONMENT"


# ---- the breaker ---------------------------------------------------------------------------------

def test_breaker_opens_and_lets_a_probe_through(scripted):
    good = [False]
    def answer(received, connection):
        return faults.response(body=JOB) if good[0] else faults.response(
            503, b'{"error":"down"}')
    gateway = scripted(answer, {"workers": 1})

    def status():
        return gateway.request("POST", "/v2/ep/cancel/a-u1", gateway.key)
    def opened():
        reply = status()
        return reply if reply.from_gateway else None
    reply = harness.wait_until(opened, 20, "the breaker to open")
    wire.assert_problem(reply, 503)
    assert 1 <= int(reply.field("retry-after")) <= 10
    count = len(gateway.upstream.requests)
    assert status().status == 503
    assert len(gateway.upstream.requests) == count, "an open breaker asks the upstream"
    other = gateway.request("GET", f"/v2/{harness.unique('ep')}/health", gateway.key)
    assert not other.from_gateway, "another endpoint is shut out too"
    good[0] = True
    harness.wait_until(lambda: status().status == 200, 25, "the breaker to close", interval=0.1)


def test_breaker_of_the_whole_upstream(lab, podgate):
    port = harness.PORTS.take()
    gateway = podgate(port, {"workers": 1})
    def opened():
        reply = ask(gateway, "GET", "health")
        return reply if reply.status == 503 else None
    reply = harness.wait_until(opened, 20, "the breaker to open")
    wire.assert_problem(reply, 503)
    assert int(reply.field("retry-after")) >= 1
    upstream = socket.socket()
    upstream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    upstream.bind(("127.0.0.1", port))
    upstream.listen(8)
    server = lab.scripted(lambda received, connection: faults.response(body=JOB))
    def serve():
        while True:
            try:
                connection, _ = upstream.accept()
            except OSError:
                return
            threading.Thread(target=server.serve, args=(connection,), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    try:
        harness.wait_until(lambda: ask(gateway, "GET", "health").status == 200, 25, interval=0.1)
    finally:
        faults.shut(upstream)
        harness.PORTS.give_back(port)


# ---- when a submit is sent again -----------------------------------------------------------------

class Sweep:
    """podgate, a fault proxy and a podgate-sim that counts what it accepted."""

    def __init__(self, lab):
        self.sim = lab.sim("--workers", "100")
        self.proxy = lab.proxy(self.sim.port)
        # The collector would open connections of its own meanwhile.
        self.gateway = lab.podgate(self.proxy, {
            "workers": 1, "collector": {"first_poll": "1h", "max_poll": "1h"}})

    def submit(self, nonce, **options):
        return self.gateway.request("POST", f"/v2/{nonce}/run", self.gateway.key,
                                    {"input": {"nonce": nonce, "pad": "x" * 200}}, **options)

    def accepted(self, nonce):
        return sum(job["endpoint"] == nonce for job in self.sim.jobs())

    def calm(self):
        """No connection is open, and none to come is struck."""
        self.proxy.next_plan = faults.FaultProxy.Plan
        self.proxy.cut_all()
        harness.wait_until(lambda: self.gateway.metric("podgate_upstream_connections_open") == 0)

    def strike_once(self, **plan):
        """The next new connection is struck, those after it are not."""
        plans = [faults.FaultProxy.Plan(**plan)]
        self.calm()
        self.proxy.next_plan = lambda: plans.pop() if plans else faults.FaultProxy.Plan()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    from conftest import Lab
    lab = Lab(tmp_path_factory.mktemp("sweep"))
    yield Sweep(lab)
    lab.close()


def request_size(sweep):
    """Bytes that podgate sends for one such submit."""
    sweep.calm()
    before = sweep.sim.counters()["bytesIn"]
    assert sweep.submit(harness.unique("ep")).status == 200
    return sweep.sim.counters()["bytesIn"] - before


def check_outcome(sweep, nonce, reply, where):
    accepted = sweep.accepted(nonce)
    assert accepted <= 1, f"{where}: submitted {accepted} times"
    if reply.status == 200:
        assert accepted == 1, where
        assert reply.json["id"]
    else:
        wire.assert_problem(reply, reply.status)
        assert reply.status in (502, 504), where
    return accepted


@pytest.mark.parametrize("action", ["reset", "close"])
def test_submit_cut_before_its_last_byte_is_sent_once_more(sweep, action):
    """The upstream can't have a whole request. The last byte decides, and may already be in the
    kernel when the connection breaks: then it is UNKNOWN."""
    size = request_size(sweep)
    for at in [1, 5, 17, 60, size // 2, size - 60, size - 10, size - 1]:
        sweep.strike_once(at=at, direction="up", action=action)
        nonce = harness.unique("ep")
        reply = sweep.submit(nonce)
        accepted = check_outcome(sweep, nonce, reply, f"cut after {at} of {size}")
        if reply.status != 200:
            assert accepted == 0
            assert reply.json["code"] == "submit_unknown"


@pytest.mark.parametrize("action", ["reset", "close"])
def test_submit_cut_behind_its_last_byte_is_never_sent_again(sweep, action):
    size = request_size(sweep)
    sweep.strike_once(at=size, direction="up", action=action)
    nonce = harness.unique("ep")
    reply = sweep.submit(nonce)
    check_outcome(sweep, nonce, reply, "cut behind the request")
    wire.assert_problem(reply, 502, "submit_unknown")
    harness.wait_until(lambda: sweep.gateway.log_lines("submit_unknown"))


@pytest.mark.parametrize("action", ["reset", "close"])
def test_submit_whose_answer_is_cut_anywhere_is_never_sent_again(sweep, action, full):
    step = 1 if full else 23
    for at in range(1, 230, step):
        sweep.strike_once(at=at, direction="down", action=action)
        nonce = harness.unique("ep")
        reply = sweep.submit(nonce)
        assert check_outcome(sweep, nonce, reply, f"answer cut after {at}") == 1


def test_pooled_connection_that_died_costs_no_submit(sweep):
    """Closed by upstream while idle: another connection is taken, and the job submitted once."""
    sweep.calm()
    for _ in range(10):
        assert sweep.submit(harness.unique("ep")).status == 200
        sweep.calm()
        nonce = harness.unique("ep")
        assert sweep.submit(nonce).status == 200
        assert sweep.accepted(nonce) == 1


@pytest.mark.parametrize("direction", ["slow", "late"])
def test_submit_over_a_slow_line_is_whole(sweep, direction):
    """Three bytes at a time both ways, or half a second before each direction's first byte."""
    options = {"drip": 3} if direction == "slow" else {"delay": 0.5}
    sweep.calm()
    sweep.proxy.next_plan = lambda: faults.FaultProxy.Plan(**options)
    nonce = harness.unique("ep")
    reply = sweep.submit(nonce)
    sweep.calm()
    assert reply.status == 200
    assert sweep.accepted(nonce) == 1


def test_corrupt_byte_in_an_answer_is_never_a_second_submit(sweep, full):
    """Whatever the byte was: a status, a length, a brace of the body."""
    for at in range(0, 200, 1 if full else 11):
        sweep.calm()
        plans = [faults.FaultProxy.Plan(flip=at)]
        sweep.proxy.next_plan = lambda: plans.pop() if plans else faults.FaultProxy.Plan()
        nonce = harness.unique("ep")
        reply = sweep.submit(nonce)
        assert sweep.accepted(nonce) == 1, f"byte {at}"
        # Inside of a text of the body nobody can tell.
        assert reply.status in (200, 502, 504), f"byte {at}"
        if reply.status != 200:
            wire.assert_problem(reply, reply.status)
    sweep.calm()
    still_serves(sweep.gateway)


def test_races_with_a_closing_upstream_never_submit_twice(lab, podgate, make_sim):
    """Connections are cut at odd moments while submits are on their way."""
    sim = make_sim("--workers", "100")
    proxy = lab.proxy(sim.port)
    gateway = podgate(proxy, {"workers": 2})
    stop = threading.Event()
    outcomes = []

    def caller():
        while not stop.is_set():
            nonce = harness.unique("ep")
            try:
                outcomes.append((nonce, gateway.request(
                    "POST", f"/v2/{nonce}/run", gateway.key, RUN).status))
            except wire.WireError:
                outcomes.append((nonce, 0))

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for thread in callers:
        thread.start()
    for _ in range(60):
        time.sleep(0.03)
        proxy.cut_all()
    stop.set()
    for thread in callers:
        thread.join()
    counts = {}
    for job in sim.jobs():
        counts[job["endpoint"]] = counts.get(job["endpoint"], 0) + 1
    assert max(counts.values()) == 1
    assert all(counts.get(nonce) == 1 for nonce, status in outcomes if status == 200)
    assert sum(status == 200 for _, status in outcomes) > 20
    assert 0 not in {status for _, status in outcomes}


def test_submit_goes_on_when_its_caller_leaves(lab, podgate, make_sim):
    sim = make_sim()
    sim.fault("delay=500,operation=run")
    gateway = podgate(sim)
    nonce = harness.unique("ep")
    with gateway.connect() as connection:
        body = json.dumps(RUN).encode()
        connection.send(wire.head("POST", f"/v2/{nonce}/run", gateway.key, body) + body)
        harness.wait_until(lambda: sim.requests(endpoint=nonce))
        connection.reset()
    harness.wait_until(lambda: gateway.log_lines("request_done", endpoint=nonce))
    line = gateway.log_lines("request_done", endpoint=nonce)[0]
    job = [job["id"] for job in sim.jobs() if job["endpoint"] == nonce]
    assert line.get("job") == job[0]
