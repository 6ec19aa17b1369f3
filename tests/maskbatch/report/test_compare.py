import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control, ttest_ind, ttest_rel

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.report.compare import COUNTS, FAILED, compare_runs, estimate_difference, make_comparison
from maskbatch.report.words import describe_overlap
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location
from tests.maskbatch.samples import Run, edit_json, make_card, read_scores, stage_run

REPETITIONS, CLUSTERS = 1_000, 100
CAMERAS = ("gate-1", "gate-2", "dock")
compliant_of_20 = arrays(np.float64, (12, 2), elements=st.integers(0, 20).map(float))
cluster_counts = st.lists(
    st.tuples(*[st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))] * 2),
    min_size=2, max_size=20,
).map(lambda drawn: np.array(drawn, float).reshape(-1, 4))  # fmt: skip


def paired(counts_C4: np.ndarray) -> dict[str, Any]:
    zeros = np.zeros(len(counts_C4), int)
    return estimate_difference(counts_C4, zeros, zeros, 1, 1).iloc[0].to_dict()


def split(counts_C4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters of two runs one below the other, and which run each is of."""
    both = np.zeros((2 * len(counts_C4), 4))
    both[: len(counts_C4), :2], both[len(counts_C4) :, 2:] = counts_C4[:, :2], counts_C4[:, 2:]
    return both, np.repeat([0, 1], len(counts_C4))


def unpaired(counts_C4: np.ndarray) -> dict[str, Any]:
    both, stratum = split(counts_C4)
    return estimate_difference(both, np.zeros(len(both), int), stratum, 1, 2).iloc[0].to_dict()


@settings(max_examples=40)
@given(compliant_of_20)
def test_clusters_of_one_size_give_the_t_tests_of_their_rates(compliant: np.ndarray) -> None:
    twenty = np.full(12, 20.0)
    counts = np.stack([compliant[:, 0], twenty, compliant[:, 1], twenty], axis=1)
    first, second = compliant.T / 20
    for made, test in (
        (paired, lambda: ttest_rel(second, first)),
        (unpaired, lambda: ttest_ind(second, first, equal_var=False)),
    ):
        row = made(counts)
        assert row["difference"] == pytest.approx(second.mean() - first.mean())
        if np.isnan(row["difference_low"]):
            varies = np.ptp(second - first) if made is paired else np.ptp(first) + np.ptp(second)
            assert varies == 0
            assert row["p"] == 1 if row["difference"] == 0 else np.isnan(row["p"])
            continue
        expected = test()
        interval = np.clip(expected.confidence_interval(0.95), -1, 1)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert [row["difference_low"], row["difference_high"]] == pytest.approx(interval)


@settings(max_examples=40)
@given(cluster_counts, st.sampled_from([paired, unpaired]))
def test_the_runs_the_other_way_round_give_the_difference_with_its_sign_turned(
    counts: np.ndarray, made: Any
) -> None:
    row, turned = made(counts), made(counts[:, [2, 3, 0, 1]])
    assert turned["difference"] == -row["difference"]
    assert turned["p"] == pytest.approx(row["p"], nan_ok=True)
    assert turned["difference_low"] == pytest.approx(-row["difference_high"], nan_ok=True)


@settings(max_examples=40)
@given(cluster_counts)
def test_a_run_against_its_like_differs_by_nothing(counts: np.ndarray) -> None:
    row = paired(counts[:, [0, 1, 0, 1]])
    assert (row["difference"], row["p"]) == (0, 1)


def test_groups_are_told_apart_and_one_cluster_gives_no_interval() -> None:
    counts = np.array([[8, 10, 9, 10], [3, 10, 5, 10], [1, 4, 4, 4]], float)
    table = estimate_difference(counts, np.array([0, 0, 1]), np.zeros(3, int), 2, 1)
    assert table["difference"].tolist() == pytest.approx([0.15, 0.75])
    assert table["num_clusters"].tolist() == [2, 1]
    assert table["p"].isna().tolist() == table["difference_low"].isna().tolist() == [False, True]


def draw_paired(shares: list[float], icc: float, seed: int) -> np.ndarray:
    """(repetitions, clusters, 4) counts of images that comply in both runs, the first, the second, none."""
    rng = np.random.default_rng(seed)
    shape = (REPETITIONS, CLUSTERS, 4)
    alpha = np.array(shares) * (1 - icc) / max(icc, 1e-4)
    gamma = np.maximum(rng.standard_gamma(alpha, shape), 1e-12)
    images = rng.multinomial(rng.integers(20, 180, shape[:2]), gamma / gamma.sum(axis=2, keepdims=True))
    both, first, second, _ = np.moveaxis(images, 2, 0)
    everything = images.sum(axis=2)
    return np.stack([both + first, everything, both + second, everything], axis=2).astype(float)


@pytest.mark.parametrize("icc", [0, 0.1, 0.3])
@pytest.mark.parametrize("form", ["paired", "unpaired"])
def test_where_nothing_differs_one_comparison_in_twenty_says_otherwise(form: str, icc: float) -> None:
    counts = draw_paired([0.8, 0.06, 0.06, 0.08], icc, seed=5).reshape(-1, 4)
    group, stratum = np.repeat(np.arange(REPETITIONS), CLUSTERS), np.zeros(len(counts), int)
    if form == "unpaired":
        other = draw_paired([0.8, 0.06, 0.06, 0.08], icc, seed=6).reshape(-1, 4)
        counts, stratum = split(np.concatenate([counts[:, :2], other[:, 2:]], axis=1))
        group = np.tile(group, 2)
    table = estimate_difference(counts, group, stratum, REPETITIONS, 1 + stratum.max())
    wrong = (table["p"] < 0.05).mean()
    assert 0.03 <= wrong <= 0.07
    assert ((table["difference_low"] > 0) | (table["difference_high"] < 0)).mean() == wrong


def test_three_points_lost_on_ten_thousand_images_are_found() -> None:
    counts = draw_paired([0.85, 0.05, 0.02, 0.08], 0.05, seed=7)
    assert counts[..., 1].sum(axis=1).mean() == pytest.approx(10_000, rel=0.01)
    group = np.repeat(np.arange(REPETITIONS), CLUSTERS)
    table = estimate_difference(counts.reshape(-1, 4), group, np.zeros_like(group), REPETITIONS, 1)
    assert (table["p"] < 0.05).mean() > 0.95
    covered = (table["difference_low"] < -0.03) & (table["difference_high"] > -0.03)
    assert 0.93 <= covered.mean() <= 0.97


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint of other weights that knows two classes alone, and assesses both."""
    torch.manual_seed(11)
    model = build("mobilenet_v3_small", 2)
    torch.nn.init.normal_(model.classifier[-1].weight, 0, 0.5)
    path = tmp_path_factory.mktemp("other") / "two.safetensors"
    card = make_card(classes=("with_mask", "without_mask"), not_assessed=(), confusion=((9, 1), (1, 9)))
    save_checkpoint(path, card, model.state_dict())
    return open_checkpoint(str(path))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, month: Path, two_classes: Checkpoint) -> Run:
    """A committed run of that checkpoint over the images of two of the three cameras."""
    run = stage_run(tmp_path_factory.mktemp("other") / "run", month, two_classes, camera=("gate-1", "dock"))
    run.commit()
    return run


def period(out: Path, archive: Path, checkpoint: Checkpoint, **filters: Any) -> RunDir:
    run = stage_run(out, archive, checkpoint, **filters)
    run.commit()
    return run.run


def labels_of(run: RunDir) -> pd.DataFrame:
    rows = read_scores(run).to_pandas().set_index("uri")
    return rows.assign(label=rows["label"].where(rows["status"] == "ok", FAILED))


def test_two_checkpoints_are_compared_on_the_images_of_both(committed: Run, other: Run) -> None:
    made = make_comparison([committed.run], [other.run])
    joined = labels_of(committed.run).merge(labels_of(other.run)["label"].rename("label_2"), on="uri")
    assert (made.kind, made.shared, made.only_first, made.only_second) == ("images", 66, 36, 0)
    assert {(row["first"], row["second"]): row["count"] for row in made.crossed} == Counter(
        zip(joined["label"], joined["label_2"], strict=True)
    )
    assert made.changed == (joined["label"] != joined["label_2"]).sum() > 0
    by_camera = {(row["site"], row["camera"]): row for row in made.by_camera}
    groups = dict(list(joined.groupby(["site", "camera"])))
    assert by_camera.keys() == groups.keys() == {("north", "gate-1"), ("south", "dock")}
    for row, rows in [(made.overall, joined), *((by_camera[key], groups[key]) for key in groups)]:
        assert row["compliant_first"] == (rows["label"] == "with_mask").sum()
        assert row["assessed_first"] == (~rows["label"].isin(["no_face", FAILED])).sum()
        assert row["compliant_second"] == (rows["label_2"] == "with_mask").sum()
        assert row["assessed_second"] == (rows["label_2"] != FAILED).sum()
        assert row["num_clusters"] == len(rows.groupby(["camera", rows["captured_local"].dt.date]))
        assert row["few_clusters"]
        rates = [row[f"compliant_{side}"] / row[f"assessed_{side}"] for side in ("first", "second")]
        assert row["difference"] == rates[1] - rates[0]
        assert row["difference_low"] < row["difference"] < row["difference_high"]
    tested = [row["p"] for row in made.by_camera]
    assert [row["q"] for row in made.by_camera] == pytest.approx(false_discovery_control(tested))


def test_the_comparison_is_plain_json_and_names_the_runs(committed: Run, other: Run) -> None:
    made = make_comparison([committed.run], [other.run]).as_dict()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    times = read_scores(committed.run)["captured_local"].drop_null().to_pylist()
    first, second = made["runs"]
    assert (first["path"], first["planned"]) == (str(committed.run.path), 102)
    assert [first["first_time"], first["last_time"]] == [min(times).isoformat(), max(times).isoformat()]
    assert first["checkpoint"] != second["checkpoint"]
    assert set(COUNTS) < made["overall"].keys() < made["by_camera"][0].keys()


def test_runs_are_compared_by_their_paths(committed: Run, other: Run) -> None:
    compared = compare_runs(str(committed.run.path), str(other.run.path))
    assert compared == make_comparison([committed.run], [other.run])


def test_runs_of_different_decode_rules_are_named(committed: Run, other: Run, tmp_path: Path) -> None:
    same = list(describe_overlap(make_comparison([committed.run], [other.run])))
    older = other.copy(tmp_path / "run").run
    edit_json(older.run_json, decode_rules=1)
    said, *rest = describe_overlap(make_comparison([committed.run], [older]))
    assert said == "Their decode rules differ (2 and 1), which may explain other counts of failed images."
    assert rest == same


def test_runs_of_different_decoders_are_compared_and_named(
    committed: Run, other: Run, tmp_path: Path
) -> None:
    same = make_comparison([committed.run], [other.run])
    assert [run["decoder"] for run in same.runs] == ["cpu", "cpu"]
    of_gpu = other.copy(tmp_path / "run").run
    score = json.loads(of_gpu.run_json.read_bytes())["score"]
    edit_json(of_gpu.run_json, score=score | {"decoder": "gpu"})
    made = make_comparison([committed.run], [of_gpu])
    said, *rest = describe_overlap(made)
    assert said == "Their decoders differ (cpu and gpu), which alone may change some labels of unsure images."
    assert rest == list(describe_overlap(same))
    assert made.overall == same.overall


def test_a_run_in_a_store_is_compared_like_a_local_one(committed: Run, other: Run, root: Location) -> None:
    local, there = make_comparison([committed.run], [other.run]), committed.copy(root / "run").run
    made = make_comparison([there], [other.run])
    assert (made.crossed, made.overall, made.by_camera) == (local.crossed, local.overall, local.by_camera)


def test_runs_without_a_common_image_are_two_periods(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    before = period(tmp_path / "1", month, checkpoint, until="2026-10-02", camera=("gate-1", "gate-2"))
    after = period(tmp_path / "2", month, checkpoint, since="2026-10-02", camera=("gate-2", "dock"))
    made = make_comparison([before], [after])
    rows = [labels_of(run) for run in (before, after)]
    assert (made.kind, made.shared, made.crossed, made.changed) == ("periods", 0, [], 0)
    assert (made.only_first, made.only_second) == (len(rows[0]), len(rows[1]))
    (camera,) = made.by_camera
    assert (camera["site"], camera["camera"]) == ("north", "gate-2")
    for row, chosen in (
        (made.overall, rows),
        (camera, [labels[labels["camera"] == "gate-2"] for labels in rows]),
    ):
        assert row["compliant_first"] == (chosen[0]["label"] == "with_mask").sum()
        assert row["assessed_second"] == (~chosen[1]["label"].isin(["no_face", FAILED])).sum()
    assert made.overall["num_clusters"] == 2  # two camera-days before, four after
    assert (camera["num_clusters"], camera["p"], camera["q"]) == (1, None, None)


def test_the_hours_are_the_clusters_of_a_single_camera_day(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    days = [("2026-10-01", "2026-10-02"), ("2026-10-02", "2026-10-03")]
    runs = [
        period(tmp_path / since, month, checkpoint, since=since, until=until, camera=("gate-1",))
        for since, until in days
    ]
    made = make_comparison(runs[:1], runs[1:])
    assert made.overall["num_clusters"] == 3  # hours 0, 9 and 21
    assert made.overall["p"] == made.by_camera[0]["p"] == made.by_camera[0]["q"]


def test_periods_that_share_a_few_undated_images_are_still_periods(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    before = period(tmp_path / "1", month, checkpoint, until="2026-10-02")
    after = period(tmp_path / "2", month, checkpoint, since="2026-10-02")
    made = make_comparison([before], [after])
    undated = labels_of(before)["captured_local"].isna().sum()
    assert (made.kind, made.shared, made.changed) == ("periods", undated, 0)
    assert undated > 0
    listed = len(labels_of(before)) + len(labels_of(after))
    assert made.only_first + made.only_second + 2 * made.shared == listed


def test_several_runs_together_compare_like_one_over_all_their_images(
    month: Path, checkpoint: Checkpoint, other: Run, tmp_path: Path
) -> None:
    days = [f"2026-10-0{day}" for day in (1, 2, 3, 4)]
    *nights, last = [
        period(tmp_path / since, month, checkpoint, since=since, until=until, camera=CAMERAS)
        for since, until in pairwise(days)
    ]
    whole = period(tmp_path / "both", month, checkpoint, until=days[2], camera=CAMERAS)
    for pooled, alone, kind in (
        (make_comparison(nights, [last]), make_comparison([whole], [last]), "periods"),
        (make_comparison([last], nights[::-1]), make_comparison([last], [whole]), "periods"),
        (make_comparison(nights, [other.run]), make_comparison([whole], [other.run]), "images"),
    ):
        assert pooled.as_dict() | {"runs": None} == alone.as_dict() | {"runs": None}
        assert pooled.kind == kind and pooled.overall["assessed_first"] > 0
    together, single = make_comparison(nights, [last]).runs
    assert together["path"] == ", ".join(str(run.path) for run in nights)
    assert together | {"path": ""} == make_comparison([whole], [last]).runs[0] | {"path": ""}
    assert single["path"] == str(last.path)
    with pytest.raises(UsageError, match="are the same run; name two"):
        make_comparison(nights, nights[1:])


def test_nights_compared_by_their_own_days_leave_out_the_images_of_unknown_time(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    days = [f"2026-10-0{day}" for day in (1, 2, 3, 4)]
    runs = [
        period(tmp_path / since, month, checkpoint, since=since, until=until)
        for since, until in pairwise(days)
    ]
    made = make_comparison(runs[:2], runs[2:], own_days=True)
    timed = [int(labels_of(run)["captured_local"].notna().sum()) for run in runs]
    assert (made.shared, made.only_first, made.only_second) == (0, timed[0] + timed[1], timed[2])
    assert [side["planned"] for side in made.runs] == [timed[0] + timed[1], timed[2]]
    assert made.overall["num_clusters"] == 3  # cameras of the last night


def test_what_cannot_be_compared_is_refused_in_one_sentence(
    committed: Run, other: Run, staged: Run, month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="are the same run; name two"):
        make_comparison([committed.run], [committed.run])
    with pytest.raises(UsageError, match="are the same run; name two"):
        make_comparison([committed.run], [committed.copy(tmp_path / "copy").run])
    with pytest.raises(UsageError, match="not finished"):
        make_comparison([committed.run], [staged.run])
    elsewhere = period(tmp_path / "2", month, checkpoint, camera=("gate-2",))
    assert (
        make_comparison([elsewhere], [period(tmp_path / "3", month, checkpoint, camera=("dock",))]).by_camera
        == []
    )
    with pytest.raises(UsageError, match="share few images and their labels do not mean the same; compare"):
        make_comparison([elsewhere], [other.run])
