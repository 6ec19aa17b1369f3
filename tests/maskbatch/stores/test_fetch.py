import errno
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.stores import fetch as fetch_module
from maskbatch.stores import remote_file, retry
from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, ThrottledError, TooLargeError, TransientError
from maskbatch.stores.fetch import Window, fetch_bytes, fetch_info
from maskbatch.stores.remote_file import RemoteFile
from maskbatch.stores.retry import MAX_TRIES, backoff_s

Answer = bytes | BaseException


class Script:
    """A store that gives its answers one after another, the last one again and again."""

    def __init__(self, *answers: Answer, size: int = 0, version: str = "v1") -> None:
        self.answers, self.size, self.version = list(answers), size, version
        self.asked: list[tuple[Any, ...]] = []

    def info(self, uri: str) -> Info:
        self.asked.append(("info",))
        return Info(self.size, self.version)

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        self.asked.append((span, version, max_bytes))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Access]:
    """An Access to one store, in a process that has made no request yet and never waits."""
    monkeypatch.setattr(fetch_module, "_windows", {})
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0.0)

    def access(store: Any, **settings: Any) -> Access:
        monkeypatch.setattr(Access, "store", lambda self, uri: store)
        return Access(**settings)

    return access


Play = Callable[..., Access]


@pytest.mark.parametrize(
    "failure", [TransientError("reset"), ThrottledError("slow down"), TimeoutError(), TransientError("500")]
)
def test_what_may_heal_is_asked_for_again(play: Play, failure: Exception) -> None:
    store = Script(failure, failure, b"12345")
    assert fetch_bytes(play(store), "s3://b/x", num_bytes=5) == b"12345"
    assert len(store.asked) == 3


@pytest.mark.parametrize(
    "failure", [FileNotFoundError(), PermissionError(), RefusedError("changed"), TooLargeError()]
)
def test_what_would_be_the_same_again_is_asked_for_once(play: Play, failure: Exception) -> None:
    store = Script(failure, b"12345")
    with pytest.raises(type(failure)):
        fetch_bytes(play(store), "s3://b/x")
    assert len(store.asked) == 1


def test_tries_are_bounded_and_the_last_failure_comes_out(play: Play) -> None:
    store = Script(TransientError("first"), TransientError("again"))
    with pytest.raises(TransientError, match="again"):
        fetch_bytes(play(store), "s3://b/x")
    assert len(store.asked) == MAX_TRIES


def test_an_image_that_is_not_there_in_time_is_a_timeout_whatever_failed_last(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Script(TransientError("reset"))
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0.04)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    with pytest.raises(TimeoutError):
        fetch_bytes(play(store, image_timeout_s=0.1), "s3://b/x")
    assert len(store.asked) == 3
    assert now < 0.1


def test_waiting_is_jittered_grows_and_is_bounded() -> None:
    for attempt in range(MAX_TRIES):
        drawn = [backoff_s(attempt) for _ in range(300)]
        most = min(10.0, 0.1 * 2**attempt)
        assert 0 <= min(drawn) < most / 4
        assert most * 3 / 4 < max(drawn) <= most


def test_waiting_asks_for_the_time_of_each_attempt(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: attempts.append(attempt) or 0.0)
    fetch_bytes(play(Script(*[TransientError("x")] * 4, b"1")), "s3://b/x")
    assert attempts == [0, 1, 2, 3]


def test_a_short_body_is_asked_for_again(play: Play) -> None:
    store = Script(b"123", b"12345", size=5)
    assert fetch_bytes(play(store), "s3://b/x", num_bytes=5) == b"12345"
    assert [asked[0] for asked in store.asked] == [None, "info", None]


def test_a_file_written_anew_since_it_was_listed_is_taken_as_it_is(play: Play) -> None:
    store = Script(b"123", size=3)
    assert fetch_bytes(play(store), "s3://b/x", num_bytes=5) == b"123"


def test_a_short_range_is_asked_for_again_and_never_taken(play: Play) -> None:
    store = Script(b"123", b"12", b"1234", size=3)
    assert fetch_bytes(play(store), "s3://b/x", (6, 10), version="v1", max_bytes=9) == b"1234"
    assert store.asked == [((6, 10), "v1", 9)] * 3


def test_size_and_version_are_asked_for_again_too(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Script(b"", size=7)
    answers = iter([TransientError("reset"), TimeoutError(), Info(7, "v1")])

    def info(uri: str) -> Info:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(store, "info", info)
    assert fetch_info(play(store), "s3://b/x") == Info(7, "v1")


def throttle(window: Window) -> None:
    with pytest.raises(ThrottledError), window.request():
        raise ThrottledError


def test_a_throttled_request_halves_the_window_and_successes_bring_it_back() -> None:
    window = Window(32)
    throttle(window)
    assert window.limit == 16
    throttle(window)
    assert window.limit == 8
    for _ in range(8):
        with window.request():
            pass
    assert 8.9 < window.limit < 9.1  # one more for each window of successes
    for _ in range(2000):
        with window.request():
            pass
    assert window.limit == 32
    for _ in range(20):
        throttle(window)
    assert window.limit == 1


def test_other_failures_leave_the_window_as_it_is() -> None:
    window = Window(8)
    for failure in (TransientError, TimeoutError, FileNotFoundError):
        with pytest.raises(failure), window.request():
            raise failure
    assert window.limit == 8


def test_requests_sent_before_a_halving_do_not_halve_again() -> None:
    window, started, go = Window(16), threading.Barrier(9), threading.Event()

    def one() -> None:
        with window.request():
            started.wait(5)
            go.wait(5)
            raise ThrottledError

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(one) for _ in range(8)]
        started.wait(5)
        go.set()
    assert all(isinstance(future.exception(), ThrottledError) for future in futures)
    assert window.limit == 8


class Counting:
    """A store that counts requests in flight and throttles some of them."""

    def __init__(self) -> None:
        self.lock, self.now, self.most, self.asked = threading.Lock(), 0, 0, 0

    def read(self, *args: object) -> bytes:
        with self.lock:
            self.now += 1
            self.asked += 1
            throttled = self.asked % 7 == 0
            self.most = max(self.most, self.now)
        time.sleep(0.001)
        with self.lock:
            self.now -= 1
        if throttled:
            raise ThrottledError
        return b"1"


def test_there_are_never_more_requests_in_flight_than_allowed(play: Play) -> None:
    store = Counting()
    access = play(store, max_requests=5)
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda k: fetch_bytes(access, f"s3://b/{k}"), range(200))) == [b"1"] * 200
    assert 1 < store.most <= 5
    assert store.asked > 200


def test_a_halved_window_lets_fewer_requests_in(play: Play) -> None:
    store = Counting()
    access = play(store, max_requests=8)
    fetch_module.shared_window(access).limit = 2.0
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: fetch_bytes(access, f"s3://b/{k}"), range(5)))
    assert store.most <= 3


DATA = bytes(range(256)) * 3 + b"end"


class Ranges:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.spans: list[tuple[int, int]] = []

    def read(self, uri: str, span: tuple[int, int], version: str | None, max_bytes: int) -> bytes:
        assert version == "v1"
        self.spans.append(span)
        return self.data[slice(*span)]


steps = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 300)),
    st.tuples(st.just("seek"), st.integers(0, len(DATA) + 50)),
    st.tuples(st.just("back"), st.integers(-len(DATA), 20)),
    st.tuples(st.just("on"), st.integers(-200, 200)),
    st.tuples(st.just("into"), st.integers(0, 100)),
)


def step(file: Any, what: str, number: int) -> Any:
    if what == "read":
        return file.read(number)
    if what == "into":
        buffer = bytearray(number)
        return file.readinto(buffer), buffer
    whence = {"seek": io.SEEK_SET, "back": io.SEEK_END, "on": io.SEEK_CUR}[what]
    if what == "on" and file.tell() + number < 0:
        return None
    return file.seek(number, whence)


@given(data=st.sampled_from([DATA, DATA[:64], b"x", b""]), script=st.lists(steps, max_size=25))
def test_a_remote_file_reads_like_a_local_one(data: bytes, script: list[tuple[str, int]]) -> None:
    store = Ranges(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_file, "BLOCK_BYTES", 64)
        patch.setattr(Access, "store", lambda self, uri: store)
        with RemoteFile(Access(), "s3://b/x", Info(len(data), "v1")) as file:
            local = io.BytesIO(data)
            for what, number in script:
                if what == "back" and len(data) + number < 0:
                    continue
                assert step(file, what, number) == step(local, what, number)
                assert file.tell() == local.tell()
                assert len(file._blocks) <= remote_file.BLOCKS_AHEAD + 2
    assert all(0 <= start < stop <= len(data) and stop - start <= 64 for start, stop in store.spans)


@pytest.fixture
def blocks(play: Play, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RemoteFile, Ranges]]:
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 64)
    store = Ranges(DATA * 10)
    with RemoteFile(play(store), "s3://b/x", Info(len(DATA) * 10, "v1")) as file:
        yield file, store


def test_reading_on_asks_for_each_block_once_and_ahead(blocks: tuple[RemoteFile, Ranges]) -> None:
    file, store = blocks
    file.read(10)
    assert len(store.spans) == 1  # a look at the head of a file reads no more of it
    while file.read(50):
        pass
    assert sorted(store.spans) == sorted(set(store.spans))
    assert len(store.spans) == -(-len(DATA) * 10 // 64)


def test_reading_here_and_there_asks_for_no_more_than_is_read(blocks: tuple[RemoteFile, Ranges]) -> None:
    file, store = blocks
    for place in (6400, 640, 3200, 1280, 5120):
        file.seek(place)
        assert file.read(3) == (DATA * 10)[place : place + 3]
    assert len(store.spans) == 5


def test_one_huge_read_is_refused_before_anything_is_asked_for(play: Play) -> None:
    store = Ranges(b"")
    with RemoteFile(play(store), "s3://b/x", Info(2**40, "v1")) as file:
        for read in (file.read, file.readall, lambda: file.read(2**30 + 1)):
            with pytest.raises(OSError, match="bytes asked for at once"):
                read()
        with pytest.raises(OSError, match="before the file's start"):
            file.seek(-1)
    assert store.spans == []


@pytest.mark.parametrize(
    "failure", [TransientError("gone away"), RefusedError("changed"), PermissionError(), TimeoutError("late")]
)
def test_what_the_store_refuses_is_an_error_of_the_disk_with_a_number(play: Play, failure: Exception) -> None:
    access = play(Script(failure))
    with RemoteFile(access, "s3://b/x", Info(10, "v1")) as file, pytest.raises(OSError) as raised:
        file.read()
    assert raised.value.errno == errno.EIO  # Arrow's own errors of a damaged file have none
    assert raised.value.__cause__ is failure
    assert "s3://b/x" in str(raised.value)
