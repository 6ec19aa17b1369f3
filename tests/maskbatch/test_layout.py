from datetime import UTC, datetime, timedelta, timezone

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


DAYS = (
    "%Y{0}%m{0}%d",
    "%Y{0}%-m{0}%-d",
    "%y{0}%m{0}%d",
    "%d{0}%b{0}%Y",
    "%B{0}%-d{0}%Y",
    "%Y{0}%j",
    "%A{0}%d{0}%h{0}%y",
)
HOURS = (
    "%H{0}%M{0}%S",
    "%-H{0}%M{0}%-S",
    "%I{0}%M{0}%S{0}%p",
    "%-I{0}%-M{0}%-S%p",
    "%H{0}%M{0}%S.%f",
    "%H{0}%M{0}%S%z",
    "%s",
)
separators = st.sampled_from(["_", "-", ".", "T", "/", " ", "x", "__"])


@given(
    st.sampled_from(DAYS), st.sampled_from(HOURS), separators, separators, separators,
    st.datetimes(datetime(2000, 1, 1), datetime(2068, 1, 1)), st.integers(-14 * 60, 14 * 60),
)  # fmt: skip
def test_what_strftime_writes_is_read_back(
    day: str, hour: str, in_day: str, between: str, in_hour: str, local: datetime, east: int
) -> None:
    form = f"{day.format(in_day)}{between}{hour.format(in_hour)}"
    time = local.replace(tzinfo=timezone(timedelta(minutes=east)))
    text = time.strftime(form.replace("%s", str(int(time.timestamp()))))
    parsed = Template(f"{{camera}}/{{captured_at:{form}}}.jpg").parse(f"7/{text}.jpg")
    expected = time if "%f" in form else time.replace(microsecond=0)
    if "%s" not in form and "%z" not in form:
        expected = expected.replace(tzinfo=None)
    assert parsed == Parsed(camera="7", time=expected, has_hour=True)


@given(times)
def test_numbers_of_two_digits_without_separators_are_never_read_in_another_way(time: datetime) -> None:
    template = Template("{captured_at:%Y%m%d%H%M}.jpg")
    text = f"{time.year:04d}{time:%m%d%H%M}"
    assert template.parse(f"{text}.jpg").time == time.replace(second=0, microsecond=0)
    assert template.parse(f"{text[:-1]}.jpg") is None
    assert template.parse(f"{text}0.jpg") is None


TIME = datetime(2026, 10, 3, 17, 20, 5)


def in_zone(**offset: int) -> datetime:
    return TIME.replace(tzinfo=timezone(timedelta(**offset)))


@pytest.mark.parametrize(
    ("form", "text", "time"),
    [
        *[("%Y%m%dT%H%M%S%z", f"20261003T172005{text}", in_zone(**offset)) for text, offset in (
            ("+0200", {"hours": 2}), ("+02:00", {"hours": 2}), ("+02", {"hours": 2}), ("Z", {}), ("z", {}),
            ("-0330", {"hours": -3, "minutes": -30}),
        )],
        ("%Y%m%dT%H%M%S%z", "20261003T172005+2500", None),
        *[("%d.%m.%Y %I.%M.%S%p", f"03.10.2026 {hour}.20.05{half}", TIME.replace(hour=expected)) for hour, half, expected in (
            ("05", "PM", 17), ("5", "pm", 17), ("12", "AM", 0), ("12", "pm", 12), ("11", "Am", 11),
        )],
        ("%d.%m.%Y %I.%M%p", "03.10.2026 13.20pm", None),
        ("%d.%m.%Y %I.%M%p", "03.10.2026 00.20am", None),
        *[("%d-%b-%Y", f"3-{month}-2026", datetime(2026, 10, 3)) for month in ("Oct", "OCT", "october", "October")],
        *[("%B %d %Y", f"{month} 30 2026", datetime(2026, 9, 30)) for month in ("September", "Sep", "sept")],
        *[("%s", digits, datetime(2026, 10, 1, 0, 0, 0, micro, UTC)) for digits, micro in (
            ("1790812800", 0), ("1790812800123", 123000), ("1790812800123456", 123456), ("1790812800123456789", 123456),
        )],
        ("%s.%f", "1790812800.25", datetime(2026, 10, 1, 0, 0, 0, 250_000, UTC)),
        ("%Y%m%d%H%M%S.%f", "20261003172005.123456789", TIME.replace(microsecond=123456)),
        ("%F %T", "2026-10-03 17:20:05", TIME),
        ("%Y/%-m/%-d/%Y%m%d", "2026/10/3/20261003", datetime(2026, 10, 3)),
        ("%Y/%-m/%-d/%Y%m%d", "2026/10/4/20261003", "no match"),
        ("%b/%Y-%m-%d", "Oct/2026-10-03", datetime(2026, 10, 3)),
        ("%b/%Y-%m-%d", "Nov/2026-10-03", None),
        ("%Y-%j/%m-%d", "2026-276/10-03", datetime(2026, 10, 3)),
        ("%Y-%j/%m-%d", "2026-277/10-03", None),
        ("%Y-%m-%d %%", "2026-10-03 %", datetime(2026, 10, 3)),
    ],
)  # fmt: skip
def test_a_time_is_read_by_its_directives(form: str, text: str, time: datetime | str | None) -> None:
    parsed = Template(f"{{camera}}_{{captured_at:{form}}}.jpg").parse(f"7_{text}.jpg")
    assert (parsed.time if parsed else "no match") == time


@pytest.mark.parametrize("template", ["*{captured_at:%s}.jpg", "cam1{captured_at:%s}.jpg"])
def test_an_epoch_takes_all_of_its_digits(template: str) -> None:
    assert Template(template).parse(
        "cam11790812800.jpg" if "cam" in template else "cam_1790812800.jpg"
    ).time == datetime(2026, 10, 1, tzinfo=UTC)


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
        ("{captured_at:%-Y%m%d}.jpg", "%-Y is not known"),
        ("{captured_at:%Y%-m%-d}.jpg", "%Y%-m can be read in several ways"),
        ("{captured_at:%-d%m_%Y}.jpg", "%-d%m can be read in several ways"),
        ("{captured_at:%Y%m%d_%I%M}.jpg", "needs %p"),
        ("{captured_at:%Y%m%d_%p}.jpg", "needs %I"),
        ("{captured_at}.jpg", "{captured_at} is not known"),
        ("{gate}/{camera}.jpg", "{gate} is not known"),
        ("{camera:3}.jpg", "{camera:3} is not known"),
        ("{camera", "a } is missing after {camera"),
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
        ("date=2026-10-03/hour=25/x.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("date=2026-10-03/date=2026-13-01/x.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("date=3 Oct 2026/x.jpg", Parsed(time=datetime(2026, 10, 3))),
        ("date=3 Oct 2026/hour=17/x.jpg", Parsed(time=datetime(2026, 10, 3, 17), has_hour=True)),
        ("camera=b%252Fc/ts=2026-10-03 17%253A20%253A05/x.jpg",
         Parsed(None, "b/c", datetime(2026, 10, 3, 17, 20, 5), has_hour=True)),
        ("hour=5/x.jpg", Parsed(has_hour=True)),
        ("year=99999999999/month=1/day=1/x.jpg", Parsed()),
        ("Site=n/CAMERA=07/Date=2026-10-03/x.jpg", Parsed("n", "07", datetime(2026, 10, 3))),
        ("site_id=n/camera_id=07/x.jpg", Parsed("n", "07")),
        ("siteid=n/cam=07/x.jpg", Parsed("n", "07")),
        ("cameraid=07/x.jpg", Parsed(camera="07")),
        *[(f"{day}/x.jpg", Parsed(time=datetime(2026, 10, 3))) for day in (
            "dt=20261003", "ds=2026-10-03", "day=2026-10-03", "date=2026_10_3", "year=2026/month=10/day=20261003",
        )],
        *[(f"{day}/x.jpg", Parsed(time=datetime(2026, 10, 3, 17), has_hour=True)) for day in (
            "dt=2026-10-03-17", "dt=20261003/hr=17", "date=2026-10-03T17", "day=2026-10-03/hour=17",
        )],
        *[(f"{time}/x.jpg", Parsed(time=datetime(2026, 10, 3, 17, 20, 5), has_hour=True)) for time in (
            "ts=2026-10-03T17%3A20%3A05", "dt=20261003172005", "date=2026-10-03/time=17-20-05",
            "date=2026-10-03/hour=17/minute=20/second=5", "date=2026-10-03/time=172005",
        )],
        *[(f"{key}=1790812800000/x.jpg", Parsed(time=datetime(2026, 10, 1, tzinfo=UTC), has_hour=True))
          for key in ("ts", "time", "Timestamp")],
        ("camera=__HIVE_DEFAULT_PARTITION__/x.jpg", Parsed()),
    ],
)  # fmt: skip
def test_hive_style_folders_are_recognised(path: str, expected: Parsed) -> None:
    assert parse_hive(path) == expected


@pytest.mark.parametrize(
    ("path", "unread"),
    [
        ("camera=07/date=2026-10-01/hour=13/minute=5/site=n/x=1.jpg", ()),
        ("date=2026-10-01/hour=1330/x.jpg", ("hour",)),
        ("date=2026-13-01/hour=24/x.jpg", ("date", "hour")),
        ("date=2026-02-30/minute=60/day=0/month=13/x.jpg", ("date", "minute", "day", "month")),
        ("gate=4/Camera=07/lane=2/x.jpg", ("gate", "lane")),
        ("date=01-10-2026/hour=1pm/ts=soon/x.jpg", ("date", "hour", "ts")),
        ("date=unknown/camera=__HIVE_DEFAULT_PARTITION__/x.jpg", ()),
    ],
)
def test_folders_whose_key_or_value_says_nothing_are_named(path: str, unread: tuple[str, ...]) -> None:
    assert parse_hive(path).unread == unread


def test_dates_are_filled_in_by_the_tokens_of_a_layout_and_all_else_stays() -> None:
    path = "{date}/{site}/**/*{{date:%Y}/x{date:%m-%d/%H}.tar{date:%Y"
    assert fill_dates(path, datetime(2026, 10, 3, 7)) == "{date}/{site}/**/*{2026/x10-03/07.tar{date:%Y"
    assert fill_dates("{date:%Y/%-m/%-d %b}", datetime(2026, 10, 3)) == "2026/10/3 Oct"


@pytest.mark.parametrize(
    "text", ["{site}/{captured_at:%Y", "{site/{camera}", "{captured_at:%Y/{camera}.jpg", "{"]
)
def test_a_brace_that_is_not_closed_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="a } is missing after "):
        Template(text)
