"""podgatectl, and what podgate says of its configuration: keys that work, mistakes with their line,
exit statuses that scripts can use."""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading

import pytest

import harness
from certificates import Authority

EX_USAGE, EX_NOINPUT, EX_UNAVAILABLE, EX_TEMPFAIL, EX_PROTOCOL, EX_CONFIG = 64, 66, 69, 75, 76, 78
NOWHERE = "http://127.0.0.1:1/v2"


def run(name, *arguments):
    """The program's exit status, standard output and standard error."""
    done = subprocess.run([harness.program(name), *map(str, arguments)], capture_output=True,
                          text=True, timeout=60, check=False)
    assert not harness.SANITIZER_REPORT.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


def write_config(directory, text):
    secret = directory / "upstream_key"
    secret.write_text(harness.UPSTREAM_KEY)
    secret.chmod(0o600)
    path = directory / "podgate.conf"
    path.write_text(f'upstream {{ api_key_file = "{secret}" }}\n{text}')
    return path


# ---- key generate --------------------------------------------------------------------------------

def test_a_generated_key_and_its_stanza_are_served(tmp_path, podgate):
    status, output, _ = run("podgatectl", "key", "generate", "ci-7", "--team", "vision")
    assert status == 0
    key, stanza = output.split("\n", 1)
    assert key.startswith("pg_ci-7_")
    assert harness.with_checksum(key[:-6]) == key
    assert len(key) == len("pg_ci-7_") + 43 + 6
    assert hashlib.sha256(key.encode()).hexdigest() in stanza
    assert key not in stanza
    included = tmp_path / "vision.conf"
    included.write_text(stanza)
    gateway = podgate(NOWHERE, extra_text=f'include("{included}")\n')
    reply = gateway.request("GET", "/podgate/v1/whoami", key=key)
    assert reply.status == 200
    assert b'"ci-7"' in reply.body and b'"vision"' in reply.body


def test_generated_keys_differ():
    keys = {run("podgatectl", "key", "generate", "ci")[1].split("\n")[0] for _ in range(5)}
    assert len(keys) == 5


@pytest.mark.parametrize("arguments", [
    ["key", "generate"], ["key", "generate", "UPPER"], ["key", "generate", "a_b"],
    ["key", "generate", "a" * 33], ["key", "generate", "a", "b"], ["key", "forge", "a"], ["key"],
    ["key", "generate", "a", "--team", "a b"], ["frobnicate"], [], ["check", "x"], ["ping", "x"],
    ["--bogus"], ["ping", "--admin", "nonsense"], ["ping", "--admin", "tls:127.0.0.1:1"],
])
def test_wrong_use_is_64_with_words(arguments):
    status, output, errors = run("podgatectl", *arguments)
    assert status == EX_USAGE
    assert output == ""
    assert errors.strip()


def test_a_key_that_could_not_be_written_is_an_error():
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run([harness.program("podgatectl"), "key", "generate", "ci"], stdout=full,
                              stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 74
    assert b"No space left" in done.stderr


def test_help_and_version():
    for name in ("podgatectl", "podgate"):
        status, output, _ = run(name, "--help")
        assert status == 0 and "--config" in output
        status, output, _ = run(name, "--version")
        assert status == 0 and output.startswith(f"{name} ")


# ---- check, --check, --dump ----------------------------------------------------------------------

def test_both_checks_tell_every_mistake_with_its_line(tmp_path):
    path = write_config(tmp_path, 'workrs = 3\nteam "a" {\n  key "b" {\n    rate = {"100/x"}\n  }\n}\n')
    expected = [
        f'{path}:2: unknown option "workrs", did you mean "workers"?',
        f'{path}:4: key "b" has no sha256, expected sha256 = "..."',
        f'{path}:5: rate "100/x": the unit must be s, m or h',
    ]
    for status, output, errors in (run("podgatectl", "check", "-c", path),
                                   run("podgate", "--check", "-c", path),
                                   run("podgate", "--dump", "-c", path),
                                   run("podgate", "-c", path)):
        assert status == EX_CONFIG
        assert output == ""
        assert errors.splitlines() == expected


@pytest.mark.parametrize("which", ["upstream_key", "ca_file", "certificate", "key"])
def test_both_checks_read_the_files_that_a_start_needs(tmp_path, which):
    files = {name: tmp_path / f"{name}.pem" for name in ("ca_file", "certificate", "key")}
    files["certificate"], files["key"] = Authority(tmp_path).issue("a.test")
    files["ca_file"].write_bytes(files["certificate"].read_bytes())
    path = write_config(tmp_path, f"""
listen = {{"tls:127.0.0.1:{harness.PORTS.take()}"}}
tls {{ certificate = "{files["certificate"]}" key = "{files["key"]}" }}
""")
    files["upstream_key"] = tmp_path / "upstream_key"
    path.write_text(path.read_text().replace("upstream {", f'upstream {{ ca_file = "{files["ca_file"]}"'))
    for program in (["podgatectl", "check"], ["podgate", "--check"]):
        assert run(*program, "-c", path)[0] == 0
    files[which].write_text("no such thing")
    for program in (["podgatectl", "check"], ["podgate", "--check"]):
        status, output, errors = run(*program, "-c", path)
        assert (status, output) == (EX_CONFIG, "")
        assert str(files[which]) in errors


def test_a_good_configuration_is_said_to_be_good(tmp_path):
    key = harness.make_key("b")
    path = write_config(tmp_path, f'team "a" {{ key "b" {{ sha256 = "{key.sha256}" }} }}\n')
    status, output, errors = run("podgatectl", "check", "-c", path)
    assert (status, output, errors) == (0, f"{path}: good, with 1 team and 1 key\n", "")
    assert run("podgate", "--check", "-c", path)[0] == 0


def test_the_dump_masks_hashes_and_knows_no_secret(tmp_path):
    key = harness.make_key("b")
    path = write_config(tmp_path, f'team "a" {{ key "b" {{ sha256 = "{key.sha256}" }} }}\n')
    status, output, _ = run("podgate", "--dump", "-c", path)
    assert status == 0
    assert f'sha256 = "{key.sha256[:8]}..."' in output
    assert key.sha256 not in output
    assert harness.UPSTREAM_KEY not in output
    assert 'connect_timeout = "5s"' in output


def test_callers_that_stall_have_the_documented_time(tmp_path):
    key = harness.make_key("b")
    path = write_config(tmp_path, f'team "a" {{ key "b" {{ sha256 = "{key.sha256}" }} }}\n')
    output = run("podgate", "--dump", "-c", path)[1]
    section = output.partition("timeouts {")[2].partition("}")[0].split()
    assert section == 'head = "10s" body = "10s" idle = "2m" send = "30s" handshake = "10s"'.split()


def test_a_missing_file_is_told(tmp_path):
    path = tmp_path / "none.conf"
    status, _, errors = run("podgatectl", "check", "-c", path)
    assert status == EX_NOINPUT
    assert f"{path}: No such file or directory" in errors
    status, _, errors = run("podgate", "-c", path)
    assert status == EX_CONFIG
    assert errors == f"{path}: No such file or directory, expected a configuration file\n"


# ---- ping ----------------------------------------------------------------------------------------

@contextlib.contextmanager
def answering(listener, answer):
    """Accepts one caller, reads its head, sends `answer` and closes."""
    def serve():
        caller, _ = listener.accept()
        with caller:
            head = b""
            while b"\r\n\r\n" not in head:
                head += caller.recv(1000)
            caller.sendall(answer)

    listener.listen(1)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        listener.close()


def ping_answered_by(answer):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with answering(listener, answer):
        return run("podgatectl", "ping", "--admin", f"127.0.0.1:{port}")


def test_ping_of_a_running_podgate(podgate):
    gateway = podgate(NOWHERE)
    admin = f"127.0.0.1:{gateway.admin_port}"
    assert run("podgatectl", "ping", "-a", admin) == (0, f"{admin}: podgate serves callers\n", "")


def test_ping_of_nobody_is_69():
    port = harness.PORTS.take()
    try:
        status, _, errors = run("podgatectl", "ping", "--admin", f"127.0.0.1:{port}")
    finally:
        harness.PORTS.give_back(port)
    assert status == EX_UNAVAILABLE
    assert "Connection refused" in errors
    assert run("podgatectl", "ping", "--admin", "unix:/nonexistent/socket")[0] == EX_UNAVAILABLE


@pytest.mark.parametrize("answer, expected", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0),
    (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", EX_TEMPFAIL),
    (b"HTTP/1.1 404 Not Found\r\n\r\n", EX_PROTOCOL),
    (b"SSH-2.0-OpenSSH\r\n", EX_PROTOCOL),
    (b"HTTP/1.1 2", EX_PROTOCOL),
    (b"", EX_PROTOCOL),
])
def test_ping_judges_the_answer(answer, expected):
    assert ping_answered_by(answer)[0] == expected


def test_ping_over_a_unix_socket(tmp_path):
    path = os.path.relpath(tmp_path / "admin", "/")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/{path}")
    with answering(listener, b"HTTP/1.0 200 OK\r\n\r\n"):
        assert run("podgatectl", "ping", "--admin", f"unix:/{path}")[0] == 0
