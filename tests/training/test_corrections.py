"""What people said of faces in whole scenes, as pictures to learn from."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review.queue import read_queue
from maskbatch.runs.directory import RunDir
from tests.maskbatch.samples import edit_json, read_scores, stage_run, write_lobby
from training import data
from training.corrections import load_corrections

Judge = Callable[[Path], int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed run of whole scenes with its queue."""
    root = tmp_path_factory.mktemp("scenes")
    staged = stage_run(root / "run", write_lobby(root / "archive"), open_checkpoint(), view="scene")
    staged.commit()
    make_report([staged.run], staged.run.report)
    return root / "run"


def judge(run: Path, folder: Path) -> int:
    """Somebody agrees with every label but the first face's; returns how many faces there are."""
    queue = read_queue(run / "report").to_pylist()
    for row in queue:
        values = {name: row[name] for name in ("uri", "sha256", "region", "stratum", "probability")}
        label = row["label"] if row["position"] else "no_face"
        corrections.write_judgement(folder, {**values, "label": label, "was": row["label"], "by": "ann"})
    return len(queue)


def test_faces_are_learned_from_as_scoring_cut_them(run: Path, tmp_path: Path) -> None:
    num_faces = judge(run, tmp_path)
    taught = load_corrections([str(run), str(tmp_path)])
    assert taught.counts["usable"] == num_faces and taught.counts["changed"] == 1
    table = taught.table
    assert (table["label"] == "no_face").any() and len(table["uri"].unique()) < num_faces
    assert set(table["day"].str.split().str[0]) == {"north/lobby-1", "north/lobby-2"}
    pixels, decoded = data.decode(table, open_checkpoint().card.preset, "decode")
    assert len(pixels) == len(decoded) == num_faces
    scored = {
        (row["uri"], " ".join(map(str, row["box"]))): row
        for row in read_scores(RunDir.at(str(run))).to_pylist()
        if row["region"]
    }
    for row in decoded.itertuples():
        for name in ("brightness", "sharpness"):
            assert np.float32(getattr(row, name)) == scored[row.uri, row.box][name]


def test_a_manifest_of_several_faces_of_one_picture_keeps_each(run: Path, tmp_path: Path) -> None:
    num_faces = judge(run, tmp_path / "said")
    table = load_corrections([str(run), str(tmp_path / "said")]).table
    table[list(data.COLUMNS)].to_parquet(tmp_path / "split.parquet", index=False)
    again = data.load([str(tmp_path / "split.parquet")])
    assert len(again) == num_faces and again["box"].nunique() == num_faces
    preset = open_checkpoint().card.preset
    assert np.array_equal(data.decode(again, preset, "decode")[0], data.decode(table, preset, "decode")[0])


def test_faces_whose_run_is_not_named_are_refused(run: Path, tmp_path: Path) -> None:
    judge(run, tmp_path)
    words = r"face \d+ of file:.*: no run here says where it is; name the run .* with --corrections RUN"
    with pytest.raises(UsageError, match=words):
        load_corrections([str(tmp_path)], Path(open_checkpoint().path))


def test_runs_that_found_their_faces_in_other_ways_are_refused(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    edit_json(other / "run.json", detector=_change_digest(RunDir.at(str(other))))
    with pytest.raises(
        UsageError,
        match=re.escape(f"--corrections {run}, {other}: their views, detectors or --detect-px differ"),
    ):
        load_corrections([str(run), str(other)])


def _change_digest(run: RunDir) -> dict[str, object]:
    settings = run.find_run()
    assert settings and settings.detector
    return {"path": "other.safetensors", "digest": "0" * 64, "card": settings.detector.card}
