"""A real redis-server of a test's own, which keeps every write that it acknowledged."""

import signal

import harness


class RedisServer(harness.Program):
    def __init__(self, directory, *options):
        super().__init__(directory, "redis")
        self.port = harness.PORTS.take()
        self.options = options
        self.start()

    def start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        before = len(self.output())
        self.spawn(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
                    str(self.directory), "--save", "", "--appendonly", "yes", "--appendfsync",
                    "always", *self.options])
        harness.wait_until(lambda: "Ready to accept connections" in self.output()[before:]
                           or not self.is_running(), 15, "redis-server")
        assert self.is_running(), self.output()

    def restart(self):
        """As after a power cut: killed, and started on what is on the disk."""
        self.kill()
        self.start()

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def store(self, **more):
        """The `store` section of a podgate that uses it."""
        return {"backend": "redis", "url": self.url, **more}

    def stop(self):
        self.kill()
        harness.PORTS.give_back(self.port)
