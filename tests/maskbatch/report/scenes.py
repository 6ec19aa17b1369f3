"""Pictures of whole scenes, as rows: people at any distance, a poster, false alarms."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from maskbatch.model.card import DetectorCard
from tests.maskbatch.samples import make_detector_card

Picture = dict[str, Any]
START = datetime(2026, 10, 1, 7)
FAILED = {
    "status": "truncated",
    **dict.fromkeys(("brightness", "contrast", "sharpness", "dhash", "num_faces")),
}
FOUND = {
    "with_mask": [[12, 40], [30, 42], [28, 31], [45, 48], [30, 32], [25, 26], [20, 20], [25, 25], [8, 8]],
    "without_mask": [[10, 25], [22, 25], [24, 25], [30, 30], [25, 25], [20, 20], [15, 15], [20, 20], [6, 6]],
    "incorrect_mask": [[0, 1], [3, 4], [5, 5], [12, 12], [10, 10], [9, 9], [6, 6], [8, 8], [3, 3]],
}
"""What a detector finds, by class and size band: of faces in masks fewer."""


def measured_detector() -> DetectorCard:
    return make_detector_card(recall=FOUND)


def face(label: str | None, x: float = 100, y: float = 100, size: float = 80, **values: Any) -> Picture:
    """A face of `size` pixels on its longer side."""
    return {"label": label, "box": [x, y, x + 0.8 * size, y + size], **values}


def picture(minute: float, faces: Sequence[Picture], **values: Any) -> Picture:
    return {"time": START + timedelta(minutes=minute), "faces": list(faces), **values}


def draw_people(rng: np.random.Generator, compliance: float) -> list[Picture]:
    """Some people in one picture; those who are far away are too small to assess."""
    faces = []
    for _ in range(rng.poisson(1.2)):
        size = float(np.exp(rng.normal(4.1, 0.7)))
        label = (
            "with_mask" if rng.random() < compliance else str(rng.choice(["without_mask", "incorrect_mask"]))
        )
        label = "no_face" if rng.random() < 0.04 else label
        confidence = float(np.clip(rng.normal(0.8 + 0.03 * np.log(size), 0.05), 0.4, 1))
        values = {"confidence": confidence, "needs_review": confidence < 0.8} if size >= 24 else {}
        place = rng.uniform(0, 1800), rng.uniform(200, 900)
        faces.append(face(label if size >= 24 else None, *place, size, **values))
    return faces


def draw_poster(rng: np.random.Generator) -> Picture:
    """A bare face on a wall: its box differs by what a detector's does, its look by noise."""
    box = np.array([1500, 300, 1560, 380]) + rng.normal(0, 0.8, 4)
    return {"label": "without_mask", "box": box.tolist(), "brightness": 0.45 + float(rng.normal(0, 0.004))}


def draw_month(days: int = 12, cameras: int = 3, seed: int = 1) -> list[Picture]:
    """A picture every 20 minutes of each day; a poster hangs before the first camera."""
    rng, pictures = np.random.default_rng(seed), []
    for day in range(days):
        for camera in range(cameras):
            compliance = float(np.clip(rng.normal(0.85, 0.05), 0, 1))
            for minute in range(0, 12 * 60, 20):
                faces = draw_people(rng, compliance)
                if camera == 0 and rng.random() < 0.95:
                    faces.append(draw_poster(rng))
                failed = rng.random() < 0.004
                values = {"camera": f"lobby-{camera}", **(FAILED if failed else {})}
                pictures.append(picture(24 * 60 * day + minute, [] if failed else faces, **values))
    return pictures
