import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.report.histograms import EDGES, NUM_BINS, bin_index, count_bins

values = st.lists(st.floats(0, 1e7), max_size=50).map(lambda v: np.array(v, np.float64))


@pytest.mark.parametrize("measure", EDGES)
@given(values, values)
def test_histograms_of_parts_add_up(measure: str, one: np.ndarray, other: np.ndarray) -> None:
    added = np.add(count_bins(measure, one), count_bins(measure, other))
    assert added.sum() == len(one) + len(other)
    assert added.tolist() == count_bins(measure, np.concatenate([one, other]))


@pytest.mark.parametrize("measure", EDGES)
def test_a_bin_holds_its_lower_edge_and_the_last_bin_all_beyond(measure: str) -> None:
    edges = EDGES[measure]
    assert bin_index(measure, edges).tolist() == [*range(NUM_BINS), NUM_BINS - 1]
    assert bin_index(measure, np.nextafter(edges[1:], 0)).tolist() == list(range(NUM_BINS))
    assert bin_index(measure, np.array([1e30])).tolist() == [NUM_BINS - 1]
