from math import comb

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

from training import metrics

CLASSES = ("with_mask", "without_mask", "incorrect_mask")
seeds = st.integers(0, 10_000)


def guesses(seed: int, num: int = 200, num_classes: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels (N,) and logits (N, K) that are right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    return labels, 1.5 * np.eye(num_classes)[labels] + rng.normal(size=(num, num_classes))


def value(figures: dict[str, dict[str, float]], name: str) -> float:
    return figures[name]["value"]


@settings(max_examples=15)
@given(seeds)
def test_rates_are_those_of_scikit_learn(seed: int) -> None:
    labels, logits = guesses(seed)
    probs = softmax(logits, axis=1)
    predicted = probs.argmax(axis=1)
    figures = metrics.measure_rates(labels, probs, np.arange(200), CLASSES, CLASSES)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted, labels=range(3))
    assert value(figures, "accuracy") == pytest.approx(sk.accuracy_score(labels, predicted), abs=1e-4)
    balanced = sk.balanced_accuracy_score(labels, predicted)
    assert value(figures, "balanced_accuracy") == pytest.approx(balanced, abs=1e-4)
    for k, name in enumerate(CLASSES):
        found = [value(figures, f"{what}_{name}") for what in ("precision", "recall", "f1")]
        assert found == pytest.approx([precision[k], recall[k], f1[k]], abs=1e-4)
        auc = sk.roc_auc_score(labels == k, probs[:, k])
        assert figures["roc_auc"][name] == pytest.approx(auc, abs=1e-4)
    assert (figures["num"], figures["num_groups"]) == (200, 200)


@settings(max_examples=15)
@given(seeds, st.integers(12, 60))
def test_every_interval_holds_its_value_and_lies_in_0_to_1(seed: int, num_groups: int) -> None:
    labels, logits = guesses(seed)
    groups = np.arange(200) % num_groups
    for name, figure in metrics.measure_rates(
        labels, softmax(logits, axis=1), groups, CLASSES, CLASSES
    ).items():
        if isinstance(figure, dict) and "low" in figure:
            assert 0 <= figure["low"] <= figure["high"] <= 1
            assert name == "ece" or figure["low"] <= figure["value"] <= figure["high"]


def test_an_interval_widens_when_rows_are_copies_in_one_cluster() -> None:
    labels, logits = (np.repeat(it, 8, axis=0) for it in guesses(1, 60))
    probs = softmax(logits, axis=1)
    apart = metrics.measure_rates(labels, probs, np.arange(480), CLASSES, CLASSES)
    together = metrics.measure_rates(labels, probs, np.arange(480) // 8, CLASSES, CLASSES)
    for name in ("accuracy", "balanced_accuracy", "recall_with_mask", "two_way"):
        assert value(apart, name) == value(together, name)
        widths = [figures[name]["high"] - figures[name]["low"] for figures in (apart, together)]
        assert widths[0] > 0.03 and widths[1] == pytest.approx(widths[0] * 8**0.5, rel=0.35)


def test_numbers_of_groups_say_nothing_but_who_belongs_together() -> None:
    labels, logits = guesses(4)
    probs, groups = softmax(logits, axis=1), np.arange(200) // 4
    assert metrics.measure_rates(labels, probs, groups, CLASSES, CLASSES) == metrics.measure_rates(
        labels, probs, groups * 7 + 900, CLASSES, CLASSES
    )


def test_balanced_accuracy_is_of_the_assessed_classes_that_occur() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    predicted = np.array([0] * 30 + [2] * 5 + [1] * 5)
    figures = metrics.measure_rates(labels, np.eye(3)[predicted], np.arange(40), CLASSES, CLASSES)
    assert value(figures, "balanced_accuracy") == 0.75
    assert "recall_incorrect_mask" not in figures and "incorrect_mask" not in figures["roc_auc"]
    assert "precision_incorrect_mask" not in figures
    masks = metrics.measure_rates(labels, np.eye(3)[predicted], np.arange(40), CLASSES, ["with_mask"])
    assert value(masks, "balanced_accuracy") == 1


def test_two_way_asks_only_masked_or_not_of_who_is_one_of_them() -> None:
    probs = np.array([[0.3, 0.2, 0.5], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]])
    figures = metrics.measure_rates(np.array([0, 1, 1, 2]), probs, np.arange(4), CLASSES, CLASSES)
    assert value(figures, "two_way") == pytest.approx(2 / 3, abs=1e-4)
    assert value(figures, "accuracy") == 0.25
    others = metrics.measure_rates(
        np.array([0, 1, 1, 2]), probs, np.arange(4), ("a", "b", "c"), ("a", "b", "c")
    )
    assert "two_way" not in others


def sure(confidence: float, num_right: int, num: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels and probabilities of a model that is equally sure of everything."""
    labels = np.array([0] * num_right + [1] * (num - num_right))
    return labels, np.tile([confidence, 1 - confidence], (num, 1))


@pytest.mark.parametrize(
    ("confidence", "num_right", "ece"), [(0.8, 80, 0), (0.99, 80, 0.19), (0.6, 90, 0.3), (1.0, 100, 0)]
)
def test_the_calibration_error_is_how_far_confidence_is_from_accuracy(
    confidence: float, num_right: int, ece: float
) -> None:
    labels, probs = sure(confidence, num_right, 100)
    figures = metrics.measure_rates(labels, probs, np.arange(100), ("a", "b"), ("a", "b"))
    assert value(figures, "ece") == pytest.approx(ece, abs=1e-4)


def test_errors_of_opposite_bins_do_not_cancel() -> None:
    timid, bold = sure(0.6, 100, 100), sure(0.9, 50, 100)
    labels, probs = (np.concatenate(pair) for pair in zip(timid, bold, strict=True))
    figures = metrics.measure_rates(labels, probs, np.arange(200), ("a", "b"), ("a", "b"))
    assert value(figures, "accuracy") == 0.75 and probs.max(axis=1).mean() == pytest.approx(0.75)
    assert value(figures, "ece") == pytest.approx(0.4, abs=1e-4)


@given(seeds, st.floats(0.1, 8))
def test_reliability_conserves_pictures_and_hits_and_its_confidence_rises(seed: int, scale: float) -> None:
    labels, logits = guesses(seed)
    probs = softmax(scale * logits, axis=1)
    bins = metrics.bin_by_confidence(labels, probs)
    assert sum(row["num"] for row in bins) == 200
    hits = sum(row["num"] * row["accuracy"] for row in bins)
    assert hits == pytest.approx((probs.argmax(axis=1) == labels).sum())
    confidences = [row["confidence"] for row in bins]
    assert confidences == sorted(confidences) and len(bins) <= metrics.NUM_BINS


def test_a_temperature_above_one_cools_an_overconfident_model() -> None:
    labels, probs = sure(0.99, 80, 100)
    logits = np.log(probs)
    temperature = metrics.fit_temperature(logits, labels)
    assert temperature > 1
    assert softmax(logits / temperature, axis=1)[0, 0] == pytest.approx(0.8, abs=1e-3)


@settings(max_examples=20)
@given(seeds, st.floats(0.3, 4))
def test_logits_that_are_multiplied_give_a_temperature_that_is(seed: int, factor: float) -> None:
    labels, logits = guesses(seed)
    temperature = metrics.fit_temperature(logits, labels)
    assume(0.2 < temperature * factor < 9)
    assert metrics.fit_temperature(logits * factor, labels) == pytest.approx(temperature * factor, rel=5e-3)


def test_a_groups_own_labels_never_decide_its_probabilities() -> None:
    labels, logits = guesses(2)
    groups = np.arange(200) // 5
    before = metrics.cross_fit(logits, labels, groups)
    assert np.allclose(before.sum(axis=1), 1)
    changed = 0
    for group in (0, 7, 39):
        own = groups == group
        told = np.where(own, (labels + 1) % 3, labels)
        after = metrics.cross_fit(logits, told, groups)
        assert np.array_equal(after[own], before[own])
        changed += not np.array_equal(after, before)
    assert changed == 3


def test_cross_fitting_keeps_every_prediction() -> None:
    labels, logits = guesses(3)
    probs = metrics.cross_fit(logits, labels, np.arange(200))
    assert np.array_equal(probs.argmax(axis=1), logits.argmax(axis=1))


@given(seeds, st.sampled_from([0.5, 0.9, 0.98, 1.0]))
def test_the_threshold_leaves_the_wanted_accuracy_and_is_the_lowest_that_does(
    seed: int, target: float
) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.permutation(np.arange(1, 401) / 500)  # of 4 decimals, all different
    hits = rng.random(400) < confidence + 0.2
    threshold = metrics.find_threshold(confidence, hits, target)
    above = confidence >= threshold
    assert above.any() == (threshold < 1)
    assert not above.any() or hits[above].mean() >= target
    assert all(hits[confidence >= lower].mean() < target for lower in confidence[confidence < threshold])


def test_the_threshold_is_one_where_no_picture_is_sure_enough_and_the_least_where_all_are_right() -> None:
    confidence = np.array([0.9, 0.5, 0.7])
    assert metrics.find_threshold(confidence, np.zeros(3, bool), 0.9) == 1.0
    assert metrics.find_threshold(confidence, np.ones(3, bool), 0.9) == 0.5


@given(st.lists(st.tuples(st.floats(0, 999), st.booleans()), min_size=1, max_size=60))
def test_bins_conserve_pictures_and_hits_and_hold_their_value(rows: list[tuple[float, bool]]) -> None:
    values, hits = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    bins = metrics.measure_bins(values, (0, 48, 96, 144, float("inf")), hits, "px")
    assert sum(row["num"] for row in bins) == len(rows)
    assert sum(row["num"] * row["value"] for row in bins) == pytest.approx(hits.sum(), abs=0.01)
    for row in bins:
        assert row["num"] == ((values >= row["from"]) & (values < (row["to"] or np.inf))).sum() > 0
        assert row["low"] <= row["value"] <= row["high"] and row["unit"] == "px"


def hits(first: int, second: int, both: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of two classifiers, by how many pictures one alone, both or neither gets right."""
    ours = np.array([True] * (first + both) + [False] * (second + neither), bool)
    return ours, np.array([False] * first + [True] * (both + second) + [False] * neither, bool)


@given(st.integers(0, 6), st.integers(0, 7), st.integers(0, 5), st.integers(1, 5))
def test_a_sign_flip_with_a_picture_a_group_is_the_exact_test_of_mcnemar(
    first: int, second: int, both: int, neither: int
) -> None:
    ours, theirs = hits(first, second, both, neither)
    found = metrics.flip_signs(ours, theirs, np.arange(len(ours)))
    num = first + second
    tail = sum(comb(num, k) for k in range(min(first, second) + 1)) / 2**num
    assert (found["only_first_right"], found["only_second_right"]) == (first, second)
    assert found["num_groups"] == len(ours)
    assert found["p_value"] == pytest.approx(min(1, 2 * tail), abs=1e-5)


def test_a_sign_flip_of_many_groups_is_drawn_and_comes_near_the_exact_one() -> None:
    ours, theirs = hits(30, 14, 50, 20)
    found = metrics.flip_signs(ours, theirs, np.arange(len(ours)))
    assert found == metrics.flip_signs(ours, theirs, np.arange(len(ours)))
    assert found["p_value"] == pytest.approx(binomtest(14, 44).pvalue, abs=0.006)


def test_pictures_that_are_alike_count_as_one_in_a_sign_flip() -> None:
    ours, theirs = hits(0, 40, 40, 20)
    assert metrics.flip_signs(ours, theirs, np.arange(100))["p_value"] < 0.001
    assert (
        metrics.flip_signs(ours, theirs, np.arange(100) // 20)["p_value"] == 0.5
    )  # two groups differ: 2 of 4


def test_a_sign_flip_holds_its_level_where_a_test_by_picture_would_not() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(12), 10)
    errors = [
        metrics.flip_signs(lean, ~lean, groups)["p_value"] < 0.05
        for lean in (np.repeat(rng.random(12) < 0.5, 10) ^ (rng.random(120) < 0.1) for _ in range(300))
    ]
    assert np.mean(errors) < 0.08  # .05, and three standard errors


def test_a_difference_over_strata_counts_each_by_its_size_whatever_part_of_it_was_judged() -> None:
    strata = np.repeat(["random", "uncertain"], [40, 100])
    sizes = {"random": 19_000.0, "uncertain": 1_000.0}
    old, new = np.ones(140, bool), np.ones(140, bool)
    new[:4], old[40:80] = False, False  # -10 points of the random ones, +40 of the others
    found = metrics.estimate_difference(old, new, np.arange(140), strata, sizes)
    assert found["value"] == pytest.approx(-0.95 * 0.1 + 0.05 * 0.4)
    assert found["low"] < found["value"] < found["high"]
    alike = metrics.estimate_difference(old, new, np.arange(140) // 10, strata, sizes)
    assert alike["value"] == found["value"]
    assert alike["high"] - alike["low"] > 1.2 * (found["high"] - found["low"])


@pytest.mark.parametrize("lost", [0.0, 0.01, 0.05])
def test_the_interval_of_a_difference_over_strata_holds_the_truth(lost: float) -> None:
    """Also where hardly any change of the large stratum is seen."""
    strata = np.repeat(["random", "uncertain"], [25, 25])
    sizes, held = {"random": 19_000.0, "uncertain": 1_000.0}, []
    truth = -0.95 * lost + 0.05 * 0.4
    for seed in range(300):
        draws = np.random.default_rng(seed).random(50)
        new = np.where(strata == "random", draws >= lost, draws < 0.4)
        found = metrics.estimate_difference(strata == "random", new, np.arange(50) // 3, strata, sizes)
        held.append(found["low"] <= truth <= found["high"])
    assert np.mean(held) > 0.92  # .95, and two standard errors


def test_paired_accuracies_count_by_weight_and_their_difference_is_theirs() -> None:
    old, new = np.array([True, True, False, False] * 5), np.array([True, False, True, True] * 5)
    figures = metrics.measure_pair(old, new, np.arange(20), np.array([1.0, 1.0, 2.0, 4.0] * 5))
    assert [figures[name]["value"] for name in ("old", "new", "difference")] == [0.25, 0.875, 0.625]
    assert figures["difference"]["low"] < 0.625 < figures["difference"]["high"]
