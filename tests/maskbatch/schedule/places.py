"""An archive that is scored every night, for the tests of this folder."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from maskbatch.config import read_toml
from maskbatch.schedule.nights import Schedule

ROOT = Path(__file__).parents[3]
FIRST_NIGHT, LAST_NIGHT = date(2026, 10, 1), date(2026, 10, 3)


@dataclass(frozen=True)
class Place:
    """An archive, a schedule of it, and the folder of its nights."""

    archive: Path
    base: Path
    toml: Path

    @property
    def nights(self) -> Path:
        return self.base / "Europe" / "Paris"

    def schedule(self, **flags: Any) -> Schedule:
        return Schedule.of([str(self.archive)], f"{self.base}/", {**read_toml(self.toml), **flags})

    def made(self) -> dict[str, float]:
        """When each run below BASE was committed."""
        return {path.parent.name: path.stat().st_mtime for path in self.nights.glob("*/_SUCCESS")}


def values(path: Path) -> Any:
    return json.loads(path.read_text())
