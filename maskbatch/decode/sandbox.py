"""Images decoded in a process of their own: one that hangs, crashes or fills the memory takes nothing along.

The process bounds itself, in processor time by ITIMER_PROF, in wall time by ITIMER_REAL and in memory by
RLIMIT_DATA, so it also ends when its parent is gone. What it answers is JSON and pixels, never a pickle.
"""

import atexit
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

from PIL import Image

from maskbatch.decode.images import (
    OUT_OF_MEMORY,
    Picture,
    Shape,
    Whole,
    decode_image,
)
from maskbatch.errors import ImageError, RunFailedError
from maskbatch.model.card import Preset
from maskbatch.schema import DECODE_WALL_FACTOR, explain_timeout

MEMORY_BYTES = 3 * 2**29
"""What one image may add: half as much again as `decode` admits, so whatever decodes elsewhere does here."""
GRACE_S = 30.0
"""After this time beyond the wall limit we kill the process ourselves: somebody has stopped it."""
START_S = 300.0
"""A process that has not started by then is killed too."""
KILLED_TRIES = 3
"""SIGKILL is ours, or most often the kernel's, for want of memory: none of them is the image's fault."""
KILLED_PAUSE_S = 2.0
CRASHED = "the decoder crashed"
START = "import sys; sys.path[:] = sys.argv[1:]; from maskbatch.decode.sandbox import serve; serve()"
HEADER = struct.Struct("<QQ")
"""Bytes of JSON and of data that follow."""
MESSAGE_BYTES = 2**32
"""No message is longer; a process that has lost its mind may say so."""


class Sandbox:
    """Decodes one image at a time, from any thread; its process starts with the first, in half a second."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: processor time of one image."""
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the next image starts another."""
        with self._lock:
            self._end()

    def decode(self, data: bytes, shape: Shape, max_pixels: int) -> Picture:
        """As `decode_image`; an image that ends the process is `timeout`, or `corrupt`. Raises ImageError.

        Raises RunFailedError where the process cannot be started.
        """
        request = {"shape": asdict(shape), "max_pixels": max_pixels, "timeout_s": self.timeout_s}
        limit_s = DECODE_WALL_FACTOR * self.timeout_s + GRACE_S
        with self._lock:
            for attempt in range(KILLED_TRIES):
                began = time.monotonic()
                answer = self._ask(request, data, limit_s)
                if not isinstance(answer, int):
                    return _read_picture(*answer)
                if answer in (-signal.SIGPROF, -signal.SIGALRM):
                    raise ImageError("timeout", explain_timeout(self.timeout_s))
                if answer != -signal.SIGKILL:
                    break
                time.sleep(KILLED_PAUSE_S * attempt)
        if time.monotonic() - began >= limit_s:
            raise ImageError("timeout", explain_timeout(self.timeout_s))
        raise ImageError("corrupt", CRASHED)

    def _ask(
        self, request: Mapping[str, Any], data: bytes, limit_s: float
    ) -> tuple[dict[str, Any], bytes] | int:
        """The answer, or the return code of a process that gave none."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        try:
            assert process.stdin and process.stdout  # noqa: S101  both are pipes
            with _kill_after(limit_s, process):
                _send(process.stdin, request, data)
                return _receive(process.stdout)
        except (BrokenPipeError, EOFError, ValueError):
            return self._end(kill=False)
        except BaseException:  # Ctrl-C: an answer that comes late must not be taken for another image's
            self._end()
            raise

    def _start(self) -> "subprocess.Popen[bytes]":
        for _ in range(KILLED_TRIES):
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", START, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # what is kept to be written would be written at `close`, and wait
            )
            assert process.stdout  # noqa: S101
            try:
                with _kill_after(START_S, process):
                    _receive(process.stdout)
            except (EOFError, ValueError):
                self._process = process
                code = self._end()
            else:
                return process
        message = f"the process that decodes doubtful images does not start (it ends with {code})"
        raise RunFailedError(f"{message}; see that this machine has memory, then run the same command")

    def _end(self, *, kill: bool = True) -> int:
        """The return code of the process; one that neither answers nor ends is a crashed one."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()
        if not kill:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(GRACE_S)
        process.kill()
        return process.wait()


@contextmanager
def _kill_after(limit_s: float, process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Kill the process if what is done here takes longer: to send, too, waits for one that is stopped."""
    timer = threading.Timer(limit_s, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def open_sandbox(timeout_s: float) -> Sandbox:
    """The sandbox of all in this process that decodes without Ray, where no other would start it again."""
    sandbox = Sandbox(timeout_s)
    atexit.register(sandbox.close)
    return sandbox


def _read_picture(answer: Mapping[str, Any], pixels: bytes) -> Picture:
    """Raises ImageError where that was the answer."""
    if "status" in answer:
        raise ImageError(answer["status"], answer["message"])
    image = Image.frombytes("RGB", tuple(answer["size"]), pixels)
    return Picture(image, answer["width"], answer["height"], answer["exif_time"])


def _send(pipe: IO[bytes], message: Mapping[str, Any], data: bytes) -> None:
    text = json.dumps(message).encode()
    for part in (HEADER.pack(len(text), len(data)), text, data):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Raises EOFError where the other side is gone, ValueError for what it never says."""
    sizes = HEADER.unpack(_read(pipe, HEADER.size))
    if sum(sizes) > MESSAGE_BYTES:
        raise ValueError(f"a message of {sum(sizes):,} bytes")
    text, data = (_read(pipe, size) for size in sizes)
    return json.loads(text), data


def _read(pipe: IO[bytes], size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = pipe.read(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def serve() -> None:
    """Decode what stdin sends, until it closes. Libraries that print do not reach the answers."""
    requests, answers = (os.fdopen(os.dup(number), mode, 0) for number, mode in ((0, "rb"), (1, "wb")))
    with open(os.devnull, "r+b") as nowhere:
        for number in (0, 1):
            os.dup2(nowhere.fileno(), number)
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound_memory(MEMORY_BYTES)
    _send(answers, {}, b"")
    while True:
        try:
            request, data = _receive(requests)
        except EOFError:
            return
        _send(answers, *_decode(request, data))


def _bound_memory(num_bytes: int) -> None:
    """Let this process have so much more than it has; only Linux says how much that is."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmData":
            limit = int(value.split()[0]) * 1024 + num_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _decode(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    shape = _read_shape(request["shape"])
    _set_deadline(request["timeout_s"], DECODE_WALL_FACTOR * request["timeout_s"])
    try:
        picture = decode_image(data, shape, request["max_pixels"])
    except ImageError as error:
        return {"status": error.status, "message": error.message}, b""
    except MemoryError:
        return {"status": "too_large", "message": OUT_OF_MEMORY}, b""
    finally:
        _set_deadline(0, 0)
    about = {name: getattr(picture, name) for name in ("width", "height", "exif_time")}
    return {"size": picture.image.size, **about}, picture.image.tobytes()


def _read_shape(values: Mapping[str, Any]) -> Shape:
    if "input_size" not in values:
        return Whole(**values)
    return Preset(**{**values, "input_size": tuple(values["input_size"])})


def _set_deadline(processor_s: float, wall_s: float) -> None:
    """End this process by a signal after so much time of its own, or of the clock on the wall; 0: never.

    No decoder can keep that back, whatever locks it holds.
    """
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)
