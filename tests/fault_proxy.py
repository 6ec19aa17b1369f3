"""A proxy in front of an S3 store that is late and fails, at a rate and in ways a test chooses.

It passes every byte of a request on, the Host header too, which a signature covers: a client takes the proxy's
address for the store's. It runs in a process of its own, so its processor time is not the client's. Which requests
fail depends on the seed and the order of arrival alone.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

KINDS = ("unavailable", "reset", "slow", "truncated", "short_length", "long_length")
WITH_A_BODY = ("slow", "truncated", "short_length", "long_length")

COUNTS_PATH = "/__counts__"
CHUNK_BYTES = 1 << 20
BLANK_LINE = b"\r\n\r\n"
SURPLUS_BYTES = 1000  # what long_length promises too much
DRIBBLE_S = 0.2  # between the bytes of a slow answer
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How late the proxy is, and how often and in which ways it fails."""

    latency_s: float = 0
    """Each request waits this long before it is forwarded."""
    rate: float = 0
    """Share of the requests that fail, 0 to 1, split evenly over `kinds`."""
    kinds: tuple[str, ...] = KINDS
    """unavailable:  503 with S3's SlowDown; the store does not see the request
    reset:        TCP reset, half of them before the answer, half in its middle; the store has seen the request
    slow:         half the body, then for `stall_s` nothing or a byte each DRIBBLE_S (half of them each), then the rest
    truncated:    half the body, then closed
    short_length: half the body under a Content-Length that fits it
    long_length:  the body under a Content-Length that promises more, then closed
    The last four become `unavailable` for an answer without a Content-Length of two or more (HEAD, 304, listings)."""
    seed: int = 0
    """Of the lots that choose the requests and the kinds."""
    methods: tuple[str, ...] = ("GET", "HEAD")
    """Requests of other methods never fail."""
    stall_s: float = 30
    """How long a slow answer takes."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a share of the requests, 0 to 1, got {self.rate}")
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(
                f"unknown kinds of fault: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}"
            )


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    endpoint: str
    pid: int

    def counts(self) -> dict[str, int]:
        """How many faults of each kind it has injected."""
        return self._report()["counts"]

    @property
    def requests(self) -> int:
        """How many requests it has seen."""
        return self._report()["requests"]

    def _report(self) -> dict:
        with urllib.request.urlopen(self.endpoint + COUNTS_PATH, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def fault_proxy(upstream: str, faults: Faults) -> Iterator[Proxy]:
    """Serve on a free port of the loopback until the block, or this process, ends."""
    # -P: beside the standard library it imports nothing, certainly not what lies in this folder
    command = [sys.executable, "-P", str(Path(__file__)), upstream, json.dumps(dataclasses.asdict(faults))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            port = child.stdout.readline().strip()
            if not port:
                raise RuntimeError(f"the proxy ended with {child.wait()} before it served")
            yield Proxy(f"http://127.0.0.1:{port}", child.pid)
        finally:
            child.kill()


class _Server:
    """What the connections share: the lots and the counts."""

    def __init__(self, host: str, port: int, faults: Faults) -> None:
        self.host, self.port, self.faults = host, port, faults
        self.lots = random.Random(faults.seed)
        self.requests = 0
        self.counts = dict.fromkeys(KINDS, 0)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One client's connection, and one to the store for it, until either closes."""
        connection = _Connection(self, reader, writer)
        try:
            while await connection.exchange():
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()  # the store or the client went away
        finally:
            connection.drop_store()
            writer.close()

    def draw(self, method: str) -> str | None:
        self.requests += 1
        if method not in self.faults.methods or self.lots.random() >= self.faults.rate:
            return None
        return self.lots.choice(self.faults.kinds)

    def report(self) -> bytes:
        return json.dumps({"requests": self.requests, "counts": self.counts}).encode()


class _Connection:
    """A client's connection and the store's behind it."""

    def __init__(self, server: _Server, reader: StreamReader, writer: StreamWriter) -> None:
        self.server = server
        self.reader, self.writer = reader, writer
        self.store: tuple[StreamReader, StreamWriter] | None = None

    async def exchange(self) -> bool:
        """One request and its answer; whether another may follow."""
        request = await self.reader.readuntil(BLANK_LINE)
        method, path, _ = request.split(b" ", 2)
        if path == COUNTS_PATH.encode():
            return await self._answer_self(b"200 OK", self.server.report(), method)
        fault = self.server.draw(method.decode())
        if self.server.faults.latency_s:
            await asyncio.sleep(self.server.faults.latency_s)
        if fault == "unavailable":
            return await self._refuse(request, method)
        answer, keep = await self._ask(request)
        length = _body_length(method, answer)
        if fault in WITH_A_BODY and (length is None or length < 2):
            self.drop_store()
            return await self._answer_unavailable(method) and keep
        keep = keep and not CLOSE.search(answer) and not CLOSE.search(request)
        if fault:
            self.server.counts[fault] += 1
            return await self._answer_wrongly(fault, answer, length) and keep
        self.writer.write(answer)
        await self._pass_body(answer, length)
        return keep

    async def _ask(self, request: bytes) -> tuple[bytes, bool]:
        """Forward a request; the head of the final answer, and whether the request's body was taken whole."""
        if self.store is None or self.store[0].at_eof():
            self.drop_store()
            self.store = await asyncio.open_connection(self.server.host, self.server.port, limit=CHUNK_BYTES)
        reader, writer = self.store
        writer.write(request)
        if not _has_body(request):
            return await self._final_answer(reader), True
        sending = asyncio.create_task(self._send_body(request, writer))
        try:
            answer = await self._final_answer(reader)
            await asyncio.wait({sending}, timeout=0.05)
            return answer, sending.done()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _final_answer(self, reader: StreamReader) -> bytes:
        answer = await reader.readuntil(BLANK_LINE)
        while answer.startswith(b"HTTP/1.1 100"):  # an Expect is answered so even where no body follows
            self.writer.write(answer)
            answer = await reader.readuntil(BLANK_LINE)
        return answer

    async def _send_body(self, request: bytes, writer: StreamWriter) -> None:
        try:
            await _copy_body(request, self.reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()  # no answer will come to half a request
            raise

    async def _pass_body(self, answer: bytes, length: int | None) -> None:
        reader = self.store[0]
        if length is not None:
            await _copy(reader, self.writer, length)
        elif CHUNKED.search(answer):
            await _copy_body(answer, reader, self.writer)
        else:
            while chunk := await reader.read(CHUNK_BYTES):
                self.writer.write(chunk)
                await self.writer.drain()

    async def _refuse(self, request: bytes, method: bytes) -> bool:
        """503 without asking the store."""
        if not _has_body(request):
            return await self._answer_unavailable(method)
        if EXPECT.search(request):  # the client has not sent its body, and may or may not send it now
            await self._answer_unavailable(method)
            return False
        await _copy_body(request, self.reader, None)
        return await self._answer_unavailable(method)

    async def _answer_unavailable(self, method: bytes) -> bool:
        self.server.counts["unavailable"] += 1
        return await self._answer_self(b"503 Slow Down", SLOW_DOWN, method)

    async def _answer_self(self, status: bytes, body: bytes, method: bytes) -> bool:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n" % (
            status,
            len(body),
        )
        self.writer.write(head if method == b"HEAD" else head + body)
        await self.writer.drain()
        return True

    async def _answer_wrongly(self, fault: str, answer: bytes, length: int | None) -> bool:
        """Spoil the answer in the way `fault` names; whether the connection may be used on."""
        reader, half = self.store[0], (length or 0) // 2
        if fault == "reset":
            if (
                self.server.lots.random() < 0.5 and half
            ):  # the head alone would be the whole of an empty answer
                self.writer.write(answer)
                await _copy(reader, self.writer, half)
            self._reset()
        elif fault == "slow":
            self.writer.write(answer)
            await _copy(reader, self.writer, half)
            sent = await self._stall(reader, length - half)
            await _copy(reader, self.writer, length - half - sent)
        elif fault == "truncated":
            self.writer.write(answer)
            await _copy(reader, self.writer, half)
        elif fault == "short_length":
            self.writer.write(_with_length(answer, half))
            await _copy(reader, self.writer, half)
            self.drop_store()
        elif fault == "long_length":
            self.writer.write(_with_length(answer, length + SURPLUS_BYTES))
            await _copy(reader, self.writer, length)
        return fault in ("slow", "short_length")

    async def _stall(self, reader: StreamReader, length: int) -> int:
        """Send nothing for `stall_s`, or a byte each DRIBBLE_S: the bytes sent."""
        if self.server.lots.random() < 0.5:
            await asyncio.sleep(self.server.faults.stall_s)
            return 0
        num = min(round(self.server.faults.stall_s / DRIBBLE_S), length)
        for _ in range(num):
            await asyncio.sleep(DRIBBLE_S)
            await _copy(reader, self.writer, 1)
        return num

    def _reset(self) -> None:
        linger_no_time = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_time)
        self.writer.transport.abort()

    def drop_store(self) -> None:
        """Close the connection to the store; the next request opens another."""
        if self.store is not None:
            self.store[1].transport.abort()
            self.store = None


def _has_body(request: bytes) -> bool:
    length = LENGTH.search(request)
    return bool(length and int(length[1])) or bool(CHUNKED.search(request))


def _body_length(method: bytes, answer: bytes) -> int | None:
    """Bytes that follow the head of an answer, None where only its end tells."""
    status = answer.split(b" ", 2)[1][:3]
    if method == b"HEAD" or status in (b"204", b"304"):
        return 0
    length = LENGTH.search(answer)
    return int(length[1]) if length else None


def _with_length(answer: bytes, length: int) -> bytes:
    return LENGTH.sub(b"\r\nContent-Length: %d" % length, answer)


async def _copy_body(head: bytes, reader: StreamReader, writer: StreamWriter | None) -> None:
    """Copy the body that follows a head with a Content-Length or in chunks; without a writer skip it."""
    length = LENGTH.search(head)
    if length:
        await _copy(reader, writer, int(length[1]))
        return
    size = 1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if writer:
            writer.write(line)
        await _copy(reader, writer, size + len(b"\r\n"))


async def _copy(reader: StreamReader, writer: StreamWriter | None, length: int) -> None:
    while length:
        chunk = await reader.read(min(length, CHUNK_BYTES))
        if not chunk:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(chunk)
        if writer:
            writer.write(chunk)
            await writer.drain()


async def _run(upstream: str, faults: Faults) -> None:
    address = urlsplit(upstream)
    ours = _Server(address.hostname, address.port, faults)
    server = await asyncio.start_server(ours.serve, "127.0.0.1", 0, limit=CHUNK_BYTES, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until standard input closes."""
    settings = json.loads(sys.argv[2])
    faults = Faults(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_run(sys.argv[1], faults))


if __name__ == "__main__":
    main()
