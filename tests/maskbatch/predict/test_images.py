"""Single images against the rows of a run, from real files, containers and servers."""

import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from samples import (
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

from maskbatch import terminal
from maskbatch.config import JobConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.predict.images import Predicted, Predictor, predict_images, summary
from maskbatch.score.read import Encoded
from tests.conftest import Cli

FLOAT32 = ScoreConfig(dtype="float32")
WITHOUT_RAY = "import atexit, sys; atexit.register(lambda: print('ray' in sys.modules, file=sys.stderr))"


def predicted(images: Sequence[object], checkpoint: Checkpoint, **options: Any) -> list[Predicted]:
    job = JobConfig(image_timeout_s=20)
    return predict_images([*map(str, images)], FLOAT32, job, checkpoint=checkpoint.path, **options)[1]


def as_row(one: Predicted, checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a scores row a prediction says."""
    values = one.prediction.as_dict()
    probs = values.pop("probs") or dict.fromkeys(checkpoint.card.classes)
    return {"uri": one.uri, **values, **{f"prob_{name}": prob for name, prob in probs.items()}}


def check_against(rows: list[dict[str, Any]], found: list[Predicted], checkpoint: Checkpoint) -> None:
    assert len(rows) == len(found)
    for row, one in zip(rows, found, strict=True):
        got = as_row(one, checkpoint)
        assert got == {name: row[name] for name in got}


def test_every_image_of_a_run_gets_its_row_bit_for_bit(committed: Run, checkpoint: Checkpoint) -> None:
    rows = [row for row in read_scores(committed.run).to_pylist() if not row["uri"].endswith("gone.jpg")]
    rows = rows[::-1]  # other neighbours in the batch than in the run
    found = predicted([row["uri"] for row in rows], checkpoint)
    check_against(rows, found, checkpoint)
    assert {one.prediction.status for one in found} == {"ok", "truncated", "unsupported"}
    assert len({one.prediction.confidence for one in found}) > 90


def test_members_are_found_by_their_uris_in_whatever_order(tmp_path: Path, checkpoint: Checkpoint) -> None:
    files = {f"gate::{k}/50%25 off {k}.jpg": speckle(k) for k in range(40)} | {
        "bad.jpg": b"",
        "dir/é.png": speckle(99),
    }
    archive = write_files(tmp_path / "arch ive", {"a.tar": make_tar(files), "b.zip": make_zip(files, 8)})
    table = pa.table({"image": list(files.values()), "path": list(files)})
    pq.write_table(table, archive / "c.parquet", row_group_size=16)
    run = stage_run(tmp_path / "run", archive / "*", checkpoint, layout=None)
    run.commit(max_error_rate=1)
    rows = read_scores(run.run).to_pylist()
    assert len(rows) == 3 * len(files)
    order = np.random.default_rng(5).permutation(len(rows))
    rows = [rows[i] for i in order] + [rows[order[0]]]  # and one of them twice
    check_against(rows, predicted([row["uri"] for row in rows], checkpoint), checkpoint)


def test_the_last_member_of_a_name_is_taken_as_a_run_takes_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_files(tmp_path, {"twice.tar": make_tar({"a.jpg": speckle(1)}), "two.jpg": speckle(2)})
    with tarfile.open(tmp_path / "twice.tar", "a") as tar:
        tar.add(tmp_path / "two.jpg", "a.jpg")
    member, alone = predicted([f"tar://a.jpg::{tmp_path}/twice.tar", tmp_path / "two.jpg"], checkpoint)
    assert member.prediction.probs == alone.prediction.probs


def test_what_is_wrong_with_a_member_or_its_container_is_its_row(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    tar = make_tar({"a.jpg": speckle(1), "b.jpg": speckle(2)})
    write_files(tmp_path, {"good.tar": tar, "cut.zip": make_zip({"a.jpg": speckle(1)})[:-40]})
    names = [f"tar://c.jpg::{tmp_path}/good.tar", f"tar://b.jpg::file://{tmp_path}/good.tar",
             f"tar://a.jpg::{tmp_path}/none.tar", f"zip://a.jpg::{tmp_path}/cut.zip"]  # fmt: skip
    absent, good, gone, cut = predicted(names, checkpoint)
    assert (absent.prediction.status, absent.prediction.error) == (
        "missing",
        "its container has nothing of that name",
    )
    assert absent.uri == f"tar://c.jpg::file://{tmp_path}/good.tar"
    assert good.prediction.status == "ok"
    assert gone.prediction.status == "read_error"
    assert "no such folder or file" in gone.prediction.error
    assert (cut.prediction.status, "directory is damaged" in cut.prediction.error) == ("corrupt", True)


def test_a_path_is_taken_as_it_is_and_a_url_as_a_run_shows_it(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, {"a::b%41 [1]\n.jpg": speckle(1), "aA.jpg": speckle(2)})
    monkeypatch.chdir(tmp_path)
    with fsspec.open("memory://predict/north/a.jpg", "wb") as file:
        file.write(speckle(1))
    path, plain, store = predicted(
        ["a::b%41 [1]\n.jpg", "./x/../aA.jpg", "memory://predict/north/a.jpg"], checkpoint
    )
    assert path.uri == f"file://{tmp_path}/a%3A%3Ab%2541 [1]\n.jpg"
    assert plain.uri == f"file://{tmp_path}/aA.jpg"
    assert path.prediction.probs == store.prediction.probs
    assert path.prediction.probs != plain.prediction.probs
    (again,) = predicted([plain.uri], checkpoint)
    assert again.prediction.probs == plain.prediction.probs


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("{here}", "a folder, not one image; maskbatch score {here} --out OUT scores all that is in it"),
        ("s3://cameras/2026-10/", "a folder, not one image; maskbatch score s3://cameras/2026-10/ --out OUT"),
        ("", "(empty): a path or URL expected"),
        ("{here}/pipe.jpg", "a pipe or device, not a file"),
        ("tar://a.jpg::{here}/pipe.tar", "a pipe or device, not a file"),
        ("/dev/zero", "a pipe or device, not a file"),
        ("2026-10.TAR", "a .tar, not one image; maskbatch score"),
        ("rows.parquet", "a .parquet, not one image"),
        ("zip://a.jpg::x.tar", "a .zip file, without a query or a password, expected behind `::`"),
        ("tar://a.jpg::https://h/x.tar?key=SECRET", "without a query or a password"),
        ("nfs://x/a.jpg", "has an unknown scheme"),
        ("https:///a.jpg?key=SECRET", "names no host"),
        ("s3://KEY:SECRET@bucket/a.jpg", "holds credentials"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_one_sentence(image: str, message: str, tmp_path: Path) -> None:
    for name in ("pipe.jpg", "pipe.tar"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError) as refused:
        predict_images([image.format(here=tmp_path)], ScoreConfig(), JobConfig())
    assert message.format(here=tmp_path) in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_a_folder_among_images_is_a_row_and_a_file_that_is_not_there_is_no_such_file(
    tmp_path: Path, checkpoint: Checkpoint, cli: Cli
) -> None:
    write_files(tmp_path, {"a\x1b[2J.jpg": speckle(1), "day/b.jpg": speckle(2), "c.tar": make_tar({})})
    found = predicted([tmp_path / "day", *tmp_path.glob("a*"), tmp_path / "c.tar", "none.jpg"], checkpoint)
    assert [(one.prediction.status, one.prediction.error) for one in found] == [
        ("unsupported", "a folder, not one image"),
        ("ok", None),
        ("unsupported", "a .tar, not one image"),
        ("missing", "no such file"),
    ]
    done = cli("predict", *(path.name for path in tmp_path.glob("*")), "--checkpoint", checkpoint.path)
    assert done.returncode == 1 and "2 of 3 images could not be scored" in done.stderr
    assert "a?[2J.jpg" in done.stdout and "\x1b" not in done.stdout


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.safetensors: no such file"):
        predict_images(["a.jpg"], ScoreConfig(), JobConfig(), checkpoint=str(tmp_path / "none.safetensors"))


def test_limits_hold_and_a_model_that_gives_no_number_is_a_score_error(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    write_files(tmp_path, {"a.jpg": encode(draw(1, (160, 120)))})
    limits = ScoreConfig(max_pixels=160 * 120 - 1)
    _, (large,) = predict_images([str(tmp_path / "a.jpg")], limits, JobConfig(), checkpoint=checkpoint.path)
    assert (large.prediction.status, large.prediction.error) == (
        "too_large",
        "160 x 120 pixels, 19,199 allowed",
    )
    _, (heavy,) = predict_images(
        [str(tmp_path / "a.jpg")], ScoreConfig(max_bytes=99), JobConfig(), checkpoint=checkpoint.path
    )
    assert heavy.prediction.status == "too_large"
    state = {
        name: tensor.fill_(torch.nan) if "classifier" in name else tensor
        for name, tensor in checkpoint.load_state().items()
    }
    save_checkpoint(tmp_path / "nan.safetensors", checkpoint.card, state)
    broken = Predictor(open_checkpoint(str(tmp_path / "nan.safetensors")), FLOAT32)
    (one,) = broken.predict([Encoded((tmp_path / "a.jpg").read_bytes())])
    assert (one.status, one.label, one.probs, one.width) == ("score_error", None, None, 160)


class Handler(BaseHTTPRequestHandler):
    """/pictures/* with the right key; /moved, /upgraded and /away redirect."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        targets = {
            "/moved": "/pictures/a.jpg?key=SECRET",
            "/away": f"{self.server.other}/pictures/a.jpg?key=SECRET",
        }
        target = targets.get(self.path)
        code = 302 if target else 200 if self.path.endswith("key=SECRET") else 403
        body = speckle(1) if code == 200 else b""
        self.send_response(code)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of two web servers, of which the first redirects to the second."""
    made = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
    urls = [f"http://127.0.0.1:{one.server_port}" for one in made]
    for one in made:
        one.other = urls[1]
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield urls[0], urls[1]
    for one in made:
        one.shutdown()
        one.server_close()


def test_a_presigned_url_is_read_and_its_query_is_shown_nowhere(
    servers: tuple[str, str], checkpoint: Checkpoint, cli: Cli, tmp_path: Path
) -> None:
    signed, refused = f"{servers[0]}/pictures/a.jpg?key=SECRET", f"{servers[0]}/pictures/b.jpg?key=OTHER"
    done = cli("predict", signed, refused, "--json", "--checkpoint", checkpoint.path)
    assert done.returncode == 1
    assert not re.search("SECRET|OTHER|key", done.stdout + done.stderr)
    made = json.loads(done.stdout)
    assert [image["error"] for image in made["images"]] == [None, "Permission denied"]
    assert made["images"][0]["uri"].startswith(f"{servers[0]}/pictures/a.jpg#")
    assert not re.search("SECRET|OTHER|key", shown(made, 200))
    (tmp_path / "a.jpg").write_bytes(speckle(1))
    web, local = predicted([signed, tmp_path / "a.jpg"], checkpoint)
    assert web.prediction.probs == local.prediction.probs


def test_a_server_redirects_within_itself_and_elsewhere_only_where_that_is_allowed(
    servers: tuple[str, str], checkpoint: Checkpoint
) -> None:
    within, away = predicted([f"{servers[0]}/moved", f"{servers[0]}/away"], checkpoint)
    assert within.prediction.status == "ok"
    assert (away.prediction.status, away.prediction.error) == (
        "read_error",
        "it redirects to a place outside the allowed prefixes",
    )
    (away,) = predicted([f"{servers[0]}/away"], checkpoint, allow_prefix=[f"{servers[1]}/pictures/"])
    assert away.prediction.status == "ok"


def two_classes(folder: Path) -> Checkpoint:
    """A sigmoid head, exported as two logits."""
    card = make_card(
        architecture="mobilenet_v1",
        classes=("with_mask", "without_mask"),
        not_assessed=(),
        confusion=((9, 1), (1, 9)),
    )
    save_checkpoint(folder / "two.safetensors", card, build("mobilenet_v1", 2).state_dict())
    return open_checkpoint(str(folder / "two.safetensors"))


def shown(made: dict[str, Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    terminal.print_predictions(made, console)
    return console.file.getvalue()


def test_the_table_has_a_row_an_image_with_two_classes_and_with_four(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    write_files(
        tmp_path / "in", {"gate-1/a.jpg": speckle(1), "b.jpg": speckle(2), "cut.jpg": encode(draw(3))[:2000]}
    )
    images = [str(tmp_path / "in" / name) for name in ("gate-1/a.jpg", "b.jpg", "cut.jpg", "none.jpg")]
    for opened in (checkpoint, two_classes(tmp_path)):
        found = predict_images(images, FLOAT32, JobConfig(), checkpoint=opened.path)
        text = shown(summary(*found), 80)
        assert max(map(len, text.splitlines())) <= 80
        for one in found[1][:2]:
            name = one.uri.removeprefix(f"file://{tmp_path}/in/")
            (line,) = (line for line in text.splitlines() if line.startswith(f" {name} "))
            label, confidence = one.prediction.label.replace("_", " "), f"{one.prediction.confidence:.1%}"
            assert f" {label} {confidence} " in line
            assert [f"{prob:.1%}" for prob in one.prediction.probs.values()] == line.split("%", 1)[1].split()[
                : len(one.prediction.probs)
            ]
            assert line.rstrip().endswith("review") == one.prediction.needs_review
        assert re.search("cut.jpg: JPEG data ends early +truncated", shown(summary(*found), 200))


def test_the_command_says_all_of_it_as_json_without_ray(
    tmp_path: Path, checkpoint: Checkpoint, cli: Cli
) -> None:
    write_files(tmp_path, {"a.jpg": speckle(1), "bad.jpg": b"no image"})
    done = cli(
        "predict",
        "a.jpg",
        "bad.jpg",
        "--json",
        "--dtype",
        "float32",
        "--checkpoint",
        checkpoint.path,
        script=WITHOUT_RAY,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["1 of 2 images could not be scored; each says why.", "False"]
    made = json.loads(done.stdout)
    good, bad = made.pop("images")
    assert made == {
        "checkpoint": checkpoint.path,
        "digest": checkpoint.digest,
        "classes": list(checkpoint.card.classes),
    }
    (one,) = predicted([tmp_path / "a.jpg"], checkpoint)
    assert good == {"uri": f"file://{tmp_path}/a.jpg", **one.prediction.as_dict()}
    assert sum(good["probs"].values()) == pytest.approx(1)
    assert (good["label"], good["confidence"]) == max(good["probs"].items(), key=lambda item: item[1])
    assert (bad["status"], bad["label"], bad["probs"], bad["needs_review"]) == (
        "unsupported",
        None,
        None,
        False,
    )


def test_the_packaged_checkpoint_tells_a_drawn_gate_without_anybody_and_exits_0(
    tmp_path: Path, cli: Cli
) -> None:
    draw(3, (320, 240), "no_face").save(tmp_path / "empty.jpg")
    done = cli("predict", "empty.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no face 9" in done.stdout
    assert f"In {tmp_path}:\n" in done.stdout
