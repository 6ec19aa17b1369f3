"""A run opened from Python: its rows, its report, and where it stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from maskbatch.errors import UsageError
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import read_json
from maskbatch.runs.status import Status, read_status
from maskbatch.runs.versions import choose_versions
from maskbatch.stores.files import list_names, open_file
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text


@dataclass(frozen=True, slots=True)
class Run:
    """A run, also while it is running."""

    directory: RunDir

    @property
    def path(self) -> str:
        """Its folder or URL."""
        return str(self.directory.path)

    @property
    def status(self) -> Status:
        """Where it stands now."""
        return read_status(self.directory)

    def scores(self) -> ds.Dataset:
        """The committed rows: one an image, with `region` 0, in the columns of `schema.scores`.

        Reads only the files that `_SUCCESS` lists, when rows are asked for. The column `date` is the local
        day, YYYY-MM-DD or `unknown`, always a string. Raises UsageError where the run is not committed.
        """
        folder, filesystem = self.directory.path, None
        base = str(folder)
        if not isinstance(folder, Path):
            base, filesystem = folder.path, folder.fs
        return ds.dataset(
            [f"{base}/{file.name}" for file in open_committed(self.directory).score_files()],
            format="parquet",
            filesystem=filesystem,
            partitioning=ds.partitioning(pa.schema([("date", pa.string())]), flavor="hive"),
            partition_base_dir=base,
        )

    @property
    def report(self) -> dict[str, Any]:
        """report/report.json. Raises UsageError where there is no report."""
        values = read_json(self.directory.report / "report.json")
        if values is None:
            raise UsageError(f"{self.path}: no report is there; make one with `maskbatch report {self.path}`")
        return values

    def table(self, name: str) -> pa.Table:
        """A table of the report, such as `by_camera_day`. Raises UsageError where it is not there."""
        folder = self.directory.report
        names = [n.removesuffix(".parquet") for n in list_names(folder) if n.endswith(".parquet")]
        if name not in names:
            remedy = f"one of {', '.join(names)} expected" if names else "make it with `maskbatch report`"
            raise UsageError(f"{folder}: no table {name!r} is there; {remedy}")
        with open_file(folder / f"{name}.parquet") as file:
            return pq.read_table(file)


def open_run(path: Text, *, latest: bool = False, options: StorageOptions = NO_OPTIONS) -> Run:
    """Open the run at a path or URL; `latest` takes its highest committed version.

    Raises UsageError where no run is there.
    """
    (run,) = choose_versions([RunDir.at(path, options)], take_latest=latest)
    if not run.run_json.exists():
        raise UsageError(f"{run.path}: no run is there; check the path, or {run.remedy}")
    return Run(run)
