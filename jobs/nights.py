"""What the jobs share: how an archive is scored regularly, and the runs that lie below BASE/<zone>."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from maskbatch import config, runner
from maskbatch.clock import Clock, now
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import list_versions
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What is scored regularly, how, and where its runs go."""

    base: str
    values: dict[str, Any]
    """Settings by name: flags over the --config file; `archives` too."""
    options: StorageOptions

    @classmethod
    def read(
        cls, archives: Sequence[str], base: str, toml: Path | None, storage_options: Path | None, **flags: Any
    ) -> "Schedule":
        """Raises UsageError. A cluster that this is a job of (RAY_ADDRESS) is the one that scores."""
        values = config.read_toml(toml) if toml else {}
        values |= {name: value for name, value in flags.items() if value is not None}
        if "RAY_ADDRESS" in os.environ:
            values["address"] = "auto"
        if values.get("alert_by") == "overall":
            del values["alert_by"]
        values["archives"] = config.PlanConfig(archives=tuple(archives)).archives
        options = StorageOptions.from_toml(storage_options) if storage_options else NO_OPTIONS
        return cls(base=base.rstrip("/"), values=values, options=options)

    @property
    def clock(self) -> Clock:
        return Clock.parse(self.values.get("timezone", ()), now())

    @property
    def report_config(self) -> config.ReportConfig:
        return config.make_config(config.ReportConfig, self.values)

    def today(self) -> date:
        """In the default zone; the days before it are over there."""
        return now().astimezone(self.clock.default).date()

    def run(self, name: str | date) -> RunDir:
        """BASE/<zone>/<name>, made or not. Raises UsageError where it cannot be seen."""
        return RunDir.at(f"{self.base}/{self.clock.default.key}/{name}", self.options)

    def score(
        self,
        name: str | date,
        first: date,
        end: date,
        reuse: Iterable[RunDir] = (),
        *,
        fresh: bool = False,
    ) -> runner.Result:
        """The run of the local days from `first` to before `end`, reported; its next version for late images.

        Paths of the days beside them are listed too, as a path may have UTC's date.
        """
        out = str(self.run(name).path)
        days = {"since": first.isoformat(), "until": end.isoformat()}
        return runner.score_archive(
            config.make_config(config.PlanConfig, {"margin_days": 1, **self.values, **days}),
            out,
            score=config.make_config(config.ScoreConfig, self.values),
            job=config.make_config(config.JobConfig, self.values),
            report=self.report_config,
            checkpoint=self.values.get("checkpoint"),
            options=self.options,
            reuse=[*(str(run.path) for run in reuse), out],
            scheduled=True,
            fresh=fresh,
        )

    def night(self, day: date) -> RunDir | None:
        """The newest finished run of a local day, if it has one. Raises UsageError where it is damaged."""
        finished = [run for run in list_versions(self.run(day)) if run.success.exists()]
        return finished[-1] if finished else None
