from typing import Any

import pyarrow as pa
import pytest

from maskbatch.alerts import alerts
from maskbatch.config import ReportConfig
from maskbatch.errors import UsageError

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
    found = alerts(tables(VALUES), KEYS, NO_DRIFT, ReportConfig(**config))
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
    (alert,) = alerts(values, KEYS, NO_DRIFT, ReportConfig(alert_below=0.98, alert_corrected=True))
    assert alert["sentence"].startswith(
        "overall: corrected compliance 95.0 % (93.0 to 97.0 %) is below 98.0 %"
    )


def test_nothing_assessed_is_no_proof_that_all_is_well() -> None:
    values = tables(VALUES | {"overall": [row(None)]})
    (alert,) = alerts(values, KEYS, NO_DRIFT, ReportConfig(alert_below=0.9))
    assert alert["sentence"].startswith("nothing was assessed")


def test_an_alert_says_its_figures_beside_its_sentence() -> None:
    found = alerts(tables(VALUES), KEYS, NO_DRIFT, ReportConfig(alert_below=0.9, alert_by="day"))
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
