"""What earlier runs hold unchanged is carried over: the table is the one that scoring everything gives."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from maskbatch import runner
from maskbatch.archives.hidden import Rules
from maskbatch.cluster.nodes import Capacity, Node
from maskbatch.cluster.pipeline import ShardDone
from maskbatch.config import DECODE_RULES, PLAN_RULES, JobConfig, PlanConfig, ReportConfig, ScoreConfig
from maskbatch.errors import MaskbatchError, RunFailedError, RunLockedError, UsageError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.plan import table as table_module
from maskbatch.plan.table import read_plan, write_plan
from maskbatch.progress import Step
from maskbatch.report.compare import make_comparison
from maskbatch.report.make import make_report
from maskbatch.runs import begin
from maskbatch.runs.directory import RunDir
from maskbatch.runs.draft import CARRIED, MATCH, NEW, number_rows
from maskbatch.runs.staging import read_staged, write_shard
from maskbatch.runs.versions import list_versions
from maskbatch.runs.work import Work
from maskbatch.schema import BOX, explain_timeout
from maskbatch.score.networks import Networks
from maskbatch.stores.files import Location
from maskbatch.verify.files import check_run
from tests.maskbatch.samples import (
    LAYOUT,
    Run,
    edit_json,
    read_scores,
    speckle,
    stage_shard,
    with_exif_time,
    write_files,
)
from tests.maskbatch.verify.test_files import sign


class InProcess:
    """A cluster without Ray, and what it does; `scored` counts the images."""

    scored = 0
    stop_after: int | None = None

    def __init__(self, job: JobConfig, *, verbose: bool) -> None:
        self.job = job

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        pass

    def read_capacity(self) -> Capacity:
        return Capacity(Counter({Node(1, 0): 1}))

    @staticmethod
    def score_shards(cluster: object, work: Work, shards: Sequence[int]) -> Iterator[ShardDone]:
        networks = load(work.checkpoint, Path(work.checkpoint).stat().st_mtime_ns)
        nothing = {field.name: 0.0 for field in fields(ShardDone)}
        for shard in shards:
            if InProcess.stop_after is not None and InProcess.scored >= InProcess.stop_after:
                raise RunFailedError("stopped")
            statuses = stage_shard(work, shard, networks)
            InProcess.scored += sum(statuses.values())
            yield ShardDone(**{**nothing, "shard": shard, "statuses": statuses, "device": "cpu/float32"})


@cache
def load(path: str, changed_ns: int) -> Networks:
    return Networks(open_checkpoint(path), None, ScoreConfig(dtype="float32"), device="cpu")


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, no_plots: None) -> None:
    monkeypatch.setattr(runner, "Cluster", InProcess)
    monkeypatch.setattr(runner, "score_shards", InProcess.score_shards)
    monkeypatch.setattr(InProcess, "scored", 0)
    monkeypatch.setattr(InProcess, "stop_after", None)


@pytest.fixture
def archive(month: Path, tmp_path: Path) -> Path:
    """A copy of the month, times and links kept, to be changed."""
    return Path(shutil.copytree(month, tmp_path / "archive", symlinks=True))


@pytest.fixture
def score(archive: Path, checkpoint: Checkpoint, tmp_path: Path) -> Any:
    def call(out: str, *reuse: str, **changes: Any) -> runner.Result:
        values = {"archives": (str(archive),), "layout": LAYOUT, "timezone": ("Europe/Paris",)} | changes
        options = {name: values.pop(name) for name in ("fresh", "scheduled", "checkpoint") if name in values}
        InProcess.scored = 0
        return runner.score_archive(
            PlanConfig(**values),
            str(tmp_path / out),
            score=ScoreConfig(dtype="float32"),
            **{"checkpoint": checkpoint.path, **options},
            reuse=[str(tmp_path / name) for name in reuse],
        )

    return call


def another_checkpoint(checkpoint: Checkpoint, path: Path) -> Path:
    weights = {name: value * 1.01 for name, value in load_file(checkpoint.path).items()}
    save_checkpoint(path, open_checkpoint(checkpoint.path).card, weights)
    return path


def table(result: runner.Result) -> pa.Table:
    """The rows by uri, without their ids, which depend on what was carried over."""
    return read_scores(result.run).sort_by("uri").drop_columns("id")


def scored_anew(score: Any, out: str = "anew", **changes: Any) -> pa.Table:
    return table(score(out, **changes))


def test_late_changed_and_failed_images_are_scored_and_all_else_is_carried_over(
    score: Any, archive: Path
) -> None:
    first = score("run")
    assert InProcess.scored == 102
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    changed = sorted(archive.glob("north/gate-2/*/*.jpg"))[0]
    changed.write_bytes(speckle(6000))
    (archive / "south" / "gone.jpg").unlink()
    (archive / "extra" / "late.jpg").unlink()
    second = score("run", "run")
    assert InProcess.scored == 2
    assert second.run.path.name == "run.v2"
    assert second.success.planned == 101 and second.success.carried == 99
    settings = second.run.read_run()
    assert settings.replaces == "run"
    assert settings.reuse[0].path == str(first.run.path)
    assert settings.reuse_counts == {
        "carried": 99, "failed before": 0, "without a version": 0, "changed": 1, "new": 1, "gone": 2,
    }  # fmt: skip
    assert check_run(second.run).verified
    assert table(second).equals(scored_anew(score))


def test_nothing_new_makes_no_version_and_gives_the_recorded_code(
    score: Any, archive: Path, tmp_path: Path
) -> None:
    (archive / "south" / "gone.jpg").unlink()
    first = score("run")
    again = score("run", "run")
    assert InProcess.scored == 0
    assert (again.run, again.rescored, again.success) == (first.run, False, first.success)
    assert not (tmp_path / "run.v2").exists()


def test_a_run_whose_images_are_no_longer_in_the_archive_stays(score: Any, archive: Path) -> None:
    first = score("run", since="2026-10-01", until="2026-10-02")
    for path in (*archive.glob("*/*/2026-10-01"), archive / "extra"):
        shutil.rmtree(path)
    (archive / "south" / "gone.jpg").unlink()
    again = score("run", "run", since="2026-10-01", until="2026-10-02")
    assert (again.run, again.rescored, again.success) == (first.run, False, first.success)


@pytest.fixture
def old_run(score: Any, archive: Path) -> runner.Result:
    """A run as a maskbatch made it that planned thumbnails and bins too."""
    names = [f"@eaDir/gate-1/2026-10-0{day}/080000.jpg" for day in (1, 2, 3)]
    names.append("#recycle/gate-1/2026-10-01/080000.jpg")
    write_files(archive, {name: speckle(7000 + i) for i, name in enumerate(names)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rules, "find_hidden", lambda rules, relative: None)
        patch.setattr(begin, "PLAN_RULES", 1)
        return score("run")


def test_a_next_version_says_how_many_images_the_rules_leave_out_now(
    score: Any, archive: Path, old_run: runner.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (old_run.success.planned, old_run.run.read_run().plan_rules) == (106, 1)
    assert score("run", "run", scheduled=True).run.path.name == "run"
    capsys.readouterr()
    second = score("run", "run")
    said = capsys.readouterr().err
    expected = (
        f"reuse: 4 images of {old_run.run.path} are left out by their names now; --include-hidden keeps"
    )
    assert expected in " ".join(said.split())
    assert "in the archive no more" not in said
    assert (second.run.path.name, second.success.planned, InProcess.scored) == ("run.v2", 102, 1)
    settings = second.run.read_run()
    assert (settings.plan_rules, settings.reuse_counts["gone"]) == (PLAN_RULES, 0)
    assert settings.listing.hidden == {"@eaDir": 3, "#recycle": 1}
    assert table(second).equals(scored_anew(score))


def test_what_older_rules_planned_can_be_kept(score: Any, old_run: runner.Result) -> None:
    second = score("run", "run", include_hidden=True)
    assert (second.run.path.name, second.success.planned, InProcess.scored) == ("run.v2", 106, 1)
    assert second.run.read_run().reuse_counts["gone"] == 0


def test_the_same_command_gives_a_run_of_older_rules_as_it_is(score: Any, old_run: runner.Result) -> None:
    again = score("run")
    assert (again.rescored, again.success) == (False, old_run.success)


def test_an_image_that_failed_before_is_tried_again_when_that_is_asked_for(
    score: Any, archive: Path, tmp_path: Path
) -> None:
    image = sorted(archive.glob("north/gate-1/*/*.jpg"))[0]
    data, times = image.read_bytes(), image.stat()
    config = PlanConfig(archives=(str(archive),), layout=LAYOUT, timezone=("Europe/Paris",))
    runner.plan_archive(config, str(tmp_path / "run"))
    image.unlink()
    image.mkdir()
    assert score("run").success.statuses["read_error"] == 1
    image.rmdir()
    image.write_bytes(data)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert score("run", "run", scheduled=True).run.path.name == "run"
    healed = score("run", "run")
    assert healed.run.path.name == "run.v2"
    assert healed.run.read_run().reuse_counts["failed before"] == 1
    assert table(healed).equals(scored_anew(score))


@pytest.mark.parametrize(("limit_s", "tried"), [(20.0, 1), (7.0, 2)])
def test_a_decode_that_took_too_long_is_final_for_the_same_limit(
    limit_s: float, tried: int, score: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is put into staging as a worker writes it; the link to nowhere is tried again in any case."""
    stage = stage_shard

    def time_out(work: Work, shard: int, *others: Any) -> dict[str, int]:
        stage(work, shard, *others)
        path = work.run.staging / f"{shard:08d}.parquet"
        rows = read_staged(path)
        if shard == 0:
            values = rows.to_pylist()
            blank = {name: None for name in rows.column_names if name.startswith("prob_")}
            blank |= {"label": None, "confidence": None, "needs_review": False}
            values[3] |= {"status": "timeout", "error": explain_timeout(limit_s), **blank}
            rows = pa.Table.from_pylist(values, rows.schema)
        return write_shard(work.run.staging, shard, rows, "cpu/float32", work.run_id)

    monkeypatch.setitem(globals(), "stage_shard", time_out)
    assert score("run").success.statuses["timeout"] == 1
    monkeypatch.undo()
    monkeypatch.setattr(runner, "Cluster", InProcess)
    monkeypatch.setattr(runner, "score_shards", InProcess.score_shards)
    again = score("again", "run")
    assert (InProcess.scored, again.success.statuses.get("timeout", 0)) == (tried, 2 - tried)


def test_a_month_over_its_nights_scores_nothing_and_is_the_run_of_the_month(score: Any) -> None:
    nights = [f"night-{day}" for day in (1, 2, 3)]
    for day, night in zip((1, 2, 3), nights, strict=True):
        score(night, since=f"2026-10-0{day}", until=f"2026-10-0{day + 1}")
    over_all = score("month", *nights, since="2026-10-01", until="2026-10-04")
    assert InProcess.scored == 1  # the link to nowhere has no version to compare
    assert over_all.run.path.name == "month"
    assert over_all.run.read_run().replaces is None
    assert check_run(over_all.run).verified
    assert table(over_all).equals(scored_anew(score, since="2026-10-01", until="2026-10-04"))


def test_rows_of_another_checkpoint_or_other_settings_are_not_carried_over(
    score: Any, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score("run")
    other = another_checkpoint(checkpoint, tmp_path / "other.safetensors")
    capsys.readouterr()
    result = score("run", "run", checkpoint=str(other))
    assert InProcess.scored == 102
    assert result.run.path.name == "run.v2" and result.success.carried == 0
    assert "was scored by another checkpoint; its rows are not carried over" in capsys.readouterr().err


def change_score(result: runner.Result, **changes: Any) -> None:
    """Make a run's settings say other ones of scoring, and `_SUCCESS` list them."""
    values = json.loads(result.run.run_json.read_bytes())
    edit_json(result.run.run_json, score=values["score"] | changes)
    sign(Run(result.run, None), "run.json")


def test_rows_of_another_batch_shape_are_carried_over(
    score: Any, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = score("run")
    assert first.run.read_run().score.batch_size == 32
    change_score(first, batch_size=256)
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    second = score("run", "run")
    assert (InProcess.scored, second.success.carried) == (2, 101)  # the late image, and a link to nowhere
    assert second.run.read_run().score.batch_size == 32
    assert check_run(second.run).verified


def test_rows_that_a_gpu_decoded_are_not_carried_into_a_run_of_the_cpu(
    score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change_score(score("run"), decoder="gpu")
    result = score("run", "run")
    assert (InProcess.scored, result.success.carried) == (102, 0)
    assert "was scored by other settings; its rows are not carried over" in capsys.readouterr().err


def test_a_decoder_that_changes_before_rows_are_copied_stops_the_commit(
    score: Any, archive: Path, tmp_path: Path
) -> None:
    """The digest stands for it too: no row of another decoder comes along."""
    first = score("run")
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    InProcess.stop_after = 0
    with pytest.raises(RunFailedError, match="stopped"):
        score("run", "run")
    InProcess.stop_after = None
    change_score(first, decoder="gpu")
    with pytest.raises(MaskbatchError):
        score("run", "run")
    assert not (tmp_path / "run.v2" / "_SUCCESS").exists()


def test_carried_rows_follow_the_new_plan_in_what_paths_and_zones_say(score: Any, archive: Path) -> None:
    write_files(archive, {"extra/exif.jpg": with_exif_time("2026:10:02 12:30:00")})
    score("run")
    changes = {"timezone": ("Asia/Tokyo",), "layout": "{camera}/*/{captured_at:%Y-%m-%d/%H%M%S}.jpg"}
    other = score("run", "run", **changes)
    assert InProcess.scored == 4  # those without a time in the path, as another zone reads EXIF's otherwise
    assert other.run.path.name == "run.v2"
    assert check_run(other.run).verified
    assert table(other).equals(scored_anew(score, **changes))


def test_carried_rows_follow_the_zone_of_the_names_and_another_permission_makes_no_version(
    score: Any,
) -> None:
    first = score("run")
    assert score("run", "run", allow_unknown_times=True, scheduled=True).run.path == first.run.path
    other = score("run", "run", names_in=("UTC",))
    assert InProcess.scored == 1  # without a version
    assert other.run.path.name == "run.v2"
    assert check_run(other.run).verified
    assert table(other).equals(scored_anew(score, names_in=("UTC",)))
    assert not table(other)["captured_at"].equals(table(first)["captured_at"])


def test_times_of_exif_are_carried_over_to_the_second(score: Any, archive: Path) -> None:
    times = [
        ("2026:10:25 02:30:00", "+01:00"),
        ("2026:10:25 02:30:00", "+02:00"),
        ("2026:03:29 02:30:00", None),
    ]
    files = {f"extra/{k}.jpg": with_exif_time(*time) for k, time in enumerate(times)}
    write_files(archive, files)
    beside = {"allow_unknown_times": True}
    score("run", **beside)
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    second = score("run", "run", **beside)
    assert InProcess.scored == 2
    assert check_run(second.run).verified
    assert table(second).equals(scored_anew(score, **beside))


def test_what_a_manifest_corrects_is_new_and_nothing_is_scored_for_it(score: Any, archive: Path) -> None:
    images = sorted(archive.glob("north/gate-1/*/*.jpg"))[:6]
    listed = archive / "list.csv"

    def write(camera: str) -> None:
        rows = [f"{path},{camera},{path.stat().st_mtime_ns}" for path in images]
        listed.write_text("\n".join(["uri,camera,version", *rows]))

    write("gate-1")
    score("run", archives=(str(listed),), layout=None)
    write("gate-9")
    second = score("run", "run", archives=(str(listed),), layout=None)
    assert (InProcess.scored, second.run.path.name) == (0, "run.v2")
    assert set(read_scores(second.run)["camera"].to_pylist()) == {"gate-9"}


def test_a_scheduled_call_never_replaces_a_run_by_what_a_purge_left_of_it(
    score: Any, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = score("run")
    for path in archive.glob("*/gate-1/2026-10-01"):
        shutil.rmtree(path)
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    assert score("run", "run", scheduled=True).run == first.run
    assert (
        "is not replaced: 11 of its images are in the archive no more, and 1 are new"
        in capsys.readouterr().err
    )
    assert score("run", "run").run.path.name == "run.v2"


def test_a_plan_made_without_reuse_is_made_anew_with_it(score: Any, archive: Path, tmp_path: Path) -> None:
    score("night", until="2026-10-02")
    config = PlanConfig(archives=(str(archive),), layout=LAYOUT, timezone=("Europe/Paris",))
    runner.plan_archive(config, str(tmp_path / "month"))
    result = score("month", "night")
    assert result.success.carried > 0
    assert check_run(result.run).verified


def test_out_is_known_by_any_spelling(score: Any, archive: Path, tmp_path: Path) -> None:
    first = score("run")
    (tmp_path / "link").symlink_to(first.run.path)
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    assert score("run", "link").run.path.name == "run.v2"
    assert (
        score("run", "elsewhere/../run").run.path.name == "run.v3"
    )  # as the link to nowhere fails each time


@pytest.mark.parametrize("change", [{"carried": 3}, {"reuse": []}])
def test_verify_notices_a_plan_that_says_otherwise_of_what_was_carried(
    change: dict[str, Any], score: Any, archive: Path
) -> None:
    score("run")
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    run = score("run", "run").run
    for path in (run.run_json, run.success):
        values = json.loads(path.read_bytes())
        path.write_text(json.dumps({**values, **{k: v for k, v in change.items() if k in values}}))
    found = check_run(run, sample=0)
    assert [d.id for d in found.differences if d.what == "reuse_run"] == [2]


@pytest.mark.parametrize("change", ["another checkpoint", "forged rows"])
def test_rows_are_only_copied_as_they_were_when_the_plan_was_made_of_them(
    change: str,
    score: Any,
    archive: Path,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = score("run")
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    stop = "begin_scoring" if change == "another checkpoint" else "_score"
    with monkeypatch.context() as broken:
        broken.setattr(runner, stop, lambda *_: (_ for _ in ()).throw(RunFailedError("stopped")))
        with pytest.raises(RunFailedError, match="stopped"):
            score("run", "run")
    if change == "another checkpoint":
        other = another_checkpoint(checkpoint, tmp_path / "other.safetensors")
        result = score("run", "run", checkpoint=str(other))
        assert result.success.carried == 0 and check_run(result.run, checkpoint=str(other)).verified
        return
    file = next(path for path in first.run.scores.rglob("*.parquet"))
    rows = pq.read_table(file)
    pq.write_table(rows.set_column(rows.schema.get_field_index("camera"), "camera", rows["site"]), file)
    with pytest.raises(RunFailedError, match=r"was committed, found"):
        score("run", "run")


def test_a_plan_that_no_longer_reads_the_time_from_the_path_asks_exif(score: Any, archive: Path) -> None:
    score("run")
    other = score("run", "run", layout="{site}/{camera}/**")
    assert InProcess.scored == 100
    assert table(other).equals(scored_anew(score, layout="{site}/{camera}/**"))


@pytest.mark.parametrize("moment", ["while scoring", "while committing"])
def test_a_version_that_was_cut_off_is_gone_on_with(
    moment: str, score: Any, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score("run")
    write_files(archive, {f"south/dock/2026-10-03/22{k:02d}00.jpg": speckle(7000 + k) for k in range(40)})
    with monkeypatch.context() as broken:
        broken.setattr(begin, "choose_shard_size", lambda *_: 16)
        if moment == "while scoring":
            broken.setattr(InProcess, "stop_after", 16)
        else:
            broken.setattr(runner, "commit_run", lambda *_: (_ for _ in ()).throw(RunFailedError("stopped")))
        with pytest.raises(RunFailedError, match="stopped"):
            score("run", "run")
    result = score("run", "run")
    assert InProcess.scored == (41 - 16 if moment == "while scoring" else 0)
    assert [run.path.name for run in list_versions(result.run)] == ["run", "run.v2"]
    assert check_run(result.run).verified
    assert table(result).equals(scored_anew(score))


def test_a_damaged_run_is_not_carried_over_from(score: Any) -> None:
    damaged = score("run")
    file = next(path for path in damaged.run.scores.rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match=r"was committed, found .*; restore it, or leave this run out"):
        score("other", "run")


@pytest.mark.parametrize(
    ("change", "said"), [("gone", "no run is there"), ("another", "is not the run any more")]
)
def test_a_run_that_changes_before_its_rows_are_copied_stops_the_commit_and_loses_nothing(
    change: str, said: str, score: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    night = score("night", until="2026-10-02")
    with monkeypatch.context() as broken:
        broken.setattr(InProcess, "stop_after", 0)
        with pytest.raises(RunFailedError, match="stopped"):
            score("month", "night")
    kept = night.run.path.rename(tmp_path / "kept")
    if change == "another":
        score("night", until="2026-10-02", limit=5)
    with pytest.raises(MaskbatchError, match=said):
        score("month", "night")
    shutil.rmtree(night.run.path, ignore_errors=True)
    kept.rename(night.run.path)
    assert table(score("month", "night")).equals(scored_anew(score))


def test_runs_and_versions_may_lie_in_a_store(
    archive: Path, checkpoint: Checkpoint, score: Any, root: Location
) -> None:
    def call(**options: Any) -> runner.Result:
        plan_config = PlanConfig(archives=(str(archive),), layout=LAYOUT, timezone=("Europe/Paris",))
        scoring = ScoreConfig(dtype="float32")
        return runner.score_archive(
            plan_config, str(root / "run"), score=scoring, checkpoint=checkpoint.path, **options
        )

    call()
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    second = call(reuse=[str(root / "run")])
    assert second.run.path.name == "run.v2"
    assert second.success.carried == 101
    assert table(second).equals(scored_anew(score))


def test_a_version_holds_the_same_images_and_has_no_other_name(score: Any, tmp_path: Path) -> None:
    score("run")
    with pytest.raises(
        UsageError, match=r"would hold other images: limit 5 instead of None; name another --out"
    ):
        score("run", "run", limit=5)
    with pytest.raises(
        UsageError, match=r"is the name of a version of .*run; give --out .*run --reuse .*run"
    ):
        score("run.v2", "run")
    assert not (tmp_path / "run.v2").exists()


def test_a_second_driver_of_a_version_is_refused(
    score: Any, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskbatch.runs.lease import Lease

    first = score("run")
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    with (
        Lease(RunDir(first.run.path.with_name("run.v2"))),
        pytest.raises(RunLockedError, match="is in use by"),
    ):
        score("run", "run")


def fix_boxes(run: RunDir) -> None:
    """Give the rows of a run the `box` of fixed size that they had at first."""
    success = json.loads(run.success.read_bytes())
    for entry in success["files"]:
        if entry["name"].startswith("scores/"):
            rows = pq.read_table(path := run.path / entry["name"], partitioning=None)
            place = rows.schema.get_field_index("box")
            pq.write_table(rows.set_column(place, "box", rows["box"].cast(pa.list_(pa.float32(), 4))), path)
            data = path.read_bytes()
            entry |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    run.success.write_text(json.dumps(success))


def test_runs_with_boxes_of_fixed_size_are_carried_over_from_verified_and_reported(
    score: Any, archive: Path, tmp_path: Path
) -> None:
    old = score("night", until="2026-10-02").run
    fix_boxes(old)
    new = score("rest", since="2026-10-02").run
    assert check_run(old, sample=20, seed=2).verified
    month = score("month", "night")
    assert month.success.carried > 30
    assert table(month).equals(scored_anew(score))
    assert table(month)["box"].type == BOX
    report = make_report([old, new], tmp_path / "report", ReportConfig(own_days=True))
    assert report.overall["listed"] == 99  # without those of unknown time
    assert make_comparison([old], [month.run]).changed == 0


def age(run: RunDir) -> None:
    """Make a run one of before decode rules were recorded."""
    values = json.loads(run.run_json.read_bytes())
    del values["decode_rules"]
    for reused in values["reuse"]:
        reused.pop("decode_rules", None)
    data = json.dumps(values).encode()
    run.run_json.write_bytes(data)
    if run.success.exists():
        success = json.loads(run.success.read_bytes())
        entry = next(file for file in success["files"] if file["name"] == "run.json")
        entry |= {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        run.success.write_text(json.dumps(success))


def test_of_a_run_of_older_decode_rules_only_ok_rows_are_carried_over(
    score: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    age(score("run").run)
    second = score("run", "run")
    assert (InProcess.scored, second.success.carried) == (4, 98)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "was scored by older decode rules (1, now 2); only its ok rows are carried over" in said
    assert second.run.read_run().decode_rules == DECODE_RULES
    assert second.run.read_run().oldest_decode_rules == 1
    third = score("other", "run.v2")
    assert (InProcess.scored, third.run.read_run().oldest_decode_rules) == (1, 1)  # the link to nowhere
    assert check_run(third.run).verified


def test_an_unfinished_run_of_older_decode_rules_scores_all_of_its_images_again(
    score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(InProcess, "stop_after", 64)
    monkeypatch.setattr(begin, "choose_shard_size", lambda *_: 32)
    with pytest.raises(RunFailedError, match="stopped"):
        score("run")
    run = RunDir.at(str(tmp_path / "run"))
    age(run)
    for path in run.staging.iterdir():  # as older rules staged it
        rows = read_staged(path)
        settings = run.read_run()
        run_id = f"{settings.checkpoint.digest[:16]} {settings.created_at.isoformat()}"
        failed = rows.set_column(
            rows.schema.get_field_index("error"), "error", pa.nulls(len(rows), pa.string())
        )
        write_shard(run.staging, int(path.stem), failed, "cpu/float32", run_id)
    monkeypatch.setattr(InProcess, "stop_after", None)
    result = score("run")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "run was begun under older decode rules 1, now 2; what it staged is scored again" in said
    assert InProcess.scored == 102
    assert result.run.read_run().decode_rules == DECODE_RULES
    assert table(result).equals(scored_anew(score))


def test_an_unfinished_run_of_older_decode_rules_keeps_its_batch_shape(
    score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InProcess, "stop_after", 0)
    with pytest.raises(RunFailedError, match="stopped"):
        score("run")
    run = RunDir.at(str(tmp_path / "run"))
    edit_json(run.run_json, score={**run.read_run().score_values, "batch_size": 128})  # by a GPU
    age(run)
    monkeypatch.setattr(InProcess, "stop_after", None)
    assert score("run").run.read_run().score.batch_size == 128


def test_an_unfinished_version_of_older_decode_rules_is_planned_again(
    score: Any, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score("run")
    write_files(archive, {"north/gate-1/2026-10-02/101500.jpg": speckle(5000)})
    with monkeypatch.context() as broken:
        broken.setattr(InProcess, "stop_after", 0)
        with pytest.raises(RunFailedError, match="stopped"):
            score("run", "run")
        with pytest.raises(RunFailedError, match="stopped"):
            score("month", "run")
    for name in ("run", "run.v2", "month"):
        age(RunDir(tmp_path / name))
    with pytest.raises(UsageError, match=r"carries 101 rows over by older decode rules; give --reuse"):
        score("month")
    for out in ("run", "month"):
        result = score(out, "run")
        assert (InProcess.scored, result.success.carried) == (5, 98)
        assert check_run(result.run).verified
        assert table(result).equals(scored_anew(score))


def test_a_run_of_newer_decode_rules_is_neither_gone_on_with_nor_carried_over_from(
    score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = score("newer").run
    edit_json(newer.run_json, decode_rules=9)
    with pytest.raises(UsageError, match=r"knows up to 2; upgrade maskbatch, or leave that --reuse out"):
        score("run", "newer")
    with pytest.raises(
        UsageError, match=r"scored by decode rules 9, .* or check its files alone with --sample 0"
    ):
        check_run(newer)
    assert score("newer").success == newer.read_success()
    newer.success.unlink()
    with pytest.raises(UsageError, match=r"upgrade maskbatch, or name another --out"):
        score("newer")


@given(st.lists(st.booleans(), max_size=70), st.integers(1, 20))
def test_a_draft_numbers_what_is_to_score_first_and_each_image_once(
    carried: list[bool], group_rows: int
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as small:
        small.setattr(table_module, "GROUP_ROWS", group_rows)
        small.setattr(table_module, "FILE_ROWS", 2 * group_rows)
        folder = Path(name)
        rows = ({"id": k, "uri": f"file:///{k}.jpg", "encoding": "raw"} for k in range(len(carried)))
        write_plan(folder, rows, Step("plan", None, "images"))
        match = np.zeros(len(carried), MATCH)
        match["reason"] = np.where(carried, CARRIED, NEW)
        match["id"] = np.arange(len(carried)) + 1000
        write = Path(name) / "numbered"
        table_module.write_groups(write, number_rows(folder, match), Step("number", None, "images"))
        found = read_plan(write, 0, len(carried)).to_pylist()
        table_module._read_group.cache_clear()
    assert [row["id"] for row in found] == list(range(len(carried)))
    order = sorted(range(len(carried)), key=lambda k: (carried[k], k))
    assert [row["uri"] for row in found] == [f"file:///{k}.jpg" for k in order]
    assert [row["reuse_id"] for row in found] == [k + 1000 if carried[k] else None for k in order]
