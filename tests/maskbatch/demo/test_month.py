from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from maskbatch.decode.images import decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.demo.archive import SPOILT, spoil
from maskbatch.demo.month import CAMERAS, DARK, FIRST_DAY, FROZEN, NUM_DAYS, OFF, draw_file, plan_month
from maskbatch.demo.run import LAYOUT, run_demo
from maskbatch.drawing.gate import LABELS
from maskbatch.errors import UsageError
from maskbatch.layout import Template
from maskbatch.model.card import Preset
from tests.maskbatch.samples import SIZE, draw, encode


@pytest.mark.parametrize("num_images", [240, 720, 2400])
def test_a_month_is_even_and_always_the_same(num_images: int) -> None:
    month = list(plan_month(num_images))
    assert month == list(plan_month(num_images))
    by_camera_day = Counter((s.path.rsplit("/", 4)[0], s.path[-17:-11]) for s in month)
    each_day = num_images // (len(CAMERAS) * NUM_DAYS)
    assert len(month) == num_images - len(OFF[1]) * each_day
    assert set(by_camera_day.values()) == {each_day}
    assert not any((OFF[0], f"2026/10/{day + 1:02d}") in by_camera_day for day in OFF[1])
    assert {s.label for s in month} == set(LABELS)


def test_a_message_explains_why_there_are_fewer_snapshots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"path": ["other"]}), tmp_path / "truth.parquet")
    with pytest.raises(UsageError, match="holds a demo of 1 images"):
        run_demo(tmp_path, 480)
    message = f"472 snapshots: as many for every camera and day, none while {OFF[0]} is off."
    assert message in capsys.readouterr().err


def test_no_two_snapshots_have_one_path() -> None:
    paths = Counter(snapshot.path for snapshot in plan_month(10_000))
    assert [path for path, count in paths.items() if count > 1] == []


def test_paths_match_the_layout() -> None:
    for snapshot in plan_month(240):
        parsed = Template(LAYOUT).parse(snapshot.path)
        assert parsed is not None and parsed.time is not None
        assert f"{parsed.site}/{parsed.camera}" in {camera.path for camera in CAMERAS}
        frozen = (f"{parsed.site}/{parsed.camera}", (parsed.time - FIRST_DAY).days) == FROZEN
        assert frozen or parsed.time == snapshot.time


def test_the_frozen_camera_repeats_one_frame_for_one_day() -> None:
    scenes: dict[object, list[tuple[str, tuple[int, ...], int]]] = {}
    for s in plan_month(720):
        day = (s.time - FIRST_DAY).days
        scenes.setdefault((s.path.rsplit("/", 4)[0], day), []).append((s.label, s.seed, s.time.hour))
    assert len(set(scenes.pop(FROZEN))) == 1
    assert all(len(set(day)) == len(day) for day in scenes.values())


def test_the_camera_without_light_shows_nothing(tmp_path: Path) -> None:
    dark = [s for s in plan_month(720) if s.dark]
    assert {(s.path.rsplit("/", 4)[0], (s.time - FIRST_DAY).days, s.label) for s in dark} == {
        (*DARK, "no_face")
    }
    for snapshot in dark:
        draw_file(tmp_path, snapshot)
        assert np.asarray(Image.open(tmp_path / snapshot.path)).mean() < 15


def test_every_kind_of_spoilt_file_is_drawn() -> None:
    kinds = Counter(s.spoilt for s in plan_month(720))
    assert set(kinds) == {None, *SPOILT}
    assert sum(count for kind, count in kinds.items() if kind) == 9


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_file_gets_its_status(how: str) -> None:
    files = [encode(draw(k, (640, 480), LABELS[k % 4]), quality=88) for k in range(6)]
    spoilt = (Encoded(spoil(data, how)) for data in files)
    assert decode_batch(spoilt, 6, Preset(SIZE), 10**6).columns["status"] == [how] * 6
