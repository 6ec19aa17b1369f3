"""Training end to end on small drawn pictures: every recipe, resumed, spoilt, exported, scored."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from maskbatch import runner
from maskbatch.config import PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.model.classifier import Classifier
from training import data, evaluate, export, finetune, fit
from training.card import model_card
from training.recipe import FOLDER, Recipe, read_recipe

from .conftest import Invoke, Undrawn

ROOT = Path(__file__).parents[2]
SMALL = ("weights=none", "input_px=32", "stored_px=0", "shares={}", "samples_per_epoch=0", "head_epochs=0",
         "batch_size=16", "views=1", "augmentation=geometry", "patience=0")  # fmt: skip
RECIPES = sorted(file.stem for file in FOLDER.glob("*.toml"))


def small(name: str, *changes: str, epochs: int = 2) -> Recipe:
    return read_recipe(name, [*SMALL, *changes], epochs=epochs)


def train(recipe: Recipe, faces: Path, out: Path, **options: Any) -> dict[str, Any]:
    return finetune.train(recipe, [str(faces)], out, device="cpu", title="test", command="test", **options)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module trains once is drawn too; what a test trains is not, which takes a second each time."""
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 8)
    monkeypatch.setattr(evaluate.plots, "Figure", Undrawn)


@pytest.fixture(scope="module")
def trained(faces_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each recipe, trained for two epochs from random weights, on one thread."""
    torch.set_num_threads(1)
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "BATCH_SIZE", 8)
        for name in RECIPES:
            folders[name] = tmp_path_factory.mktemp(name)
            train(small(name), faces_root, folders[name])
    return folders


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_exports_a_checkpoint_that_scoring_agrees_with(
    name: str, trained: dict[str, Path], faces_root: Path
) -> None:
    checkpoint = open_checkpoint(str(trained[name] / "checkpoint.safetensors"))
    recipe = read_recipe(name)
    assert checkpoint.card.classes == recipe.classes and checkpoint.card.architecture == recipe.architecture
    held = data.load([str(trained[name] / "split.parquet")])
    held = data.select(held[held["split"] == "val"], recipe.classes, recipe.drop)
    pixels, rows = data.decode(held, checkpoint.card.preset, "decode")
    counts = np.array(checkpoint.card.confusion)
    assert counts.sum() == len(rows)
    probs = Classifier(checkpoint, dtype="float32", batch_size=64, device="cpu").probs(pixels)
    stated = pd.read_parquet(trained[name] / "evaluation" / "predictions.parquet")
    assert stated["uri"].tolist() == rows["uri"].tolist()
    found = np.array(recipe.classes)[probs.argmax(axis=1)]
    assert (found == stated["predicted"]).mean() >= 0.995
    assert {path.name for path in (trained[name] / "evaluation").iterdir()} == {
        "evaluation.json", "predictions.parquet", "confusion.png", "curves.png", "reliability.png",
        "roc_pr.png", "pictures.png", "mistakes.png",
    }  # fmt: skip
    assert (trained[name] / "MODEL_CARD.md").read_text() == model_card(checkpoint.card)


@pytest.mark.slow
def test_the_job_scores_with_what_every_recipe_exports(
    trained: dict[str, Path], archive: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    for name in RECIPES:
        plan = PlanConfig(archives=(str(archive),), limit=40)
        checkpoint = str(trained[name] / "checkpoint.safetensors")
        result = runner.score_archive(plan, str(tmp_path / name), checkpoint=checkpoint)
        labelled = sum(result.report.overall[f"num_{one}"] for one in read_recipe(name).classes)
        assert labelled == result.report.overall["scored"] > 30


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet201", "mobilenet_scratch", "resnet152"])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(
    name: str, trained: dict[str, Path], faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = fit._save

    def cut(saved: Path, *rest: Any) -> None:
        keep(saved, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_save", cut)
    with pytest.raises(KeyboardInterrupt):
        train(small(name), faces_root, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"split.parquet", "training.json", "state.pt"}
    monkeypatch.setattr(fit, "_save", keep)
    monkeypatch.setattr(finetune, "export_best_epoch", lambda *_: {})
    train(small(name), faces_root, tmp_path)
    whole, resumed = (fit.load_progress(folder / "state.pt") for folder in (trained[name], tmp_path))
    assert [row["epoch"] for row in resumed.history] == [1, 2]
    assert resumed.best_epoch == whole.best_epoch
    for key, weight in whole.best_state.items():
        assert torch.allclose(weight, resumed.best_state[key], atol=1e-5), key


def test_an_interrupted_command_says_that_it_goes_on(
    invoke: Invoke, faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "train", interrupt)
    result = invoke(finetune, "--data", faces_root, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == (
        "maskbatch: interrupted; the same command goes on after the training's last whole epoch\n"
    )


@pytest.mark.parametrize("name", ["densenet201", "plain_cnn"])
def test_an_interrupted_training_is_exported_as_it_stands(
    invoke: Invoke, name: str, trained: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in ("state.pt", "split.parquet", "training.json"):
        (folder / file).write_bytes((trained[name] / file).read_bytes())
    result = invoke(export, folder, "--out", tmp_path / "mine.safetensors")
    assert result.exit_code == 0, result.stderr
    again, first = tmp_path / "mine.safetensors", trained[name] / "checkpoint.safetensors"
    states = [load_file(path) for path in (again, first)]
    assert all(torch.equal(states[0][key], it) for key, it in states[1].items())
    cards = [open_checkpoint(str(path)).card for path in (again, first)]
    assert cards[0].recipe["recipe"] == cards[1].recipe["recipe"] and cards[0].confusion == cards[1].confusion


def test_priors_shift_the_logits_of_their_class_alone(
    invoke: Invoke, trained: dict[str, Path], tmp_path: Path
) -> None:
    for file in ("state.pt", "split.parquet"):
        (tmp_path / file).write_bytes((trained["plain_cnn"] / file).read_bytes())
    facts = json.loads((trained["plain_cnn"] / "training.json").read_text())
    facts["recipe"]["priors"] = {"without_mask": 0.5}
    (tmp_path / "training.json").write_text(json.dumps(facts))
    for name in ("first", "again"):
        assert invoke(export, tmp_path, "--out", tmp_path / f"{name}.safetensors").exit_code == 0
    before, *after = (
        load_file(path)
        for path in (trained["plain_cnn"] / "checkpoint.safetensors", *sorted(tmp_path.glob("*.safetensors")))
    )
    bias = [key for key in before if not torch.equal(before[key], after[0][key])]
    assert len(bias) == 1 and torch.equal(after[0][bias[0]], after[1][bias[0]])
    assert (after[0][bias[0]] - before[bias[0]]).tolist() == pytest.approx([0, np.log(0.5)], abs=1e-6)


def test_another_recipe_in_the_same_folder_is_refused(trained: dict[str, Path], faces_root: Path) -> None:
    before = (trained["plain_cnn"] / "training.json").read_text()
    with pytest.raises(UsageError, match=r"a training with other settings: learning_rate 0\.5 instead of"):
        train(small("plain_cnn", "learning_rate=0.5"), faces_root, trained["plain_cnn"])
    with pytest.raises(UsageError, match="a training with other data"):
        train(small("plain_cnn"), faces_root, trained["plain_cnn"], limit=13)
    assert (trained["plain_cnn"] / "training.json").read_text() == before


def test_a_loss_that_is_not_a_number_is_one_sentence(faces_root: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match=r"the loss is nan in epoch 1; .*--set learning_rate="):
        train(small("plain_cnn", "learning_rate=1e30", epochs=3), faces_root, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    faces_root: Path, tmp_path: Path
) -> None:
    changes = [item for change in SMALL for item in ("--set", change)]
    command = [sys.executable, "-m", "training.finetune", "--recipe", "plain_cnn", "--data", faces_root,
               "--out", tmp_path / "out", "--epochs", "1", *changes]  # fmt: skip
    limited = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "bash", *map(str, command)]
    result = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("maskbatch: ")]
    assert len(errors) == 1 and "state.pt" in errors[0] and "Traceback" not in result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"split.parquet", "training.json"}


def test_weights_load_strictly_below_a_new_head(tmp_path: Path) -> None:
    torch.manual_seed(1)
    pretrained = build("mobilenet_v3_small", 1000).state_dict()
    save_file(pretrained, tmp_path / "good.safetensors")
    torch.save(pretrained, tmp_path / "good.pth")
    recipe = small("default", "architecture=mobilenet_v3_small", "weights=imagenet")
    for name in ("good.safetensors", "good.pth"):
        state = finetune.start_network(recipe, tmp_path / name).state_dict()
        assert torch.equal(state["features.0.0.weight"], pretrained["features.0.0.weight"])
        assert state["classifier.3.weight"].shape == (4, 1024)
    save_file(
        {key: it for key, it in pretrained.items() if "features.3" not in key}, tmp_path / "bad.safetensors"
    )
    with pytest.raises(UsageError, match=r"do not fit mobilenet_v3_small: .*features.3"):
        finetune.start_network(recipe, tmp_path / "bad.safetensors")


def test_weights_with_dense_layers_above_them_keep_their_backbone(tmp_path: Path) -> None:
    save_file(build("resnet18", 1000).state_dict(), tmp_path / "resnet.safetensors")
    recipe = small("resnet152", "architecture=resnet18")
    model = finetune.start_network(recipe, tmp_path / "resnet.safetensors")
    assert torch.equal(
        model.state_dict()["conv1.weight"], load_file(tmp_path / "resnet.safetensors")["conv1.weight"]
    )
    assert isinstance(model.get_submodule("fc"), torch.nn.Sequential)


def test_a_checkpoint_of_the_same_classes_is_gone_on_from_with_its_head(trained: dict[str, Path]) -> None:
    weights = trained["plain_cnn"] / "checkpoint.safetensors"
    state = finetune.start_network(small("plain_cnn"), weights).state_dict()
    assert all(torch.equal(state[key], it.float()) for key, it in load_file(weights).items())


@pytest.mark.parametrize("content", [b"", b"<html>", {"state_dict": 3}, [1]])
def test_weights_that_are_no_tensors_are_one_sentence(content: Any, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / "w.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="not a file of tensors alone"):
        finetune.start_network(small("plain_cnn"), tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "expected"), [("vit_b_16", "cannot take pictures"), ("googlenet", "more than logits")]
)
def test_a_network_that_cannot_learn_from_such_pictures_is_one_sentence(name: str, expected: str) -> None:
    size, options = (96, "{init_weights = true}") if name == "googlenet" else (32, "{}")
    with pytest.raises(UsageError, match=rf"{name} .*{expected}"):
        finetune.start_network(
            small("plain_cnn", f"architecture={name}", f"input_px={size}", f"options={options}"), None
        )


def test_unreachable_weights_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import _api

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(_api, "load_state_dict_from_url", refuse)
    with pytest.raises(UsageError, match=r"no route to host.*--weights FILE.*--set weights=none"):
        finetune.start_network(small("default", "weights=imagenet"), None)


def test_a_device_that_is_not_there_is_one_sentence(invoke: Invoke, faces_root: Path, tmp_path: Path) -> None:
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    result = invoke(finetune, "--data", faces_root, "--out", tmp_path / "o", "--device", missing)
    assert result.exit_code == 2
    assert f"--device {missing}: not on this machine; it has" in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pictures", "2 pictures in 2 groups"), ("classes", "neither in classes"), ("one", "all pictures are")],
)
def test_data_that_cannot_be_trained_on_is_one_sentence(
    invoke: Invoke, name: str, expected: str, faces_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for label in ("with_mask",) if name == "one" else ("with_mask", "without_mask"):
        files = sorted((faces_root / label).iterdir())
        (root / label).mkdir(parents=True)
        for file in files[:2] if name == "pictures" and label == "without_mask" else files:
            os.link(file, root / label / file.name)
    if name == "classes":
        (root / "without_mask").rename(root / "helmet")
    changes = [item for change in SMALL for item in ("--set", change)]
    result = invoke(finetune, "--recipe", "plain_cnn", "--data", root, "--out", tmp_path / "out", *changes)
    assert result.exit_code == 2
    error = result.stderr.splitlines()[-1]
    assert error.startswith("maskbatch: ") and expected in error
    assert not list(tmp_path.glob("out/*"))


def test_two_checkpoints_are_compared_on_the_same_pictures(
    invoke: Invoke, trained: dict[str, Path], tmp_path: Path
) -> None:
    first, second = (trained[name] / "checkpoint.safetensors" for name in ("plain_cnn", "mobilenet_scratch"))
    result = invoke(
        evaluate, "--checkpoint", first, "--checkpoint", second, "--data", trained["plain_cnn"] / "split.parquet",
        "--out", tmp_path / "both",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    tables = [pd.read_parquet(tmp_path / "both" / str(k) / "predictions.parquet")["correct"] for k in (1, 2)]
    test = summary["test"]
    assert test["only_first_right"] == int((tables[0] & ~tables[1]).sum())
    assert test["only_second_right"] == int((~tables[0] & tables[1]).sum())
    assert "Only the first is right on" in result.stderr


def test_checkpoints_of_other_classes_are_not_compared(
    invoke: Invoke, trained: dict[str, Path], faces_root: Path
) -> None:
    first, second = (trained[name] / "checkpoint.safetensors" for name in ("plain_cnn", "densenet201"))
    result = invoke(evaluate, "--checkpoint", first, "--checkpoint", second, "--data", faces_root)
    assert result.exit_code == 2 and "two checkpoints of the same classes" in result.stderr


def test_smote_weights_and_sampler_all_learn_from_the_rare_class(faces_root: Path, tmp_path: Path) -> None:
    for way in ("smote", "weights", "sampler"):
        recipe = small("densenet201", "architecture=mobilenet_v3_small", f"imbalance={way}")
        figures = train(recipe, faces_root, tmp_path / way)
        assert sum(map(sum, figures["confusion"])) == figures["all"]["num"]


def test_early_stopping_keeps_the_best_epoch(faces_root: Path, tmp_path: Path) -> None:
    recipe = small("plain_cnn", "patience=1", "learning_rate=0.3", epochs=30)
    train(recipe, faces_root, tmp_path)
    progress = fit.load_progress(tmp_path / "state.pt")
    assert len(progress.history) < 30
    losses = [row["slice_loss"] for row in progress.history]
    assert progress.best_epoch == int(np.argmin(losses)) + 1 == len(losses) - 1
