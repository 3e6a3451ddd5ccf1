"""The measurements: what is asked of each server, and what is taken down."""
import json
import os
import re
import select
import statistics
import subprocess
import time

from servers import (BENCH, BenchError, UPSTREAM_KEY, http_request, others_seconds, place_child,
                     wait_until)

CHAT_BODY = (b'{"model":"m","messages":[{"role":"user","content":"Say hello."}],'
             b'"max_tokens":16,"temperature":0.5,"stream":false}')
RUN_BODY = b'{"input":{"prompt":"Say hello.","number":1},"policy":{"executionTimeout":600000}}'
CHAT_TARGET = "/v2/ep/openai/v1/chat/completions"
HOLD_TARGET = "/v2/hold/openai/v1/chat/completions"
WHOAMI_TARGET = "/podgate/v1/whoami"
CONNECTIONS = 64
HELD_JOBS = 10
STORED_JOBS = 64       # one for each connection
MANY_JOBS = 100000     # so many that none is asked for twice within the freshness of a status
QUIET_SHARE = 0.10   # of one core: what other programs may take before a slice is repeated


def request_bytes(method, target, key, body=b""):
    """A request as an OpenAI client sends it, with one field that isn't on the allow-list."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.example", "Accept: application/json",
             "Accept-Encoding: identity", "Connection: keep-alive",
             "User-Agent: OpenAI/Python 1.40.0", "X-Stainless-Lang: python",
             "X-Stainless-Retry-Count: 0", "X-Client-Trace: 0af7651916cd43dd8448eb211c80319c"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def stored_target(number):
    return f"/v2/ep/status/stored-{number}"


class Load:
    """The load generator with its request files."""

    def __init__(self, place, upstream, generator="load"):
        self.place = place
        self.upstream = upstream
        self.generator = generator
        self.program = place.load_program()
        self.repeats = 0       # slices that may still be taken again in this part of the run
        self.files = {
            "proxied": [self._file("chat", "POST", CHAT_TARGET, CHAT_BODY)],
            "hold": [self._file("hold", "POST", HOLD_TARGET, CHAT_BODY)],
            "whoami": [self._file("whoami", "GET", WHOAMI_TARGET)],
            "bare": [self._file("bare", "GET", "/bare")],
            "status-sync": [
                self._file(f"status-sync-{i}", "GET",
                           f"/v2/ep/status-sync/job-{i}?wait=300000")
                for i in range(HELD_JOBS)],
            "stored": [self._file(f"stored-{i}", "GET", stored_target(i))
                       for i in range(STORED_JOBS)],
            "stored-many": [self._file("stored-many", "GET", "/v2/ep/status/many-@@@@@@@@")],
        }
        self.files["run"] = [self._file("run", "POST", "/v2/ep/run", RUN_BODY)]
        self.files["run-endpoints"] = [
            self._file(f"run-{i}", "POST", f"/v2/ep{i}/run", RUN_BODY) for i in range(4)]
        self.numbers = {"stored-many": MANY_JOBS}

    def _file(self, name, method, target, body=b""):
        path = os.path.join(self.place.directory, name + ".request")
        with open(path, "wb") as file:
            file.write(request_bytes(method, target, self.place.key, body))
        return path

    def _command(self, address, what, connections, *options):
        command = [self.program, "--connect", address, "--connections", str(connections)]
        for path in self.files[what]:
            command += ["--request", path]
        if what in self.numbers:
            command += ["--numbers", str(self.numbers[what])]
        if self.upstream.process is None:
            command += ["--upstream", self.upstream.address]
        return command + list(options)

    def _result(self, command, seconds):
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60,
                                check=False,
                                preexec_fn=lambda: place_child(self.place.load_core))
        if result.returncode != 0:
            raise BenchError(result.stderr.strip())
        return check_result(json.loads(result.stdout), " ".join(command))

    def closed(self, address, what, seconds):
        if self.generator == "wrk":
            return self._wrk(address, what, seconds)
        return self._result(self._command(address, what, CONNECTIONS, "--closed", str(seconds)),
                            seconds)

    def counted(self, address, what, count, seconds=600):
        return self._result(self._command(address, what, CONNECTIONS, "--count", str(count)),
                            seconds)

    def open(self, address, what, rate, seconds):
        return self._result(self._command(address, what, CONNECTIONS, "--open", f"{rate:.0f}",
                                          str(seconds)), seconds)

    def _wrk(self, address, what, seconds):
        """wrk instead of bench/load.c: a second opinion on the same request."""
        targets = {"proxied": CHAT_TARGET, "whoami": WHOAMI_TARGET, "bare": "/bare",
                   "stored": stored_target(0)}
        environment = {**os.environ, "BENCH_REQUEST": self.files[what][0]}
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s",
                   "-s", os.path.join(BENCH, "wrk", "request.lua"),
                   f"http://{address}{targets[what]}"]
        begin = time.monotonic()
        text = subprocess.run(command, capture_output=True, text=True, check=True,
                              env=environment,
                              preexec_fn=lambda: place_child(self.place.load_core)).stdout
        count = int(re.search(r"(\d+) requests in", text).group(1))
        if "Non-2xx" in text or "Socket errors" in text:
            raise BenchError("wrk saw errors:\n" + text)
        return {"sent": count, "ok": count, "elapsed_s": time.monotonic() - begin}

    def hold(self, address, what, connections):
        return Held(self._command(address, what, connections, "--hold"), connections)


def check_result(result, command):
    if result["refused"] or result["broken"] or result["lost"] or result["unanswered"]:
        raise BenchError(f"not all requests were answered with 200: {result}\n{command}")
    return result


class Held:
    """Connections that are held open by a load generator."""

    def __init__(self, command, connections):
        self.connections = connections
        self.command = command
        self.buffered = b""
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        bufsize=0)

    def _line(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.buffered:
            left = max(0.0, end - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise BenchError(f"{seconds} s without a word of: {' '.join(self.command)}")
            block = os.read(self.process.stdout.fileno(), 4096)
            if not block:
                raise BenchError(f"the load generator ended: {' '.join(self.command)}")
            self.buffered += block
        line, _, self.buffered = self.buffered.partition(b"\n")
        return line.decode()

    def wait_line(self, word, seconds):
        """Waits for the line "WORD N" and gives N."""
        line = self._line(seconds).split()
        if len(line) != 2 or line[0] != word:
            raise BenchError(f"{line} instead of {word!r}")
        return int(line[1])

    def end(self):
        """Closes the connections; raises BenchError unless all had a good answer."""
        self.process.stdin.close()
        result = json.loads(self._line(30))
        self.process.wait(30)
        return check_result(result, " ".join(self.command))

    def abandon(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# ---- that the servers do the work ----------------------------------------------------------------


def verify(server, place):
    """Raises BenchError unless the server checks keys, forwards, hides and logs as it should."""
    def expect(what, condition):
        if not condition:
            raise BenchError(f"{server.name}: {what}\n{server.last_words()}")

    upstream = server.upstream
    upstream.ask("reset")
    good = {"Authorization": f"Bearer {place.key}", "Content-Type": "application/json",
            "Accept": "application/json", "User-Agent": "bench", "Cookie": "private=1",
            "X-Unknown": "1"}
    wrong = {**good, "Authorization": "Bearer " + place.key[:-1] + "x"}
    missing = {name: value for name, value in good.items() if name != "Authorization"}
    for target in (CHAT_TARGET, WHOAMI_TARGET):
        method, body = ("POST", CHAT_BODY) if target == CHAT_TARGET else ("GET", None)
        for fields in (wrong, missing):
            status = http_request(server.address, method, target, body, fields)[0]
            expect(f"{target} answers {status} to a wrong or missing key", status == 401)
    expect("a refused request reached the upstream", upstream.state()["requests"] == 0)
    lines = server.log_lines()
    status, body, _ = http_request(server.address, "POST", CHAT_TARGET, CHAT_BODY, good)
    direct = http_request(upstream.address, "POST", CHAT_TARGET, CHAT_BODY)[1]
    expect(f"forwarded: status {status}, body {body!r}", status == 200 and body == direct)
    http_request(server.address, "POST", CHAT_TARGET, CHAT_BODY, good)
    head = upstream.ask("last").decode() + "\r\n"
    expect("the upstream's key isn't sent", f"Bearer {UPSTREAM_KEY}\r\n" in head)
    expect(f"the caller's key reached the upstream:\n{head}", place.key not in head)
    if server.allow_list:
        for name in ("cookie", "x-unknown"):
            expect(f"{name} reached the upstream:\n{head}", f"\n{name}:" not in head.lower())
    status, body, _ = http_request(server.address, "GET", WHOAMI_TARGET, None, good)
    expect(f"whoami: status {status}, body {body!r}", status == 200)
    if server.logs:
        wait_until(f"{server.name}'s log lines", lambda: server.log_lines() >= lines + 3)


def prime(server, place):
    """Lets jobs end, and the server store what came of them; shows that it then asks nobody."""
    upstream = server.upstream
    upstream.ask("release")
    fields = {"Authorization": f"Bearer {place.key}"}
    for number in range(STORED_JOBS):
        def stored(target=stored_target(number)):
            status, body, answered = http_request(server.address, "GET", target, None, fields)
            if status != 200 or json.loads(body)["status"] != "COMPLETED":
                raise BenchError(f"{server.name}: {target}: {status}, {body!r}")
            return ("; hit" in answered.get("Cache-Status", "")
                    or answered.get("X-Cache", "") == "HIT")
        wait_until(f"{server.name} storing {stored_target(number)}", stored)
    asked = upstream.state()["requests"]
    for number in range(STORED_JOBS):
        http_request(server.address, "GET", stored_target(number), None, fields)
    if upstream.state()["requests"] != asked:
        raise BenchError(f"{server.name} asked upstream for what it has stored")
    wrong = {"Authorization": "Bearer " + place.key[:-1] + "x"}
    if http_request(server.address, "GET", stored_target(0), None, wrong)[0] != 401:
        raise BenchError(f"{server.name} gives a stored answer to a wrong key")
    upstream.ask("reset")


def prime_many(server, load):
    """The same for so many jobs that each request is for another one."""
    server.upstream.ask("release")
    server.log_clear()
    load.counted(server.address, "stored-many", MANY_JOBS)
    server.wait_log_lines(MANY_JOBS)
    server.log_clear()
    load.counted(server.address, "stored-many", MANY_JOBS)
    server.wait_log_lines(MANY_JOBS)
    if server.hit_count != MANY_JOBS:
        raise BenchError(f"{server.name}: {server.hit_count} of {MANY_JOBS} results are stored")
    server.upstream.ask("reset")


# ---- CPU per request -----------------------------------------------------------------------------


def slice_closed(server, load, what, seconds):
    """One slice of saturating load: CPU per request of the server, log writing included."""
    server.log_clear()
    counted = server.requests_counted()
    user, system = server.cpu_seconds()
    running = [program for program in server.place.programs if program.process]
    others = others_seconds(running)
    begin = time.monotonic()
    result = load.closed(server.address, what, seconds)
    lines = server.wait_log_lines(result["sent"]) if server.logs else result["sent"]
    if what.startswith("stored") and server.hit_count != lines:
        raise BenchError(f"{server.name}: {server.hit_count} of {lines} answers were stored ones")
    user_after, system_after = server.cpu_seconds()
    used = user_after - user + system_after - system
    others = others_seconds(running) - others
    # wrk leaves without the answers to its last requests.
    spare = CONNECTIONS if load.generator == "wrk" else 0
    if counted is not None and not (
            result["sent"] <= server.requests_counted() - counted <= result["sent"] + spare):
        raise BenchError(f"{server.name}'s metrics don't count the {result['sent']} requests sent")
    return {"cpu_us": used / result["sent"] * 1e6,
            "user_us": (user_after - user) / result["sent"] * 1e6,
            "system_us": (system_after - system) / result["sent"] * 1e6,
            "rate": result["ok"] / result["elapsed_s"], "requests": result["sent"],
            "lines_lost": max(0, result["sent"] - lines) / result["sent"],
            "others": max(0.0, others / (time.monotonic() - begin))}


def slice_quiet(server, load, what, seconds):
    """A slice; taken again when other programs were busy, at most twice and within a budget."""
    slices = []
    while len(slices) < 3:
        slices.append(slice_closed(server, load, what, seconds))
        if slices[-1]["others"] < QUIET_SHARE or load.repeats == 0:
            break
        load.repeats -= 1
    return min(slices, key=lambda one: one["others"])


def rounds_closed(subjects, load, rounds, seconds, tell):
    """Slices of all subjects in turn, so that what disturbs one round disturbs all of them.

    subjects: {name: (server, what)}. Gives {name: [slice, ...]}.
    """
    slices = {name: [] for name in subjects}
    order = list(subjects)
    load.repeats = rounds * len(order) // 3
    for number in range(rounds):
        for name in order:
            server, what = subjects[name]
            slices[name].append(slice_quiet(server, load, what, seconds))
        tell(f"round {number + 1}/{rounds}: "
             + ", ".join(f"{name} {slices[name][-1]['cpu_us']:.2f}" for name in order) + " us")
        order = order[1:] + order[:1]
    return slices


def median_of(slices, field):
    return statistics.median(one[field] for one in slices)


def ratio(slices, name, reference, field="cpu_us"):
    """The median of the ratios round by round: slow drift of the machine falls out."""
    return statistics.median(one[field] / other[field]
                             for one, other in zip(slices[name], slices[reference]))


# ---- latency -------------------------------------------------------------------------------------


def open_quiet(address, load, rate, seconds):
    """Latencies at a constant rate; taken again when other programs were busy, as slice_quiet().

    A program that takes the server's core for one time slice of 3 ms is all that p99 shows.
    """
    results = []
    while len(results) < 3:
        running = [program for program in load.place.programs if program.process]
        others, begin = others_seconds(running), time.monotonic()
        result = load.open(address, "proxied", rate, seconds)
        result["others"] = max(0.0, others_seconds(running) - others) / (time.monotonic() - begin)
        results.append(result)
        if result["others"] < QUIET_SHARE or load.repeats == 0:
            break
        load.repeats -= 1
    return min(results, key=lambda one: one["others"])


def rounds_open(subjects, load, rate, rounds, seconds, tell):
    """Latencies at a constant rate. subjects: {name: address}; gives {name: [result, ...]}."""
    results = {name: [] for name in subjects}
    order = list(subjects)
    load.repeats = rounds * len(order) // 3
    for number in range(rounds):
        for name in order:
            results[name].append(open_quiet(subjects[name], load, rate, seconds))
        tell(f"round {number + 1}/{rounds}: "
             + ", ".join(f"{name} {results[name][-1]['p50_us']:.0f}/"
                         f"{results[name][-1]['p99_us']:.0f}" for name in order) + " us (p50/p99)")
        order = order[1:] + order[:1]
    return results


# ---- memory --------------------------------------------------------------------------------------


def hold_memory(server, load, what, connections):
    """Memory of a fresh server before and while it holds connections; all must be answered.

    what: "idle" (one answered request each, then idle), "hold" (a forwarded request each that the
    upstream answers late), "status-sync" (podgate's own wait).
    """
    held = None
    server.start()
    try:
        server.upstream.ask("reset")
        for _ in range(3):  # pages that each server touches once, at its first requests
            load.counted(server.address, "proxied", CONNECTIONS)
        before = server.memory_kib()
        held = load.hold(server.address, "proxied" if what == "idle" else what, connections)
        sent = held.wait_line("sent", 60)
        if sent != connections:
            raise BenchError(f"{server.name}: {sent} of {connections} connections")
        if what == "idle":
            answered = held.wait_line("answered", 60)
        else:
            if what == "hold":
                wait_until(f"{connections} requests at the upstream through {server.name}",
                           lambda: server.upstream.state()["held"] == connections, 30.0)
            # Until what was read is digested: memory that doesn't change any more.
            settle(server)
        during = server.memory_kib()
        if what != "idle":
            server.upstream.ask("release")
            answered = held.wait_line("answered", 60)
        if answered != connections:
            raise BenchError(f"{server.name}: {answered} of {connections} answers")
        held.end()
    finally:
        if held is not None:
            held.abandon()
        server.stop()
    field = "pss" if before["pss"] is not None else "rss"
    return {"before": before, "during": during, "connections": connections,
            "per_connection_bytes": (during[field] - before[field]) * 1024 / connections}


def settle(server):
    last = None

    def steady():
        nonlocal last
        now = server.memory_kib()["rss"]
        time.sleep(0.3)
        same, last = now == last, now
        return same
    try:
        wait_until("steady memory", steady, 5.0)
    except BenchError:
        pass  # a server that polls may never stand still: what it has then is what counts
