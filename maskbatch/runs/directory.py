"""The run directory OUT, a local folder or a prefix of a store, and the names in it.

    OUT/run.json   settings, completed step by step until scoring starts, then never changed
    OUT/plan/  staging/  scores/  _SUCCESS  report/  corrections/  _lease.json

No file stores the state: with `_SUCCESS` a run is committed, with a live lease it is running, otherwise
it is interrupted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.runs.records import FORMAT_VERSION, RunSettings, Success, read_json
from maskbatch.stores.files import (
    Check,
    Location,
    explain,
    list_names,
    locate_folder,
    remove_files,
    remove_tree,
    store_errors,
    write_json,
)
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text


class _Below:
    """A path in a run directory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDir", kind: type) -> Location:
        return run.path / self.name


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    path: Location

    @classmethod
    def at(cls, out: Text, options: StorageOptions = NO_OPTIONS) -> "RunDir":
        """The run directory `out`, which need not exist. Raises UsageError where we cannot look."""
        run = cls(locate_folder(out, options))
        try:
            if isinstance(run.path, Path):
                if run.path.exists() and not run.path.is_dir():
                    raise UsageError(f"{out}: a file stands there; the folder of a run expected")
            else:
                run.run_json.exists()
        except store_errors() as error:
            remedy = "check the address and your credentials"
            raise UsageError(f"{run.path} cannot be seen: {explain(error)}; {remedy}") from error
        return run

    run_json = _Below("run.json")
    plan = _Below("plan")
    staging = _Below("staging")
    scores = _Below("scores")
    success = _Below("_SUCCESS")
    report = _Below("report")
    corrections = _Below("corrections")
    lease = _Below("_lease.json")

    @property
    def remedy(self) -> str:
        """What to do where no run is."""
        return f"make one with `maskbatch score ARCHIVE --out {self.path}`"

    def read_run(self) -> RunSettings | None:
        """run.json, or None where a run can begin. Raises UsageError for one we cannot read."""
        values = self._read_run_json()
        return None if values is None else RunSettings.from_json(values, self.run_json)

    def find_run(self) -> RunSettings | None:
        """As `read_run`, and None too where other files stand in place of a run."""
        return self.read_run() if self.run_json.exists() else None

    def read_success(self) -> Success | None:
        """The commit, or None where the run is not committed. Raises UsageError for one we cannot read."""
        values = read_json(self.success)
        return None if values is None else Success.from_json(values, self.success)

    def _read_run_json(self) -> dict[str, Any] | None:
        values = read_json(self.run_json)
        if values is None:
            for name in list_names(self.path, at_most=100):
                if name != self.lease.name and not name.startswith("."):  # a dot name is a write cut off
                    what = f"is not empty and holds no run (found {name!r})"
                    raise UsageError(f"{self.path} {what}; name a new folder")
        elif (version := values.get("format_version")) != FORMAT_VERSION:
            message = f"{self.run_json}: run format {version}, {FORMAT_VERSION} expected"
            raise UsageError(f"{message}; use the maskbatch that made it")
        return values

    def refuse_committed(self) -> None:
        """Raises UsageError where the run is committed."""
        if self.success.exists():
            raise UsageError(f"{self.path} is committed and is never thrown away; name another --out")

    def clear(self, check: Check) -> None:
        """Throw away an unfinished run, but not its lease; if it is cut off, call it again.

        Raises UsageError, and removes nothing, where something else than a run lies here, and what `check`
        raises before each step.
        """
        values = self._read_run_json()
        if values is None:
            return
        self.refuse_committed()
        # As if nothing was listed yet, so that what a cut-off leaves can be resumed.
        kept = ("format_version", "created_at", "plan", "versions", "replaces")
        write_json(self.run_json, {name: values[name] for name in kept if name in values}, check=check)
        check()
        remove_tree(self.staging)
        for folder in (self.scores, self.plan, self.report):
            remove_files(folder, check)
        check()
        self.run_json.unlink(missing_ok=True)
