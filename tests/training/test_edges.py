"""What once went wrong: labels, ties, edges and odd tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskbatch.errors import UsageError
from training import data, metrics, splits
from training.recipe import read_recipe

from .test_data import PRESET, copy, load, pictures, write
from .test_splits import table_of


def test_rows_without_a_split_beside_a_given_one_are_learned_from() -> None:
    table = splits.assign_parts(table_of(140, split=["train"] * 80 + ["val"] * 20 + [""] * 40), 1)
    assert "fit" in set(table["part"][100:])


def test_a_train_without_val_gives_a_fifth_of_itself() -> None:
    table = splits.assign_parts(table_of(140, split="train"), 1)
    assert 20 <= (table["part"] == "val").sum() <= 36


def test_the_threshold_counts_pictures_of_equal_confidence_together() -> None:
    confidence, hits = np.full(4, 0.9), np.array([True, True, False, False])
    threshold = metrics.find_threshold(confidence, hits, 0.9)
    above = confidence >= threshold
    assert not above.any() or hits[above].mean() >= 0.9


def test_the_threshold_of_very_sure_pictures_keeps_them() -> None:
    confidence, hits = np.array([0.99999, 0.99998, 0.99996]), np.array([True, True, False])
    assert (confidence >= metrics.find_threshold(confidence, hits, 0.98)).sum() == 2


def test_the_last_edge_belongs_to_the_last_bin() -> None:
    bins = metrics.measure_bins(np.array([0.9, 1.0]), (0.0, 0.65, 1.0), np.ones(2, bool), "of 1")
    assert sum(row["num"] for row in bins) == 2


def test_resamples_without_an_assessed_class_warn_of_nothing() -> None:
    labels = np.array([0] + [2] * 9)
    metrics.measure_rates(labels, np.eye(3)[labels], np.arange(10), ("a", "b", "c"), ("a", "b"))


def test_a_picture_on_a_store_whose_library_is_missing_is_left_out(faces_root: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "m.csv", f"uri,label\ngs://b/x.jpg,x\n{pictures(faces_root)[0]},x\n")
    assert len(data.decode(load(file), PRESET, "decode")[1]) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"suspect": pd.array([1, None], dtype="Int64")},
        {"suspect": [1.0, None]},
        {"split": pd.Categorical(["train", None])},
    ],
)
def test_parquet_columns_of_any_type(tmp_path: Path, columns) -> None:
    pd.DataFrame({"uri": ["a", "b"], "label": ["x", "y"]} | columns).to_parquet(tmp_path / "a.parquet")
    table = load(tmp_path / "a.parquet")
    assert table["suspect"].tolist() == (["1", "0"] if "suspect" in columns else ["0", "0"])


def test_a_row_longer_than_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        print(
            data.load([str(write(tmp_path / "a.csv", "uri,label\n1.jpg,x,y\n2.jpg,y,z\n"))]).to_dict(
                "records"
            )
        )


def test_a_name_with_two_colons_is_read(faces_root: Path, tmp_path: Path) -> None:
    copy(pictures(faces_root)[0], tmp_path / "with_mask" / "gate::1.jpg")
    copy(pictures(faces_root)[0], tmp_path / "with_mask" / "gate.jpg")
    assert len(data.decode(load(tmp_path), PRESET, "decode")[1]) == 2


def test_a_string_where_a_list_belongs_is_refused() -> None:
    with pytest.raises(UsageError):
        read_recipe("default", ["classes=with_mask"])


def test_half_an_epoch_is_refused() -> None:
    with pytest.raises(UsageError):
        read_recipe("default", ["epochs=2.5"])


def test_a_class_that_is_compliant_is_one_of_the_classes() -> None:
    with pytest.raises(UsageError):
        read_recipe("default", ['compliant=["typo"]'])
