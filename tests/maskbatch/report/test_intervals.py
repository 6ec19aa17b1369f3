import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from maskbatch.report.intervals import FEW_CLUSTERS, DesignEffects, estimate_design_effects, wilson

clusters = st.lists(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(0, 2))),
    min_size=1,
    max_size=40,
)


@given(clusters, st.floats(0.5, 0.999))
def test_an_interval_holds_the_rate_and_lies_in_zero_to_one(
    drawn: list[tuple[int, int, int]], level: float
) -> None:
    compliant, assessed, group = (np.array(column) for column in zip(*drawn, strict=True))
    effects = estimate_design_effects(compliant.astype(float), assessed.astype(float), group, 3)
    assert (effects.effect_G >= 1).all()
    assert effects.num_clusters_G.sum() == len(drawn)
    totals = [np.bincount(group, column, 3) for column in (compliant, assessed)]
    low, high = wilson(totals[0], totals[1], effects, level)
    there = totals[1] > 0
    rate = totals[0][there] / totals[1][there]
    assert (low[there] - 1e-12 <= rate).all()
    assert (rate <= high[there] + 1e-12).all()
    assert ((low[there] >= 0) & (high[there] <= 1)).all()
    assert np.isnan(low[~there]).all()
    assert np.isnan(high[~there]).all()


def one(effect: float, freedom: float) -> DesignEffects:
    return DesignEffects(np.array([effect]), np.array([freedom]), np.array([50]))


@pytest.mark.parametrize(("compliant", "assessed"), [(0, 30), (27, 30), (30, 30), (900, 1000)])
def test_without_clustering_it_is_wilsons_interval(compliant: int, assessed: int) -> None:
    expected = binomtest(compliant, assessed).proportion_ci(0.95, "wilson")
    low, high = wilson(np.array([float(compliant)]), np.array([float(assessed)]), one(1, 1e9))
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_where_all_or_none_comply_the_interval_ends_exactly_there() -> None:
    for assessed in range(1, 200):
        n = np.array([float(assessed)])
        assert wilson(n, n, one(1.7, 11))[1][0] == 1
        assert wilson(n * 0, n, one(1.7, 11))[0][0] == 0


def test_a_design_effect_counts_as_that_many_fewer_images() -> None:
    clustered = wilson(np.array([900.0]), np.array([1000.0]), one(10, 1e9))
    fewer = wilson(np.array([90.0]), np.array([100.0]), one(1, 1e9))
    assert np.allclose(clustered, fewer)


def test_independent_images_have_a_design_effect_near_one_and_identical_ones_their_number() -> None:
    rng = np.random.default_rng(1)
    images = np.full(2000, 50.0)
    free = estimate_design_effects(rng.binomial(50, 0.8, 2000).astype(float), images, np.zeros(2000, int), 1)
    stuck = estimate_design_effects(50.0 * rng.binomial(1, 0.8, 2000), images, np.zeros(2000, int), 1)
    assert free.effect_G[0] == pytest.approx(1, abs=0.12)
    two = estimate_design_effects(np.array([10.0, 0]), np.array([10.0, 10]), np.zeros(2, int), 1)
    assert two.effect_G[0] == 2 / 1 * (5**2 + 5**2) / (20 * 0.5 * 0.5)  # Cochran 1977, by hand
    assert stuck.effect_G[0] == pytest.approx(50, rel=0.01)


def test_a_group_of_few_clusters_takes_the_pooled_effect() -> None:
    rng = np.random.default_rng(2)
    group = np.array([0] * 40 + [1] * (FEW_CLUSTERS - 1))
    compliant = rng.binomial(30, rng.beta(2, 1, len(group))).astype(float)
    effects = estimate_design_effects(compliant, np.full(len(group), 30.0), group, 2)
    alone = estimate_design_effects(
        compliant[40:], np.full(FEW_CLUSTERS - 1, 30.0), np.zeros(FEW_CLUSTERS - 1, int), 1
    )
    assert effects.effect_G[1] != pytest.approx(alone.effect_G[0])
    own = estimate_design_effects(compliant[:40], np.full(40, 30.0), np.zeros(40, int), 1)
    assert effects.freedom_G[0] == own.freedom_G[0]
    assert effects.freedom_G[1] == pytest.approx(own.freedom_G[0] + alone.freedom_G[0])


def test_the_fewer_clusters_hold_the_spread_the_fewer_degrees_of_freedom_it_has() -> None:
    rng = np.random.default_rng(3)
    images, group = np.full(500, 40.0), np.zeros(500, int)
    even = estimate_design_effects(rng.normal(20, 3, 500), images, group, 1)
    compliant = np.full(500, 40.0)
    compliant[:2] = 0
    uneven = estimate_design_effects(compliant, images, group, 1)
    assert even.freedom_G[0] == pytest.approx(499, rel=0.1)
    assert uneven.freedom_G[0] == pytest.approx(2 * 2, rel=0.02)  # 2 S^2 / V with S, V of two equal squares


def coverage(num_clusters: int, rate: float, correlation: float, rng: np.random.Generator) -> list[float]:
    """How often this and a plain Wilson interval hold the rate: 1,000 groups of clusters of 5 to 200 images."""
    assessed = rng.integers(5, 201, (1000, num_clusters))
    sum_ab = 1 / correlation - 1 if correlation else 1e9
    compliant = rng.binomial(assessed, rng.beta(rate * sum_ab, (1 - rate) * sum_ab, assessed.shape))
    group = np.repeat(np.arange(1000), num_clusters)
    effects = estimate_design_effects(
        compliant.ravel().astype(float), assessed.ravel().astype(float), group, 1000
    )
    assert (effects.num_clusters_G == num_clusters).all()
    plain = DesignEffects(np.ones(1000), np.full(1000, 1e9), effects.num_clusters_G)
    totals = compliant.sum(1).astype(float), assessed.sum(1).astype(float)
    ends = [wilson(*totals, used) for used in (effects, plain)]
    return [100 * float(np.mean((low <= rate) & (high >= rate))) for low, high in ends]


def test_the_interval_covers_the_truth_in_clustered_data_where_a_plain_one_does_not() -> None:
    rng = np.random.default_rng(20261001)
    rates, correlations = (0.7, 0.8, 0.9, 0.95, 0.99), (0, 0.05, 0.1, 0.2, 0.3)
    print("\ncoverage of a nominal 95 % interval (of a plain Wilson interval)")
    for num_clusters in (5, 10, 30, 100, 200):
        for correlation in correlations:
            row = [coverage(num_clusters, rate, correlation, rng) for rate in rates]
            cells = (
                f"{rate}: {ours:5.1f} ({plain:4.1f})" for rate, (ours, plain) in zip(rates, row, strict=True)
            )
            print(f"{num_clusters:3} clusters, correlation {correlation:4}: ", "  ".join(cells))
            if num_clusters >= 100:
                assert all(93 <= ours <= 97 for ours, _ in row[:-1])
                assert correlation < 0.05 or all(plain < 75 for _, plain in row)
