"""The grammar of paths and queries, methods, and what podgate adds to requests and answers."""

import json
import re
import time

import pytest

import harness
import wire

RUN = {"input": {"a": 1}}


def submit(gateway, endpoint, **job_input):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, {"input": job_input})
    assert reply.status == 200, reply
    return reply.json["id"]


def last(sim, endpoint):
    return sim.requests(endpoint=endpoint)[-1]


# ---- paths ---------------------------------------------------------------------------------------

NOT_FOUND = ["/", "/v2", "/v2/", "/v1/ep/run", "/v3/ep/run", "/V2/ep/run", "/v2/ep", "/v2/ep/",
             "/v2/ep/Run", "/v2/ep/RUN", "/v2/ep/runs", "/v2/ep/run/extra", "/v2/ep/status",
             "/v2/ep/status/", "/v2/ep/status/a/b", "/v2/ep/status/a%2fb", "/v2/ep/status/a%00",
             "/v2/ep/%72un", "/v2/%65p/run", "/v2/e.p/run", "/v2/ep;a=b/run", "/v2/ep/run;x",
             "/v2/ep/../other/run", "/v2/./ep/run", "/v2/ep/status/..", "/v2/ep/status/.",
             "/v2/ep/status/a.b", "/v2/ep/status/a~b", "/v2/ep/metrics", "/v2/ep/logs",
             "/v2/ep/realtime", "/v2/ep/health/x", "/v2/ep/openai/../run", "/v2/ep/openai/%2e%2e/run",
             "/v2/ep/openai/v1/./models", "/v2/ep/openai/v1/a%20b", "/v2/ep/openai/v1/a;b",
             "/v2/ep/batch/../run", "/v2/" + "e" * 65 + "/health", "/v2/ep/status/" + "j" * 129,
             "/podgate", "/podgate/v1", "/podgate/v1/who", "/metrics", "/livez", "/readyz",
             "/sim/v1/requests", "/favicon.ico"]


@pytest.mark.parametrize("path", NOT_FOUND)
def test_other_paths_are_404_and_never_go_up(gateway, sim, path):
    mark = harness.unique("ep")
    for method in ("GET", "POST"):
        reply = gateway.request(method, path.replace("ep", mark, 1), gateway.key,
                                b"{}" if method == "POST" else None)
        wire.assert_problem(reply, 404)
    assert sim.count_containing(mark) == 0


def test_longest_ids_are_served(gateway, sim):
    assert gateway.request("GET", "/v2/" + "e" * 64 + "/health", gateway.key).status == 200
    endpoint = harness.unique("ep")
    job = "j" * 128
    assert gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key).status == 404
    assert last(sim, endpoint)["job"] == job


@pytest.mark.parametrize("form", ["//v2/{}/health", "/v2//{}/health", "/v2/{}//health",
                                  "/v2/{}/health/", "///v2///{}///health"])
def test_runs_of_slashes_count_as_one(gateway, sim, endpoint, form):
    reply = gateway.request("GET", form.format(endpoint), gateway.key)
    if form.endswith("/"):
        assert reply.status in (200, 404)
    else:
        assert reply.status == 200
        assert last(sim, endpoint)["target"] == f"/v2/{endpoint}/health"


# ---- methods -------------------------------------------------------------------------------------

METHODS = {
    "run": {"POST"}, "runsync": {"POST"}, "status/j": {"GET", "POST"},
    "status-sync/j": {"GET", "POST"}, "stream/j": {"GET", "POST"}, "cancel/j": {"POST"},
    "retry/j": {"POST"}, "purge-queue": {"POST"}, "health": {"GET"}, "requests": {"GET"},
}


@pytest.mark.parametrize("path", METHODS)
def test_wrong_methods_are_405_and_say_which_are_right(gateway, sim, endpoint, path):
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - METHODS[path]:
        reply = gateway.request(method, f"/v2/{endpoint}/{path}", gateway.key)
        wire.assert_problem(reply, 405)
        allowed = {word.strip() for word in reply.field("allow").split(",")}
        assert METHODS[path] <= allowed <= METHODS[path] | {"HEAD", "OPTIONS"}
    assert sim.requests(endpoint=endpoint) == []


@pytest.mark.parametrize("path", ["/podgate/v1/whoami", "/v2/{}/health", "/v2/{}/status/x-u1"])
def test_head_has_no_body(gateway, endpoint, path):
    with gateway.connect() as connection:
        reply = connection.request("HEAD", path.format(endpoint), gateway.key)
        assert reply.status in (200, 404, 405)
        assert reply.body == b""
        assert connection.request("GET", "/podgate/v1/whoami", gateway.key).status == 200


# ---- queries -------------------------------------------------------------------------------------

@pytest.mark.parametrize("sent, received", [
    ("", ""), ("?", ""), ("?foo=1", ""), ("?ttl=6000", "?ttl=6000"), ("?ttl=6000&x=y", "?ttl=6000"),
    ("?x=../..&ttl=6000", "?ttl=6000")])
def test_query_is_built_anew_from_what_is_known(gateway, sim, endpoint, sent, received):
    job = submit(gateway, endpoint, a=1)
    gateway.request("GET", f"/v2/{endpoint}/status/{job}{sent}", gateway.key)
    seen = sim.requests(endpoint=endpoint, operation="status")[-1]
    assert seen["target"] == f"/v2/{endpoint}/status/{job}{received}"


def test_ttl_goes_up_on_submits_too(gateway, sim, endpoint):
    gateway.request("POST", f"/v2/{endpoint}/run?ttl=7200000&b=c", gateway.key, RUN)
    assert last(sim, endpoint)["target"] == f"/v2/{endpoint}/run?ttl=7200000"


def test_ttl_on_status_needs_a_key_that_may_submit(lab, podgate, sim, endpoint):
    reader, writer = harness.make_key("reader"), harness.make_key("writer")
    gateway = podgate(sim, {"team": {"alpha": {"key": {
        "reader": harness.key_section(reader, operations=["status"]),
        "writer": harness.key_section(writer, operations=["status", "run"])}}}})
    job = gateway.request("POST", f"/v2/{endpoint}/run", writer.text, RUN).json["id"]
    target = f"/v2/{endpoint}/status/{job}"
    assert gateway.request("GET", target, reader.text).status == 200
    wire.assert_problem(gateway.request("GET", target + "?ttl=6000", reader.text), 403)
    assert not [entry for entry in sim.requests(endpoint=endpoint) if "ttl" in entry["target"]]
    assert gateway.request("GET", target + "?ttl=6000", writer.text).status == 200


def test_query_of_openai_goes_up_as_it_is(gateway, sim, endpoint):
    query = "?a=1&b=%20x&a=2&limit=3"
    gateway.request("GET", f"/v2/{endpoint}/openai/v1/models{query}", gateway.key)
    assert last(sim, endpoint)["target"] == f"/v2/{endpoint}/openai/v1/models{query}"


@pytest.mark.parametrize("value", ["abc", "1s", "-1", "1.5", "", "0x10", "%31", "1000 "])
@pytest.mark.parametrize("path", ["runsync", "status-sync/j", "stream/j"])
def test_wait_that_is_no_number_is_400(gateway, sim, endpoint, path, value):
    if value.endswith(" "):
        value = value.replace(" ", "+")
    reply = gateway.request("POST", f"/v2/{endpoint}/{path}?wait={value}", gateway.key, RUN)
    wire.assert_problem(reply, 400)
    assert sim.requests(endpoint=endpoint) == []


def test_wait_zero_of_stream_is_a_second(gateway, endpoint):
    job = submit(gateway, endpoint, mock_delay=60000)
    began = time.monotonic()
    reply = gateway.request("POST", f"/v2/{endpoint}/stream/{job}?wait=0", gateway.key)
    assert reply.json["stream"] == []
    assert 0.9 < time.monotonic() - began < 2 * harness.PATIENCE + 0.5


def test_wait_zero_of_status_sync_is_a_second(gateway, endpoint):
    job = submit(gateway, endpoint, mock_delay=60000)
    began = time.monotonic()
    reply = gateway.request("POST", f"/v2/{endpoint}/status-sync/{job}?wait=0", gateway.key)
    assert reply.json["status"] == "IN_PROGRESS"
    assert 0.9 < time.monotonic() - began < 2 * harness.PATIENCE + 0.5


# ---- single operations ---------------------------------------------------------------------------

def test_whoami_tells_about_the_key_and_no_secret(gateway, sim):
    before = sim.counters()["requests"]
    reply = gateway.request("GET", "/podgate/v1/whoami", gateway.key)
    assert reply.status == 200
    assert reply.from_gateway
    assert reply.json["team"] == "alpha"
    assert "main" in json.dumps(reply.json)
    secret = gateway.key.split("_")[2]
    assert secret not in reply.body.decode()
    assert gateway.effective["team"]["alpha"]["key"]["main"]["sha256"] not in reply.body.decode()
    assert harness.UPSTREAM_KEY not in reply.body.decode()
    assert sim.counters()["requests"] == before


def test_purge_empties_ones_own_queue_and_purge_all_the_endpoints(lab, podgate, sim, endpoint):
    purge, everything = harness.make_key("purge"), harness.make_key("everything")
    gateway = podgate(sim, {"team": {
        "alpha": {"key": {"purge": harness.key_section(purge, operations=["run", "purge"])}},
        "beta": {"key": {"everything": harness.key_section(
            everything, operations=["run", "purge-all"])}}}})
    sim.set_endpoint(endpoint, workers=0)
    gateway.request("POST", f"/v2/{endpoint}/run", purge.text, RUN)
    gateway.request("POST", f"/v2/{endpoint}/run", everything.text, RUN)
    reply = gateway.request("POST", f"/v2/{endpoint}/purge-queue", purge.text)
    assert reply.json == {"removed": 1, "status": "completed"}
    harness.wait_until(lambda: len(sim.requests(endpoint=endpoint, operation="cancel")) == 1)
    reply = gateway.request("POST", f"/v2/{endpoint}/purge-queue", everything.text)
    assert reply.json == {"removed": 1, "status": "completed"}


def test_requests_and_batch_need_their_operations(lab, podgate, sim, endpoint):
    plain = harness.make_key("plain")
    gateway = podgate(sim, {"team": {"alpha": {"key": {
        "plain": harness.key_section(plain, operations=None)}}}})
    for path in ("requests", "batch"):
        wire.assert_problem(gateway.request("GET", f"/v2/{endpoint}/{path}", plain.text), 403)


def test_requests_is_passed_through(gateway, sim, endpoint):
    job = submit(gateway, endpoint, a=1)
    reply = gateway.request("GET", f"/v2/{endpoint}/requests", gateway.key)
    assert job in [entry["id"] for entry in reply.json["requests"]]


def test_batch_is_passed_through_with_its_methods_and_paths(lab, podgate):
    import faults
    upstream = lab.scripted(lambda received, connection: faults.response(body=b'[{"a":1}]'))
    gateway = podgate(upstream)
    for method, path in (("POST", "batch"), ("GET", "batch?offset=1&limit=2"), ("GET", "batch/b_1"),
                         ("PUT", "batch/b_1/requests/req_1"), ("DELETE", "batch/b_1/requests/req_1"),
                         ("POST", "batch/b_1/finalize"), ("POST", "batch/b_1/cancel")):
        body = b'[{"input":{}}]' if method in ("POST", "PUT") else None
        reply = gateway.request(method, f"/v2/ep/{path}", gateway.key, body)
        assert (reply.status, reply.body) == (200, b'[{"a":1}]'), (method, path)
        seen = upstream.requests[-1]
        assert (seen.method, seen.target) == (method, f"/v2/ep/{path}")
        assert seen.body == (body or b"")


def test_cancelled_job_is_seen_as_cancelled_at_once(gateway, endpoint):
    job = submit(gateway, endpoint, mock_delay=60000)
    for _ in range(2):
        assert gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key).status == 200
    assert gateway.request("POST", f"/v2/{endpoint}/cancel/{job}", gateway.key).status == 200
    status = gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key).json["status"]
    assert status == "CANCELLED"


def test_retried_job_is_not_seen_as_failed_any_more(gateway, endpoint):
    job = submit(gateway, endpoint, mock_error="boom", mock_delay=400)
    target = f"/v2/{endpoint}/status/{job}"
    harness.wait_until(
        lambda: gateway.request("GET", target, gateway.key).json["status"] == "FAILED")
    assert gateway.request("POST", f"/v2/{endpoint}/retry/{job}", gateway.key).status == 200
    status = gateway.request("GET", target, gateway.key).json["status"]
    assert status in ("IN_QUEUE", "IN_PROGRESS")


def test_status_is_shared_for_its_freshness(gateway, sim, endpoint):
    job = submit(gateway, endpoint, mock_delay=60000)
    for _ in range(50):
        gateway.request("GET", f"/v2/{endpoint}/status/{job}", gateway.key)
    assert len(sim.requests(endpoint=endpoint, operation="status")) < 25
    gateway.request("POST", f"/v2/{endpoint}/cancel/{job}", gateway.key)


def test_health_is_shared_for_a_second(gateway, sim, endpoint):
    replies = [gateway.request("GET", f"/v2/{endpoint}/health", gateway.key) for _ in range(50)]
    assert {reply.status for reply in replies} == {200}
    assert len(sim.requests(endpoint=endpoint, operation="health")) < 25


# ---- submits -------------------------------------------------------------------------------------

@pytest.mark.parametrize("operation", ["run", "runsync"])
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"input":}', b'{"a":1}x',
                                  b"{'input':1}", b'{"input":{"a":1,}}', b"\x00"])
def test_invalid_json_is_refused_here(gateway, sim, endpoint, operation, body):
    reply = gateway.request("POST", f"/v2/{endpoint}/{operation}", gateway.key, body)
    wire.assert_problem(reply, 400)
    assert sim.requests(endpoint=endpoint) == []


@pytest.mark.parametrize("body", [b"{}", b'{"webhook":"http://127.0.0.1:9/x"}', b'{"input":null}'])
def test_missing_input_is_upstreams_matter(gateway, sim, endpoint, body):
    assert gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, body).status == 200
    assert last(sim, endpoint)["bodyStart"] == body.decode()


@pytest.mark.parametrize("body", [b'{"input":[1]}', b'{"input":"text"}'])
def test_refusal_of_upstream_passes_byte_for_byte(gateway, sim, endpoint, body):
    through = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, body)
    direct = wire.request(sim.port, "POST", f"/v2/{endpoint}/run", sim.key, body)
    assert (through.status, through.body) == (direct.status, direct.body) != (200, b"")
    assert not through.from_gateway


def test_unknown_job_is_told_in_podgates_words(gateway, sim, endpoint):
    target = f"/v2/{endpoint}/status/nothing-u1"
    wire.assert_problem(gateway.request("GET", target, gateway.key), 404, "job_not_found")


# ---- fields --------------------------------------------------------------------------------------

def test_request_id_is_taken_over_when_well_formed(gateway, sim, endpoint):
    given = harness.unique("request-")
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, RUN,
                            [("X-Request-Id", given)])
    assert reply.field("x-request-id") == given
    assert last(sim, endpoint)["fields"]["x-request-id"] == given
    harness.wait_until(lambda: gateway.log_lines("request_done", request_id=given))


@pytest.mark.parametrize("odd", ["a b", "a\tb", "x" * 2000, '"quoted"', "<script>", ""])
def test_odd_request_id_is_replaced(gateway, sim, endpoint, odd):
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, RUN, [("X-Request-Id", odd)])
    made = reply.field("x-request-id")
    assert re.fullmatch(r"[A-Za-z0-9._:-]{8,128}", made)
    assert made != odd
    assert last(sim, endpoint)["fields"]["x-request-id"] == made


def test_every_answer_has_a_request_id_of_its_own(gateway):
    ids = {gateway.request("GET", "/podgate/v1/whoami", gateway.key).field("x-request-id")
           for _ in range(20)}
    assert len(ids) == 20


def test_trace_context_and_via_go_up(gateway, sim, endpoint):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    reply = gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, RUN,
                            [("traceparent", trace), ("tracestate", "a=b")])
    fields = last(sim, endpoint)["fields"]
    assert fields["traceparent"] == trace
    assert fields["tracestate"] == "a=b"
    assert "podgate" in fields["via"]
    assert "podgate" in reply.field("via")
    assert fields["host"] == f"127.0.0.1:{sim.port}"


def test_only_listed_fields_go_up(gateway, sim, endpoint):
    mark = harness.unique()
    gateway.request("POST", f"/v2/{endpoint}/run", gateway.key, RUN, [
        ("X-Anything", mark), ("Referer", mark), ("Origin", mark), ("If-None-Match", mark),
        ("Range", mark), ("Via", mark), ("Podgate-Origin", mark), ("Accept-Encoding", "gzip, br")])
    entry = last(sim, endpoint)
    assert mark not in json.dumps(entry)
    assert "gzip" not in entry["fields"].get("accept-encoding", "")


def test_only_listed_fields_come_back(lab, podgate):
    import faults
    job = b'{"id":"j","status":"IN_QUEUE"}'
    upstream = lab.scripted(lambda received, connection: faults.response(body=job, fields=[
        ("Set-Cookie", "a=b"), ("Server", "secret/1"), ("X-Powered-By", "x"), ("Location", "/x"),
        ("WWW-Authenticate", "Basic"), ("Connection", "X-Hop"), ("X-Hop", "1"),
        ("Cache-Control", "no-store")]))
    reply = podgate(upstream).request("GET", "/v2/ep/status/j", lab.made[-1].key)
    assert reply.status == 200
    names = {name for name, _ in reply.fields}
    assert not names & {"set-cookie", "x-powered-by", "location", "www-authenticate", "x-hop"}
    assert reply.field("server") != "secret/1"
    assert len([name for name, _ in reply.fields if name == "date"]) == 1


def test_cors_is_off_by_default(gateway):
    reply = gateway.request("GET", "/podgate/v1/whoami", gateway.key,
                            fields=[("Origin", "https://a.example")])
    assert reply.field("access-control-allow-origin") is None
    preflight = gateway.request("OPTIONS", "/v2/ep/run", fields=[
        ("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST")])
    assert preflight.field("access-control-allow-origin") is None


def test_cors_for_listed_origins(lab, podgate, sim):
    gateway = podgate(sim, {"cors_origins": ["https://a.example"]})
    for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        reply = gateway.request("GET", "/podgate/v1/whoami", gateway.key, fields=[("Origin", origin)])
        assert reply.field("access-control-allow-origin") == allowed
    preflight = gateway.request("OPTIONS", "/v2/ep/run", fields=[
        ("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization")])
    assert preflight.status in (200, 204)
    assert preflight.field("access-control-allow-origin") == "https://a.example"
    assert "POST" in preflight.field("access-control-allow-methods", "")


def test_server_timing_when_configured(lab, podgate, sim, endpoint):
    gateway = podgate(sim, {"server_timing": True})
    reply = gateway.request("GET", f"/v2/{endpoint}/health", gateway.key)
    assert reply.status == 200
    assert "dur=" in reply.field("server-timing", "")


# ---- the access log ------------------------------------------------------------------------------

def test_one_log_line_per_request_with_who_what_and_how(gateway, endpoint):
    given = harness.unique("request-")
    secret = harness.unique("secret")
    job = gateway.request("POST", f"/v2/{endpoint}/run?x={secret}", gateway.key,
                          {"input": {"secret": secret}}, [("X-Request-Id", given)]).json["id"]
    line = harness.wait_until(lambda: gateway.log_lines("request_done", request_id=given))[0]
    assert line["team"] == "alpha"
    assert line["key"] == "main"
    assert line["operation"] == "run"
    assert line["endpoint"] == endpoint
    assert line["job"] == job
    assert line["status"] == "200"
    assert secret not in gateway.log()
    assert gateway.key not in gateway.log()


def test_callers_bytes_are_escaped_in_the_log(gateway, endpoint):
    """A request id can't forge a line; what isn't well-formed never gets there."""
    with gateway.connect() as connection:
        connection.send(wire.head("GET", f"/v2/{endpoint}/health", gateway.key,
                                  fields=[("X-Request-Id", "a level=error event=forged")]))
        assert connection.read_reply().status == 200
    assert "event=forged" not in gateway.log()
