"""What raises an alarm: a rate surely below its bound, a camera that drifts, a night worse than others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from maskbatch.cells import group_name
from maskbatch.config import ReportConfig
from maskbatch.drift import ALERT_Q, LEAST_CHANGE, drift_alerts

if TYPE_CHECKING:
    from maskbatch.compare import Comparison

NOWHERE = {"site": None, "camera": None}


def alerts(
    tables: Mapping[str, pa.Table],
    keys: Mapping[str, tuple[str, ...]],
    drift: Mapping[str, Any],
    config: ReportConfig,
) -> list[dict[str, Any]]:
    """Alerts over the tables of rates, grouped by `keys`, and over the drift of a report."""
    found = drift_alerts(drift)
    if config.alert_below is None:
        return found
    if not tables["overall"]["assessed"][0].as_py():
        bound = _percent(config.alert_below)
        what = f"nothing was assessed, so nothing shows that compliance is not below {bound}"
        return [{"kind": "compliance", **NOWHERE, "measure": "compliance", "sentence": what}, *found]
    name = f"by_{config.alert_by}" if config.alert_by else "overall"
    rate = "corrected" if config.alert_corrected else "compliance"
    below = tables[name].filter(pc.less(tables[name][f"{rate}_high"], config.alert_below))
    return [_alert(row, keys[name], rate, config.alert_below) for row in below.to_pylist()] + found


def fall_alerts(made: "Comparison") -> list[dict[str, Any]]:
    """Where compliance of the second side is surely below the first's: over all by p, of a camera by q."""
    overall = {**NOWHERE, **made.overall, "q": made.overall["p"]}
    rows = [((), overall), *((("site", "camera"), row) for row in made.by_camera)]
    return [_fall(row, keys) for keys, row in rows if _fell(row)]


def _fell(row: Mapping[str, Any]) -> bool:
    q = row.get("q")
    return q is not None and bool(q <= ALERT_Q and row["difference"] <= -LEAST_CHANGE["share"])


def _fall(row: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    rate, before, q = row["compliance_second"], row["compliance_first"], row["q"]
    return {
        "kind": "fall",
        **{key: row[key] for key in NOWHERE},
        "measure": "compliance",
        "rate": rate,
        "before": before,
        "p": row["p"],
        "q": q,
        "assessed": row["assessed_second"],
        "sentence": f"{group_name(row, keys)}: compliance fell from {_percent(before)} to {_percent(rate)}, "
        f"{'q' if keys else 'p'} {'< 0.001' if q < 0.001 else f'= {q:.3f}'}",
    }


def _alert(row: Mapping[str, Any], keys: tuple[str, ...], rate: str, bound: float) -> dict[str, Any]:
    """An alert about a rate whose whole interval is below the bound."""
    measure = "corrected compliance" if rate == "corrected" else "compliance"
    low, high = row[f"{rate}_low"], row[f"{rate}_high"]
    few = "; few clusters, so the interval is likely too narrow" if row["few_clusters"] else ""
    return {
        "kind": "compliance",
        **NOWHERE,
        **{key: row[key] for key in keys},
        "measure": measure,
        "rate": row[rate],
        "low": low,
        "high": high,
        "below": bound,
        "assessed": row["assessed"],
        "sentence": f"{group_name(row, keys)}: {measure} {_percent(row[rate])} ({100 * low:.1f} to "
        f"{_percent(high)}) is below {_percent(bound)}, the upper end of its interval too{few}",
    }


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
