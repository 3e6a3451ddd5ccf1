"""Starts podgate-sim for tests and speaks to it: as a caller, by its control routes, by raw bytes."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parents[2]


def find_program():
    """PODGATE_SIM names it; else the build directory that pytest was started in, or the source's."""
    named = os.environ.get("PODGATE_SIM")
    candidates = [named] if named else [
        pathlib.Path.cwd() / "src" / "podgate-sim",
        SOURCE / "build" / "src" / "podgate-sim",
        SOURCE / "src" / "podgate-sim",
    ]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return str(candidate)
    found = shutil.which("podgate-sim")
    if found:
        return found
    raise FileNotFoundError("podgate-sim is not built; set PODGATE_SIM to its path")


def wait_until(condition, seconds=20, what="condition"):
    """Calls `condition` until it returns something true, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} not met within {seconds} s")
        time.sleep(0.01)


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


class Sim:
    """One podgate-sim on free ports of 127.0.0.1, with a control listener of its own."""

    def __init__(self, *options, key=None):
        self.key = key
        arguments = [find_program(), "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
        if key:
            arguments += ["--api-key", key]
        self.process = subprocess.Popen(
            arguments + list(options), stdout=subprocess.PIPE, text=True)
        self.port = self._read_port("listening")
        self.control_port = self._read_port("control")
        self.base = f"http://127.0.0.1:{self.port}/v2"

    def _read_port(self, label):
        line = self.process.stdout.readline()
        if not line.startswith(f"podgate-sim: {label} on "):
            self.stop()
            raise AssertionError(f"podgate-sim said {line!r}")
        return int(line.rsplit(":", 1)[1])

    def stop(self):
        self.process.terminate()
        code = self.process.wait(20)
        self.process.stdout.close()
        return code

    def call(self, method, path, body=None, headers=None, timeout=30, port=None):
        """`path` is below /v2 unless it begins with /sim. `body`: bytes, str or JSON value."""
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        prefix = "" if path.startswith("/sim") else "/v2"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port or self.port}{prefix}{path}", data=body, method=method)
        request.add_header("Content-Type", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def control(self, method, path, body=None):
        answer = self.call(method, f"/sim/v1{path}", body, port=self.control_port)
        assert answer.status == 200, answer.body
        return answer.json

    def fault(self, **terms):
        terms = {name.replace("_", "-"): value for name, value in terms.items()}
        return self.control("POST", "/fault", terms)["number"]

    def clear_faults(self):
        return self.control("DELETE", "/fault")["removed"]

    def submit(self, endpoint="ep", operation="run", **job_input):
        answer = self.call("POST", f"/{endpoint}/{operation}", {"input": job_input})
        assert answer.status == 200, answer.body
        return answer.json["id"]

    def finished(self, job, endpoint="ep"):
        """Waits for the end; the terminal status."""
        def ended():
            status = self.call("GET", f"/{endpoint}/status/{job}").json
            return status if status["status"] not in ("IN_QUEUE", "IN_PROGRESS") else None
        return wait_until(ended, what=f"end of {job}")

    def exchange(self, data, timeout=10):
        """Sends raw bytes; what comes back until the sim closes, and whether it was by reset."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            try:
                while piece := connection.recv(65536):
                    received += piece
            except ConnectionResetError:
                return received, True
        return received, False
