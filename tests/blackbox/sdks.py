"""The SDKs, called with nothing changed but base URL and key."""

import contextlib
import json
import subprocess

import harness


class Target:
    """Where an SDK is pointed at: the stand-in itself, or podgate in front of it."""

    def __init__(self, name, base_url, port, key, sim, endpoint):
        self.name = name
        self.base_url = base_url
        self.port = port
        self.key = key
        self.sim = sim
        self.endpoint = endpoint


class SdkError(Exception):
    """What the SDK threw; `status` is that of the HTTP response where the SDK tells."""

    def __init__(self, message, status=None, data=None):
        super().__init__(message)
        self.status = status
        self.data = data


def last_line(command, seconds):
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds * harness.PATIENCE,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def javascript(target, operation, base_url=None, seconds=150, **arguments):
    client = harness.sdk_directory() / "javascript" / "client.mjs"
    outcome = last_line(["node", str(client), operation, base_url or target.base_url, target.key,
                         target.endpoint, json.dumps(arguments)], seconds)
    if "error" in outcome:
        error = outcome["error"]
        raise SdkError(error["message"], error["status"], error["data"])
    return outcome.get("value")


def go(target, operation, base_url=None, seconds=150, **arguments):
    client = harness.sdk_directory() / "go-client"
    outcome = last_line([str(client), operation, base_url or target.base_url, target.key,
                         target.endpoint, json.dumps(arguments)], seconds)
    if "error" in outcome:
        raise SdkError(outcome["error"])
    return outcome["value"]


def go_kind():
    """"standin", or the version of Runpod's Go SDK that the client was built with."""
    path = harness.sdk_directory() / "go-kind"
    return path.read_text().strip() if path.exists() else "not built"


@contextlib.contextmanager
def python(target):
    """The `runpod` package with base URL and key of the target."""
    import runpod
    before = runpod.api_key, runpod.endpoint_url_base
    runpod.api_key, runpod.endpoint_url_base = target.key, target.base_url
    try:
        yield runpod
    finally:
        runpod.api_key, runpod.endpoint_url_base = before


def curl(*arguments, timeout=30):
    """curl's exit status, the HTTP status and the body."""
    done = subprocess.run(["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}",
                           *arguments], capture_output=True, text=True,
                          timeout=timeout * harness.PATIENCE, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body
