"""Teach it again, on the photographs of ../shared: a weak checkpoint, 200 corrections, and what they bring.

    python -m tests.benchmarks.teach                    some minutes; all of it is kept in .bench/teach
    python -m tests.benchmarks.teach --corrections 400

A checkpoint is trained on few photographs; the job scores an archive of others (no near-duplicate in common);
people's judgements are simulated from the labels, in the order of the queue; `finetune --corrections` says
what they taught. What it cannot know, the truth of every image that nobody judged, is measured beside it.
The same with labels drawn at random, which teach nothing: one such training in forty at most is called better,
by chance. What more epochs alone bring is measured too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbatch.errors import ALERT, DONE
from maskbatch.review import corrections
from maskbatch.review.queue import read_queue
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.stores.uris import local_path
from tests.benchmarks.score import FOLDER
from tests.conftest import SHARED
from tests.real_faces import LAYOUT, lay_out

HERE = (FOLDER / "teach").absolute()
CLASSES = ("with_mask", "without_mask", "incorrect_mask")
A_CLASS = 60
"""Photographs of each class that the weak checkpoint learns from."""
NUM_ARCHIVE = 2399
"""A prime, so that `lay_out` gives no two of them one time."""
PX = 96
RECIPE = {
    "classes": list(CLASSES), "drop": ["no_face"], "not_assessed": [], "input_px": PX, "stored_px": 112,
    "shares": "{}", "epochs": 6, "samples_per_epoch": 768, "batch_size": 32, "ema_decay": 0.98, "notes": "",
}  # fmt: skip
WEIGHTS = SHARED / "weights" / "mobilenet_v2_imagenet.safetensors"


def run(*command: object, expected: tuple[int, ...] = (DONE,)) -> str:
    """stdout of a command of this environment; what it says goes to the terminal."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, text=True)
    print(f"{command[0]}: exit code {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode not in expected:
        sys.exit(f"one of the exit codes {expected} expected")
    return done.stdout


def photographs() -> pd.DataFrame:
    """The labelled photographs: file, label, cluster, suspect, split; in a random order of their clusters."""
    table = pd.read_csv(SHARED / "data" / "faces" / "manifest.csv", dtype=str)
    table["split"] = table["file"].str.split("/").str[0]
    clusters = pd.Series(table["cluster"].unique()).sample(frac=1, random_state=1)
    return table.set_index("cluster").loc[clusters].reset_index()


def make_data(table: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    """The manifest that the weak checkpoint learns from and is measured on, and the photographs of the archive."""
    train = table[(table["split"] == "train") & (table["suspect"] == "0")]
    few = train.groupby("label").head(A_CLASS)
    own = pd.concat([few, table[table["split"] == "val"]])
    others = table[~table["cluster"].isin(own["cluster"]) & (table["split"] != "val")]
    manifest = HERE / "data.csv"
    uris = str(SHARED / "data" / "faces") + "/" + own["file"]
    own.assign(uri=uris).drop(columns=["file", "source"]).to_csv(manifest, index=False)
    return manifest, others.head(NUM_ARCHIVE)


def make_archive(photos: pd.DataFrame) -> dict[str, str]:
    """Lay photographs out as cameras and days; the label of each by its path below the archive."""
    for row in photos.itertuples():
        link = HERE / "photos" / row.label / row.file.replace("/", "-")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(SHARED / "data" / "faces" / row.file)
    return lay_out(HERE / "photos", HERE / "archive")


def relative(uri: str) -> str:
    return os.path.relpath(local_path(uri).decode(), HERE / "archive")


def judge(num: int, labels: Mapping[str, str], folder: Path) -> set[str]:
    """The first `num` images of the queue get the label of `labels`; returns them."""
    queue = read_queue(HERE / "run" / "report").slice(0, num).to_pylist()
    for row in queue:
        values = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
        said = {"region": 0, "label": labels[relative(row["uri"])], "was": row["label"], "by": "simulated"}
        corrections.write_judgement(folder, values | said)
    return {relative(row["uri"]) for row in queue}


def finetune(data: Path, out: str, *more: object, expected: tuple[int, ...] = (DONE,)) -> Path:
    changes = [it for key, value in RECIPE.items() for it in ("--set", f"{key}={_toml(value)}")]
    command = ["training.finetune", "--recipe", "default", *changes, "--data", data, "--out", HERE / out]
    run(*command, "--device", "cpu", *more, expected=expected)
    return HERE / out / "checkpoint.safetensors"


def _toml(value: object) -> str:
    return value if value == "{}" else json.dumps(value)


def unjudged(judged: set[str], truth: Mapping[str, str], old: Path, new: Path) -> dict[str, Any]:
    """Both checkpoints on every image of the archive that nobody judged."""
    rest = [(HERE / "archive" / name, label) for name, label in truth.items() if name not in judged]
    file = HERE / "unjudged.csv"
    pd.DataFrame(rest, columns=["uri", "label"]).assign(split="val").to_csv(file, index=False)
    command = ["training.evaluate", "--checkpoint", old, "--checkpoint", new, "--data", file]
    found: dict[str, Any] = json.loads(run(*command))
    return found


def show(name: str, old: float, new: float, num: int, p: float | None = None) -> None:
    print(f"{name:<40} {num:>6,} {old:>8.3f} {new:>8.3f}" + (f"   p = {p:.4f}" if p is not None else ""))


def report(name: str, folder: str, beyond: Mapping[str, Any]) -> None:
    found = json.loads((HERE / folder / "comparison.json").read_text())
    print(f"\n{name}: {found['verdict']}\n{'accuracy':<40} {'num':>6} {'old':>8} {'new':>8}")
    exam, val = found["exam"], found["val"]
    lines = {"val": (val["accuracy"], val), "corrections held out": (exam["accuracy"], exam)}
    lines |= {f"  {stratum}": (it, {"num": it["num"]}) for stratum, it in exam["by_stratum"].items()}
    lines["  over the archive"] = (exam["archive"], {"num": exam["num"]})
    for title, (figures, rest) in lines.items():
        values = [figures[which]["value"] for which in ("old", "new")]
        show(title, *values, rest["num"], rest.get("p_value"))
    report_rest("images that nobody judged", beyond)


def report_rest(title: str, beyond: Mapping[str, Any]) -> None:
    figures = [it["all"] for it in beyond["checkpoints"]]
    values = [it["accuracy"]["value"] for it in figures]
    show(title, *values, figures[0]["num"], beyond["test"]["p_value"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--corrections", type=int, default=200)
    options = parser.parse_args()
    if not WEIGHTS.exists() or not (SHARED / "data" / "faces").is_dir():
        sys.exit(f"skipped: needs the photographs and weights in {SHARED}")
    began = time.monotonic()
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    data, photos = make_data(photographs())
    truth = make_archive(photos)
    old = finetune(data, "old", "--weights", WEIGHTS)
    run("maskbatch", "score", HERE / "archive", "--out", HERE / "run", "--layout", LAYOUT,
        "--checkpoint", old)  # fmt: skip
    rows = open_committed(RunDir.at(str(HERE / "run"))).num_images
    rng = np.random.default_rng(0)
    chance = {name: str(rng.choice(CLASSES)) for name in truth}
    for name, folder, labels in (
        ("corrections", "taught", truth),
        ("labels drawn at random", "random", chance),
    ):
        judged = judge(options.corrections, labels, HERE / f"judged-{folder}")
        arguments = ["--corrections", HERE / "run", "--corrections", HERE / f"judged-{folder}"]
        new = finetune(data, folder, *arguments, expected=(DONE, ALERT))
        report(name, folder, unjudged(judged, truth, old, new))
    longer = finetune(data, "longer", "--weights", old)
    report_rest("as many epochs more without corrections", unjudged(judged, truth, old, longer))
    print(f"\n{rows:,} images scored; {time.monotonic() - began:.0f} s on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
