"""What the ledger and the collector cost: submits with their record on disk or in Redis, and many
jobs that run for long."""
import os
import re
import shutil
import statistics
import subprocess
import time

from servers import BenchError, Program, Podgate, free_port, http_request, wait_until
import measure

RATES = (500, 2000)
OUTSTANDING = 100000
ENDPOINTS = 4
# What podgate allows itself: half of the upstream's 2,000 in 10 s for an endpoint's statuses.
POLLS_PER_SECOND = 100 * ENDPOINTS
FSYNC_ROUNDS = 200


class Redis(Program):
    """A redis-server of the bench's own that syncs each write, on the load generator's core."""

    def __init__(self, place):
        super().__init__(place, "redis", place.load_core)
        self.address = f"127.0.0.1:{free_port()}"

    def start(self):
        self.spawn(["redis-server", "--port", self.address.split(":")[1], "--bind", "127.0.0.1",
                    "--save", "", "--appendonly", "yes", "--appendfsync", "always",
                    "--dir", self.directory])
        self.wait_listening()


def fsync_us(directory):
    """The median of what the machine itself takes to have 4 KiB more of a file on its disk."""
    path = os.path.join(directory, "fsync.probe")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    times = []
    try:
        for _ in range(FSYNC_ROUNDS):
            os.write(descriptor, b"x" * 4096)
            begin = time.perf_counter()
            os.fsync(descriptor)
            times.append((time.perf_counter() - begin) * 1e6)
    finally:
        os.close(descriptor)
        os.unlink(path)
    return statistics.median(times)


def samples(server):
    """Every counter of /metrics, summed over its labels but for the first."""
    text = http_request(server.admin_address, "GET", "/metrics")[1].decode()
    sums = {}
    for name, labels, value in re.findall(r"^(\w+?)(?:\{(.*)\})? (\S+)$", text, re.M):
        first = labels.split(",")[0]
        for key in {name, f"{name} {first}"}:
            sums[key] = sums.get(key, 0.0) + float(value)
    return sums


def growth(server, before, name):
    return samples(server).get(name, 0.0) - before.get(name, 0.0)


# ---- submits -------------------------------------------------------------------------------------


def submit_round(server, load, rate, seconds):
    """The same rate of submits and of forwarded requests, which enter no ledger."""
    plain = load.open(server.address, "proxied", rate, seconds)
    before = samples(server)
    submits = load.open(server.address, "run", rate, seconds)
    syncs = growth(server, before, "podgate_store_syncs_total")
    known = growth(server, before, 'podgate_submits_total outcome="known"')
    if known != submits["sent"]:
        raise BenchError(f"{server.name}: {submits['sent']} submits, {known:.0f} in the ledger")
    return {"plain": plain, "submits": submits, "syncs_per_submit": syncs / submits["sent"],
            "fsync_us": fsync_us(server.directory)}


def submit_saturated(server, load, seconds):
    user, system = server.cpu_seconds()
    result = load.closed(server.address, "run", seconds)
    user_after, system_after = server.cpu_seconds()
    return {"rate": result["ok"] / result["elapsed_s"], "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "cpu_us": (user_after - user + system_after - system) / result["sent"] * 1e6}


def measure_submits(place, upstream, program, load, rounds, seconds, tell):
    """{backend: {rate: [round, ...], "saturated": ...}} of a fresh podgate for each backend."""
    figures = {}
    for backend in ("embedded", "redis"):
        redis = Redis(place) if backend == "redis" else None
        if redis and shutil.which("redis-server") is None:
            tell("submits: no redis-server here (Debian: apt-get install redis-server)")
            continue
        if redis:
            redis.start()
        server = Podgate(place, upstream, program, backend)
        server.redis_address = redis.address if redis else None
        server.start()
        upstream.ask("release")  # jobs have ended when they are polled, as most do
        load.open(server.address, "run", 200, 1.0)
        figures[backend] = {rate: [] for rate in RATES}
        for number in range(rounds):
            for rate in RATES:
                one = submit_round(server, load, rate, seconds)
                figures[backend][rate].append(one)
                tell(f"submits, {backend}, {rate}/s, round {number + 1}/{rounds}: p50 "
                     f"{one['submits']['p50_us']:.0f} us, p99 {one['submits']['p99_us']:.0f} us "
                     f"(forwarded: {one['plain']['p50_us']:.0f}), {one['syncs_per_submit']:.2f} "
                     f"fsyncs a submit, fsync {one['fsync_us']:.0f} us")
        figures[backend]["saturated"] = submit_saturated(server, load, seconds)
        tell(f"submits, {backend}, 64 at once: {figures[backend]['saturated']['rate']:.0f}/s")
        server.stop()
        if redis:
            redis.stop()
        upstream.ask("reset")
    return figures


# ---- jobs that run for long ----------------------------------------------------------------------


def store_bytes(server):
    return sum(os.path.getsize(os.path.join(server.directory, name))
               for name in os.listdir(server.directory) if name.startswith("podgate.db"))


def settled_memory(server):
    """The least of some looks: what comes and goes while it polls isn't what jobs hold."""
    looks = []
    for _ in range(10):
        time.sleep(0.3)
        memory = server.memory_kib()
        looks.append(memory["pss"] if memory["pss"] is not None else memory["rss"])
    return min(looks)


def measure_outstanding(place, upstream, program, load, seconds, tell):
    """Memory for each of OUTSTANDING jobs, and what polling them takes."""
    server = Podgate(place, upstream, program, "outstanding")
    server.start()
    upstream.ask("reset")  # nothing ends
    load.counted(server.address, "run-endpoints", 2000)
    before, stored = settled_memory(server), store_bytes(server)
    begin = time.monotonic()
    load.counted(server.address, "run-endpoints", OUTSTANDING)
    submitted_s = time.monotonic() - begin
    wait_until("the jobs' number in the metrics",
               lambda: samples(server).get("podgate_jobs_outstanding", 0) >= OUTSTANDING, 60.0)
    after = settled_memory(server)
    metrics, asked = samples(server), upstream.state()["requests"]
    cpu, begin = sum(server.cpu_seconds()), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begin
    cpu = sum(server.cpu_seconds()) - cpu
    polls = upstream.state()["requests"] - asked
    figures = {"jobs": OUTSTANDING, "submitted_s": submitted_s,
               "bytes_per_job": (after - before) * 1024 / OUTSTANDING,
               "before_kib": before, "after_kib": after,
               "stored_per_job": (store_bytes(server) - stored) / OUTSTANDING,
               "polls_per_second": polls / elapsed, "budget": POLLS_PER_SECOND,
               "core_share": cpu / elapsed, "seconds": elapsed,
               "late": growth(server, metrics, "podgate_polls_late_total"),
               "failed": growth(server, metrics, 'podgate_polls_total outcome="failed"')}
    tell(f"{OUTSTANDING} jobs: {figures['bytes_per_job']:.0f} bytes of memory each, "
         f"{figures['stored_per_job']:.0f} on disk; {figures['polls_per_second']:.1f} polls/s of "
         f"{POLLS_PER_SECOND} allowed, {figures['core_share']:.1%} of a core")
    server.stop()
    return figures
