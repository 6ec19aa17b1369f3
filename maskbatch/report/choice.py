"""Which rows of a long table a page and a terminal show: those that a reader should see first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Worth = Callable[[Row], float | None]
"""The lower, the sooner a row is shown; None last."""


def choose_rows(rows: Sequence[Any], limit: int, worth: Worth | None = None) -> list[tuple[int, Any]]:
    """(place, row) of at most `limit` rows: all as they are, or those of least `worth`, that first."""
    places = range(len(rows))
    if len(rows) > limit and worth is not None:
        values = [worth(row) for row in rows]
        places = sorted(places, key=lambda k: (values[k] is None, values[k] or 0.0, k))  # type: ignore[assignment]
    return [(place, rows[place]) for place in places[:limit]]


def rate_of(row: Row) -> float | None:
    """The lowest compliance first."""
    rate: float | None = row["compliance"]
    return rate


def coverage_of(row: Row) -> float | None:
    """The most missing snapshots first."""
    share: float | None = row["coverage"]
    return share


def doubt_of(conditions: Sequence[str]) -> Worth:
    """The largest share of doubtful images first."""
    return lambda row: -sum(row[name] for name in conditions) / row["scored"] if row["scored"] else None
