from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from maskbatch.config import ReportConfig
from maskbatch.errors import UsageError
from maskbatch.report.alerts import find_alerts, find_camera_falls, find_fall
from maskbatch.report.compare import Comparison

KEYS = {"overall": (), "by_camera": ("site", "camera"), "by_day": ("date",)}


def row(rate: float | None, half: float = 0.02, few: bool = False, **keys: Any) -> dict[str, Any]:
    low, high = (None, None) if rate is None else (rate - half, rate + half)
    return {
        **keys, "assessed": 0 if rate is None else 100, "compliance": rate, "compliance_low": low, "compliance_high": high, "few_clusters": few,
        "corrected": rate and rate + 0.05, "corrected_low": low and low + 0.05, "corrected_high": high and high + 0.05,
    }  # fmt: skip


VALUES = {
    "overall": [row(0.93)],
    "by_camera": [
        row(0.99, site="north", camera="1"),
        row(0.90, site="north", camera="2"),
        row(0.94, site=None, camera="3"),
        row(None, site="north", camera="4"),
    ],
    "by_day": [row(0.5, few=True, date="2026-10-03")],
}
NO_DRIFT = {"tests": []}


def tables(values: dict[str, list[dict[str, Any]]]) -> dict[str, pa.Table]:
    return {name: pa.Table.from_pylist(rows) for name, rows in values.items()}


def fired(**config: Any) -> list[str]:
    found = find_alerts(tables(VALUES), KEYS, NO_DRIFT, ReportConfig(**config))
    return [alert["sentence"] for alert in found]


def test_nothing_fires_unasked() -> None:
    assert fired() == []


def test_an_alert_needs_the_whole_interval_below_the_bound() -> None:
    assert fired(alert_below=0.94) == []
    (sentence,) = fired(alert_below=0.96)
    assert sentence == (
        "overall: compliance 93.0 % (91.0 to 95.0 %) is below 96.0 %, the upper end of its interval too"
    )


def test_each_camera_may_be_held_to_it_by_its_name() -> None:
    assert [text.split(":")[0] for text in fired(alert_below=0.95, alert_by="camera")] == ["north/2"]
    both = [text.split(":")[0] for text in fired(alert_below=0.97, alert_by="camera")]
    assert both == ["north/2", "unknown/3"]


def test_the_corrected_rate_may_be_held_to_it() -> None:
    assert fired(alert_below=0.99, alert_corrected=True) == []
    values = tables(VALUES | {"overall": [row(0.90)]})
    (alert,) = find_alerts(values, KEYS, NO_DRIFT, ReportConfig(alert_below=0.98, alert_corrected=True))
    assert alert["sentence"].startswith(
        "overall: corrected compliance 95.0 % (93.0 to 97.0 %) is below 98.0 %"
    )


def test_nothing_assessed_is_no_proof_that_all_is_well() -> None:
    values = tables(VALUES | {"overall": [row(None)]})
    (alert,) = find_alerts(values, KEYS, NO_DRIFT, ReportConfig(alert_below=0.9))
    assert alert["sentence"].startswith("nothing was assessed")


def test_an_alert_says_its_figures_beside_its_sentence() -> None:
    found = find_alerts(tables(VALUES), KEYS, NO_DRIFT, ReportConfig(alert_below=0.9, alert_by="day"))
    expected = {"date": "2026-10-03", "rate": 0.5, "low": 0.48, "high": 0.52, "below": 0.9, "assessed": 100}
    assert expected.items() <= found[0].items()


def test_an_alert_on_few_clusters_says_so() -> None:
    assert fired(alert_below=0.9, alert_by="day")[0].endswith("too narrow")


def test_what_cannot_be_asked_is_one_sentence() -> None:
    for config in (
        {"alert_below": 95.0},
        {"alert_by": "camera"},
        {"alert_corrected": True},
        {"exclude": ("fog",)},
    ):
        with pytest.raises(UsageError):
            ReportConfig(**config)


def nights(rates_DC: np.ndarray, seed: int) -> pa.Table:
    """by_camera_day of a fleet, drawn at these rates."""
    rng = np.random.default_rng(seed)
    assessed = rng.integers(20, 120, rates_DC.shape)
    days = [f"2026-{10 + k // 28}-{k % 28 + 1:02d}" for k in range(len(rates_DC))]
    rows = [
        {"site": "north", "camera": f"gate-{c}", "date": days[d], "assessed": n, "compliant": x}
        for (d, c), x, n in zip(
            np.ndindex(rates_DC.shape), rng.binomial(assessed, rates_DC).flat, assessed.flat, strict=True
        )
    ]
    return pa.Table.from_pylist(rows)


def drawn_rates(rate: float, icc: float, num_cameras: int, seed: int) -> np.ndarray:
    scale = (1 - icc) / icc
    return np.random.default_rng(seed).beta(rate * scale, (1 - rate) * scale, (29, num_cameras))


@pytest.mark.parametrize(("rate", "icc", "num_cameras"), [(0.98, 0.1, 50), (0.95, 0.3, 10), (0.8, 0.02, 4)])
def test_nights_that_are_alike_seldom_alert_however_rates_scatter(
    rate: float, icc: float, num_cameras: int
) -> None:
    last, false = "2026-11-01", 0
    for seed in range(200):
        false += bool(find_camera_falls(nights(drawn_rates(rate, icc, num_cameras, seed), seed), last))
    assert false / 200 <= 0.08  # 1 in 29 expected


def test_a_camera_that_falls_by_thirty_points_in_one_night_is_found() -> None:
    found = 0
    for seed in range(50):
        rates = drawn_rates(0.95, 0.02, 10, seed)
        rates[-1, 3] = max(rates[-1, 3] - 0.3, 0)
        alerts = find_camera_falls(nights(rates, seed), "2026-11-01")
        found += [alert["camera"] for alert in alerts] == ["gate-3"]
    assert found >= 40


def test_what_a_fall_says_and_when_none_is_judged() -> None:
    rates = np.full((29, 2), 0.9)
    rates[-1, 1] = 0.2
    rows = nights(rates, seed=1)
    (alert,) = find_camera_falls(rows, "2026-11-01")
    assert (alert["kind"], alert["site"], alert["camera"]) == ("fall", "north", "gate-1")
    assert alert["rate"] < 0.5 < alert["before"]
    assert alert["sentence"].startswith("north/gate-1: compliance fell from ")
    assert alert["sentence"].endswith("further than any camera's on the 28 days before")
    assert find_camera_falls(rows, "2026-10-28") == []
    few = rows.filter(pc.greater_equal(rows["date"], "2026-10-12"))
    assert find_camera_falls(few, "2026-11-01") == []


@pytest.mark.parametrize(
    ("site", "camera", "name"),
    [("north", "1", "north/1"), (None, "1", "unknown/1"), (None, None, "unknown/unknown")],
)
def test_a_single_camera_whatever_its_name_is_judged_against_its_own_days(
    site: str | None, camera: str | None, name: str
) -> None:
    rates = np.full((29, 1), 0.9)
    rates[-1] = 0.2
    rows = nights(rates, seed=1)
    for column, value in (("site", site), ("camera", camera)):
        rows = rows.set_column(rows.column_names.index(column), column, [pa.array([value] * 29, pa.string())])
    (alert,) = find_camera_falls(rows, "2026-11-01")
    assert (alert["site"], alert["camera"]) == (site, camera)
    assert alert["sentence"].startswith(f"{name}: compliance fell from ")


def test_a_camera_without_a_name_is_kept_apart_from_others() -> None:
    rates = np.full((29, 3), 0.9)
    rates[-1, 2] = 0.2
    rows = nights(rates, seed=1).to_pylist()
    names = {"gate-0": ("north", None), "gate-1": (None, "2"), "gate-2": (None, None)}
    rows = [row | dict(zip(("site", "camera"), names[row["camera"]], strict=True)) for row in rows]
    (alert,) = find_camera_falls(pa.Table.from_pylist(rows), "2026-11-01")
    assert (alert["site"], alert["camera"]) == (None, None)


def test_a_fall_over_all_alerts_where_it_is_sure_and_matters() -> None:
    overall = {"p": 0.01, "difference": -0.05, "compliance_first": 0.95, "compliance_second": 0.9}
    for changes, number in (({}, 1), ({"p": 0.06}, 0), ({"p": None}, 0), ({"difference": -0.009}, 0)):
        made = Comparison(
            kind="periods", view="face", runs=[], shared=0, only_first=1, only_second=1, changed=0, crossed=[],
            overall={**overall, "assessed_second": 100, **changes}, by_camera=[],
        )  # fmt: skip
        assert len(find_fall(made)) == number
    assert find_fall(replace(made, overall={**overall, "assessed_second": 100}))[0]["sentence"] == (
        "overall: compliance fell from 95.0 % to 90.0 %, p = 0.010"
    )
