"""The versions of a run: OUT, then its siblings OUT.v2, OUT.v3 ..., each complete.

A committed run never changes. Late images go to its next version, whose run.json names what it replaces.
We look for versions name by name, which needs no right to list the folder above.
"""

import re
from collections.abc import Sequence
from itertools import count

from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location

VERSION = re.compile(r"(?P<first>.+)\.v(?P<number>[1-9]\d*)")
LOOK_AHEAD = 2
"""After so many numbers in a row that are missing, or taken by other runs, we look no further."""


def list_versions(run: RunDir) -> list[RunDir]:
    """The versions that were begun, oldest first, of the run that `run` is, or is a version of."""
    first, own = split_version(run.path, _replaced(run))
    versions = {own: run} if run.run_json.exists() else {}
    last = 0
    for number in count(1):
        if number > last + LOOK_AHEAD:
            break
        version = _numbered(first, number)
        if version.run_json.exists() and (number == 1 or _replaced(version)):
            versions[number], last = version, number
    return [version for _, version in sorted(versions.items())]


def find_latest(run: RunDir) -> RunDir:
    """The highest committed version. Raises UsageError where none is committed."""
    for version in reversed(list_versions(run)):
        if version.success.exists():
            return version
    raise UsageError(f"{run.path}: no finished run is there; {run.remedy}")


def find_next(run: RunDir) -> tuple[RunDir, RunDir | None]:
    """Where new work on `run` goes, its unfinished last version or a new one, and the one it replaces."""
    versions = list_versions(run)
    committed = [version for version in versions if version.success.exists()]
    if not committed:
        return (versions or [run])[-1], None
    newest = versions[-1]
    if committed[-1] is not newest:
        return newest, committed[-1]
    first, number = split_version(newest.path, _replaced(newest))
    if not first.name:
        raise UsageError(f"{first}: the top of a bucket has no versions; name a folder in it")
    higher = (_numbered(first, n) for n in count(number + 1))
    return next(version for version in higher if not version.run_json.exists()), newest


def choose_versions(runs: Sequence[RunDir], *, take_latest: bool) -> list[RunDir]:
    """`runs` as named, each once, or the latest version of each; warns of those that have a newer one."""
    chosen = {str(run.path): run for run in (map(find_latest, runs) if take_latest else runs)}
    for run in chosen.values():
        newest = find_latest(run) if run.success.exists() else run
        if str(newest.path) not in chosen:
            say(f"{run.path} is superseded by {newest.path}; --latest takes that one")
    return list(chosen.values())


def split_version(path: Location, replaces: str | None) -> tuple[Location, int]:
    """The path of the first version, and the number of this one; `replaces` is what its run.json says."""
    match = VERSION.fullmatch(path.name) if replaces else None
    return (path.parent / match["first"], int(match["number"])) if match else (path, 1)


def _replaced(run: RunDir) -> str | None:
    settings = run.find_run()
    return settings.replaces if settings else None


def _numbered(first: Location, number: int) -> RunDir:
    return RunDir(first if number == 1 else first.parent / f"{first.name}.v{number}")
