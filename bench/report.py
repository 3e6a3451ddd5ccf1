"""What bench/run and bench/profile say: a summary for the terminal, and docs/benchmarks.md."""
import os
import platform
import re
import statistics

from measure import median_of, ratio

# The targets of the project: (name, largest ratio).
TARGET_PROXIED = 1.00
TARGET_WHOAMI = 1.10
TARGET_STORED = 0.75
TARGET_SUBMIT_FSYNCS = 2.0
TARGET_JOB_BYTES = 512
TARGET_COLLECTOR_SHARE = 0.25
NAMES = {"nginx": "nginx", "haproxy": "HAProxy", "podgate": "podgate",
         "nginx bare": "nginx, bare `return`", "direct": "without a gateway",
         "nginx-unbuffered": "nginx, access log without `buffer=`",
         "nginx-request-id": "nginx, making an X-Request-Id as podgate does",
         "nginx-all-fields": "nginx, forwarding all fields",
         "haproxy-all-fields": "HAProxy, forwarding all fields",
         "haproxy-no-log": "HAProxy, without any log",
         "nginx-open-files": "nginx, with `open_file_cache`",
         "podgate-no-hot": "podgate, from the store", "nginx many": "nginx, 100,000 results"}
CODE_FENCE = "```"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def median(results, field):
    return statistics.median(result[field] for result in results)


def spread(slices, field):
    values = [one[field] for one in slices]
    return f"{min(values):.2f} .. {max(values):.2f}"


def cpu_rows(slices, references):
    rows = []
    for name in slices:
        row = [NAMES[name], f"{median_of(slices[name], 'cpu_us'):.2f} us",
               spread(slices[name], "cpu_us"),
               f"{median_of(slices[name], 'user_us'):.2f} + "
               f"{median_of(slices[name], 'system_us'):.2f}",
               f"{median_of(slices[name], 'rate'):.0f}",
               f"{max(one['lines_lost'] for one in slices[name]):.1%}"]
        row += [f"{ratio(slices, name, reference):.2f}" for reference in references]
        rows.append(row)
    return rows


def cpu_table(slices, references):
    head = ["server", "CPU per request", "lowest .. highest round", "user + system",
            "requests/s", "log lines lost"] + [f"of {NAMES[name]}'s" for name in references]
    return table(head, cpu_rows(slices, references))


def memory_rows(memory):
    rows = []
    for name, result in memory.items():
        what, count, server = name.split(" ", 2)
        if "error" in result:
            rows.append([what, count, NAMES[server], "failed", "", "", result["error"][:120]])
            continue
        rows.append([what, count, NAMES[server], f"{result['before']['rss'] / 1024:.1f}",
                     f"{result['during']['rss'] / 1024:.1f}",
                     f"{result['during']['pss'] / 1024:.1f}" if result["during"]["pss"] else "-",
                     f"{result['per_connection_bytes'] / 1024:.2f}"])
    return rows


def latency_rows(results):
    rows = []
    for name, rounds in results.items():
        row = [NAMES[name]]
        for field in ("p50_us", "p99_us"):
            row.append(f"{median(rounds, field):.0f} us")
            row.append("-" if name == "direct" else
                       f"{median(rounds, field) - median(results['direct'], field):.0f} us")
        row.append(f"{median(rounds, 'p999_us'):.0f} us")
        rows.append(row)
    return rows


def submit_rows(submits):
    rows = []
    for backend, rates in submits.items():
        for rate, rounds in rates.items():
            if rate == "saturated":
                rows.append([backend, f"64 at once: {rounds['rate']:.0f}/s",
                             f"{rounds['p50_us']:.0f} us", f"{rounds['p99_us']:.0f} us", "-", "-",
                             "-", f"{rounds['cpu_us']:.1f} us"])
                continue
            plain = statistics.median(one["plain"]["p50_us"] for one in rounds)
            rows.append([backend, f"{rate}/s",
                         f"{statistics.median(one['submits']['p50_us'] for one in rounds):.0f} us",
                         f"{statistics.median(one['submits']['p99_us'] for one in rounds):.0f} us",
                         f"{plain:.0f} us", f"{median(rounds, 'fsync_us'):.0f} us",
                         f"{median(rounds, 'syncs_per_submit'):.2f}"
                         if backend == "embedded" else "-", "-"])
    return rows


SUBMIT_HEAD = ["store", "submits", "p50", "p99", "p50 forwarded", "the machine's fsync",
               "fsyncs a submit", "CPU a submit"]


def outstanding_rows(result):
    return [[f"{result['jobs']}", f"{result['bytes_per_job']:.0f}",
             f"{result['stored_per_job']:.0f}", f"{result['polls_per_second']:.1f}",
             f"{result['budget']}", f"{result['core_share']:.1%}"]]


OUTSTANDING_HEAD = ["jobs", "bytes of memory each", "bytes on disk each", "polls/s", "allowed",
                    "of a core"]


def ledger_verdicts(figures):
    lines = []
    for rate, rounds in figures.get("submits", {}).get("embedded", {}).items():
        if rate == "saturated":
            continue
        # Round by round: a disk's fsync takes another time every few seconds.
        value = statistics.median(
            (one["submits"]["p50_us"] - one["plain"]["p50_us"]) / one["fsync_us"]
            for one in rounds)
        lines.append((f"median submit at {rate}/s, embedded store: the ledger adds at most "
                      f"{TARGET_SUBMIT_FSYNCS:.0f} of the machine's own fsyncs", f"{value:.2f}",
                      value <= TARGET_SUBMIT_FSYNCS))
    if "outstanding" in figures:
        result = figures["outstanding"]
        lines.append((f"memory at most {TARGET_JOB_BYTES} bytes per outstanding job",
                      f"{result['bytes_per_job']:.0f}",
                      result["bytes_per_job"] <= TARGET_JOB_BYTES))
        lines.append((f"{result['jobs']} outstanding jobs polled within {result['budget']}/s at "
                      f"under {TARGET_COLLECTOR_SHARE:.0%} of a core",
                      f"{result['polls_per_second']:.0f}/s, {result['core_share']:.1%}",
                      result["polls_per_second"] <= result["budget"] * 1.02
                      and result["core_share"] < TARGET_COLLECTOR_SHARE))
    return lines


def verdicts(figures):
    """[(target, figure, reached)] for what the project asks of podgate."""
    lines = []
    if "proxied" in figures and "podgate" in figures["proxied"]:
        for reference in ("nginx", "haproxy"):
            value = ratio(figures["proxied"], "podgate", reference)
            lines.append((f"CPU per proxied request at most {TARGET_PROXIED:.2f} of "
                          f"{NAMES[reference]}'s", f"{value:.2f}", value <= TARGET_PROXIED))
    if "whoami" in figures and "podgate" in figures["whoami"]:
        value = ratio(figures["whoami"], "podgate", "nginx")
        lines.append((f"CPU per `whoami` at most {TARGET_WHOAMI:.2f} of nginx `return`",
                      f"{value:.2f}", value <= TARGET_WHOAMI))
    if "stored" in figures and "podgate" in figures["stored"]:
        value = ratio(figures["stored"], "podgate", "nginx")
        lines.append((f"CPU per hot stored answer at most {TARGET_STORED:.2f} of nginx "
                      "`proxy_cache`'s", f"{value:.2f}", value <= TARGET_STORED))
    if "latency" in figures and "podgate" in figures["latency"]["results"]:
        results = figures["latency"]["results"]
        ours, theirs = (median(results[name], "p99_us") - median(results["direct"], "p99_us")
                        for name in ("podgate", "nginx"))
        lines.append(("p99 added at half of saturation no worse than nginx's",
                      f"{ours:.0f} us against {theirs:.0f} us", ours <= theirs))
    lines += ledger_verdicts(figures)
    for what in ("status-sync", "hold"):
        ours = figures.get("memory", {}).get(f"{what} 9000 podgate", {})
        theirs = figures.get("memory", {}).get("hold 9000 nginx", {})
        if ours and theirs:
            title = {"status-sync": "9,000 callers held in `/status-sync`",
                     "hold": "9,000 proxied requests held"}[what]
            if "error" in ours or "error" in theirs:
                lines.append((f"{title}: less memory than nginx", "failed", False))
                continue
            # PSS where it is known: nginx's master and worker share pages that RSS counts twice.
            field = "pss" if ours["during"]["pss"] and theirs["during"]["pss"] else "rss"
            lines.append((f"{title}: less memory than nginx with as many proxied requests",
                          f"{ours['during'][field] / 1024:.0f} MiB against "
                          f"{theirs['during'][field] / 1024:.0f} MiB",
                          ours["during"][field] < theirs["during"][field]))
    return lines


def others_share(figures):
    """What other programs took while it was measured, in shares of a core: median and worst."""
    shares = [one["others"] for part in ("proxied", "whoami", "stored") if part in figures
              for slices in figures[part].values() for one in slices]
    return (statistics.median(shares), max(shares)) if shares else (0.0, 0.0)


def plain(text):
    return text.replace("`", "")


def summary(figures):
    parts = []
    for part in ("proxied", "variants", "whoami", "stored"):
        if part in figures:
            references = [name for name in ("nginx", "haproxy", "nginx-open-files") if name in figures[part]]
            parts.append(f"{part}:\n" + cpu_table(figures[part], references))
    if "latency" in figures:
        parts.append(f"latency at {figures['latency']['rate']:.0f} requests/s:\n"
                     + table(["server", "p50", "added", "p99", "added", "p99.9"],
                             latency_rows(figures["latency"]["results"])))
    if "memory" in figures:
        parts.append("memory:\n" + table(
            ["held", "number", "server", "RSS before, MiB", "RSS, MiB", "PSS, MiB",
             "KiB per connection"], memory_rows(figures["memory"])))
    if "submits" in figures:
        parts.append("submits:\n" + table(SUBMIT_HEAD, submit_rows(figures["submits"])))
    if "outstanding" in figures:
        parts.append("outstanding jobs:\n"
                     + table(OUTSTANDING_HEAD, outstanding_rows(figures["outstanding"])))
    parts += ["{}: {} ({})".format(plain(target), figure, "reached" if reached else "MISSED")
              for target, figure, reached in verdicts(figures)]
    middle, most = others_share(figures)
    if most > 0:
        parts.append(f"other programs used {middle:.0%} of a core (median slice), "
                     f"{most:.0%} (worst)")
    return plain("\n\n".join(parts))


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        match = re.search(r"model name\s*:\s*(.*)", file.read())
    return match.group(1) if match else platform.machine()


def markdown(figures):
    options = figures["options"]
    latency = figures["latency"]
    middle, most = others_share(figures)
    kernel = ".".join(platform.release().split(".")[:2])
    generator = "`bench/load.c`" if options["generator"] == "load" else "wrk"
    versions = ", ".join(figures["versions"].values())
    targets = [[target, figure, "reached" if reached else "**missed**"]
               for target, figure, reached in verdicts(figures)]
    text = f"""\
{versions}.
Linux {kernel}, {processor()}, {os.cpu_count()} cores; load by {generator}; {options['rounds']} rounds of
{options['slice']:g} s. Other programs used {middle:.0%} of one core during the median slice and
{most:.0%} during the worst (a slice is taken again when that is above 10 %, within a budget of a third
more slices). Ratios are medians of the ratios round by round. Ratios travel; absolute values don't.

### Targets

{table(["target", "figure", ""], targets)}

### Forwarded request

POST `/v2/ep/openai/v1/chat/completions` with a small JSON body, a plain JSON answer of about 200
bytes, 64 keep-alive connections: key check, limit, fields by allow-list, keep-alive forward, access
log line, counters.

{cpu_table(figures["proxied"], ["nginx", "haproxy"])}
"""
    if "variants" in figures:
        text += f"""
Other configurations of the same, in rounds of their own:

{cpu_table(figures["variants"], ["nginx"])}
"""
    text += f"""
### Answer made by the gateway

GET `/podgate/v1/whoami`; nginx and HAProxy answer the same bytes from their configuration after the
same key check. nginx's `return` runs before its limit could (podgate and HAProxy do apply theirs);
"bare" is `return` without a key check either.

{cpu_table(figures["whoami"], ["nginx", "nginx bare", "haproxy"])}

### Stored answer

GET `/v2/ep/status/ID` of 64 finished jobs, whose results (about 110 bytes) the server has: nginx in its
`proxy_cache`, podgate in memory ("hot"). And of 100,000 jobs, one after the other: nginx in its `proxy_cache`, podgate
in its embedded store, with the memory cache turned off.
Key check, limit, access log line as above. That no request goes to the upstream is checked before, and
each log line has to call its answer a hit.

{cpu_table(figures["stored"], ["nginx", "nginx-open-files"])}

### Latency at half of saturation

{latency['rate']:.0f} requests/s, which is half of what nginx reached above, due at fixed instants on 64
connections; counted from the instant at which a request was due. Medians of the rounds.

{table(["server", "p50", "added", "p99", "added", "p99.9"], latency_rows(latency["results"]))}

### Memory with connections held

A fresh server each time. idle: a keep-alive connection after one answered request. hold: a forwarded
request each, which the upstream answers late. status-sync: callers of podgate's own wait, on 10 jobs.
Every connection had its right answer in the end. Per connection: what PSS grew by.

{table(["held", "number", "server", "RSS before, MiB", "RSS, MiB", "PSS, MiB",
"KiB per connection"], memory_rows(figures["memory"]))}

### Submits

POST `/v2/ep/run` with a small JSON body; the answer is sent when the job is in the ledger, on disk. Due
at fixed instants as above; p50 of forwarded requests at the same rate, and the median time that the
machine itself takes to fsync 4 KiB more of a file, in the same round. The jobs have ended when they are
polled, so that fetching and storing their results is in these figures. Redis with `appendfsync always`
on the load generator's core.

{table(SUBMIT_HEAD, submit_rows(figures["submits"]))}

### Outstanding jobs

{figures["outstanding"]["jobs"]} jobs of 4 endpoints, all running, watched for {figures["outstanding"]["seconds"]:.0f} s; the embedded
store. Memory is what PSS grew by. Allowed: what podgate takes of the upstream's limit for statuses.

{table(OUTSTANDING_HEAD, outstanding_rows(figures["outstanding"]))}

### Configurations

With the keys, addresses and paths of a run replaced by fixed ones; commands: `nginx -c nginx.conf`,
`haproxy -db -f haproxy.cfg >access.log`, `podgate -c podgate.conf 2>access.log`, each under
`taskset -c 0`; load generator and upstream under `taskset -c 1`.
"""
    for name, configuration in figures["configurations"].items():
        text += f"\n{NAMES[name]}:\n\n{CODE_FENCE}\n{configuration.strip()}\n{CODE_FENCE}\n"
    return text


SKELETON = """\
# Benchmarks: podgate beside nginx and HAProxy

`bench/run` writes the figures on this page; `bench/profile` writes the profile. What stands outside
of the marked blocks is written by hand and stays.

    ./bootstrap && ./configure && make
    bench/run                          # about a quarter of an hour; --quick for a first look
    bench/profile --save

Each server has one core for itself (`taskset`); the load generator (`bench/load.c`) and a small
stand-in upstream (`bench/upstream.c`) are one thread on another. CPU per request is user plus system
time of all processes and threads of the server, from `/proc/PID/stat`, divided by the requests
answered; log writing is in it. It is the figure to compare, since it doesn't depend on who saturates
first. Slices of the servers take turns.

Before anything is measured, each server is shown to refuse a wrong and a missing key, to forward with
the upstream's key and without the caller's, to keep unlisted fields back, and to write its log lines.
Each slice counts the log lines: what was lost at worst is in the tables, since a server that throws
lines away has done less work. podgate's own request counter must agree in each slice. Any answer but
200 ends the run.

## Figures

<!-- begin results -->
<!-- end results -->

## Profile

<!-- begin profile -->
<!-- end profile -->
"""


def write(path, block, text):
    """Replaces the marked block of the report, which is made when it isn't there."""
    try:
        with open(path, encoding="utf-8") as file:
            page = file.read()
    except FileNotFoundError:
        page = SKELETON
    begin, end = f"<!-- begin {block} -->\n", f"<!-- end {block} -->\n"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise OSError(f"{path} has no block {block}")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(before + begin + "\n" + text.strip("\n") + "\n\n" + end + after)
