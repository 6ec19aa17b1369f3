import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from maskbatch.config import ReportConfig
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.report.make import make_report
from maskbatch.report.survey import survey_runs
from maskbatch.review import queue as queue_module
from maskbatch.review.queue import Collector
from maskbatch.runs.committed import open_committed
from tests.maskbatch.samples import CLASSES, Run, read_scores, stage_run


def queue_of(run: Run) -> pa.Table:
    return survey_runs([open_committed(run.run)]).selection.queue


def test_the_queue_holds_the_least_certain_and_a_random_sample_of_all_others(
    committed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "NUM_RANDOM", 20)
    rows = read_scores(committed.run)
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    queue = queue_of(committed)
    by_stratum = {name: queue.filter(pc.equal(queue["stratum"], name)) for name in ("uncertain", "random")}
    num_review = pc.sum(ok["needs_review"]).as_py()
    least = ok.sort_by("confidence").slice(0, max(num_review, int(np.ceil(0.05 * len(ok)))))
    assert set(by_stratum["uncertain"]["id"].to_pylist()) == set(least["id"].to_pylist())
    assert set(by_stratum["uncertain"]["probability"].to_pylist()) == {1.0}
    others = len(ok) - len(least)
    assert len(by_stratum["random"]) == min(20, others)
    assert set(by_stratum["random"]["probability"].to_pylist()) == {min(20, others) / others}
    assert len(set(queue["id"].to_pylist())) == len(queue)
    by_id = {row["id"]: row for row in ok.to_pylist()}
    for row in queue.to_pylist():
        for name in ("uri", "camera", "label", "confidence", "sha256", "captured_local"):
            assert row[name] == by_id[row["id"]][name]


def test_the_strata_take_turns_and_each_comes_in_an_order_that_confidence_does_not_tell(
    committed: Run,
) -> None:
    queue = queue_of(committed)
    assert queue["position"].to_pylist() == list(range(len(queue)))
    strata = queue["stratum"].to_pylist()
    both = min(strata.count("uncertain"), strata.count("random"))
    assert strata[: 2 * both] == ["random", "uncertain"] * both
    uncertain = queue.filter(pc.equal(queue["stratum"], "uncertain"))["confidence"].to_numpy()
    assert (np.diff(uncertain) < 0).any()


def day_of(num: int, seed: int) -> tuple[pa.Table, pa.Array]:
    rng = np.random.default_rng(seed)
    rows = pa.table(
        {
            "confidence": pa.array(rng.random(num), pa.float32()),
            "needs_review": rng.random(num) < 0.02,
            "digest": rng.integers(0, 2**63, num, np.uint64),
            "id": pa.array(np.arange(num)),
            "file": pa.array(np.zeros(num), pa.int32()),
            "row": pa.array(np.arange(num), pa.int32()),
        }
    )
    return rows, pa.nulls(num, pa.string())


def places(rows: pa.Table, parts: list[np.ndarray]) -> list[tuple[int, str]]:
    doubtful = Collector()
    for part in parts:
        here = rows.take(pa.array(part))
        digest = rows["digest"].to_numpy()
        values, counts = np.unique(digest, return_counts=True)
        repeated = np.isin(digest[part], values[counts > 1])
        doubtful.add(here, pa.nulls(len(here), pa.string()), repeated)
    queue = doubtful._queue()
    return list(zip(queue["row"].to_pylist(), queue["stratum"].to_pylist(), strict=True))


def test_the_queue_is_the_same_in_whatever_parts_and_order_rows_come() -> None:
    rows, _ = day_of(6000, 1)
    shuffled = np.random.default_rng(2).permutation(6000)
    assert places(rows, [np.arange(6000)]) == places(rows, np.array_split(shuffled, 7))


def test_every_image_outside_the_uncertain_ones_is_drawn_with_the_chance_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_module, "NUM_RANDOM", 50)
    drawn = np.zeros(400)
    for seed in range(200):
        rows, _ = day_of(400, 5)
        digest = np.random.default_rng(seed).integers(0, 2**63, 400, np.uint64)
        rows = rows.set_column(rows.column_names.index("digest"), "digest", pa.array(digest))
        for row, stratum in places(rows, [np.arange(400)]):
            drawn[row] += stratum == "random"
    confidence = rows["confidence"].to_numpy()
    others = drawn[np.argsort(confidence)[20:]]
    assert (drawn[np.argsort(confidence)[:20]] == 0).all()
    expected = 200 * 50 / 380
    assert abs(others.mean() - expected) < 1e-9
    assert 0.7 < others.var() / (expected * (1 - 50 / 380)) < 1.3  # as binomial draws vary


def test_images_of_equal_bytes_are_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "NUM_RANDOM", 50)
    rows, _ = day_of(400, 5)
    equal = np.argsort(rows["confidence"].to_numpy())[-100:]  # none of the uncertain ones
    drawn = []
    for seed in range(100):
        digest = np.random.default_rng(seed).integers(0, 2**63, 400, np.uint64)
        digest[equal] = digest[0]
        rows = rows.set_column(rows.column_names.index("digest"), "digest", pa.array(digest))
        drawn.append(len({row for row, _ in places(rows, [np.arange(400)])} & set(equal.tolist())))
    share = 100 / 380
    assert abs(np.mean(drawn) - 50 * share) < 1.5
    assert np.var(drawn) < 2 * 50 * share * (1 - share)  # all or none would be 50 times as much


def test_the_order_is_that_of_the_bytes_so_that_a_later_version_has_most_of_it() -> None:
    rows, _ = day_of(2000, 8)
    later = rows.set_column(rows.column_names.index("id"), "id", pa.array(np.arange(2000)[::-1]))
    assert places(rows, [np.arange(2000)]) == places(later, [np.arange(2000)])


def test_a_report_keeps_the_queue_of_its_run(committed: Run, tmp_path: Path) -> None:
    make_report([committed.run], tmp_path, ReportConfig())
    assert queue_module.read_queue(tmp_path) == queue_of(committed)


def test_the_queue_of_whole_scenes_holds_every_face_that_is_large_enough_and_its_picture(lobby: Run) -> None:
    rows = {(row["id"], row["region"]): row for row in read_scores(lobby.run).to_pylist()}
    judged = {place for place, row in rows.items() if row["region"] and row["label"]}
    small = {place for place, row in rows.items() if row["region"] and not row["label"]}
    queue = queue_of(lobby).to_pylist()
    assert len(queue) == len(judged) > 20 and small
    assert {(row["id"], row["region"]) for row in queue} == judged
    for row in queue:
        face, picture = rows[row["id"], row["region"]], rows[row["id"], 0]
        assert face["sha256"] is None
        for name in ("uri", "camera", "captured_local", "box", "label", "confidence"):
            assert row[name] == face[name]
        assert [row[name] for name in ("sha256", "width", "height")] == [picture["sha256"], 640, 360]
        boxes = [rows[row["id"], region]["box"] for region in range(1, picture["num_faces"] + 1)]
        assert row["faces"] == boxes


def test_faces_of_one_picture_come_at_different_times_in_an_order_that_their_bytes_give(
    lobby: Run, tmp_path: Path
) -> None:
    queue = queue_of(lobby)
    archive = Path(lobby.run.path).parent / "archive"
    shutil.copytree(archive, tmp_path / "other")
    again = stage_run(tmp_path / "run", tmp_path / "other", open_checkpoint(), view="scene")
    again.commit()
    names = ["sha256", "region", "stratum", "label", "box"]
    assert queue_of(again).select(names) == queue.select(names)
    random = queue.filter(pc.equal(queue["stratum"], "random"))
    regions = random.filter(pc.greater(pc.list_value_length(random["faces"]), 2))["region"].to_pylist()
    assert regions != sorted(regions)


def test_the_queue_of_faces_of_whole_pictures_has_the_columns_that_it_always_had(committed: Run) -> None:
    probs = [f"prob_{name}" for name in CLASSES]
    shown = ["id", "uri", "site", "camera", "captured_local", "label", "confidence", "sha256", *probs]
    assert queue_of(committed).column_names == ["position", *shown, "condition", "stratum", "probability"]
    candidates = survey_runs([open_committed(committed.run)]).selection.candidates
    assert candidates.column_names == ["rank", "run", *shown]
