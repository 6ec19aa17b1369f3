from datetime import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings

from maskbatch import schema
from maskbatch.report.cells import count_cells, group_name
from maskbatch.report.tables import GROUPINGS, Row, Tables
from maskbatch.runs.committed import Meaning
from tests.maskbatch.report.test_cells import SCHEMA, tables
from tests.maskbatch.samples import CLASSES

MEANING = Meaning(classes=CLASSES, compliant=("with_mask",), not_assessed=("no_face",))
COUNTS = [
    "listed", "scored", "failed", "excluded", "assessed", "compliant", "num_review", *[f"num_{name}" for name in CLASSES],
    *[f"failed_{name}" for name in schema.STATUSES if name != "ok"],
]  # fmt: skip
CONFUSION = [[95, 5, 0, 0], [6, 90, 4, 0], [3, 2, 95, 0], [0, 1, 0, 99]]


def group_table(cells: pa.Table, keys: tuple[str, ...]) -> list[Row]:
    rows: list[Row] = Tables(cells, MEANING, CONFUSION).by(keys).to_pylist()
    return rows


def one_day(labels: list[str | None], status: str = "ok") -> pa.Table:
    rows = [
        {"site": "n", "camera": "1", "captured_local": datetime(2026, 10, 3, i % 24), "status": status,
         "label": label, "needs_review": i % 2 == 1, "region": 0, "confidence": 0.5 if label else None}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return count_cells(pa.Table.from_pylist(rows, SCHEMA), "2026-10-03")


@settings(max_examples=15)
@given(tables.filter(lambda rows: 0 in rows["region"].to_pylist()))
def test_the_groups_of_every_table_sum_to_the_overall_row(rows: pa.Table) -> None:
    cells = count_cells(rows, "2026-10-03")
    (overall,) = group_table(cells, ())
    assert overall["listed"] == overall["scored"] + sum(overall[c] for c in COUNTS if c.startswith("failed_"))
    for keys in GROUPINGS.values():
        groups = group_table(cells, keys)
        assert len({tuple(group[key] for key in keys) for group in groups}) == len(groups)
        for name in COUNTS:
            assert sum(group[name] for group in groups) == overall[name]


def test_the_figures_of_a_group_follow_from_its_counts() -> None:
    labels = ["with_mask"] * 6 + ["without_mask"] * 2 + ["incorrect_mask", "no_face"]
    (row,) = group_table(one_day([*labels]), ())
    assert (row["listed"], row["scored"], row["assessed"], row["compliant"]) == (10, 10, 9, 6)
    assert row["compliance"] == 6 / 9
    assert [row[f"share_{name}"] for name in CLASSES] == [0.6, 0.2, 0.1, 0.1]
    assert row["compliance_low"] < 6 / 9 < row["compliance_high"]
    assert (row["mean_confidence"], row["num_review"]) == (0.5, 5)


@pytest.mark.parametrize("name", GROUPINGS)
def test_nothing_scored_gives_none_instead_of_figures(name: str) -> None:
    (row,) = group_table(one_day([None], "missing"), GROUPINGS[name])
    assert (row["listed"], row["scored"], row["failed_missing"]) == (1, 0, 1)
    shares = [f"share_{label}" for label in CLASSES]
    for figure in ("compliance", "compliance_low", "compliance_high", "mean_confidence", *shares):
        assert row[figure] is None


@pytest.mark.parametrize("name", GROUPINGS)
def test_nothing_assessed_gives_shares_and_no_compliance(name: str) -> None:
    (row,) = group_table(one_day(["no_face"]), GROUPINGS[name])
    assert (row["scored"], row["assessed"], row["share_no_face"]) == (1, 0, 1)
    assert row["compliance"] is row["compliance_low"] is row["compliance_high"] is None


def test_excluded_images_are_counted_apart_and_stay_out_of_every_rate() -> None:
    rows = pa.Table.from_pylist(
        [
            {"status": "ok", "label": label, "region": 0, "needs_review": True, "confidence": 0.5}
            for label in ["with_mask"] * 4 + ["without_mask"] * 2
        ],
        SCHEMA,
    )
    condition = pa.array([None, None, None, "frozen", "frozen", "dark"])
    cells = count_cells(rows, "2026-10-03", condition=condition)
    (all_of_it,) = Tables(cells, MEANING).by(()).to_pylist()
    (without,) = Tables(cells, MEANING, exclude=["frozen"]).by(()).to_pylist()
    assert (all_of_it["excluded"], all_of_it["assessed"], all_of_it["compliance"]) == (0, 6, 4 / 6)
    assert (without["excluded"], without["assessed"], without["compliance"]) == (2, 4, 3 / 4)
    assert (without["listed"], without["scored"], without["num_review"]) == (6, 6, 4)
    assert (without["share_with_mask"], without["mean_confidence"]) == (3 / 4, 0.5)


def test_weekdays_are_those_of_the_calendar_and_unknown_days_have_none() -> None:
    days = {"2026-10-05": 1, "2026-10-07": 3, "2026-10-11": 7, "unknown": None}
    rows = pa.Table.from_pylist([{"status": "missing", "region": 0, "needs_review": False}], SCHEMA)
    for day, weekday in days.items():
        (row,) = group_table(count_cells(rows, day), ("weekday",))
        assert row["weekday"] == weekday


def test_rates_are_corrected_where_a_matrix_can_and_not_otherwise() -> None:
    cells = one_day(["with_mask"] * 80 + ["without_mask"] * 20)
    (corrected,) = group_table(cells, ())
    assert corrected["corrected_low"] < corrected["corrected"] < corrected["corrected_high"]
    assert corrected["corrected"] > 0.8, "the classifier takes more masks off than it puts on"
    (plain,) = Tables(cells, MEANING).by(()).to_pylist()
    assert plain["corrected"] is plain["corrected_low"] is plain["corrected_high"] is None
    shares = Tables(cells, MEANING, CONFUSION).shares()
    assert [row["class"] for row in shares] == list(CLASSES)
    assert sum(row["corrected"] for row in shares) == pytest.approx(1)
    assert all(row["corrected_low"] <= row["corrected"] <= row["corrected_high"] for row in shares)


def test_two_classes_make_every_image_assessed() -> None:
    two = Meaning(classes=("with_mask", "without_mask"), compliant=("with_mask",), not_assessed=())
    (row,) = Tables(one_day(["with_mask", "without_mask"]), two, [[50, 2], [3, 50]]).by(()).to_pylist()
    assert (row["assessed"], row["compliance"]) == (2, 0.5)
    assert "share_no_face" not in row


def test_all_that_comply_leave_no_doubt_smaller_than_that_of_their_clusters() -> None:
    (row,) = group_table(one_day(["with_mask"] * 2400), ())
    assert (row["num_clusters"], row["design_effect"]) == (24, 100)
    assert row["compliance_low"] < 0.9 < row["compliance_high"] == 1


def test_cameras_without_a_name_are_clusters_too() -> None:
    rows = pa.Table.from_pylist(
        [
            {
                "site": None,
                "camera": camera,
                "status": "ok",
                "label": "with_mask",
                "region": 0,
                "needs_review": False,
            }
            for camera in (None, "1", "2")
        ],
        SCHEMA,
    )
    cells = pa.concat_tables([count_cells(rows, day) for day in ("2026-10-01", "2026-10-02", "unknown")])
    (row,) = group_table(cells, ())
    assert row["num_clusters"] == 9
    assert [group["few_clusters"] for group in group_table(cells, ("camera",))] == [True] * 3


@pytest.mark.parametrize(
    ("keys", "row", "name"),
    [
        (("site", "camera"), {"site": None, "camera": "2"}, "unknown/2"),
        (("weekday",), {"weekday": 1}, "Monday"),
        (("hour",), {"hour": 8}, "08:00"),
        ((), {}, "overall"),
    ],
)
def test_a_group_is_named_as_a_person_would(keys: tuple[str, ...], row: Row, name: str) -> None:
    assert group_name(row, keys) == name
