from datetime import date, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, mannwhitneyu

from maskbatch.report.cells import HISTOGRAMS, MEASURES, NUM_BINS, SCHEMA, bin_index
from maskbatch.report.drift import (
    ALERT_Q,
    HISTORY_NIGHTS,
    LEAST_NIGHTS,
    RECENT_NIGHTS,
    count_recent,
    find_drift_alerts,
    measure_drift,
    rank_test,
    stability_index,
)

CLASSES = ("with_mask", "without_mask", "no_face")
LONG = HISTORY_NIGHTS + RECENT_NIGHTS
Floats = NDArray[np.float64]


def cell(camera: str | None, night: int, label: str | None, count: int, **other: Any) -> dict[str, Any]:
    means = {measure: other.pop(measure, 0.5) for measure in MEASURES}
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {
        "camera": camera,
        "date": str(date(2026, 9, 1) + timedelta(night)),
        "status": "ok",
        "label": label,
    }
    row |= {"needs_review": False, "count": count}
    row |= {f"{measure}_sum": count * mean for measure, mean in means.items()}
    for measure, mean in means.items():
        bins = bin_index(measure, np.full(count, mean))
        row[f"{measure}_histogram"] = np.bincount(bins, minlength=NUM_BINS).tolist()
    return row | other


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def camera_rows(
    name: str | None, nights: int, fallen: int = 0, points: int = 15, **last: float
) -> list[dict[str, Any]]:
    """Two labels in each of the nights, none like another; in the last `fallen`, `points` fewer of 100 comply."""
    rng = np.random.default_rng(nights)
    rows = []
    for night, jitter in enumerate(rng.permutation(nights) / nights):
        late = night >= nights - fallen
        worn = 900 + round(20 * jitter) - 10 * points * late
        means = {"confidence": 0.9, "brightness": 0.4, "sharpness": 300.0} | (last if late else {})
        means = {measure: mean * (1 + 0.02 * jitter) for measure, mean in means.items()}
        rows.append(cell(name, night, "with_mask", worn, site="north", **means))
        rows.append(cell(name, night, "without_mask", 1000 - worn, site="north", **means))
    return rows


def simulated(rng: np.random.Generator, reports: int, cameras: int, nights: int, turned: int = 0) -> Floats:
    """Measures (reports, cameras, 6, nights): shares of three classes, and three that stand for the means.

    Shares are beta-binomial about each camera's own level; weekends have half the images, fewer masks and other
    means; the week begins anywhere. Camera 0 was turned around `turned` nights ago.
    """
    shape = (reports, cameras, nights)
    weekend = (np.arange(nights) + rng.integers(0, 7, (reports, 1, 1))) % 7 >= 5
    level = rng.dirichlet((40, 4, 2), (reports, cameras, 1)) * np.ones((nights, 1))
    moved = level[..., 0] * 0.08 * weekend
    moved[:, 0, nights - turned :] += 0.3 * level[:, 0, nights - turned :, 0]
    level[..., 0] -= moved
    level[..., 1] += moved
    spread = np.maximum(rng.gamma(30 * level), 1e-300)
    images = rng.poisson(np.where(weekend, 120, 240), shape) + 1
    shares = rng.multinomial(images, spread / spread.sum(-1, keepdims=True)) / images[..., None]
    means = rng.normal(size=(*shape, 3)) + weekend[..., None]
    means[:, 0, nights - turned :] += 6
    return np.concatenate([shares, means], -1).swapaxes(2, 3)


def p_values(measures: Floats) -> Floats:
    """(reports, tests)."""
    rows = measures.reshape(-1, measures.shape[-1])
    return rank_test(rows, count_recent(rows.shape[1])).reshape(len(measures), -1)


@pytest.mark.parametrize(
    ("cameras", "nights", "reports"),
    [(4, LONG, 400), (40, LONG, 200), (1, 14, 600), (4, 15, 400), (4, 20, 400)],
)
def test_a_fleet_that_does_not_drift_seldom_alerts(cameras: int, nights: int, reports: int) -> None:
    p = p_values(simulated(np.random.default_rng(20261001), reports, cameras, nights))
    alarmed = (false_discovery_control(p, axis=1) <= ALERT_Q).any(1).mean()
    print(f"{cameras} cameras, {nights} nights: {alarmed:.1%} of {reports} reports raise a false alarm")
    assert 0 < alarmed <= 0.06
    assert (p <= ALERT_Q).any(1).mean() > 3 * alarmed  # what a report without the correction would do


@pytest.mark.parametrize(
    ("cameras", "turned", "least"), [(1, 4, 0.7), (4, 5, 0.8), (4, 7, 0.99), (40, 7, 0.99)]
)
def test_a_camera_turned_around_is_found(cameras: int, turned: int, least: float) -> None:
    reports = 50
    p = p_values(simulated(np.random.default_rng(20261002), reports, cameras, LONG, turned))
    q = false_discovery_control(p, axis=1).reshape(reports, cameras, -1)
    found = (q[:, 0] <= ALERT_Q).any(1).mean()
    print(f"{cameras} cameras, one turned {turned} nights ago: found in {found:.0%} of reports")
    assert found >= least


@given(st.lists(st.integers(0, 4), min_size=3, max_size=9), st.integers(1, 2))
def test_the_rank_test_counts_every_choice_of_nights(values: list[int], recent: int) -> None:
    """By enumeration, with ties: U as Mann and Whitney define it, each choice of recent nights equally likely."""

    def u(chosen: tuple[int, ...]) -> float:
        others = [v for i, v in enumerate(values) if i not in chosen]
        return sum((values[i] > v) + (values[i] == v) / 2 for i in chosen for v in others)

    num = len(values)
    drawn = np.array([u(chosen) for chosen in combinations(range(num), recent)])
    seen = u(tuple(range(num - recent, num)))
    expected = min(1, 2 * (drawn >= seen).mean(), 2 * (drawn <= seen).mean())
    assert rank_test(np.array([values], float), recent)[0] == pytest.approx(expected)


def test_without_ties_the_rank_test_is_scipys_exact_one() -> None:
    values = np.random.default_rng(3).normal(size=(50, LONG)) + np.linspace(0, 3, LONG)
    before, recent = values[:, :-RECENT_NIGHTS], values[:, -RECENT_NIGHTS:]
    expected = mannwhitneyu(recent, before, axis=1, method="exact").pvalue
    assert rank_test(values, RECENT_NIGHTS) == pytest.approx(expected)
    assert expected.min() < 0.001


def test_nights_all_alike_have_a_p_of_one() -> None:
    assert rank_test(np.zeros((1, LONG)), RECENT_NIGHTS)[0] == 1


def test_fifteen_points_of_compliance_lost_alert_and_the_sentence_says_it_all() -> None:
    rows = [row for name in "1234" for row in camera_rows(name, LONG)]
    found = measure_drift(table(rows + camera_rows("5", LONG, fallen=7)), CLASSES, {})
    alerts = find_drift_alerts(found)
    assert [(a["kind"], a["site"], a["camera"], a["measure"]) for a in alerts] == [
        ("drift", "north", "5", "share_with_mask"),
        ("drift", "north", "5", "share_without_mask"),
    ]
    assert alerts[0]["sentence"] == (
        "north/5: the share of with_mask fell from 91.0 % (median of 28 days) "
        "to 75.8 % (median of the last 7), q < 0.001"
    )


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"confidence": 0.8}, "mean confidence fell from 0.909 (median of 28 days) to 0.8"),
        ({"brightness": 0.6}, "mean brightness rose from 0.404 (median of 28 days) to 0.6"),
        ({"sharpness": 1500.0}, "mean sharpness rose from 303.0 (median of 28 days) to 1,51"),
    ],
)
def test_what_the_picture_looks_like_alerts_too(last: dict[str, float], words: str) -> None:
    rows = [row | {"site": None} for row in camera_rows(None, LONG, fallen=7, points=0, **last)]
    (alert,) = find_drift_alerts(measure_drift(table(rows), CLASSES, {}))
    assert alert["sentence"].startswith(f"unknown/unknown: {words}")


def test_a_change_too_small_to_matter_is_significant_but_does_not_alert() -> None:
    rows = camera_rows("1", LONG, fallen=7, points=0, brightness=0.41, sharpness=320.0)
    for night in range(LONG):
        worn = 90_000 + night + 500 * (night >= HISTORY_NIGHTS)
        rows += [cell("2", night, "with_mask", worn), cell("2", night, "no_face", 100_000 - worn)]
    found = measure_drift(table(rows), CLASSES, {})
    changed = [(test["camera"], test["measure"]) for test in found["tests"] if test["q"] < 0.005]
    assert changed == [
        ("1", "brightness"),
        ("1", "sharpness"),
        ("2", "share_with_mask"),
        ("2", "share_no_face"),
    ]
    assert find_drift_alerts(found) == []


def test_one_p_under_five_percent_among_many_tests_does_not_alert() -> None:
    rows = [row for name in "123" for row in camera_rows(name, LONG)] + camera_rows("4", 10, fallen=3)
    found = measure_drift(table(rows), CLASSES, {})
    fallen = [test for test in found["tests"] if test["camera"] == "4" and test["p"] <= ALERT_Q]
    assert [test["measure"] for test in fallen] == ["share_with_mask", "share_without_mask"]
    assert find_drift_alerts(found) == []


def test_q_is_benjamini_and_hochbergs_over_every_test_of_every_camera() -> None:
    rows = camera_rows("1", LONG) + camera_rows("2", 15, fallen=3) + camera_rows("3", 20, fallen=6)
    tests = measure_drift(table(rows), CLASSES, {})["tests"]
    p = [test["p"] for test in tests]
    rank = np.argsort(np.argsort(p, kind="stable"), kind="stable") + 1
    by_hand = [min(len(p) * p[j] / rank[j] for j in range(len(p)) if p[j] >= p[i]) for i in range(len(p))]
    assert [test["q"] for test in tests] == pytest.approx(by_hand)
    measures = ["share_with_mask", "share_without_mask", "share_no_face", *MEASURES]
    assert [(test["camera"], test["measure"]) for test in tests] == [(c, m) for c in "123" for m in measures]


@settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_order_of_cells_does_not_matter(random: Any) -> None:
    rows = camera_rows("1", 12, fallen=4) + camera_rows("2", 9) + camera_rows(None, 10)
    reference = {"confidence": [1] * NUM_BINS}
    expected = measure_drift(table(rows), CLASSES, reference)
    random.shuffle(rows)
    assert measure_drift(table(rows), CLASSES, reference) == expected


def test_cells_of_one_night_add_up_whatever_else_tells_them_apart() -> None:
    rows = camera_rows("1", 12)
    apart = [
        half | {"hour": hour, "kept": kept}
        for row in rows
        for hour, kept, review in ((8, "a", True), (9, "b", False))
        for half in [cell("1", 0, row["label"], row["count"]) | row | {"needs_review": review}]
    ]
    doubled = [
        row | {key: 2 * row[key] for key in ("count", *[f"{m}_sum" for m in MEASURES])} for row in rows
    ]
    assert measure_drift(table(apart), CLASSES, {}) == measure_drift(table(doubled), CLASSES, {})


def test_under_ten_nights_a_camera_is_named_as_short_and_from_ten_on_it_is_tested() -> None:
    found = measure_drift(table(camera_rows("new", 9) + camera_rows("old", 10)), CLASSES, {})
    assert found["short"] == [{"site": "north", "camera": "new", "nights": LEAST_NIGHTS - 1}]
    assert {(t["camera"], t["nights"], t["history"]) for t in found["tests"]} == {("old", 3, 7)}
    long = measure_drift(table(camera_rows("1", 60)), CLASSES, {})["tests"]
    assert {(t["nights"], t["history"]) for t in long} == {(RECENT_NIGHTS, HISTORY_NIGHTS)}


def test_failed_images_and_unknown_days_are_left_out() -> None:
    rows = camera_rows("1", 12)
    out = [
        cell("1", 40, None, 5, site="north", status="corrupt"),
        cell("1", 0, "no_face", 5, site="north") | {"date": "unknown"},
    ]
    assert measure_drift(table(rows + out), CLASSES, {}) == measure_drift(table(rows), CLASSES, {})


def test_without_a_scored_image_there_is_nothing_to_say() -> None:
    found = measure_drift(SCHEMA.empty_table(), CLASSES, {"confidence": [1] * NUM_BINS})
    assert (found["tests"], found["short"], found["psi"], find_drift_alerts(found)) == ([], [], [], [])


counts = st.lists(st.integers(0, 10**6), min_size=NUM_BINS, max_size=NUM_BINS).filter(any)


@given(counts, counts)
def test_psi_is_zero_of_histograms_alike_and_the_same_either_way_round(
    one: list[int], other: list[int]
) -> None:
    assert stability_index(one, [7 * count for count in one]) == pytest.approx(0, abs=1e-12)
    assert stability_index(one, other) == pytest.approx(stability_index(other, one))
    assert stability_index(one, other) >= 0


def test_psi_is_the_sum_over_bins_that_its_definition_says() -> None:
    expected = (0.75 - 0.25) * np.log(3) * 2
    assert stability_index([1_500_000, 500_000], [500_000, 1_500_000]) == pytest.approx(expected, rel=1e-5)


def test_psi_is_of_the_last_nights_only_and_of_measures_that_the_checkpoint_knows() -> None:
    early = [cell("1", night, "with_mask", 100, brightness=0.9) for night in range(5)]
    late = [cell("1", night, "with_mask", 100, brightness=0.1) for night in range(5, 5 + RECENT_NIGHTS)]
    reference = {"brightness": table(late)[HISTOGRAMS[1]].to_pylist()[0], "sharpness": [0] * NUM_BINS}
    (late_only,) = measure_drift(table(early + late), CLASSES, reference)["psi"]
    (early_only,) = measure_drift(table(early), CLASSES, reference)["psi"]
    assert (late_only["camera"], late_only["measure"]) == ("1", "brightness")
    assert late_only["psi"] == pytest.approx(0, abs=1e-12)
    assert early_only["psi"] > 1
