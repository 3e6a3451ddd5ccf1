"""Start, end, signals, and what the admin listener says meanwhile."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

import harness
import wire

WHOAMI = "/podgate/v1/whoami"


def test_version_and_help():
    for program, option in (("podgate", "--version"), ("podgate", "--help"),
                            ("podgatectl", "--version"), ("podgatectl", "--help"),
                            ("podgate-sim", "--version"), ("podgate-sim", "--help")):
        done = subprocess.run([harness.program(program), option], capture_output=True, text=True,
                              timeout=20 * harness.PATIENCE)
        assert done.returncode == 0, (program, option)
        assert program in done.stdout.splitlines()[0]
        assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["--nonsense"], ["extra"], ["-c"]])
def test_wrong_use_is_64(arguments):
    done = harness.run_podgate(*arguments)
    assert done.returncode == 64
    assert "podgate" in done.stderr
    assert done.stdout == ""


def test_busy_port_is_69_and_says_which(lab, podgate, sim):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = busy.getsockname()[1]
        gateway = podgate(sim, {"listen": [f"127.0.0.1:{port}"]}, ready=False)
        gateway.expect_errors(".*")
        assert gateway.wait() == 69
        assert f"127.0.0.1:{port}" in gateway.log()
        assert "in use" in gateway.log()
        gateway.process = None


def test_busy_admin_port_is_69_and_says_which(lab, podgate, sim):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = busy.getsockname()[1]
        gateway = podgate(sim, {"admin_listen": f"127.0.0.1:{port}"}, ready=False)
        gateway.expect_errors(".*")
        assert gateway.wait() == 69
        assert str(port) in gateway.log()
        gateway.process = None


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_certificate_that_is_none_is_said_so(lab, podgate, sim, tmp_path, which):
    from certificates import Authority
    certificate, key = Authority(tmp_path).issue("a.test")
    (certificate if which == "certificate" else key).write_text("nonsense")
    port = harness.PORTS.take()
    gateway = podgate(sim, {"listen": [f"tls:127.0.0.1:{port}"], "tls": [
        {"certificate": str(certificate), "key": str(key)}]}, ready=False)
    gateway.expect_errors(".*")
    assert gateway.wait() in (69, 78)
    assert str(certificate if which == "certificate" else key) in gateway.log()
    gateway.process = None
    harness.PORTS.give_back(port)


# ---- the admin listener --------------------------------------------------------------------------

def test_admin_listener_says_live_and_ready(gateway):
    assert gateway.admin("/livez").status == 200
    assert gateway.admin("/readyz").status == 200


def test_metrics_are_prometheus_text(gateway, endpoint):
    gateway.request("GET", f"/v2/{endpoint}/health", gateway.key)
    reply = gateway.admin("/metrics")
    assert reply.status == 200
    assert reply.field("content-type").startswith("text/plain")
    text = reply.body.decode()
    # It is counted once its answer is sent, which the caller may read first.
    harness.wait_until(lambda: gateway.metric("podgate_requests_total", operation="health") >= 1)
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            base = [name] + [name[:-len(end)] for end in ("_bucket", "_sum", "_count")
                             if name.endswith(end)]
            assert set(base) & names, f"no TYPE for {name}"
    assert harness.UPSTREAM_KEY not in text


@pytest.mark.parametrize("path", ["/", "/v2/ep/health", "/dashboard", "/metrics/x", "/podgate/v1/whoami"])
def test_admin_listener_has_nothing_else(gateway, path):
    assert gateway.admin(path).status in (401, 403, 404)


def test_admin_listener_can_be_off(podgate, sim):
    gateway = podgate(sim, {"admin_listen": ""}, ready=False)
    def answers():
        try:
            return gateway.request("GET", WHOAMI, gateway.key).status == 200
        except OSError:
            return False
    harness.wait_until(answers)


# ---- the end -------------------------------------------------------------------------------------

def test_sigterm_ends_with_0_and_says_so(podgate, sim):
    gateway = podgate(sim)
    gateway.stop()
    assert gateway.process.returncode == 0
    with pytest.raises(OSError):
        gateway.request("GET", WHOAMI, gateway.key)


def test_sigint_ends_too(podgate, sim):
    gateway = podgate(sim)
    gateway.signal(signal.SIGINT)
    assert gateway.wait() == 0


def test_sigterm_finishes_what_is_in_flight(podgate, sim, endpoint):
    gateway = podgate(sim, {"drain_timeout": "20s"})
    replies = []

    def caller():
        replies.append(gateway.request("POST", f"/v2/{endpoint}/runsync", gateway.key,
                                       {"input": {"mock_delay": 1500, "mock_return": 6}}))
    callers = [threading.Thread(target=caller) for _ in range(5)]
    for thread in callers:
        thread.start()
    harness.wait_until(lambda: len(sim.requests(endpoint=endpoint)) == 5)
    with gateway.connect() as idle:
        assert idle.request("GET", WHOAMI, gateway.key).status == 200
        gateway.signal(signal.SIGTERM)
        assert idle.closes_within(5 * harness.PATIENCE), "an idle connection is kept while draining"
    for thread in callers:
        thread.join()
    assert [reply.json["output"] for reply in replies] == [6] * 5
    assert {reply.field("connection", "").lower() for reply in replies} == {"close"}
    assert gateway.wait() == 0


def test_drain_ends_after_its_time_out(podgate, sim, endpoint):
    gateway = podgate(sim, {"drain_timeout": "1s"})
    with gateway.connect(timeout=60) as connection:
        body = b'{"input":{"mock_delay":3600000}}'
        connection.send(wire.head("POST", f"/v2/{endpoint}/runsync", gateway.key, body) + body)
        harness.wait_until(lambda: sim.requests(endpoint=endpoint))
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert time.monotonic() - began < 6 * harness.PATIENCE


def test_second_sigterm_ends_at_once(podgate, sim, endpoint):
    gateway = podgate(sim, {"drain_timeout": "5m"})
    with gateway.connect(timeout=60) as connection:
        body = b'{"input":{"mock_delay":3600000}}'
        connection.send(wire.head("POST", f"/v2/{endpoint}/runsync", gateway.key, body) + body)
        harness.wait_until(lambda: sim.requests(endpoint=endpoint))
        gateway.signal(signal.SIGTERM)
        harness.wait_until(lambda: not accepts(gateway), 10, "the end of accepting")
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        assert time.monotonic() - began < 3 * harness.PATIENCE


def accepts(gateway):
    try:
        gateway.connect(timeout=2).close()
        return True
    except OSError:
        return False


def test_not_ready_while_draining(podgate, sim, endpoint):
    gateway = podgate(sim, {"drain_timeout": "10s"})
    with gateway.connect(timeout=60) as connection:
        body = b'{"input":{"mock_delay":2500,"mock_return":1}}'
        connection.send(wire.head("POST", f"/v2/{endpoint}/runsync", gateway.key, body) + body)
        harness.wait_until(lambda: sim.requests(endpoint=endpoint))
        gateway.signal(signal.SIGTERM)
        harness.wait_until(lambda: gateway.admin("/readyz").status == 503)
        assert gateway.admin("/livez").status == 200
        assert connection.read_reply().json["output"] == 1
    assert gateway.wait() == 0


@pytest.mark.skipif(harness.SANITIZED, reason="sanitizers make mlock() do nothing")
def test_memory_of_the_upstream_key_is_locked(gateway):
    """Never swapped out: at least its page counts as locked."""
    with open(f"/proc/{gateway.pid}/status", encoding="ascii") as file:
        locked = [line.split()[1] for line in file if line.startswith("VmLck")]
    assert int(locked[0]) > 0


def test_upstream_key_is_in_no_argument_and_no_environment(gateway):
    for name in ("cmdline", "environ"):
        with open(f"/proc/{gateway.pid}/{name}", "rb") as file:
            assert harness.UPSTREAM_KEY.encode() not in file.read()


# ---- reload --------------------------------------------------------------------------------------

def test_sighup_takes_new_keys_and_drops_old_ones(podgate, sim):
    gateway = podgate(sim)
    second = harness.make_key("second")
    options = harness.merge(gateway.effective, {"team": {"alpha": {"key": {
        "main": None, "second": harness.key_section(second)}}}})
    gateway.config_path.write_text(harness.config_text(options))
    with gateway.connect() as connection:
        assert connection.request("GET", WHOAMI, gateway.key).status == 200
        gateway.signal(signal.SIGHUP)
        harness.wait_until(
            lambda: gateway.request("GET", WHOAMI, second.text).status == 200, interval=0.2)
        harness.wait_until(
            lambda: connection.request("GET", WHOAMI, gateway.key).status == 401, interval=0.2)


def test_sighup_says_what_stays_until_the_next_start(podgate, sim):
    gateway = podgate(sim)
    options = harness.merge(gateway.effective, {"workers": 1, "log": {"format": "json"},
                                                "listen": ["127.0.0.1:1"]})
    gateway.config_path.write_text(harness.config_text(options))
    gateway.signal(signal.SIGHUP)
    harness.wait_until(lambda: "event=configuration_loaded" in gateway.log())
    lines = [line for line in gateway.log().splitlines() if "event=configuration_warning" in line]
    for option in ("listen", "workers", "log.format"):
        assert any(option in line and "next start" in line for line in lines), lines
    assert gateway.request("GET", WHOAMI, gateway.key).status == 200
    gateway.config_path.write_text(harness.config_text(gateway.effective))


def test_sighup_with_a_mistake_keeps_the_old_configuration(podgate, sim):
    gateway = podgate(sim)
    gateway.expect_errors("podgate.conf|reload|config")
    gateway.config_path.write_text("nonsense = {\n")
    gateway.signal(signal.SIGHUP)
    harness.wait_until(lambda: f"{gateway.config_path}:1" in gateway.log())
    assert gateway.request("GET", WHOAMI, gateway.key).status == 200


# ---- systemd -------------------------------------------------------------------------------------

def test_sockets_that_systemd_passes_are_served(lab, podgate, sim):
    """LISTEN_FDS: the address was bound by somebody else, who keeps it."""
    gateway = podgate(sim, start=False)
    gateway.write_config()
    with socket.socket() as passed:
        passed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        passed.bind(("127.0.0.1", gateway.port))
        passed.listen(64)

        def before():
            os.dup2(passed.fileno(), 3)
            os.set_inheritable(3, True)
        # LISTEN_PID is the child's own number: a shell knows it, and becomes podgate.
        gateway.spawn(["/bin/sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"',
                       harness.program("podgate"), "-c", str(gateway.config_path)],
                      before=before, pass_fds=(3,))
        harness.wait_until(lambda: gateway.is_ready() or not gateway.is_running())
        assert gateway.is_running(), gateway.log()
        assert gateway.request("GET", WHOAMI, gateway.key).status == 200
        gateway.stop()
        # Nobody is refused while a successor starts: the socket is still there.
        with socket.create_connection(("127.0.0.1", passed.getsockname()[1]), 5):
            pass


def test_notify_socket_is_told_ready_and_stopping(podgate, sim, tmp_path):
    version = harness.run_podgate("--version").stdout
    if "with systemd" not in version:
        pytest.skip("built without systemd")
    path = tmp_path / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(10 * harness.PATIENCE)
        gateway = podgate(sim, environment={"NOTIFY_SOCKET": str(path)})
        assert b"READY=1" in notify.recv(4096)
        gateway.stop()
        messages = b""
        while b"STOPPING=1" not in messages:
            messages += notify.recv(4096)


# ---- logs ----------------------------------------------------------------------------------------

def test_log_lines_are_key_value_with_a_level_and_an_event(podgate, sim, endpoint):
    gateway = podgate(sim)
    gateway.request("GET", f"/v2/{endpoint}/health", gateway.key)
    gateway.stop()
    lines = gateway.log().splitlines()
    assert lines
    for line in lines:
        parsed = harness.parse_log_line(line)
        assert parsed.get("level") in ("error", "warning", "info", "debug"), line
        assert parsed.get("event"), line


def test_log_as_json(podgate, sim, endpoint):
    gateway = podgate(sim, {"log": {"format": "json"}})
    gateway.request("GET", f"/v2/{endpoint}/health", gateway.key)
    gateway.stop()
    events = [json.loads(line) for line in gateway.log().splitlines()]
    assert "request_done" in [event["event"] for event in events]


def test_log_level_leaves_requests_out(podgate, sim, endpoint):
    gateway = podgate(sim, {"log": {"level": "warning"}})
    gateway.request("GET", f"/v2/{endpoint}/health", gateway.key)
    gateway.stop()
    assert "request_done" not in gateway.log()
