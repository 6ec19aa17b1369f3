"""The report of the run under review, and how to update it with new judgements."""

import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from maskbatch.config import ReportConfig, make_config
from maskbatch.errors import MaskbatchError
from maskbatch.progress import say
from maskbatch.report.make import make_report
from maskbatch.review.queue import read_queue
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location, parse_json, store_errors
from maskbatch.stores.options import StorageOptions


class Reports:
    """The run's report; a report in the folder `own` if the run has none that this version can use."""

    def __init__(self, run: RunDir, corrections: Location | None, own: Path, options: StorageOptions) -> None:
        self._run, self._corrections, self._own, self._options = run, corrections, own, options
        self._lock = threading.Lock()
        self.folder: Location = run.report
        try:
            self.queue: pa.Table = read_queue(self.folder)
            self.read_html()
        except (pa.ArrowException, ValueError, *store_errors()):
            say(f"{run.path} has no report of this version of maskbatch; making one for this session")
            self._make(self._own)
            self.queue = read_queue(self.folder)

    def read_html(self) -> str:
        """The current report.html."""
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def update(self) -> str:
        """Make the report again, in the run if possible; returns where. Raises UsageError."""
        with self._lock:
            try:
                self._make(self._own if self._corrections else self._run.report)
            except MaskbatchError:
                self._make(self._own)
        return "for this session only" if self.folder == self._own else f"in {self.folder}"

    def _read_config(self) -> ReportConfig:
        """The settings of the current report, or the defaults where they cannot be read."""
        try:
            settings = parse_json((self.folder / "report.json").read_bytes())["settings"]
            return make_config(ReportConfig, settings)
        except (FileNotFoundError, MaskbatchError, ValueError, TypeError, LookupError, AttributeError):
            return ReportConfig()

    def _make(self, folder: Location) -> None:
        """Make a report with the settings of the current one."""
        config = self._read_config()
        if self._corrections:
            config = replace(config, corrections=str(self._corrections))
        make_report([self._run], folder, config, self._options)
        self.folder = folder
