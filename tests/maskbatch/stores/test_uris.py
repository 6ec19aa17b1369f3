"""Places: how every spelling of a uri becomes one, and what lies below a prefix."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.errors import UsageError
from maskbatch.stores.uris import SCHEME, Place, is_allowed, locate, parse_argument


@pytest.mark.parametrize(
    ("uri", "prefix", "expected"),
    [
        ("s3://b/x", "s3://b/x", True), ("s3://b/x/", "s3://b/x", True), ("s3://b/x/y", "s3://b/x/", True), ("s3://b/x", "s3://b/x/", True),
        ("s3://b/xy", "s3://b/x", False), ("s3://b/xy", "s3://b/x/", False), ("s3a://b/x", "S3://b", True), ("s3://c", "s3://b", False),
        ("https://h/a", "https://h", True), ("https://h:443/a", "HTTPS://H/", True), ("https://u:p@h/a?q", "https://h", True),
        ("https://h:80/a", "https://h", False), ("http://h:80/a", "http://h", True), ("/srv/x", "file:///srv", True), ("/srv/x", "/", True),
        ("file:/srv/x", "/srv/", True), ("/srvx", "/srv", False), ("x.jpg", "/", False),
    ],
)  # fmt: skip
def test_a_prefix_allows_what_lies_at_it_or_below(uri: str, prefix: str, expected: bool) -> None:
    assert is_allowed(uri, ["gs://elsewhere", prefix]) is expected
    assert not is_allowed(uri, [])


def test_a_prefix_without_a_scheme_is_a_local_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_allowed(f"{tmp_path}/cams/a.jpg", ["cams"])
    assert is_allowed(f"{tmp_path}/cams/a.jpg", ["./x/../cams/"])
    assert not is_allowed(f"{tmp_path}/other/a.jpg", ["cams"])


@pytest.mark.parametrize("prefix", ["", "s3://", "https://", "nope://x", "a::b", "file://host/x"])
def test_a_prefix_that_cannot_be_read_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError, match="--allow-prefix"):
        is_allowed("s3://b/x", [prefix])


segments = st.sampled_from(
    ["a", "..", ".", "", "%2e%2e", "%2E.", "p", "x:1", "é", "%2f", "..%2f", "b c", "..;x", "@h", "host"]
)
roots = st.sampled_from(
    [
        "file:",
        "file://",
        "s3://b",
        "s3a://b",
        "https://h",
        "HTTPS://H:443",
        "https://u@h",
        "",
        "gs://b@c",
        "ftp://h",
    ]
)


@given(
    roots,
    st.lists(segments, max_size=7),
    st.sampled_from(["/p", "file:///a/p", "s3://b/p", "https://h/p", "ftp://h/p"]),
)
def test_what_is_allowed_stays_so_in_its_planned_spelling_and_never_leaves_the_prefix(
    root: str, parts: list[str], prefix: str
) -> None:
    text = f"{root}/{'/'.join(parts)}"
    if is_allowed(text, [prefix]):
        place = locate(text)
        assert place.path.startswith(locate(prefix).path)
        assert not {"..", "."} & set(place.path.split("/"))
        if place.root == "file://" or place.root.startswith("http"):
            assert locate(place.uri) == locate(place.fetch or place.uri)._replace(login="")
            assert is_allowed(place.uri, [prefix])


@given(st.text(max_size=30))
def test_any_text_is_a_place_or_a_sentence(text: str) -> None:
    try:
        place = locate(text, locate("s3://b/lists/"))
    except ValueError as error:
        assert str(error)
    else:
        place.uri.encode()
        assert place.path.startswith("/") and "::" not in place.uri


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("~/x", Place(SCHEME, "/home/ann/x")), ("a/../%41::*.tar", Place(SCHEME, "{here}/%41::*.tar")), ("cam:7", Place(SCHEME, "{here}/cam:7")),
        ("file:///a//b/", Place(SCHEME, "/a/b")), ("LOCAL://~/x", Place(SCHEME, "/home/ann/x")), ("/", Place(SCHEME, "/")),
        ("S3A://b/x//y?/*", Place("s3://b", "/x//y?/*")), ("s3://k:p@b/a@b:c", Place("s3://b", "/a@b:c", "k:p@")),
        ("abfs://box@account/x", Place("abfs://box@account", "/x")), ("memory://a", Place("memory://a", "/")), ("hdfs:///a/b", Place("hdfs://", "/a/b")),
        ("https://ann@H:8443/a%20b//?k=v?w", Place("https://H:8443", "/a%20b//", "ann@", "?k=v?w")),
        ("http://h?at=/a/b", Place("http://h", "/", "", "?at=/a/b")),
    ],
)  # fmt: skip
def test_what_a_person_types_is_taken_literally(
    text: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    assert parse_argument(text) == place._replace(path=place.path.replace("{here}", str(tmp_path)))


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no such user; check the path"):
        parse_argument("~nobody-of-that-name/x")
