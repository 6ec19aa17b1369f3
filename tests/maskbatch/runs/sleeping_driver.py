"""A driver in a process of its own that stops itself, as a laptop that sleeps does, before a chosen step."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskbatch import runner
from maskbatch.config import PlanConfig, ScoreConfig
from maskbatch.report import plots
from maskbatch.runs import lease as lease_module
from maskbatch.stores.files import describe_failure, known_errors
from tests.maskbatch.runs.test_draft import InProcess
from tests.maskbatch.samples import LAYOUT

STEPS = ("replace", "link", "unlink", "rmdir")
"""What changes a folder."""


def drive(archive: str, out: str, checkpoint: str, **options: Any) -> runner.Result:
    plan = PlanConfig(archives=(archive,), layout=LAYOUT, timezone=("Europe/Paris",))
    return runner.score_archive(
        plan, out, score=ScoreConfig(dtype="float32"), checkpoint=checkpoint, **options
    )


def drive_and_sleep(archive: str, out: str, checkpoint: str, moment: int, before: str, told: Any) -> None:
    """Drive, stopped before step number `moment` on a file of the run; tells the steps, then how it ended.

    `before`: `step` right before the system call, `check` before the check that precedes it.
    """
    steps: list[str] = []
    runner.Cluster, runner.score_shards = InProcess, InProcess.score_shards  # type: ignore[misc]
    plots._svg = lambda *_: "<svg></svg>"
    lease_module.RENEW_S = 1e9  # so that it is no thread of this process that notices

    def sleep_at(name: str) -> None:
        steps.append(name)
        if len(steps) == moment:
            os.kill(os.getpid(), signal.SIGSTOP)

    def watch(call: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def watched(path: Any, *rest: Any, **named: Any) -> Any:
            place = Path(os.fspath(rest[0] if kind in ("replace", "link") else path))
            below = place.is_relative_to(out) and not place.is_relative_to(Path(out) / "report")
            if below and place.name != "_lease.json" and not place.name.startswith("."):
                sleep_at(f"{kind} {place.relative_to(out)}")
            return call(path, *rest, **named)

        return watched

    if before == "step":
        for kind in STEPS:
            setattr(os, kind, watch(getattr(os, kind), kind))
    else:
        check = lease_module.Lease.check

        def check_later(lease: lease_module.Lease) -> None:
            sleep_at("check")
            check(lease)

        lease_module.Lease.check = check_later  # type: ignore[method-assign]
    try:
        drive(archive, out, checkpoint)
        ended = (0, "")
    except known_errors() as error:
        said, code = describe_failure(error)
        ended = (code, said)
    told.send((steps, *ended))
