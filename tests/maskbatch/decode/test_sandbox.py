import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from maskbatch.decode import sandbox
from maskbatch.decode.images import decode_image
from maskbatch.decode.sandbox import CRASHED, Sandbox
from maskbatch.errors import ImageError, RunFailedError
from maskbatch.model.card import Preset
from maskbatch.schema import explain_timeout
from tests.maskbatch.samples import draw, encode, speckle, with_exif_time
from tests.poison import many_scans, poison, write_hook

PRESET = Preset((32, 48), resize="squash")
MAX_PIXELS = 10**8


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders in processes that start from here on crash where an image says so."""
    monkeypatch.setenv("PYTHONPATH", f"{write_hook(tmp_path / 'hook')}:{Path(__file__).parents[3]}")
    monkeypatch.setattr(sandbox, "KILLED_PAUSE_S", 0.0)


def test_a_sound_image_is_bit_for_bit_what_this_process_decodes() -> None:
    images = [encode(draw(1)), encode(draw(2), "PNG"), with_exif_time("2026:10:01 08:30:00", "+02:00")]
    with Sandbox(20) as box:
        for data in images:
            here, there = (decode(data, PRESET, MAX_PIXELS) for decode in (decode_image, box.decode))
            assert np.array_equal(np.asarray(here.image), np.asarray(there.image))
            assert (here.width, here.height, here.exif_time) == (there.width, there.height, there.exif_time)


@pytest.mark.parametrize("data", [b"", b"<html>", encode(draw(1))[:900], encode(draw(1))])
def test_a_bad_image_has_the_status_and_sentence_of_this_process(data: bytes) -> None:
    with Sandbox(20) as box:
        answers = []
        for decode in (decode_image, box.decode):
            with pytest.raises(ImageError) as raised:
                decode(data, PRESET, 99)
            answers.append(raised.value.args)
    assert answers[0] == answers[1]


def test_a_real_image_of_many_scans_is_a_timeout_after_its_processor_time() -> None:
    with Sandbox(0.5) as box:
        box.decode(speckle(1), PRESET, MAX_PIXELS)
        began = time.monotonic()
        with pytest.raises(ImageError) as raised:
            box.decode(many_scans((8000, 8000), 50), PRESET, MAX_PIXELS)
        assert raised.value.args == ("timeout", explain_timeout(0.5))
        assert time.monotonic() - began >= 0.5
        assert box.decode(speckle(1), PRESET, MAX_PIXELS).width == 48, "the next image has a process again"


@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        ("crash", "corrupt", CRASHED),
        ("kill", "corrupt", CRASHED),
        ("sleep", "timeout", explain_timeout(0.2)),
        ("swell", "too_large", "decoding needs more memory than an image may take"),
    ],
)
def test_what_a_decoder_does_to_its_process_is_the_images_row(
    kind: str, status: str, sentence: str, hooked: None
) -> None:
    with Sandbox(0.2) as box:
        with pytest.raises(ImageError) as raised:
            box.decode(poison(speckle(1), kind), PRESET, MAX_PIXELS)
        assert raised.value.args == (status, sentence)
        assert box.decode(speckle(1), PRESET, MAX_PIXELS).width == 48


def test_an_image_is_not_to_blame_for_a_process_that_others_killed(
    hooked: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON_ONCE", str(tmp_path / "once"))
    with Sandbox(20) as box:
        assert box.decode(poison(speckle(1), "once:"), PRESET, MAX_PIXELS).width == 48
    assert (tmp_path / "once").exists()


def stop(box: Sandbox) -> None:
    assert box._process
    os.kill(box._process.pid, signal.SIGSTOP)


@pytest.mark.parametrize("num_bytes", [0, 2**20])
def test_an_image_is_not_to_blame_for_a_process_that_somebody_stopped(
    num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "GRACE_S", 1.0)
    monkeypatch.setattr(sandbox, "DECODE_WALL_FACTOR", 0.1)
    data = speckle(1) + bytes(num_bytes)  # more than a pipe holds: nobody reads what is sent
    with Sandbox(20) as box:
        box.decode(speckle(1), PRESET, MAX_PIXELS)
        stop(box)
        assert box.decode(data, PRESET, MAX_PIXELS).width == 48


def test_an_answer_that_stops_on_its_way_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "GRACE_S", 1.0)
    monkeypatch.setattr(sandbox, "DECODE_WALL_FACTOR", 0.1)
    big = Preset((400, 400), resize="squash")  # 480,000 bytes of pixels: more than a pipe holds
    with Sandbox(20) as box:
        box.decode(speckle(1), PRESET, MAX_PIXELS)
        receive, asked = sandbox._receive, []

        def receive_late(pipe: IO[bytes]) -> tuple[dict[str, object], bytes]:
            if not asked:
                asked.append(1)
                time.sleep(0.5)  # by now it waits for us to read
                stop(box)
            return receive(pipe)

        monkeypatch.setattr(sandbox, "_receive", receive_late)
        assert box.decode(speckle(1), big, MAX_PIXELS).width == 48
    assert asked


def test_an_image_whose_process_never_goes_on_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "GRACE_S", 0.2)
    monkeypatch.setattr(sandbox, "DECODE_WALL_FACTOR", 0)
    monkeypatch.setattr(sandbox, "KILLED_PAUSE_S", 0.0)
    start = Sandbox._start

    def start_and_stop(box: Sandbox) -> subprocess.Popen[bytes]:
        process = start(box)
        os.kill(process.pid, signal.SIGSTOP)
        return process

    monkeypatch.setattr(Sandbox, "_start", start_and_stop)
    with Sandbox(20) as box, pytest.raises(ImageError) as raised:
        box.decode(speckle(1), PRESET, MAX_PIXELS)
    assert raised.value.args == ("timeout", explain_timeout(20))


def test_a_stopped_process_does_not_outlast_its_sandbox() -> None:
    box = Sandbox(20)
    box.decode(speckle(1), PRESET, MAX_PIXELS)
    stop(box)
    process = box._process
    began = time.monotonic()
    box.close()
    assert process and process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 5


def test_a_process_that_does_not_start_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START", "import time; time.sleep(99)")
    monkeypatch.setattr(sandbox, "START_S", 0.3)
    with Sandbox(1) as box, pytest.raises(RunFailedError, match="does not start"):
        box.decode(speckle(1), PRESET, MAX_PIXELS)


def test_time_between_images_is_no_images_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "DECODE_WALL_FACTOR", 1)
    with Sandbox(0.3) as box:
        box.decode(speckle(1), PRESET, MAX_PIXELS)
        time.sleep(0.8)
        assert box._process and box._process.poll() is None
        box.decode(speckle(1), PRESET, MAX_PIXELS)


def test_threads_take_turns_and_each_gets_its_own_picture() -> None:
    sizes = [(40 + k, 30) for k in range(24)]
    with Sandbox(20) as box, ThreadPoolExecutor(8) as pool:
        pictures = pool.map(lambda size: box.decode(speckle(1, size), PRESET, MAX_PIXELS), sizes)
        assert [picture.width for picture in pictures] == [size[0] for size in sizes]


def test_a_process_that_cannot_start_blames_the_machine_not_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "START", "raise SystemExit(3)")
    with (
        Sandbox(1) as box,
        pytest.raises(RunFailedError, match=r"does not start \(it ends with 3\); see that this"),
    ):
        box.decode(speckle(1), PRESET, MAX_PIXELS)


def test_what_the_process_sends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START", "import os; os.write(1, b'\\xff' * 16)")
    with Sandbox(1) as box, pytest.raises(RunFailedError, match="does not start"):
        box.decode(speckle(1), PRESET, MAX_PIXELS)
