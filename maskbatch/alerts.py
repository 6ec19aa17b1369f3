"""What a report raises an alarm about: a rate surely below its bound, a camera that drifts."""

from collections.abc import Mapping
from typing import Any

from maskbatch.config import ReportConfig
from maskbatch.drift import drift_alerts
from maskbatch.errors import UsageError


def alerts(
    values: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]], config: ReportConfig
) -> list[dict[str, Any]]:
    """Alerts over the values of a report; `keys` are the columns that its tables are grouped by."""
    found = drift_alerts(values["drift"])
    if config.alert_below is None:
        return found
    name = f"by_{config.alert_by}" if config.alert_by else "overall"
    if name not in keys:
        names = ", ".join(known.removeprefix("by_") for known in keys if known != "overall")
        raise UsageError(f"--by {config.alert_by}: one of {names} expected")
    rate = "corrected" if config.alert_corrected else "compliance"
    below = (row for row in values[name] if row[f"{rate}_high"] is not None)
    below = (row for row in below if row[f"{rate}_high"] < config.alert_below)
    return [_alert(row, keys[name], rate, config.alert_below) for row in below] + found


def _alert(row: Mapping[str, Any], keys: tuple[str, ...], rate: str, bound: float) -> dict[str, Any]:
    """An alert about a rate whose whole interval is below the bound."""
    where = "/".join("unknown" if row[key] is None else str(row[key]) for key in keys) or "overall"
    measure = "corrected compliance" if rate == "corrected" else "compliance"
    low, high = row[f"{rate}_low"], row[f"{rate}_high"]
    few = "; under ten camera-days, so the interval is too narrow" if row["few_clusters"] else ""
    return {
        "kind": "compliance",
        "site": row.get("site"),
        "camera": row.get("camera"),
        "measure": measure,
        "sentence": f"{where}: {measure} {_percent(row[rate])} ({100 * low:.1f} to {_percent(high)}) "
        f"is below {_percent(bound)}, the upper end of its interval too{few}",
    }


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
