"""Small real pictures, archives and runs that the tests of this folder share."""

import hashlib
import io
import json
import os
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejpeg
from PIL import ExifTags, Image

from maskbatch import runner, schema
from maskbatch.config import DECODE_RULES, JobConfig, PlanConfig, ScoreConfig
from maskbatch.decode.images import Decode, Picture, Shape, decode_image
from maskbatch.decode.triage import sort_images
from maskbatch.drawing.gate import Gate, draw_snapshot
from maskbatch.drawing.scene import HEADS, Lobby, Person, draw_scene
from maskbatch.errors import ImageError
from maskbatch.model.card import Card, DetectorCard, Preset
from maskbatch.model.checkpoint import Checkpoint, open_networks
from maskbatch.plan.listing import Listing
from maskbatch.plan.shards import Crew
from maskbatch.runs import staging
from maskbatch.runs.begin import begin_scoring
from maskbatch.runs.commit import Effort, commit_run
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from maskbatch.runs.records import CommittedFile, RunSettings, Success, UsedCheckpoint, UsedDetector
from maskbatch.runs.request import Request
from maskbatch.runs.work import Work, make_work
from maskbatch.schema import SIZE_BANDS
from maskbatch.score.networks import Networks, Pixels, decode_pixels, picture_shape
from maskbatch.score.shard import read_shard
from maskbatch.stores.access import Access
from maskbatch.stores.files import Location, list_names, write_json, write_whole
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

CLASSES = ("with_mask", "without_mask", "incorrect_mask", "no_face")
SIZE = (32, 32)
LAYOUT = "{site}/{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg"
NOW = datetime(2026, 11, 15, tzinfo=UTC)


def make_card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "architecture": "mobilenet_v3_small",
        "classes": CLASSES,
        "compliant": ("with_mask",),
        "not_assessed": ("no_face",),
        "input_size": SIZE,
        "mean": (0.5, 0.45, 0.4),
        "std": (0.25, 0.25, 0.3),
        "review_threshold": 0.6,
        "confusion": ((9, 1, 0, 0), (0, 8, 1, 1), (1, 1, 8, 0), (0, 0, 0, 10)),
    }
    return Card(**(values | changes))


def make_detector_card(**changes: Any) -> DetectorCard:
    values: dict[str, Any] = {
        "architecture": "centerface",
        "input_px": 960,
        "threshold": 0.3,
        "nms_iou": 0.3,
        "min_face_px": 24,
        "recall": {name: [[8, 10]] * len(SIZE_BANDS) for name in CLASSES[:3]},
    }
    return DetectorCard(**(values | changes))


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def describe_decoding(data: bytes, preset: Preset, max_pixels: int = 10**6) -> str:
    """`ok`, or `status: sentence`."""
    try:
        decode_image(data, preset, max_pixels)
    except ImageError as error:
        return f"{error.status}: {error.message}"
    return "ok"


def draw(seed: int = 0, size: tuple[int, int] = (160, 120), label: str = "with_mask") -> Image.Image:
    rng = np.random.default_rng(seed)
    return draw_snapshot(label, Gate.draw_lots(rng), rng, size=size)


def decode_roughly(_: int, data: bytes, shape: Shape, max_pixels: int) -> Picture:
    """As the GPU's decoder does: JPEGs by other arithmetic, and with no word on damage inside of them."""
    if data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9"):
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, strict=False)
        data = encode(Image.fromarray(pixels), "BMP")
    return decode_image(data, shape, max_pixels)


def speckle(seed: int, size: tuple[int, int] = (48, 36)) -> bytes:
    """A small sound JPEG that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return encode(coarse.resize(size), quality=90)


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_month(root: Path) -> Path:
    """102 images of three cameras over three local days: 98 sound, 4 bad, 2 of unknown time, and a note."""
    times = [(day, hour, i) for day in (1, 2, 3) for hour in (0, 9, 21) for i in range(11)]
    cameras = ("north/gate-1", "north/gate-2", "south/dock")
    files = {
        f"{cameras[k % 3]}/2026-10-{day:02d}/{hour:02d}30{i:02d}.jpg": speckle(k)
        for k, (day, hour, i) in enumerate(times)
    }
    names = list(files)
    files[names[5]] = files[names[5]][:700]
    files[names[40]] = b"no image at all"
    files[names[77]] = b""
    files |= {"extra/late.jpg": speckle(900), "extra/later.jpg": speckle(901), "notes.txt": b"hello"}
    write_files(root, files)
    os.symlink("nowhere.jpg", root / "south" / "gone.jpg")
    return root


def write_lobby(root: Path) -> Path:
    """24 scenes of two cameras on two days, with 0 to 3 people near enough to assess, and one behind them."""
    labels, rng = ("with_mask", "without_mask", "incorrect_mask"), np.random.default_rng(4)
    lobby = Lobby.draw_lots((640, 360), rng)
    for k in range(24):
        places = [(0.5 * (i - 1) + rng.uniform(-0.1, 0.1), rng.uniform(1.2, 1.6)) for i in range(k % 4)]
        people = [
            Person(label=labels[(k + i) % 3], x=x, z=z, head_y=1.6, head=1.7 / HEADS, seed=9 * k + i)
            for i, (x, z) in enumerate([*places, *([(0.9, 4.5)] if k % 4 else [])])
        ]
        picture, _ = draw_scene(people, lobby, rng)
        path = root / f"north/lobby-{k % 2 + 1}/2026-10-{k % 3 + 1:02d}/{k // 2 + 7:02d}0000.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
    return root


@dataclass(frozen=True)
class Run:
    """A run directory, what its workers knew, and how it is committed."""

    run: RunDir
    work: Work

    def commit(self, max_error_rate: float = 0.05) -> Success:
        devices = Counter({"cpu/float32": self.work.num_shards})
        effort = Effort(began=time.monotonic(), devices=devices, timings_s={"plan": 1.0})
        with Lease(self.run) as lease:
            return commit_run(self.work, effort, max_error_rate, lease)

    def copy(self, out: Location, options: StorageOptions = NO_OPTIONS) -> "Run":
        source = Path(self.run.path)
        for path in filter(Path.is_file, source.rglob("*")):
            with write_whole(out / path.relative_to(source).as_posix()) as partial:
                partial.write_bytes(path.read_bytes())
        access = replace(self.work.access, options=options)
        return Run(RunDir.at(str(out), options), replace(self.work, out=str(out), access=access))


def edit_json(path: Location, **changes: Any) -> None:
    """Change values of run.json or _SUCCESS."""
    write_json(path, json.loads(path.read_bytes()) | changes)


def write_rows(path: Location, table: pa.Table) -> None:
    """Put `table` in the place of a Parquet file, on a disk or in a store."""
    with write_whole(path) as partial:
        pq.write_table(table, partial)


def read_scores(run: RunDir) -> pa.Table:
    """Every row below scores/, listed by _SUCCESS or not, by id, without its partition."""
    paths = [
        run.scores / day / name for day in list_names(run.scores) for name in list_names(run.scores / day)
    ]
    tables = [pq.read_table(pa.BufferReader(path.read_bytes())) for path in paths]
    return pa.concat_tables(tables).sort_by("id")


def stage_run(
    out: Path,
    archive: Path,
    checkpoint: Checkpoint,
    *,
    layout: str | None = LAYOUT,
    view: str = "face",
    detector: str | None = None,
    decoder: str = "cpu",
    decode: Decode | None = None,
    **filters: Any,
) -> Run:
    """Plan, decode, score and stage `archive` by the real functions, in shards of 32; not committed.

    `decode` takes the place of `decode_image`. With the decoder `gpu`, and without it, a device decodes, in
    whose place the CPU is.
    """
    config = PlanConfig(archives=(str(archive),), layout=layout, timezone=("Europe/Paris",), **filters)
    runner.plan_archive(config, str(out))
    run, score = RunDir.at(str(out)), ScoreConfig(dtype="float32", view=view, decoder=decoder)
    _, finder = open_networks(checkpoint.path, detector, view)
    request = Request(plan=config, access=Access(), score=score, checkpoint=checkpoint, detector=finder)
    with Lease(run) as lease:
        settings = begin_scoring(run, run.read_run(), request, JobConfig(), lease, Crew())
    work = replace(make_work(run, settings, request), shard_size=32)
    networks = Networks(checkpoint, finder, score, device="cpu")
    for shard in range(work.num_shards):
        stage_shard(work, shard, networks, decode)
    return Run(run, work)


def stage_shard(work: Work, shard: int, networks: Networks, decode: Decode | None = None) -> dict[str, int]:
    """Read, decode, score and stage one shard; its images by status."""
    planned, encoded = read_shard(work, shard)
    preset, config = networks.card.preset, work.config
    pixels: Pixels
    if config.decoder == "gpu" and not decode:
        pixels = sort_images(encoded, picture_shape(preset, config), config.max_pixels)
    else:
        pixels = decode_pixels(encoded, len(planned), preset, config, decode)
    table = networks.score(planned, pixels, work.clock, work.keep_column)
    return staging.write_shard(work.run.staging, shard, table, "cpu/float32", work.run_id)


def with_exif_time(time: str, offset: str | None = None) -> bytes:
    """A sound JPEG that its camera says it took at `time`."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = time
    if offset:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = offset
    return encode(draw(1), exif=exif)


def make_tar(files: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def make_zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return sink.getvalue()


def commit_scenes(
    out: Path,
    pictures: Sequence[Mapping[str, Any]],
    card: Card | None = None,
    detector: DetectorCard | None = None,
    detect_px: int = 960,
    detector_digest: str = "d" * 64,
) -> RunDir:
    """A committed run of whole scenes with these rows, without an archive behind them.

    A picture has a `time` (local) and `faces`, each with a `box` and a `label` (None: too small), and may have
    other values of its columns; so may a face.
    """
    card, detector = card or make_card(), detector or make_detector_card()
    rows = [row for k, picture in enumerate(pictures) for row in _make_scene_rows(k, picture, card)]
    table = pa.Table.from_pylist(rows, schema.scores(card.classes, view="scene"))
    statuses = Counter(row["status"] for row in rows if row["region"] == 0)
    settings = RunSettings(
        created_at=NOW,
        plan=PlanConfig(archives=(str(out.parent / "archive"),), timezone=("UTC",)),
        versions={},
        listing=Listing(num_images=len(pictures)),
        score=ScoreConfig(view="scene", detect_px=detect_px),
        job=JobConfig(),
        checkpoint=UsedCheckpoint("tiny", "c" * 64, json.loads(json.dumps(asdict(card)))),
        detector=UsedDetector("detector", detector_digest, json.loads(json.dumps(asdict(detector)))),
        shard_size=64,
        decode_rules=DECODE_RULES,
    )
    run, days, files = RunDir.at(str(out)), schema.local_days(table), []
    write_json(run.run_json, settings.to_json())
    for day in sorted(days.unique().to_pylist()):
        part = table.filter(pc.equal(days, day))
        path = run.scores / f"date={day}/part-{0:012d}.parquet"
        write_rows(path, part)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        files.append(CommittedFile(f"scores/date={day}/{path.name}", len(part), len(data), digest))
    success = Success(
        planned=len(pictures), statuses=dict(statuses), max_error_rate=0.05, committed_at=NOW, exit_code=0,
        devices={}, timings_s={"whole": 1.0}, files=tuple(files),
    )  # fmt: skip
    write_json(run.success, success.to_json())
    return run


def _make_scene_rows(number: int, picture: Mapping[str, Any], card: Card) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(number)
    time, faces = picture["time"], sorted(picture["faces"], key=lambda face: tuple(face["box"]))
    own = {name: value for name, value in picture.items() if name not in ("time", "faces")}
    shared = {
        "id": number, "uri": f"file:///archive/{number}.jpg", "site": "north", "camera": "lobby",
        "captured_at": time, "captured_local": time, "time_source": "path", "status": "ok", "width": 1920,
        "height": 1080, "needs_review": False,
    }  # fmt: skip
    of_picture = {
        "region": 0, "num_bytes": 1, "sha256": hashlib.sha256(str(own.get("uri", number)).encode()).hexdigest(),
        "brightness": 0.5, "contrast": 0.2, "sharpness": 200.0, "dhash": rng.bytes(8), "num_faces": len(faces),
        "num_faces_left_out": 0,
    }  # fmt: skip
    yield shared | of_picture | own
    shared |= {name: value for name, value in own.items() if name in shared}
    for region, face in enumerate(faces, 1):
        confidence = 0.9 if face["label"] else None
        probs = {f"prob_{name}": 0.9 if name == face["label"] else 0.03 for name in card.classes}
        of_face = {
            "region": region,
            "face_confidence": 0.8,
            "confidence": confidence,
            **(probs if confidence else {}),
        }
        yield shared | {"brightness": 0.5, "contrast": 0.2, "sharpness": 200.0} | of_face | dict(face)
