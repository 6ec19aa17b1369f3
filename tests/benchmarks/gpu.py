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
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.gpu_files import count_cores
from tests.benchmarks.gpu_parts import FILES_PER_CORE, Setup
from tests.benchmarks.gpu_table import Figures, describe, make_table
from tests.benchmarks.gpu_watch import PartFailedError, watch

FOLDER = Path(".bench/gpu")
PHOTOGRAPHS = Path("../shared/data")
LEAST_S = 15.0
"""A part that has less is not begun."""
SHARE_OF_TIME = 0.25
"""No part takes more of the whole time."""
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
    """What was found so far."""

    setup: Setup
    sizes: list[str]
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """A sentence for each part without figures."""
    has_failed: bool = False

    def list_parts(self) -> Iterator[Part]:
        """All parts, the most important first."""
        setup = self.setup
        for size in self.sizes:
            yield Part("draw", size, partial(setup.draw, size))
            yield Part("gpu", size, partial(setup.score, size, "gpu"))
            yield Part("recipe", size, partial(setup.run_recipe, size))
        for size in self.sizes:
            yield Part("probs", size, partial(setup.find_ceiling, size, "probs"))
        yield Part("agreement", self.sizes[-1], setup.compare)
        for size in self.sizes:
            yield Part("cores", size, partial(setup.find_ceiling, size, "cores"))
            yield Part("cpu", size, partial(setup.score, size, "cpu"))
        for size in self.sizes:
            yield Part("jpeg", size, partial(setup.find_ceiling, size, "jpeg"))

    def note(self, sentence: str) -> None:
        print(f"    {sentence}", flush=True)
        self.missing.append(sentence)

    def fail(self, sentence: str) -> None:
        self.note(sentence)
        self.has_failed = True

    def measure_in_time(self, part: Part, end: float, most_s: float) -> None:
        """Find the figures of one part, or say why there are none."""
        left_s, title = end - time.monotonic(), f"{part.size} {part.name}"
        if left_s < LEAST_S:
            self.note(f"{title}: not begun, as the time is up; --minutes gives more")
        elif part.name not in ("draw", "agreement") and not self.figures.get(part.size):
            self.note(f"{title}: not begun, as there are no files")
        else:
            print(f"{title} (at most {min(left_s, most_s):.0f} s)", flush=True)
            self.measure(part, title, min(left_s, most_s))

    def measure(self, part: Part, title: str, limit_s: float) -> None:
        began = time.monotonic()
        try:
            found = part.measure(limit_s)
        except PartFailedError as error:
            self.fail(f"{title}: {error}")
        except Exception as error:  # of this benchmark itself: it costs no other figures
            traceback.print_exc()
            self.fail(f"{title}: {error!r}")
        else:
            if found.get("photographs") == 0:
                self.note(f"{title}: no photographs at {self.setup.photographs}; see --photographs")
            self.figures.setdefault(part.size, {}).update(found)
            print(f"    in {time.monotonic() - began:.1f} s", *describe(found), sep="\n    ", flush=True)


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
    setup = Setup(folder, device, options.files, options.photographs.absolute(), options.ceiling_s)
    bench = Bench(setup, options.sizes)
    head = describe_machine(setup, machine)
    print(head, flush=True)
    try:
        for part in bench.list_parts():
            if part.name in ("draw", *options.parts):
                bench.measure_in_time(part, end, 60 * options.minutes * SHARE_OF_TIME)
                write_figures(options.json, bench, machine)
    except KeyboardInterrupt:
        bench.fail("interrupted; this is what was reached")
    print(f"\n{head}\n\n{make_table(bench.figures)}\n")
    print(*(f"- {sentence}" for sentence in bench.missing), sep="\n")
    sys.exit(int(bench.has_failed))


def describe_machine(setup: Setup, machine: dict[str, object]) -> str:
    versions = machine["versions"]
    assert isinstance(versions, dict)
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    what = "A stand-in without a GPU: its figures say nothing of one" if setup.is_stand_in else machine["gpu"]
    return f"{what}; {count_cores()} cores, {libraries}"


def write_figures(path: Path | None, bench: Bench, machine: dict[str, object]) -> None:
    if path:
        found = {
            "device": bench.setup.device, "cores": count_cores(), **machine, "figures": bench.figures,
            "missing": bench.missing,
        }  # fmt: skip
        path.write_text(json.dumps(found, indent=1) + "\n")


PARTS = ("gpu", "recipe", "probs", "agreement", "cores", "cpu", "jpeg")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="files and runs")
    parser.add_argument("--files", type=int, help="of each size; default: by cores, disk and memory")
    parser.add_argument("--sizes", nargs="+", default=list(FILES_PER_CORE), metavar="WxH")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where torch has it")
    parser.add_argument("--photographs", type=Path, default=PHOTOGRAPHS, help="real JPEGs, at any depth")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--ceiling-s", type=float, default=5.0, help="seconds for each part alone")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
