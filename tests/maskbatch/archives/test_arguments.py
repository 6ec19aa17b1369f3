"""What an ARCHIVE argument names, before anything is listed."""

from pathlib import Path

import pytest

from maskbatch.archives import arguments as arguments_module
from maskbatch.config import PlanConfig
from maskbatch.stores.access import Access
from maskbatch.stores.options import NO_OPTIONS


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("s3://b/{date:%Y}/x", "s3://b/"), ("s3://b/a/{date:%Y}", "s3://b/a/"), ("s3://b-{date:%Y}/a/x", "s3://b-2026/"),
        ("/{date:%Y}/x", "file:///"), ("/a/b{date:%Y}/x", "file:///a/"), ("memory://{date:%Y}/a/x", "memory://2026/"),
        ("memory://a/{date:%Y}/x", "memory://a/"), ("gs://b/cam/{date:%Y}*.tar", "gs://b/cam/"),
    ],
)  # fmt: skip
def test_a_templates_own_folder_ends_before_the_first_date(name: str, base: str) -> None:
    config = PlanConfig(archives=(name,), since="2026-10-01", until="2026-10-03")
    (source,) = arguments_module.find_sources(config, Access())
    assert source.tree.base == base
    assert "".join(source.tree.pattern).replace("/", "").startswith(("2026", "b2026", "a"))


def test_http_may_redirect_into_its_own_folder_and_the_allowed_prefixes() -> None:
    config = PlanConfig(archives=("https://h/a/list.csv", "s3://b/x"), allow_prefix=("https://cdn/",))
    assert arguments_module.make_access(config, NO_OPTIONS).prefixes == ("https://cdn/", "https://h/a/")


@pytest.mark.parametrize(
    ("name", "is_remote"),
    [("{here}", False), ("{here}/*.jpg", False), ("{here}/*.csv", True), ("s3://b/*.tar", True), ("https://h/x.tar", True)],
)  # fmt: skip
def test_reading_waits_for_a_network_where_the_archive_or_what_a_manifest_lists_is_remote(
    tmp_path: Path, name: str, is_remote: bool
) -> None:
    config = PlanConfig(archives=(name.format(here=tmp_path),))
    (source,) = arguments_module.find_sources(config, Access())
    assert source.is_remote is is_remote
