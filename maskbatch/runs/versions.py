"""The versions of a run: OUT, then its siblings OUT.v2, OUT.v3 ..., each complete and replacing those before.

A committed run never changes; what came late is in its next version, whose run.json says what it replaces.
Versions are looked for by name, one after the other, so that no right to list the folder above is needed.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location

VERSION = re.compile(r"(?P<first>.+)\.v(?P<number>[1-9]\d*)")


LOOK_AHEAD = 2
"""Numbers in a row that may be missing, or taken by other runs, before no higher version is looked for."""


def list_versions(run: RunDir) -> list[RunDir]:
    """The versions that were begun, oldest first, of the run named or of the one that it is a version of."""
    first = RunDir(first_path(run.path, _settings(run)))
    found = {version_number(run.path, _settings(run)): run} if run.run_json.exists() else {}
    last = 0
    for number in count(1):
        if number > last + LOOK_AHEAD:
            return [version for _, version in sorted(found.items())]
        version = _numbered(first, number)
        if version.run_json.exists() and (number == 1 or _settings(version).get("replaces")):
            found[number], last = version, number
    raise AssertionError  # count() does not end


def find_latest(run: RunDir) -> RunDir:
    """The highest committed version. Raises UsageError where none is committed."""
    for version in reversed(list_versions(run)):
        if version.success.exists():
            return version
    raise UsageError(
        f"{run.path}: no finished run is there; make one with `maskbatch score ARCHIVE --out {run.path}`"
    )


def find_next(run: RunDir) -> tuple[RunDir, RunDir | None]:
    """Where new work on `run` goes, and the committed version that it replaces, if there is one.

    An unfinished highest version is gone on with, never skipped.
    """
    found = list_versions(run)
    committed = [version for version in found if version.success.exists()]
    if not committed:
        return (found or [run])[-1], None
    if committed[-1] is not found[-1]:
        return found[-1], committed[-1]
    first = RunDir(first_path(run.path, _settings(run)))
    if not first.path.name:
        raise UsageError(f"{first.path}: the top of a bucket has no versions; name a folder in it")
    last = version_number(found[-1].path, _settings(found[-1]))
    numbers = (_numbered(first, number) for number in count(last + 1))
    return next(version for version in numbers if not version.run_json.exists()), found[-1]


def choose_versions(runs: Sequence[RunDir], *, take_latest: bool) -> list[RunDir]:
    """`runs` as named, each once, or the latest of each; of one that has a newer version, it is said."""
    found: dict[str, RunDir] = {}
    for run in runs:
        newest = find_latest(run) if take_latest else run
        found[str(newest.path)] = newest
    for run in list(found.values()):
        newer = _newer(run)
        if newer is not None and str(newer.path) not in found:
            say(f"{run.path} is superseded by {newer.path}; --latest takes that one")
    return list(found.values())


def first_path(path: Location, settings: Mapping[str, Any]) -> Location:
    """The first version's path, of a run by its own path and run.json."""
    match = VERSION.fullmatch(path.name) if settings.get("replaces") else None
    return path.parent / match["first"] if match else path


def version_number(path: Location, settings: Mapping[str, Any]) -> int:
    """1 for a first version, 2 for `.v2` ..."""
    match = VERSION.fullmatch(path.name) if settings.get("replaces") else None
    return int(match["number"]) if match else 1


def _settings(run: RunDir) -> Mapping[str, Any]:
    return (run.read_run() or {}) if run.run_json.exists() else {}


def _numbered(first: RunDir, number: int) -> RunDir:
    return first if number == 1 else RunDir(first.path.parent / f"{first.path.name}.v{number}")


def _newer(run: RunDir) -> RunDir | None:
    """The highest committed version after this one."""
    if not run.success.exists():
        return None
    newest = find_latest(run)
    return newest if str(newest.path) != str(run.path) else None
