import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskbatch.config import ScoreConfig
from maskbatch.drawing.gate import LABELS
from maskbatch.geometry import do_overlap
from maskbatch.model.card import Preset
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from training import crops, data, prepare, splits

from .conftest import Invoke

SIZE = (320, 240)
CUTS = {"train": 3, "val": 2}
DRAWN = {"train": (2, 7, ((96, 72),)), "drawn": (1, 20_000, ((96, 72),))}

corners = st.tuples(st.integers(0, 250), st.integers(0, 200), st.integers(4, 70), st.integers(4, 40))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])))


@settings(max_examples=50)
@given(st.lists(boxes, min_size=1, max_size=5), st.integers(0, 99), st.integers(1, 6))
def test_windows_without_a_face_stay_in_the_scene_and_clear_of_every_widened_box(
    faces: list[prepare.Box], seed: int, num: int
) -> None:
    windows = prepare.place_empty(faces, SIZE, np.random.default_rng(seed), num)
    assert len(windows) <= num
    for window in windows:
        assert 0 <= window[0] < window[2] <= SIZE[0] and 0 <= window[1] < window[3] <= SIZE[1]
        for x0, y0, x1, y1 in faces:
            wide, tall = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
            assert not do_overlap(window, (x0 - wide, y0 - tall, x1 + wide, y1 + tall))


def test_a_scene_without_a_face_gives_every_window_and_one_full_of_it_none() -> None:
    rng = np.random.default_rng(1)
    assert len(prepare.place_empty([], SIZE, rng, 5)) == 5
    assert prepare.place_empty([(0, 0, *SIZE)], SIZE, rng, 5) == []


@settings(max_examples=50)
@given(boxes, st.lists(boxes, max_size=4), st.integers(0, 99))
def test_a_face_window_holds_its_face_whole_and_no_other(
    face: prepare.Box, others: list[prepare.Box], seed: int
) -> None:
    window = prepare.place_window(face, others, SIZE, np.random.default_rng(seed))
    if window is not None:
        assert 0 <= window[0] <= face[0] and 0 <= window[1] <= face[1]
        assert face[2] <= window[2] <= max(SIZE[0], face[2]) and face[3] <= window[3] <= max(SIZE[1], face[3])
        assert not any(do_overlap(window, other) for other in others)


def test_a_face_alone_in_the_middle_always_has_a_window_and_a_covered_one_never() -> None:
    face = (140.0, 100.0, 180.0, 140.0)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        window = prepare.place_window(face, [], SIZE, rng)
        assert window is not None and (window[2] - window[0]) * (window[3] - window[1]) > 40 * 40
        assert prepare.place_window(face, [(150, 110, 160, 120)], SIZE, rng) is None


@given(boxes, boxes)
def test_boxes_overlap_where_some_pixel_is_in_both(one: prepare.Box, other: prepare.Box) -> None:
    seen = np.zeros((2, 300, 400), bool)
    for plane, (x0, y0, x1, y1) in zip(seen, (one, other), strict=True):
        plane[int(y0) : int(y1), int(x0) : int(x1)] = True
    assert do_overlap(one, other) == do_overlap(other, one) == bool(seen.all(axis=0).any())


def test_drawings_are_as_many_of_each_label_and_a_seed_repeats_them() -> None:
    first, again, other = (list(prepare.draw(10, seed, ((48, 36),))) for seed in (1, 1, 2))
    labels = [label for _, label in first]
    assert {label: labels.count(label) for label in LABELS} == dict.fromkeys(LABELS, 10) | {"no_face": 11}
    pixels = [[picture.tobytes() for picture, _ in drawn] for drawn in (first, again, other)]
    assert pixels[0] == pixels[1] and not set(pixels[0]) & set(pixels[2])


# the whole


@pytest.fixture(scope="module")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces and the scenes that they are of: 12 a label in train, 4 in val, one in train_extra; one suspect."""
    root = tmp_path_factory.mktemp("shared")
    faces, scenes = root / "data" / "faces", root / "data" / "scenes"
    manifest = [["file", "label", "source", "cluster", "suspect"]]
    table = [["file", "split", "face", "label", "xmin", "ymin", "xmax", "ymax", "width", "height"]]
    for seed, (split, num_each) in enumerate({"train": 12, "val": 4, "train_extra": 1}.items()):
        drawn = (pair for pair in prepare.draw(num_each, seed, (SIZE,)) if pair[1] != "no_face")
        for i, (picture, label) in enumerate(drawn):
            file = f"{split}/{label}/{split}{i:02d}_00.jpg"
            (faces / file).parent.mkdir(parents=True, exist_ok=True)
            picture.crop((90, 40, 220, 180)).save(faces / file)
            cluster = "" if split == "train_extra" else f"{split}-{i}"
            manifest.append([file, label, "drawn", cluster, str(int(i == 4))])
            if split != "train_extra":
                scene = f"{split}/{split}{i:02d}.jpg"
                (scenes / scene).parent.mkdir(parents=True, exist_ok=True)
                picture.save(scenes / scene)
                table.append([scene, split, "0", label, "110", "60", "200", "160", *map(str, SIZE)])
    for path, rows in ((faces / "manifest.csv", manifest), (scenes / "boxes.csv", table)):
        with path.open("w", newline="") as lines:
            csv.writer(lines).writerows(rows)
    return root


@pytest.fixture(scope="module")
def prepared(drawn_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "CUTS", CUTS)
        patch.setattr(prepare, "DRAWN", DRAWN)
        prepare.prepare_photographs(drawn_root, out)
    return out


@pytest.fixture(scope="module")
def table(prepared: Path) -> pd.DataFrame:
    return data.load([str(prepared)])


def test_the_manifest_lists_every_picture_once_and_each_can_be_read(
    prepared: Path, table: pd.DataFrame
) -> None:
    assert table["uri"].is_unique and set(table["label"]) == set(LABELS)
    _, rows = data.decode(table, Preset((16, 16)), "decode")
    assert len(rows) == len(table)
    written = {str(path) for path in (prepared / "pictures").iterdir()}
    assert written == {uri for uri in table["uri"] if uri.startswith(str(prepared))}


def test_every_source_goes_to_its_splits(table: pd.DataFrame) -> None:
    found = table.groupby("source")["split"].agg(set).to_dict()
    assert found == {
        "faces": {"train", "val"}, "extra": {"extra"}, "scenes": {"extra", "context"},
        "empty": {"train", "val"}, "drawn": {"extra", "drawn"},
    }  # fmt: skip
    assert table["source"].value_counts()["faces"] == 48
    assert (table["source"] == "drawn").sum() == 12
    assert set(table.loc[table["source"] == "empty", "label"]) == {"no_face"}


def test_windows_belong_to_the_cluster_of_their_face_so_that_none_of_val_is_in_train(
    table: pd.DataFrame,
) -> None:
    named = table[table["cluster"] != ""]
    learned = set(named.loc[named["split"].isin(["train", "extra"]), "cluster"])
    held = set(named.loc[named["split"].isin(["val", "context"]), "cluster"])
    assert learned and held and not learned & held
    cut = named[named["source"].isin(["scenes", "empty"])]
    stems = cut["uri"].str.rpartition("/")[2].str.extract(r"^(train|val)(\d+)-")
    assert cut["cluster"].tolist() == [f"{split}-{int(i)}" for split, i in stems.to_numpy()]


def test_a_face_whose_label_is_suspect_is_listed_so_and_never_cut(table: pd.DataFrame) -> None:
    suspects = table[table["suspect"] == "1"]
    assert set(suspects["source"]) == {"faces"} and set(suspects["cluster"]) == {"train-4", "val-4"}
    scenes = table[table["source"] == "scenes"]
    assert not {"train-4", "val-4"} & set(scenes["cluster"])
    most = scenes.groupby("cluster").size()
    assert set(most.index) == {
        f"{split}-{i}" for split, n in (("train", 36), ("val", 12)) for i in range(n) if i != 4
    }
    assert most[most.index.str.startswith("train")].max() <= CUTS["train"]
    assert most[most.index.str.startswith("val")].max() <= CUTS["val"]


def test_what_is_prepared_can_be_split_and_leaks_nothing(table: pd.DataFrame) -> None:
    chosen = data.select(table, LABELS, ())
    _, rows = data.decode(chosen, Preset((32, 32)), "decode")
    told = splits.assign_parts(rows, seed=1)
    parts = [set(told.loc[told["part"] == part, "group"]) for part in ("fit", "slice", "val")]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert set(told.loc[told["split"].isin(["context", "drawn"]), "part"]) == {""}


def test_faces_too_small_to_tell_are_not_cut(drawn_root: Path) -> None:
    faces = pd.read_csv(drawn_root / "data/faces/manifest.csv", dtype=str, keep_default_na=False)
    group = pd.read_csv(drawn_root / "data/scenes/boxes.csv").head(1)
    for side, told in ((prepare.MIN_FACE_PX, True), (prepare.MIN_FACE_PX - 1, False)):
        small = group.assign(xmin=150, ymin=100, xmax=150 + side, ymax=100 + side)
        cuts = list(prepare.cut_scene(drawn_root / "data/scenes", group["file"].iloc[0], small, faces))
        assert any(row["source"] == "scenes" for _, row in cuts) == told
        assert all(isinstance(picture, Image.Image) for picture, _ in cuts)


def test_preparing_again_gives_the_same_pictures_and_leaves_none_of_before(
    invoke: Invoke, drawn_root: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "CUTS", CUTS)
    monkeypatch.setattr(prepare, "DRAWN", DRAWN)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.jpg").write_bytes(b"x")
    result = invoke(prepare, drawn_root, "--out", tmp_path)
    made, before = (
        {path.name: path.read_bytes() for path in (out / "pictures").iterdir()}
        for out in (tmp_path, prepared)
    )
    assert result.exit_code == 0 and made == before
    assert (tmp_path / "manifest.csv").read_bytes() == (prepared / "manifest.csv").read_bytes()
    assert f"{tmp_path / 'manifest.csv'}: {len(data.load([str(tmp_path)]))} pictures" in result.stderr


def test_one_split_alone_is_what_the_whole_has_of_it(
    invoke: Invoke, drawn_root: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "CUTS", CUTS)
    result = invoke(prepare, drawn_root, "--only", "val", "--out", tmp_path)
    alone = data.load([str(tmp_path)])
    whole = table[table["split"] == "val"]
    assert result.exit_code == 0 and set(alone["split"]) == {"val"}
    for name in ("label", "source", "cluster", "suspect"):
        assert alone[name].tolist() == whole[name].tolist()
    assert len(data.decode(alone, Preset((16, 16)), "decode")[1]) == len(alone)


@pytest.fixture(scope="module")
def scenes_root(drawn_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs, boxed where the detector finds faces, with one more folder of each kind."""
    root = tmp_path_factory.mktemp("with_more")
    shutil.copytree(drawn_root, root, dirs_exist_ok=True)
    table = pd.read_csv(root / "data/scenes/boxes.csv")
    files = [str(root / "data/scenes" / file) for file in table["file"]]
    found = crops.find_faces(files, open_detector(), open_checkpoint(), ScoreConfig(view="scene"))
    found = found.drop_duplicates("file").set_index("file").reindex(files)
    boxed = table.assign(**{name: found[at].to_numpy() for name, at in BOXES.items()}).dropna()
    boxed.to_csv(root / "data/scenes/boxes.csv", index=False)
    more = root / "data/scenes_more"
    more.mkdir()
    shutil.copy(root / "data/scenes" / boxed["file"].iloc[0], more / "again.jpg")
    boxed.head(1).assign(file="again.jpg").drop(columns="split").to_csv(more / "boxes.csv", index=False)
    for folder, name in (("faces_more/with_mask", "a"), ("faces_more/with_mask", "near"), ("no_face", "b")):
        (root / "data" / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            drawn_root / "data/faces/train/with_mask/train00_00.jpg", root / "data" / folder / f"{name}.jpg"
        )
    rows = [
        "file,label,source,cluster,near_train",
        "with_mask/a.jpg,with_mask,x,n1,0",
        "with_mask/near.jpg,with_mask,x,n2,1",
    ]
    (root / "data/faces_more/manifest.csv").write_text("\n".join(rows) + "\n")
    return root


BOXES = {"xmin": "x0", "ymin": "y0", "xmax": "x1", "ymax": "y1"}


def test_faces_of_scenes_are_cut_as_found_into_splits_that_leak_nothing(
    invoke: Invoke, scenes_root: Path, tmp_path: Path
) -> None:
    result = invoke(prepare, scenes_root, "--view", "scene", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    table = data.load([str(tmp_path)])
    assert len(data.decode(table, Preset((16, 16)), "decode")[1]) == len(table)
    found = table.groupby("source")["split"].agg(set).to_dict()
    extra = {source: {"extra"} for source in ("found_more", "faces_more", "grey")}
    assert found == extra | {"found": {"extra", "found"}}
    boxed = pd.read_csv(scenes_root / "data/scenes/boxes.csv")
    num_sound = len(boxed) - boxed["file"].isin(["train/train04.jpg", "val/val04.jpg"]).sum()
    assert (table["source"] == "found").sum() == num_sound > 12
    learned, held = (set(table.loc[table["split"] == split, "cluster"]) for split in ("extra", "found"))
    assert not learned & held
    again = table[table["source"] == "found_more"]["cluster"].item()
    assert again in set(table.loc[table["source"] == "found", "cluster"])
    grey = table[table["source"] == "grey"]
    assert sorted(grey["label"]) == ["no_face", "with_mask"]
    assert table.loc[table["source"] == "faces_more", "uri"].tolist() == [
        str(scenes_root / "data/faces_more/with_mask/a.jpg")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--view", "scene"], "folder above data/"),
        (["--view", "faces"], "face or scene expected"),
        (["--detector", "yunet_n"], "add --view scene"),
    ],
)
def test_options_that_do_not_fit_a_view_end_in_one_sentence(
    invoke: Invoke, tmp_path: Path, options: list[str], message: str
) -> None:
    result = invoke(prepare, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_photographs_drawings_are_learned_from_and_held_out(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "DRAWN", DRAWN)
    result = invoke(prepare, "--out", tmp_path)
    table = data.load([str(tmp_path)])
    assert result.exit_code == 0 and f"{len(table)} pictures" in result.stderr
    counts = table.groupby("split")["label"].value_counts().to_dict()
    assert counts == {(split, label): n for split, n in (("train", 2), ("val", 1)) for label in LABELS}
    assert len(data.decode(table, Preset((16, 16)), "decode")[1]) == len(table)


def test_a_split_of_no_photographs_is_one_sentence(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(prepare, "--only", "val", "--out", tmp_path / "out")
    assert (
        result.exit_code == 2
        and "--only is a split of photographs" in result.stderr
        and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize("missing", ["data/faces/manifest.csv", "data/scenes/boxes.csv"])
def test_a_folder_without_the_tables_ends_in_one_sentence(
    invoke: Invoke, drawn_root: Path, tmp_path: Path, missing: str
) -> None:
    for name in {"data/faces/manifest.csv", "data/scenes/boxes.csv"} - {missing}:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes((drawn_root / name).read_bytes())
    result = invoke(prepare, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert (
        result.stderr
        == f"maskbatch: training data {tmp_path / missing}: no such file; give the folder above data/\n"
    )
