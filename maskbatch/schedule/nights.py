"""An archive that is scored regularly, and its runs below BASE/<zone>, a run a local day."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from maskbatch.clock import Clock, name_zone, now
from maskbatch.config import JobConfig, PlanConfig, ReportConfig, ScoreConfig, make_config
from maskbatch.runner import Result, score_archive
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import list_versions
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import list_texts

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What is scored regularly, how, and where its runs go."""

    base: str
    values: dict[str, Any]
    """Settings by name, `archives` too."""
    options: StorageOptions

    @classmethod
    def of(
        cls,
        archives: Sequence[str],
        base: str,
        values: Mapping[str, Any],
        options: StorageOptions = NO_OPTIONS,
    ) -> "Schedule":
        """With the settings `values`. As a job of a cluster (RAY_ADDRESS) it scores on that cluster."""
        cluster = {"address": "auto"} if "RAY_ADDRESS" in os.environ else {}
        settings = {**values, **cluster, "archives": list(archives)}
        return cls(base=base.rstrip("/"), values=settings, options=options)

    @property
    def clock(self) -> Clock:
        return Clock.parse(list_texts(self.values.get("timezone", ())), now())

    @property
    def report_config(self) -> ReportConfig:
        return make_config(ReportConfig, self.values)

    def today(self) -> date:
        """The local day in the default zone; the days before it are over there."""
        return now().astimezone(self.clock.default).date()

    def run(self, name: str | date) -> RunDir:
        """BASE/<zone>/<name>, begun or not. Raises UsageError where it cannot be seen."""
        zone = name_zone(self.clock.default).replace(":", "")  # no name for a folder on every disk
        return RunDir.at(f"{self.base}/{zone}/{name}", self.options)

    def score(
        self, name: str | date, first: date, end: date, reuse: Iterable[RunDir] = (), *, fresh: bool = False
    ) -> Result:
        """Score and report the local days from `first` to before `end`; late images make the next version."""
        out = str(self.run(name).path)
        days = {"since": first.isoformat(), "until": end.isoformat()}
        return score_archive(
            make_config(PlanConfig, {"margin_days": 1, **self.values, **days}),  # a path may hold UTC's date
            out,
            score=make_config(ScoreConfig, self.values),
            job=make_config(JobConfig, self.values),
            report=self.report_config,
            checkpoint=self.values.get("checkpoint"),
            detector=self.values.get("detector"),
            options=self.options,
            reuse=[*(str(run.path) for run in reuse), out],
            scheduled=True,
            fresh=fresh,
        )

    def night(self, day: date) -> RunDir | None:
        """The newest finished run of a local day, or None. Raises UsageError where it is damaged."""
        finished = [run for run in list_versions(self.run(day)) if run.success.exists()]
        return finished[-1] if finished else None
