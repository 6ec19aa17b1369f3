"""What the GPU benchmark measures: each part is a command of its own, and gives figures of one size."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from tests.benchmarks.gpu_agreement import compare_decoders
from tests.benchmarks.gpu_files import count_cores, link_some
from tests.benchmarks.gpu_table import Figures
from tests.benchmarks.gpu_watch import PartFailedError, Samples, Watched, find_window, watch

FILES_PER_CORE = {"1920x1080": 2000, "640x480": 3000}
"""Files by default: some 13 s of decoding on the cores."""
RECIPE_SHARE, RECIPE_LEAST = 5, 256
"""The recipe gets one file in so many, as it takes longer for each, but some batches of them."""
DAMAGED = 2000
STAND_IN = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}', "CUDA_VISIBLE_DEVICES": "-1"}
"""Ray counts a GPU, and torch sees none."""


@dataclass(frozen=True)
class Setup:
    """Where to measure, and on what. Every method takes the seconds that it may last."""

    folder: Path
    device: str
    files: int | None
    """Of each size; None: by cores."""
    photographs: Path
    ceiling_s: float
    """Seconds for each part alone."""

    @property
    def is_stand_in(self) -> bool:
        return self.device == "cpu"

    def run(self, name: str, command: Sequence[object], limit_s: float, *, sees_gpu: bool = False) -> Watched:
        """Run `python -m` with this; its log is NAME.log."""
        words = [sys.executable, "-m", *map(str, command)]
        log = self.folder / "logs" / f"{name}.log"
        environment = STAND_IN if self.is_stand_in else {}
        return watch(words, log, limit_s, environment, sees_gpu=sees_gpu and not self.is_stand_in)

    def draw(self, size: str, limit_s: float) -> Figures:
        asked = self.files or FILES_PER_CORE.get(size, 1000) * count_cores()
        command = ("tests.benchmarks.gpu_files", "snapshots", self.folder / size, size, asked)
        return self.run(f"draw-{size}", command, limit_s).answer

    def find_ceiling(self, size: str, part: str, limit_s: float) -> Figures:
        command = ("tests.benchmarks.gpu_ceilings", part, self.folder / size, self.device, self.ceiling_s)
        return self.run(f"{part}-{size}", command, limit_s).answer

    def score_folder(self, name: str, decoder: str, limit_s: float, *flags: object) -> tuple[Path, Watched]:
        """The run directory of a folder, scored by the command line, and what was seen of it."""
        out = self.folder / "runs" / f"{name}-{decoder}"
        shutil.rmtree(out, ignore_errors=True)
        command = ("maskbatch", "score", self.folder / name, "--out", out, "--decoder", decoder, *flags)
        words = (*command, "--json", "--json-logs")
        return out, self.run(f"score-{decoder}-{name}", words, limit_s, sees_gpu=True)

    def score(self, size: str, decoder: str, limit_s: float) -> Figures:
        """Both rates, and what an image takes while the run is steady."""
        out, watched = self.score_folder(size, decoder, limit_s)
        summary, marks = watched.answer, watched.find_marks()
        if summary["statuses"] != {"ok": summary["planned"]}:
            raise PartFailedError(f"not every image is ok: {summary['statuses']}")
        found = {
            "whole": summary["planned"] / watched.whole_s,
            "whole_s": watched.whole_s,
            "first_s": marks[0][0] - watched.began,
            "shard": json.loads((out / "run.json").read_text())["shard_size"],
        }
        if window := find_window(marks):
            cpu_s, busy = watched.cpu_seconds(window), watched.mean_busy(window)
            found |= {"steady": window.rate, "cpu_ms": 1000 * cpu_s / window.images}
            found |= {} if busy is None else {"busy": busy}
        return {f"{decoder}_{name}": value for name, value in found.items()}

    def run_recipe(self, size: str, limit_s: float) -> Figures:
        count = max(RECIPE_LEAST, len(list((self.folder / size).rglob("*.jpg"))) // RECIPE_SHARE)
        few, out = link_some(self.folder / size, count), self.folder / "recipe"
        command = ("tests.benchmarks.score", "--on-gpu", "--recipe", few, out)
        watched = self.run(f"recipe-{size}", command, limit_s)
        num_images = watched.answer["images"]
        found = {
            "recipe_files": num_images,
            "recipe_whole": num_images / watched.whole_s,
            "recipe_whole_s": watched.whole_s,
        }
        window = find_window(read_marks(out))
        return found | ({"recipe_steady": window.rate} if window else {})

    def compare(self, limit_s: float) -> Figures:
        """Both decoders on damaged files and on photographs."""
        end = time.monotonic() + limit_s
        count = DAMAGED if self.files is None else min(DAMAGED, self.files)
        photographs = (self.photographs,) if self.photographs.is_dir() else ()
        command = ("tests.benchmarks.gpu_files", "damaged", self.folder / "agreement", count, *photographs)
        self.run("damage", command, limit_s)
        cpu, gpu = (
            self.score_folder("agreement", decoder, end - time.monotonic(), "--max-error-rate", 1)[0]
            for decoder in ("cpu", "gpu")
        )
        return compare_decoders(cpu, gpu)


def read_marks(out: Path) -> Samples:
    """When how many images of the recipe's table had been scored."""
    times = sorted(
        at for path in out.glob("*.parquet") for at in pq.ParquetFile(path).read(["scored_at"])[0].to_pylist()
    )
    return [(at, k + 1) for k, at in enumerate(times)]
