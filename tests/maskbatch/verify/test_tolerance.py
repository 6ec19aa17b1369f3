"""Runs whose JPEGs another decoder decoded, as a GPU does, and rows beside what it may change."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from maskbatch.decode.images import Decode
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.verify.compare import Finding, compare_images
from maskbatch.verify.files import check_run
from maskbatch.verify.result import Verification
from maskbatch.verify.tolerance import TOLERANCES
from tests.maskbatch.samples import Run, decode_roughly, draw, encode, stage_run, write_files
from tests.maskbatch.score.test_scene import CROWD, TWO
from tests.maskbatch.verify.test_files import forge, setting

DAY = "north/gate-1/2026-10-01"
NAME = "scores/date=2026-10-01/part-000000000000.parquet"
GPU = TOLERANCES["gpu"]
DAMAGED = 5


def damage(data: bytes) -> bytes:
    """A JPEG that lacks half of its pixels, and has its end."""
    return data[: len(data) // 2] + b"\xff\xd9"


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A committed run of 24 snapshots decoded roughly: a PNG, one cut off, one damaged inside."""
    folder = tmp_path_factory.mktemp("rough")
    files = {
        f"{DAY}/0930{k:02d}.jpg": encode(draw(k, (640, 480)), "PNG" if k == 2 else "JPEG") for k in range(24)
    }
    files[f"{DAY}/093003.jpg"] = files[f"{DAY}/093003.jpg"][:9000]
    files[f"{DAY}/0930{DAMAGED:02d}.jpg"] = damage(files[f"{DAY}/0930{DAMAGED:02d}.jpg"])
    archive = write_files(folder / "archive", files)
    made = stage_run(folder / "run", archive, open_checkpoint(), decoder="gpu", decode=decode_roughly)
    made.commit()
    return made


@pytest.fixture
def spoilt(rough: Run, tmp_path: Path) -> Run:
    return rough.copy(tmp_path / "run")


def test_a_run_that_the_gpu_decoded_verifies_and_says_by_what_tolerance(rough: Run) -> None:
    found = check_run(rough.run)
    assert found.verified, found.differences
    assert (found.decoder, found.sampled, found.rescored, found.damaged_inside) == ("gpu", 24, 22, 1)
    assert 0 < found.largest_difference < 0.5
    assert found.bit_equal < 22
    assert "The run decoded JPEGs on the GPU, this check on the CPU" in str(found)
    assert "so probabilities may be 0.1 apart, brightness and contrast 2 grey levels, sharpness 50%" in str(
        found
    )
    assert "1 image that it called ok: damaged inside, says the CPU's decoder." in str(found)
    assert found.as_dict()["damaged_inside"] == 1


def test_the_same_rows_of_a_run_that_says_cpu_do_not_verify(rough: Run, tmp_path: Path) -> None:
    archive = Path(rough.run.read_run().plan.archives[0])
    made = stage_run(tmp_path / "run", archive, open_checkpoint(), decode=decode_roughly)
    made.commit()
    found = check_run(made.run)
    columns = {difference.what.partition(" of ")[0] for difference in found.differences}
    assert columns == {"status", "sharpness", "dhash"}
    assert "decoded JPEGs on" not in str(found)


@pytest.mark.parametrize(
    ("column", "by", "differs"),
    [("brightness", 1.5 / 255, False), ("brightness", 4 / 255, True), ("contrast", 4 / 255, True),
     ("sharpness", 9e3, True), ("width", 1, True)],
)  # fmt: skip
def test_more_than_a_decoder_changes_is_a_difference(
    column: str, by: float, differs: bool, spoilt: Run
) -> None:
    def move(rows: pa.Table) -> pa.Table:
        was = rows[column][0].as_py()
        return setting(column, {0: type(was)(was + by)})(rows)

    forge(spoilt, move, NAME)
    assert [difference.id for difference in check_run(spoilt.run).differences] == ([0] if differs else [])


def test_a_status_that_the_cpu_gave_is_held_to_it(spoilt: Run) -> None:
    """What the GPU's decoder does not take is decoded on the CPU, then as now."""
    forge(spoilt, setting("status", {3: "corrupt"}), NAME)
    whats = [difference.what.partition(" of ")[0] for difference in check_run(spoilt.run).differences]
    assert "status" in whats


@pytest.mark.parametrize("decode", [None, decode_roughly])
def test_photographs_that_a_device_decoded_verify(
    decode: Decode | None, shared: Path, tmp_path: Path
) -> None:
    photographs = sorted((shared / "data/faces/val").rglob("*.jpg"))[::4]
    photographs += sorted((shared / "data/scenes/val").rglob("*.jpg"))[::4]
    files = {f"{DAY}/{k // 60:04d}{k % 60:02d}.jpg": path.read_bytes() for k, path in enumerate(photographs)}
    archive = write_files(tmp_path / "archive", files)
    made = stage_run(tmp_path / "run", archive, open_checkpoint(), decoder="gpu", decode=decode)
    made.commit()
    found = check_run(made.run, sample=len(files))
    assert found.verified, found.differences
    assert found.rescored == len(files) >= 140
    assert found.bit_equal < found.rescored
    assert found.far_apart <= 2


def make_row(**values: Any) -> dict[str, Any]:
    measures = {"brightness": 0.5, "contrast": 0.2, "sharpness": 90.0}
    row = {"file": "f", "id": 3, "uri": "u", "status": "ok", "sha256": "x", "error": None, "label": "a"}
    return {**row, **measures, "dhash": bytes(8), "prob_a": 0.7, "prob_b": 0.3, **values}


def compare(old: dict[str, Any], new: dict[str, Any]) -> Verification:
    found = Verification(success_sha256="", seed=0, decoder="gpu")
    compare_images([old], [new], ("a", "b"), found, tolerance=GPU)
    return found


@pytest.mark.parametrize(
    ("prob", "label", "far", "differs"),
    [(0.61, "a", 0, False), (0.59, "a", 1, False), (0.21, "b", 1, False), (0.19, "b", 0, True)],
)
def test_a_few_probabilities_are_far_apart_and_none_by_more_than_half(
    prob: float, label: str, far: int, differs: bool
) -> None:
    found = compare(make_row(), make_row(prob_a=prob, prob_b=1 - prob, label=label))
    assert (found.far_apart, not found.verified) == (far, differs)


@pytest.mark.parametrize(("prob", "differs"), [(0.46, False), (0.30, True)])
def test_another_label_needs_another_probability(prob: float, differs: bool) -> None:
    old = make_row(prob_a=prob + 0.05, prob_b=0.95 - prob)
    new = make_row(prob_a=prob, prob_b=1 - prob, label="b")
    assert compare(old, new).verified != differs


@pytest.mark.parametrize(("far", "verified"), [(10, True), (11, False)])
def test_too_many_that_are_far_apart_are_a_difference(far: int, verified: bool) -> None:
    found = Verification(success_sha256="", seed=0, decoder="gpu", sampled=200, rescored=200, far_apart=far)
    found.check_far_apart()
    assert found.verified == verified
    assert f"Further apart: {far} of 200 images (5% may be, by up to 0.5)." in str(found)


@pytest.mark.parametrize(
    ("bits", "contrast", "differs"),
    [(b"\xff\xff", 0.2, False), (b"\xff\xff\x01", 0.2, True), (b"\xff" * 5, 1.2 / 255, False)],
)
def test_a_few_bits_of_dhash_may_differ_and_any_in_a_flat_picture(
    bits: bytes, contrast: float, differs: bool
) -> None:
    old = make_row(contrast=contrast)
    new = make_row(contrast=contrast, dhash=bits.ljust(8, b"\0"))
    assert [d.what for d in compare(old, new).differences] == (["dhash of u"] if differs else [])


@pytest.mark.parametrize(
    ("new", "counted"),
    [({"status": "corrupt"}, 1), ({"status": "truncated"}, 1), ({"status": "unsupported"}, 0),
     ({"status": "corrupt", "sha256": "y"}, 0)],
)  # fmt: skip
def test_only_the_same_bytes_are_damaged_inside(new: dict[str, str], counted: int) -> None:
    found = compare(make_row(), make_row(**new))
    assert (found.damaged_inside, found.num_differences) == (counted, 1 - counted)


def test_the_cpus_own_rows_may_not_hide_damage() -> None:
    found = Verification(success_sha256="", seed=0)
    compare_images([make_row()], [make_row(status="corrupt")], ("a", "b"), found)
    assert (found.damaged_inside, found.num_differences) == (0, 1)


def test_whole_scenes_that_the_gpu_decoded_verify_by_the_overlap_of_their_faces(tmp_path: Path) -> None:
    files = {f"north/lobby/2026-10-01/09300{k}.jpg": encode(scene) for k, scene in enumerate((CROWD, TWO))}
    archive = write_files(tmp_path / "archive", files)
    made = stage_run(
        tmp_path / "run", archive, open_checkpoint(), view="scene", decoder="gpu", decode=decode_roughly
    )
    made.commit()
    found = check_run(made.run)
    assert found.verified, found.differences
    assert (found.rescored, found.faces, found.faces_rescored) == (2, 6, 6)
    assert found.bit_equal == 0
    faces = Finding(0.25, 960, is_exact=False, tolerance=GPU)
    assert faces.is_near({"face_confidence": 0.44}, [{"face_confidence": 0.44}], 0)
    assert not faces.is_near({"face_confidence": 0.46}, [{"face_confidence": 0.46}], 0)
    assert faces.confidence == pytest.approx(0.2)
