import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from maskbatch.config import PILLOW_LIMIT_PIXELS
from maskbatch.decode.images import decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.errors import UsageError
from maskbatch.model.card import Preset
from training import data

CLASSES = ("with_mask", "without_mask", "incorrect_mask")
PRESET = Preset((24, 32))  # not square, so that height and width cannot be mistaken


def load(*sources: object) -> pd.DataFrame:
    table = data.load([str(source) for source in sources])
    assert list(table.columns) == list(data.COLUMNS)
    assert all(isinstance(item, str) for item in table.to_numpy().ravel())
    return table


def refusal(*sources: object) -> str:
    with pytest.raises(UsageError) as refused:
        data.load([str(source) for source in sources])
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"training data {sources[-1]}: ")
    return str(refused.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pictures(root: Path) -> list[Path]:
    return sorted(root.rglob("*.jpg"))


def copy(picture: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, path)
    return path


def names(table: pd.DataFrame, root: Path) -> list[str]:
    return [uri.removeprefix("file://").removeprefix(f"{root}/") for uri in table["uri"]]


# folders


def test_a_folder_of_class_folders_gives_every_picture_its_folders_label(faces_root: Path) -> None:
    table = load(faces_root)
    assert table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 14)
    assert set(table["split"]) == {""} and set(table["suspect"]) == {"0"}
    assert names(table, faces_root) == [str(path.relative_to(faces_root)) for path in pictures(faces_root)]
    assert load(f"{faces_root}/").equals(table)


def test_split_folders_give_the_split_and_the_folder_below_the_label(
    faces_root: Path, tmp_path: Path
) -> None:
    splits = {
        "train": "train", "train_extra": "extra", "extra": "extra", "val": "val", "valid": "val",
        "validation": "val", "test": "val",
    }  # fmt: skip
    for split in splits:
        copy(pictures(faces_root)[0], tmp_path / split / "with_mask" / "a.jpg")
    table = load(tmp_path)
    assert set(table["label"]) == {"with_mask"}
    assert dict(
        zip((name.split("/")[0] for name in names(table, tmp_path)), table["split"], strict=True)
    ) == (splits)


def test_folders_below_a_class_belong_to_it_and_a_class_may_be_named_like_a_split(
    faces_root: Path, tmp_path: Path
) -> None:
    picture = pictures(faces_root)[0]
    for name in ("with_mask/gate/2026/a.jpg", "train/without_mask/gate/b.JPEG", "val/c.jpg"):
        copy(picture, tmp_path / name)
    table = load(tmp_path)
    assert table[["label", "split"]].to_numpy().tolist() == [
        ["without_mask", "train"], ["val", ""], ["with_mask", ""],
    ]  # fmt: skip


def test_what_is_no_picture_and_what_lies_beside_the_classes_is_no_row(
    faces_root: Path, tmp_path: Path
) -> None:
    copy(pictures(faces_root)[0], tmp_path / "loose.jpg")
    copy(pictures(faces_root)[0], tmp_path / "with_mask" / "a.jpg")
    write(tmp_path / "with_mask" / "notes.txt", "x")
    assert names(load(tmp_path), tmp_path) == ["with_mask/a.jpg"]


# manifests


@pytest.mark.parametrize("column", ["uri", "file"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_manifest_is_read_whatever_its_form_and_its_uris_are_relative_to_it(
    faces_root: Path, tmp_path: Path, form: str, column: str
) -> None:
    first, second, third = pictures(faces_root)[:3]
    first = copy(first, tmp_path / "north" / "a.jpg")
    rows = pd.DataFrame(
        {
            column: ["north/a.jpg", str(second), f"file://{third}"],
            "label": ["a", "b", "NA"],
            "cluster": ["7", "8", ""],
            "source": ["north", "", "south"],
        }
    )
    file = tmp_path / f"own.{form}"
    rows.to_csv(file, index=False) if form == "csv" else rows.to_parquet(file)
    table = load(file)
    assert table["uri"].tolist() == [str(first), str(second), str(third)]
    assert table["label"].tolist() == ["a", "b", "NA"]
    assert table["cluster"].tolist() == ["7", "8", ""] and table["source"].tolist() == ["north", "", "south"]
    assert len(data.decode(table, PRESET, "decode")[1]) == 3


def test_a_relative_manifest_reads_its_pictures_from_its_own_folder(
    faces_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(pictures(faces_root)[0], tmp_path / "set" / "a.jpg")
    write(tmp_path / "set" / "m.csv", "uri,label\na.jpg,x\n")
    monkeypatch.chdir(tmp_path)
    assert len(data.decode(load("set/m.csv"), PRESET, "decode")[1]) == 1
    monkeypatch.chdir(tmp_path / "set")
    assert len(data.decode(load("m.csv"), PRESET, "decode")[1]) == 1


def test_a_folder_that_holds_a_manifest_is_read_by_it(faces_root: Path, tmp_path: Path) -> None:
    copy(pictures(faces_root)[0], tmp_path / "with_mask" / "a.jpg")
    copy(pictures(faces_root)[1], tmp_path / "with_mask" / "b.jpg")
    write(tmp_path / "manifest.csv", "file,label\nwith_mask/b.jpg,without_mask\n")
    for source in (tmp_path, f"{tmp_path}/"):
        table = load(source)
        assert (names(table, tmp_path), table["label"].tolist()) == (["with_mask/b.jpg"], ["without_mask"])


def test_a_column_split_is_in_any_of_its_words_and_else_the_first_folder_says_it(tmp_path: Path) -> None:
    words = ["train", "fit", "train_extra", "valid", "test", "", "slice", "drawn"]
    rows = "\n".join(f"val/{i}.jpg,x,{word}" for i, word in enumerate(words))
    table = load(write(tmp_path / "a.csv", f"uri,label,split\n{rows}\n"))
    assert table["split"].tolist() == ["train", "train", "extra", "val", "val", "", "slice", "drawn"]
    files = "\n".join(f"{word}/x/1.jpg,x" for word in ("train", "train_extra", "val", "x"))
    table = load(write(tmp_path / "b.csv", f"uri,label\n{files}\n"))
    assert table["split"].tolist() == ["train", "extra", "val", ""]


def test_a_label_is_suspect_where_its_column_says_1_or_true_and_nowhere_else(tmp_path: Path) -> None:
    words = ["1", "true", "True", "TRUE", "0", "false", "", "no", "2"]
    rows = "\n".join(f"{i}.jpg,x,{word}" for i, word in enumerate(words))
    table = load(write(tmp_path / "a.csv", f"uri,label,suspect\n{rows}\n"))
    assert table["suspect"].tolist() == ["1"] * 4 + ["0"] * 5
    flags = pd.DataFrame({"uri": ["a", "b"], "label": ["x", "x"], "suspect": [True, False]})
    for kind in (bool, int):
        flags.astype({"suspect": kind}).to_parquet(tmp_path / "b.parquet")
        assert load(tmp_path / "b.parquet")["suspect"].tolist() == ["1", "0"]


def test_a_picture_that_two_sources_list_keeps_the_last_label_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write(tmp_path / "a.csv", "uri,label\n1.jpg,x\n2.jpg,x\n")
    second = write(tmp_path / "b.csv", "uri,label\n2.jpg,y\n3.jpg,y\n")
    table = load(first, second)
    assert dict(zip(names(table, tmp_path), table["label"], strict=True)) == {
        "1.jpg": "x", "2.jpg": "y", "3.jpg": "y",
    }  # fmt: skip
    assert list(table.index) == [0, 1, 2]
    assert "1 pictures are listed twice: their last label counts" in capsys.readouterr().err


# other file systems


@pytest.fixture
def memory(faces_root: Path) -> Iterator[str]:
    """Two classes of two pictures on a URL that is no local path."""
    store, root = fsspec.filesystem("memory"), "/maskbatch-tests"
    for label in CLASSES[:2]:
        for path in pictures(faces_root / label)[:2]:
            store.pipe(f"{root}/{label}/{path.name}", path.read_bytes())
    yield f"memory:/{root}"
    store.rm(root, recursive=True)


def test_a_folder_on_any_fsspec_url_gives_the_pixels_that_it_gives_locally(
    memory: str, faces_root: Path
) -> None:
    table = load(memory)
    assert all(uri.startswith("memory://") for uri in table["uri"])
    pixels, rows = data.decode(table, PRESET, "decode")
    local = load(faces_root)
    same = local[local["label"].isin(CLASSES[:2])].groupby("label").head(2)
    assert rows["label"].tolist() == same["label"].tolist()
    assert np.array_equal(pixels, data.decode(same, PRESET, "decode")[0])


def test_a_manifest_on_any_fsspec_url_lies_beside_its_pictures(memory: str) -> None:
    store = fsspec.filesystem("memory")
    name = store.ls("/maskbatch-tests/with_mask", detail=False)[0].rpartition("/")[2]
    store.pipe("/maskbatch-tests/manifest.csv", f"uri,label\nwith_mask/{name},x\n".encode())
    for source in (memory, f"{memory}/manifest.csv"):
        table = load(source)
        assert table["uri"].tolist() == [f"{memory}/with_mask/{name}"]
        assert len(data.decode(table, PRESET, "decode")[1]) == 1


# what cannot be loaded


def test_an_empty_folder_and_one_that_is_not_there_are_refused_with_what_is_wanted(tmp_path: Path) -> None:
    assert "give a folder with one for each class, or a manifest" in refusal(tmp_path)
    for source in (tmp_path / "nothing", tmp_path / "nothing.csv"):
        assert "no such file or folder; check --data" in refusal(source)


def test_a_run_is_no_data_and_the_flag_for_its_corrections_is_named(tmp_path: Path) -> None:
    write(tmp_path / "run.json", "{}")
    assert "a run is not training data; give --corrections RUN" in refusal(tmp_path)


def test_the_source_that_cannot_be_read_is_the_one_that_is_named(faces_root: Path, tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(faces_root, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"uri,name\n1.jpg,x\n", "no column 'label'; it has uri, name"),
        ("a.csv", b"label,name\n1.jpg,x\n", "no column 'uri'; it has label, name"),
        ("a.csv", b"uri,label\n\xff\xfe,x\n", "cannot be read"),
        ("a.csv", b'uri,label\n"1.jpg,x\n', "cannot be read"),
        ("a.parquet", b"uri,label\n1.jpg,x\n", "cannot be read"),
        ("a.jpg", b"\xff\xd8\xff\xd9", "cannot be read"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_what_is_wrong(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert part in refusal(tmp_path / name)


def test_a_url_that_no_library_reads_is_refused() -> None:
    assert "cannot be read" in refusal("nowhere://bucket/set")


# labels


def test_select_numbers_the_classes_in_their_order_and_drops_what_is_named(faces_root: Path) -> None:
    table = data.select(load(faces_root), ["without_mask", "with_mask"], ["incorrect_mask"])
    assert len(table) == 28 and list(table.index) == list(range(28))
    targets = table.groupby("label")["target"].unique().map(list).to_dict()
    assert targets == {"without_mask": [0], "with_mask": [1]}


def test_sources_that_are_left_out_take_no_part(faces_root: Path) -> None:
    table = load(faces_root).assign(source=["camera", "drawn"] * 21)
    assert set(data.select(table, CLASSES, (), ["drawn"])["source"]) == {"camera"}


def test_a_label_that_the_recipe_does_not_know_is_refused_with_its_first_picture(faces_root: Path) -> None:
    with pytest.raises(UsageError) as refused:
        data.select(load(faces_root), ["with_mask", "no_face"], ["incorrect_mask"])
    sentence = str(refused.value)
    assert sentence.startswith("14 pictures have a label") and "(with_mask, no_face)" in sentence
    assert f"'without_mask' of {faces_root}/without_mask/" in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("classes", "drop", "part"),
    [
        (["with_mask", "no_face"], ["without_mask", "incorrect_mask"], "all pictures are 'with_mask'"),
        (["no_face", "nobody"], list(CLASSES), "no picture is left"),
    ],
)
def test_pictures_of_one_class_only_or_none_are_refused(
    faces_root: Path, classes: list[str], drop: list[str], part: str
) -> None:
    with pytest.raises(UsageError) as refused:
        data.select(load(faces_root), classes, drop)
    assert part in str(refused.value) and f"at least 2 of {', '.join(classes)}" in str(refused.value)


# pixels


@pytest.fixture
def spoilt(faces_root: Path, tmp_path: Path) -> Path:
    """40 sound pictures, more than one chunk, and four that are not: cut off, empty, text, gone."""
    paths = pictures(faces_root)[:40]
    files = [str(path) for path in paths]
    (tmp_path / "cut.jpg").write_bytes(paths[0].read_bytes()[:700])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no picture")
    for place, name in ((0, "cut"), (20, "empty"), (33, "text"), (43, "gone")):
        files.insert(place, str(tmp_path / f"{name}.jpg"))
    lines = "\n".join(f"{file},x" for file in files)
    return write(tmp_path / "m.csv", f"uri,label\n{lines}\n")


def test_pictures_that_cannot_be_read_are_left_out_and_said(
    spoilt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load(spoilt)
    pixels, rows = data.decode(table, PRESET, "decode")
    assert len(pixels) == 44 and len(rows) == 40 and list(rows.index) == list(range(40))
    assert rows["uri"].tolist() == [uri for uri in table["uri"] if not uri.startswith(str(spoilt.parent))]
    said = capsys.readouterr().err
    assert f"4 unreadable pictures are left out, first {spoilt.parent}/cut.jpg: " in said
    assert "decode: 44 images" in said


def test_every_row_points_at_the_pixels_that_scoring_would_see(spoilt: Path) -> None:
    pixels, rows = data.decode(load(spoilt), PRESET, "decode")
    encoded = [Encoded(Path(uri).read_bytes()) for uri in rows["uri"]]
    decoded = decode_batch(encoded, len(encoded), PRESET, PILLOW_LIMIT_PIXELS)
    assert pixels.shape[1:] == (24, 32, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels[rows["pixel"].to_numpy()], decoded.images_NHWC)
    for name in ("width", "height", "brightness", "sharpness", "dhash"):
        assert rows[name].tolist() == decoded.columns[name]
    assert (set(rows["width"]), set(rows["height"])) == ({96}, {72})


def test_pixels_in_a_cache_file_are_those_in_memory(spoilt: Path, tmp_path: Path) -> None:
    table, cache = load(spoilt), tmp_path / "pixels"
    kept, rows = data.decode(table, PRESET, "decode")
    lying, same = data.decode(table, PRESET, "decode", cache)
    assert isinstance(lying, np.memmap) and cache.stat().st_size == kept.nbytes
    assert np.array_equal(lying, kept) and same.equals(rows)
    assert np.array_equal(np.fromfile(cache, np.uint8).reshape(kept.shape), kept)


def test_a_table_of_any_index_is_decoded_by_its_order(faces_root: Path) -> None:
    table = load(faces_root)
    pixels, _ = data.decode(table, PRESET, "decode")
    shuffled = table.sample(frac=1, random_state=1)
    found, rows = data.decode(shuffled, PRESET, "decode")
    assert rows["uri"].tolist() == shuffled["uri"].tolist() and list(rows.index) == list(range(42))
    assert np.array_equal(found[rows["pixel"].to_numpy()], pixels[shuffled.index])


def test_data_of_which_no_picture_can_be_read_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    table = load(write(tmp_path / "m.csv", "uri,label\n1.jpg,x\n2.jpg,y\n"))
    with pytest.raises(UsageError, match=r"^none of 2 pictures can be read; the first: no such file$"):
        data.decode(table, PRESET, "decode")
