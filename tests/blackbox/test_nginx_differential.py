"""The same bytes to nginx and to podgate: podgate must not see more in them than nginx does.

Every seed of the request parser's fuzzer and every malformed request goes to both, with a good
request (the sentinel) directly behind it. Each server's view is a list with one entry for every
answer, `seen`, `refused` or `sentinel`; nginx answers 200 to whatever it can parse, so that any
other status of its is a refusal. Position by position:

- What nginx refuses, podgate refuses too, or it has ended the connection before.
- Where both go on, the next request begins at the same byte: the sentinel is at the same position
  for both, and podgate sees no request that nginx doesn't see.
- podgate may refuse what nginx takes, or end earlier; then it ends the connection, so that nobody's
  bytes are read as another request. EXCEPTIONS holds what is left."""

import concurrent.futures
import shutil

import pytest

import harness
import malformed
import wire

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
SENTINEL = "/podgate/v1/whoami"
CORPUS = harness.SOURCE / "fuzz/corpus/http_request"

# The cases for which the rule doesn't hold, with the reason. In all of them nginx refuses a method
# or form that is well-formed HTTP, and podgate's answer leaves the connection open: head and framing
# are in order, and podgate sees the next request at the byte where the first one ends.
EXCEPTIONS = {
    "asterisk": "OPTIONS * is a request for the server itself (RFC 9112, 3.2.4); nginx refuses it",
    "method-lower": "a method is any token (RFC 9110, 9.1): 501 for one that nobody knows",
    "method_in_lower_case": "the same",
    "trace": "TRACE is well-formed: 501; nginx refuses it as it does what is malformed",
}

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    client_header_buffer_size 16k;
    large_client_header_buffers 8 64k;
    ignore_invalid_headers off;
    keepalive_timeout 5s;
    client_header_timeout 1s;
    client_body_timeout 1s;
    lingering_time 1s;
    lingering_timeout 1s;
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 200 "seen"; }}
        location = {sentinel} {{ return 200 "sentinel"; }}
    }}
}}
"""


class Nginx(harness.Program):
    def __init__(self, directory):
        super().__init__(directory, "nginx")
        self.port = harness.PORTS.take()
        path = self.directory / "nginx.conf"
        path.write_text(CONFIGURATION.format(directory=self.directory, port=self.port,
                                             sentinel=SENTINEL))
        self.spawn([NGINX, "-p", str(self.directory), "-c", str(path), "-e", "stderr"])
        harness.wait_until(lambda: self.answers() or not self.is_running(), 10, "nginx's answer")
        assert self.is_running(), self.log()

    def answers(self):
        try:
            return wire.request(self.port, "GET", SENTINEL).body == b"sentinel"
        except (OSError, wire.WireError):
            return False

    def stop(self):
        self.kill()
        harness.PORTS.give_back(self.port)


@pytest.fixture
def pair(lab):
    """An nginx and a podgate, which ends silent connections as soon as nginx does."""
    if NGINX is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    nginx = Nginx(lab.next_directory("nginx"))
    lab.made.append(nginx)
    podgate = lab.podgate(lab.sim("--workers", "50"), {"timeouts": {"head": "1s", "body": "1s"}})
    return nginx, podgate


# ---- what a server sees --------------------------------------------------------------------------

class View:
    """`entries`: one for every answer. `ended`: the server ended the connection by itself."""

    def __init__(self, entries, ended):
        self.entries = entries
        self.ended = ended

    def __repr__(self):
        return f"{self.entries}{'' if self.ended else ' and goes on'}"


def view(port, data, entry_of):
    entries = []
    with wire.Wire.connect(port, timeout=8 * harness.PATIENCE) as connection:
        wire.try_send(connection, data)
        while True:
            try:
                entries.append(entry_of(connection.read_reply()))
            except wire.Closed:
                return View(entries, True)
            except wire.WireError:
                # nginx answers HTTP/0.9 without a head.
                return View(entries + ["seen"], True)
            except TimeoutError:
                return View(entries, False)


def entry_of_nginx(reply):
    return reply.body.decode() if reply.status == 200 else "refused"


# 404, and 405 of a route, say that the request as such was understood.
UNDERSTOOD = (401, 402, 403, 404, 405, 409, 410, 415, 422, 429, 503)


def entry_of_podgate(reply):
    if reply.from_gateway and reply.status >= 400 and reply.status not in UNDERSTOOD:
        return "refused"
    return "sentinel" if reply.status == 200 and b'"team"' in reply.body else "seen"


def difference(nginx, podgate):
    """What breaks the rule, or None."""
    if len(podgate.entries) > len(nginx.entries):
        return "podgate sees more requests than nginx"
    for position, (theirs, ours) in enumerate(zip(nginx.entries, podgate.entries)):
        if theirs == "refused" and ours != "refused":
            return f"podgate takes request {position}, which nginx refuses"
        if ours != theirs and ours != "refused":
            return f"request {position} is another one for podgate"
    if not podgate.ended:
        return "podgate doesn't end the connection"
    return None


def compare(pair, cases):
    """For {name: bytes}: {name: what differs}, and {name: the two views}."""
    nginx, podgate = pair
    sentinel = wire.head("GET", SENTINEL, podgate.key, fields=[("Connection", "close")])

    def both(item):
        name, data = item
        views = (view(nginx.port, data + sentinel, entry_of_nginx),
                 view(podgate.port, data + sentinel, entry_of_podgate))
        broken = difference(*views)
        return name, broken and f"{broken}: nginx {views[0]}, podgate {views[1]}", views

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        results = list(pool.map(both, cases.items()))
    return ({name: broken for name, broken, _ in results if broken},
            {name: views for name, _, views in results})


def assert_only_exceptions(broken, cases):
    """An exception that is none any more fails too."""
    assert {name: text for name, text in broken.items() if name not in EXCEPTIONS} == {}
    assert {name for name in EXCEPTIONS if name in cases} == set(broken)


def with_key(data, key):
    """A seed, authorized where it can be, so that podgate reads on behind the head."""
    host = b"Host: 127.0.0.1:8080\r\n"
    if b"Authorization:" in data:
        return data
    return data.replace(host, host + f"Authorization: Bearer {key}\r\n".encode(), 1)


# ---- tests ---------------------------------------------------------------------------------------

def test_podgate_sees_no_more_than_nginx_in_the_fuzzers_corpus(pair):
    cases = {path.name: with_key(path.read_bytes(), pair[1].key) for path in CORPUS.iterdir()}
    assert len(cases) >= 80
    broken, views = compare(pair, cases)
    assert_only_exceptions(broken, cases)
    # Both of the outcomes that make the comparison worth something are there.
    assert sum("refused" in nginx.entries for nginx, _ in views.values()) >= 20
    assert sum("sentinel" in podgate.entries for _, podgate in views.values()) >= 15


def test_podgate_sees_no_more_than_nginx_in_malformed_requests(pair):
    cases = {case.name: case.bytes(harness.unique(), pair[1].key) for case in malformed.CASES}
    broken, views = compare(pair, cases)
    assert_only_exceptions(broken, cases)
    assert sum("refused" in nginx.entries for nginx, _ in views.values()) >= 50


def test_exceptions_are_of_cases_that_exist():
    names = {path.name for path in CORPUS.iterdir()} | {case.name for case in malformed.CASES}
    assert set(EXCEPTIONS) <= names


SEEN, REFUSED, LAST = "seen", "refused", "sentinel"


@pytest.mark.parametrize("nginx, podgate, ended, holds", [
    ([SEEN, LAST], [SEEN, LAST], True, True),
    ([SEEN, LAST], [REFUSED], True, True),
    ([SEEN, LAST], [SEEN], True, True),
    ([REFUSED], [REFUSED], True, True),
    ([REFUSED], [], True, True),
    ([REFUSED], [SEEN], True, False),
    ([SEEN], [SEEN, LAST], True, False),
    ([SEEN, LAST], [SEEN, SEEN], True, False),
    ([SEEN, SEEN, LAST], [SEEN, LAST], True, False),
    ([SEEN, LAST], [SEEN], False, False),
])
def test_the_rule_itself(nginx, podgate, ended, holds):
    assert (difference(View(nginx, True), View(podgate, ended)) is None) == holds


def test_a_more_lenient_server_in_podgates_place_is_found(pair):
    """nginx takes a bare LF as the end of a line. Were podgate to do that in front of a server that
    refuses it, the comparison has to say so."""
    nginx, podgate = pair
    data = malformed.LINES[0].bytes(harness.unique(), podgate.key)
    lenient = view(nginx.port, data + wire.head("GET", SENTINEL, fields=[("Connection", "close")]),
                   entry_of_nginx)
    strict = view(podgate.port, data, entry_of_podgate)
    assert lenient.entries == [SEEN, LAST]
    assert strict.entries == [REFUSED] and strict.ended
    assert difference(lenient, strict) is None
    assert difference(strict, lenient) is not None
