"""Private names of fsspec and s3fs that stores/filesystem.py uses, and what breaks when they change."""

import inspect

import fsspec
import pytest
from fsspec.asyn import sync
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem

from maskbatch.stores.filesystem import list_paths


@pytest.mark.parametrize(
    ("kind", "uri", "path"), [(MemoryFileSystem, "memory://b/a b", "/b/a b"), (S3FileSystem, "s3://b/k//x", "b/k//x")]
)  # fmt: skip
def test_strip_protocol_gives_the_path_that_every_request_of_an_archive_is_made_with(
    kind: type[fsspec.AbstractFileSystem], uri: str, path: str
) -> None:
    assert kind._strip_protocol(uri) == path


def test_kwargs_from_urls_are_settings_of_the_file_system_without_which_azure_lacks_its_account() -> None:
    for kind in (MemoryFileSystem, S3FileSystem):
        assert kind._get_kwargs_from_urls("s3://b/x") == {}
    assert fsspec.get_filesystem_class("ftp")._get_kwargs_from_urls("ftp://ann@host:21/x")["host"] == "host"


def test_lsdir_lists_one_folder_of_a_bucket_and_without_it_every_missing_folder_costs_its_parents_listing() -> (
    None
):
    assert inspect.iscoroutinefunction(S3FileSystem._lsdir)
    assert {"path", "max_items"} <= set(inspect.signature(S3FileSystem._lsdir).parameters)
    files = S3FileSystem(anon=True, skip_instance_cache=True)

    async def lsdir(path: str, max_items: int | None) -> list[dict[str, str]]:
        return [{"name": f"{path}/{name}"} for name in ("a", "b/")][:max_items]

    files._lsdir = lsdir
    assert sync(files.loop, files._lsdir, "b/run", max_items=None)
    assert list_paths(files, "b/run", None) == ["b/run/a", "b/run/b"]
    assert list_paths(files, "b/run", 1) == ["b/run/a"]
    assert not hasattr(MemoryFileSystem(), "_lsdir")
