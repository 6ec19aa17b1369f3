import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskbatch.decode import watch as watch_module
from maskbatch.decode.images import Picture
from maskbatch.decode.watch import MAX_ATTEMPTS, SANDBOXED_ATTEMPTS, Watch, forget
from maskbatch.errors import ImageError, RunFailedError
from maskbatch.model.card import Preset
from maskbatch.schema import explain_timeout
from tests.maskbatch.samples import speckle
from tests.poison import many_scans

PRESET = Preset((32, 32))
SOUND = speckle(1)
WORKER = """
import os, sys
from maskbatch.model.card import Preset
from maskbatch.decode.watch import Watch
from tests.poison import many_scans
with Watch("call-score-0", "shard 0", 3, 0.5, lambda: None) as watch:
    watch.decode(0, many_scans((48, 36), 1), Preset((32, 32)), 10**8)
    {at_1}
    os._exit(7)
"""
SLOW = "watch.decode(1, many_scans((8000, 8000), 50), Preset((32, 32)), 10**8)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch_module.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def open_watch(num_images: int = 3, notes: list[None] | None = None) -> Watch:
    note = (lambda: None) if notes is None else (lambda: notes.append(None))
    return Watch("call-score-0", "shard 0", num_images, 0.5, note)


def run_worker(at_1: str) -> int:
    return subprocess.run([sys.executable, "-c", WORKER.format(at_1=at_1)], check=False).returncode


def test_an_image_that_holds_its_worker_up_ends_it_and_is_judged_by_the_next_attempt() -> None:
    assert run_worker(SLOW) == -signal.SIGALRM
    notes: list[None] = []
    with open_watch(notes=notes) as watch:
        watch.decode(0, SOUND, PRESET, 10**8)
        assert not notes
        with pytest.raises(ImageError) as raised:
            watch.decode(1, many_scans((8000, 8000), 50), PRESET, 10**8)
        assert raised.value.args == ("timeout", explain_timeout(0.5))
        assert len(notes) == 1, "the driver sees that work goes on"
        watch.decode(2, SOUND, PRESET, 10**8)


@pytest.mark.parametrize(("takes_s", "is_slow"), [(0.1, False), (0.6, True)])
def test_an_image_that_takes_longer_than_its_limit_here_is_judged_apart(
    takes_s: float, is_slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_slowly(*_: object) -> Picture:
        time.sleep(takes_s)
        raise ImageError("corrupt", "as judged here")

    monkeypatch.setattr(watch_module, "decode_image", decode_slowly)
    with open_watch() as watch:
        if is_slow:
            assert watch.decode(1, SOUND, PRESET, 10**8).width == 48
        else:
            with pytest.raises(ImageError, match="as judged here"):
                watch.decode(1, SOUND, PRESET, 10**8)


def test_a_hang_without_work_ends_the_worker_too() -> None:
    sleep = "import maskbatch.decode.watch as w, time; w.decode_image = lambda *_: time.sleep(99); " + SLOW
    assert run_worker(sleep) == -signal.SIGALRM


def test_an_image_at_work_when_its_worker_was_killed_is_innocent_if_it_decodes() -> None:
    kill = f"import maskbatch.decode.watch as w, signal; w.decode_image = lambda *_: os.kill(os.getpid(), 9); {SLOW}"
    assert run_worker(kill) == -signal.SIGKILL
    with open_watch() as watch:
        assert watch.decode(1, SOUND, PRESET, 10**8).width == 48


def test_no_deadline_outlasts_its_image() -> None:
    with open_watch() as watch:
        watch.decode(0, SOUND, PRESET, 10**8)
        with pytest.raises(ImageError):
            watch.decode(1, b"nothing", PRESET, 10**8)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_worker_that_ends_elsewhere_marks_no_image_and_in_the_end_the_run_stops(folder: Path) -> None:
    for attempt in range(MAX_ATTEMPTS):
        with open_watch() as watch:
            assert watch._marks[:] == bytes((attempt + 1, 0, 0, 0))
    with pytest.raises(RunFailedError, match=f"shard 0 ended its worker {MAX_ATTEMPTS} times, and no image"):
        open_watch()
    assert not list(folder.iterdir()), "the same command starts from new"


def test_after_some_attempts_every_image_decodes_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(SANDBOXED_ATTEMPTS):
        open_watch()
    monkeypatch.setattr(watch_module, "decode_image", lambda *_: pytest.fail("decoded in the worker"))
    notes: list[None] = []
    with open_watch(notes=notes) as watch:
        for number in range(3):
            assert watch.decode(number, SOUND, PRESET, 10**8).width == 48
    assert len(notes) == 1, "notes are rare: each is an object in a store"


def test_a_shard_that_is_done_leaves_nothing(folder: Path) -> None:
    with open_watch() as watch:
        assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]
        watch.finish()
    assert not list(folder.iterdir())


def test_a_driver_forgets_its_own_shards_alone(folder: Path) -> None:
    for name in ("call-score-1", "call-decode-2", "other-score-1"):
        Watch(name, "a shard", 1, 1, lambda: None)
    forget("call")
    assert [path.name for path in folder.iterdir()] == ["maskbatch-other-score-1"]


@pytest.mark.parametrize("spoil", ["no folder", "link", "other size"])
def test_where_no_file_can_be_kept_images_decode_all_the_same(spoil: str, folder: Path) -> None:
    path = folder / "maskbatch-call-score-0"
    if spoil == "no folder":
        os.rmdir(folder)
    elif spoil == "link":
        (folder / "precious").write_bytes(b"kept")
        path.symlink_to(folder / "precious")
    else:
        path.write_bytes(b"")
    with open_watch() as watch:
        assert watch.decode(0, SOUND, PRESET, 10**8).width == 48
    if spoil == "link":
        assert (folder / "precious").read_bytes() == b"kept"
