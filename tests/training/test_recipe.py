from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.errors import UsageError
from training.recipe import CHOICES, FOLDER, Recipe, describe, read_recipe

NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
LEAST: dict[str, Any] = {
    "architecture": "plain_cnn",
    "classes": ("with_mask", "without_mask"),
    "input_px": 32,
    "epochs": 2,
    "learning_rate": 1e-3,
}


def refusal(name: str, *changes: str) -> str:
    with pytest.raises(UsageError) as refused:
        read_recipe(name, changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_of_the_folder_reads_and_survives_its_dict(name: str) -> None:
    recipe = read_recipe(name)
    assert len(recipe.classes) >= 2 and recipe.preset.input_size == (recipe.input_px,) * 2
    again = {key: tuple(it) if isinstance(it, list) else it for key, it in recipe.as_dict().items()}
    assert Recipe(**again) == recipe


def test_the_default_recipe_tells_the_four_labels_of_the_drawings() -> None:
    recipe = read_recipe("default")
    assert recipe.classes == ("with_mask", "without_mask", "incorrect_mask", "no_face")
    assert recipe.not_assessed == ("no_face",)
    assert (recipe.preset.input_size, recipe.stored.input_size) == ((160, 160), (192, 192))
    assert sum(recipe.shares.values()) == pytest.approx(1)


def test_what_is_stored_is_the_input_where_the_recipe_says_nothing_else() -> None:
    assert Recipe(**LEAST).stored == Recipe(**LEAST).preset
    assert Recipe(**LEAST, stored_px=48).stored.input_size == (48, 48)


def test_a_recipe_may_be_any_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'architecture = "plain_cnn"\nclasses = ["a", "b"]\ncompliant = ["a"]\ninput_px = 32\nepochs = 3\nlearning_rate = 0.1\n'
    )
    recipe = read_recipe(str(file))
    assert (recipe.classes, recipe.epochs, recipe.optimizer) == (("a", "b"), 3, "adamw")


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("learning_rate=2e-4", "learning_rate", 2e-4),
        ("optimizer=sgd", "optimizer", "sgd"),
        ('optimizer="sgd"', "optimizer", "sgd"),
        ("frozen=[]", "frozen", ()),
        ('leave_out=["drawn"]', "leave_out", ("drawn",)),
        ("shares={}", "shares", {}),
        ("notes=a = b", "notes", "a = b"),
        ("augment={flip=false}", "augment", {"flip": False}),
    ],
)
def test_a_change_is_a_toml_value_or_the_string_it_is(change: str, key: str, value: object) -> None:
    assert getattr(read_recipe("default", [change]), key) == value


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_a_change_wins_over_the_file_the_last_over_the_first_and_a_flag_over_both(
    epochs: int, seed: int
) -> None:
    changes = ["epochs=1001", f"epochs={epochs}", "seed=1001"]
    recipe = read_recipe("plain_cnn", changes, seed=seed, architecture=None)
    assert (recipe.epochs, recipe.seed, recipe.architecture) == (epochs, seed, "plain_cnn")


def test_fields_of_the_augmentation_change_their_preset_and_nothing_else() -> None:
    recipe = read_recipe("plain_cnn", ["augment={rotation_deg=45}"])
    plain = read_recipe("plain_cnn").augmenter
    assert recipe.augmenter.rotation_deg == 45 and plain.rotation_deg != 45
    assert (recipe.augmenter.flip, recipe.augmenter.blur_chance) == (plain.flip, plain.blur_chance)


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_none_is_refused_with_those_that_are(name: str) -> None:
    sentence = refusal("default", f"{name}=sideways")
    assert sentence.startswith(f"recipe default: {name} = 'sideways'")
    assert all(choice in sentence for choice in CHOICES[name])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (["epoch=3"], "'epoch' is not a setting; it has architecture,"),
        (["epochs"], "--set epochs: KEY=VALUE expected"),
        (["imbalance=smote"], "imbalance = 'smote' needs train = 'head'"),
        (["corrections_share=1"], "corrections_share must be above 0 and below 1"),
        (["epochs=0"], "epochs = 0, 1 or more expected"),
        (["seed=-1"], "seed = -1, 0 or more expected"),
        (["learning_rate=0"], "learning_rate must be above 0"),
        (["ema_decay=1.0"], "ema_decay must be in [0, 1)"),
        (["label_smoothing=-0.1"], "label_smoothing must be in [0, 1)"),
        (['drop=["no_face"]'], "a label cannot be both in classes and in drop"),
        (["priors={mask=0.5}"], "priors are of classes, and above 0"),
        (["priors={with_mask=0.0}"], "priors are of classes, and above 0"),
        (["input_px=4"], "input_size (4, 4), 8 to 2048 pixels expected"),
        (["resize=stretch"], "resize 'stretch'"),
        (["augment={zooom=1}"], "zooom"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_sentence(changes: list[str], part: str) -> None:
    sentence = refusal("default", *changes)
    assert sentence.startswith("recipe default: ") and part in sentence


def test_smote_may_be_asked_of_a_frozen_backbone() -> None:
    assert read_recipe("densenet201").imbalance == "smote"
    assert read_recipe("resnet152", ["imbalance=smote"]).imbalance == "smote"


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    sentence = refusal("defualt")
    assert sentence.startswith("recipe defualt: No such file or directory; give a TOML file or one of ")
    assert all(name in sentence for name in NAMES)


def test_a_file_that_is_no_toml_is_a_usage_error_that_says_where(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("epochs = 3\nepochs = = 4\n")
    sentence = refusal(str(file))
    assert str(file) in sentence and "line 2" in sentence
    file.write_bytes(b'notes = "\xff"')
    assert "utf-8" in refusal(str(file))


def test_a_recipe_without_what_it_needs_names_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('architecture = "plain_cnn"\nclasses = ["a", "b"]\n')
    sentence = refusal(str(file))
    assert "'input_px', 'epochs', and 'learning_rate'" in sentence and "__init__" not in sentence


def test_a_recipe_is_described_in_a_few_words() -> None:
    words = describe(read_recipe("densenet201").as_dict())
    assert words == "densenet201 at 224 px, the head, 30 epochs, adam, seed 7"


@pytest.mark.parametrize(
    "change",
    [
        'classes=["With Mask", "none"]', "std=[1, -1, 1]", "weight_decay=-1", "seed=-1", "patience=-1",
        "augment={zoom = 0.5}", "target_accuracy=2", 'not_assessed=["with_mask"]', "options=[1]",
    ],
)  # fmt: skip
def test_a_setting_that_no_checkpoint_could_state_is_refused_before_anything_is_read(change: str) -> None:
    with pytest.raises(UsageError, match=r"^recipe default: "):
        read_recipe("default", [change])
