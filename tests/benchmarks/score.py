"""`maskbatch score` against a bare loop on each core, and against Ray's documented recipe.

    make bench                                        every case, about 30 minutes on two cores
    python -m tests.benchmarks.score --cases 640x480  one case

All three read the same files with the same model, one process tree after another:

    limit      one process a core: read, decode, digest, quality, (find faces,) bf16 score, and nothing else
    maskbatch  the command line, from its start to its exit
    recipe     ray.data.read_images(size=...) -> actor pool -> write_parquet

A hundred pictures are drawn for each case; the rest differ by a JPEG comment. They are kept in .bench/ for
the next call. Whole scenes have one face and a half each, and there is no recipe for them.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(".bench")
BATCH = 64
"""A shard."""
NUM_DRAWN = 100
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Case:
    """Pictures of one size, and the flags that they are scored with."""

    size: tuple[int, int]
    count: int
    flags: tuple[str, ...] = ()

    @property
    def is_scene(self) -> bool:
        return "scene" in self.flags


SCENE = ("--view", "scene", "--detect-px", "640")
CASES = {
    "640x480": Case((640, 480), 2000),
    "1920x1080": Case((1920, 1080), 8000),
    "3840x2160": Case((3840, 2160), 300),
    "scenes": Case((1920, 1080), 1200, SCENE),
    "scenes-quick": Case((1920, 1080), 2000, (*SCENE, "--detector", "yunet_n")),
}


@dataclass
class Timing:
    """One run of one contender."""

    whole_s: float
    steady: float
    """Images per second between start-up and the end."""
    fixed_s: float
    """Start to first batch, and last batch to the end."""
    driver_mb: int
    worker_mb: int


def draw(task: tuple[Path, int, Case]) -> None:
    from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
    from maskbatch.drawing.scene import Lobby, draw_scene

    path, seed, case = task
    rng = np.random.default_rng(seed)
    if case.is_scene:
        lobby = Lobby.draw_lots(case.size, rng)
        people = lobby.gather([LABELS[seed % 3]] * (1 + seed % 2), rng)
        draw_scene(people, lobby, rng)[0].save(path, quality=88)
        return
    picture = draw_snapshot(
        LABELS[seed % 4], Gate.draw_lots(rng), rng, size=case.size, clock="2026-10-01 12:00:00"
    )
    picture.save(path, quality=88)


def make_files(name: str, count: int | None = None) -> Path:
    """The folder of the distinct JPEGs of a case, drawn once; `count` None: as many as it has."""
    case = CASES[name]
    count = count or case.count
    folder, drawn = FOLDER / name, FOLDER / f"drawn-{name}"
    drawn.mkdir(parents=True, exist_ok=True)
    tasks = [(drawn / f"{k:03d}.jpg", k, case) for k in range(NUM_DRAWN)]
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(draw, [task for task in tasks if not task[0].exists()]))
    for k in range(count):
        path = folder / f"cam-{k % 4}" / f"{k:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mark(tasks[k % NUM_DRAWN][0].read_bytes(), k))
    for path in sorted(folder.rglob("*.jpg"))[count:]:
        path.unlink()
    return folder


def mark(data: bytes, number: int) -> bytes:
    """The JPEG with a number in a comment: other bytes, the same pixels."""
    comment = f"{number:08d}".encode()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def measure(command: list[str]) -> tuple[float, str, int, int]:
    """Wall seconds, stdout, and peak resident MB of the process itself and of its largest descendant."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for pid in family(process.pid):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                peak = next(
                    (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), "0"
                )
                peaks[pid] = max(peaks.get(pid, 0), int(peak) // 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    driver = peaks.pop(process.pid, 0)
    return time.monotonic() - began, output, driver, max(peaks.values(), default=0)


def family(root: int) -> set[int]:
    """`root` and all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def limit(name: str) -> Timing:
    """The bare loop, one process a core."""
    whole, output, driver, worker = measure([sys.executable, "-m", "tests.benchmarks.score", "--loop", name])
    spans = json.loads(output)
    count = sum(span["images"] for span in spans)
    busy = max(span["ended"] for span in spans) - min(span["began"] for span in spans)
    return Timing(whole, count / busy, whole - busy, driver, worker)


def loop(name: str) -> None:
    paths = sorted((FOLDER / name).rglob("*.jpg"))
    with ProcessPoolExecutor(CORES) as pool:
        barrier_at = time.time() + 20
        shares = [(paths[k::CORES], CASES[name], barrier_at) for k in range(CORES)]
        print(json.dumps(list(pool.map(work_alone, shares))))


def work_alone(share: tuple[list[Path], Case, float]) -> dict[str, float]:
    """All of one core's images: the functions that maskbatch's worker calls, without anything around them."""
    from maskbatch.config import ScoreConfig
    from maskbatch.decode.source import Encoded
    from maskbatch.model.checkpoint import open_networks
    from maskbatch.score.networks import Networks, decode_pixels

    paths, case, barrier_at = share
    flags = dict(zip(case.flags[::2], case.flags[1::2], strict=True))
    detect_px = int(flags["--detect-px"]) if case.is_scene else None
    config = ScoreConfig(view=flags.get("--view", "face"), detect_px=detect_px)
    networks = Networks(*open_networks(None, flags.get("--detector"), config.view), config)

    def work(paths: list[Path]) -> None:
        batch = [Encoded(path.read_bytes()) for path in paths]
        pixels = decode_pixels(batch, len(batch), networks.card.preset, config)
        if networks.finder:
            networks.finder.score(pixels)
        else:
            networks.classifier.probs(pixels.images_NHWC)

    work(paths[:4])
    time.sleep(max(0, barrier_at - time.time()))  # both begin together, warm
    began = time.time()
    for i in range(0, len(paths), BATCH):
        work(paths[i : i + BATCH])
    return {"images": len(paths), "began": began, "ended": time.time()}


def maskbatch(name: str) -> Timing:
    """The command line on the same files, its run thrown away."""
    out = FOLDER / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "maskbatch", "score", str(FOLDER / name), "--out", str(out), "--json"]
    command += CASES[name].flags
    whole, output, driver, worker = measure(command)
    summary = json.loads(output)
    if summary["statuses"] != {"ok": summary["planned"]}:
        sys.exit(f"not every image is ok: {summary['statuses']}")
    timings = summary["timings_s"]
    # When the first shard is done each other worker is near the end of its own first one.
    shard_size = json.loads((out / "run.json").read_text())["shard_size"]
    steady = (summary["planned"] - CORES * shard_size) / timings["score"]
    return Timing(whole, steady, timings["whole"] - timings["score"], driver, worker)


def recipe(name: str) -> Timing:
    """Ray's documentation by the letter, with this model."""
    whole, output, driver, worker = measure(
        [
            sys.executable,
            "-m",
            "tests.benchmarks.score",
            "--recipe",
            str(FOLDER / name),
            str(FOLDER / "recipe"),
        ]
    )
    span = json.loads(output.strip().splitlines()[-1])
    return Timing(whole, span["images"] / span["busy"], whole - span["busy"], driver, worker)


def recipe_job(files: Path, out: Path, *, on_gpu: bool) -> None:
    """Score by the recipe; `out` has for each image the time at which its batch was scored."""
    import ray

    from maskbatch.model.checkpoint import open_checkpoint

    size = open_checkpoint().card.input_size

    class Predictor:
        def __init__(self) -> None:
            from maskbatch.model.classifier import Classifier

            self.model = Classifier(open_checkpoint(), dtype="auto", batch_size=64)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            probs = self.model.probs(batch.pop("image"))
            scored_at = np.full(len(probs), time.time())
            return {
                "path": batch["path"],
                "label": probs.argmax(axis=1),
                "probs": probs,
                "scored_at": scored_at,
            }

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    shutil.rmtree(out, ignore_errors=True)
    began = time.time()
    dataset = ray.data.read_images(str(files), size=size, mode="RGB", include_paths=True)
    resources, num_actors = ({"num_gpus": 1}, 1) if on_gpu else ({"num_cpus": 0.5}, CORES)
    scored = dataset.map_batches(
        Predictor, batch_size=64, compute=ray.data.ActorPoolStrategy(size=num_actors), **resources
    )
    scored.write_parquet(str(out.absolute()))
    print(json.dumps({"images": len(list(files.rglob("*.jpg"))), "busy": time.time() - began}))


def show(name: str, count: int, runs: dict[str, list[Timing]]) -> None:
    """A table of medians, and the two ratios that matter."""

    def median(contender: str, value: Callable[[Timing], float]) -> float:
        return statistics.median(value(run) for run in runs[contender])

    print(f"\n{count:,} files, {name}, {CORES} cores, median of {len(runs['maskbatch'])}\n")
    print("| | whole img/s | steady img/s | fixed s | driver MB | largest worker MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for contender in runs:
        whole = median(contender, lambda run: count / run.whole_s)
        print(
            f"| {contender} | {whole:.0f} | {median(contender, lambda run: run.steady):.0f} "
            f"| {median(contender, lambda run: run.fixed_s):.1f} "
            f"| {median(contender, lambda run: run.driver_mb):.0f} "
            f"| {median(contender, lambda run: run.worker_mb):.0f} |"
        )
    pairs = [ours.steady / bare.steady for ours, bare in zip(runs["maskbatch"], runs["limit"], strict=True)]
    print(f"\nmaskbatch / limit, steady: {statistics.median(pairs):.2f}")
    if "recipe" in runs:
        ours = median("maskbatch", lambda run: run.whole_s)
        print(f"maskbatch / recipe, whole: {median('recipe', lambda run: run.whole_s) / ours:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeat", type=int, default=2, help="runs of limit and maskbatch, in turn")
    parser.add_argument("--without-recipe", action="store_true")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--on-gpu", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop or options.recipe:
        loop(options.loop) if options.loop else recipe_job(*options.recipe, on_gpu=options.on_gpu)
        return
    for name in options.cases:
        make_files(name)
        runs: dict[str, list[Timing]] = {"limit": [], "maskbatch": []}
        for _ in range(options.repeat):
            runs["limit"].append(limit(name))
            runs["maskbatch"].append(maskbatch(name))
        if not options.without_recipe and not CASES[name].is_scene:
            runs["recipe"] = [recipe(name)]
        show(name, CASES[name].count, runs)


if __name__ == "__main__":
    main()
