"""Runs of whole scenes, their pictures and faces spoilt one by one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint, open_detector, save_checkpoint
from maskbatch.verify.compare import Finding, compare_images
from maskbatch.verify.files import check_run
from maskbatch.verify.result import Difference, Verification
from tests.maskbatch.samples import Run, edit_json, encode, stage_run, write_files
from tests.maskbatch.score.test_scene import CROWD, TWO, draw_scene
from tests.maskbatch.verify.test_files import forge, setting, sign

NAME = "scores/date=2026-10-01/part-000000000000.parquet"
DAY = "north/lobby/2026-10-01"
CUT, CROWDED, EMPTY, PAIR = range(4)
"""Ids of the pictures, and with them their rows: 0; 1 to 5; 6; 7 to 9."""
COLUMNS = ("prob_with_mask", "prob_without_mask", "prob_incorrect_mask", "prob_no_face")
INSIDE = "x0, y0, x1, y1 inside the picture, x0 < x1, y0 < y1"
NULLS = "error, num_bytes, sha256, dhash, num_faces, num_faces_left_out"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A committed run of a crowd, two people, nobody, and a picture that is cut off."""
    folder = tmp_path_factory.mktemp("scenes")
    pictures = {"1": encode(CROWD), "2": encode(draw_scene(size=(500, 300))), "3": encode(TWO)}
    files = {f"{DAY}/09300{name}.jpg": data for name, data in pictures.items()}
    write_files(folder / "archive", files | {f"{DAY}/093000.jpg": pictures["3"][:2000]})
    made = stage_run(folder / "run", folder / "archive", open_checkpoint(), view="scene")
    made.commit()
    return made


@pytest.fixture
def spoilt(scenes: Run, tmp_path: Path) -> Run:
    return scenes.copy(tmp_path / "run")


def read_rows(made: Run) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader((made.run.path / NAME).read_bytes())).to_pylist()


def test_an_untouched_run_verifies_to_the_last_bit_and_says_its_faces(scenes: Run) -> None:
    found = check_run(scenes.run, seed=5)
    assert found.verified, found.differences
    assert (found.rows, found.faces, found.sampled, found.rescored) == (4, 6, 4, 3)
    assert (found.faces_rescored, found.bit_equal, found.still_failing) == (6, 3, 1)
    assert (found.largest_shift_px, found.largest_difference, found.faces_near_threshold) == (0, 0, 0)
    assert str(found).startswith("verified: 3 files, 4 images, 6 faces; ")
    sentence = "3 of them scored again with 6 faces: 3 equal to the last bit, probabilities at most 0 apart"
    assert f"{sentence}, boxes at most 0 pixels." in str(found)
    assert json.loads(json.dumps(found.as_dict()))["faces_rescored"] == 6


def regions(image: int, expected: str, got: str) -> Difference:
    return Difference(NAME, image, "regions", expected, got)


def a_face_dropped(made: Run) -> list[Difference]:
    forge(made, lambda rows: pa.concat_tables([rows.slice(0, 3), rows.slice(4)]), NAME)
    return [regions(CROWDED, "0 to 4", "0, 1, 3, 4")]


def the_faces_of_a_picture_dropped(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.slice(0, 8), NAME)
    return [regions(PAIR, "0 to 2", "0")]


def a_picture_dropped_and_its_faces_kept(made: Run) -> list[Difference]:
    forge(made, lambda rows: pa.concat_tables([rows.slice(0, 7), rows.slice(8)]), NAME)
    return [
        regions(PAIR, "0 to 0", "1, 2"),
        Difference("scores/date=*/part-000000000000.parquet", PAIR, "rows", "1", "0"),
        Difference("_SUCCESS", None, "images ok", "2 (rows of scores/)", "3"),
    ]


def two_faces_in_another_order(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.take([0, 1, 3, 2, *range(4, 10)]), NAME)
    return [regions(CROWDED, "0 to 4", "0, 2, 1, 3, 4")]


def two_faces_swapped(made: Run) -> list[Difference]:
    before = read_rows(made)
    for name in (
        "box",
        "face_confidence",
        "brightness",
        "contrast",
        "sharpness",
        "label",
        *COLUMNS,
        "confidence",
    ):
        forge(made, setting(name, {8: before[9][name], 9: before[8][name]}), NAME)
    return [Difference(NAME, PAIR, "order of faces", "from left to right", str(before[8]["box"]))]


def a_face_of_an_empty_picture(made: Run) -> list[Difference]:
    before = read_rows(made)
    forge(made, setting("id", {9: EMPTY}), NAME)
    found = [regions(PAIR, "0 to 2", "0, 1"), regions(EMPTY, "0 to 0", "2")]
    for name in ("uri", "captured_at", "captured_local", "width", "height"):
        expected, got = (pa.array([before[k][name]]).cast(pa.string())[0].as_py() for k in (6, 9))
        found.append(Difference(NAME, EMPTY, name, expected, got))
    return [*found, Difference(NAME, EMPTY, "box", INSIDE, str(before[9]["box"]))]


def a_count_of_faces(made: Run) -> list[Difference]:
    forge(made, setting("num_faces", {6: 1}), NAME)
    return [regions(EMPTY, "0 to 1", "0")]


def no_count_of_faces(made: Run) -> list[Difference]:
    forge(made, setting("num_faces", {6: None}), NAME)
    rest = "label, " + ", ".join(COLUMNS) + ", confidence"
    return [
        Difference(NAME, EMPTY, "null columns", f"error, box, face_confidence, {rest}",
                   f"error, num_faces, box, face_confidence, {rest}"),
    ]  # fmt: skip


def faces_left_out_of_few(made: Run) -> list[Difference]:
    forge(made, setting("num_faces_left_out", {1: 3}), NAME)
    return [Difference(NAME, CROWDED, "num_faces_left_out", "0, or more beside 500 faces", "3")]


def another_camera_of_a_face(made: Run) -> list[Difference]:
    forge(made, setting("camera", {3: "gate-9"}), NAME)
    return [Difference(NAME, CROWDED, "camera", "lobby", "gate-9")]


def another_width_of_a_face(made: Run) -> list[Difference]:
    forge(made, setting("width", {9: 641}), NAME)
    return [Difference(NAME, PAIR, "width", "640", "641")]


def a_failed_face(made: Run) -> list[Difference]:
    forge(made, setting("status", {9: "corrupt"}), NAME)
    return [Difference(NAME, PAIR, "status", "ok", "corrupt")]


def a_face_with_the_files_digest(made: Run) -> list[Difference]:
    forge(made, setting("sha256", {9: "0" * 64}), NAME)
    return [Difference(NAME, PAIR, "null columns", NULLS, NULLS.replace(" sha256,", ""))]


def a_box_beside_the_picture(made: Run) -> list[Difference]:
    box = [600.0, 10.0, 641.0, 60.0]
    forge(made, setting("box", {9: box}), NAME)
    return [Difference(NAME, PAIR, "box", INSIDE, str(box))]


def a_box_of_three_numbers_and_none(made: Run) -> list[Difference]:
    forge(made, setting("box", {8: None, 9: [1.0, 2.0, 3.0]}), NAME)
    return [Difference(NAME, PAIR, "box", INSIDE, got) for got in ("None", "[1.0, 2.0, 3.0]")]


def a_box_of_a_picture(made: Run) -> list[Difference]:
    forge(made, setting("box", {6: [1.0, 2.0, 3.0, 4.0]}), NAME)
    (difference,) = no_count_of_faces(made)
    forge(made, setting("num_faces", {6: 0}), NAME)
    return [replace(difference, got=difference.expected.replace(" box,", ""))]


def another_confidence_of_a_face(made: Run) -> list[Difference]:
    forge(made, setting("face_confidence", {8: 0.125, 9: 1.5}), NAME)
    least = f"{open_detector().card.threshold:g}"
    return [Difference(NAME, PAIR, "face_confidence", f"{least} to 1", got) for got in ("0.125", "1.5")]


def another_label(made: Run) -> list[Difference]:
    forge(made, setting("label", {9: "no_face"}), NAME)
    return [Difference(NAME, PAIR, "label", read_rows(made)[8]["label"], "no_face")]


def a_face_without_its_label(made: Run) -> list[Difference]:
    columns = ("label", *COLUMNS, "confidence")
    for name in columns:
        forge(made, setting(name, {9: None}), NAME)
    return [Difference(NAME, PAIR, "null columns", NULLS, f"{NULLS}, {', '.join(columns)}")]


def a_small_face_with_a_label(made: Run) -> list[Difference]:
    forge(made, setting("box", {9: [300.0, 100.0, 302.0, 105.0]}), NAME)
    nulls = f"{NULLS}, label, {', '.join(COLUMNS)}, confidence"
    return [Difference(NAME, PAIR, "null columns", nulls, NULLS)]


@pytest.mark.parametrize(
    "spoil",
    [
        a_face_dropped, the_faces_of_a_picture_dropped, a_picture_dropped_and_its_faces_kept,
        two_faces_in_another_order, two_faces_swapped, a_face_of_an_empty_picture, a_count_of_faces,
        no_count_of_faces, faces_left_out_of_few, another_camera_of_a_face, another_width_of_a_face,
        a_failed_face, a_face_with_the_files_digest, a_box_beside_the_picture,
        a_box_of_three_numbers_and_none, a_box_of_a_picture, another_confidence_of_a_face, another_label,
        a_face_without_its_label, a_small_face_with_a_label,
    ],
)  # fmt: skip
def test_what_the_rows_give_away_is_said_and_nothing_else(
    spoil: Callable[[Run], list[Difference]], spoilt: Run
) -> None:
    expected = spoil(spoilt)
    assert check_run(spoilt.run, sample=0).differences == expected


@pytest.mark.parametrize(
    "spoil",
    [a_face_dropped, a_picture_dropped_and_its_faces_kept, a_face_of_an_empty_picture, no_count_of_faces,
     a_box_of_three_numbers_and_none, another_confidence_of_a_face],
)  # fmt: skip
def test_rows_that_were_spoilt_are_sampled_nevertheless(spoil: Callable[[Run], object], spoilt: Run) -> None:
    spoil(spoilt)
    found = check_run(spoilt.run)
    assert not found.verified
    assert found.sampled == 4 - (spoil is a_picture_dropped_and_its_faces_kept)


def test_a_face_numbered_below_its_picture_is_a_difference(spoilt: Run) -> None:
    forge(spoilt, setting("region", {9: -1}), NAME)
    found = check_run(spoilt.run)
    assert not found.verified and found.sampled == 4


@pytest.mark.parametrize(
    "changes", [{"threshold": "high"}, {"min_face_px": None}, {"recall": None}, {"recall": [1]}]
)
def test_a_detectors_card_that_cannot_be_used_is_a_damaged_run(
    changes: dict[str, object], spoilt: Run
) -> None:
    values = json.loads(spoilt.run.run_json.read_text())["detector"]
    edit_json(spoilt.run.run_json, detector={**values, "card": {**values["card"], **changes}})
    with pytest.raises(UsageError, match=f"run.json is damaged: {next(iter(changes))} = "):
        spoilt.run.read_run()


@pytest.mark.parametrize("number", [-1, 4, 2**62])
def test_a_face_of_no_planned_picture_is_a_difference(number: int, spoilt: Run) -> None:
    forge(spoilt, setting("id", {0: number, 9: number}), NAME)
    assert {difference.id for difference in check_run(spoilt.run).differences} >= {number, CUT}


def test_a_run_whose_settings_do_not_count_has_no_difference_for_each_face(spoilt: Run) -> None:
    spoilt.run.run_json.write_bytes(b"[" + spoilt.run.run_json.read_bytes()[1:])
    found = check_run(spoilt.run)
    assert [difference.what for difference in found.differences] == ["sha256"]
    assert (found.rows, found.faces) == (4, 6)
    forge(spoilt, lambda rows: rows.slice(0, 9), NAME)
    assert regions(PAIR, "0 to 2", "0, 1") in check_run(spoilt.run).differences


def of_face(region: int, what: str, expected: str, got: str) -> Difference:
    name = f"file:///archive/{DAY}/093003.jpg"
    return Difference(NAME, PAIR, f"{what} of face {region} of {name}", expected, got)


def check_sampled(made: Run) -> list[Difference]:
    """The differences of the sample alone, without the folder of the archive."""
    assert check_run(made.run, sample=0).verified
    archive = made.run.read_run().plan.archives[0]
    return [
        replace(difference, what=difference.what.replace(f"file://{archive}", "file:///archive"))
        for difference in check_run(made.run).differences
    ]


def show(box: list[float]) -> str:
    return "(" + ", ".join(f"{side:.1f}" for side in box) + ")"


def test_a_box_that_moved_is_said_with_all_that_is_not_in_it(spoilt: Run) -> None:
    box = read_rows(spoilt)[9]["box"]
    moved = [box[0], box[1] - 60, box[2], box[3] - 60]
    forge(spoilt, setting("box", {9: moved}), NAME)
    first, *others = check_sampled(spoilt)
    assert first == of_face(2, "box", show(moved), show(box))
    names = {difference.what.partition(" of ")[0] for difference in others}
    assert names == {"brightness", "contrast", "sharpness", "prob_with_mask"}
    assert check_run(spoilt.run).bit_equal == 2


@pytest.mark.parametrize(
    ("column", "value", "differs"),
    [("face_confidence", -0.015, False), ("face_confidence", -0.1, True), ("brightness", -0.1, True),
     ("sharpness", 1.0, True), ("contrast", 1e-4, False)],
)  # fmt: skip
def test_values_that_only_the_archive_can_refute_are_said_with_their_face(
    column: str, value: float, differs: bool, spoilt: Run
) -> None:
    was = read_rows(spoilt)[8][column]
    forge(spoilt, setting(column, {8: was + value}), NAME)
    found = check_sampled(spoilt)
    name = f"{column} of face 1 of file:///archive/{DAY}/093003.jpg"
    assert [difference.what for difference in found] == ([name] if differs else [])


def test_another_label_with_its_probabilities_is_said(spoilt: Run) -> None:
    for name, value in zip(("label", *COLUMNS, "confidence"), ("no_face", 0, 0, 0, 1, 1), strict=True):
        forge(spoilt, setting(name, {8: value}), NAME)
    forge(spoilt, setting("needs_review", {8: False}), NAME)
    labels = [d for d in check_sampled(spoilt) if d.what.startswith("label")]
    assert labels == [of_face(1, "label", "no_face", "with_mask")]


def keep_faces(made: Run, places: list[int]) -> None:
    """Give the pair the faces at these rows, as if they were all that had been found."""
    forge(made, lambda rows: rows.take([*range(8), *places]), NAME)
    forge(made, setting("num_faces", {7: len(places)}), NAME)
    forge(made, setting("region", {8 + k: k + 1 for k in range(len(places))}), NAME)


@pytest.mark.parametrize(("gone", "left"), [(8, 9), (9, 8)])
def test_a_face_that_was_left_out_is_found(gone: int, left: int, spoilt: Run) -> None:
    box = read_rows(spoilt)[gone]["box"]
    keep_faces(spoilt, [left])
    what = f"faces of file:///archive/{DAY}/093003.jpg"
    assert check_sampled(spoilt) == [Difference(NAME, PAIR, what, f"none at {show(box)}", "one")]


EXACT, INEXACT = (Finding(0.3, 960, is_exact) for is_exact in (True, False))
CLASSES = ("a", "b")
Rows = list[dict[str, Any]]


def make_rows(*faces: tuple[float, float], size: tuple[int, int] = (640, 360), left_out: int = 0) -> Rows:
    """A picture with faces of 30 by 40 pixels at (x0, face_confidence)."""
    shared = {
        "file": "f",
        "id": 3,
        "uri": "u",
        "status": "ok",
        "sha256": "x",
        "width": size[0],
        "height": size[1],
    }
    picture = {**shared, "region": 0, "num_faces": len(faces), "num_faces_left_out": left_out}
    return [picture, *(
        {**shared, "region": k, "box": [x, 50.0, x + 30, 90.0], "face_confidence": sure, "label": "a",
         "prob_a": 0.7, "prob_b": 0.3, "brightness": 0.5, "contrast": 0.2, "sharpness": 90.0}
        for k, (x, sure) in enumerate(faces, 1)
    )]  # fmt: skip


def compare(old: Rows, new: Rows, finding: Finding = EXACT) -> Verification:
    found = Verification(success_sha256="", seed=0, faces=len(old) - 1)
    compare_images(old, new, CLASSES, found, finding, old[1:])
    return found


@pytest.mark.parametrize(
    ("by_px", "width", "finding", "differs"),
    [
        (0.9, 640, EXACT, False), (1.1, 640, EXACT, True), (1.9, 1920, EXACT, False), (2.1, 1920, EXACT, True),
        (9.0, 640, INEXACT, False), (11.0, 640, INEXACT, True), (-20.0, 640, INEXACT, True),
    ],
)  # fmt: skip
def test_a_box_is_found_again_within_a_pixel_and_on_another_device_over_half_of_it(
    by_px: float, width: int, finding: Finding, differs: bool
) -> None:
    old, new = (make_rows((10, 0.9), (x, 0.8), size=(width, 360)) for x in (100.0, 100 + by_px))
    found = compare(old, new, finding)
    assert [difference.what for difference in found.differences] == (
        ["box of face 2 of u"] if differs else []
    )
    assert (found.faces_rescored, found.bit_equal) == (2, 0)
    assert found.largest_shift_px == pytest.approx(0 if differs else abs(by_px))


@pytest.mark.parametrize(
    ("by", "finding", "differs"), [(0.019, EXACT, False), (0.021, EXACT, True), (0.04, INEXACT, False)]
)
def test_the_confidence_of_a_face_is_alike(by: float, finding: Finding, differs: bool) -> None:
    assert compare(make_rows((10, 0.8)), make_rows((10, 0.8 - by)), finding).verified != differs


@pytest.mark.parametrize(("sure", "is_near"), [(0.319, True), (0.321, False)])
@pytest.mark.parametrize("came", [False, True])
@pytest.mark.parametrize("x", [10.0, 200.0, 400.0])
def test_a_face_near_the_threshold_may_come_or_go(sure: float, is_near: bool, came: bool, x: float) -> None:
    others = [(100.0, 0.9), (145.0, 0.9), (300.0, 0.9)]
    pair = [make_rows(*others), make_rows(*sorted([*others, (x, sure)]))]
    found = compare(*(pair if came else pair[::-1]))
    assert (found.verified, found.faces_near_threshold) == (is_near, int(is_near))
    region = 1 + sum(left < x for left, _ in others)
    name = "faces of u" if came else f"face {region} of u"
    assert [difference.what for difference in found.differences] == ([] if is_near else [name])
    assert ("1 face near the detector's threshold came or went." in str(found)) == is_near


def test_where_faces_were_left_out_the_least_confident_is_the_threshold() -> None:
    crowd = [(100.0, 0.9), (145.0, 0.6), (300.0, 0.61)]
    old, new = (make_rows(*faces, left_out=9) for faces in (crowd, [crowd[0], (230, 0.61), crowd[2]]))
    assert compare(old, new).faces_near_threshold == 2
    assert compare([{**old[0], "num_faces_left_out": 0}, *old[1:]], new).num_differences == 2


def test_another_detector_is_said_and_a_moved_one_is_taken(spoilt: Run, tmp_path: Path) -> None:
    detector, moved = open_detector(), tmp_path / "moved.safetensors"
    other = open_detector("yunet_n")
    (difference,) = check_run(spoilt.run, detector="yunet_n").differences
    assert difference == Difference("yunet_n", None, "sha256 of the detector", detector.digest, other.digest)
    (difference,) = check_run(spoilt.run, detector=open_checkpoint().path).differences
    assert "it is a classifier, a face detector expected" in difference.got
    gone = str(tmp_path / "gone.safetensors")
    settings = spoilt.run.read_run()
    edit_json(spoilt.run.run_json, detector=asdict(replace(settings.detector, path=gone)))
    sign(spoilt, "run.json")
    shutil.copy(detector.path, moved)
    for place in (None, str(moved)):  # a packaged one of that digest will do
        assert check_run(spoilt.run, detector=place).bit_equal == 3


def test_a_detector_that_is_gone_is_said(tmp_path: Path) -> None:
    own = open_detector()
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, replace(own.card, data_fingerprint="other"), own.load_state())
    write_files(tmp_path / "archive", {f"{DAY}/093000.jpg": encode(TWO)})
    made = stage_run(
        tmp_path / "run", tmp_path / "archive", open_checkpoint(), view="scene", detector=str(path)
    )
    made.commit()
    assert check_run(made.run).bit_equal == 1
    path.unlink()
    (difference,) = check_run(made.run).differences
    assert (difference.file, difference.what) == (str(path), "sha256 of the detector")
    assert "no such file; give --detector" in difference.got


def test_a_detector_for_a_run_without_one_is_refused(committed: Run) -> None:
    with pytest.raises(UsageError, match="is a run of --view face; leave it out"):
        check_run(committed.run, detector="yunet_n")
