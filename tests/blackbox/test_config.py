"""The configuration file: every mistake has its line, and nothing half-right is started."""

import re

import pytest

import harness

HASH = harness.make_key("k").sha256
GOOD = """listen = {"127.0.0.1:18080"}
admin_listen = "127.0.0.1:18081"
upstream {
    url = "http://127.0.0.1:1/v2"
    api_key_file = "@DIRECTORY@/upstream_key"
}
team "alpha" {
    endpoints = {"*"}
    key "ci" {
        sha256 = "%s"
        rate = {"100/s", "1000/h"}
        burst = 200
        concurrency = 4
        expires = "2099-01-01"
        allow_from = {"127.0.0.0/8", "::1"}
    }
}
endpoint "abc123" {
    status_freshness = "500ms"
}
""" % HASH


@pytest.fixture
def check(tmp_path):
    """Runs podgate --check on a text."""
    secret = tmp_path / "upstream_key"
    secret.write_text(harness.UPSTREAM_KEY + "\n")
    secret.chmod(0o600)
    path = tmp_path / "podgate.conf"

    def run(text, option="--check", **options):
        path.write_text(text.replace("@DIRECTORY@", str(tmp_path)))
        return harness.run_podgate(option, "-c", path, **options)
    run.path = path
    return run


def mistakes(done, path):
    """(line, text) of each mistake; every line must be one."""
    found = []
    for line in done.stderr.splitlines():
        match = re.match(r"^(.*?):(\d+): (.+)$", line)
        assert match and match.group(1) == str(path), f"not file:line: message: {line!r}"
        if not match.group(3).startswith("warning:"):
            found.append((int(match.group(2)), match.group(3)))
    return found


def test_good_configuration_is_ok(check):
    done = check(GOOD)
    assert (done.returncode, done.stderr) == (0, "")


# name: (what is replaced, by what, line of the mistake, words of the message); 0: any line
MISTAKES = {
    "unknown_option": ("listen =", "lissten =", 1, ["lissten", "listen"]),
    "unknown_section": ("endpoint \"abc123\"", "endpont \"abc123\"", 18, ["endpont", "endpoint"]),
    "unknown_option_of_a_key": ("expires =", "expries =", 14, ["expries", "expires"]),
    "listen_without_port": ("127.0.0.1:18080", "127.0.0.1", 1, ["127.0.0.1"]),
    "listen_with_a_name": ("127.0.0.1:18080", "example.test:80", 1, ["example.test:80"]),
    "listen_with_a_port_too_large": ("127.0.0.1:18080", "127.0.0.1:70000", 1, ["70000"]),
    "listen_with_port_0": ("127.0.0.1:18080", "127.0.0.1:0", 1, ["127.0.0.1:0"]),
    "admin_listen_bad": ("127.0.0.1:18081", "nonsense", 2, ["nonsense"]),
    "url_of_another_scheme": ("http://127.0.0.1:1/v2", "ftp://127.0.0.1/", 4, ["ftp://", "http"]),
    "url_with_a_password": ("http://127.0.0.1:1/v2", "http://u:p@127.0.0.1/", 4, ["url"]),
    "url_with_a_query": ("http://127.0.0.1:1/v2", "http://127.0.0.1/v2?a=b", 4, ["url"]),
    "api_key_file_missing": ("/upstream_key", "/no_such_file", 5, ["no_such_file"]),
    "api_key_nowhere": ("api_key_file = \"@DIRECTORY@/upstream_key\"", "", 0, []),
    "hash_too_short": (HASH, HASH[:-2], 10, ["sha256"]),
    "hash_with_other_letters": (HASH, "z" * 64, 10, ["sha256"]),
    "hash_missing": (f'sha256 = "{HASH}"', "", 9, ["sha256"]),
    "rate_of_an_unknown_unit": ("100/s", "100/x", 11, ["100/x", "s, m or h"]),
    "rate_without_unit": ("100/s", "100", 11, ["rate"]),
    "rate_of_zero": ("100/s", "0/s", 11, ["rate"]),
    "rate_of_no_number": ("100/s", "many/s", 11, ["many/s"]),
    "burst_negative": ("burst = 200", "burst = -1", 12, ["burst"]),
    "burst_of_text": ("burst = 200", 'burst = "many"', 12, ["burst"]),
    "concurrency_of_text": ("concurrency = 4", "concurrency = four", 13, ["concurrency"]),
    "expires_no_date": ("2099-01-01", "tomorrow", 14, ["expires", "tomorrow"]),
    "expires_on_no_day": ("2099-01-01", "2099-02-30", 14, ["2099-02-30"]),
    "allow_from_no_network": ("127.0.0.0/8", "localhost", 15, ["localhost"]),
    "allow_from_prefix_too_long": ("127.0.0.0/8", "127.0.0.0/40", 15, ["127.0.0.0/40"]),
    "allow_from_prefix_of_text": ("127.0.0.0/8", "127.0.0.0/abc", 15, ["127.0.0.0/abc"]),
    "duration_without_unit": ("500ms", "500", 19, ["500", "ms"]),
    "duration_of_an_unknown_unit": ("500ms", "5weeks", 19, ["5weeks"]),
    "duration_too_long": ("500ms", "9999999999999999d", 19, ["status_freshness"]),
    "endpoint_pattern_bad": ('endpoints = {"*"}', 'endpoints = {"a*b"}', 8, ["a*b"]),
    "endpoint_name_bad": ('endpoint "abc123"', 'endpoint "a/b"', 18, ["a/b"]),
    "key_id_bad": ('key "ci"', 'key "CI_1"', 9, ["CI_1"]),
    "operation_unknown": ("concurrency = 4", 'operations = {"run", "stauts"}', 13, ["stauts", "status"]),
    "word_unknown": ('status_freshness = "500ms"', 'runsync = "durabel"', 19, ["durabel", "durable"]),
    "boolean_of_text": ("status_freshness = \"500ms\"", "keep_input = maybe", 19, ["maybe"]),
    "string_not_closed": ('listen = {"127.0.0.1:18080"}', 'listen = {"127.0.0.1:18080}', 1, []),
    "brace_not_closed": ('status_freshness = "500ms"\n}', 'status_freshness = "500ms"', 0, []),
    "team_without_name": ('team "alpha"', "team", 7, []),
    "nonsense": ("listen =", "%&/ listen =", 1, []),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_has_its_line_and_says_what_was_expected(check, name):
    what, by, line, words = MISTAKES[name]
    text = GOOD.replace(what, by, 1)
    assert text != GOOD
    done = check(text)
    assert done.returncode == 78, done.stderr
    found = mistakes(done, check.path)
    assert found, done.stderr
    if line:
        assert line in [number for number, _ in found], found
        message = " ".join(text for number, text in found if number == line)
        for word in words:
            assert word in message, (word, message)


def test_all_mistakes_are_told_at_once_in_order(check):
    text = GOOD.replace("listen =", "lissten =", 1).replace("100/s", "100/x").replace("500ms", "5")
    found = mistakes(check(text), check.path)
    lines = [number for number, _ in found]
    assert lines == sorted(lines)
    assert {1, 11, 19} <= set(lines)


def test_duplicate_key_id_is_a_mistake(check):
    other = GOOD + 'team "beta" {\n    key "ci" {\n        sha256 = "%s"\n    }\n}\n' % ("a" * 64)
    done = check(other)
    assert done.returncode == 78
    assert any("ci" in message for _, message in mistakes(done, check.path))


def test_mistake_in_an_included_file_names_that_file(check, tmp_path):
    part = tmp_path / "part.conf"
    part.write_text('log {\n    level = "loud"\n}\n')
    done = check(GOOD + f'include("{part}")\n')
    assert done.returncode == 78
    assert f"{part}:2: " in done.stderr


def test_include_of_a_directory(check, tmp_path):
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "10-team.conf").write_text(
        'team "beta" {\n    key "second" {\n        sha256 = "%s"\n    }\n}\n' % ("b" * 64))
    done = check(GOOD + 'include("conf.d/*.conf")\n', "--dump")
    if done.returncode != 0:
        done = check(GOOD + f'include("{directory}")\n', "--dump")
    assert done.returncode == 0, done.stderr
    assert '"beta"' in done.stdout


def test_missing_file_is_said_so(tmp_path):
    path = tmp_path / "none.conf"
    for arguments in (["--check", "-c", path], ["-c", path]):
        done = harness.run_podgate(*arguments)
        assert done.returncode == 78
        assert str(path) in done.stderr
        assert "No such file" in done.stderr


def test_start_with_a_mistake_ends_with_78_and_listens_nowhere(check):
    done = check(GOOD.replace("100/s", "100/x"), "--config=" + str(check.path))
    assert done.returncode == 78
    assert "rate" in done.stderr


def test_options_of_later_versions_are_checked_and_warned_about(check):
    done = check(GOOD + 'team "later" {\n    weight = 7\n}\n')
    assert done.returncode == 0
    assert "warning" in done.stderr
    assert f"{check.path}:" in done.stderr
    assert check(GOOD + 'team "later" {\n    weight = "seven"\n}\n').returncode == 78


def test_store_options_are_checked(check):
    assert check(GOOD + 'store {\n    backend = "redis"\n}\n').stderr == ""
    assert check(GOOD + 'store {\n    backend = "rediss"\n}\n').returncode == 78


def test_dump_is_the_effective_configuration(check):
    done = check(GOOD, "--dump")
    assert done.returncode == 0, done.stderr
    assert "connect_timeout" in done.stdout
    assert '"127.0.0.1:18080"' in done.stdout


def test_dump_masks_secrets(check):
    done = check(GOOD, "--dump")
    assert HASH not in done.stdout
    assert harness.UPSTREAM_KEY not in done.stdout + done.stderr


def test_comments_and_layout_are_free(check):
    text = "# first\n" + GOOD.replace("listen =", "listen    =", 1).replace(
        "burst = 200", "burst = 200 # behind") + "\n/* block\n comment */\n"
    done = check(text)
    assert done.returncode == 0, done.stderr


def test_example_configuration_is_valid(tmp_path):
    """The file that is installed, with paths that exist here."""
    path = harness.SOURCE / "conf" / "podgate.conf"
    text = path.read_text()
    secret = tmp_path / "key"
    secret.write_text("rpa_x\n")
    secret.chmod(0o600)
    text = re.sub(r'api_key_file(\s*)= "[^"]*"', f'api_key_file\\1= "{secret}"', text)
    copy = tmp_path / "podgate.conf"
    copy.write_text(text)
    (tmp_path / "conf.d").mkdir()
    done = harness.run_podgate("--check", "-c", copy)
    assert done.returncode == 0, done.stderr


# ---- podgatectl ----------------------------------------------------------------------------------

def test_generated_key_is_well_formed_and_works(podgate, sim, endpoint):
    done = harness.run_podgatectl("key", "generate", "ci-2")
    assert done.returncode == 0, done.stderr
    text = done.stdout.splitlines()[0]
    assert re.fullmatch(r"pg_ci-2_[0-9A-Za-z]{49}", text)
    assert harness.with_checksum(text[:-6]) == text
    made = harness.Key("ci-2", text[len("pg_ci-2_"):-6])
    assert made.text == text
    stanza = done.stdout.split("\n", 1)[1]
    assert made.sha256 in stanza
    assert text not in stanza
    gateway = podgate(sim, {"team": None}, extra_text='team "alpha" {\n' + stanza + "\n}\n")
    assert gateway.request("GET", f"/v2/{endpoint}/health", text).status == 200


def test_generated_keys_differ():
    keys = {harness.run_podgatectl("key", "generate", "a").stdout.splitlines()[0] for _ in range(5)}
    assert len(keys) == 5


@pytest.mark.parametrize("key_id", ["", "UPPER", "a_b", "a b", "x" * 33, "\u00e9"])
def test_bad_key_id_is_refused(key_id):
    done = harness.run_podgatectl("key", "generate", key_id)
    assert done.returncode == 64
    assert done.stdout == ""
    assert done.stderr


def test_podgatectl_check_tells_the_same_mistakes(check):
    text = GOOD.replace("100/s", "100/x")
    done = check(text)
    other = harness.run_podgatectl("check", "-c", check.path)
    assert other.returncode == 78
    assert done.stderr.splitlines()[0] in other.stderr + other.stdout


def test_podgatectl_ping(gateway):
    done = harness.run_podgatectl("ping", "--admin", f"127.0.0.1:{gateway.admin_port}")
    assert done.returncode == 0, done.stderr
    port = harness.PORTS.take()
    done = harness.run_podgatectl("ping", "--admin", f"127.0.0.1:{port}")
    harness.PORTS.give_back(port)
    assert done.returncode == 69
    assert done.stderr
