import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from maskbatch import schema
from maskbatch.config import ReportConfig
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.report import page, plots
from maskbatch.report.drift import LEAST_CHANGE
from maskbatch.report.figures import MAPPED_CAMERAS, UNLIKE_PSI
from maskbatch.report.intervals import DesignEffects, wilson
from maskbatch.report.make import make_report
from maskbatch.schema import CONDITIONS
from tests.conftest import headless_chromium
from tests.maskbatch.report.scenes import draw_month, measured_detector
from tests.maskbatch.samples import Run, commit_scenes

FOUR = ("with_mask", "without_mask", "incorrect_mask", "no_face")
TWO = ("with_mask", "without_mask")
CAMERAS = (
    ("north", "gate_1"),
    ("north", "gate_2"),
    ("south", "dock"),
    ("south", "lobby"),
    ("south", "ramp_3"),
)
FIRST = date(2026, 10, 1)


def sample(
    cameras: Sequence[tuple[str | None, str | None]] = CAMERAS,
    classes: Sequence[str] = FOUR,
    num_days: int = 30,
    keep_column: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The values of a report: cameras that see someone every few minutes, and what went wrong."""
    rng = np.random.default_rng(5)
    not_assessed = [name for name in classes if name == "no_face"]
    shares = {2: (0.94, 0.06), 4: (0.56, 0.03, 0.012, 0.398)}[len(classes)]
    days = [FIRST + timedelta(n) for n in range(num_days)]
    units = []  # one a camera, day and hour
    for (place, (site, camera)), day, hour in product(enumerate(cameras), days, range(6, 20)):
        if place == 1 and day.day in (11, 12):
            continue  # a gap of two days
        worse = np.array(shares) + 0.06 * (place == 2 and day.day > 23) * np.eye(len(classes))[1]
        counts = rng.multinomial(12, rng.dirichlet(60 * worse))
        failed = int(rng.random() < 0.02)
        keys = {"site": site, "camera": camera, "date": str(day), "hour": hour, "weekday": day.isoweekday()}
        keys |= {"lane": ("left", "right")[hour % 2]}
        excluded = 4 if place == 3 and day.day == 18 else 0
        units.append((keys, counts, failed, excluded))

    def row(chosen: Sequence[Any], keys: dict[str, Any]) -> dict[str, Any]:
        counts = sum((unit[1] for unit in chosen), np.zeros(len(classes), int))
        failed, excluded = sum(unit[2] for unit in chosen), sum(unit[3] for unit in chosen)
        scored = int(counts.sum())
        assessed = scored - sum(int(counts[classes.index(name)]) for name in not_assessed)
        clusters = len({(unit[0]["site"], unit[0]["camera"], unit[0]["date"]) for unit in chosen})
        effect = DesignEffects(np.array([3.4]), np.array([max(clusters - 1.0, 1)]), np.array([clusters]))
        rates: dict[str, float | None] = dict.fromkeys(
            f"{name}{part}" for name in ("compliance", "corrected") for part in ("", "_low", "_high")
        )
        if assessed:
            low, high = wilson(np.array([float(counts[0])]), np.array([float(assessed)]), effect)
            rate = counts[0] / assessed
            rates |= {"compliance": rate, "compliance_low": low[0], "compliance_high": high[0]}
            better = [min(value + 0.012, 1.0) for value in (rate, low[0] - 0.01, high[0] + 0.005)]
            rates |= dict(
                zip(("corrected", "corrected_low", "corrected_high"), map(float, better), strict=True)
            )
        return {
            **keys,
            "listed": scored + failed + excluded,
            "scored": scored + excluded,
            "failed": failed,
            **{f"failed_{name}": 0 for name in schema.STATUSES if name != "ok"},
            "failed_corrupt": failed - failed // 3,
            "failed_truncated": failed // 3,
            "excluded": excluded,
            "assessed": assessed,
            **{f"num_{name}": int(count) for name, count in zip(classes, counts, strict=True)},
            **{
                f"share_{name}": count / scored if scored else None
                for name, count in zip(classes, counts, strict=True)
            },
            "compliant": int(counts[0]),
            **{name: None if value is None else float(value) for name, value in rates.items()},
            "design_effect": 3.4 if assessed else None,
            "degrees_of_freedom": max(clusters - 1.0, 1) if assessed else None,
            "num_clusters": clusters,
            "few_clusters": clusters < 10,
            "mean_confidence": 0.953 if scored else None,
            "num_review": scored // 90,
            "share_review": (scored // 90) / scored if scored else None,
        }

    def table(*keys: str) -> list[dict[str, Any]]:
        groups: dict[tuple[Any, ...], list[Any]] = {}
        for unit in units:
            groups.setdefault(tuple(unit[0][key] for key in keys), []).append(unit)
        return [row(groups[group], dict(zip(keys, group, strict=True))) for group in groups]

    overall = row(units, {})
    by_camera, by_camera_day = table("site", "camera"), table("site", "camera", "date")
    mapped = cameras[:MAPPED_CAMERAS]
    tests = [
        {
            "site": site, "camera": camera, "measure": measure, "nights": num_days, "history": num_days - 7, "recent": 0.412,
            "before": 0.4321, "p": 0.2, "q": 0.61, "alert": False,
        }
        | ({"recent": 0.087, "before": 0.0311, "p": 2.1e-5, "q": 0.0006, "alert": True} if (camera, measure) == ("dock", "share_without_mask") else {})
        | ({"recent": 271.4, "before": 310.2, "q": 0.44} if measure == "sharpness" else {})
        for site, camera in cameras[:-1]
        for measure in (*(f"share_{name}" for name in classes), "confidence", "brightness", "sharpness")
    ]  # fmt: skip
    tests.sort(key=lambda test: (not test["alert"], test["p"]))
    num = len(classes)
    settings.setdefault("corrections", None)
    return {
        "made_at": "2026-11-02T04:12:09+00:00",
        "maskbatch": "0.1.0",
        "view": "face",
        "classes": list(classes),
        "compliant": ["with_mask"],
        "not_assessed": not_assessed,
        "keep_column": keep_column,
        "runs": [
            {
                "path": "/runs/2026-10", "archives": ["/archive/2026-10"], "timezone": ["Europe/Paris"], "since": "2026-10-01",
                "until": None, "cameras": ["north/*", "south/*"], "limit": 100_000,
                "checkpoint": "dd20bdf5c6cc4f64ee12502a9732537d3fe2a4e8a7ddac3d12a7aeded3b915c1",
                "architecture": "mobilenet_v2", "created_at": "2026-11-02T03:40:02+00:00",
                "versions": {"maskbatch": "0.1.0", "ray": "2.60.0", "torch": "2.15.0"}, "planned": overall["listed"],
                "statuses": {"corrupt": overall["failed_corrupt"], "ok": overall["scored"]},
                "listing": {
                    "skipped": {".txt": 3}, "hidden": {"@eaDir": 40, ".snapshot (a folder, not entered)": 1},
                    "filtered": {}, "notes": {}, "links": {"followed": 2}, "unreadable": 2,
                    "examples": {"unreadable": ["/archive/<closed>/", "/archive/b/"]},
                }, "num_files": 34,
                "success_sha256": "159756cf1e3c55a8f30385808aabda678405d8d6af9556b2e59d22726f42526e",
            }
        ],
        "period": {"first": "2026-10-01T06:00:11", "last": f"{days[-1]}T19:55:08", "days": num_days, "unknown_time": 12},
        "settings": {
            "exclude": [], "expect": None, "alert_below": 0.95, "alert_by": "camera",
            "alert_corrected": False, **settings,
        },
        "overall": [overall],
        "everything": [overall | {"compliance": 0.9377, "compliance_low": 0.9301, "compliance_high": 0.9446}],
        "by_site": table("site"),
        "by_camera": by_camera,
        "by_day": table("date"),
        "by_hour": table("hour"),
        "by_weekday": sorted(table("weekday"), key=lambda one: one["weekday"]),
        "by_camera_day": [one for one in by_camera_day if (one["site"], one["camera"]) in mapped],
        **({f"by_{keep_column}": table(keep_column)} if keep_column else {}),
        "corrected": {
            "identifiable": True, "reason": None, "unlike_cameras": len(cameras) // 5,
            "confusion": (np.full((num, num), 3) + 180 * np.eye(num, dtype=int)).tolist(),
            "shares": [
                {
                    "class": name, "count": overall[f"num_{name}"], "share": overall[f"share_{name}"],
                    "corrected": overall[f"share_{name}"] * 0.97, "corrected_low": overall[f"share_{name}"] * 0.9,
                    "corrected_high": min(overall[f"share_{name}"] * 1.05, 1),
                }
                for name in classes
            ],
        },
        "judged": None,
        "coverage": {
            "coverage": 0.9834, "stray_images": 2,
            "by_camera": [
                {
                    "site": site, "camera": camera, "cadence_s": 300.0, "source": "inferred", "hours": list(range(6, 20)),
                    "expected": 168 * num_days, "snapshots": one["listed"], "coverage": one["listed"] / (168 * num_days),
                    "num_gaps": 2 * (place == 1), "longest_gap_s": 208_800.0 if place == 1 else None,
                }
                for place, ((site, camera), one) in enumerate(zip(cameras, by_camera, strict=True))
            ],
            "by_camera_day": [
                {
                    "site": site, "camera": camera, "date": str(day), "expected": 168,
                    "snapshots": 0 if place == 1 and day.day in (11, 12) else 168 - int(rng.random() < 0.05) * int(rng.integers(9, 150)),
                }
                for (place, (site, camera)), day in product(enumerate(mapped), days)
            ],
            "num_gaps": 2,
            "gaps": [
                {"site": "north", "camera": "gate_2", "from": "2026-10-10T19:55:02", "to": "2026-10-13T06:00:04", "seconds": 208_802.0, "missing": 336},
                {"site": "north", "camera": "gate_2", "from": "2026-10-20T09:10:00", "to": "2026-10-20T14:25:00", "seconds": 18_900.0, "missing": 62},
            ],
        },
        "quality": {
            "conditions": list(CONDITIONS), "totals": dict.fromkeys(CONDITIONS, 0) | {"frozen": 56, "duplicate": 10},
            "by_camera": [
                {"site": site, "camera": camera, "scored": 4800, **dict.fromkeys(CONDITIONS, 0), "duplicate": place, "frozen": 56 * (place == 3)}
                for place, (site, camera) in enumerate(cameras)
            ],
            "num_stretches": 1,
            "stretches": [
                {"site": "south", "camera": "lobby", "condition": "frozen", "from": "2026-10-18T09:10:03", "to": "2026-10-18T13:45:02", "snapshots": 56}
            ],
        },
        "drift": {
            "recent_nights": 7, "history_nights": 28, "least_nights": 10,
            "alert_q": 0.05, "num_tests": len(tests), "tests": tests[:100],
            "short": [{"site": cameras[-1][0], "camera": cameras[-1][1], "nights": 6}],
            "psi": [
                {"site": site, "camera": camera, "measure": measure, "psi": 0.0412 + 0.11 * (measure == "brightness")}
                for (site, camera), measure in product(cameras, ("confidence", "brightness", "sharpness"))
            ],
        },
        "review": {
            "num_review": overall["num_review"],
            "threshold": 0.7,
            "candidates": [
                {
                    "rank": rank, "run": "/runs/2026-10", "id": 7 * rank, "uri": f"south/dock/2026/10/{rank:02}/081500.jpg", "site": "south",
                    "camera": "dock", "captured_local": f"2026-10-{rank:02}T08:15:00", "label": "incorrect_mask" if num > 2 else "with_mask", "confidence": 0.412 + rank / 100,
                }
                for rank in range(1, 9)
            ],
        },
        "alerts": [
            {
                "kind": "compliance", "site": "south", "camera": "dock", "measure": "compliance",
                "sentence": "south / dock: compliance 92.9 % (91.9 to 93.8 %) lies below 95.0 %.",
            },
            {
                "kind": "drift", "site": "south", "camera": "dock", "measure": "share_without_mask",
                "sentence": "south / dock: the share without mask rose from 3.1 % to 8.7 % over the last 7 nights (q < 0.001).",
            },
        ],
    }  # fmt: skip


def of_stratum(name: str, num_judged: int, classes: Sequence[str]) -> dict[str, Any]:
    labels = [
        {"class": label, "num_images": 900, "num_judged": num_judged // 2, "num_wrong": 3.5}
        for label in classes
    ]
    labels[-1] |= {"num_images": 0, "num_judged": 0, "num_wrong": 0}
    return {
        "stratum": name, "num_images": 9000, "num_queued": 500, "num_judged": num_judged, "num_skipped": 6,
        "num_needed": 30, "labels": labels,
    }  # fmt: skip


def people(values: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """The same report where people judged some images; `reason`: why no rate follows."""
    classes = values["classes"]
    rate = {"value": 0.9312, "low": 0.9178, "high": 0.9421}
    disputed = values["review"]["candidates"][0]
    place = {name: disputed[name] for name in ("uri", "site", "camera", "captured_local")}
    said = [{"by": "Ann", "label": "with_mask"}, {"by": "Bob", "label": "without_mask"}]
    confusion: list[list[float]] = [[int(200 * (row == column)) + 2 for column in classes] for row in classes]
    confusion[0][1] += 0.5
    return values | {
        "judged": {
            "reason": reason, "num_judged": 524, "num_skipped": 12, "num_unknown": 1, "num_waiting": 5, "num_elsewhere": 1, "num_reviewers": 2,
            "strata": [of_stratum("random", 18 if reason else 214, classes), of_stratum("uncertain", 310, classes)],
            "waiting_for": [{"stratum": "random", "num_waiting": 5} | place],
            "reviewers": [{"by": "Ann", "num_judged": 401}, {"by": "Bob", "num_judged": 125}],
            "error_rate": None if reason else {"value": 0.0213, "low": 0.0142, "high": 0.0307},
            "compliance": None if reason else rate,
            "shares": [] if reason else [
                {"class": row["class"], "value": row["share"], "low": 0.93 * row["share"], "high": 1.04 * row["share"]}
                for row in values["corrected"]["shares"]
            ],
            "moved": None if reason else -0.0087, "confusion": confusion, "num_disputes": 1,
            "disputes": [place | {"labels": said}],
        }
    }  # fmt: skip


def nothing(listed: int = 0) -> dict[str, Any]:
    """A report over `listed` images, none of which could be read, without times, sites or cameras."""
    values = sample(num_days=1)
    rows = {
        key: None if isinstance(value, float) else 0 if isinstance(value, int) else value
        for key, value in values["overall"][0].items()
    }
    rows |= {"listed": listed, "failed_corrupt": listed, "few_clusters": True, "design_effect": None}
    keys = {
        "overall": {}, "everything": {}, "by_site": {"site": None}, "by_camera": {"site": None, "camera": None}, "by_day": {"date": "unknown"},
        "by_hour": {"hour": None}, "by_weekday": {"weekday": None}, "by_camera_day": {"site": None, "camera": None, "date": "unknown"},
    }  # fmt: skip
    values |= {
        name: [row | rows] if listed or name in ("overall", "everything") else []
        for name, row in keys.items()
    }
    values["period"] = {"first": None, "last": None, "days": 0, "unknown_time": listed}
    values["corrected"] |= {
        "identifiable": False,
        "reason": "the held-out set has only 2 pictures of no_face",
        "shares": [
            {
                "class": name,
                "count": 0,
                **dict.fromkeys(("share", "corrected", "corrected_low", "corrected_high")),
            }
            for name in FOUR
        ],
    }
    values["coverage"] |= {
        "coverage": None,
        "stray_images": 0,
        "by_camera": [],
        "by_camera_day": [],
        "num_gaps": 0,
        "gaps": [],
    }
    values["corrected"]["unlike_cameras"] = 0
    values["quality"] |= {
        "totals": dict.fromkeys(CONDITIONS, 0),
        "by_camera": [],
        "num_stretches": 0,
        "stretches": [],
    }
    values["drift"] |= {"num_tests": 0, "tests": [], "short": [], "psi": []}
    values["review"] = {"num_review": 0, "threshold": None, "candidates": []}
    values["corrected"]["confusion"] = None
    return values | {"alerts": [], "runs": []}


def one_image() -> dict[str, Any]:
    values = nothing(1)
    one = {
        "failed_corrupt": 0,
        "scored": 1,
        "assessed": 1,
        "num_with_mask": 1,
        "share_with_mask": 1.0,
        "compliant": 1,
    }
    one |= {
        "compliance": 1.0,
        "compliance_low": 0.0541,
        "compliance_high": 1.0,
        "design_effect": 1.0,
        "num_clusters": 1,
    }
    for name in [key for key in values if key.startswith("by_") or key in ("overall", "everything")]:
        values[name] = [row | one for row in values[name]]
    for name, key, value in (
        ("by_day", "date", "2026-10-01"),
        ("by_hour", "hour", 0),
        ("by_weekday", "weekday", 4),
    ):
        values[name][0][key] = value
    values["by_camera_day"][0]["date"] = "2026-10-01"
    values["period"] = {
        "first": "2026-10-01T00:00:11",
        "last": "2026-10-01T00:00:11",
        "days": 1,
        "unknown_time": 0,
    }
    values["coverage"]["by_camera"] = [
        {
            "site": None,
            "camera": None,
            "cadence_s": None,
            "source": None,
            "hours": [],
            "expected": None,
            "snapshots": 1,
        }
        | {"coverage": None, "num_gaps": 0, "longest_gap_s": None}
    ]
    values["coverage"]["by_camera_day"] = [
        {"site": None, "camera": None, "date": "2026-10-01", "snapshots": 1, "expected": None}
    ]
    return values


def scenes() -> dict[str, Any]:
    """Twelve days of three lobbies, a poster in one, without those of its faces that do not move."""
    with TemporaryDirectory() as folder:
        run = commit_scenes(Path(folder) / "run", draw_month(), open_checkpoint().card, measured_detector())
        config = ReportConfig(exclude=("static_face",), alert_below=0.8)
        values = make_report([run], Path(folder) / "report", config).values
    return json.loads(json.dumps(values).replace(folder, ""))  # type: ignore[no-any-return]


FLEET = [("plant", f"gate_{number:03}") for number in range(70)]
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "a month": lambda: people(
        sample(keep_column="lane", exclude=["frozen", "dark"], expect="1/5min", alert_corrected=True)
    ),
    "two classes": lambda: people(
        sample(classes=TWO, num_days=3, alert_below=None, alert_by=None),
        "18 of 30 random judged, in the order of the queue",
    ),
    "a fleet": lambda: sample(cameras=FLEET, num_days=2, alert_below=1.0),
    "no image": nothing,
    "all failed": lambda: nothing(40),
    "one image": one_image,
    "scenes": scenes,
}
VALUES = {name: make() for name, make in CASES.items()}
PICTURE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////"
    "////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AN//Z"
)


@cache
def rendered(name: str) -> str:
    return page.render(VALUES[name], {1: PICTURE, 3: PICTURE} if name == "a month" else None)


class Parsed(HTMLParser):
    """The page's elements and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@given(st.floats(1e-6, 1 - 1e-6))
def test_a_rate_says_its_value_and_is_nought_or_all_only_where_it_is(value: float) -> None:
    text = page.format_rate(value)
    assert says(text, value)
    assert 0 < float(text.removesuffix("\u202f%")) < 100
    assert (page.format_rate(0), page.format_rate(1)) == ("0.0\u202f%", "100.0\u202f%")


@given(st.floats(0.01, 1e7))
def test_seconds_in_words_are_short_by_less_than_their_last_unit(value: float) -> None:
    assert says(page.format_seconds(value), value)


@given(st.sets(st.integers(0, 23), min_size=1))
def test_hours_are_written_as_ranges_that_hold_just_these_hours(chosen: set[int]) -> None:
    assert says(page.format_hours(sorted(chosen)), sorted(chosen))


def says(text: str, value: Any) -> bool:
    """Whether a figure's text says the value, at the precision that it is written with."""
    if isinstance(value, str):
        return text in (value, value.replace("_", " "))
    if isinstance(value, list):
        ranges = [part.split("\N{EN DASH}") for part in text.removesuffix(" h").split(", ")]
        return [hour for first, last in ranges for hour in range(int(first), int(last))] == value
    if text.startswith("<"):
        return 0 <= value < float(text[1:])
    parts = re.findall(r"(\d+) (days?|h|min|s)\b", text)
    if text.startswith("0."):
        text = text.removesuffix(" s")
    elif parts:
        units = {"day": 86_400, "days": 86_400, "h": 3600, "min": 60, "s": 1}
        told = sum(int(number) * units[unit] for number, unit in parts)
        return -0.5 <= value - told < units[parts[-1][1]]
    number = text.removesuffix("\u202f%").replace(",", "")
    half = 0.5000001 * 10.0 ** -len(number.partition(".")[2])
    scales = (100,) if text.endswith("%") else (1, 100)
    return any(abs(float(number) - scale * value) <= half * (not isinstance(value, int)) for scale in scales)


@pytest.mark.parametrize("name", CASES)
def test_a_page_stands_alone_and_its_headings_and_plots_can_be_read_out(name: str) -> None:
    html = rendered(name)
    read = Parsed(html)
    assert "http" not in html
    assert "url(" not in re.sub(r"url\(#", "", html)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in read.named("a") if link["href"]} <= set(ids)
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in read.named("svg"))
    assert all(image["alt"] for image in read.named("img"))
    assert len(read.named("caption")) == len(read.named("table"))
    assert all("scope" in head for head in read.named("th"))
    words = " ".join(text for text in read.texts)
    assert not re.search(r"\bNone\b|\bnan\b|\bNaN\b|\bTrue\b|\bFalse\b|Undefined", words)


def test_equal_values_give_equal_bytes() -> None:
    assert page.render(json.loads(json.dumps(VALUES["two classes"]))) == rendered("two classes")


def test_names_of_sites_and_cameras_stay_text() -> None:
    values = sample(cameras=[("\"&'", "<script>alert(1)</script>"), ("$x$", "日本 \\frac")], num_days=2)
    values["review"]["candidates"][0] |= {"camera": "<script>alert(1)</script>", "uri": '"><img src=x>'}
    values["alerts"][0]["sentence"] = "<b>\"&' is below</b>"
    read = Parsed(page.render(values, {1: PICTURE}))
    assert not read.named("script")
    assert len(read.named("img")) == 1
    assert "<script>alert(1)</script>" in str(read.named("img")[0]["alt"])
    assert "<b>\"&' is below</b>" in "".join(read.texts)
    for label in ("\"&' / <script>alert(1)</scrip…", "$x$ / 日本 \\frac"):
        assert sum(label in text for text in read.texts) == 2  # the map of coverage and that of compliance


def test_pictures_are_shown_only_where_they_are_given() -> None:
    with_pictures, without = Parsed(rendered("a month")), Parsed(rendered("two classes"))
    sources = [str(image["src"]) for image in with_pictures.named("img")]
    assert [base64.b64decode(source.partition(",")[2]) for source in sources] == [PICTURE, PICTURE]
    assert with_pictures.texts.count("unreachable") == 6
    assert not without.named("img")
    assert "unreachable" not in without.texts


def test_a_fleet_is_cut_short_and_the_rest_is_counted() -> None:
    read = Parsed(rendered("a fleet"))
    rest = {(one["data-rest"], one["value"]) for one in read.named("data") if "data-rest" in one}
    assert {("by_camera.parquet", "30"), ("by_camera_day.parquet", "10")} <= rest
    labels = [text for text in read.texts if text.startswith("plant / gate_")]
    assert len(labels) == 2 * 60


def test_what_was_asked_for_is_what_the_page_speaks_of() -> None:
    month, two, none = (rendered(name) for name in ("a month", "two classes", "no image"))
    assert "With these images" in month
    assert "With these images" not in two
    assert "By lane" in month
    assert "By lane" not in two
    assert 'data-figure="not_assessed' in month
    assert 'data-figure="not_assessed' not in two
    assert "of any <data" in month
    assert "No lower limit was set" in two
    assert "No alert fired" in none
    assert "Cannot be corrected" in none
    assert "nothing could be assessed" in none


def flat(html: str) -> str:
    """The text of a page on one line."""
    return " ".join("".join(Parsed(html).texts).split())


def test_the_archive_is_judged_before_the_rates() -> None:
    month, none, failed, one = (
        flat(rendered(name)) for name in ("a month", "no image", "all failed", "one image")
    )
    line = "The archive holds 98.3 % of the expected snapshots, with 2 gaps. 56 frozen, 10 duplicate images."
    assert 0 < month.index(line) < month.index("as classified")
    unknown = "The archive: how many snapshots to expect is unknown. No "
    assert all(f"{unknown}image could be read." in text for text in (none, failed))
    values = one_image()
    values["quality"]["by_camera"] = [
        {"site": None, "camera": None, "scored": 1} | values["quality"]["totals"]
    ]
    assert f"{unknown}doubtful image was found." in flat(page.render(values))
    assert "(gaps and doubtful images never raise one)" in one
    assert "never raise one" not in month


def test_archives_runs_and_time_zones_stand_under_the_title() -> None:
    assert "/archive/2026-10; local times in Europe/Paris" in flat(rendered("a month"))
    values = sample(num_days=1)
    values["runs"] = [
        values["runs"][0] | {"archives": [f"/in/{day}", "/all"], "timezone": zones}
        for day, zones in enumerate([["UTC"], ["UTC"], ["south=Asia/Tokyo"], []])
    ]
    under = "/in/0, /all, /in/1 and 2 more; 4 runs; local times in UTC, south=Asia/Tokyo The archive"
    assert under in flat(page.render(values))


def test_a_corrected_rate_is_called_doubtful_where_pictures_are_unlike_the_held_out_ones() -> None:
    values = sample(num_days=1)
    condition, doubt = (
        "if it errs here as on its held-out set",
        "doubtful: the pictures of 1 camera look unlike",
    )
    assert f"{condition}; {doubt}" in flat(page.render(values))
    values["corrected"]["unlike_cameras"] = 0
    without = flat(page.render(values))
    assert condition in without
    assert "doubtful: " not in without


def test_classes_have_corrected_dots_only_where_rates_are_corrected() -> None:
    values = sample(num_days=1)
    assert "var(--second)" in page._plots(values)["shares"]
    values["overall"][0] |= dict.fromkeys(("compliance", "corrected", "corrected_low", "corrected_high"))
    assert "var(--second)" not in page._plots(values)["shares"]
    assert "Share of each class, as classified" in page.render(values)


def test_a_rate_by_review_comes_first_and_is_drawn_only_where_there_is_one() -> None:
    month, two, none = (rendered(name) for name in ("a month", "two classes", "a fleet"))
    assert 0 < month.index('data-figure="judged/compliance/value"') < month.index("overall/0/compliance")
    text = flat(month)
    assert (
        "2 people judged 214 random and 310 uncertain images; valid for these images, not for other days"
        in text
    )
    assert (
        "12 were skipped; we assume that skipped images resemble the judged ones of their kind and label"
        in text
    )
    assert "5 more judged random images count once somebody judges or skips this one: camera dock" in text
    assert "1 was given a label that the checkpoint does not know" in text
    assert "wrong / judged, divided by the sum of stands for" in text
    assert "An image that people disagree on counts in equal parts" in text
    assert "review yet: 18 of 30 random judged, in the order of the queue." in flat(two)
    assert "review yet" not in flat(month)
    assert "These judgements give no rate: 18 of 30 random judged" in flat(two)
    assert "maskbatch ui --run /runs/2026-10 shows a random sample" in flat(none)
    for name, drawn in (("a month", True), ("two classes", False), ("a fleet", False)):
        plotted = page._plots(VALUES[name])
        assert ["by people's review" in plotted[plot] for plot in ("headline", "shares")] == [drawn, drawn]


def test_every_alert_ends_with_one_full_stop() -> None:
    values = sample(num_days=1)
    first, second = (alert["sentence"].rstrip(".") for alert in values["alerts"])
    values["alerts"][0]["sentence"] = first
    text = flat(page.render(values))
    assert f"{first}.{second}. " in text


def test_what_the_page_says_of_drift_is_what_alerts() -> None:
    """Written out, since report.json does not have them."""
    told = "one point of a share or of confidence, two points of brightness, or a tenth of sharpness"
    assert told in flat(rendered("a month"))
    assert LEAST_CHANGE == {"share": 0.01, "confidence": 0.01, "brightness": 0.02, "sharpness": 0.1}


def test_the_page_of_a_real_run_is_held_to_its_report_json(committed: Run, tmp_path: Path) -> None:
    make_report(
        [committed.run], tmp_path, ReportConfig(exclude=("dark",), alert_below=0.9, alert_by="camera")
    )
    values = json.loads((tmp_path / "report.json").read_text())
    read = Parsed((tmp_path / "report.html").read_text())
    figures = [one for _, one in read.elements if "data-figure" in one]
    assert len(figures) > 100
    for one in figures:
        value = page.at(values, str(one["data-figure"]))
        assert one.get("value", one.get("datetime")) == (
            value if isinstance(value, str) else json.dumps(value)
        )


def ink(svg: str, colour: str) -> int:
    """How many separate shapes are filled with a colour."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)', svg)
    return sum(path.count("M") for path in paths)


def test_a_camera_day_without_data_is_drawn_as_such_and_not_as_zero() -> None:
    cameras = [{"site": "s", "camera": "c"}]
    rates = {1: 0.97, 2: 0.0, 3: None, 5: 0.93, 6: 1.0}  # the fourth is not there at all
    rows = [cameras[0] | {"date": f"2026-10-0{day}", "compliance": rate} for day, rate in rates.items()]
    svg = plots.plot_compliance(cameras, rows)
    legend = 1
    assert [ink(svg, f"h{step}") - legend for step in range(6)] == [2, 1, 0, 0, 0, 1]
    strokes = re.findall(
        r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--muted\); stroke-width: 0.8', svg
    )
    assert [path.count("M") for path in strokes] == [2]
    assert "no data" in svg
    whole = [row | {"compliance": 0.5} for row in rows[:3]]
    assert "no data" not in plots.plot_compliance(cameras, whole)
    assert plots.plot_compliance(cameras, []) == ""


def test_each_gap_is_drawn_where_it_lies() -> None:
    coverage = VALUES["a month"]["coverage"]
    svg = plots.plot_coverage(coverage["by_camera"], coverage["by_camera_day"], coverage["gaps"])
    strokes = re.findall(r'style="fill: none; stroke: var\(--alert\); stroke-width: 4"', svg)
    assert len(strokes) == len(coverage["gaps"])


def test_a_day_without_a_rate_breaks_the_line() -> None:
    rows = [row for row in VALUES["a month"]["by_day"] if row["date"] != "2026-10-09"]
    svg = plots.plot_days([*rows, rows[0] | {"date": "unknown"}], None)
    lines = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--accent\)', svg)
    assert lines[0].count("M") == 2
    markers = re.findall(r'<use [^>]*style="fill: var\(--accent\)', svg)
    assert len(markers) == len(rows) + 1  # and the legend's


@pytest.mark.parametrize(
    ("lowest", "first"),
    [(0.999, "98 %"), (0.93, "92 %"), (0.8, "80 %"), (0.76, "75 %"), (0.66, "60 %"), (0.3, "0 %")],
)
def test_an_axis_that_does_not_begin_at_zero_says_so(lowest: float, first: str) -> None:
    row = {"hour": 7, "compliance": 1.0, "compliance_low": lowest, "compliance_high": 1.0}
    texts = [text for text in Parsed(plots.plot_steps("hour", [row], str)).texts if "%" in text]
    assert texts[0] == first
    assert (f"axis begins at {first}" in texts) == (first != "0 %")


def themes() -> list[dict[str, str]]:
    """The page's colours in light and in dark."""
    blocks = re.findall(r":root \{([^}]*--paper[^}]*)\}", rendered("no image"))
    found = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in blocks]
    assert len(found) == 2
    return found


def contrast(first: str, second: str) -> float:
    """Contrast of two colours. Source: WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_and_in_dark() -> None:
    assert contrast("#000000", "#ffffff") == 21
    for colours in themes():
        assert set(re.findall(r"var\(--(\w+)\)", rendered("a month"))) <= set(colours)
        for text in ("ink", "muted", "accent", "second", "alert"):
            assert contrast(colours[text], colours["paper"]) >= 4.5, text
        for line in ("accent", "second", "alert"):
            assert contrast(colours[line], colours["band"]) >= 3, line
        steps = [contrast(colours[f"h{step}"], colours["paper"]) for step in range(6)]
        assert steps == sorted(steps)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_chromium() as launched:
        yield launched


@dataclass
class Shown:
    """A case's page as a browser shows it from a file, what it complained of and what it asked for."""

    tab: Page
    name: str
    complaints: list[str]
    requests: list[str]

    def resize(self, width: int, height: int, **media: Any) -> Page:
        self.tab.set_viewport_size({"width": width, "height": height})
        self.tab.emulate_media(**{"media": "screen", "color_scheme": "light", **media})
        return self.tab


@pytest.fixture(scope="module", params=CASES)
def shown(
    request: pytest.FixtureRequest, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shown]:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(rendered(request.param))
    with browser.new_page() as tab:
        made = Shown(tab, request.param, [], [])
        tab.on("console", lambda message: made.complaints.append(message.text))
        tab.on("pageerror", lambda error: made.complaints.append(str(error)))
        tab.on("request", lambda asked: made.requests.append(asked.url))
        made.resize(1280, 800)
        tab.goto(file.as_uri())
        yield made


FIGURES = """() => [...document.querySelectorAll('[data-figure]')].map(
    one => [one.dataset.figure, one.getAttribute(one.tagName === 'TIME' ? 'datetime' : 'value'), one.innerText, one.tagName])"""
REMAINDER = """() => { const body = document.body.cloneNode(true);
    body.querySelectorAll('data, time, svg, code, th, caption').forEach(one => one.remove()); return body.textContent; }"""
CUT = """() => [...document.querySelectorAll('svg text')].filter(text => {
    const [a, b] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1; }).map(text => text.textContent)"""
OVERLAPPING = """() => [...document.querySelectorAll('svg')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 3 && b.top < a.bottom - 3).map(([other]) => one + ' | ' + other)); })"""


def test_it_opens_from_a_file_without_a_complaint_or_another_request(shown: Shown) -> None:
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [shown.tab.url]
    assert shown.tab.url.startswith("file:")


def test_the_first_screen_says_rate_losses_and_alerts(shown: Shown) -> None:
    tab = shown.resize(1280, 800)
    for part in ("h1", ".rates", ".account", ".alerts"):
        box = tab.locator(part).last.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800, part


def test_paper_is_white_and_has_what_a_screen_folds_away(shown: Shown) -> None:
    tab = shown.resize(1280, 800)
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
    hidden = "[...document.querySelectorAll('td, dd')].filter(one => !one.checkVisibility()).length"
    assert (tab.evaluate(hidden) > 0) == (tab.locator("details").count() > 0)
    shown.resize(1280, 800, media="print", color_scheme="dark")
    assert tab.evaluate(hidden) == 0
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 35)"
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_every_figure_stands_in_report_json_and_no_other_number_is_on_the_page(shown: Shown) -> None:
    values = json.loads(json.dumps(VALUES[shown.name]))
    tab = shown.resize(1280, 800)
    unfold(tab)
    figures, rest = tab.evaluate(FIGURES), tab.evaluate(REMAINDER)
    assert len(figures) > 15
    for path, raw, text, tag in figures:
        value = page.at(values, path)
        assert raw == (value if isinstance(value, str) else json.dumps(value)), path
        if tag == "TIME":
            told = datetime.strptime(text.removesuffix(" UTC"), "%d %b %Y, %H:%M").isoformat()
            assert value.startswith(told[:16]), path
        else:
            assert says(text, value), (path, text, value)
    sentences = (
        "95\u202f% interval",
        f"PSI over {UNLIKE_PSI}",
        f"above {UNLIKE_PSI} is commonly read as a shift",
    )
    for sentence in (*sentences, *CONDITIONS.values()):
        rest = rest.replace(sentence, "")
    assert re.findall(r"[^.]*\d[^.]*", rest) == []


def test_no_text_of_a_plot_is_cut_or_lies_on_another(shown: Shown) -> None:
    tab = shown.resize(1280, 800)
    unfold(tab)
    assert tab.evaluate(CUT) == []
    assert tab.evaluate(OVERLAPPING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(shown: Shown, scheme: str) -> None:
    tab = shown.resize(390, 844, color_scheme=scheme)
    unfold(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    shown_paper = "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", paper))
    assert shown_paper == themes()[scheme == "dark"]["paper"]
    assert tab.locator(".scroll:not([tabindex='0'][role=region][aria-label])").count() == 0


def test_a_long_name_does_not_make_a_phone_scroll_sideways(browser: Browser) -> None:
    name = "camera" * 33 + "ab"
    values = sample(cameras=[("north", "gate"), ("south", name)], num_days=2)
    values["alerts"][0]["sentence"] = f"south/{name}: compliance is below its limit"
    values["runs"][0] |= {"timezone": [f"{name}=Europe/Paris"], "cameras": [name]}
    with browser.new_page(viewport={"width": 390, "height": 844}) as tab:
        tab.set_content(page.render(values))
        unfold(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


def unfold(tab: Page) -> None:
    tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
