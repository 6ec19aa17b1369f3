from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.errors import UsageError
from maskbatch.layout import Parsed, Template, fill_dates, parse_hive
from maskbatch.stores.uris import encode_name

word = st.text(st.characters(blacklist_characters="/", blacklist_categories=("Cs",)), min_size=1, max_size=8)
times = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31))


@given(word, word, times)
def test_a_template_reads_back_what_a_path_was_made_from(site: str, camera: str, time: datetime) -> None:
    template = Template("{site}/cam {camera}/{captured_at:%Y-%m/%d/%H%M%S.%f}.jpg")
    path = f"{site}/cam {camera}/{time:%Y-%m/%d/%H%M%S}.{time.microsecond:06d}.jpg".replace(
        f"{time:%Y}", f"{time.year:04d}"
    )
    assert template.parse(encode_name(path)) == Parsed(site, camera, time, has_hour=True)


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("{camera}.jpg", "7.jpg", Parsed(camera="7")),
        ("{camera}/*", "7/any name.jpg", Parsed(camera="7")),
        ("{camera}/*", "7/deeper/x.jpg", None),
        ("{camera}/**", "7/deeper/x.jpg", Parsed(camera="7")),
        ("**/{camera}/*.jpg", "a/b/7/x.jpg", Parsed(camera="7")),
        ("**/{camera}/*.jpg", "a\nb/7/x.jpg", Parsed(camera="7")),
        ("{camera}_{captured_at:%Y%m%d}*", "7_20261003_x.jpg", Parsed(camera="7", time=datetime(2026, 10, 3))),
        ("{captured_at:%y%m%d%H}.jpg", "26100317.jpg", Parsed(time=datetime(2026, 10, 3, 17), has_hour=True)),
        ("{captured_at:%Y-%j}.jpg", "2026-276.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("{captured_at:%Y-%j}.jpg", "2026-366.jpg", Parsed()),
        ("{captured_at:%Y-%j}.jpg", "2026-000.jpg", Parsed()),
        ("{captured_at:%s}.jpg", "1790000000.jpg",
         Parsed(time=datetime.fromtimestamp(1790000000, UTC), has_hour=True)),
        ("{captured_at:%Y%m%d%H%M%S%f}.jpg", "202610031720055.jpg",
         Parsed(time=datetime(2026, 10, 3, 17, 20, 5, 500_000), has_hour=True)),
        ("{captured_at:%Y%m%d}.jpg", "20260230.jpg", Parsed()),
        ("{captured_at:%Y%m%d}.jpg", "20261003.png", None),
        ("{captured_at:%Y%m%d}.jpg", "x20261003.jpg", None),
        ("a.b+(c)/{camera}.jpg", "a.b+(c)/7.jpg", Parsed(camera="7")),
        ("a.b/{camera}.jpg", "aXb/7.jpg", None),
        ("{camera}/{camera}_*", "7/7_x.jpg", Parsed(camera="7")),
        ("{camera}/{camera}_*", "7/8_x.jpg", None),
        ("{captured_at:%Y}/{captured_at:%Y%m%d}.jpg", "2026/20261003.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("{captured_at:%Y}/{captured_at:%Y%m%d}.jpg", "2025/20261003.jpg", None),
    ],
)  # fmt: skip
def test_a_template_reads_a_path(template: str, path: str, expected: Parsed | None) -> None:
    assert Template(template).parse(path) == expected


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "names no field"),
        ("*.jpg", "names no field"),
        ("{captured_at:%H%M}.jpg", "lacks a year, month or day"),
        ("{captured_at:%Y%m}.jpg", "lacks a year, month or day"),
        ("{captured_at:%Y%q}.jpg", "%q is not known"),
        ("{captured_at}.jpg", "{captured_at} is not known"),
        ("{gate}/{camera}.jpg", "{gate} is not known"),
        ("{camera:3}.jpg", "{camera:3} is not known"),
        ("{camera", "{ is not known"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        Template(template)
    assert str(refused.value).startswith(f"--layout {template}: ")
    assert why in str(refused.value)


def test_an_explanation_says_how_far_a_path_follows() -> None:
    template = Template("{site}/{camera}/{captured_at:%Y%m%d}.jpg")
    assert (
        template.explain("north/7/2026-10-03.jpg") == "site=north, camera=7, then stops at '2026-10-03.jpg'"
    )
    assert "stops at 'x.jpg'" in Template("cam/{camera}").explain("x.jpg")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x.jpg", Parsed()),
        ("site=n/camera=07/x.jpg", Parsed("n", "07")),
        ("camera=gate%3A%3A1/x.jpg", Parsed(camera="gate::1")),
        ("mycamera=7/x.jpg", Parsed()),
        ("camera=7", Parsed()),
        ("date=2026-10-03/hour=17/minute=05/x.jpg", Parsed(time=datetime(2026, 10, 3, 17, 5), has_hour=True)),
        ("a/year=2026/month=10/day=3/x.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("year=2026/month=10/x.jpg", Parsed()),
        ("date=unknown/x.jpg", Parsed()),
        ("date=2026-10-03/hour=25/x.jpg", Parsed(has_hour=True)),
        ("hour=5/x.jpg", Parsed(has_hour=True)),
        ("year=99999999999/month=1/day=1/x.jpg", Parsed()),
    ],
)
def test_hive_style_folders_are_recognised(path: str, expected: Parsed) -> None:
    assert parse_hive(path) == expected


def test_dates_are_filled_in_by_the_tokens_of_a_layout_and_all_else_stays() -> None:
    path = "{date}/{site}/**/*{{date:%Y}/x{date:%m-%d/%H}.tar{date:%Y"
    assert fill_dates(path, datetime(2026, 10, 3, 7)) == "{date}/{site}/**/*{2026/x10-03/07.tar{date:%Y"
