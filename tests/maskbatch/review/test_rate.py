import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from samples import CLASSES, Run, speckle, stage_run, write_files

from maskbatch.config import ReportConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.report.intervals import DesignEffects, wilson
from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review import rate as judged_module
from maskbatch.review.queue import RANDOM, UNCERTAIN, read_queue
from maskbatch.review.rate import (
    LEAST_JUDGED,
    Sample,
    count_targets,
    estimate_compliance,
    estimate_error_rate,
    estimate_rates,
    estimate_share,
)
from maskbatch.runs.committed import Meaning
from maskbatch.stores.files import write_json
from maskbatch.terminal import print_report

Counts = NDArray[np.int64]
MEANING = Meaning(classes=CLASSES, compliant=("with_mask",), not_assessed=("no_face",))


def rates(sample: Sample) -> tuple[judged_module.Figure, judged_module.Figure]:
    """(compliance, error rate): the first class is compliant, a fourth is not assessed."""
    classes = np.arange(sample.total_HK.shape[1])
    return estimate_compliance(sample, classes == 0, classes < 3), estimate_error_rate(sample)


def truth(all_HKK: Counts) -> tuple[float, float]:
    """(compliance, error rate) of all images, by stratum, label of the classifier and true label."""
    images_K = all_HKK.sum(axis=(0, 1))
    return images_K[0] / images_K[:3].sum(), 1 - all_HKK.trace(axis1=1, axis2=2).sum() / all_HKK.sum()


@st.composite
def populations(draw: st.DrawFn) -> Counts:
    """(2, K, K) images by stratum, label of the classifier and true label; some of them empty."""
    num_classes, most = draw(st.integers(2, 5)), draw(st.sampled_from((3, 40, 100_000)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (2, num_classes, num_classes)
    return rng.integers(0, most, shape) * rng.integers(0, 2, shape) + np.eye(num_classes, dtype=np.int64)


def drawn_from(all_HKK: Counts, num: Sequence[int], rng: np.random.Generator) -> Sample:
    """A simple random sample of `num` images of each stratum, or of all that it has."""
    judged_HKK = [
        rng.multivariate_hypergeometric(of.ravel(), min(n, of.sum()), method="marginals").reshape(of.shape)
        for of, n in zip(all_HKK, num, strict=True)
    ]
    return Sample(np.array(judged_HKK, np.float64), all_HKK.sum(axis=2))


@settings(max_examples=30)
@given(populations())
def test_where_all_images_are_judged_the_figures_are_exact(all_HKK: Counts) -> None:
    for figure, expected in zip(
        rates(Sample(all_HKK.astype(float), all_HKK.sum(axis=2))), truth(all_HKK), strict=True
    ):
        assert figure["low"] == figure["value"] == figure["high"]
        assert figure["value"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(populations(), st.integers(0, 2**32), st.integers(0, 50))
def test_where_people_always_agree_the_rate_is_the_classified_one(
    all_HKK: Counts, seed: int, num: int
) -> None:
    total_HK = all_HKK.sum(axis=2)
    right_HKK = total_HK[..., None] * np.eye(total_HK.shape[1], dtype=np.int64)
    sample = drawn_from(right_HKK, (num, num), np.random.default_rng(seed))
    rate, wrong = rates(sample)
    images_K = total_HK.sum(axis=0)
    assert rate["value"] == pytest.approx(images_K[0] / images_K[:3].sum())
    assert wrong["value"] == pytest.approx(0, abs=1e-12)
    for k in range(len(images_K)):
        assert estimate_share(sample, k)["value"] == pytest.approx(images_K[k] / images_K.sum())


@settings(max_examples=30)
@given(populations(), st.integers(0, 2**32), st.integers(0, 300))
def test_an_interval_holds_its_value_and_lies_in_zero_to_one(all_HKK: Counts, seed: int, num: int) -> None:
    sample = drawn_from(all_HKK, (num, 2 * num), np.random.default_rng(seed))
    shares = [estimate_share(sample, k) for k in range(all_HKK.shape[1])]
    for figure in (*rates(sample), *shares):
        low, value, high = figure["low"], figure["value"], figure["high"]
        assert low is not None
        assert value is not None
        assert high is not None
        assert -1e-12 <= low <= value <= high <= 1 + 1e-12
    assert sum(figure["value"] or 0 for figure in shares) == pytest.approx(1)


def test_of_a_label_that_nobody_judged_anything_is_possible() -> None:
    judged_HKK = np.zeros((2, 2, 2))
    judged_HKK[:, 0, 0] = 400
    rate, wrong = rates(Sample(judged_HKK, np.array([[8000, 1000], [400, 600]])))
    assert rate["value"] == pytest.approx(0.84)
    assert rate["low"] == pytest.approx(0.84, abs=0.01)
    assert rate["high"] == 1
    assert (wrong["value"], wrong["low"]) == (0, 0)
    assert wrong["high"] == pytest.approx(0.16, abs=0.01)


def test_where_nothing_is_assessed_there_is_no_compliance() -> None:
    judged_HKK = np.zeros((2, 4, 4))
    judged_HKK[:, 3, 3] = 50
    rate, wrong = rates(Sample(judged_HKK, np.full((2, 4), 100) * (np.arange(4) == 3)))
    assert rate == {"value": None, "low": None, "high": None}
    assert wrong["value"] == 0


def population(num_classes: int, rate: float, error: float, rng: np.random.Generator) -> Counts:
    """20,000 images, of which a twentieth, the uncertain ones, has a third of all errors."""
    shares = {3: (rate, 0.6 * (1 - rate), 0.4 * (1 - rate))}
    shares[4] = (*(0.6 * part for part in shares[3]), 0.4)
    true = rng.choice(num_classes, 20_000, p=shares[num_classes])
    uncertain = np.arange(20_000) < 1000
    wrong = rng.random(20_000) < np.where(uncertain, min(0.6, 6.5 * error), 0.7 * error)
    label = np.where(wrong, (true + rng.integers(1, num_classes, 20_000)) % num_classes, true)
    counts = np.zeros((2, num_classes, num_classes), np.int64)
    np.add.at(counts, (uncertain.astype(int), label, true), 1)
    return counts


@pytest.mark.slow
def test_the_interval_covers_the_truth_of_a_run_of_which_few_images_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has a Monte Carlo error of 2 points; 400 repetitions of more populations gave 92 to 100 %."""
    monkeypatch.setattr(judged_module, "DRAWS", 300)
    rng, repetitions, covers = np.random.default_rng(20261001), 120, []
    print("\ncoverage of a nominal 95 % interval, and its mean width in points (compliance; error rate)")
    sizes = ((4, (60, 60)), (3, (200, 200)), (4, (500, 1000)))
    for rate, error, (num_classes, num) in product((0.5, 0.9, 0.99), (0.005, 0.05, 0.2), sizes):
        all_HKK = population(num_classes, rate, error, rng)
        true = truth(all_HKK)
        found = [rates(drawn_from(all_HKK, num, rng)) for _ in range(repetitions)]
        value, low, high = (
            np.array([[figure[name] for figure in pair] for pair in found], float)
            for name in ("value", "low", "high")
        )
        covered = 100 * np.mean((low <= true) & (true <= high), axis=0)
        width, bias = 100 * np.mean(high - low, axis=0), 100 * (value.mean(axis=0) - true)
        print(
            f"{num_classes} classes, compliance {rate:4}, errors {100 * error:4} %, {num[0]:3} random, {num[1]:4} "
            f"uncertain:  {covered[0]:5.1f} ({width[0]:4.1f});  {covered[1]:5.1f} ({width[1]:4.1f})"
        )
        covers.append(covered)
        assert (covered >= 89).all()
        assert (abs(bias) < (2 if num[0] < 100 else 0.4)).all()
        assert error < 0.2 or num[0] < 500 or (covered <= 99.2).all(), "so wide that it says nothing"
    assert np.mean(covers) >= 95


def test_the_classifiers_labels_make_the_interval_narrower_than_a_sample_alone_has_it() -> None:
    rng = np.random.default_rng(3)
    all_HKK = population(3, 0.7, 0.03, rng)
    sample = drawn_from(all_HKK, (300, 300), rng)
    rate = rates(sample)[0]
    alone = DesignEffects(np.ones(1), np.full(1, 1e9), np.ones(1, np.int64))
    low, high = wilson(np.array([0.7 * 600]), np.array([600.0]), alone)
    assert (rate["high"] or 1) - (rate["low"] or 0) < 0.7 * (high - low)[0]


def queue_of(strata: str, label: Callable[[int], str] = lambda _: "with_mask") -> pa.Table:
    """A queue of an image for each letter: r random, u uncertain; d and D the same, and dark."""
    rows = [
        {
            "position": k, "uri": f"file:///a/{k}.jpg", "sha256": f"{k:064x}", "label": label(k), "site": "north", "camera": "gate",
            "captured_local": datetime(2026, 10, 1), "condition": "dark" if letter in "dD" else None,
            "stratum": RANDOM if letter in "rd" else UNCERTAIN,
        }
        for k, letter in enumerate(strata)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def said(*words: tuple[int, str | None, str], region: int = 0) -> pd.DataFrame:
    """Last words of (position in the queue, label, who)."""
    rows = [
        {
            "uri": f"file:///a/{k}.jpg", "sha256": f"{k:064x}", "region": region, "label": label, "was": "with_mask", "by": by,
            "at": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=n), "stratum": RANDOM, "probability": 1.0,
        }
        for n, (k, label, by) in enumerate(words)
    ]  # fmt: skip
    return corrections.find_latest_judgements(pa.Table.from_pylist(rows, corrections.SCHEMA))


def counts(**labels: int) -> dict[str, Any]:
    return {f"num_{name}": labels.get(name, 0) for name in CLASSES} | {"compliance": 0.9}


def found(words: pd.DataFrame, queue: pa.Table | None, exclude: Sequence[str] = (), **labels: int) -> Any:
    return estimate_rates(words, queue, counts(**labels), MEANING, exclude)


def numbers(got: dict[str, Any], name: str = "num_judged") -> list[int]:
    """A number of each stratum: random, uncertain."""
    return [stratum[name] for stratum in got["strata"]]


def right(places: Iterable[int]) -> list[tuple[int, str | None, str]]:
    return [(k, "with_mask", "ann") for k in places]


def test_of_each_stratum_what_was_judged_before_the_first_untouched_image_counts() -> None:
    queue = queue_of("ru" * 100)
    random, uncertain = right(range(0, 100, 2)), right(range(1, 81, 2))
    words = said(*random, (100, None, "ann"), (102, "with_mask", "bob"), *uncertain, *right((120, 199)))
    got = found(words, queue, with_mask=9000)
    assert (numbers(got), got["num_skipped"]) == ([51, 40], 1)
    assert (got["num_judged"], got["num_waiting"], got["num_elsewhere"]) == (91, 2, 0)
    assert got["reviewers"] == [{"by": "ann", "num_judged": 90}, {"by": "bob", "num_judged": 1}]
    assert got["reason"] is None
    assert got["compliance"]["value"] == 1
    assert got["moved"] == pytest.approx(0.1)


def test_judged_images_wait_for_one_that_is_named() -> None:
    queue = queue_of("ru" * 100)
    words = said(*right(range(0, 100, 2)), *right(range(3, 81, 2)), *right((104, 106)))
    random, uncertain = found(words, queue, with_mask=9000)["waiting_for"]
    assert (random["stratum"], random["num_waiting"], random["uri"]) == (RANDOM, 2, "file:///a/100.jpg")
    assert (uncertain["stratum"], uncertain["num_waiting"], uncertain["uri"]) == (
        UNCERTAIN,
        39,
        "file:///a/1.jpg",
    )
    assert (uncertain["camera"], uncertain["captured_local"]) == ("gate", datetime(2026, 10, 1))
    assert found(said(*right(range(40))), queue, with_mask=9000)["waiting_for"] == []


def test_a_stratum_that_was_looked_at_to_its_end_is_enough_whatever_was_skipped_in_it() -> None:
    queue = queue_of("ru" * 24 + "r" * 50)
    seen = said(*right(range(0, 98)), *[(k, None, "ann") for k in (1, 3, 47)])
    seen = seen.drop_duplicates(["uri", "by"], keep="last")
    got = found(seen, queue, with_mask=9000)
    assert (got["reason"], numbers(got), got["num_skipped"]) == (None, [74, 21], 3)
    assert numbers(got, "num_needed") == [30, 21]
    none = found(
        said(*right((*range(0, 48, 2), *range(48, 98))), *[(k, None, "ann") for k in range(1, 48, 2)]),
        queue,
        with_mask=240,
    )
    assert (none["reason"], numbers(none)[1], none["num_skipped"]) == (None, 0, 24)
    assert (none["error_rate"]["value"], none["error_rate"]["low"]) == (0, 0)
    assert none["error_rate"]["high"] > 24 / 240, "of what nobody judged all may be wrong"
    skipped = found(said(*[(k, None, "ann") for k in range(98)]), queue, with_mask=9000)
    assert skipped["reason"] == "every image of the queue was skipped"


def test_a_target_is_what_the_report_counts() -> None:
    random, uncertain = count_targets([RANDOM, UNCERTAIN] * 3, [True, False, None, True, True, True])
    assert random == {"stratum": RANDOM, "num_queued": 3, "num_judged": 1, "num_skipped": 0, "num_needed": 3}
    assert uncertain == {
        "stratum": UNCERTAIN,
        "num_queued": 3,
        "num_judged": 2,
        "num_skipped": 1,
        "num_needed": 2,
    }
    assert [stratum["num_needed"] for stratum in count_targets([RANDOM] * 500, [None] * 500)] == [
        LEAST_JUDGED,
        0,
    ]


def test_the_error_rate_follows_from_the_images_and_those_judged_of_each_stratum_and_label() -> None:
    queue = queue_of("ru" * 60, lambda k: CLASSES[k % 3])
    words = said(*[(k, CLASSES[k % 3 if k % 7 else 3], "ann") for k in range(100)], (0, CLASSES[0], "bob"))
    got = found(words, queue, **{name: 1000 * (k + 1) for k, name in enumerate(CLASSES[:3])})
    rows = [row for stratum in got["strata"] for row in stratum["labels"] if row["num_judged"]]
    stands_for = sum(row["num_images"] for row in rows)
    weighted = sum(row["num_images"] * row["num_wrong"] / row["num_judged"] for row in rows)
    assert stands_for == 6000
    assert got["error_rate"]["value"] == pytest.approx(weighted / stands_for)
    assert 0.5 in [row["num_wrong"] % 1 for row in rows], "a disputed image is wrong in part"


def test_a_skip_that_another_reviewer_judged_is_judged() -> None:
    words = said((0, None, "ann"), (0, "with_mask", "bob"), (1, None, "bob"))
    got = found(words, queue_of("rr"), with_mask=9000)
    assert (got["num_judged"], got["num_skipped"]) == (1, 1)


def test_words_that_are_not_of_the_queue_or_of_no_class_say_nothing_of_the_rate() -> None:
    words = said((0, "mask_of_another_checkpoint", "ann"), (1, "with_mask", "ann"), (7, "with_mask", "ann"))
    changed = words.assign(sha256=words["sha256"].where(words.index != 1, "0" * 64))
    got = found(changed, queue_of("rrr"), with_mask=9000)
    assert (got["num_judged"], got["num_skipped"], got["num_unknown"], got["num_elsewhere"]) == (0, 0, 1, 2)
    other = said((0, "mask_of_another_checkpoint", "ann"), (0, "with_mask", "bob"))
    got = found(other, queue_of("rrr"), with_mask=9000)
    assert (got["num_judged"], got["num_unknown"], got["num_disputes"]) == (0, 1, 1)
    assert found(said((0, "with_mask", "ann"), region=1), queue_of("rrr"), with_mask=9000) is None
    assert found(said(), queue_of("rrr"), with_mask=9000) is None


def test_what_is_left_out_of_the_rates_is_left_out_here_and_does_not_hold_up_the_queue() -> None:
    queue = queue_of("rd" * 40 + "uD" * 40)
    words = said(*right(range(0, 160, 2)), *right((1, 81)))
    got = found(words, queue, ["dark"], with_mask=9000)
    assert (numbers(got), got["num_elsewhere"]) == ([40, 40], 2)
    everything = found(words, queue, with_mask=9000)
    assert (numbers(everything), everything["num_waiting"]) == ([3, 3], 76)


def test_with_too_few_judged_images_it_says_how_many_are_missing() -> None:
    queue = queue_of("ru" * 100)
    got = found(said(*right(range(40))), queue, with_mask=9000)
    short = f"20 of {LEAST_JUDGED} random, 20 of {LEAST_JUDGED} uncertain"
    assert got["reason"] == f"{short} judged, in the order of the queue"
    assert (got["error_rate"], got["compliance"], got["shares"], got["moved"]) == (None, None, [], None)
    assert got["confusion"][0] == [40, 0, 0, 0]
    few = found(said(*right(range(36))), queue_of("ru" * 3 + "r" * 90), with_mask=93)
    assert few["reason"] is None, "all three uncertain images of the run"
    none = found(said((0, "with_mask", "ann")), queue_of("r").slice(0, 0))
    assert none["reason"] == "no image could be scored"


def test_a_disputed_image_counts_in_the_shares_of_its_labels_and_is_listed_with_who_said_what() -> None:
    queue = queue_of("r" * 40)
    words = said(*right(range(40)), (3, "without_mask", "bob"), (3, "with_mask", "eve"), (3, None, "kim"))
    got = found(words, queue, with_mask=40)
    assert got["confusion"][0] == [39.67, 0.33, 0, 0]
    assert got["compliance"]["value"] == pytest.approx(1 - 1 / 3 / 40)
    (dispute,) = got["disputes"]
    assert dispute["labels"] == [
        {"by": "ann", "label": "with_mask"}, {"by": "bob", "label": "without_mask"}, {"by": "eve", "label": "with_mask"},
    ]  # fmt: skip
    assert (got["num_disputes"], dispute["uri"], dispute["camera"]) == (1, "file:///a/3.jpg", "gate")


def test_over_several_runs_judgements_are_counted_and_no_rate_is_made_of_them() -> None:
    got = found(said(*right(range(50))), None, with_mask=9000)
    assert (got["reason"], got["num_elsewhere"]) == ("a rate is made for one run at a time", 50)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Run:
    """A committed run of 200 images with its report."""
    root = tmp_path_factory.mktemp("judged")
    files = {f"north/gate-{k % 2}/2026-10-0{k % 4 + 1}/{k:06d}.jpg": speckle(k) for k in range(200)}
    run = stage_run(root / "run", write_files(root / "archive", files), checkpoint)
    run.commit()
    make_report([run.run], run.run.report)
    return run


def judge(run: Run, folder: Path, most: int, label: str | None = None, first: int = 0) -> None:
    """Judge images of the queue in its order, right where no label is given."""
    for row in read_queue(run.run.report).slice(first, most).to_pylist():
        known = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
        said = {"region": 0, "label": label or row["label"], "was": row["label"], "by": "ann"}
        corrections.write_judgement(folder, known | said)


def test_a_report_shows_the_rate_that_follows_from_what_people_judged_first(
    made: Run, tmp_path: Path
) -> None:
    run = made.copy(tmp_path / "run")
    plain = make_report([run.run], tmp_path / "plain")
    assert plain.values["judged"] is None
    page = (tmp_path / "plain" / "report.html").read_text()
    assert f"maskbatch ui --run {run.run.path}" in page
    judge(run, tmp_path / "run" / "corrections", 400)
    judge(run, tmp_path / "run" / "corrections", 7, "without_mask")
    report = make_report([run.run], run.run.report)
    values = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["judged"]
    assert values == report.values["judged"]
    assert (values["num_judged"], values["num_waiting"], values["num_reviewers"]) == (200, 0, 1)
    labels = read_queue(run.run.report)["label"].to_pylist()
    wrong = sum(label != "without_mask" for label in labels[:7])
    assert values["error_rate"] == {"value": pytest.approx(wrong / 200), "low": pytest.approx(wrong / 200),
                                    "high": pytest.approx(wrong / 200)}  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert text.index("Compliance by people's review: ") < text.index("As classified: ")
    assert "judged by 1 person" in text
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert page.index('data-figure="judged/compliance/value"') < page.index("overall/0/compliance")
    assert report.tables["corrections"].num_rows == 200, "the last words"


def test_the_command_line_takes_the_folder_of_what_was_judged(made: Run, tmp_path: Path, cli: Any) -> None:
    judge(made, tmp_path / "elsewhere", 4)
    arguments = (
        "report",
        made.run.path,
        "--corrections",
        tmp_path / "elsewhere",
        "--out",
        tmp_path / "report",
    )
    done = cli(*arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)["judged"]["num_judged"]) == (0, 4), done.stderr


def test_what_was_judged_of_a_read_only_run_is_read_from_where_it_was_put(made: Run, tmp_path: Path) -> None:
    judge(made, tmp_path / "elsewhere", 10)
    judge(made, tmp_path / "elsewhere", 1, first=20)
    config = ReportConfig(corrections=str(tmp_path / "elsewhere"))
    values = make_report([made.run], tmp_path / "report", config).values
    assert values["judged"]["num_judged"] == 10
    assert "5 of 30 random" in values["judged"]["reason"]
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(make_report([made.run], tmp_path / "report", config), console)
    text = " ".join(console.export_text().split())
    assert "Judged by people: 11 images; no rate yet: 5 of 30 random" in text
    next_one = read_queue(made.run.report).slice(10, 1).to_pylist()[0]
    assert "Not counted yet: 1 random, until somebody judges or skips this image: north/gate-" in text
    assert next_one["uri"] in text


def test_what_was_judged_in_the_version_before_counts(made: Run, tmp_path: Path) -> None:
    run, newer = made.copy(tmp_path / "run"), made.copy(tmp_path / "run.v2")
    judge(run, tmp_path / "run" / "corrections", 10)
    write_json(newer.run.run_json, (newer.run.read_run() or {}) | {"replaces": str(run.run.path)})
    assert make_report([newer.run], newer.run.report).values["judged"]["num_judged"] == 10


def test_corrections_of_another_folder_belong_to_one_run(made: Run, committed: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--corrections belongs to one run"):
        make_report([made.run, committed.run], tmp_path, ReportConfig(corrections=str(tmp_path / "other")))


def test_several_runs_are_reported_with_their_judgements_counted(
    made: Run, committed: Run, tmp_path: Path
) -> None:
    run = made.copy(tmp_path / "run")
    judge(run, tmp_path / "run" / "corrections", 5)
    values = make_report([run.run, committed.run], tmp_path / "both").values["judged"]
    assert (values["num_elsewhere"], values["num_judged"]) == (5, 0)
