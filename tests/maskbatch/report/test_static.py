from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from maskbatch.report.faces import Faces
from maskbatch.report.static import find_static
from tests.maskbatch.report.scenes import START, Picture, draw_people, face

POSTER, WALKER, SITTER = "poster", "walker", "sitter"


def shake(rng: np.random.Generator, kind: str, size: float, spread: float, **values: float) -> Picture:
    """A face whose box differs from a fixed one by `spread` of its size."""
    box = np.array([900, 300, 900 + 0.8 * size, 300 + size]) + rng.normal(0, spread * size, 4)
    exposure = rng.uniform(0.93, 1.07)
    look = {"brightness": 0.45 * exposure, "contrast": 0.2 * exposure + rng.normal(0, 0.004)}
    return {"kind": kind, "box": box.tolist(), **look, **values}


def sit(rng: np.random.Generator, posture: np.ndarray, size: float) -> Picture:
    """Somebody at a desk: the head is `posture` away from its usual place, as shares of a face's size."""
    x, y = 900 + posture[0] * size, 300 + posture[1] * size
    side = size * np.exp(posture[2])
    box = np.array([x, y, x + 0.8 * side, y + side]) + rng.normal(0, 0.01 * size, 4)
    look = {"brightness": 0.45 + rng.normal(0, 0.02), "contrast": 0.2 + rng.normal(0, 0.015)}
    return {"kind": SITTER, "box": box.tolist(), **look}


def walk(rng: np.random.Generator) -> list[Picture]:
    look = {"kind": WALKER, "brightness": 0.45, "contrast": 0.2}
    return [{"box": person["box"], **look} for person in draw_people(rng, 0.9)]


def found(
    pictures: Sequence[Sequence[Picture]], every_s: float = 300, shuffled: int | None = None
) -> tuple[dict[str, float], int]:
    """(the share of each kind of face that is found, number of stretches)."""
    times = [START + timedelta(seconds=every_s * k) for k in range(len(pictures))]
    day = pa.table(
        {
            "site": ["north"] * len(times),
            "camera": ["lobby"] * len(times),
            "captured_at": pa.array(times, pa.timestamp("us", "UTC")),
            "captured_local": times,
        }
    )
    rows = [
        {"region": region, "width": 1920, "height": 1080, **one, "picture": place}
        for place, faces in enumerate(pictures)
        for region, one in enumerate(faces, 1)
    ]
    table = pa.Table.from_pylist(rows)
    if shuffled is not None:
        table = table.take(pa.array(np.random.default_rng(shuffled).permutation(len(table))))
    faces = Faces.sort(table, table["picture"].to_numpy())
    static_M, stretches = find_static(day, np.zeros(len(day), int), faces, np.ones(len(day), bool))
    kinds = np.array(faces.rows["kind"].to_pylist())
    return {str(kind): float(static_M[kinds == kind].mean()) for kind in np.unique(kinds)}, len(stretches)


@pytest.mark.parametrize("spread", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("present", [0.95, 0.65])
def test_a_poster_is_found_and_no_passer_by(spread: float, present: float) -> None:
    rng = np.random.default_rng(3)
    pictures = [
        [*walk(rng), *([shake(rng, POSTER, 60, spread)] if rng.random() < present else [])]
        for _ in range(120)
    ]
    shares, stretches = found(pictures)
    assert shares[POSTER] > 0.97
    assert shares[WALKER] == 0
    assert stretches == 1


def test_somebody_who_sits_there_all_day_is_not_taken_for_a_poster() -> None:
    """A head that stays within a centimetre or two for hours: a tenth of a face, in postures of an hour."""
    mistaken = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        posture, pictures = rng.normal(0, 1, 3), []
        for _ in range(120):
            posture = 0.9 * posture + np.sqrt(1 - 0.81) * rng.normal(0, 1, 3)
            pictures.append([sit(rng, posture * (0.1, 0.06, 0.05), 60)])
        mistaken += found(pictures)[0][SITTER] / 20
    assert mistaken < 0.02


def test_the_order_of_rows_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    pictures = [[*walk(rng), shake(rng, POSTER, 40, 0.02)] for _ in range(80)]
    assert found(pictures) == found(pictures, shuffled=1) == found(pictures, shuffled=2)


def test_light_may_change_but_another_face_at_the_place_is_another_face() -> None:
    rng = np.random.default_rng(6)
    dawn = [[shake(rng, POSTER, 60, 0.01, brightness=0.2 + 0.004 * k)] for k in range(100)]
    assert found(dawn)[0][POSTER] == 1
    queue = [[shake(rng, WALKER, 60, 0.01, brightness=float(rng.uniform(0.2, 0.7)))] for _ in range(100)]
    assert found(queue)[0][WALKER] == 0


def test_under_three_hours_or_a_dozen_sightings_nothing_is_static() -> None:
    rng = np.random.default_rng(7)
    pictures = [[shake(rng, POSTER, 60, 0.01)] for _ in range(36)]
    assert found(pictures, every_s=300)[1] == 0  # 2 h 55 min
    assert found(pictures, every_s=320)[1] == 1
    assert found(pictures[:11], every_s=3600)[1] == 0
    assert found(pictures[:12], every_s=3600)[1] == 1


def test_a_face_that_is_there_in_few_of_the_pictures_is_not_static() -> None:
    rng = np.random.default_rng(8)
    pictures = [[shake(rng, POSTER, 60, 0.01)] if k % 3 == 0 else [] for k in range(120)]
    assert found(pictures)[1] == 0


def test_two_posters_are_two_stretches() -> None:
    rng = np.random.default_rng(9)
    pictures = []
    for _ in range(60):
        one, other = (shake(rng, POSTER, 60, 0.01) for _ in range(2))
        pictures.append([one, {**other, "box": [value + 70 for value in other["box"]]}])
    assert found(pictures) == ({POSTER: 1.0}, 2)


def test_a_face_has_the_band_of_its_size_before_the_detector() -> None:
    rows = [
        {"region": k, "width": 1920, "height": 1080, "box": face(None, 0, 0, size)["box"]}
        for k, size in enumerate((31.9, 32.1, 63.9, 700), 1)
    ]
    faces = Faces.sort(pa.Table.from_pylist(rows), np.zeros(4, int))
    assert faces.name_size_bands(960).to_pylist() == ["0-16", "16-24", "24-32", "256+"]
    assert faces.name_size_bands(4096).to_pylist() == ["24-32", "32-48", "48-64", "256+"]
