from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskbatch.errors import UsageError
from training import splits

hashes = st.binary(min_size=8, max_size=8)
HALF = bytes([0b10101010] * 8)
"""A hash that says something: half of its bits are set."""


def flipped(word: bytes, bits: set[int]) -> bytes:
    mask = sum(1 << bit for bit in bits)
    return (int.from_bytes(word, "little") ^ mask).to_bytes(8, "little")


def distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).bit_count()


def is_plain(word: bytes) -> bool:
    ones = int.from_bytes(word, "little").bit_count()
    return min(ones, 64 - ones) < splits.PLAIN_BITS


def table_of(num: int, **columns: Any) -> pd.DataFrame:
    """`num` pictures of two labels in turn, all unlike each other, as `data.decode` gives them."""
    rng = np.random.default_rng(num)
    values = {
        "uri": [f"{i}.jpg" for i in range(num)],
        "label": ["with_mask", "without_mask"] * (num // 2),
        "target": [0, 1] * (num // 2),
        "cluster": "", "suspect": "0", "split": "",
        "dhash": [rng.bytes(8) for _ in range(num)],
    }  # fmt: skip
    return pd.DataFrame(values | columns)


def groups_in(table: pd.DataFrame, part: str) -> set[int]:
    return set(table.loc[table["part"] == part, "group"])


def check_apart(table: pd.DataFrame) -> None:
    """No group in two parts, and no telling hash of one part near one of another."""
    names = ("fit", "slice", "val")
    for i, part in enumerate(names):
        assert groups_in(table, part)
        for later in names[i + 1 :]:
            assert not groups_in(table, part) & groups_in(table, later)
            ours, theirs = (
                [word for word in table.loc[table["part"] == name, "dhash"] if not is_plain(word)]
                for name in (part, later)
            )
            assert all(distance(one, other) > splits.NEAR_BITS for one in ours for other in theirs)


# near-duplicates


@given(hashes, st.sets(st.integers(0, 63), max_size=12))
def test_two_hashes_share_a_group_where_few_bits_differ_and_both_say_something(
    word: bytes, bits: set[int]
) -> None:
    other = flipped(word, bits)
    near = len(bits) <= splits.NEAR_BITS and not is_plain(word) and not is_plain(other)
    first, second = splits.group_near_duplicates([word, other])
    assert (first == second) == near


@given(st.sets(st.integers(0, 63), min_size=1, max_size=splits.NEAR_BITS))
def test_hashes_of_the_plain_surface_never_join_not_even_equal_ones(bits: set[int]) -> None:
    for surface in (bytes(8), b"\xff" * 8):
        words = [surface, surface, flipped(surface, bits), HALF]
        assert len(set(splits.group_near_duplicates(words))) == 4


@settings(max_examples=50)
@given(st.lists(st.sets(st.integers(0, 63), max_size=6), min_size=1, max_size=12), st.randoms())
def test_groups_are_the_chains_of_near_hashes_in_any_order(steps: list[set[int]], random: Any) -> None:
    words = [flipped(HALF, bits) for bits in steps]
    random.shuffle(words)
    groups = splits.group_near_duplicates(words)
    expected = list(range(len(words)))  # the slow way: let numbers spread until none changes
    for _ in words:
        for i, one in enumerate(words):
            for k, other in enumerate(words):
                if distance(one, other) <= splits.NEAR_BITS and not is_plain(one) and not is_plain(other):
                    expected[i] = expected[k] = min(expected[i], expected[k])
    for i in range(len(words)):
        for k in range(len(words)):
            assert (groups[i] == groups[k]) == (expected[i] == expected[k])


def test_the_ends_of_a_chain_share_a_group_though_they_are_far_apart() -> None:
    chain = [flipped(HALF, set(range(5 * k))) for k in range(6)]
    assert distance(chain[0], chain[-1]) == 25
    assert len(set(splits.group_near_duplicates(chain))) == 1
    del chain[3]
    assert splits.group_near_duplicates(chain).tolist() == [0, 0, 0, 1, 1]


def test_a_group_is_a_cluster_or_near_duplicates_where_none_is_named() -> None:
    rng = np.random.default_rng(0)
    far = [rng.bytes(8) for _ in range(2)]
    table = pd.DataFrame(
        {"cluster": ["a", "a", "", "", "b", ""], "dhash": [*far, HALF, HALF, HALF, bytes(8)]}
    )
    groups = splits.find_groups(table)
    assert groups[0] == groups[1] and groups[2] == groups[3]
    assert len({groups[k] for k in (0, 2, 4, 5)}) == 4


# splits


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_no_group_is_in_two_of_fit_slice_and_val(seed: int, num_copies: int) -> None:
    rng = np.random.default_rng(seed)
    words = [rng.bytes(8) for _ in range(60)]
    copies = [flipped(word, {k}) for k in range(num_copies) for word in words]
    table = table_of(60 * num_copies, dhash=copies)
    told = splits.assign_parts(table, seed)
    check_apart(told)
    assert set(told["part"]) <= {"fit", "slice", "val", ""}
    assert told.drop(columns=["group", "part"]).equals(table)


def test_without_a_given_split_val_is_a_fifth_and_the_slice_an_eighth_of_the_rest() -> None:
    table = splits.assign_parts(table_of(400), 1)
    counts = table["part"].value_counts()
    assert counts["val"] == pytest.approx(80, abs=6) and counts["slice"] == pytest.approx(40, abs=6)
    assert counts["fit"] + counts["slice"] + counts["val"] == 400
    for part in ("fit", "slice", "val"):
        assert table.loc[table["part"] == part, "target"].mean() == pytest.approx(0.5, abs=0.06)


def test_a_seed_repeats_its_split_and_another_gives_another() -> None:
    first, again, other = (splits.assign_parts(table_of(200), seed)["part"] for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_a_given_split_is_kept_and_only_train_gives_the_slice() -> None:
    given_split = ["train"] * 80 + ["val"] * 20 + ["drawn"] * 10
    table = splits.assign_parts(table_of(110, split=given_split), 1)
    assert table["part"][80:100].tolist() == ["val"] * 20
    assert set(table["part"][:80]) == {"fit", "slice"}
    assert table["part"][100:].tolist() == [""] * 10


def test_suspects_are_never_learned_from_or_chosen_by_but_are_measured_on() -> None:
    suspect = ["1" if i % 8 < 2 else "0" for i in range(120)]
    for split in ([""] * 120, ["train"] * 80 + ["val"] * 40):
        table = splits.assign_parts(table_of(120, suspect=suspect, split=split), 1)
        parts = table.loc[table["suspect"] == "1", "part"]
        assert set(parts) == {"", "val"} and (parts == "val").sum() >= 4


def test_the_split_extra_is_only_learned_from() -> None:
    for rest in (["train"] * 60 + ["val"] * 20, [""] * 80):
        table = splits.assign_parts(table_of(120, split=["extra"] * 40 + rest), 1)
        assert set(table["part"][:40]) == {"fit"}
        assert set(table["part"][40:]) == {"fit", "slice", "val"}


def test_extra_relatives_of_the_slice_are_not_learned_from() -> None:
    clusters = [f"{i // 2}" for i in range(80)]
    table = table_of(140, cluster=clusters + [f"{i}" for i in range(40)] + [f"v{i}" for i in range(20)])
    table["split"] = ["train"] * 80 + ["extra"] * 40 + ["val"] * 20
    told = splits.assign_parts(table, 1)
    check_apart(told)
    extra = told[told["split"] == "extra"]
    in_slice = extra["group"].isin(groups_in(told, "slice"))
    assert (
        in_slice.any() and set(extra["part"][in_slice]) == {""} and set(extra["part"][~in_slice]) == {"fit"}
    )


@pytest.mark.parametrize("cluster", ["", "own"])
def test_near_duplicates_of_val_leave_train_whatever_their_clusters_and_are_said(
    cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(120, split=["train"] * 90 + ["val"] * 30)
    table["cluster"] = [cluster and f"{cluster} {i}" for i in range(120)]
    planted = {3: {0, 9}, 40: set(), 41: {1, 2, 3, 4, 5}}
    for row, bits in planted.items():
        table.at[row, "dhash"] = flipped(table.at[90 + row % 30, "dhash"], bits)
    table.at[5, "dhash"] = flipped(table.at[95, "dhash"], set(range(splits.NEAR_BITS + 1)))
    told = splits.assign_parts(table, 1)
    assert set(told.loc[list(planted), "part"]) == {""}
    assert (told["part"][:90] == "").sum() == len(planted) and set(told["part"][90:]) == {"val"}
    said = capsys.readouterr().err
    assert "3 pictures are near-duplicates of val and are left out" in said


def test_plain_pictures_of_val_take_nothing_from_train() -> None:
    table = table_of(120, split=["train"] * 90 + ["val"] * 30)
    table.loc[[1, 2, 91, 92], "dhash"] = [bytes(8)] * 4
    assert "" not in set(splits.assign_parts(table, 1)["part"])


# what cannot be split


def refusal(table: pd.DataFrame) -> str:
    with pytest.raises(UsageError) as refused:
        splits.assign_parts(table, 1)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("split", [[""] * 102, ["train"] * 80 + ["val"] * 20 + ["train"] * 2])
def test_a_class_of_two_pictures_is_refused_with_its_name_and_what_to_do(split: list[str]) -> None:
    table = table_of(102, label=["a", "b"] * 50 + ["rare"] * 2, target=[0, 1] * 50 + [2] * 2, split=split)
    sentence = refusal(table)
    assert sentence.startswith(
        "class 'rare': 2 pictures in 2 groups of near-duplicates, 10 or more groups expected"
    )
    assert "drop" in sentence


def test_a_class_of_many_pictures_of_few_people_is_refused() -> None:
    clusters = [f"{i // 25 if i % 2 else i}" for i in range(100)]
    assert "class 'without_mask': 50 pictures in 4 groups" in refusal(table_of(100, cluster=clusters))


def test_a_val_of_one_class_is_refused() -> None:
    table = table_of(100, split=["train"] * 80 + ["val", ""] * 10)
    assert refusal(table).startswith("only one class or one group in val")


def test_only_extra_beside_val_is_nothing_to_choose_by() -> None:
    assert "no picture to learn from" in refusal(table_of(100, split=["extra"] * 80 + ["val"] * 20))


# the leak of a split by file


def features_of(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """What tells the group well and the label not at all."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(int(groups.max()) + 1, 96))
    return (centres[groups] + 0.05 * rng.normal(size=(len(labels), 96))).astype(np.float32)


def test_a_split_by_file_leaks_planted_copies_and_claims_what_is_not_there() -> None:
    labels = np.repeat(np.random.default_rng(1).permutation([0, 1] * 15), 5)
    table = pd.DataFrame({"target": labels, "group": np.arange(150) // 5})
    leak = splits.measure_leak(table, table, features_of(labels, table["group"].to_numpy(), 2), 1)
    assert (leak["num_pictures"], leak["num_groups"], leak["num_test_by_file"]) == (150, 30, 30)
    assert leak["num_leaked_by_file"] >= 28
    assert leak["probe_accuracy"]["by_file"] > 0.9 > 0.75 > leak["probe_accuracy"]["by_group"]


def test_pictures_without_copies_leak_nothing() -> None:
    labels = np.tile([0, 1], 60)
    table = pd.DataFrame({"target": labels, "group": np.arange(120)})
    leak = splits.measure_leak(table, table, np.eye(2, 8, dtype=np.float32)[labels], 1)
    assert leak["num_leaked_by_file"] == 0
    assert leak["probe_accuracy"] == {"by_file": 1, "by_group": 1}


def test_only_the_copies_count_as_leaked() -> None:
    labels = np.tile([0, 1], 60)
    groups = np.arange(120)
    groups[100:] = groups[80:100]  # 20 pairs
    table = pd.DataFrame({"target": labels, "group": groups})
    leak = splits.measure_leak(table, table, np.zeros((120, 2), np.float32), 1)
    in_pairs = np.flatnonzero(pd.Series(groups).duplicated(keep=False))
    assert leak["num_groups"] == 100 and 0 < leak["num_leaked_by_file"] <= len(in_pairs)
    assert leak["num_leaked_by_file"] < leak["num_test_by_file"]


def test_a_training_goes_on_from_its_own_split_with_the_same_parts() -> None:
    first = splits.assign_parts(table_of(200), 1)
    again = first.assign(
        split=first["part"].replace("fit", "train"), cluster="a-" + first["group"].astype(str)
    ).drop(columns=["part", "group"])
    grown = pd.concat(
        [again, table_of(60, seed=9).assign(uri=lambda t: "new/" + t["uri"])], ignore_index=True
    )
    second = splits.assign_parts(grown, 2)
    assert second["part"][: len(first)].tolist() == first["part"].tolist()
    assert set(second["part"][len(first) :]) <= {"fit", ""} and (second["part"][len(first) :] == "fit").any()


def test_splits_that_nobody_knows_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    splits.assign_parts(table_of(140, split=["train"] * 100 + ["val"] * 30 + ["archive"] * 10), 1)
    assert "10 pictures of split archive take no part" in capsys.readouterr().err
