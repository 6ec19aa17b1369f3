"""`maskbatch demo`: draw an archive with a known truth, score it with the ordinary job, and compare.

The archive is like a real one: day and night, people and nobody, some spoilt files, a file that is no image,
one camera frozen for a day, one dark for a day, one off for two days.
"""

from pathlib import Path

from maskbatch import runner
from maskbatch.config import DEMO_IMAGES, PlanConfig, ReportConfig, ScoreConfig
from maskbatch.demo import month, week
from maskbatch.demo.archive import draw_archive
from maskbatch.demo.sightings import FaceComparison, compare_faces
from maskbatch.demo.truth import Comparison, compare_with_truth
from maskbatch.progress import say

LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"
TIMEZONE = "Europe/Paris"


def run_demo(
    out: Path, num_images: int | None = None, *, view: str = "face", verbose: bool = False
) -> tuple[runner.Result, Comparison | FaceComparison]:
    """Draw `out`/archive unless it exists, score it to `out`/run, and compare the run with the truth."""
    out = out.absolute()
    archive, wanted = out / "archive", num_images or DEMO_IMAGES[view]
    if view == "face":
        snapshots = list(month.plan_month(wanted))
        _say_how_many(len(snapshots), wanted, month.OFF[0])
        draw_archive(out, snapshots, month.draw_file)
        result = _score(out, ReportConfig(), view, verbose=verbose)
        return result, compare_with_truth(result.run, archive, snapshots)
    pictures = list(week.plan_week(wanted))
    _say_how_many(len(pictures), wanted, week.OFF[0])
    truth = draw_archive(out, pictures, week.draw_file)
    result = _score(out, ReportConfig(exclude=("static_face",)), view, verbose=verbose)
    return result, compare_faces(result, archive, truth)


def _say_how_many(num_images: int, wanted: int, off: str) -> None:
    if num_images != wanted:
        say(f"{num_images:,} snapshots: as many for every camera and day, none while {off} is off.")


def _score(out: Path, report: ReportConfig, view: str, *, verbose: bool) -> runner.Result:
    config = PlanConfig(archives=(str(out / "archive"),), layout=(LAYOUT,), timezone=(TIMEZONE,))
    score = ScoreConfig(view=view)
    result = runner.score_archive(config, str(out / "run"), score=score, report=report, verbose=verbose)
    say(f"Archive: {out / 'archive'}   Truth: {out / 'truth.parquet'}")
    return result
