"""Layouts that do not fit: refused from one image in twenty on, with the likely cause."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.plan import layouts
from maskbatch.runner import plan_archive
from tests.maskbatch.plan.test_build import listed
from tests.maskbatch.samples import write_files

MONTH = [f"c{camera}/2026-10-{day:02d}_06.jpg" for camera in (1, 2) for day in range(1, 32)]
RIGHT = "{camera}/{captured_at:%Y-%m-%d_%H}.jpg"


def archive(tmp_path: Path, *names: str) -> Path:
    return write_files(tmp_path / "archive", dict.fromkeys(names, b"1"))


@pytest.mark.parametrize(
    ("layout", "share", "cause"),
    [
        ("{camera}/{captured_at:%Y-%d-%m_%H}.jpg", "61 %", "are %d and %m swapped?"),
        ("{camera}/{captured_at:%Y-%-d-%-m_%H}.jpg", "61 %", "are %d and %m swapped?"),
        ("{camera}/{captured_at:%Y-%m-%d_%H}.png", "100 %", "do they end otherwise than in .png?"),
        ("{captured_at:%Y-%m-%d_%H}.jpg", "100 %", "do the paths have a folder more?"),
        ("*/{camera}/{captured_at:%Y-%m-%d_%H}.jpg", "100 %", "do the paths have a folder less?"),
        ("{camera}/{captured_at:%Y-%m-%d_%H%M}.jpg", "100 %",
         "does the time have other digits or separators than {captured_at:%Y-%m-%d_%H%M}?"),
        ("{camera}/{captured_at:%Y%m%d}.jpg", "100 %", "does the time have other digits"),
        ("cam_{camera}/*.jpg", "100 %", "the first, 'c1/2026-10-01_06.jpg', gives nothing, and stops at"),
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_refused_with_the_likely_cause(
    tmp_path: Path, layout: str, share: str, cause: str
) -> None:
    root = archive(tmp_path, *MONTH)
    with pytest.raises(UsageError) as refused:
        listed(root, layout=layout)
    message = str(refused.value)
    assert message.startswith(f"--layout {layout}: {share} of 62 images do not fit: ")
    assert cause in message
    assert "--allow-unknown-times" in message
    rows, listing = listed(root, layout=layout, allow_unknown_times=True)
    assert len(rows) == listing.num_images == 62


@pytest.mark.parametrize("limit", [None, 10, 25])
def test_a_later_layout_without_a_time_takes_no_names_whose_dates_are_wrong(
    tmp_path: Path, limit: int | None
) -> None:
    root = archive(
        tmp_path, *(f"c1/2026-10-{day:02d}_{h:02d}.jpg" for day in range(13, 32) for h in range(9))
    )
    several = (RIGHT.replace("%m-%d", "%d-%m"), "{camera}/*")
    with pytest.raises(UsageError, match=r"100 % of .* of the 2 layouts: are %d and %m swapped\?"):
        listed(root, layout=several, limit=limit)
    assert listed(root, layout=(RIGHT, "{camera}/*"), limit=limit)[0]
    rows, _ = listed(root, layout=several, limit=limit, allow_unknown_times=True)
    assert {row["camera"] for row in rows} == {"c1"}


def test_a_long_listing_says_early_that_most_do_not_fit_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(layouts, "EARLY", 30)
    root = archive(
        tmp_path,
        *(f"a/{n:03d}.jpg" for n in range(40)),
        *(f"b/2026100{n % 9 + 1}_{n:03d}.jpg" for n in range(800)),
    )
    rows, _ = listed(root, layout="{camera}/{captured_at:%Y%m%d}_*.jpg")
    assert len(rows) == 840
    assert (
        "plan: so far --layout" in (said := capsys.readouterr().err)
        and "100 % of 30 images do not fit" in said
    )


def test_a_folder_more_before_the_name_is_named(tmp_path: Path) -> None:
    root = archive(tmp_path, *(name.replace("/", "/jpg/") for name in MONTH))
    with pytest.raises(UsageError, match=r"do the paths have a folder more\? The first, 'c1/jpg/2026"):
        listed(root, layout=RIGHT)


def test_a_few_odd_dates_do_not_mean_that_the_layout_swaps_day_and_month(tmp_path: Path) -> None:
    names = [*MONTH, *(f"c3/2026-13-{day:02d}_06.jpg" for day in range(1, 10))]
    with pytest.raises(
        UsageError, match=r"13 % .*: the first, 'c3/2026-13-01_06.jpg', gives .*, which is no date"
    ):
        listed(archive(tmp_path, *names), layout=RIGHT)


@pytest.mark.parametrize(("num_bad", "num_good", "is_refused"), [(1, 19, False), (2, 19, True), (5, 95, False), (6, 95, True), (5, 10, False), (1, 0, True), (19, 0, True)])  # fmt: skip
@pytest.mark.parametrize("bad", ["c1/index{}.jpg", "c1/2026-13-01_{:02d}.jpg"])
def test_more_than_one_in_twenty_of_twenty_or_more_is_refused(
    tmp_path: Path, bad: str, num_bad: int, num_good: int, is_refused: bool
) -> None:
    good = [f"c1/2026-10-{n % 28 + 1:02d}_{n // 28:02d}.jpg" for n in range(num_good)]
    root = archive(tmp_path, *good, *(bad.format(n) for n in range(num_bad)))
    if is_refused:
        with pytest.raises(UsageError, match=f"of {num_bad + num_good} images do not fit"):
            listed(root, layout=RIGHT)
        return
    rows, listing = listed(root, layout=RIGHT)
    assert len(rows) == num_bad + num_good
    assert listing.notes["time unknown until decoded"] == num_bad
    assert listing.misfit == ("c1/index0.jpg" if "index" in bad else None)


def test_a_refused_layout_leaves_nothing_behind(tmp_path: Path) -> None:
    root, out = archive(tmp_path, *MONTH), tmp_path / "out"
    with pytest.raises(UsageError, match="swapped"):
        plan_archive(PlanConfig(archives=(str(root),), layout=(RIGHT.replace("%m-%d", "%d-%m"),)), out)
    assert not out.exists()
    assert plan_archive(PlanConfig(archives=(str(root),), layout=(RIGHT,)), out).num_images == 62


def test_a_date_that_cannot_be_believed_is_no_misfit(tmp_path: Path) -> None:
    root = archive(
        tmp_path, *(f"c1/{year}-01-01_{hour:02d}.jpg" for year in (1970, 2000) for hour in range(24))
    )
    _, listing = listed(root, layout=RIGHT)
    assert listing.notes == {"time out of bounds (1990 to tomorrow) of c1": 24}


def test_cameras_whose_times_are_out_of_bounds_are_named_but_not_without_end(tmp_path: Path) -> None:
    root = archive(tmp_path, *(f"c{k:03d}/{year}-01-01_00.jpg" for k in range(60) for year in (1970, 2036)))
    _, listing = listed(root, layout=RIGHT)
    assert listing.notes["time out of bounds (1990 to tomorrow) of c000"] == 2
    assert listing.notes["time out of bounds (1990 to tomorrow) of other cameras"] == 2 * (60 - 40)
    assert listing.notes.total() == 120 and len(listing.notes) == 41


def test_a_list_whose_times_cannot_be_read_is_refused_for_them_beside_paths_with_a_layout(
    tmp_path: Path,
) -> None:
    lines = ["uri,camera,captured_at", *(f"x{n}.jpg,c1,01.10.2026" for n in range(30))]
    root = write_files(tmp_path, {"list.csv": "\n".join(lines).encode(), "a/c1/2026-10-01_06.jpg": b""})
    with pytest.raises(UsageError, match="all 30 rows have a captured_at not readable"):
        listed(root / "list.csv", root / "a", layout=RIGHT)


def test_images_of_which_a_manifest_says_camera_and_time_are_not_judged(tmp_path: Path) -> None:
    lines = ["uri,camera,captured_at", *(f"x{n}.jpg,c1,2026-10-01T06:00" for n in range(30))]
    write_files(tmp_path, {"list.csv": "\n".join(lines).encode()})
    rows, _ = listed(tmp_path / "list.csv", layout=RIGHT)
    assert len(rows) == 30


def test_images_that_a_manifest_describes_are_not_noted_as_unlike_the_layout(tmp_path: Path) -> None:
    rows = "uri,camera,captured_at\nx.jpg,1,2026-10-01 08:30\n20261001.jpg,,\ny.jpg,1,\n"
    root = write_files(tmp_path, {"m.csv": rows.encode()})
    _, listing = listed(root / "m.csv", layout="{captured_at:%Y%m%d}.jpg")
    assert listing.notes["path unlike --layout"] == 1 and listing.misfit == "y.jpg"


def test_of_several_layouts_the_first_that_fits_counts_and_the_listing_says_how_many_fit_each(
    tmp_path: Path,
) -> None:
    several = ("{camera}/{captured_at:%Y%m%d}.jpg", "{camera}/{captured_at:%d%m%Y}.jpg", "{camera}/x*.jpg")
    names = ["a/20261003.jpg", "a/13102026.jpg", "b/03102026.jpg", "b/20261004.jpg", "b/x1.jpg"]
    rows, listing = listed(archive(tmp_path, *names), layout=several)
    times = [row["captured_at"] and f"{row['captured_at']:%Y-%m-%d}" for row in rows]
    assert times == ["2026-10-13", "2026-10-03", "2026-10-03", "2026-10-04", None]
    assert listing.layouts == dict(zip(several, (2, 2, 1), strict=True))
    with pytest.raises(UsageError, match="--layout: 100 % of 5 images fit none of the 2 layouts: "):
        listed(tmp_path / "archive", layout=("{camera}.jpg", "{site}.jpg"))


def test_a_path_that_gives_no_date_keeps_its_camera(tmp_path: Path) -> None:
    rows, _ = listed(archive(tmp_path, "a/2026-10-03_06.jpg", "b/2026-13-03_06.jpg"), layout=RIGHT)
    assert [(row["camera"], row["captured_at"] is None) for row in rows] == [("a", False), ("b", True)]


def test_names_may_be_in_another_zone_than_the_report(tmp_path: Path) -> None:
    root = archive(tmp_path, "c1/2026-10-03_22.jpg", "c1/2026-10-03_21.jpg", "c2/2026-10-04_22.jpg")
    settings = {
        "layout": RIGHT,
        "timezone": "Europe/Paris",
        "names_in": "UTC",
        "since": "2026-10-04",
        "until": "2026-10-05",
    }
    (row,), listing = listed(root, **settings)
    assert row["captured_at"] == datetime(2026, 10, 3, 22, tzinfo=UTC)
    assert listing.first_time == datetime(2026, 10, 4)
    assert listing.times == "local at Europe/Paris; names in UTC"
    template = f"{tmp_path}/archive/*/{{date:%Y-%m-%d}}_*.jpg"
    assert listed(template, **settings | {"layout": "*/" + RIGHT, "allow_unknown_times": True})[0] != []


@pytest.mark.parametrize("zone", ["-03:30", "Asia/Tokyo"])
def test_a_date_without_a_time_of_day_stays_that_day_whatever_zone_names_are_in(
    tmp_path: Path, zone: str
) -> None:
    root = archive(tmp_path, "c1/20261003.jpg", "c1/20261004.jpg")
    settings = {"timezone": zone, "names_in": "UTC", "layout": "{camera}/{captured_at:%Y%m%d}.jpg"}
    _, listing = listed(root, **settings)
    assert (listing.first_time, listing.last_time) == (datetime(2026, 10, 3), datetime(2026, 10, 4))


def test_days_of_paths_in_another_zone_are_all_listed(tmp_path: Path) -> None:
    root = archive(tmp_path, "2026-10-03/c1_22.jpg", "2026-10-04/c1_21.jpg", "2026-10-04/c1_22.jpg")
    rows, listing = listed(
        f"{root}/{{date:%Y-%m-%d}}", layout="{captured_at:%Y-%m-%d}/{camera}_{captured_at:%H}.jpg",
        timezone="Europe/Paris", names_in="UTC", since="2026-10-04", until="2026-10-05",
    )  # fmt: skip
    assert [f"{row['captured_at']:%d %H}" for row in rows] == ["03 22", "04 21"]
    assert listing.filtered == {"--until": 1}


def test_folders_whose_keys_were_not_read_are_noted_but_not_without_end(tmp_path: Path) -> None:
    names = [f"camera=1/gate=2/k{n}=x/date=2026-10-01/x.jpg" for n in range(60)]
    rows, listing = listed(archive(tmp_path, *names))
    assert len(rows) == listing.notes["folder gate=... not read"] == 60
    assert listing.notes["folder k0=... not read"] == 1
    assert len(listing.notes) < 50
    assert sum(count for note, count in listing.notes.items() if "not read" in note) == 120


SITES = [f"{site}/2026-10-{day:02d}_06.jpg" for site in ("osaka", "paris") for day in range(1, 32)]
OF_SITE = RIGHT.replace("camera", "site")


@pytest.mark.parametrize(
    "period", [{}, {"since": "2026-10-01", "until": "2026-11-01"}, {"since": "2026-10-30"}]
)
@pytest.mark.parametrize("flag", ["timezone", "names_in"])
def test_a_zone_of_a_site_that_is_not_there_is_refused_with_the_sites(
    tmp_path: Path, flag: str, period: dict[str, str]
) -> None:
    root, name = archive(tmp_path, *SITES), flag.replace("_", "-")
    expected = f"--{name} oskaa=...: no image is of that site; the sites are osaka, paris; "
    with pytest.raises(UsageError, match=expected):
        listed(root, layout=OF_SITE, **period, **{flag: ("oskaa=Asia/Tokyo", "paris=+02:00")})
    assert listed(root, layout=OF_SITE, **period, **{flag: ("osaka=Asia/Tokyo",)})[0]


@pytest.mark.parametrize("part", [{"since": "2026-10-01", "until": "2026-10-02"}, {"limit": 3}])
def test_a_night_and_a_limit_may_lack_a_site_which_is_noted(tmp_path: Path, part: dict[str, str]) -> None:
    rows, listing = listed(archive(tmp_path, *SITES), layout=OF_SITE, timezone="lyon=Europe/Paris", **part)
    assert rows
    assert listing.notes["site of --timezone without an image (lyon)"] == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("north/1/IMG_0000.jpg", "do the names have no time?"),
        ("2026/10/01/083000.jpg", "have fewer folders?"),
    ],
)
def test_names_without_a_time_and_an_archive_that_begins_deeper_are_told_apart(
    tmp_path: Path, path: str, expected: str
) -> None:
    root = write_files(tmp_path / "a", {path: b""})
    with pytest.raises(UsageError) as refused:
        listed(root, layout="{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg")
    assert expected in str(refused.value)
