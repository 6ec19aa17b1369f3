"""Archives on a real S3 server: listed, indexed and read, also through a proxy that fails."""

import csv
import hashlib
import io
import json
import logging
import random
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.archives.arguments import find_sources
from maskbatch.archives.listing import list_tree
from maskbatch.archives.tree import Tree
from maskbatch.clock import EARLIEST, Clock
from maskbatch.config import PlanConfig
from maskbatch.decode.source import Encoded
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.plan.build import plan_rows
from maskbatch.plan.listing import Listing
from maskbatch.score.read import read_images
from maskbatch.stores import base, fetch, remote_file, retry
from maskbatch.stores import s3 as s3_module
from maskbatch.stores.access import Access
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.s3 import UNTIDY
from tests.fault_proxy import KINDS, Faults, fault_proxy
from tests.maskbatch.samples import make_tar, make_zip
from tests.s3_server import S3Server

Row = dict[str, Any]
MAX_BYTES = 10**7


def options_for(server: S3Server, **changes: Any) -> StorageOptions:
    table = {"endpoint_url": server.endpoint, "key": server.access_key, "secret": server.secret_key}
    return StorageOptions(json.dumps({"s3://": table | changes}))


def access_to(server: S3Server, timeout_s: float = 30, **changes: Any) -> Access:
    return Access(options=options_for(server, **changes), request_timeout_s=timeout_s)


def plan(access: Access, *archives: str, **settings: Any) -> tuple[list[Row], Listing]:
    config, listing = PlanConfig(archives=archives, **settings), Listing()
    sources = find_sources(config, access)
    return list(plan_rows(sources, config, Clock(EARLIEST.replace(year=2027)), listing, access)), listing


def read(rows: list[Row], access: Access) -> list[Encoded]:
    return list(read_images(rows, access, MAX_BYTES))


def digests(rows: list[Row], access: Access) -> dict[str, str]:
    """The sha256 of every image by the end of its uri, all of which must be read."""
    found = {}
    for row, image in zip(rows, read(rows, access), strict=True):
        assert image.status == "ok", (row["uri"], image.status, image.error)
        found[row["uri"]] = hashlib.sha256(image.data or b"").hexdigest()
    assert len(found) == len(rows)
    return found


class Bucket:
    """A bucket of the server, filled quickly."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.name, self.url = name, f"s3://{name}"
        self.client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=name)

    def put(self, files: dict[str, bytes]) -> None:
        def one(item: tuple[str, bytes]) -> None:
            self.client.put_object(Bucket=self.name, Key=item[0], Body=item[1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, files.items()))


@pytest.fixture(scope="module")
def bucket_of(s3: S3Server) -> Iterator[Callable[[str], Bucket]]:
    made: list[Bucket] = []

    def make(name: str) -> Bucket:
        made.append(Bucket(s3, name))
        return made[-1]

    yield make
    for bucket in made:
        bucket.client.close()


def image(number: int, size: int = 3000) -> bytes:
    """Bytes that no other number has; what is read need be no picture."""
    return random.Random(number).randbytes(size + number)


ODD = [
    "plain.jpg", "a b.jpg", "100%.jpg", "%20.jpg", "%2F.jpg", "a+b.jpg", "x::y.jpg", "d::e/::.jpg", "a//b.jpg",
    "//c.jpg", "/lead.jpg", "./c.jpg", "../d.jpg", "e/./f.jpg", "e/../g.jpg", "tab\t.jpg", "new\nline.jpg",
    "del\x7f.jpg", "\x01.jpg", "é日本.jpg", "<b>.jpg", "&amp;.jpg", "'\".jpg", "?q=1.jpg", "#x.jpg", "[x].jpg",
    "back\\slash.jpg", "~.jpg", "{a}|^`.jpg", " .jpg", "a=b;c,d@e!$.jpg", "timeout SlowDown.jpg",
]  # fmt: skip


@pytest.fixture(scope="module")
def odd(bucket_of: Callable[[str], Bucket]) -> Bucket:
    bucket = bucket_of("odd-keys")
    files = {key: image(number) for number, key in enumerate(ODD)}
    bucket.put({f"{folder}{key}": data for folder in ("", "in a+b%20::d/") for key, data in files.items()})
    bucket.put({"folder/": b"", "notes.txt": b"x", "folder/sub.jpg/": b""})
    return bucket


@pytest.mark.parametrize("folder", ["", "in a+b%20::d/"])
def test_any_key_is_listed_and_read(s3: S3Server, odd: Bucket, folder: str) -> None:
    access = access_to(s3)
    rows, listing = plan(access, f"{odd.url}/{folder}")
    store = access.store(odd.url)
    below = [row for row in rows if folder or not store.key(row["uri"]).startswith("in a")]  # type: ignore[attr-defined]
    keys = [store.key(row["uri"]) for row in below]  # type: ignore[attr-defined]
    assert keys == sorted((f"{folder}{key}" for key in ODD), key=str.encode)
    assert listing.skipped == ({} if folder else {".txt": 1})
    wanted = {f"{folder}{key}": image(number) for number, key in enumerate(ODD)}
    for key, row, found in zip(keys, below, read(below, access), strict=True):
        assert (found.status, found.data) == ("ok", wanted[key]), key
        assert row["num_bytes"] == len(wanted[key])
        assert store.read(row["uri"], (5, 9), row["version"], 9) == wanted[key][5:9]
        assert store.info(row["uri"]) == (row["num_bytes"], row["version"])
    assert sum(bool(UNTIDY.search(key)) for key in keys) > 8


def test_an_odd_key_that_is_gone_or_changed_is_like_any_other(s3: S3Server, odd: Bucket) -> None:
    store = access_to(s3).store(odd.url)
    for key in ("gone.jpg", "./gone.jpg"):
        with pytest.raises(FileNotFoundError):
            store.info(f"{odd.url}/{key}")
        with pytest.raises(FileNotFoundError):
            store.read(f"{odd.url}/{key}", None, None, 9)
    for key in ("plain.jpg", "./c.jpg"):
        with pytest.raises(base.RefusedError, match="changed"):
            store.read(f"{odd.url}/{key}", (0, 9), "0" * 32, 9)
        with pytest.raises(base.TooLargeError):
            store.read(f"{odd.url}/{key}", None, None, 9)


@pytest.fixture(scope="module")
def many(bucket_of: Callable[[str], Bucket]) -> tuple[Bucket, list[str]]:
    keys = [
        f"cam{cam}/2026-10-{day:02d}/{hour:02d}/{i}.jpg"
        for cam in range(3) for day in range(1, 6) for hour in range(8) for i in range(10)
    ]  # fmt: skip
    keys += [f"flat/{i:05d}.jpg" for i in range(1300)]
    keys += [f"cam1{end}" for end in ("!.jpg", "-x.jpg", ".jpg", "/a.jpg", "/2026-10-02.jpg", "0/z.jpg")]
    keys += [f"z/{'y/' * i}x{i}.jpg" for i in range(9)]
    bucket = bucket_of("many-keys")
    bucket.put(dict.fromkeys(keys, b""))
    return bucket, sorted(keys, key=str.encode)


@pytest.mark.parametrize("keys_a_page", [None, 7])
def test_a_listing_by_prefixes_has_every_key_once_and_in_order(
    s3: S3Server, many: tuple[Bucket, list[str]], monkeypatch: pytest.MonkeyPatch, keys_a_page: int | None
) -> None:
    bucket, keys = many
    if keys_a_page:
        ask = s3_module.S3._ask
        monkeypatch.setattr(s3_module.S3, "_ask", lambda *a, **p: ask(*a, MaxKeys=keys_a_page, **p))
        keys = [key for key in keys if not key.startswith(("flat/001", "cam2"))]
    tree = Tree(f"{bucket.url}/", ("[!f]*",) if keys_a_page else ())
    found = list(list_tree(tree, access_to(s3)))
    expected = [key for key in many[1] if not (keys_a_page and key.startswith("f"))]
    assert [file.relative for file in found] == expected
    assert [file.uri for file in found] == [f"{bucket.url}/{key}" for key in expected]


@pytest.mark.parametrize(
    "pattern",
    [
        "cam1/*/0[0-2]/*.jpg", "cam?/2026-10-01", "**/05/3.jpg", "*", "flat/0000?.jpg", "cam1*", "**/x3.jpg",
        "z/**", "no/such/*.jpg", "cam0/2026-10-03/07/*", "flat/00042.jpg", "**",
    ],
)  # fmt: skip
def test_a_pattern_lists_what_matches_and_little_else(
    s3: S3Server, many: tuple[Bucket, list[str]], monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    bucket, keys = many
    tree, asked = Tree(f"{bucket.url}/", tuple(pattern.split("/"))), []
    page = s3_module.S3.list_page
    monkeypatch.setattr(
        s3_module.S3, "list_page", lambda self, **p: asked.append(p["Prefix"]) or page(self, **p)
    )
    found = {file.relative: file.exact for file in list_tree(tree, access_to(s3))}
    assert found == {key: tree.takes(key) for key in keys if tree.takes(key) is not None}
    assert list(found) == sorted(found, key=str.encode)
    assert all(prefix.startswith(tree.stem) for prefix in asked)


WRONG = {
    "secret": (
        {"secret": "another-secret"},
        r"refuses the credentials \(SignatureDoesNotMatch\); renew them",
    ),
    "key": ({"key": "nobody"}, r"refuses the credentials \(InvalidAccessKeyId\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_credentials_are_one_sentence(s3: S3Server, odd: Bucket, what: str) -> None:
    changes, expected = WRONG[what]
    access = access_to(s3, **changes)
    with pytest.raises(UsageError, match=expected) as refused:
        plan(access, odd.url)
    with pytest.raises(UsageError, match="permission denied; check the URL") as single:
        plan(access, f"{odd.url}/plain.jpg")
    rows, _ = plan(access_to(s3), f"{odd.url}/plain.jpg")
    with pytest.raises(RunFailedError, match=expected) as failed:
        read(rows, access)
    for raised in (refused, single, failed):
        assert "\n" not in str(raised.value)
        assert "another-secret" not in str(raised.value)


def test_planning_a_tar_asks_for_its_size_once_and_reads_it_once(s3: S3Server, odd: Bucket) -> None:
    odd.put({"once/x.tar": make_tar({"a.jpg": image(1)})})
    with fault_proxy(s3.endpoint, Faults()) as proxy:
        rows, _ = plan(access_to(s3, endpoint_url=proxy.endpoint), f"{odd.url}/once/x.tar")
        assert (len(rows), proxy.requests) == (1, 2)


def test_a_bucket_that_is_not_there_is_one_sentence(s3: S3Server) -> None:
    for name in ("x", "x/y.jpg", "x.tar"):
        with pytest.raises(UsageError, match=r"s3://no-such-bucket: there is no such bucket|no such bucket"):
            plan(access_to(s3), f"s3://no-such-bucket/{name}")


def test_an_archive_without_credentials_is_one_sentence(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = StorageOptions(json.dumps({"s3://": {"endpoint_url": s3.endpoint}}))
    with pytest.raises(UsageError, match="no credentials found; set AWS_PROFILE or"):
        plan(Access(options=options), "s3://some-bucket/x")
    options = StorageOptions(json.dumps({"s3://": {"profile": "nobody"}}))
    with pytest.raises(UsageError, match=r"profile \(nobody\) could not be found"):
        plan(Access(options=options), "s3://some-bucket/x")


def test_a_store_that_is_not_there_is_one_sentence(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0)
    access = access_to(s3, endpoint_url="http://127.0.0.1:1")
    for name, expected in (("x", "cannot list s3://b at http://127.0.0.1:1: the server cannot be reached; check AWS_ENDPOINT_URL"),
                           ("x.tar", "cannot be read: the store's answer failed; check the URL")):  # fmt: skip
        with pytest.raises(UsageError, match=expected):
            plan(access, f"s3://b/{name}")


def make_parquet(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"path": list(files), "image": pa.array(files.values(), pa.binary())})
    pq.write_table(table, sink, row_group_size=7)
    return sink.getvalue()


def make_manifest(names: list[str]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink).writerows([["uri"], *([name] for name in names)])
    return sink.getvalue().encode()


INSIDE = {f"cam{k % 2}/{k:02d}.jpg": image(100 + k, 40_000 * (k % 3 == 0)) for k in range(25)}
OUTSIDE = {f"loose/cam{k % 2}/{k:02d}.jpg": image(200 + k) for k in range(25)}
FILES = OUTSIDE | {
    "packed/1.tar": make_tar(INSIDE),
    "packed/2.zip": make_zip(INSIDE, zipfile.ZIP_DEFLATED),
    "packed/3.parquet": make_parquet(INSIDE),
    "list.csv": make_manifest(list(OUTSIDE)),
}
ARGUMENTS = ("loose", "packed/*", "list.csv")


@pytest.fixture(scope="module")
def whole(bucket_of: Callable[[str], Bucket]) -> Bucket:
    bucket = bucket_of("every-kind")
    bucket.put(FILES)
    return bucket


def expected(root: str) -> dict[str, str]:
    """The sha256 of every image by its uri."""
    found = {f"{root}/{name}": data for name, data in OUTSIDE.items()}
    for number, (name, data) in enumerate(INSIDE.items()):
        found[f"tar://{name}::{root}/packed/1.tar"] = data
        found[f"zip://{name}::{root}/packed/2.zip"] = data
        found[f"parquet://{number}::{root}/packed/3.parquet"] = data
    return {uri: hashlib.sha256(data).hexdigest() for uri, data in found.items()}


def test_every_kind_on_s3_gives_the_bytes_that_it_gives_locally(
    s3: S3Server, whole: Bucket, tmp_path: Path
) -> None:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    here, local = plan(Access(), *(f"{tmp_path}/{name}" for name in ARGUMENTS))
    there, remote = plan(access_to(s3), *(f"{whole.url}/{name}" for name in ARGUMENTS))
    assert digests(here, Access()) == expected(f"file://{tmp_path}")
    assert digests(there, access_to(s3)) == expected(whole.url)
    differing = ("uri", "container", "version")
    assert [{k: v for k, v in row.items() if k not in differing} for row in here] == [
        {k: v for k, v in row.items() if k not in differing} for row in there
    ]
    assert local.skipped == remote.skipped == {"listed twice (planned once)": len(OUTSIDE)}


@pytest.mark.parametrize("name", ["packed/1.tar", "packed/2.zip", "packed/3.parquet"])
def test_a_container_replaced_since_it_was_planned_gives_no_image_of_another(
    s3: S3Server, bucket_of: Callable[[str], Bucket], name: str
) -> None:
    bucket = bucket_of(f"replaced-{name[7:].replace('.', '-')}")
    bucket.put({name: FILES[name]})
    rows, _ = plan(access_to(s3), f"{bucket.url}/{name}")
    make = {"tar": make_tar, "zip": make_zip, "parquet": make_parquet}[name.rpartition(".")[2]]
    turned = dict(zip(INSIDE, reversed(INSIDE.values()), strict=True))
    bucket.put({name: make(turned)})
    for found in read(rows, access_to(s3)):
        assert (found.data, found.status) == (None, "read_error")
        assert found.error == "the file that holds it changed since it was planned"
    bucket.client.delete_object(Bucket=bucket.name, Key=name)
    assert {found.status for found in read(rows, access_to(s3))} == {"missing"}


def test_an_image_replaced_since_it_was_planned_is_read_as_it_is(
    s3: S3Server, bucket_of: Callable[[str], Bucket]
) -> None:
    bucket = bucket_of("replaced-images")
    bucket.put({"a.jpg": image(1), "b.jpg": image(2), "c.jpg": image(3)})
    rows, _ = plan(access_to(s3), bucket.url)
    bucket.put({"a.jpg": image(4)})
    bucket.client.delete_object(Bucket=bucket.name, Key="b.jpg")
    found = read(rows, access_to(s3))
    assert [item.data for item in found] == [image(4), None, image(3)]
    assert (found[1].status, found[1].error) == ("missing", "the file is not there any more")


FAULTS = {kind: (0.3, (kind,)) for kind in KINDS} | {"all of them": (0.1, KINDS)}


@pytest.mark.parametrize("what", FAULTS)
def test_a_failing_store_gives_what_a_sound_one_does(
    s3: S3Server, whole: Bucket, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    rate, kinds = FAULTS[what]
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 2**16)  # the indexes of small containers in many requests
    with fault_proxy(s3.endpoint, Faults(rate=rate, kinds=kinds, stall_s=2, seed=3)) as proxy:
        access = access_to(s3, timeout_s=0.5 if "slow" in kinds else 30, endpoint_url=proxy.endpoint)
        rows, _ = plan(access, *(f"{whole.url}/{name}" for name in ARGUMENTS))
        found = digests(rows, access)
        counts = proxy.counts()
    assert found == expected(whole.url)
    sound, _ = plan(access_to(s3), *(f"{whole.url}/{name}" for name in ARGUMENTS))
    assert rows == sound
    assert sum(counts.values()) >= 5
    assert all(counts[kind] for kind in kinds) or len(kinds) > 1


def test_a_throttling_store_is_asked_for_less_at_a_time(
    s3: S3Server, whole: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_windows", {})
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0)
    rows, _ = plan(access_to(s3), f"{whole.url}/loose")
    with fault_proxy(s3.endpoint, Faults(rate=0.7, kinds=("unavailable",), seed=1)) as proxy:
        access = access_to(s3, endpoint_url=proxy.endpoint)
        assert {item.status for item in read(rows, access)} == {"ok"}
    assert 1 <= fetch.shared_window(access).limit < 16


def test_a_store_that_fails_for_good_costs_its_images_and_no_others(
    s3: S3Server, whole: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0)
    rows, _ = plan(access_to(s3), *(f"{whole.url}/{name}" for name in ARGUMENTS))
    rows = rows[::12]
    statuses = {}
    for kind in ("reset", "truncated"):
        with fault_proxy(s3.endpoint, Faults(rate=1, kinds=(kind,))) as proxy:
            found = read(rows, access_to(s3, endpoint_url=proxy.endpoint))
        statuses[kind] = {(item.status, item.error) for item in found}
    assert all(found == {("read_error", "the store kept failing")} for found in statuses.values())


def test_no_secret_is_in_the_plan_the_errors_or_the_logs(
    s3: S3Server, whole: Bucket, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    access = access_to(s3)
    with fault_proxy(s3.endpoint, Faults(rate=0.3, seed=5, kinds=("reset", "unavailable"))) as proxy:
        failing = access_to(s3, endpoint_url=proxy.endpoint)
        rows, listing = plan(failing, *(f"{whole.url}/{name}" for name in ARGUMENTS))
        images = read(rows, failing)
    errors = []
    for archive in ("s3://no-such-bucket/x", "s3://no-such-bucket/x.tar"):
        with pytest.raises(UsageError) as refused:
            plan(access, archive)
        errors.append(str(refused.value))
    shown = [repr(access), str(access), repr(access.store(whole.url)), json.dumps(rows, default=str)]
    shown += [
        str(listing.as_dict()),
        repr([item.error for item in images]),
        *errors,
        caplog.text,
        *capfd.readouterr(),
    ]
    assert s3.secret_key not in "\n".join(shown)
    assert json.loads(access.options.content)["s3://"]["secret"] == s3.secret_key


def test_presigned_urls_of_a_manifest_are_read_and_never_shown(
    s3: S3Server, bucket_of: Callable[[str], Bucket], tmp_path: Path
) -> None:
    bucket = bucket_of("presigned")
    bucket.put({**OUTSIDE, "odd/a b+c%20.jpg": image(1)})
    kinds = ("unavailable", "reset", "truncated", "long_length")
    with fault_proxy(s3.endpoint, Faults(rate=0.1, kinds=kinds, seed=2)) as proxy:
        host = f"{proxy.endpoint}/{bucket.name}"
        urls = [
            bucket.client.generate_presigned_url("get_object", {"Bucket": bucket.name, "Key": key}).replace(
                s3.endpoint, proxy.endpoint
            )
            for key in [*OUTSIDE, "odd/a b+c%20.jpg", "gone.jpg"]
        ]
        (tmp_path / "list.csv").write_bytes(make_manifest(urls))
        access = Access(prefixes=(host,))
        rows, listing = plan(access, f"{tmp_path}/list.csv", allow_prefix=(host,))
        found = read(rows, access)
    assert [row["fetch"] for row in rows] == urls
    assert [row["uri"] for row in rows] == [url.partition("?")[0] for url in urls]
    assert [item.data for item in found] == [*OUTSIDE.values(), image(1), None]
    shown = str([{**row, "fetch": None} for row in rows]) + str(listing.as_dict())
    assert "Signature" not in shown and s3.access_key not in shown
    assert found[-1].status == "missing"


HIDDEN = {
    "cam1/@eaDir/a.jpg/THUMB.jpg": "@eaDir",
    "#recycle/cam1/z.jpg": "#recycle",
    ".snapshot/hourly/cam1/a.jpg": ".snapshot",
    "cam1/._a.jpg": "._*",
    "cam1/b.jpg.part": "*.part",
    ".hidden.jpg": ".*",
}


def test_keys_are_left_out_by_name_and_counted(s3: S3Server, bucket_of: Callable[[str], Bucket]) -> None:
    bucket = bucket_of("left-out")
    bucket.put(dict.fromkeys([*HIDDEN, "cam1/a.jpg", "recycle/b.jpg"], b"x"))
    rows, listing = plan(access_to(s3), bucket.url)
    assert [row["uri"] for row in rows] == [f"{bucket.url}/cam1/a.jpg", f"{bucket.url}/recycle/b.jpg"]
    assert listing.hidden == dict.fromkeys(HIDDEN.values(), 1)
    rows, listing = plan(access_to(s3), f"{bucket.url}/#recycle")
    assert (len(rows), listing.hidden) == (1, {})


def test_a_prefix_that_may_not_be_listed_is_passed_over_if_asked_to(
    s3: S3Server, bucket_of: Callable[[str], Bucket]
) -> None:
    bucket = bucket_of("partly-closed")
    bucket.put(dict.fromkeys(["cam1/a.jpg", "closed/b.jpg", "lost+found/c.jpg"], b"x"))
    resource = f"arn:aws:s3:::{bucket.name}"
    closed = {"StringLike": {"s3:prefix": ["closed/*", "lost+found/*"]}}
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:ListBucket", "Resource": resource}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Condition": closed}]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    with pytest.raises(UsageError, match=r"cannot list s3://partly-closed/closed/: .*--skip-unreadable"):
        plan(access_to(s3), bucket.url)
    rows, listing = plan(access_to(s3), bucket.url, skip_unreadable=True)
    assert [row["uri"] for row in rows] == [f"{bucket.url}/cam1/a.jpg"]
    assert (listing.unreadable, listing.examples["unreadable"]) == (1, (f"{bucket.url}/closed/",))
    assert listing.hidden == {"lost+found (a folder, not entered)": 1}
