"""podgate-sim's faults: each kind, as the bytes that a peer sees; who is struck, and how often."""

import gzip
import json
import ssl
import subprocess
import time

import pytest

import wire
from harness import unique, wait_until
from test_sim import Caller, refuses


@pytest.fixture
def struck(make_sim):
    """A sim of the test's own, so that its faults strike nobody else."""
    return Caller(make_sim())


def ask(caller, path="health", method="GET", body=None):
    """The bytes of the answer and whether the connection was reset behind them."""
    received = b""
    with wire.Wire.connect(caller.sim.port) as connection:
        body = json.dumps(body).encode() if body is not None else None
        connection.send(wire.head(method, f"/v2/{caller.endpoint}/{path}", caller.sim.key, body,
                                  [("Connection", "close")]) + (body or b""))
        try:
            while piece := connection.sock.recv(65536):
                received += piece
        except ConnectionResetError:
            return received, True
    return received, False


def normal(caller):
    """A connection that stays, and the whole answer of /health as evhttp sends it."""
    return caller("GET", "health")


# ---- instead of the answer -----------------------------------------------------------------------

@pytest.mark.parametrize("form, kind", [("json", "application/json"), ("html", "text/html"),
                                        ("text", "text/plain; charset=UTF-8")])
def test_status_with_each_form_of_body(struck, form, kind):
    struck.sim.fault(f"status=502,body={form},retry-after=7")
    reply = struck("GET", "health")
    assert (reply.status, reply.field("content-type")) == (502, kind)
    assert reply.field("retry-after") == "7"
    assert (b"<html>" in reply.body) == (form == "html")


def test_struck_submit_takes_no_effect_unless_executed(struck):
    struck.sim.fault("status=500,operation=run,count=1")
    struck.sim.fault("status=500,operation=run,count=1,executed=yes")
    for jobs in (0, 1):
        assert struck("POST", "run", {"input": {"a": 1}}).status == 500
        assert len(struck.sim.jobs()) == jobs
    assert struck("POST", "run", {"input": {"a": 1}}).status == 200


def test_redirect(struck):
    struck.sim.fault({"kind": "redirect", "value": "http://elsewhere/v2", "code": 302})
    reply = struck("GET", "health")
    assert (reply.status, reply.field("location")) == (302, "http://elsewhere/v2")


def test_phantom_404(struck):
    job = struck.submit(a=1)
    struck.sim.fault("phantom,operation=status,count=1")
    assert struck("GET", f"status/{job}").json["detail"] == "job not found"
    assert struck("GET", f"status/{job}").status == 200


@pytest.mark.parametrize("form, keys", [("json", ["error"]), ("status", ["status"])])
def test_200_without_id(struck, form, keys):
    struck.sim.fault(f"no-id,body={form}")
    reply = struck("POST", "run", {"input": {"a": 1}})
    assert reply.status == 200 and list(reply.json) == keys


def test_close_without_an_answer(struck):
    struck.sim.fault("close")
    assert ask(struck) == (b"", False)


# ---- the answer altered --------------------------------------------------------------------------

def test_wrong_id(struck):
    struck.sim.fault("wrong-id,operation=status")
    job = struck.submit(a=1)
    other = struck("GET", f"status/{job}").json["id"]
    assert other == "deadbeef" + job[8:]


def test_echo_of_the_key(struck):
    struck.sim.fault("echo")
    reply = struck("GET", "health")
    secret = f"Bearer {struck.sim.key}"
    assert reply.field("x-echo-authorization") == secret
    assert reply.json["zEcho"] == secret


def test_gzip_is_valid(struck):
    plain = normal(struck).body
    struck.sim.fault("gzip")
    reply = struck("GET", "health")
    assert reply.field("content-encoding") == "gzip"
    assert gzip.decompress(reply.body) == plain


def test_gzip_of_a_large_body(struck):
    job = struck.submit(mock_raw_output_bytes=200000)
    struck.ended(job)
    struck.sim.fault("gzip")
    body = json.loads(gzip.decompress(struck("GET", f"status/{job}").body))
    assert body["output"] == "x" * 199998


@pytest.mark.parametrize("count", [0, 1, 17, 60, 200])
def test_cut_and_reset_after_exactly_n_bytes(struck, count):
    number = struck.sim.fault(f"drip=1,bytes=4096")
    whole, reset = ask(struck)
    assert not reset and len(whole) > 200
    struck.sim.control("DELETE", f"fault/{number}")
    for kind, expected in (("cut", False), ("reset", True)):
        number = struck.sim.fault(f"{kind}={count}")
        assert ask(struck) == (whole[:count], expected)
        struck.sim.control("DELETE", f"fault/{number}")


def test_stall_after_n_bytes(struck):
    struck.sim.fault("stall=30")
    with wire.Wire.connect(struck.sim.port) as connection:
        connection.send(wire.head("GET", f"/v2/{struck.endpoint}/health", struck.sim.key))
        assert len(connection.read_exactly(30)) == 30
        assert not connection.closes_within(0.3)


def test_delay_and_drip_come_whole(struck):
    plain = normal(struck).body
    struck.sim.fault("delay=150,count=1")
    assert struck("GET", "health").body == plain
    struck.sim.fault("drip=1,bytes=20,count=1")
    assert struck("GET", "health").body == plain
    assert struck.sim.control("GET", "fault")["faults"][0]["hits"] == 1


def test_delayed_answer_to_a_caller_who_left(struck):
    struck.sim.fault("delay=60000,operation=run,count=1")
    hang_ups = struck.sim.counters()["hangUps"]
    body = b'{"input":{"a":1}}'
    with wire.Wire.connect(struck.sim.port) as connection:
        connection.send(wire.head("POST", f"/v2/{struck.endpoint}/run", struck.sim.key, body) + body)
        wait_until(struck.sim.jobs)
    wait_until(lambda: struck.sim.counters()["hangUps"] > hang_ups)


@pytest.mark.parametrize("difference", [-3, 10])
def test_wrong_content_length(struck, difference):
    struck.sim.fault({"kind": "wrong-length", "value": difference})
    received, _ = ask(struck)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % (len(body) + difference) in head


def test_framings_that_contradict_each_other(struck):
    struck.sim.fault("twin-length,count=1")
    head = ask(struck)[0].partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"content-length:") == 2
    struck.sim.fault("both-framings,count=1")
    head = ask(struck)[0].partition(b"\r\n\r\n")[0].lower()
    assert b"content-length:" in head and b"transfer-encoding: chunked" in head


def test_no_length_is_ended_by_the_connection(struck):
    plain = normal(struck).body
    struck.sim.fault("no-length")
    head, _, body = ask(struck)[0].partition(b"\r\n\r\n")
    assert b"content-length" not in head.lower() and body == plain


def test_bad_chunk(struck):
    struck.sim.fault("bad-chunk")
    with pytest.raises(ValueError):
        struck("GET", "health")


def test_garbage(struck):
    struck.sim.fault("garbage")
    with pytest.raises(wire.WireError):
        struck("GET", "health")


def test_interim_answers_come_first(struck):
    struck.sim.fault("1xx=5")
    reply = struck("GET", "health")
    assert (reply.status, reply.interim) == (200, [103] * 5)


def test_stray_bytes_behind_the_answer(struck):
    struck.sim.fault("extra=7")
    with wire.Wire.connect(struck.sim.port) as connection:
        assert connection.request("GET", f"/v2/{struck.endpoint}/health", struck.sim.key).status == 200
        assert connection.read_exactly(7) == b"XXXXXXX"
        assert not connection.closes_within(0.2)


def test_large_header(struck):
    struck.sim.fault("big-header=70001")
    assert len(struck("GET", "health").field("x-filler")) == 70001


def test_raw_answer(struck):
    text = "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n"
    struck.sim.fault({"kind": "raw", "value": text})
    assert ask(struck) == (text.encode(), False)


@pytest.mark.parametrize("kind, reset", [("cut", False), ("reset", True)])
def test_event_stream_ends_early(struck, kind, reset):
    struck.sim.fault(f"{kind}=400,operation=openai")
    body = {"stream": True, "mock_stream": 50, "mock_stream_interval": 2}
    received, was_reset = ask(struck, "openai/v1/completions", "POST", body)
    assert (len(received), was_reset) == (400, reset)
    assert received.count(b"data: ") >= 1


def test_event_stream_with_a_bad_chunk(struck):
    struck.sim.fault("bad-chunk,operation=openai")
    body = {"stream": True, "mock_stream": 5, "mock_stream_interval": 2}
    received, _ = ask(struck, "openai/v1/completions", "POST", body)
    assert b"\r\nzz\r\n" in received


# ---- connections and requests that arrive --------------------------------------------------------

@pytest.mark.parametrize("kind, expected", [
    ("accept-close", (b"", False)), ("accept-reset", (b"", True))])
def test_connection_ends_as_it_is_accepted(struck, kind, expected):
    struck.sim.fault(f"{kind},count=1")
    try:
        assert ask(struck) == expected
    except (ConnectionResetError, BrokenPipeError):
        assert kind == "accept-reset"
    assert struck("GET", "health").status == 200


def test_accept_garbage(struck):
    struck.sim.fault("accept-garbage,count=1")
    with wire.Wire.connect(struck.sim.port) as connection:
        assert b"garbage" in connection.read_to_end()


def test_refuse_for_a_time_and_until_removed(struck):
    struck.sim.fault("refuse=200")
    assert refuses(struck.sim.port)
    wait_until(lambda: not refuses(struck.sim.port))
    number = struck.sim.fault("refuse")
    with pytest.raises(ConnectionRefusedError):
        struck("GET", "health")
    struck.sim.control("DELETE", f"fault/{number}")
    assert struck("GET", "health").status == 200


def test_request_is_reset_at_any_byte_and_takes_no_effect(struck):
    body = b'{"input":{"a":1}}'
    request = wire.head("POST", f"/v2/{struck.endpoint}/run", struck.sim.key, body) + body
    for at in (1, 20, len(request) - len(body), len(request) - 1, len(request)):
        number = struck.sim.fault(f"reset-request={at},operation=run")
        with wire.Wire.connect(struck.sim.port) as connection:
            connection.send(request)
            with pytest.raises(ConnectionResetError):
                if connection.sock.recv(1) == b"":
                    pytest.fail("FIN instead of RST")
        struck.sim.control("DELETE", f"fault/{number}")
    assert struck.sim.jobs() == []
    assert struck("POST", "run", body).status == 200


def test_reset_after_the_request_took_effect(struck):
    struck.sim.fault("reset=0,operation=run,count=1")
    assert ask(struck, "run", "POST", {"input": {"a": 1}}) == (b"", True)
    assert len(struck.sim.jobs()) == 1


# ---- who is struck -------------------------------------------------------------------------------

def test_terms_choose_requests(struck):
    other = Caller(struck.sim)
    struck.sim.fault(f"status=503,operation=health,endpoint={struck.endpoint},method=GET,skip=1,count=2")
    statuses = [struck("GET", "health").status for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    assert other("GET", "health").status == 200
    assert struck("POST", "run", {"input": {"a": 1}}).status == 200
    entry, = struck.sim.control("GET", "fault")["faults"]
    assert (entry["kind"], entry["hits"], entry["count"]) == ("status", 2, 0)
    struck.sim.clear_faults()
    assert struck.sim.control("GET", "fault")["faults"] == []


@pytest.mark.parametrize("text", ["", "nothing", "status", "status=99", "status=503,count=x",
                                  "status=503,what=1", '{"kind":"raw"}', '{"value":1}', "redirect"])
def test_wrong_specifications_are_refused(struck, text):
    reply = wire.request(struck.sim.control_port, "POST", "/sim/v1/fault", body=text.encode())
    assert reply.status == 400 and reply.json["error"]


def test_fault_option(make_sim):
    caller = Caller(make_sim("--fault", "status=503,operation=run", "--fault", "delay=1"))
    assert caller("POST", "run", {"input": {"a": 1}}).status == 503
    assert caller("GET", "health").status == 200


# ---- TLS -----------------------------------------------------------------------------------------

@pytest.fixture
def certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    return key, certificate


def tls_sim(make_sim, certificate, *arguments):
    key, chain = certificate
    caller = Caller(make_sim("--tls-key", str(key), "--tls-certificate", str(chain), *arguments))
    context = ssl.create_default_context(cafile=str(chain))
    return caller, context


def test_tls_speaks_http11_only(make_sim, certificate):
    caller, context = tls_sim(make_sim, certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with wire.Wire.connect(caller.sim.port, tls=context, server_name="localhost") as connection:
        assert connection.sock.selected_alpn_protocol() == "http/1.1"
        reply = connection.request("GET", f"/v2/{caller.endpoint}/health", caller.sim.key)
        assert reply.status == 200


def test_tls_faults(make_sim, certificate):
    caller, context = tls_sim(make_sim, certificate)
    for kind in ("accept-close", "accept-reset", "accept-garbage"):
        caller.sim.fault(f"{kind},count=1")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            wire.Wire.connect(caller.sim.port, tls=context, server_name="localhost")
    caller.sim.fault("cut=40,count=1")
    with wire.Wire.connect(caller.sim.port, tls=context, server_name="localhost") as connection:
        connection.send(wire.head("GET", f"/v2/{caller.endpoint}/health", caller.sim.key))
        assert len(connection.read_to_end()) == 40


def test_command_line_mistakes(tmp_path):
    from harness import program
    missing = str(tmp_path / "missing.pem")
    for arguments, code, text in (
            (["--nonsense"], 64, "nonsense"), (["--workers", "x"], 64, "--workers x"),
            (["extra"], 64, "extra"), (["--time-scale", "0"], 64, "--time-scale 0"),
            (["--tls-key", missing], 64, "go together"), (["--fault", "nonsense"], 64, "nonsense"),
            (["--listen", "127.0.0.1"], 69, "HOST:PORT"),
            (["--tls-key", missing, "--tls-certificate", missing], 78, missing),
            (["--log", str(tmp_path / "no" / "log")], 73, "No such file")):
        listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
        done = subprocess.run([program("podgate-sim"), *listen, *arguments], capture_output=True,
                              text=True, timeout=20)
        assert (done.returncode, text in done.stderr) == (code, True), done
    done = subprocess.run([program("podgate-sim"), "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("podgate-sim ")


def test_busy_port(struck):
    from harness import program
    done = subprocess.run([program("podgate-sim"), "--listen", f"127.0.0.1:{struck.sim.port}"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 69 and "in use" in done.stderr


def test_nonce_of_a_job_is_found(struck):
    nonce = unique()
    struck.submit(nonce=nonce)
    assert struck.sim.count_containing(nonce) == 1


def test_event_stream_that_begins_late(struck):
    struck.sim.fault("delay=300,operation=openai,count=1")
    body = {"stream": True, "mock_stream": 3}
    with wire.Wire.connect(struck.sim.port) as connection:
        raw = json.dumps(body).encode()
        connection.send(wire.head("POST", f"/v2/{struck.endpoint}/openai/v1/completions",
                                  struck.sim.key, raw) + raw)
        began = time.monotonic()
        reply = connection.read_reply()
    assert time.monotonic() - began >= 0.29
    assert reply.body.count(b"data: ") == 4
