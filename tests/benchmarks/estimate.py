"""`maskbatch estimate` against the run that it speaks of: whole wall times, which may differ by 25 %.

    python -m tests.benchmarks.estimate                              4,000 JPEGs of 1920x1080, some 2 minutes
    python -m tests.benchmarks.estimate --size 640x480 --images 2000 --repeat 3

The machine should be as free during both: its load is printed. The files are those of
tests/benchmarks/score.py, kept in .bench/ for the next call.
"""

import argparse
import json
import os
import shutil
import sys

from maskbatch.estimate.cost import RANGE
from tests.benchmarks.score import CASES, FOLDER, make_files, measure


def compare(size: str, num_images: int) -> float:
    """Estimated / real wall time of one size, both measured now."""
    files, out = make_files(size, num_images), FOLDER / "run"
    command = [sys.executable, "-m", "maskbatch"]
    _, text, _, _ = measure([*command, "estimate", str(files), "--json"])
    made = json.loads(text)
    shutil.rmtree(out, ignore_errors=True)
    real_s, text, _, _ = measure([*command, "score", str(files), "--out", str(out), "--json"])
    timings = json.loads(text)["timings_s"]
    sampled = sum(made["calibration"]["statuses"].values())
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in made["seconds"].items())
    found = ", ".join(f"{name} {seconds:.1f}" for name, seconds in timings.items())
    ratio = made["hours"] * 3600 / real_s
    print(f"\n{num_images:,} files of {size}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"estimated {made['hours'] * 3600:.1f} s from {sampled:,} images ({phases})")
    print(f"real      {real_s:.1f} s ({found})")
    print(f"estimated / real: {ratio:.2f}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="1920x1080", choices=list(CASES))
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    ratios = [compare(options.size, options.images) for _ in range(options.repeat)]
    if not all(1 / (1 + RANGE) <= ratio <= 1 + RANGE for ratio in ratios):
        sys.exit(f"more than {RANGE:.0%} off")


if __name__ == "__main__":
    main()
