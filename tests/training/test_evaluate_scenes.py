import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskbatch.config import ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from maskbatch.schema import SIZE_BANDS
from training import crops, evaluate_scenes, scenes
from training.prepare import draw

from .conftest import Invoke

CARD, DETECTOR = open_checkpoint().card, open_detector().card
FACES = ("with_mask", "without_mask", "incorrect_mask")
HEAD = "file,split,face,label,xmin,ymin,xmax,ymax,width,height"


def lay_out(labels: list[str], side: float = 40, num_each: int = 1) -> pd.DataFrame:
    """Boxed faces, `num_each` in a photograph, side by side."""
    rows = [
        (
            f"{k // num_each}.jpg",
            "val",
            0,
            label,
            x := 60.0 * (k % num_each),
            10.0,
            x + side,
            10 + side,
            640,
            480,
        )
        for k, label in enumerate(labels)
    ]
    return pd.DataFrame(rows, columns=scenes.BOXED)


def find(boxed: pd.DataFrame, predicted: list[str]) -> pd.DataFrame:
    """What finds each boxed face and labels it so; '' where it finds none."""
    table = boxed[["file", *scenes.BOX]].assign(confidence=0.9, predicted=predicted)
    return table[table["predicted"] != ""].reset_index(drop=True)


def measure(boxed: pd.DataFrame, found: pd.DataFrame, **options: int) -> dict:
    options = {"detect_px": 960, "min_px": 32} | options
    return evaluate_scenes.measure(boxed, found, DETECTOR, CARD, **options)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(FACES), st.sampled_from([*CARD.classes, ""])), min_size=1))
def test_every_boxed_face_has_one_outcome_and_the_shares_follow(pairs: list[tuple[str, str]]) -> None:
    boxed = lay_out([label for label, _ in pairs])
    figures = measure(boxed, find(boxed, [predicted for _, predicted in pairs]))
    outcomes = figures["labels"]
    assert sum(sum(row.values()) for row in outcomes.values()) == len(pairs)
    for name, row in outcomes.items():
        num = sum(row.values())
        assert num == sum(label == name for label, _ in pairs)
        assert figures["found"][name]["value"] == pytest.approx(1 - row["not_found"] / num, abs=1e-4)
        assert figures["found_and_right"][name]["value"] == pytest.approx(row[name] / num, abs=1e-4)
    assessed = [predicted for _, predicted in pairs if predicted not in ("", "no_face")]
    true = np.mean([label == "with_mask" for label, _ in pairs])
    rate = figures["rate"]
    assert rate["true"] == pytest.approx(true)
    if assessed:
        observed = np.mean([predicted == "with_mask" for predicted in assessed])
        assert rate["observed"] == pytest.approx(observed)
        assert rate["bias"]["value"] == pytest.approx(observed - true, abs=1e-4)
    else:
        assert rate["observed"] is None and rate["bias"] == {}
    evaluate_scenes.write_lines(figures | {"detect_px": 960, "min_px": 32, "split": "val"})


def test_missed_masks_lower_the_rate_and_the_detector_alone_is_told_from_the_whole() -> None:
    boxed = lay_out(["with_mask"] * 10 + ["without_mask"] * 10)
    predicted = [""] * 5 + ["with_mask"] * 4 + ["incorrect_mask"] + ["without_mask"] * 10
    rate = measure(boxed, find(boxed, predicted))["rate"]
    assert rate["true"] == 0.5 and rate["found"] == pytest.approx(1 / 3)
    assert rate["bias_of_detector"]["value"] == pytest.approx(-1 / 6, abs=1e-4)
    assert rate["bias"]["value"] == pytest.approx(4 / 15 - 1 / 2, abs=1e-4)


def test_the_corrected_rate_holds_the_truth_where_the_cards_err_as_the_networks_do() -> None:
    rng, band = np.random.default_rng(1), SIZE_BANDS.index(32)
    recall = {"with_mask": (60, 100), "without_mask": (95, 100), "incorrect_mask": (95, 100)}
    bands = {
        name: [[0, 0]] * band + [list(pair)] + [[0, 0]] * (len(SIZE_BANDS) - band - 1)
        for name, pair in recall.items()
    }
    detector = replace(DETECTOR, recall=bands)
    labels = rng.choice(FACES, 600, p=(0.6, 0.3, 0.1)).tolist()
    shares = np.array(CARD.confusion) / np.array(CARD.confusion).sum(axis=1, keepdims=True)
    predicted = [
        str(rng.choice(CARD.classes, p=shares[CARD.classes.index(label)]))
        if rng.uniform() < recall[label][0] / 100
        else ""
        for label in labels
    ]
    boxed = lay_out(labels, num_each=10)
    figures = evaluate_scenes.measure(boxed, find(boxed, predicted), detector, CARD, detect_px=960, min_px=32)
    rate = figures["rate"]
    assert rate["bias"]["value"] < -0.07
    assert abs(rate["corrected"]["value"] - rate["true"]) < 0.05 and rate["corrected"]["holds_truth"]
    unknown = evaluate_scenes.measure(
        boxed, find(boxed, predicted), replace(DETECTOR, recall={}), CARD, detect_px=960, min_px=32
    )
    assert unknown["rate"]["corrected"] is None


def test_small_faces_are_counted_by_size_and_in_no_share() -> None:
    boxed = pd.concat([lay_out(["with_mask"]), lay_out(["with_mask"] * 3, side=20)], ignore_index=True)
    boxed["file"] = [f"{k}.jpg" for k in range(4)]
    figures = measure(boxed, find(boxed, ["with_mask", "", "too_small", "with_mask"]))
    assert figures["num_boxed"] == 4 and figures["num_faces"] == 1
    bands = dict(zip(SIZE_BANDS, figures["recall"]["with_mask"], strict=True))
    assert bands[16] == [2, 3] and bands[32] == [1, 1]
    assert measure(boxed, find(boxed, ["with_mask"] * 4), min_px=16)["num_faces"] == 4
    with pytest.raises(UsageError, match="lower --min-px"):
        measure(boxed, find(boxed, ["with_mask"] * 4), min_px=100)


def test_boxes_that_nobody_labelled_are_ignored_and_counted_by_what_they_are_called() -> None:
    boxed = lay_out(["with_mask", "without_mask"])
    found = find(boxed, ["with_mask", "without_mask"])
    others = found.assign(x0=300.0, x1=340.0, confidence=0.95, predicted=["no_face", "with_mask"])
    figures = measure(boxed, pd.concat([others, found], ignore_index=True))
    assert figures["unlabelled"] == {"no_face": 1, "with_mask": 1}
    assert figures["ap50"] == 1 and figures["precision"]["precision"] == 1
    assert figures["rate"]["bias"]["value"] == 0


@pytest.fixture(scope="module")
def drawn_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of two drawings side by side, boxed by the packaged detector itself."""
    folder = tmp_path_factory.mktemp("scenes")
    pictures = [(picture, label) for picture, label in draw(4, 5, ((320, 240),)) if label != "no_face"]
    files = []
    for k, ((left, _), (right, _)) in enumerate(zip(pictures[::2], pictures[1::2], strict=True)):
        scene = Image.new("RGB", (640, 240))
        scene.paste(left, (0, 0))
        scene.paste(right, (320, 0))
        files.append(str(folder / f"{k}.png"))
        scene.save(files[-1])
    found = crops.find_faces(files, open_detector(), open_checkpoint(), ScoreConfig(view="scene"))
    rows = [
        f"{Path(row.file).name},val,0,with_mask,{row.x0},{row.y0},{row.x1},{row.y1},640,240"
        for row in found.itertuples()
    ]
    (folder / "boxes.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return folder


def test_the_command_measures_photographs_and_writes_figures_plots_and_lines_for_a_card(
    invoke: Invoke, drawn_scenes: Path, tmp_path: Path
) -> None:
    result = invoke(evaluate_scenes, "--data", drawn_scenes, "--out", tmp_path / "out", "--min-px", 16)
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert figures["num_boxed"] == figures["num_faces"] >= 6
    assert figures["found"]["with_mask"]["value"] == figures["ap50"] == 1
    assert figures["detector"]["digest"] == open_detector().digest and figures["detect_px"] == 960
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.json", "recall.png", "labels.png", "card.md",
    }  # fmt: skip
    assert "| with_mask |" in (tmp_path / "out" / "card.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.png", None, "No such file"),
        ("0.png", b"x", "cannot be decoded"),
        ("boxes.csv", None, "cannot be read"),
    ],
)
def test_what_cannot_be_read_ends_in_one_sentence(
    invoke: Invoke, drawn_scenes: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    for path in drawn_scenes.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content:
        (tmp_path / name).write_bytes(content)
    result = invoke(evaluate_scenes, "--data", tmp_path)
    told = [line for line in result.stderr.splitlines() if line.startswith("maskbatch: ")]
    assert result.exit_code == 2 and len(told) == 1
    assert str(tmp_path / name) in told[0] and message in told[0]


@pytest.mark.slow
def test_the_packaged_networks_reach_on_val_scenes_what_the_docs_state(shared: Path) -> None:
    boxed = scenes.read_boxes(shared / "data/scenes", "val")
    config = ScoreConfig(view="scene", dtype="float32")
    found = crops.find_faces(boxed["file"].unique().tolist(), open_detector(), open_checkpoint(), config)
    figures = measure(boxed, found)
    right = {name: share["value"] for name, share in figures["found_and_right"].items()}
    assert right["with_mask"] >= 0.9 and right["without_mask"] >= 0.88 and right["incorrect_mask"] >= 0.88
    assert abs(figures["rate"]["bias"]["value"]) <= 0.02 and figures["rate"]["corrected"]["holds_truth"]
