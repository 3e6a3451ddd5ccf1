"""HTTP as bytes: sending requests whole or cut, and reading what comes back without being lenient."""

import json
import socket
import ssl
import time

NEWLINE = b"\r\n"


class WireError(AssertionError):
    """What came back is no HTTP/1.1 response, or not a whole one."""


class Closed(WireError):
    """The connection ended where a response was to begin."""


class Reply:
    """One response. Field names are in lower case; a field that came twice keeps both values."""

    def __init__(self, status, reason, fields, body, interim, version):
        self.status = status
        self.reason = reason
        self.fields = fields
        self.body = body
        self.interim = interim
        self.version = version

    def field(self, name, otherwise=None):
        values = [value for key, value in self.fields if key == name.lower()]
        return ", ".join(values) if values else otherwise

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def from_gateway(self):
        return self.field("podgate-origin") == "gateway"

    def __repr__(self):
        return f"<Reply {self.status} {dict(self.fields)} {self.body[:300]!r}>"


class Wire:
    """One connection, plain or TLS, with a reader that keeps what it has not used."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    @classmethod
    def connect(cls, port, host="127.0.0.1", timeout=20, tls=None, server_name=None, path=None,
                source=None):
        if path is not None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(str(path))
        else:
            sock = socket.create_connection((host, port), timeout,
                                            source_address=(source, 0) if source else None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=server_name)
        return cls(sock)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def send_cut(self, data, cuts):
        """Sends the pieces between the given offsets, each by a call of its own. False when the
        other side ended the connection before all was sent (an early refusal may do that)."""
        edges = [0, *sorted(cuts), len(data)]
        try:
            for begin, end in zip(edges, edges[1:]):
                if end > begin:
                    self.sock.sendall(data[begin:end])
                    time.sleep(0.0003)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def finish(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Ends the connection by RST."""
        import struct
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- reading ---------------------------------------------------------------------------------

    def fill(self):
        """Reads once; False at the end of the connection."""
        try:
            data = self.sock.recv(262144)
        except (ConnectionResetError, ssl.SSLError):
            data = b""
        self.buffer += data
        return bool(data)

    def read_line(self):
        while b"\n" not in self.buffer:
            if not self.fill():
                raise WireError(f"the connection ended inside a line: {self.buffer[:200]!r}")
        line, _, self.buffer = self.buffer.partition(b"\n")
        if not line.endswith(b"\r"):
            raise WireError(f"a line that ends with a bare LF: {line!r}")
        return line[:-1]

    def read_exactly(self, count):
        parts = [self.buffer[:count]]
        have = len(parts[0])
        self.buffer = self.buffer[count:]
        while have < count:
            try:
                data = self.sock.recv(min(1 << 20, count - have))
            except ConnectionResetError:
                data = b""
            if not data:
                raise WireError(f"the connection ended after {have} of {count} bytes")
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def read_to_end(self):
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def read_head(self):
        if not self.buffer and not self.fill():
            raise Closed("the connection ended before a response")
        line = self.read_line().split(b" ", 2)
        if len(line) < 2 or not line[0].startswith(b"HTTP/1.") or not line[1].isdigit():
            raise WireError(f"no status line: {line!r}")
        fields = []
        while True:
            text = self.read_line()
            if not text:
                break
            name, colon, value = text.partition(b":")
            if not colon or name != name.strip():
                raise WireError(f"no field: {text!r}")
            fields.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        reason = line[2].decode("latin-1") if len(line) > 2 else ""
        return line[0].decode(), int(line[1]), reason, fields

    def read_chunk(self):
        size = int(self.read_line().split(b";")[0], 16)
        data = self.read_exactly(size)
        if size == 0:
            while self.read_line():
                pass
        elif self.read_exactly(2) != NEWLINE:
            raise WireError("a chunk without CRLF behind it")
        return data

    def read_reply(self, method="GET"):
        interim = []
        while True:
            version, status, reason, fields = self.read_head()
            if status >= 200:
                break
            interim.append(status)
        reply = Reply(status, reason, fields, b"", interim, version)
        length = [value for name, value in fields if name == "content-length"]
        coding = reply.field("transfer-encoding")
        if len(length) > 1 or (length and coding):
            raise WireError(f"ambiguous framing: {fields}")
        if method == "HEAD" or status in (204, 304):
            pass
        elif coding is not None:
            if coding != "chunked":
                raise WireError(f"transfer coding {coding}")
            chunks = []
            while True:
                chunk = self.read_chunk()
                if not chunk:
                    break
                chunks.append(chunk)
            reply.body = b"".join(chunks)
        elif length:
            reply.body = self.read_exactly(int(length[0]))
        else:
            reply.body = self.read_to_end()
        return reply

    def closes_within(self, seconds=5):
        """True when the other side ends the connection within that time, without another byte."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except (socket.timeout, TimeoutError):
            return False

    # ---- whole requests --------------------------------------------------------------------------

    def request(self, method, target, key=None, body=None, fields=(), host="podgate.test"):
        self.send(head(method, target, key, body, fields, host) + (body or b""))
        return self.read_reply(method)


def head(method, target, key=None, body=None, fields=(), host="podgate.test", version="HTTP/1.1"):
    """The bytes of a request head. `key` goes out as Bearer; `fields` are pairs."""
    lines = [f"{method} {target} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    names = {name.lower() for name, _ in fields}
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    if body and "content-type" not in names:
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def request(port, method, target, key=None, body=None, fields=(), timeout=20, host="127.0.0.1",
            **options):
    """One request on a connection of its own. `body` is bytes, or what becomes JSON."""
    if body is None and method == "POST":
        body = b""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    with Wire.connect(port, host=host, timeout=timeout, **options) as wire:
        return wire.request(method, target, key, body, fields)


def exchange(port, data, cuts=(), count=1, timeout=10, **options):
    """Sends raw bytes, cut at the offsets, and reads up to `count` replies. Gives the replies and
    whether the connection was closed behind them."""
    replies = []
    with Wire.connect(port, timeout=timeout, **options) as wire:
        wire.send_cut(data, cuts) if cuts else try_send(wire, data)
        try:
            for _ in range(count):
                replies.append(wire.read_reply())
        except Closed:
            return replies, True
        # After "Connection: close" the end must come; after keep-alive it must not come at once.
        stays = replies[-1].field("connection", "").lower() != "close"
        return replies, wire.closes_within(0.2 if stays else 5)


def try_send(wire, data):
    try:
        wire.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def assert_problem(reply, status, code=None):
    """The shape of every error that podgate makes itself."""
    assert reply.status == status, reply
    assert reply.field("content-type", "").split(";")[0].strip() == "application/json", reply
    assert reply.from_gateway, reply
    assert reply.field("content-length") is not None, reply
    problem = reply.json
    assert set(problem) == {"type", "title", "detail", "code", "error"}, problem
    assert all(isinstance(value, str) and value for value in problem.values()), problem
    assert problem["error"] == problem["detail"]
    if code is not None:
        assert problem["code"] == code
    return problem
