"""Fixtures: podgate-sim and podgate, shared by a test process or made for one test."""

import json
import os
import pathlib
import resource

import pytest

import faults
import harness
import sdks

# The tests of podgate-sim look for their program by this name.
try:
    os.environ.setdefault("PODGATE_SIM", harness.program("podgate-sim"))
except FileNotFoundError:
    pass


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also the longer tests, and larger numbers")
    parser.addoption("--outcomes", metavar="FILE",
                     help="write what became of each test as JSON, for tests/conformance-report")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="runs with --full")
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(skip)


# ---- outcomes, for docs/conformance.md -----------------------------------------------------------

def pytest_runtest_makereport(item, call):
    numbers = [mark.args[0] for mark in item.iter_markers("appendix_b")]
    if numbers and call.when == "call":
        item.user_properties.append(("appendix_b", numbers))


def pytest_configure(config):
    # Thousands of held callers need as many descriptors as the system grants.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_runtest_logreport(report):
    numbers = dict(report.user_properties).get("appendix_b")
    if numbers and report.when == "call":
        OUTCOMES[report.nodeid] = {"lines": numbers, "outcome": report.outcome}


OUTCOMES = {}


def pytest_sessionfinish(session):
    path = session.config.getoption("--outcomes")
    if path and not hasattr(session.config, "workerinput"):
        pathlib.Path(path).write_text(json.dumps(OUTCOMES, indent=1, sort_keys=True) + "\n")


# ---- programs ------------------------------------------------------------------------------------

class Lab:
    """Makes the programs of one scope and ends them with it."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.made = []
        self.count = 0

    def next_directory(self, name):
        self.count += 1
        return self.directory / f"{name}-{self.count}"

    def sim(self, *arguments, **options):
        sim = harness.Sim(self.next_directory("sim"), *arguments, **options)
        self.made.append(sim)
        return sim

    def podgate(self, upstream=None, options=None, start=True, ready=True, **process):
        """podgate in front of `upstream` (a sim, a port or a URL) with one team and one key that may
        do everything, unless `options` say otherwise."""
        directory = self.next_directory("podgate")
        directory.mkdir(parents=True)
        secret = directory / "upstream_key"
        secret.write_text(harness.UPSTREAM_KEY + "\n")
        secret.chmod(0o600)
        key = harness.make_key("main")
        base = {"upstream": {"api_key_file": str(secret)}}
        if upstream is not None:
            base["upstream"]["url"] = url_of(upstream)
        if "team" not in (options or {}):
            base["team"] = {"alpha": {"key": {"main": harness.key_section(key)}}}
        podgate = harness.Podgate(directory, harness.merge(base, options or {}), **process)
        podgate.key = key.text
        self.made.append(podgate)
        LIVE.append(podgate)
        return podgate.start(ready) if start else podgate

    def scripted(self, *arguments, **options):
        upstream = faults.ScriptedUpstream(*arguments, **options)
        self.made.append(upstream)
        return upstream

    def proxy(self, port, **options):
        proxy = faults.FaultProxy(port, **options)
        self.made.append(proxy)
        return proxy

    def close(self):
        problems = []
        for made in reversed(self.made):
            try:
                made.stop()
            except AssertionError as problem:
                problems.append(str(problem))
            if made in LIVE:
                LIVE.remove(made)
            if isinstance(made, harness.Program):
                made.kill()
        self.made = []
        assert not problems, "\n".join(problems)


LIVE = []


def url_of(upstream):
    if isinstance(upstream, str):
        return upstream
    if isinstance(upstream, int):
        return f"http://127.0.0.1:{upstream}/v2"
    return upstream.base_url


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("shared"))
    yield lab
    lab.close()


@pytest.fixture
def lab(tmp_path):
    """A laboratory of this test alone."""
    lab = Lab(tmp_path)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def shared_sim(shared_lab):
    return shared_lab.sim("--workers", "200")


@pytest.fixture(scope="session")
def shared_podgate(shared_lab, shared_sim):
    return shared_lab.podgate(shared_sim)


@pytest.fixture
def sim(shared_sim):
    """A podgate-sim that tests share: use an endpoint of your own (`endpoint`), leave no fault."""
    return shared_sim


@pytest.fixture
def gateway(shared_podgate):
    """A podgate in front of `sim` that tests share, with a key that may do everything."""
    return shared_podgate


@pytest.fixture
def make_sim(lab):
    return lab.sim


@pytest.fixture
def podgate(lab):
    """Makes a podgate with a configuration of the test's own: podgate(upstream, options)."""
    return lab.podgate


@pytest.fixture
def endpoint():
    """An endpoint id that no other test uses."""
    return harness.unique("ep")


@pytest.fixture(autouse=True)
def logs_stay_clean():
    """Whatever a test did, the podgates that it used have logged no error that it didn't announce."""
    yield
    for podgate in LIVE:
        podgate.check_log()


@pytest.fixture
def full(request):
    return request.config.getoption("--full")


@pytest.fixture(params=["direct", "podgate"])
def target(request, sim, endpoint):
    """podgate-sim itself, and podgate in front of it: what fails only there is podgate's fault."""
    if request.param == "direct":
        return sdks.Target("direct", sim.base_url, sim.port, sim.key, sim, endpoint)
    gateway = request.getfixturevalue("gateway")
    return sdks.Target("podgate", gateway.base_url, gateway.port, gateway.key, sim, endpoint)
