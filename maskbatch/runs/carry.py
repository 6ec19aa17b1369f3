"""The rows that a run carries over from earlier ones: read there, joined to the new plan by id."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.clock import Clock
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.progress import step
from maskbatch.runs.committed import CommittedRun, check_digests, group_files, open_committed, read_files
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import ReusedRun, RunSettings
from maskbatch.runs.regions import find_wrong_regions
from maskbatch.runs.work import take_planned
from maskbatch.stores.options import StorageOptions


class Carrier:
    """Earlier runs, opened to be copied from. Raises RunFailedError where one is gone, or has changed."""

    def __init__(self, settings: RunSettings, options: StorageOptions) -> None:
        self.runs = [_reopen(reused, options) for reused in settings.reuse]
        self._files = [list(group_files(earlier)) for earlier in self.runs]
        with step("reuse", sum(len(earlier.success.files) for earlier in self.runs), "files") as shown:
            for earlier in self.runs:
                try:
                    check_digests(earlier, shown)
                except UsageError as error:
                    raise RunFailedError(str(error)) from error
                if earlier.settings.scored_by != settings.scored_by:
                    what = "was scored otherwise than this run"
                    raise RunFailedError(f"{earlier.run.path}: {what}; --fresh plans anew")

    def read_rows(self, planned: pa.Table, clock: Clock, keep_column: str | None) -> pa.Table:
        """The scores rows of `planned`: what was measured is the earlier run's, all else the plan's."""
        target = schema.scores(self.runs[0].meaning.classes, keep_column, self.runs[0].score.view)
        parts = []
        for number in planned["reuse_run"].unique().to_pylist():
            mine = planned.filter(pc.equal(planned["reuse_run"], number))
            earlier, of_planned = self._read_earlier(number, mine)
            mine = mine.take(of_planned)
            for name in ("captured_at", "time_source"):  # of EXIF, where the plan has none
                place = mine.schema.get_field_index(name)
                mine = mine.set_column(place, name, pc.coalesce(mine[name], earlier[name]))
            columns = {name: earlier[name].cast(target.field(name).type) for name in earlier.column_names}
            columns |= take_planned(mine, [None] * len(mine), clock, keep_column)
            parts.append(pa.table(columns, target))
        return pa.concat_tables(parts).sort_by([("id", "ascending"), ("region", "ascending")])

    def _read_earlier(self, number: int, planned: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
        """The rows of an earlier run for `planned`, and the place there (N,) of each."""
        earlier, own = self.runs[number], planned["reuse_id"].to_numpy()
        order = np.argsort(own)
        wanted = own[order]
        keep = pc.field("id").isin(wanted)
        names = schema.scores(earlier.meaning.classes, view=earlier.score.view).names
        files = [
            (earlier, file)
            for ids, files in self._files[number]
            if np.searchsorted(wanted, ids.start) < np.searchsorted(wanted, ids.stop)
            for file in files
        ]
        try:
            parts = [rows.filter(keep) for rows in read_files(files, names)]
        except UsageError as error:
            raise RunFailedError(str(error)) from error
        rows = pa.concat_tables(parts).sort_by([("id", "ascending"), ("region", "ascending")])
        ids = rows["id"].to_numpy()
        if np.array_equal(ids[rows["region"].to_numpy() == 0], wanted) and not find_wrong_regions(rows).any():
            of_planned = order[np.searchsorted(wanted, ids)]
            if rows["uri"].to_pylist() == planned["uri"].take(of_planned).to_pylist():
                return rows, of_planned
        what = "the rows to carry over are not there; see `maskbatch verify`"
        raise RunFailedError(f"{earlier.run.path}: {what}")


def _reopen(reused: ReusedRun, options: StorageOptions) -> CommittedRun:
    try:
        earlier = open_committed(RunDir.at(reused.path, options))
    except UsageError as error:
        raise RunFailedError(f"a run whose rows are carried over cannot be read: {error}") from error
    if earlier.success_sha256 != reused.success_sha256:
        what = "is not the run any more whose rows are to be carried over"
        raise RunFailedError(f"{reused.path} {what}; put it back, or --fresh plans anew")
    return earlier
