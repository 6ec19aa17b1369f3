from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter

from maskbatch.decode.quality import dhash, measure
from maskbatch.drawing.gate import Gate, draw_snapshot
from maskbatch.report.conditions import find_conditions, find_stretches
from maskbatch.schema import CONDITIONS

START = datetime(2026, 10, 3, 8)
ASSESSED = ("with_mask", "without_mask")
SOUND = {"brightness": 0.5, "contrast": 0.2, "sharpness": 200.0, "label": "with_mask", "camera": "1"}


def day_of(rows: Sequence[dict[str, Any]], every_s: float = 300) -> pa.Table:
    """Rows of a day as `survey` hands them on; without other word, each picture differs from all others."""
    rng = np.random.default_rng(1)
    values = [
        {**SOUND, "dhash": rng.bytes(8), "digest": k + 1, "status": "ok", "site": "north",
         "captured_at": START + timedelta(seconds=k * every_s), **row}
        for k, row in enumerate(rows)
    ]  # fmt: skip
    day = pa.Table.from_pylist(values)
    day = day.set_column(day.column_names.index("dhash"), "dhash", day["dhash"].cast(pa.binary(8)))
    times = day["captured_at"].cast(pa.timestamp("us"))
    day = day.drop_columns(["captured_at"]).append_column(
        "captured_at", times.cast(pa.timestamp("us", "UTC"))
    )
    return day.append_column("captured_local", times)


def found(day: pa.Table, duplicate: Sequence[bool] | None = None) -> list[str | None]:
    camera = np.unique(day["camera"].to_numpy(), return_inverse=True)[1]
    again = np.array(duplicate if duplicate is not None else [False] * len(day))
    condition = find_conditions(day, camera, again, ASSESSED)
    for row in find_stretches(day, camera, condition):
        assert row["snapshots"] >= 3
    names: list[str | None] = condition.to_pylist()
    return names


def picture(row: dict[str, Any]) -> dict[str, Any]:
    """One frame with what differs between a frozen camera's frames: its clock overlay and noise."""
    return {"dhash": b"12345678", **row}


def test_sound_pictures_have_no_condition() -> None:
    assert found(day_of([{}] * 6)) == [None] * 6


@pytest.mark.parametrize(
    ("row", "condition"),
    [
        ({"brightness": 0.05}, "dark"),
        ({"brightness": 0.95}, "over_exposed"),
        ({"contrast": 0.02}, "covered"),
        ({"sharpness": 4.0}, "blurred"),
        ({"brightness": 0.01, "contrast": 0.001, "sharpness": 0.0}, "dark"),
    ],
)
def test_a_picture_that_shows_nothing_is_named_by_the_first_reason(
    row: dict[str, Any], condition: str
) -> None:
    assert found(day_of([{}, row, {}])) == [None, condition, None]


def test_a_failed_image_has_no_condition() -> None:
    gone = {"status": "missing", "brightness": None, "contrast": None, "sharpness": None, "dhash": None}
    assert found(day_of([{"status": "ok"}, gone])) == [None, None]


def test_bytes_that_came_before_are_a_duplicate_unless_the_camera_is_frozen() -> None:
    assert found(day_of([{}, {"digest": 1}, {}]), [False, True, False]) == [None, "duplicate", None]
    frozen = day_of([{"digest": 7, "dhash": b"12345678"}] * 4)
    assert found(frozen, [False, True, True, True]) == ["frozen"] * 4


def test_four_frames_alike_with_a_face_are_a_frozen_camera_and_three_are_not() -> None:
    frames = [picture({"brightness": 0.5 + 0.001 * (k % 2), "sharpness": 200.0 + k}) for k in range(4)]
    assert found(day_of([{}, *frames, {}])) == [None, *["frozen"] * 4, None]
    assert found(day_of([{}, *frames[:3], {}])) == [None] * 5


def test_an_image_that_failed_does_not_end_a_frozen_run() -> None:
    gone = {"status": "corrupt", "brightness": None, "dhash": None, "label": None}
    assert (
        found(day_of([picture({})] * 2 + [gone] + [picture({})] * 2))
        == ["frozen"] * 2 + [None] + ["frozen"] * 2
    )


def test_two_cameras_that_look_alike_are_not_one_that_is_frozen() -> None:
    rows = [picture({"camera": camera}) for camera in "112233"]
    assert found(day_of(rows)) == [None] * 6


def test_an_empty_gate_may_look_the_same_for_hours_but_not_for_half_a_day() -> None:
    empty = [picture({"label": "no_face"})] * 20
    assert found(day_of(empty, every_s=1800)) == [None] * 20
    assert found(day_of(empty, every_s=2400)) == ["frozen"] * 20
    assert found(day_of([{**row, "digest": 9} for row in empty[:4]])) == ["frozen"] * 4


def test_one_misread_frame_of_an_empty_night_freezes_nothing() -> None:
    night = [picture({"label": "no_face"})] * 12
    for faces in (1, 3):
        assert found(day_of([picture({})] * faces + night)) == [None] * (faces + 12)
    assert found(day_of([picture({})] * 4 + night)) == ["frozen"] * 16


def test_a_person_who_stands_still_for_under_a_minute_is_not_frozen_unless_byte_for_byte() -> None:
    frames = [picture({})] * 13
    assert found(day_of(frames[:12], every_s=5)) == [None] * 12
    assert found(day_of(frames, every_s=5)) == ["frozen"] * 13
    assert found(day_of([{**row, "digest": 9} for row in frames[:4]], every_s=1)) == ["frozen"] * 4


@pytest.mark.parametrize(
    "change", [{"dhash": b"\xff2345678"}, {"brightness": 0.51}, {"contrast": 0.21}, {"sharpness": 230.0}]
)
def test_a_frame_that_differs_ends_the_run(change: dict[str, Any]) -> None:
    frames = [picture({}), picture({}), picture(change), picture({}), picture({})]
    assert found(day_of(frames)) == [None] * 5


def test_stretches_are_listed_with_their_times() -> None:
    rows = (
        [{"brightness": 0.01}] * 3
        + [{}]
        + [{"brightness": 0.01}] * 2
        + [{"camera": "2", "contrast": 0.0}] * 4
    )
    day = day_of(rows)
    camera = np.unique(day["camera"].to_numpy(), return_inverse=True)[1]
    made = find_stretches(day, camera, find_conditions(day, camera, np.zeros(len(day), bool), ASSESSED))
    assert [(row["camera"], row["condition"], row["snapshots"]) for row in made] == [
        ("1", "dark", 3),
        ("2", "covered", 4),
    ]
    assert (made[0]["from"], made[0]["to"]) == (START, START + timedelta(minutes=10))


def test_drawn_scenes_are_sound_until_their_lens_is_spoilt() -> None:
    spoil = {
        "dark": lambda image: Image.eval(image, lambda v: v // 20),
        "over_exposed": lambda image: Image.eval(image, lambda v: 245 + v // 26),
        "covered": lambda image: Image.eval(image, lambda v: 90 + v // 60),
        "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(6)),
        None: lambda image: image,
    }
    rng = np.random.default_rng(5)
    for condition, change in spoil.items():
        rows = []
        for k in range(20):
            label = ("with_mask", "without_mask", "no_face")[k % 3]
            drawn = draw_snapshot(label, Gate.draw_lots(rng), rng, size=(160, 160), light=rng.uniform(0.3, 1))
            luma = change(drawn).convert("L")
            values = zip(("brightness", "contrast", "sharpness"), measure(np.asarray(luma)), strict=True)
            rows.append({**dict(values), "dhash": dhash(luma), "label": label})
        names = found(day_of(rows))
        assert names.count(condition) >= 19, (condition, names)


def test_every_condition_is_explained() -> None:
    assert all(len(text.split()) > 4 for text in CONDITIONS.values())
