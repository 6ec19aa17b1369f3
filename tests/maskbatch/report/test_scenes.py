"""The report over runs of whole scenes, from rows to tables, sentences and comparisons."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskbatch.config import ReportConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.report import words
from maskbatch.report.compare import make_comparison
from maskbatch.report.make import Report, make_report
from maskbatch.report.tables import GROUPINGS
from maskbatch.runs.directory import RunDir
from maskbatch.schema import SIZE_BAND_NAMES
from tests.maskbatch.report.scenes import (
    FAILED,
    FOUND,
    Picture,
    draw_month,
    face,
    measured_detector,
    picture,
)
from tests.maskbatch.samples import Run, commit_scenes, make_detector_card

GOOD, BARE, WRONG, NOBODY = "with_mask", "without_mask", "incorrect_mask", "no_face"
WALLS = {"brightness": 0.4, "contrast": 0.15, "sharpness": 90.0, "dhash": b"lobby 24"}
"""The looks of a picture in which only people change."""


def report(run: RunDir | Sequence[RunDir], out: Path, **config: Any) -> Report:
    return make_report([run] if isinstance(run, RunDir) else run, out / "report", ReportConfig(**config))


@pytest.fixture(scope="module")
def lobbies(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Twelve days of three lobbies, with a poster in one."""
    folder = tmp_path_factory.mktemp("lobbies")
    return commit_scenes(folder / "run", draw_month(), open_checkpoint().card, measured_detector())


def test_faces_are_assessed_and_pictures_listed(tmp_path: Path) -> None:
    pictures = [
        picture(0, [face(GOOD), face(GOOD, 300)]),
        picture(5, [face(GOOD), face(BARE, 300)]),
        picture(10, [face(None, size=20), face(NOBODY, 300)]),
        picture(15, []),
        picture(20, [], **FAILED),
    ]
    overall = report(commit_scenes(tmp_path / "run", pictures), tmp_path).overall
    expected = {
        "listed": 5, "scored": 4, "failed": 1, "failed_truncated": 1, "faces": 6, "too_small": 1,
        "false_alarms": 1, "excluded": 0, "assessed": 4, "compliant": 3, "compliance": 0.75,
        "pictures_assessed": 2, "pictures_compliant": 1, "picture_compliance": 0.5, "faces_per_picture": 1.5,
        "num_with_mask": 3, "share_no_face": 0.2,
    }  # fmt: skip
    assert {name: overall[name] for name in expected} == expected


def test_every_face_of_every_group_is_accounted_for(lobbies: RunDir, tmp_path: Path) -> None:
    for exclude in ((), ("static_face",)):
        made = report(lobbies, tmp_path, exclude=exclude)
        rows = [row for name in GROUPINGS for row in made.tables[name].to_pylist()]
        rows += made.tables["by_size"].to_pylist()
        bands = made.tables["by_size"]["size_band"].to_pylist()
        assert bands == [name for name in SIZE_BAND_NAMES if name in bands]
        assert len(bands) > 6
        for row in rows:
            assert row["faces"] == row["assessed"] + row["too_small"] + row["false_alarms"] + row["excluded"]
            assert row["assessed"] == sum(row[f"num_{name}"] for name in (GOOD, BARE, WRONG))
        for name in (*GROUPINGS, "by_size"):
            assert sum(made.tables[name]["faces"].to_pylist()) == made.overall["faces"]
        assert sum(made.tables["by_size"]["share_faces"].to_pylist()) == pytest.approx(1)
    assert made.overall["excluded"] == made.values["quality"]["totals"]["static_face"] > 300


def test_a_poster_is_a_condition_that_can_be_left_out(lobbies: RunDir, tmp_path: Path) -> None:
    with_it, without = report(lobbies, tmp_path), report(lobbies, tmp_path, exclude=("static_face",))
    assert with_it.overall["compliance"] < 0.75 < 0.8 < without.overall["compliance"] < 0.9
    assert without.values["everything"][0]["compliance"] == with_it.overall["compliance"]
    assert without.overall["pictures_assessed"] < with_it.overall["pictures_assessed"]
    by_camera = {row["camera"]: row["static_face"] for row in with_it.tables["quality"].to_pylist()}
    assert by_camera["lobby-0"] > 300
    assert by_camera["lobby-1"] == by_camera["lobby-2"] == 0
    stretches = with_it.tables["stretches"].to_pylist()
    assert Counter((row["camera"], row["condition"]) for row in stretches) == {("lobby-0", "static_face"): 12}


def test_faces_of_a_dark_picture_leave_the_rates_with_it(tmp_path: Path) -> None:
    pictures = [picture(5 * k, [face(BARE)], brightness=0.01) for k in range(3)]
    pictures += [picture(60 + 5 * k, [face(GOOD)]) for k in range(5)]
    run = commit_scenes(tmp_path / "run", pictures)
    made = report(run, tmp_path, exclude=("dark",))
    assert (made.overall["excluded"], made.overall["compliance"]) == (3, 1)
    assert (made.overall["pictures_assessed"], made.overall["scored"]) == (5, 8)
    assert made.values["quality"]["totals"]["dark"] == 3
    assert made.values["everything"][0]["compliance"] == 5 / 8


def night(faces: Sequence[Picture], num: int = 30) -> list[Picture]:
    """Pictures of an unchanging view, every five minutes."""
    return [picture(5 * k, faces, **WALLS) for k in range(num)]


def conditions(pictures: Sequence[Picture], out: Path) -> dict[str, int]:
    totals = report(commit_scenes(out / "run", pictures), out).values["quality"]["totals"]
    return {name: num for name, num in totals.items() if num}


def test_a_camera_that_shows_the_same_people_for_minutes_is_frozen(tmp_path: Path) -> None:
    assert conditions(night([face(BARE), face(GOOD, 500)]), tmp_path) == {"frozen": 30}


def test_a_view_that_hardly_changes_is_not_frozen_while_people_move(tmp_path: Path) -> None:
    pictures = [picture(5 * k, [face(BARE, 100 + 15 * (k % 5))], **WALLS) for k in range(30)]
    assert conditions(pictures, tmp_path) == {}


def test_an_empty_lobby_at_night_is_not_frozen_for_a_poster_on_its_wall(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)

    def poster() -> Picture:
        x, y, size = np.array([700, 300, 60]) + rng.normal(0, 0.5, 3)
        return face(BARE, x, y, size)

    # by day people come and go, from ten in the evening nobody
    evening = [
        picture(5 * k, [poster(), *([face(GOOD, 100 + 40 * (k % 9))] if k < 180 and k % 3 else [])], **WALLS)
        for k in range(200)
    ]
    assert conditions(evening, tmp_path) == {"static_face": 200}


def test_a_frozen_camera_has_no_posters_and_is_left_out_as_frozen(tmp_path: Path) -> None:
    frozen = [picture(5 * k, [face(BARE, 700)], **WALLS) for k in range(120)]
    run = commit_scenes(tmp_path / "run", [*frozen, picture(700, [face(GOOD)])])
    made = report(run, tmp_path, exclude=("frozen",))
    assert (
        made.values["quality"]["totals"] | {"frozen": 120, "static_face": 0}
        == made.values["quality"]["totals"]
    )
    assert (made.overall["assessed"], made.overall["compliance"], made.overall["excluded"]) == (1, 1, 120)


def test_missed_faces_move_the_corrected_rate_and_a_poor_card_says_why_not(
    lobbies: RunDir, tmp_path: Path
) -> None:
    measured = report(lobbies, tmp_path, exclude=("static_face",))
    perfect = make_detector_card(recall={name: [[b, b] for _, b in bands] for name, bands in FOUND.items()})
    finds_all = commit_scenes(tmp_path / "all", draw_month(), open_checkpoint().card, perfect)
    corrected = [
        made.overall["corrected"]
        for made in (measured, report(finds_all, tmp_path, exclude=("static_face",)))
    ]
    assert corrected[0] > corrected[1] + 0.005, "a detector misses more faces in masks"
    assert measured.overall["compliance"] < measured.overall["corrected"]
    unmeasured = make_detector_card(recall={})
    blind = report(
        commit_scenes(tmp_path / "none", draw_month(days=2), open_checkpoint().card, unmeasured), tmp_path
    )
    assert blind.overall["corrected"] is None
    (sentence,) = words.describe_other_rates(blind)
    assert sentence.endswith("measured on only 0 held-out faces of a class, and 30 are needed.")


def test_runs_of_other_views_detectors_or_sizes_do_not_add_up(
    lobbies: RunDir, committed: Run, tmp_path: Path
) -> None:
    pictures = [picture(0, [face(GOOD)])]
    one = commit_scenes(tmp_path / "one", pictures)
    other = commit_scenes(tmp_path / "other", pictures, detector_digest="e" * 64)
    smaller = commit_scenes(tmp_path / "smaller", pictures, detect_px=640)
    for runs, what in (
        ([one, committed.run], r"--view differ \(face and scene\)"),
        ([one, other], "detectors differ"),
        ([one, smaller], r"--detect-px differ \(640 and 960\)"),
    ):
        with pytest.raises(UsageError, match=f"do not add up: their {what}"):
            report(runs, tmp_path)


def test_parts_of_a_month_give_the_report_of_the_month(lobbies: RunDir, tmp_path: Path) -> None:
    pictures = [{**one, "uri": f"file:///archive/{k}.jpg"} for k, one in enumerate(draw_month())]
    card, days = open_checkpoint().card, sorted({one["time"].date() for one in pictures})
    parts = [
        commit_scenes(
            tmp_path / f"part{k}",
            [one for one in pictures if (one["time"].date() > days[5]) == bool(k)],
            replace(card), measured_detector(),
        )
        for k in (0, 1)
    ]  # fmt: skip
    together, alone = (
        report(parts, tmp_path, exclude=("static_face",)),
        report(lobbies, tmp_path, exclude=("static_face",)),
    )
    for name in (*GROUPINGS, "by_size", "quality", "stretches"):
        assert together.tables[name].equals(alone.tables[name]), name


def test_drift_is_of_faces_for_labels_and_of_pictures_for_light(lobbies: RunDir, tmp_path: Path) -> None:
    drift = report(lobbies, tmp_path).values["drift"]
    measures = Counter(test["measure"] for test in drift["tests"])
    assert measures == dict.fromkeys(
        [*(f"share_{name}" for name in (GOOD, BARE, WRONG, NOBODY)), "confidence", "brightness", "sharpness"],
        3,
    )
    light = [test for test in drift["tests"] if test["measure"] == "brightness"]
    assert {(test["recent"], test["before"]) for test in light} == {(0.5, 0.5)}, "faces have other ones"
    assert {row["measure"] for row in drift["psi"]} == {"confidence", "brightness", "sharpness"}


def test_the_terminal_speaks_of_faces_and_of_pictures(tmp_path: Path) -> None:
    pictures = [picture(0, [face(GOOD), face(BARE, 300)]), picture(5, [face(GOOD), face(None, 500, size=20)])]
    made = report(commit_scenes(tmp_path / "run", pictures), tmp_path)
    assert words.headline(made).startswith("66.7% with_mask (2 of 3 assessed faces), 95 % interval")
    assert words.describe_sum(made) == "Listed 2 = ok 2."
    said, of_pictures = words.describe_faces(made)
    assert said == "Faces 4 = assessed 3 + too small 1, 2.00 a picture."
    assert of_pictures.startswith("Everyone complies in 50.0% (")
    assert of_pictures.endswith(
        "of the 2 pictures with anyone assessed. Each face is one sighting: the same person in ten pictures is ten."
    )


def test_a_run_of_single_faces_says_nothing_of_scenes(committed: Run, tmp_path: Path) -> None:
    made = report(committed.run, tmp_path)
    assert list(words.describe_faces(made)) == []
    assert "by_size" not in made.tables
    assert "static_face" not in made.tables["quality"].column_names
    assert set(made.tables["cells"]["region_kind"].to_pylist()) == {"picture"}


def test_two_scene_runs_are_compared_by_faces_on_the_pictures_of_both(tmp_path: Path) -> None:
    before = [picture(60 * k, [face(GOOD), face(BARE, 300)], uri=f"file:///{k}.jpg") for k in range(12)]
    after = [
        {**one, "faces": [face(GOOD), face(GOOD, 300)]} if k < 6 else one for k, one in enumerate(before)
    ]
    after[11] = {**after[11], "faces": [], **FAILED}
    runs = [
        commit_scenes(tmp_path / name, rows, detector_digest=name * 64)
        for name, rows in (("a", before), ("b", after))
    ]
    made = make_comparison(runs[:1], runs[1:])
    assert (made.kind, made.view, made.shared, made.changed, made.crossed) == ("images", "scene", 12, 7, [])
    overall = made.overall
    assert [overall[name] for name in ("compliant_first", "assessed_first")] == [12, 24]
    assert [overall[name] for name in ("compliant_second", "assessed_second")] == [17, 22]
    assert overall["difference"] == pytest.approx(17 / 22 - 1 / 2)
    assert json.loads(json.dumps(made.as_dict())) == made.as_dict()
    (shared,) = words.describe_overlap(made)
    assert shared.endswith("7 (58.3%) changed their number of assessed or compliant faces.")
    assert next(words.describe_difference(made)).startswith(
        "Compliance of faces on the 12 images of both: 50.0%"
    )


def test_two_months_of_scenes_are_two_periods(tmp_path: Path) -> None:
    days = [
        [picture(60 * k + 1440 * day, [face(GOOD if day else BARE)], uri=f"{day}/{k}") for k in range(9)]
        for day in (0, 1)
    ]
    runs = [commit_scenes(tmp_path / str(k), rows) for k, rows in enumerate(days)]
    made = make_comparison(runs[:1], runs[1:])
    assert (made.kind, made.changed, made.only_first, made.only_second) == ("periods", 0, 9, 9)
    assert (made.overall["compliance_first"], made.overall["compliance_second"]) == (0, 1)
    assert made.runs[0]["planned"] == 9


def test_a_face_run_and_a_scene_run_are_not_compared(lobbies: RunDir, committed: Run) -> None:
    with pytest.raises(
        UsageError, match="--view scene and --view face, so their rates count different things; compare"
    ):
        make_comparison([lobbies], [committed.run])
