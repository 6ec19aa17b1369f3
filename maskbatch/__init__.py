"""maskbatch: score archives of camera snapshots for mask compliance, every image accounted for.

    archive -> plan -> read + decode -> score -> staging -> commit -> report

The path of a datum, one line per package, from the top down; upper ones import lower ones:

    cli        the command line
    schedule   nights and months that are scored regularly
    demo       a month or week of drawn cameras with a known truth
    runner     a whole run: plan, score, commit, report
    ui         the page in the browser (extra [ui])
    estimate   hours and cost of a run before it is made
    report     committed rows to rates, intervals, tables and the page
    predict    single images, without Ray
    cluster    Ray: the cluster, the job on it, its workers
    verify     a committed run checked
    review     what people judge, and what that says of the run
    score      a shard: read, find faces, judge, rows of scores
    decode     bytes to pixels, or the reason why not
    runs       the run directory: begun, staged, committed, read
    plan       one numbered row an image
    archives   the images that an archive holds, of any kind
    model      checkpoints, networks, the classifier
    stores     bytes by uri, on a disk or in any store
    drawing    pictures with a known truth

Single modules: config (every setting), layout (what a path says), clock, times, schema (columns), geometry
(boxes), progress, buckets (hashes on disk), errors, visible (names printed safely).

The public interface is `__all__`; it loads what is used. See docs/python.md.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskbatch.config import JobConfig, PlanConfig, ReportConfig, ScoreConfig
    from maskbatch.errors import (
        MaskbatchError,
        NoImagesError,
        NothingToPlanError,
        RunFailedError,
        RunLockedError,
        UsageError,
    )
    from maskbatch.predict.images import predict_images
    from maskbatch.report.compare import compare_runs
    from maskbatch.report.make import report_runs
    from maskbatch.runner import plan_archive, score_archive
    from maskbatch.runs.run import open_run
    from maskbatch.stores.options import StorageOptions
    from maskbatch.verify.files import verify_run

__version__ = version("maskbatch")
__all__ = [
    "JobConfig",
    "MaskbatchError",
    "NoImagesError",
    "NothingToPlanError",
    "PlanConfig",
    "ReportConfig",
    "RunFailedError",
    "RunLockedError",
    "ScoreConfig",
    "StorageOptions",
    "UsageError",
    "__version__",
    "compare_runs",
    "open_run",
    "plan_archive",
    "predict_images",
    "report_runs",
    "score_archive",
    "verify_run",
]

_HOMES = {
    "compare_runs": "report.compare",
    "open_run": "runs.run",
    "plan_archive": "runner",
    "predict_images": "predict.images",
    "report_runs": "report.make",
    "score_archive": "runner",
    "StorageOptions": "stores.options",
    "verify_run": "verify.files",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """A name of `__all__`, from the module where it is defined."""
    if name not in __all__:
        raise AttributeError(f"module 'maskbatch' has no attribute {name!r}")
    home = _HOMES.get(name) or ("errors" if name.endswith("Error") else "config")
    return getattr(import_module(f"maskbatch.{home}"), name)
