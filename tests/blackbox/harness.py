"""Starts podgate and podgate-sim for tests, and asks them how they are."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import secrets
import signal
import socket
import string
import subprocess
import tempfile
import time
import zlib

import pytest

import wire

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
SOURCE = pathlib.Path(__file__).resolve().parents[2]
UPSTREAM_KEY = "rpa_UPSTREAMSECRET0123456789abcdefghij"

SANITIZER_REPORT = re.compile(
    r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|UndefinedBehaviorSanitizer|runtime error:")


# ---- programs ------------------------------------------------------------------------------------

def build_directory():
    """Where configure and make ran: $PODGATE_BUILD_DIR, else what ./check built."""
    given = os.environ.get("PODGATE_BUILD_DIR") or os.environ.get("PODGATE_BUILDDIR")
    return pathlib.Path(given) if given else SOURCE / "build/check/plain"


def program(name):
    directory = build_directory()
    for path in (directory / "src" / name, directory / name):
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{name} is not in {directory}: build it, or set PODGATE_BUILD_DIR")


def sdk_directory():
    given = os.environ.get("PODGATE_TEST_SDKS")
    return pathlib.Path(given) if given else SOURCE / "build/check/sdks"


def is_sanitized():
    """True for builds with a sanitizer, which are slower and larger."""
    try:
        data = pathlib.Path(program("podgate")).read_bytes()
    except FileNotFoundError:
        return False
    return b"__asan_init" in data or b"__tsan_init" in data


SANITIZED = is_sanitized()
PATIENCE = 4 if SANITIZED else 1


# ---- keys ----------------------------------------------------------------------------------------

def has_fault_points():
    """True for builds with --enable-faults, where PODGATE_FAULT does something."""
    return b"PODGATE_FAULT" in pathlib.Path(program("podgate")).read_bytes()


class Key:
    """A podgate key, made as the design says."""

    def __init__(self, key_id, secret=None):
        self.id = key_id
        secret = secret or "".join(secrets.choice(BASE62) for _ in range(43))
        self.text = with_checksum(f"pg_{key_id}_{secret}")

    @property
    def sha256(self):
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self):
        return self.text


def with_checksum(text):
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return text + digits


def make_key(key_id="main"):
    return Key(key_id)


ALL_OPERATIONS = ["run", "runsync", "status", "stream", "cancel", "retry", "health", "purge",
                  "openai", "purge-all", "requests", "batch", "adopt", "delete"]


def key_section(key, **options):
    """The configuration of one key; operations are all unless given."""
    section = {"sha256": key.sha256, "operations": ALL_OPERATIONS}
    section.update(options)
    return {name: value for name, value in section.items() if value is not None}


# ---- configuration -------------------------------------------------------------------------------

TITLED = {"team", "key", "endpoint"}


def quote(text):
    return '"' + str(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def config_value(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(quote(item) for item in value) + "}"
    return quote(value)


def config_text(options, indent=""):
    """A configuration file from nested dicts; a list of dicts repeats a section."""
    lines = []
    for name, value in options.items():
        if isinstance(value, dict) and name in TITLED:
            for title, section in value.items():
                lines.append(f"{indent}{name} {quote(title)} {{")
                lines.append(config_text(section, indent + "    ") + indent + "}")
        elif isinstance(value, dict) or (isinstance(value, list) and value
                                         and isinstance(value[0], dict)):
            for section in value if isinstance(value, list) else [value]:
                lines.append(f"{indent}{name} {{")
                lines.append(config_text(section, indent + "    ") + indent + "}")
        else:
            lines.append(f"{indent}{name} = {config_value(value)}")
    return "\n".join(lines) + "\n"


def merge(base, changes):
    """`base` with `changes` over it, section by section; None takes an option away."""
    result = dict(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merge(result[name], value)
        else:
            result[name] = value
    return result


# ---- ports ---------------------------------------------------------------------------------------

class Ports:
    """Free ports below the range that the kernel hands out. podgate binds with SO_REUSEPORT, so that
    two tests could share a port without an error: a locked file per port keeps them apart, across
    processes too."""

    FIRST, LAST = 12000, 31999

    def __init__(self):
        self.directory = pathlib.Path(tempfile.gettempdir()) / f"podgate-test-ports-{os.getuid()}"
        self.directory.mkdir(exist_ok=True)
        self.held = {}
        self.random = random.Random(os.getpid() ^ time.monotonic_ns())

    def take(self):
        for _ in range(2000):
            port = self.random.randint(self.FIRST, self.LAST)
            if port in self.held:
                continue
            descriptor = os.open(self.directory / str(port), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.closing(socket.socket()) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                os.close(descriptor)
                continue
            self.held[port] = descriptor
            return port
        raise AssertionError("no free port was found")

    def give_back(self, port):
        descriptor = self.held.pop(port, None)
        if descriptor is not None:
            os.close(descriptor)


PORTS = Ports()


# ---- waiting -------------------------------------------------------------------------------------

def wait_until(condition, timeout=10, what=None, interval=0.02):
    """Waits until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come within {timeout * PATIENCE} s: {what or condition}")
        time.sleep(interval)


def unique(prefix="m"):
    """A word that is nowhere else, for finding what became of something sent."""
    return f"{prefix}{secrets.token_hex(8)}"


# ---- processes -----------------------------------------------------------------------------------

class Program:
    """A child process whose output goes to files."""

    def __init__(self, directory, name):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.process = None
        self.log_path = self.directory / f"{name}.stderr"
        self.output_path = self.directory / f"{name}.stdout"

    def spawn(self, arguments, environment=None, before=None, pass_fds=()):
        merged = {**os.environ, **(environment or {})}
        with open(self.output_path, "ab") as output, open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=log, env=merged,
                preexec_fn=before, pass_fds=pass_fds, cwd=self.directory)

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def output(self):
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        if self.is_running():
            self.process.send_signal(number)

    def wait(self, timeout=20):
        try:
            return self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not end in time; its log:\n{self.log()[-3000:]}")

    def kill(self):
        if self.is_running():
            self.process.kill()
            self.process.wait()

    # ---- from /proc ------------------------------------------------------------------------------

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def limit_descriptors(self, count):
        """Takes descriptors away from a running program: what it counted on at its start is gone."""
        hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (count, hard))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptor_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


class Sim(Program):
    """podgate-sim. Its control routes are reached by a listener of their own, which no fault
    touches."""

    def __init__(self, directory, *arguments, limits=False, log_raw=False, key=UPSTREAM_KEY):
        super().__init__(directory, "podgate-sim")
        options = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
        options += ["--api-key", key] if key else []
        options += [] if limits else ["--limits", "off"]
        self.raw_path = self.directory / "received.raw"
        options += ["--log-raw", str(self.raw_path)] if log_raw else []
        self.spawn([program("podgate-sim"), *options, *arguments])
        wait_until(lambda: not self.is_running() or len(self.ports()) >= 2, 10, "podgate-sim's ports")
        assert self.is_running(), self.log() + self.output()
        self.port, self.control_port = self.ports()[:2]
        self.key = key

    def ports(self):
        return [int(port) for port in
                re.findall(r"^podgate-sim: .*:(\d+)$", self.output() + self.log(), re.MULTILINE)]

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v2"

    def control(self, method, path, body=None):
        reply = wire.request(self.control_port, method, f"/sim/v1/{path}", body=body, timeout=30)
        assert reply.status == 200, reply
        return reply.json

    def requests(self, since=0, **wanted):
        """What was received, filtered: endpoint=..., operation=..., job=..., method=..."""
        found = []
        for entry in self.control("GET", f"requests?since={since}")["requests"]:
            parts = [part for part in entry["target"].partition("?")[0].split("/") if part]
            entry["endpoint"] = parts[1] if len(parts) > 1 else ""
            entry["operation"] = parts[2] if len(parts) > 2 else ""
            entry["job"] = parts[3] if len(parts) > 3 else ""
            entry["fields"] = {name.lower(): value for name, value in entry["headers"]}
            if all(entry[name] == value for name, value in wanted.items()):
                found.append(entry)
        return found

    def jobs(self):
        return self.control("GET", "jobs")["jobs"]

    def runs(self):
        return self.control("GET", "runs")["runs"]

    def counters(self):
        return self.control("GET", "counters")

    def fault(self, specification):
        return self.control("POST", "fault", specification.encode()
                            if isinstance(specification, str) else specification)["number"]

    def clear_faults(self):
        self.control("DELETE", "fault")

    def set_endpoint(self, endpoint, **options):
        self.control("POST", "endpoint", {"endpoint": endpoint, **options})

    def count_containing(self, text):
        """How many received requests have this text in target, fields or the body's beginning."""
        return sum(text in json.dumps(entry) for entry in self.requests())

    def stop(self):
        if self.is_running():
            self.signal(signal.SIGTERM)
            code = self.wait(10)
            assert code == 0, f"podgate-sim ended with {code}: {self.log()[-2000:]}"
        assert not SANITIZER_REPORT.search(self.log()), self.log()[-5000:]


class Podgate(Program):
    """podgate with a configuration of the test's own."""

    def __init__(self, directory, options, environment=None, nofile=None, arguments=(),
                 extra_text=""):
        super().__init__(directory, "podgate")
        self.options = options
        self.environment = environment
        self.nofile = nofile
        self.arguments = arguments
        self.extra_text = extra_text
        self.ports = []
        self.effective = {}
        self.expected_errors = []
        self.checked_to = 0
        self.config_path = self.directory / "podgate.conf"

    # ---- life ------------------------------------------------------------------------------------

    def write_config(self):
        self.port, self.admin_port = PORTS.take(), PORTS.take()
        self.ports = [self.port, self.admin_port]
        defaults = {
            "listen": [f"127.0.0.1:{self.port}"],
            "admin_listen": f"127.0.0.1:{self.admin_port}",
            "workers": 2,
            "drain_timeout": "3s",
            "store": {"path": str(self.directory / "podgate.db")},
        }
        self.effective = merge(defaults, self.options)
        self.config_path.write_text(config_text(self.effective) + self.extra_text)

    def start(self, ready=True):
        for attempt in range(3):
            self.write_config()
            self.launch()
            if not ready:
                return self
            wait_until(lambda: self.is_ready() or not self.is_running(), 15, "podgate's /readyz")
            if self.is_running():
                return self
            # Somebody outside of these tests may have taken the port since it was found free.
            if "in use" not in self.log() or attempt == 2:
                break
            self.forget_ports()
            self.log_path.unlink()
        raise AssertionError(f"podgate ended with {self.process.returncode} at its start:\n"
                             f"{self.log()[-4000:]}\n{self.config_path.read_text()}")

    def launch(self):
        if "PODGATE_FAULT" in (self.environment or {}) and not has_fault_points():
            self.process = None  # perhaps killed to be started anew
            pytest.skip("runs with builds that have fault points: ./check does so too")

        def before():
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))
        self.spawn([program("podgate"), "-c", str(self.config_path), *self.arguments],
                   self.environment, before if self.nofile else None)

    def is_ready(self):
        try:
            return self.admin("/readyz").status == 200
        except (OSError, wire.WireError):
            return False

    def forget_ports(self):
        for port in self.ports:
            PORTS.give_back(port)
        self.ports = []

    def stop(self, expected=0):
        """SIGTERM, and everything that must hold at every test's end."""
        try:
            if self.process is None:
                return
            if self.is_running():
                self.signal(signal.SIGTERM)
            code = self.wait(15)
            assert code == expected, f"podgate ended with {code}:\n{self.log()[-5000:]}"
            self.check_log()
        finally:
            self.forget_ports()
            self.drop_reserves()

    def drop_reserves(self):
        """What each store holds back of the disk (64 MiB) would soon fill it when tests keep it."""
        if not self.effective:
            return  # never started
        path = pathlib.Path(self.effective["store"]["path"])
        for reserve in path.parent.glob(path.name + "*.reserve"):
            reserve.unlink(missing_ok=True)

    # ---- log -------------------------------------------------------------------------------------

    def expect_errors(self, *patterns):
        """Lines of level=error that match one of these are part of the test."""
        self.expected_errors += [re.compile(pattern) for pattern in patterns]

    def check_log(self):
        """Fails on what no test may leave behind; looks at each line once."""
        text = self.log()[self.checked_to:]
        self.checked_to += len(text)
        assert not SANITIZER_REPORT.search(text), text[-8000:]
        assert UPSTREAM_KEY not in text, "the upstream key is in the log"
        for line in text.splitlines():
            if "level=error" in line:
                assert any(pattern.search(line) for pattern in self.expected_errors), line

    def log_lines(self, event=None, **wanted):
        """Lines as dicts, those of one event and with these values."""
        lines = [parse_log_line(line) for line in self.log().splitlines()]
        return [line for line in lines if (event is None or line.get("event") == event)
                and all(line.get(name) == str(value) for name, value in wanted.items())]

    # ---- asking ----------------------------------------------------------------------------------

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v2"

    def request(self, method, target, key=None, body=None, fields=(), **options):
        return wire.request(self.port, method, target, key, body, fields, **options)

    def connect(self, **options):
        return wire.Wire.connect(self.port, **options)

    def admin(self, path, method="GET"):
        return wire.request(self.admin_port, method, path, timeout=5, body=None)

    def metrics(self):
        """Every sample: (name, frozenset of labels) to value."""
        samples = {}
        for line in self.admin("/metrics").body.decode().splitlines():
            if line.startswith("#") or not line.strip():
                continue
            match = re.match(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", line)
            assert match, f"not Prometheus text: {line!r}"
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ""))
            samples[match.group(1), labels] = float(match.group(3))
        return samples

    def metric(self, name, **labels):
        """The sum of all samples of that name with these labels."""
        wanted = set(labels.items())
        return sum(value for (sample, found), value in self.metrics().items()
                   if sample == name and wanted <= set(found))


def parse_log_line(line):
    """key=value pairs; values may be quoted."""
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {name: value[1:-1] if value.startswith('"') else value for name, value in pairs}


def run_podgate(*arguments, timeout=20, environment=None, stdin=None):
    """Runs podgate to its end: its exit status, output and errors."""
    return subprocess.run([program("podgate"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout * PATIENCE, env={**os.environ, **(environment or {})},
                          stdin=stdin or subprocess.DEVNULL)


def run_podgatectl(*arguments, timeout=20):
    return subprocess.run([program("podgatectl"), *map(str, arguments)], capture_output=True,
                          text=True, timeout=timeout * PATIENCE, stdin=subprocess.DEVNULL)
