"""The programs of the bench: each server under test, and the stand-in upstream.

A server runs on one core (`Place.server_core`); the stand-in upstream and the load generator share
another. Every file lives in one temporary directory that ends with the run.
"""
import binascii
import hashlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BENCH = os.path.dirname(os.path.abspath(__file__))
UPSTREAM_KEY = "upstream-key-of-the-bench-0123456789abcdef"
KEY_COUNT = 8
BASE_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# What podgate lets through to the upstream on OpenAI routes; each server is told the same. nginx can
# only name fields, so of the families OpenAI-* and X-Stainless-* it has those that clients do send.
FIELDS_FORWARDED = ("Accept", "Accept-Language", "Content-Type", "User-Agent", "traceparent",
                    "tracestate", "baggage", "Last-Event-ID")
FIELD_FAMILIES = ("OpenAI-", "X-Stainless-")
FIELDS_OF_FAMILIES = ("OpenAI-Organization", "OpenAI-Project", "X-Stainless-Lang",
                      "X-Stainless-Retry-Count")


class BenchError(Exception):
    """Something that makes the figures worthless: said in one line, then the run ends."""


def make_key(identifier):
    """A podgate key that is the same in each run: pg_<id>_<43 characters><CRC-32 in base 62>."""
    digest = hashlib.sha512(identifier.encode()).digest()
    body = f"pg_{identifier}_" + "".join(BASE_62[byte % 62] for byte in digest[:43])
    number = binascii.crc32(body.encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE_62[digit] + digits
    return body + digits


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what, condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.01)


def http_request(address, method, target, body=None, fields=None):
    """One request on a connection of its own: (status, body, fields of the answer)."""
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, target, body=body, headers=fields or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def place_child(core):
    """In a child before exec: its core, and ahead of the machine's other programs where allowed.

    Linux shares cores between sessions first ("autogroup"), so a nice value means something between
    sessions only when it is the session's.
    """
    os.sched_setaffinity(0, {core})
    os.setsid()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write("-15")
    except OSError:
        pass


def others_seconds(programs):
    """CPU time that all processes but this one and `programs` have used, as far as /proc knows."""
    own = {os.getpid(), *(pid for program in programs for pid in program.pids())}
    ticks = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in own:
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended; what it used is its parent's now
            ticks += sum(int(word) for word in fields[11:15])
    return ticks / TICKS_PER_SECOND


class Place:
    """Cores, directory, keys and tools that all parts of one run share."""

    def __init__(self):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise BenchError("two cores are needed: one for the server, one for load and upstream")
        os.environ["PATH"] += ":/usr/sbin:/sbin"  # not on everybody's path; nginx is there
        self.server_core, self.load_core = cores[0], cores[1]
        os.sched_setaffinity(0, {self.load_core})
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.descriptors = hard
        self.directory = tempfile.mkdtemp(prefix="podgate-bench-")
        os.chmod(self.directory, 0o755)  # nginx's worker may run as another user
        self.keys = [make_key(f"bench{i}") for i in range(KEY_COUNT)]
        self.key = self.keys[KEY_COUNT // 2]
        self.programs = []

    def close(self):
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def load_program(self):
        """Builds load.c and upstream.c once; gives the path of the program."""
        program = os.path.join(self.directory, "load.program")
        if not os.path.exists(program):
            command = [os.environ.get("CC", "cc"), "-std=c17", "-O2", "-o", program,
                       os.path.join(BENCH, "load.c"), os.path.join(BENCH, "upstream.c")]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise BenchError(f"can't compile bench/load.c:\n{result.stderr}")
        return program

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


def fill(template, words):
    """The text of a template under bench/ with each @WORD@ replaced."""
    with open(os.path.join(BENCH, template), encoding="utf-8") as file:
        text = file.read()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return "\n".join(line.rstrip() for line in text.split("\n"))


class Program:
    """A child process on one core, with its processes' CPU time and memory."""

    def __init__(self, place, name, core):
        self.place = place
        self.name = name
        self.core = core
        self.process = None
        self.address = None
        self.directory = os.path.join(place.directory, name)
        os.makedirs(self.directory, exist_ok=True)
        place.programs.append(self)

    def spawn(self, command, stdout="output.log", stderr="error-output.log"):
        # O_APPEND, so that a log can be cut off between two slices of a measurement.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        out = os.open(os.path.join(self.directory, stdout), flags, 0o644)
        error = os.open(os.path.join(self.directory, stderr), flags, 0o644)
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, cwd=self.directory,
            preexec_fn=lambda: place_child(self.core))
        os.close(out)
        os.close(error)

    def wait_listening(self):
        def listening():
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with {self.process.returncode}:\n"
                                 + self.last_words())
            with socket.socket() as probe:
                host, port = self.address.split(":")
                return probe.connect_ex((host, int(port))) == 0
        wait_until(f"{self.name} listening", listening)

    def last_words(self):
        words = ""
        for name in ("error.log", "error-output.log", "output.log"):
            path = os.path.join(self.directory, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    words += file.read()[-2000:]
        return words

    def stop(self):
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                children = self.pids()
                self.process.kill()
                self.process.wait()
                for pid in children[1:]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        self.process = None

    def pids(self):
        """The process and its children (nginx: master and worker)."""
        first = self.process.pid
        try:
            with open(f"/proc/{first}/task/{first}/children", encoding="ascii") as file:
                return [first] + [int(word) for word in file.read().split()]
        except FileNotFoundError:
            return [first]

    def cpu_seconds(self):
        """(user, system) of all processes and threads so far, from /proc/PID/stat."""
        user = system = 0
        for pid in self.pids():
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            user += int(fields[11])
            system += int(fields[12])
        return user / TICKS_PER_SECOND, system / TICKS_PER_SECOND

    def memory_kib(self):
        """{"rss", "pss"} of all processes in KiB; pss is None where the kernel doesn't show it."""
        total = {"rss": 0, "pss": 0}
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                    lines = file.read().split("\n")
                values = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if line}
                total["rss"] += values["Rss"]
                if total["pss"] is not None:
                    total["pss"] += values["Pss"]
            except PermissionError:  # a process that isn't dumpable, seen by somebody else than root
                with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                    total["rss"] += int(file.read().split()[1]) * resource.getpagesize() // 1024
                total["pss"] = None
        return total


class Upstream(Program):
    """bench/upstream.c, on the load generator's core; started and stopped on the same address.

    While it is stopped, a load generator can serve that address in its own loop.
    """

    def __init__(self, place):
        super().__init__(place, "upstream", place.load_core)
        self.program = place.load_program()
        self.address = f"127.0.0.1:{free_port()}"

    def start(self):
        self.spawn([self.program, "--upstream", self.address, "--serve"])
        self.wait_listening()

    def ask(self, what):
        return http_request(self.address, "GET", f"/bench/{what}")[1]

    def state(self):
        return json.loads(self.ask("state"))


class Server(Program):
    """A server under test."""

    label = ""
    log_name = "access.log"
    log_appends = True         # writes at the log's end, wherever that is
    allow_list = True          # forwards only FIELDS_FORWARDED
    hit_words = (b" cache=hit ", b" cache=HIT ", b" cache=store ")

    def __init__(self, place, upstream, variant=""):
        super().__init__(place, self.kind + (f"-{variant}" if variant else ""), place.server_core)
        self.upstream = upstream
        self.variant = variant
        self.whoami_body = b'{"error":"not set"}'
        self.logs = variant != "no-log"
        self.log_offset = 0
        self.log_count = 0
        self.hit_count = 0     # of the lines: those of stored answers

    def log_path(self):
        return os.path.join(self.directory, self.log_name)

    def log_lines(self):
        """Lines about requests in the log since log_clear(); reads only what is new."""
        with open(self.log_path(), "rb") as file:
            file.seek(self.log_offset)
            while True:
                block = file.read(1 << 20)
                whole = block.rfind(b"\n") + 1
                if whole == 0:
                    return self.log_count
                self.log_count += block.count(b"event=request_done", 0, whole)
                self.hit_count += sum(block.count(word, 0, whole) for word in self.hit_words)
                self.log_offset += whole
                file.seek(self.log_offset)

    def wait_log_lines(self, wanted):
        """Waits for lines that are still in a buffer, until all are there or no more come.

        They belong to the requests before, and so does the CPU time that they take.
        """
        lines = self.log_lines()
        changed = time.monotonic()
        while lines < wanted and time.monotonic() < changed + 2.0:
            time.sleep(0.02)
            before, lines = lines, self.log_lines()
            if lines != before:
                changed = time.monotonic()
        return lines

    def log_clear(self):
        """Forgets what is in the log, and gives the disk space back."""
        size = os.path.getsize(self.log_path())
        os.truncate(self.log_path(), 0)
        self.log_offset = 0 if self.log_appends else size
        self.log_count = 0
        self.hit_count = 0

    def requests_counted(self):
        """Requests answered, by the server's own metrics; None where the bench doesn't ask."""
        return None

    def version(self):
        raise NotImplementedError

    def configuration(self, nominal=False):
        """The configuration's text; nominal: as docs/benchmarks.md shows it."""
        words = self.words()
        if nominal:
            words.update(DIR="/tmp/bench", ADDRESS="127.0.0.1:8080", ADMIN="127.0.0.1:8081",
                         UPSTREAM="127.0.0.1:8900")
        return fill(self.template, words)

    def words(self):
        return {"DIR": self.directory, "ADDRESS": self.address or "127.0.0.1:8080",
                "UPSTREAM": self.upstream.address or "127.0.0.1:8900",
                "UPSTREAM_KEY": UPSTREAM_KEY,
                "WHOAMI": self.whoami_body.decode().rstrip("\n")}


class Nginx(Server):
    kind = "nginx"
    template = "nginx/nginx.conf.in"

    def __init__(self, place, upstream, variant=""):
        super().__init__(place, upstream, variant)
        self.allow_list = variant != "all-fields"

    def version(self):
        text = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
        return text.strip().rpartition(": ")[2]

    def words(self):
        keys = "\n        ".join(f'"Bearer {key}" bench{i};'
                                 for i, key in enumerate(self.place.keys))
        fields = []
        if self.allow_list:
            fields = ["proxy_pass_request_headers off;"]
            fields += [f"proxy_set_header {name} $http_{name.lower().replace('-', '_')};"
                       for name in FIELDS_FORWARDED + FIELDS_OF_FAMILIES]
        identifier = ""
        if self.variant == "request-id":
            fields += ["proxy_set_header X-Request-Id $request_id;",
                       "add_header X-Request-Id $request_id always;"]
            identifier = "request_id=$request_id "
        return {**super().words(), "KEYS": keys, "FIELDS": "\n            ".join(fields),
                "LOG_REQUEST_ID": identifier,
                "OPEN_FILES": "open_file_cache max=1000 inactive=7d;"
                              if self.variant == "open-files" else "",
                "LOG_OPTIONS": "" if self.variant == "unbuffered" else "buffer=64k flush=1s"}

    def pids(self):
        """Without the cache's loader, whose CPU time would vanish with it after a minute."""
        def title(pid):
            try:
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
                    return file.read()
            except OSError:
                return "cache loader"
        return [pid for pid in super().pids() if "cache loader" not in title(pid)]

    def start(self):
        self.address = f"127.0.0.1:{free_port()}"
        path = os.path.join(self.directory, "nginx.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.configuration())
        self.spawn(["nginx", "-p", self.directory, "-c", path, "-e",
                    os.path.join(self.directory, "error.log")])
        self.wait_listening()
        wait_until("nginx's worker", lambda: len(self.pids()) >= 2)  # and those of its cache


class Haproxy(Server):
    kind = "haproxy"
    template = "haproxy/haproxy.cfg.in"
    log_appends = False        # it takes O_APPEND off its standard output

    def __init__(self, place, upstream, variant=""):
        super().__init__(place, upstream, variant)
        self.allow_list = variant != "all-fields"

    def version(self):
        text = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
        return "HAProxy " + text.split()[2]

    def words(self):
        allowed = "|".join(name.lower() for name in FIELDS_FORWARDED
                           + ("Host", "Content-Length", "Transfer-Encoding"))
        fields = ""
        if self.allow_list:
            families = "|".join(name.lower() for name in FIELD_FAMILIES)
            fields = f"http-request del-header '^(?!(?:{allowed})$|{families})' -m reg"
        log = "log stdout format raw local0 info" if self.logs else ""
        return {**super().words(), "LOG": log, "FIELDS": fields}

    def start(self):
        self.address = f"127.0.0.1:{free_port()}"
        with open(os.path.join(self.directory, "keys.map"), "w", encoding="utf-8") as file:
            for i, key in enumerate(self.place.keys):
                file.write(f"{key} bench{i}\n")
        with open(os.path.join(self.directory, "whoami.json"), "wb") as file:
            file.write(self.whoami_body)
        path = os.path.join(self.directory, "haproxy.cfg")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.configuration())
        self.spawn(["haproxy", "-db", "-f", path], stdout=self.log_name)
        self.wait_listening()


class Podgate(Server):
    kind = "podgate"
    template = "podgate/podgate.conf.in"
    log_name = "error-output.log"

    def __init__(self, place, upstream, program, variant=""):
        super().__init__(place, upstream, variant)
        self.program = program
        self.admin_address = None
        self.redis_address = None
        self.wrapper = []      # bench/profile runs podgate under valgrind

    def version(self):
        text = subprocess.run([self.program, "--version"], capture_output=True, text=True,
                              check=True).stdout
        return text.split("\n")[0].strip()

    def words(self):
        keys = []
        for i, key in enumerate(self.place.keys):
            digest = hashlib.sha256(key.encode()).hexdigest()
            keys.append(f'key "bench{i}" {{\n        sha256 = "{digest}"\n'
                        '        operations = {"run", "status", "openai", "adopt"}\n'
                        '        rate = {"1000000/s"}  burst = 1000000  concurrency = 20000\n    }')
        store = 'backend = "embedded"\n    path    = "@DIR@/podgate.db"'
        if self.redis_address:
            store = f'backend = "redis"\n    url     = "redis://{self.redis_address}"\n' \
                    '    path    = "@DIR@/podgate.db"'
        return {"STORE": store, **super().words(), "KEYS": "\n    ".join(keys),
                "ADMIN": self.admin_address or "127.0.0.1:8081",
                "HOT_RESULTS": "hot_results             = 0" if self.variant == "no-hot" else ""}

    def requests_counted(self):
        text = http_request(self.admin_address, "GET", "/metrics")[1].decode()
        return sum(int(float(value)) for value in
                   re.findall(r"^podgate_requests_total\{[^}]*\} (\S+)$", text, re.M))

    def start(self):
        self.address = f"127.0.0.1:{free_port()}"
        self.admin_address = f"127.0.0.1:{free_port()}"
        for name in os.listdir(self.directory):
            if name.startswith("podgate.db"):  # a fresh one knows no jobs
                os.unlink(os.path.join(self.directory, name))
        path = os.path.join(self.directory, "podgate.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.configuration())
        secret = os.path.join(self.directory, "runpod_api_key")
        with open(secret, "w", encoding="utf-8") as file:
            file.write(UPSTREAM_KEY + "\n")
        os.chmod(secret, 0o600)
        self.spawn(self.wrapper + [self.program, "-c", path])
        self.wait_listening()

        def ready():
            try:
                return http_request(self.admin_address, "GET", "/readyz")[0] == 200
            except OSError:
                return False
        wait_until("podgate ready", ready)
