"""Scoring on one GPU, side by side on the same files: the parts alone, both decoders, Ray's documented recipe.

    make bench-gpu                               with .venv; under six minutes
    python3 -m tests.benchmarks.gpu              where maskbatch can be imported, in the repository's folder
    python3 -m tests.benchmarks.gpu --folder /dev/shm/bench --json figures.json
    python3 -m tests.benchmarks.gpu --device cpu --files 200 --sizes 320x240   a stand-in, on any machine

It needs nothing but maskbatch's own libraries. Each part is a process tree of its own, so one that fails costs
its own figures. Each figure is printed as soon as it is there; the table has what was reached when the time is
up. The stand-in has a GPU that Ray counts and nobody has, and torchvision's CPU decoder in the place of nvJPEG.
"""

import argparse
import json
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.gpu_files import count_cores, link_some
from tests.benchmarks.gpu_table import Figures, describe, make_table
from tests.benchmarks.gpu_watch import PartFailedError, Samples, Watched, find_window, watch

FOLDER = Path(".bench/gpu")
PHOTOGRAPHS = Path("../shared/data")
FILES_PER_CORE = {"1920x1080": 1000, "640x480": 3000}
"""Files by default: some 13 s of decoding on the cores."""
RECIPE_SHARE = 5
"""The recipe gets one file in so many: it takes longer for each."""
DAMAGED = 2000
CEILING_S = 5.0
LEAST_S = 15.0
"""A part that has less is not begun."""
SHARE_OF_TIME = 0.25
"""No part takes more of the whole time."""
STAND_IN = {"RAY_OVERRIDE_RESOURCES": '{"GPU": 1}', "CUDA_VISIBLE_DEVICES": "-1"}
ASK = """
import json, torch, torchvision, ray
name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
versions = {library.__name__: library.__version__ for library in (torch, torchvision, ray)}
print(json.dumps({"gpu": name, "versions": versions}))
"""


class Part(NamedTuple):
    """What gives some figures of one size, within so many seconds."""

    name: str
    size: str
    measure: Callable[[float], Figures]


@dataclass
class Bench:
    """What to measure, and what was found so far."""

    folder: Path
    sizes: list[str]
    files: int | None
    device: str
    photographs: Path
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """A sentence for each part without figures."""

    @property
    def is_stand_in(self) -> bool:
        return self.device == "cpu"

    def list_parts(self) -> Iterator[Part]:
        """All parts, the most important first."""
        for size in self.sizes:
            yield Part("draw", size, partial(self.draw, size))
            yield Part("gpu", size, partial(self.score, size, "gpu"))
            yield Part("recipe", size, partial(self.run_recipe, size))
        for size in self.sizes:
            yield Part("probs", size, partial(self.find_ceiling, size, "probs"))
        yield Part("agreement", self.sizes[-1], self.compare)
        for size in self.sizes:
            yield Part("cores", size, partial(self.find_ceiling, size, "cores"))
            yield Part("cpu", size, partial(self.score, size, "cpu"))
        for size in self.sizes:
            yield Part("jpeg", size, partial(self.find_ceiling, size, "jpeg"))

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
        command = ("tests.benchmarks.gpu_ceilings", part, self.folder / size, self.device, CEILING_S)
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
            found |= {
                "steady": window.rate,
                "cpu_ms": 1000 * watched.cpu_seconds(window) / window.images,
            }
            busy = watched.mean_busy(window)
            found |= {} if busy is None else {"busy": busy}
        return {f"{decoder}_{name}": value for name, value in found.items()}

    def run_recipe(self, size: str, limit_s: float) -> Figures:
        files = len(list((self.folder / size).rglob("*.jpg")))
        few, out = link_some(self.folder / size, max(1, files // RECIPE_SHARE)), self.folder / "recipe"
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
        from tests.benchmarks.gpu_agreement import compare_decoders

        end = time.monotonic() + limit_s
        count = DAMAGED if self.files is None else min(DAMAGED, self.files)
        photographs = (self.photographs,) if self.photographs.is_dir() else ()
        command = ("tests.benchmarks.gpu_files", "damaged", self.folder / "agreement", count, *photographs)
        made = self.run("damage", command, limit_s).answer
        if not made["photographs"]:
            self.note(
                f"agreement on photographs: there are none at {self.photographs}; give --photographs FOLDER"
            )
        outs = [
            self.score_folder("agreement", decoder, end - time.monotonic(), "--max-error-rate", 1)[0]
            for decoder in ("cpu", "gpu")
        ]
        return compare_decoders(*outs)

    def note(self, sentence: str) -> None:
        print(f"    {sentence}", flush=True)
        self.missing.append(sentence)

    def measure(self, part: Part, limit_s: float) -> None:
        """Find the figures of one part; a part that fails, for whatever reason, gives a sentence instead."""
        title, began = f"{part.size} {part.name}", time.monotonic()
        print(f"{title} (at most {limit_s:.0f} s)", flush=True)
        try:
            found = part.measure(limit_s)
        except PartFailedError as error:
            self.note(f"{title}: {error}")
        except Exception as error:
            traceback.print_exc()
            self.note(f"{title}: {type(error).__name__}: {error}")
        else:
            self.figures.setdefault(part.size, {}).update(found)
            print(f"    in {time.monotonic() - began:.1f} s", *describe(found), sep="\n    ", flush=True)


def read_marks(out: Path) -> Samples:
    """When how many images of the recipe's table had been scored."""
    import pyarrow.parquet as pq

    times = sorted(
        at for path in out.glob("*.parquet") for at in pq.ParquetFile(path).read(["scored_at"])[0].to_pylist()
    )
    return [(at, k + 1) for k, at in enumerate(times)]


def ask_machine(folder: Path) -> dict[str, object]:
    """The GPU's name, empty where torch has none, and versions of libraries. Raises PartFailedError."""
    return watch((sys.executable, "-c", ASK), folder / "logs" / "machine.log", 120, {}).answer


def stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    options = parse_options()
    signal.signal(signal.SIGTERM, stop)
    folder = options.folder.absolute()
    end = time.monotonic() + 60 * options.minutes
    try:
        machine = ask_machine(folder)
    except PartFailedError as error:
        sys.exit(f"torch, torchvision and Ray are needed: asking for the machine {error}")
    device = options.device or ("cuda" if machine["gpu"] else "cpu")
    bench = Bench(folder, options.sizes, options.files, device, options.photographs.absolute())
    head = describe_machine(bench, machine)
    print(head, flush=True)
    try:
        for part in bench.list_parts():
            if part.name not in options.parts:
                continue
            left_s = end - time.monotonic()
            if left_s < LEAST_S:
                bench.note(f"{part.size} {part.name}: not begun, as the time is up; --minutes gives more")
                continue
            bench.measure(part, min(left_s, 60 * options.minutes * SHARE_OF_TIME))
            write_figures(options.json, bench, machine)
    except KeyboardInterrupt:
        bench.note("interrupted; what follows is what was reached")
    finally:
        print(f"\n{head}\n\n{make_table(bench.figures)}\n")
        print(*(f"- {sentence}" for sentence in bench.missing), sep="\n")


def describe_machine(bench: Bench, machine: dict[str, object]) -> str:
    versions = machine["versions"]
    assert isinstance(versions, dict)
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    what = "A stand-in without a GPU: its figures say nothing of one" if bench.is_stand_in else machine["gpu"]
    return f"{what}; {count_cores()} cores, {libraries}"


def write_figures(path: Path | None, bench: Bench, machine: dict[str, object]) -> None:
    if path:
        found = {
            "device": bench.device, "cores": count_cores(), **machine, "figures": bench.figures,
            "missing": bench.missing,
        }  # fmt: skip
        path.write_text(json.dumps(found, indent=1))


PARTS = ("draw", "gpu", "recipe", "probs", "agreement", "cores", "cpu", "jpeg")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="files and runs")
    parser.add_argument("--files", type=int, help="of each size; default: by cores, disk and memory")
    parser.add_argument("--sizes", nargs="+", default=list(FILES_PER_CORE), metavar="WxH")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where torch has it")
    parser.add_argument("--photographs", type=Path, default=PHOTOGRAPHS, help="real JPEGs, at any depth")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
