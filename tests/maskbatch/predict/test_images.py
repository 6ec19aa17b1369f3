"""Single images against the rows of a run, from real files, containers and servers."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from maskbatch import schema
from maskbatch.cli import terminal
from maskbatch.config import JobConfig, ScoreConfig
from maskbatch.decode.source import Encoded
from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.predict.images import Predictor, predict_images
from maskbatch.predict.result import Prediction
from tests.conftest import Cli
from tests.maskbatch.samples import (
    Run,
    draw,
    encode,
    make_card,
    make_tar,
    make_zip,
    read_scores,
    speckle,
    stage_run,
    write_files,
)
from tests.poison import many_scans, poison, write_hook
from tests.serving import serving

FLOAT32 = ScoreConfig(dtype="float32")
WITHOUT_RAY = "import atexit, sys; atexit.register(lambda: print('ray' in sys.modules, file=sys.stderr))"


def predict(images: Sequence[object], checkpoint: Checkpoint, **options: Any) -> list[Prediction]:
    job = JobConfig(image_timeout_s=20)
    return predict_images([*map(str, images)], FLOAT32, job, checkpoint=checkpoint.path, **options).images


def check_against(rows: list[dict[str, Any]], predictions: list[Prediction], checkpoint: Checkpoint) -> None:
    """Each prediction says what its row of scores says."""
    for row, prediction in zip(rows, predictions, strict=True):
        values = prediction.as_dict()
        probs = values.pop("probs") or dict.fromkeys(checkpoint.card.classes)
        values |= {f"prob_{name}": prob for name, prob in probs.items()}
        assert values == {name: row[name] for name in values}


def test_every_image_of_a_run_gets_its_row_bit_for_bit(committed: Run, checkpoint: Checkpoint) -> None:
    rows = [row for row in read_scores(committed.run).to_pylist() if not row["uri"].endswith("gone.jpg")]
    rows = rows[::-1]  # other neighbours in the batch than in the run
    predictions = predict([row["uri"] for row in rows], checkpoint)
    check_against(rows, predictions, checkpoint)
    assert {prediction.status for prediction in predictions} == {"ok", "truncated", "unsupported"}
    assert len({prediction.confidence for prediction in predictions}) > 90


def test_members_are_found_by_uri_in_any_order(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = {f"gate::{k}/50%25 off {k}.jpg": speckle(k) for k in range(40)}
    files |= {"bad.jpg": b"", "dir/é.png": speckle(99)}
    archive = write_files(tmp_path / "arch ive", {"a.tar": make_tar(files), "b.zip": make_zip(files, 8)})
    table = pa.table({"image": list(files.values()), "path": list(files)})
    pq.write_table(table, archive / "c.parquet", row_group_size=16)
    run = stage_run(tmp_path / "run", archive / "*", checkpoint, layout=None)
    run.commit(max_error_rate=1)
    rows = read_scores(run.run).to_pylist()
    assert len(rows) == 3 * len(files)
    order = np.random.default_rng(5).permutation(len(rows))
    rows = [rows[i] for i in order] + [rows[order[0]]]  # and one of them twice
    check_against(rows, predict([row["uri"] for row in rows], checkpoint), checkpoint)


def test_of_two_members_with_one_name_the_last_is_read(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_files(tmp_path, {"twice.tar": make_tar({"a.jpg": speckle(1)}), "two.jpg": speckle(2)})
    with tarfile.open(tmp_path / "twice.tar", "a") as tar:
        tar.add(tmp_path / "two.jpg", "a.jpg")
    member, alone = predict([f"tar://a.jpg::{tmp_path}/twice.tar", tmp_path / "two.jpg"], checkpoint)
    assert member.probs == alone.probs


def test_a_bad_member_or_container_gives_a_row(tmp_path: Path, checkpoint: Checkpoint) -> None:
    tar = make_tar({"a.jpg": speckle(1), "b.jpg": speckle(2)})
    write_files(tmp_path, {"good.tar": tar, "cut.zip": make_zip({"a.jpg": speckle(1)})[:-40]})
    names = [f"tar://c.jpg::{tmp_path}/good.tar", f"tar://b.jpg::file://{tmp_path}/good.tar",
             f"tar://a.jpg::{tmp_path}/none.tar", f"zip://a.jpg::{tmp_path}/cut.zip"]  # fmt: skip
    absent, good, gone, cut = predict(names, checkpoint)
    assert (absent.status, absent.error) == ("missing", "its container has nothing of that name")
    assert absent.uri == f"tar://c.jpg::file://{tmp_path}/good.tar"
    assert good.status == "ok"
    assert (gone.status, "no such folder or file" in gone.error) == ("read_error", True)
    assert (cut.status, "directory is damaged" in cut.error) == ("corrupt", True)


def test_a_path_is_literal_and_a_url_is_as_in_a_run(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"a::b%41 [1]\n.jpg": speckle(1), "aA.jpg": speckle(2)})
    monkeypatch.chdir(tmp_path)
    with fsspec.open("memory://predict/north/a.jpg", "wb") as file:
        file.write(speckle(1))
    images = ["a::b%41 [1]\n.jpg", "./x/../aA.jpg", "memory://predict/north/a.jpg"]
    path, plain, store = predict(images, checkpoint)
    assert path.uri == f"file://{tmp_path}/a%3A%3Ab%2541 [1]\n.jpg"
    assert plain.uri == f"file://{tmp_path}/aA.jpg"
    assert path.probs == store.probs != plain.probs
    (again,) = predict([plain.uri], checkpoint)
    assert again.probs == plain.probs


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("{here}", "a folder, not one image; maskbatch score {here} --out OUT scores everything in it"),
        ("s3://cameras/2026-10/", "a folder, not one image; maskbatch score s3://cameras/2026-10/ --out OUT"),
        ("", "(empty): a path or URL expected"),
        ("{here}/pipe.jpg", "a pipe or device, not a file"),
        ("tar://a.jpg::{here}/pipe.tar", "a pipe or device, not a file"),
        ("/dev/zero", "a pipe or device, not a file"),
        ("2026-10.TAR", "a .tar, not one image; maskbatch score"),
        ("rows.parquet", "a .parquet, not one image"),
        ("zip://a.jpg::x.tar", "expected a .zip file after `::`, without a query or a password"),
        ("tar://a.jpg::https://h/x.tar?key=SECRET", "without a query or a password"),
        ("nfs://x/a.jpg", "has an unknown scheme"),
        ("https:///a.jpg?key=SECRET", "names no host"),
        ("s3://KEY:SECRET@bucket/a.jpg", "holds credentials"),
    ],
)  # fmt: skip
def test_other_things_than_an_image_are_refused(image: str, message: str, tmp_path: Path) -> None:
    for name in ("pipe.jpg", "pipe.tar"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError) as refused:
        predict_images([image.format(here=tmp_path)])
    assert message.format(here=tmp_path) in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_among_images_a_folder_or_a_missing_file_gives_a_row(
    tmp_path: Path, checkpoint: Checkpoint, cli: Cli
) -> None:
    write_files(tmp_path, {"a\x1b[2J.jpg": speckle(1), "day/b.jpg": speckle(2), "c.tar": make_tar({})})
    images = [tmp_path / "day", *tmp_path.glob("a*"), tmp_path / "c.tar", "none.jpg"]
    assert [(image.status, image.error) for image in predict(images, checkpoint)] == [
        ("unsupported", "a folder, not one image"),
        ("ok", None),
        ("unsupported", "a .tar, not one image"),
        ("missing", "no such file"),
    ]
    done = cli("predict", *(path.name for path in tmp_path.glob("*")), "--checkpoint", checkpoint.path)
    assert done.returncode == 1 and "2 of 3 images could not be scored" in done.stderr
    assert "a\\x1b[2J.jpg" in done.stdout and "\x1b" not in done.stdout


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.safetensors: no such file"):
        predict_images(["a.jpg"], checkpoint=str(tmp_path / "none.safetensors"))


def test_limits_apply(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_files(tmp_path, {"a.jpg": encode(draw(1, (160, 120)))})
    for limits, error in (
        (ScoreConfig(max_pixels=160 * 120 - 1), "160 x 120 pixels, 19,199 allowed"),
        (ScoreConfig(max_bytes=99), "99 bytes allowed"),
    ):
        (image,) = predict_images([f"{tmp_path}/a.jpg"], limits, checkpoint=checkpoint.path).images
        assert (image.status, error in image.error) == ("too_large", True)


def test_a_model_that_gives_no_number_is_a_score_error(tmp_path: Path, checkpoint: Checkpoint) -> None:
    state = checkpoint.load_state()
    broken = {name: x.fill_(6e4) if x.ndim == 4 else x for name, x in state.items()}
    save_checkpoint(tmp_path / "huge.safetensors", checkpoint.card, broken)
    predictor = Predictor(open_checkpoint(str(tmp_path / "huge.safetensors")), FLOAT32)
    (image,) = predictor.predict([Encoded(encode(draw(1, (160, 120))))])
    assert (image.status, image.label, image.probs, image.width) == ("score_error", None, None, 160)


class Handler(BaseHTTPRequestHandler):
    """Serves /pictures/* with the right key; /moved and /away redirect, the latter to another host name."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = "/pictures/a.jpg?key=SECRET"
        away = f"http://localhost:{self.server.server_port}{path}"
        target = {"/moved": path, "/away": away}.get(self.path)
        code = 302 if target else 200 if self.path.endswith("key=SECRET") else 403
        body = speckle(1) if code == 200 else b""
        self.send_response(code)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a web server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_the_query_of_a_presigned_url_is_never_shown(
    site: str, checkpoint: Checkpoint, cli: Cli, tmp_path: Path
) -> None:
    signed, refused = f"{site}/pictures/a.jpg?key=SECRET", f"{site}/pictures/b.jpg?key=OTHER"
    done = cli("predict", signed, refused, "--json", "--checkpoint", checkpoint.path)
    assert done.returncode == 1
    assert not re.search("SECRET|OTHER|key", done.stdout + done.stderr)
    printed = json.loads(done.stdout)
    assert [image["error"] for image in printed["images"]] == [None, "Permission denied"]
    assert printed["images"][0]["uri"].startswith(f"{site}/pictures/a.jpg#")
    assert not re.search("SECRET|OTHER|key", print_table(printed, 200))
    (tmp_path / "a.jpg").write_bytes(speckle(1))
    web, local = predict([signed, tmp_path / "a.jpg"], checkpoint)
    assert web.probs == local.probs


def test_redirects_to_other_servers_need_permission(site: str, checkpoint: Checkpoint) -> None:
    within, away = predict([f"{site}/moved", f"{site}/away"], checkpoint)
    assert within.status == "ok"
    assert away.status == "read_error"
    assert away.error == "it redirects to a place outside the allowed prefixes"
    (away,) = predict(
        [f"{site}/away"], checkpoint, allow_prefix=[f"{site}/pictures/".replace("127.0.0.1", "localhost")]
    )
    assert away.status == "ok"


def save_two_classes(folder: Path) -> Checkpoint:
    """A sigmoid head, exported as two logits."""
    classes: dict[str, Any] = {"classes": ("with_mask", "without_mask"), "not_assessed": ()}
    card = make_card(architecture="mobilenet_v1", confusion=((9, 1), (1, 9)), **classes)
    save_checkpoint(folder / "two.safetensors", card, build("mobilenet_v1", 2).state_dict())
    return open_checkpoint(str(folder / "two.safetensors"))


def print_table(predictions: dict[str, Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    terminal.print_predictions(predictions, console)
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_image(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = {"gate-1/a.jpg": speckle(1), "b.jpg": speckle(2), "cut.jpg": encode(draw(3))[:2000]}
    write_files(tmp_path / "in", files)
    images = [f"{tmp_path}/in/{name}" for name in (*files, "none.jpg")]
    for opened in (checkpoint, save_two_classes(tmp_path)):
        predictions = predict_images(images, FLOAT32, checkpoint=opened.path)
        text = print_table(predictions.as_dict(), 80)
        assert max(map(len, text.splitlines())) <= 80
        for image in predictions.images[:2]:
            name = image.uri.removeprefix(f"file://{tmp_path}/in/")
            (line,) = (line for line in text.splitlines() if line.startswith(f" {name} "))
            assert f" {image.label.replace('_', ' ')} {image.confidence:.1%} " in line
            shares = [f"{prob:.1%}" for prob in image.probs.values()]
            assert line.split("%", 1)[1].split()[: len(shares)] == shares
            assert line.rstrip().endswith("review") == image.needs_review
        wide = print_table(predictions.as_dict(), 200)
        assert re.search("cut.jpg: JPEG data ends early +truncated", wide)


def test_the_command_prints_json_without_ray(tmp_path: Path, checkpoint: Checkpoint, cli: Cli) -> None:
    write_files(tmp_path, {"a.jpg": speckle(1), "bad.jpg": b"no image"})
    flags = ("--json", "--dtype", "float32", "--checkpoint", checkpoint.path)
    done = cli("predict", "a.jpg", "bad.jpg", *flags, script=WITHOUT_RAY)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["1 of 2 images could not be scored; each says why.", "False"]
    predictions = predict_images(
        [f"{tmp_path}/a.jpg", f"{tmp_path}/bad.jpg"], FLOAT32, checkpoint=checkpoint.path
    )
    printed = json.loads(done.stdout)
    assert printed == predictions.as_dict()
    assert list(printed) == ["checkpoint", "digest", "classes", "images"]
    assert printed["digest"] == checkpoint.digest and printed["classes"] == list(checkpoint.card.classes)
    good, bad = printed["images"]
    assert good["uri"] == f"file://{tmp_path}/a.jpg" and sum(good["probs"].values()) == pytest.approx(1)
    assert (good["label"], good["confidence"]) == max(good["probs"].items(), key=lambda item: item[1])
    assert [bad[name] for name in ("status", "label", "probs", "needs_review")] == [
        "unsupported", None, None, False
    ]  # fmt: skip


def test_the_packaged_checkpoint_recognises_an_empty_gate(tmp_path: Path, cli: Cli) -> None:
    draw(3, (320, 240), "no_face").save(tmp_path / "empty.jpg")
    done = cli("predict", "empty.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no face 9" in done.stdout
    assert f"In {tmp_path}:\n" in done.stdout


def test_a_member_is_found_by_its_name_in_the_encoding_that_its_run_had(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    content = make_zip({"xx.jpg": speckle(1)}).replace(b"xx.jpg", "東.jpg".encode("cp932"))
    image = f"zip://東.jpg::{write_files(tmp_path, {'a.zip': content})}/a.zip"
    assert predict([image], checkpoint)[0].status == "missing"
    assert predict([image], checkpoint, zip_encoding="cp932")[0].status == "ok"


def test_an_image_that_crashes_its_decoder_leaves_this_process_and_the_other_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{write_hook(tmp_path / 'hook')}:{Path(__file__).parents[3]}")
    paths = [tmp_path / f"{name}.jpg" for name in ("crash", "slow", "sound")]
    for path, data in zip(
        paths, (poison(speckle(1), "crash"), many_scans((8000, 8000), 50), speckle(1)), strict=True
    ):
        path.write_bytes(data)
    job = JobConfig(decode_timeout_s=0.6)  # no other test's: processes that live started without the hook
    found = predict_images(list(map(str, paths)), FLOAT32, job, box_px=(64, 64))
    assert [(image.status, image.error) for image in found.images] == [
        ("corrupt", "the decoder crashed"),
        ("timeout", schema.explain_timeout(0.6)),
        ("ok", None),
    ]
    assert [image.thumbnail is None for image in found.images] == [True, True, False]
