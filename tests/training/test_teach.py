"""Corrections of a real run, through a tar, to a new checkpoint: a gain that is shown, and words that are refused."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint, save_checkpoint
from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review.queue import read_queue
from maskbatch.runs.directory import RunDir
from tests.maskbatch.samples import encode, make_tar, stage_run
from training import data, evaluate, finetune, inputs, splits, teach
from training.corrections import load_corrections
from training.recipe import Recipe, read_recipe

from .conftest import Invoke, Result, Undrawn

RED, BLUE, YELLOW = (200, 60, 60), (60, 60, 200), (200, 180, 60)
LAYOUT = "{site}/{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg"
NUM_DAYS = 30
SMALL = ["input_px=32", "augmentation=none", "patience=0", "batch_size=16", "learning_rate=0.003"]


def picture(seed: int, mask: tuple[int, int, int]) -> bytes:
    """Noise that no other seed gives; its lower half has the colour of a mask, or of a chin."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (6, 8, 3)).astype(float)
    noise[3:] = 0.3 * noise[3:] + 0.7 * np.array(mask)
    return encode(Image.fromarray(noise.astype(np.uint8)).resize((48, 36)), quality=90)


def truth(uri: str) -> str:
    """Every third snapshot shows nobody's mask; every other mask is yellow, which the old one never saw."""
    number = int(re.findall(r"/(\d{6})\.jpg", uri)[0])
    return "without_mask" if number % 3 == 0 else "with_mask"


def recipe(*changes: str, epochs: int = 8) -> Recipe:
    return read_recipe("plain_cnn", [*SMALL, *changes], epochs=epochs)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 60 pictures: blue masks, red chins."""
    root = tmp_path_factory.mktemp("faces")
    for label, colour, first in (("with_mask", BLUE, 0), ("without_mask", RED, 1000)):
        (root / label).mkdir()
        for k in range(first, first + 60):
            (root / label / f"{k}.jpg").write_bytes(picture(k, colour))
    return root


@pytest.fixture(scope="module")
def old(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("old")
    finetune.train(recipe(), [str(faces)], out, device="cpu")
    return out


@pytest.fixture(scope="module")
def run(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed run over a tar of one camera: 30 days of 9 snapshots, with its queue."""
    root = tmp_path_factory.mktemp("archive")
    files = {}
    for k in range(NUM_DAYS * 9):
        name = f"gate/a/2026-10-{k // 9 + 1:02d}/{k % 9:06d}.jpg"
        red = truth(name) == "without_mask"
        files[name] = picture(5000 + k, RED if red else YELLOW if k % 2 else BLUE)
    (root / "month.tar").write_bytes(make_tar(files))
    checkpoint = open_checkpoint(str(old / "checkpoint.safetensors"))
    staged = stage_run(tmp_path_factory.mktemp("run") / "out", root / "month.tar", checkpoint, layout=LAYOUT)
    staged.commit()
    make_report([staged.run], staged.run.report)
    return Path(staged.run.path)


@pytest.fixture
def judged(run: Path, tmp_path: Path) -> Iterator[Any]:
    """Judges the first `num` of the queue by `label_of` as `by`, into a folder; the run is left as it is."""
    folder = tmp_path / "corrections"

    def judge(num: int = 1000, label_of: Any = lambda row: truth(row["uri"]), by: str = "ann") -> Path:
        for row in read_queue(run / "report").slice(0, num).to_pylist():
            values = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
            said = values | {"region": 0, "label": label_of(row), "was": row["label"], "by": by}
            corrections.write_judgement(folder, said)
        return folder

    yield judge


@pytest.fixture
def teach_cnn(invoke: Invoke) -> Callable[..., Result]:
    changes = [item for change in SMALL for item in ("--set", change)]
    command = ["--recipe", "plain_cnn", *changes, "--device", "cpu"]
    return lambda *arguments, epochs=8: invoke(finetune, *command, "--epochs", epochs, *arguments)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module trains once is drawn too; what a test trains is not, which takes a second each time."""
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 8)
    monkeypatch.setattr(evaluate.plots, "Figure", Undrawn)


def test_corrections_that_teach_something_give_a_checkpoint_that_is_called_better(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, old: Path, judged: Any, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    result = teach_cnn("--data", faces, "--corrections", run, "--corrections", judged(), "--out", out)
    assert result.exit_code == 0, result.stderr
    found = json.loads((out / "comparison.json").read_text())
    gain = found["exam"]["archive"]["difference"]
    assert found["better"] and found["verdict"].startswith(
        "The new checkpoint is better than the old one on images such as were corrected; over the whole archive "
        f"accuracy changes by {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f} points"
    )
    assert found["old"]["digest"] == open_checkpoint(str(old / "checkpoint.safetensors")).digest
    assert f"the training goes on from {old}" in result.stderr and found["verdict"] in result.stderr
    exam = found["exam"]
    assert exam["num_groups"] == 10 and exam["p_value"] < 0.05
    for figures in (exam["accuracy"], exam["archive"], exam["by_stratum"]["random"]):
        assert figures["new"]["value"] > figures["old"]["value"]
    assert "## What corrections taught it" in (out / "MODEL_CARD.md").read_text()
    card = open_checkpoint(str(out / "checkpoint.safetensors")).card
    assert np.sum(card.confusion) == found["val"]["num"] == pd.read_parquet(old / "split.parquet")[
        "split"].eq("val").sum()  # fmt: skip
    check_parts(out, old)


def check_parts(out: Path, old: Path) -> None:
    """Days are whole, val is that of the data alone, and every picture can be had again."""
    before, after = (data.load([str(folder / "split.parquet")]) for folder in (old, out))
    vals = [set(table.loc[table["split"] == "val", "uri"]) for table in (before, after)]
    assert vals[0] == vals[1]
    taught = after[after["source"] == "corrections"]
    days = taught["uri"].str.extract(r"(\d{4}-\d\d-\d\d)")[0]
    assert taught.groupby(days)["split"].nunique().eq(1).all()
    counts = (
        taught["split"].map({"train": "fit"}).fillna(taught["split"]).groupby(days).first().value_counts()
    )
    assert counts.to_dict() == {"exam": 10, "slice": 2, "fit": 18}
    assert set(taught["run"]) != {""} and all(uri.startswith("tar://") for uri in taught["uri"])
    assert len(data.decode(taught, recipe().preset, "decode")[1]) == len(taught)


def test_random_labels_are_refused_the_word_better(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, judged: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    folder = judged(120, lambda row: str(rng.choice(["with_mask", "without_mask"])))
    result = teach_cnn(
        "--data", faces, "--corrections", folder, "--corrections", run, "--out", tmp_path / "new"
    )
    assert result.exit_code == 4, result.stderr
    found = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert not found["better"] and found["verdict"] in result.stderr
    assert found["verdict"].startswith(
        "The new checkpoint is not shown to be better than the old one: on the "
    )
    assert (tmp_path / "new" / "checkpoint.safetensors").exists()


def test_a_few_corrections_are_learned_from_and_show_nothing(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, judged: Any, tmp_path: Path
) -> None:
    folders = ("--corrections", run, "--corrections", judged(30))
    result = teach_cnn("--data", faces, *folders, "--out", tmp_path / "n", epochs=1)
    assert result.exit_code == 4
    assert "30 corrections could be used, 50 or more are needed to show anything" in result.stderr


# what is loaded


def test_the_last_word_of_each_person_counts_and_skipped_and_disputed_images_are_counted_apart(
    run: Path, judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    judged(6, lambda row: "without_mask")
    judged(5, lambda row: "with_mask")  # ann changed her mind
    judged(2, lambda row: "without_mask", by="bob")
    judged(1, lambda row: None, by="ann")  # took hers back: bob's stands
    folder = judged(7, lambda row: None, by="cat")
    found = load_corrections([str(folder), str(run)])
    queue = read_queue(run / "report").slice(0, 7).to_pylist()
    expected = {row["uri"]: "with_mask" for row in queue[2:5]}
    expected |= {queue[0]["uri"]: "without_mask", queue[5]["uri"]: "without_mask"}
    assert dict(zip(found.table["uri"], found.table["label"], strict=True)) == expected
    counts = {name: found.counts[name] for name in ("judged", "skipped", "disputed", "usable")}
    assert counts == {"judged": 7, "skipped": 1, "disputed": 1, "usable": 5}
    assert set(found.table["run"]) == {str(run)} and set(found.table["split"]) == {"corrections"}
    days = found.table["uri"].str.extract(r"(\d{4}-\d\d-\d\d)")[0]
    assert (found.table["day"] == "gate/a " + days).all()
    assert "People judged 7 images. 1 skipped and 1 disputed ones are left out" in capsys.readouterr().err


def test_pictures_of_no_run_are_read_by_their_uri_and_need_an_old_checkpoint(
    faces: Path, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "100%.jpg"
    file.write_bytes((faces / "with_mask" / "0.jpg").read_bytes())
    row = {"region": 0, "was": "with_mask", "label": "with_mask", "by": "ann", "stratum": "random",
           "probability": 0.5}  # fmt: skip
    folder = RunDir.at(str(tmp_path / "c")).path
    corrections.write_judgement(
        folder,
        row
        | {"uri": f"file://{tmp_path}/100%25.jpg", "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
    )
    corrections.write_judgement(folder, row | {"uri": f"file://{faces}/with_mask/1.jpg", "sha256": "0" * 64})
    with pytest.raises(UsageError, match=r"the corrections name no run; name .*: --against FILE"):
        load_corrections([str(folder)])
    found = load_corrections([str(folder)], old / "checkpoint.safetensors")
    rows = data.decode(found.table, recipe().preset, "decode")[1]
    assert rows["uri"].tolist() == [str(file)] and set(rows["day"]) == {""}
    assert "the picture has changed since it was corrected" in capsys.readouterr().err


def test_a_run_without_corrections_is_one_sentence(run: Path) -> None:
    with pytest.raises(UsageError, match=r"no usable correction; judge some first"):
        load_corrections([str(run)])


def test_an_old_checkpoint_that_has_gone_names_the_way_out(
    faces: Path, run: Path, old: Path, judged: Any, tmp_path: Path
) -> None:
    folder, file = judged(3), old / "checkpoint.safetensors"
    file.rename(tmp_path / "kept.safetensors")
    try:
        with pytest.raises(UsageError, match=r"is gone; name a copy of it.*--against FILE"):
            load_corrections([str(run), str(folder)])
        found = load_corrections([str(run), str(folder)], tmp_path / "kept.safetensors")
    finally:
        (tmp_path / "kept.safetensors").rename(file)
    assert found.old.path == str(tmp_path / "kept.safetensors")


def test_an_archive_that_has_gone_is_one_sentence(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, judged: Any, tmp_path: Path
) -> None:
    tar = Path(json.loads((run / "run.json").read_text())["plan"]["archives"][0])
    tar.rename(tmp_path / "kept.tar")
    try:
        result = teach_cnn(
            "--data", faces, "--corrections", run, "--corrections", judged(5), "--out", tmp_path / "n"
        )
    finally:
        (tmp_path / "kept.tar").rename(tar)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "maskbatch: none of the corrected pictures can be read; put their archive back where it was"
    )


def test_what_only_corrections_need_is_refused_without_them(
    teach_cnn: Callable[..., Result], faces: Path, old: Path, tmp_path: Path
) -> None:
    result = teach_cnn("--data", faces, "--against", old / "checkpoint.safetensors", "--out", tmp_path / "n")
    assert result.exit_code == 2 and "give --corrections too" in result.stderr


def test_a_checkpoint_of_other_class_names_is_nothing_to_be_better_than(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, old: Path, judged: Any, tmp_path: Path
) -> None:
    other = open_checkpoint(str(old / "checkpoint.safetensors"))
    card = replace(other.card, classes=("masked", "without_mask"), compliant=("masked",))
    save_checkpoint(tmp_path / "other.safetensors", card, load_file(other.path))
    result = teach_cnn("--data", faces, "--corrections", run, "--corrections", judged(60), "--out", tmp_path / "n",
                    "--against", tmp_path / "other.safetensors")  # fmt: skip
    assert result.exit_code == 2 and not (tmp_path / "n" / "state.pt").exists()
    assert "other.safetensors has no class 'with_mask', which pictures of val or exam have" in result.stderr


@pytest.mark.parametrize("num", [20, 100])
def test_strata_are_as_large_as_the_queue_says_however_far_people_came(
    run: Path, judged: Any, num: int
) -> None:
    rows = pd.concat([pd.read_parquet(file) for file in (run / "scores").rglob("*.parquet")])
    found = load_corrections([str(run), str(judged(num))])
    assert sum(found.sizes.values()) == pytest.approx((rows["status"] == "ok").sum())


def test_corrections_of_no_run_count_as_if_all_that_was_queued_had_been_judged(
    run: Path, old: Path, judged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_corrections([str(judged(20))], old / "checkpoint.safetensors")
    queue = read_queue(run / "report").slice(0, 20).to_pandas()
    assert found.sizes == {
        name: pytest.approx((1 / rows["probability"]).sum()) for name, rows in queue.groupby("stratum")
    }
    assert "No queue of a run is given" in capsys.readouterr().err


# how they are cut


def corrections_table(num_days: int, a_day: int = 4, seed: int = 0) -> pd.DataFrame:
    """Corrections of `num_days` days, as `data.decode` gives them, all unlike each other."""
    rng = np.random.default_rng(seed)
    num = num_days * a_day
    return pd.DataFrame({
        "uri": [f"c{i}.jpg" for i in range(num)], "label": ["with_mask", "without_mask"] * (num // 2),
        "target": [0, 1] * (num // 2), "cluster": "", "suspect": "0", "split": "corrections",
        "source": "corrections", "day": [f"a/b {i // a_day}" for i in range(num)],
        "sha256": [rng.bytes(32).hex() for _ in range(num)], "dhash": [rng.bytes(8) for _ in range(num)],
    })  # fmt: skip


def own_table(num: int = 80) -> pd.DataFrame:
    rows = corrections_table(num // 4, seed=1).assign(split="", source="", day="")
    return splits.assign_parts(rows.assign(uri=[f"own{i}" for i in range(num)]), 7)


@pytest.mark.parametrize(("num_days", "num_held"), [(20, 10), (30, 10), (60, 12), (100, 20)])
def test_a_fifth_of_the_days_is_held_out_and_ten_at_least(num_days: int, num_held: int) -> None:
    table = splits.add_corrections(own_table(), corrections_table(num_days), 7)
    taught = table[table["source"] == "corrections"]
    assert taught.groupby("day")["part"].nunique().eq(1).all()
    days = taught.groupby("day")["part"].first().value_counts()
    assert days["exam"] == num_held and days["slice"] == (num_days - num_held) // 8
    own = table[table["source"] == ""]
    assert own["part"].tolist() == own_table()["part"].tolist()
    assert not set(own["group"]) & set(taught["group"])


def test_days_that_come_later_move_few_of_those_held_out() -> None:
    before, after = (
        splits.add_corrections(own_table(), corrections_table(num), 7).query("part == 'exam'")["day"]
        for num in (60, 80)
    )
    assert len(set(before) & set(after)) >= 10


def test_a_few_days_are_held_out_by_group_of_near_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    rows = corrections_table(5, 20)
    rows["dhash"] = rows["dhash"].iloc[np.arange(100) // 2 * 2].tolist()  # in pairs
    table = splits.add_corrections(own_table(), rows, 7)
    taught = table[table["source"] == "corrections"]
    assert taught["group"].nunique() == 50 and (taught["part"] == "exam").sum() == 20
    assert taught.groupby("group")["part"].nunique().eq(1).all()
    assert "groups of near-duplicates are held out instead" in capsys.readouterr().err


def test_near_duplicates_of_what_is_held_out_are_not_learned_from(capsys: pytest.CaptureFixture[str]) -> None:
    own, rows = own_table(), corrections_table(40)
    plain = splits.add_corrections(own, rows, 7)
    held = plain.loc[plain["part"] == "exam", "dhash"].iloc[0]
    val = own.loc[own["part"] == "val", "dhash"].iloc[0]
    learned = own.index[own["part"] == "fit"][0]
    own.at[learned, "dhash"] = held
    taught = plain.loc[(plain["source"] == "corrections") & (plain["part"] == "fit"), "uri"].iloc[0]
    rows.loc[rows["uri"] == taught, "dhash"] = [val]
    table = splits.add_corrections(own, rows, 7).set_index("uri")
    assert table.loc[own.at[learned, "uri"], "part"] == "" and table.loc[taught, "part"] == ""
    assert (table["part"] == "exam").sum() == (plain["part"] == "exam").sum()
    assert "2 pictures are near-duplicates of val or of the corrections" in capsys.readouterr().err


# how they are learned from


def drawn_rows() -> pd.DataFrame:
    """Six rows of two labels and sources, and four corrections that stand for 1, 2, 10 and 1,000 images."""
    own = pd.DataFrame({"source": ["x", "x", "x", "y", "y", "y"], "target": [0, 0, 1, 0, 1, 1]})
    taught = pd.DataFrame({"source": "corrections", "target": 1, "probability": [1, 0.5, 0.1, 0.001]})
    return pd.concat([own, taught], ignore_index=True)


@pytest.mark.parametrize(
    "changes", [[], ["imbalance=sampler"], ["shares={x=0.5, y=0.5}"], ["imbalance=weights"]]
)
def test_corrections_are_their_share_of_an_epoch_each_by_the_images_it_stands_for(changes: list[str]) -> None:
    rows = drawn_rows()
    chances = inputs._compute_chances(rows, recipe("corrections_share=0.4", *changes))
    assert chances is not None and chances.sum() == pytest.approx(1)
    assert (chances[6:] / 0.4).tolist() == pytest.approx(np.array([1, 2, 10, 10]) / 23)
    own = inputs._compute_chances(rows[:6], recipe(*changes))
    expected = np.full(6, 1 / 6) if own is None else own.numpy()
    assert (chances[:6] / 0.6).tolist() == pytest.approx(expected)


def test_what_smote_makes_is_drawn_beside_corrections(
    teach_cnn: Callable[..., Result], faces: Path, run: Path, judged: Any, tmp_path: Path
) -> None:
    changes = ["--set", "train=head", "--set", "imbalance=smote"]
    folders = ("--corrections", run, "--corrections", judged(60))
    result = teach_cnn("--data", faces, *folders, "--out", tmp_path / "n", *changes, epochs=1)
    assert result.exit_code in (0, 4), result.stderr


def test_corrections_of_other_chances_are_other_data() -> None:
    rows = drawn_rows().assign(dhash=[bytes([k]) * 8 for k in range(10)], label="x", part="fit")
    changed = rows.assign(probability=rows["probability"].replace(0.5, 0.6))
    prints = [finetune._describe_data(table)["fingerprint"] for table in (rows, rows, changed)]
    assert prints[0] == prints[1] != prints[2]


# what is said of old and new


def measured(old: list[int], new: list[int], **columns: Any) -> dict[str, Any]:
    """Of hits by picture, each a group of its own."""
    rows = pd.DataFrame({"group": range(len(old)), "source": "", **columns})
    return teach._measure(np.array(old, bool), np.array(new, bool), rows, SIZES)


SIZES = {"random": 200.0, "uncertain": 18.0}
VAL = measured([1] * 20, [1] * 20)
WORSE = measured([1] * 20, [1] * 10 + [0] * 10)
TAUGHT = {"source": "corrections", "stratum": ["random"] * 2 + ["uncertain"] * 18}


@pytest.mark.parametrize(
    ("num", "val", "old", "new", "doubt"),
    [
        (60, VAL, [1] * 10 + [0] * 10, [1] * 20, None),
        (49, VAL, [1] * 10 + [0] * 10, [1] * 20, "49 corrections could be used, 50 or more"),
        (60, VAL, [1] * 10 + [0] * 10, [1] * 10 + [0] * 10, "it is right as often as before"),
        (60, VAL, [1] * 20, [1] * 19 + [0], "it is right less often"),
        (60, VAL, [1] * 15 + [0] * 5, [1] * 20, r"may be chance \(p = 0.062\)"),
        (60, VAL, [1] * 10 + [0] * 10, [0] + [1] * 19, "over the archive it would be right less often"),
        (60, WORSE, [1] * 10 + [0] * 10, [1] * 20, r"on val it is right less often \(p = 0.00"),
    ],
)  # fmt: skip
def test_only_what_is_shown_is_called_better(
    num: int, val: dict[str, Any], old: list[int], new: list[int], doubt: str | None
) -> None:
    found = teach._find_doubt(num, val, measured(old, new, **TAUGHT))
    assert found is None if doubt is None else re.search(doubt, str(found))


def test_too_few_groups_held_out_show_nothing() -> None:
    exam = measured([0] * 9, [1] * 9, source="corrections", stratum="random")
    assert teach._find_doubt(60, VAL, exam) == "9 groups of corrections were held out, 10 or more are needed"
    assert teach._find_doubt(60, VAL, None) == "0 groups of corrections were held out, 10 or more are needed"


def test_a_stratum_without_a_picture_held_out_leaves_the_archive_in_doubt() -> None:
    exam = measured([0] * 20, [1] * 20, source="corrections", stratum="uncertain")
    assert "lack random or uncertain images" in str(teach._find_doubt(60, VAL, exam))


def test_a_recipe_of_other_classes_starts_as_it_says(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = open_checkpoint(str(old / "checkpoint.safetensors"))
    assert teach.choose_weights(checkpoint, recipe()) == old / "checkpoint.safetensors"
    other = recipe('classes=["with_mask", "without_mask", "no_face"]', "drop=[]")
    assert teach.choose_weights(checkpoint, other) is None
    assert "the training starts as the recipe says" in capsys.readouterr().err
