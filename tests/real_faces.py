"""Lay the labelled photographs of ../shared out as cameras would: a month, two sites, four cameras."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"
CAMERAS = ("north/gate-1", "north/gate-2", "south/dock", "south/lobby")


def lay_out(faces: Path, archive: Path) -> dict[str, str]:
    """Copy faces/<label>/*.jpg below `archive`; returns the label of each path below it."""
    truth = {}
    pictures = [(path, path.parent.name) for path in sorted(faces.glob("*/*.jpg"))]
    for k, (path, label) in enumerate(pictures):
        order = k * 89 % len(pictures)  # labels spread over cameras, days and hours
        time = datetime(2026, 10, 1, 7) + timedelta(
            days=order // 4 % 30, minutes=order * 37 % 720, seconds=k % 60
        )
        relative = f"{CAMERAS[order % 4]}/{time:%Y/%m/%d/%H%M%S}.jpg"
        target = archive / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise FileExistsError(target)
        shutil.copyfile(path, target)
        truth[relative] = label
    return truth
