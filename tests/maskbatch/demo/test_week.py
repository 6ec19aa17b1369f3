from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskbatch.demo.archive import SPOILT, draw_archive
from maskbatch.demo.run import LAYOUT
from maskbatch.demo.week import CAMERAS, DARK, FIRST_DAY, FROZEN, NIGHT, OFF, draw_file, plan_week
from maskbatch.errors import UsageError
from maskbatch.layout import Template


def day(path: str) -> tuple[str, int]:
    camera, date = path.rsplit("/", 4)[0], int(path.split("/")[4])
    return camera, date - FIRST_DAY.day


@pytest.mark.parametrize("num_images", [250, 300, 1000])
def test_a_week_is_even_and_always_the_same(num_images: int) -> None:
    week = list(plan_week(num_images))
    assert week == list(plan_week(num_images))
    assert len({s.path for s in week}) == len(week)
    each_day = num_images // (5 * sum(camera.often for camera in CAMERAS))
    often = {camera.path: camera.often for camera in CAMERAS}
    counts = Counter(day(s.path) for s in week)
    assert all(count == each_day * often[camera] for (camera, _), count in counts.items())
    missing = {(camera.path, d) for camera in CAMERAS for d in range(5)} - counts.keys()
    assert missing == {(OFF[0], d) for d in OFF[1]}


def test_paths_match_the_layout_and_every_kind_of_spoilt_file_is_there() -> None:
    week = list(plan_week(300))
    for snapshot in week:
        parsed = Template(LAYOUT).parse(snapshot.path)
        assert parsed is not None and f"{parsed.site}/{parsed.camera}" == snapshot.camera.path
        assert day(snapshot.path) == FROZEN or parsed.time == snapshot.time
    assert {s.spoilt for s in week} == {None, *SPOILT}


def test_the_frozen_camera_repeats_one_frame_for_one_day() -> None:
    shown: dict[object, list[object]] = {}
    for s in plan_week(300):
        shown.setdefault(day(s.path), []).append((s.seed, s.time.hour))
    assert len(set(shown.pop(FROZEN))) == 1
    assert all(len(set(frames)) == len(frames) for frames in shown.values())


def test_nobody_is_there_at_night_and_only_the_poster_stays(tmp_path: Path) -> None:
    at_night = [s for s in plan_week(250) if not NIGHT[1] <= s.time.hour < NIGHT[0] and not s.spoilt]
    with_poster = next(s for s in at_night if s.camera.poster)
    _, *faces = draw_file(tmp_path, with_poster)
    assert [face["poster"] for face in faces] == [True]
    _, *faces = draw_file(tmp_path, next(s for s in at_night if not s.camera.poster))
    assert faces == []


def test_the_camera_without_light_shows_nothing(tmp_path: Path) -> None:
    snapshot = next(s for s in plan_week(250) if s.dark and 10 < s.time.hour < 16)
    assert day(snapshot.path) == DARK
    assert len(draw_file(tmp_path, snapshot)) == 1
    assert np.asarray(Image.open(tmp_path / snapshot.path)).mean() < 15


def test_the_truth_has_a_row_for_each_file_and_is_drawn_once(tmp_path: Path) -> None:
    files = [s for s in plan_week(250) if s.camera.size == (1280, 720)][:30]
    truth = draw_archive(tmp_path, files, draw_file)
    pictures = truth.filter(truth["label"].is_null())
    assert pictures["path"].to_pylist() == [s.path for s in files]
    assert pictures["status"].to_pylist() == [s.spoilt or "ok" for s in files]
    faces = truth.filter(truth["label"].is_valid())
    assert faces.num_rows > 20 and set(faces["status"].to_pylist()) == {"ok"}
    before = (tmp_path / "archive" / files[0].path).stat().st_mtime_ns
    assert draw_archive(tmp_path, files, draw_file).equals(truth)
    assert (tmp_path / "archive" / files[0].path).stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="holds a demo of 30 images"):
        draw_archive(tmp_path, files[:3], draw_file)
