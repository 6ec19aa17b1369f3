"""The run directory OUT, a local folder or a store's prefix: its names.

    OUT/run.json   settings, completed step by step until scoring starts, then never changed
    OUT/plan/  staging/  scores/  _SUCCESS  report/  corrections/  _lease.json

State is derived, never stored: `_SUCCESS` means committed, a live lease running, otherwise
interrupted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.stores.files import (
    Location,
    explain,
    list_names,
    locate_folder,
    remove_tree,
    store_errors,
    write_json,
)
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run."""

    path: Location

    @classmethod
    def at(cls, out: str, options: StorageOptions = NO_OPTIONS) -> "RunDir":
        """The run directory named `out`, made or not. Raises UsageError, also where it cannot be seen."""
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

    @property
    def run_json(self) -> Location:
        return self.path / "run.json"

    @property
    def plan(self) -> Location:
        return self.path / "plan"

    @property
    def staging(self) -> Location:
        return self.path / "staging"

    @property
    def scores(self) -> Location:
        return self.path / "scores"

    @property
    def success(self) -> Location:
        return self.path / "_SUCCESS"

    @property
    def report(self) -> Location:
        return self.path / "report"

    @property
    def corrections(self) -> Location:
        return self.path / "corrections"

    @property
    def lease(self) -> Location:
        return self.path / "_lease.json"

    def read_run(self) -> dict[str, Any] | None:
        """run.json, or None where no run was begun. Raises UsageError for one we cannot read."""
        values = self._read_json(self.run_json)
        if values is not None and values.get("format_version") != FORMAT_VERSION:
            version = values.get("format_version")
            message = (
                f"{self.run_json}: run format {version}, {FORMAT_VERSION} expected; "
                "use the maskbatch that made it"
            )
            raise UsageError(message)
        if values is None:
            for name in list_names(self.path, at_most=100):
                if name != self.lease.name and not name.startswith("."):  # `whole` cut off leaves a dot name
                    what = f"is not empty and holds no run (found {name!r})"
                    raise UsageError(f"{self.path} {what}; name a new folder")
        return values

    def read_success(self) -> dict[str, Any] | None:
        """The commit, or None where the run is not committed."""
        return self._read_json(self.success)

    def _read_json(self, path: Location) -> dict[str, Any] | None:
        try:
            values: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            message = f"{path} is not readable as JSON ({error}); restore it, or name another folder"
            raise UsageError(message) from error
        if not isinstance(values, dict):
            raise UsageError(f"{path} is damaged: a JSON object expected; restore it, or name another folder")
        return values

    def clear(self) -> None:
        """Throw away an unfinished run, its lease kept; cut off, it can be called again.

        Raises UsageError, and removes nothing, where something else than a run lies here.
        """
        values = self.read_run()
        if values is None:
            return
        if self.success.exists():
            raise UsageError(f"{self.path} is committed and is never thrown away; name another --out")
        # As if nothing was listed yet: what a clearing that is cut off leaves can be resumed.
        kept = ("format_version", "created_at", "plan", "versions", "replaces")
        write_json(self.run_json, {name: values[name] for name in kept if name in values})
        for folder in (self.staging, self.scores, self.plan, self.report):
            remove_tree(folder)
        self.run_json.unlink(missing_ok=True)
