"""Score single images with a run's own reader, decoder and classifier, in this process and without Ray.

URLs are those of a run's scores, members of tar, zip and Parquet files included. Paths are taken literally.
"""

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.archives import arguments, reader
from maskbatch.archives.entries import Entry
from maskbatch.archives.tally import Tally
from maskbatch.clock import Clock, now
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.decode.images import Decoded, Picture, Shape, Whole
from maskbatch.decode.sandbox import open_sandbox
from maskbatch.decode.source import Encoded
from maskbatch.errors import ImageError, MaskbatchError, UsageError
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import Checkpoint, DetectorFile, open_networks
from maskbatch.predict.boxes import CROP_PX
from maskbatch.predict.result import Face, Prediction, Predictions
from maskbatch.progress import step
from maskbatch.review.pictures import fit
from maskbatch.score.networks import Networks, decode_pixels
from maskbatch.score.read import READ_COLUMNS, read_images
from maskbatch.score.scene import Frame, cut_face, frame_shape
from maskbatch.stores.access import Access
from maskbatch.stores.files import explain
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import (
    SCHEME,
    Place,
    Texts,
    decode_name,
    list_texts,
    locate,
    parse_argument,
    redact,
)

MEMBER = re.compile(r"(tar|zip|parquet)://(.*?)::(.*)", re.DOTALL)
MOST_ENLARGED = 3
"""Times that a small scene is enlarged to be seen."""
BATCH_SIZE = 32
"""Images predicted at a time."""
QUIET_IMAGES = 64
"""No progress bar for so many images or fewer."""


class Predictor:
    """A checkpoint, for whole scenes with a detector, that is loaded once for any number of images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ScoreConfig,
        job: JobConfig = JobConfig(),  # noqa: B008  frozen
        *,
        detector: DetectorFile | None = None,
    ) -> None:
        """`detector` goes with the view `scene`, as `open_networks` opens it. The CPU decodes, always."""
        self._sandbox = open_sandbox(job.decode_timeout_s)
        self.card: Card = checkpoint.card
        self.path, self.digest, self.config = (
            checkpoint.path,
            checkpoint.digest,
            replace(config, decoder="cpu"),
        )
        self.detector = detector
        self._networks = Networks(checkpoint, detector, config)

    def predict(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """One prediction an image, in order and without a uri; bit for bit a run's on one kind of device."""
        pixels = decode_pixels(
            encoded, len(encoded), self.card.preset, self.config, lambda _, *image: self._decode(*image)
        )
        inputs = (
            pixels.images_NHWC if isinstance(pixels, Decoded) else np.zeros((len(encoded), 0, 0, 3), np.uint8)
        )
        plan_rows = [{"id": number, "uri": "", "encoding": "raw"} for number in range(len(encoded))]
        plan = pa.Table.from_pylist(plan_rows, schema.PLAN)
        rows = self._networks.score(plan, pixels, Clock.parse((), now())).to_pylist()
        images = groupby(rows, key=itemgetter("id"))
        return [self._read(list(rows), pixels) for (_, rows), pixels in zip(images, inputs, strict=True)]

    def _decode(self, data: bytes, shape: Shape, max_pixels: int) -> Picture:
        return self._sandbox.decode(data, shape, max_pixels)

    def _read(self, rows: Sequence[dict[str, Any]], model_input: NDArray[np.uint8]) -> Prediction:
        """What the rows of one image say: its own, and of a scene those of its faces."""
        image, *faces = rows
        names = ("uri", "status", "error", "label", "confidence", "needs_review", "width", "height")
        values = {name: image[name] for name in names}
        if self.detector:
            values["faces"] = tuple(map(self._read_face, faces))
            values["num_faces_left_out"] = image["num_faces_left_out"] or 0
        return Prediction(**values, probs=self._read_probs(image), model_input=model_input)

    def _read_face(self, row: dict[str, Any]) -> Face:
        names = ("face_confidence", "label", "confidence", "needs_review")
        values = {name: row[name] for name in names}
        return Face(**values, box=tuple(row["box"]), probs=self._read_probs(row))

    def _read_probs(self, row: dict[str, Any]) -> dict[str, float] | None:
        return {name: row[f"prob_{name}"] for name in self.card.classes} if row["label"] else None

    def draw(self, prediction: Prediction, data: bytes | None, box_px: tuple[int, int]) -> Prediction:
        """The prediction with its picture, at most as large as `box_px` (W, H), and its faces cut out.

        Without `data`, or where that cannot be decoded, nothing is drawn.
        """
        detect = self.config.detect_px
        shape = frame_shape(detect) if detect else Whole(max(box_px))
        try:
            picture = self._decode(data or b"", shape, self.config.max_pixels)
        except ImageError:
            return prediction
        if prediction.faces is None:
            return replace(prediction, thumbnail=fit(picture.image, box_px))
        box_px = (
            min(box_px[0], MOST_ENLARGED * picture.width),
            min(box_px[1], MOST_ENLARGED * picture.height),
        )
        frame = Frame(picture.image, (picture.width, picture.height))
        crops = (cut_face(frame, face.box, self.card.preset) for face in prediction.faces)
        faces = tuple(
            replace(face, crop=fit(crop, (CROP_PX, CROP_PX)))
            for face, crop in zip(prediction.faces, crops, strict=True)
        )
        return replace(prediction, thumbnail=fit(picture.image, box_px), faces=faces)


def predict_images(
    images: Texts,
    score: ScoreConfig = ScoreConfig(),  # noqa: B008  frozen
    job: JobConfig = JobConfig(),  # noqa: B008  frozen
    *,
    checkpoint: str | None = None,
    detector: str | None = None,
    allow_prefix: Sequence[str] = (),
    options: StorageOptions = NO_OPTIONS,
    box_px: tuple[int, int] | None = None,
    zip_encoding: str | None = None,
) -> Predictions:
    """What a checkpoint says of `images`: paths, URLs, or members as a run names them.

    checkpoint: a path; None is the packaged one. detector: a path or `yunet_n`, with `view="scene"`; None is
    the packaged one. allow_prefix: where web servers may redirect to. box_px: (W, H) that each thumbnail fits
    in. zip_encoding: that of the run that names the members. Raises UsageError for a checkpoint or detector
    that cannot be used, for a URL that names nothing, and for a single folder or container.
    """
    images = list_texts(images)
    entries = [_parse_image(image) for image in images]
    if len(entries) == 1 and entries[0].status:
        remedy = f"maskbatch score {redact(images[0])} --out OUT scores everything in it"
        raise UsageError(f"image {redact(images[0])}: {entries[0].error}; {remedy}")
    access = _open_access(entries, allow_prefix, options, job)
    opened, finder = open_networks(checkpoint, detector, score.view)
    predictor = Predictor(opened, score, job, detector=finder)
    entries = _find_members(entries, access, zip_encoding)
    # Neighbours in a container share a request, and the rows of a Parquet file are only read forwards.
    places = [(entry.container or "", entry.offset or 0, entry.length or 0) for entry in entries]
    order = sorted(range(len(entries)), key=places.__getitem__)
    plan_rows = [{name: getattr(entries[i], name) for name in READ_COLUMNS} for i in order]
    encoded, predictions = read_images(plan_rows, access, score.max_bytes), dict[int, Prediction]()
    with step("predict", len(images)) if len(images) > QUIET_IMAGES else nullcontext() as progress:
        for start in range(0, len(order), BATCH_SIZE):
            batch = list(islice(encoded, BATCH_SIZE))
            for i, item, prediction in zip(order[start:], batch, predictor.predict(batch), strict=False):
                entry, error = entries[i], prediction.error
                if prediction.status == "missing" and not (entry.status or entry.container):
                    error = "no such file"
                if box_px and prediction.width:
                    prediction = predictor.draw(prediction, item.data, box_px)
                predictions[i] = replace(prediction, uri=entry.uri, error=error)
            if progress:
                progress.advance(len(batch))
    in_order = [predictions[i] for i in range(len(images))]
    used = (finder.path, finder.digest) if finder else ()
    return Predictions(predictor.path, predictor.digest, predictor.card.classes, in_order, *used)


def _open_access(
    entries: Sequence[Entry], allow_prefix: Sequence[str], options: StorageOptions, job: JobConfig
) -> Access:
    """As in a run; a web server in `entries` may redirect anywhere within itself, and to https."""
    web = {
        f"{scheme}://{uri.split('/')[2]}/"
        for uri in (entry.container or entry.uri for entry in entries)
        if uri.startswith("http")
        for scheme in ("https", uri.partition("://")[0])
    }
    config = PlanConfig(archives=(), allow_prefix=(*allow_prefix, *sorted(web)))
    return arguments.make_access(config, options, job)


def _parse_image(image: str) -> Entry:
    """The entry of an image, of a member to look up, or, with a status, of a folder. Raises UsageError."""
    member = MEMBER.fullmatch(image)
    place = _parse_place(member[3] if member else image)
    web, local = place.root.startswith("http"), Path(place.path) if place.root == SCHEME else None
    if local and local.exists() and not (local.is_file() or local.is_dir()):  # reading a pipe may never end
        raise UsageError(f"image {redact(image)}: a pipe or device, not a file; copy the image to a file")
    uri = place.uri if web or place.root == SCHEME else place.root + place.path
    kind = os.path.splitext(place.path)[1].lower()
    if member:
        if kind != f".{member[1]}" or place.fetch:
            expected = f"expected a .{member[1]} file after `::`, without a query or a password"
            raise UsageError(f"image {redact(image)}: {expected}; check it, or copy the file here")
        return Entry(uri=f"{member[1]}://{member[2]}::{uri}", relative=member[2], container=uri)
    folder = local.is_dir() if local else place.path.endswith("/") and not web
    if folder or kind in arguments.CONTAINERS:
        error = f"{'a folder' if folder else f'a {kind}'}, not one image"
        return Entry(uri=uri, relative=uri, status="unsupported", error=error)
    return Entry(uri=uri, relative=uri, fetch=place.fetch)


def _parse_place(text: str) -> Place:
    if not text:
        raise UsageError("image (empty): a path or URL expected")
    try:
        return locate(text) if "://" in text else parse_argument(text)
    except ValueError as error:
        raise UsageError(f"image {redact(text)} {error}") from error


def _find_members(entries: Sequence[Entry], access: Access, zip_encoding: str | None) -> list[Entry]:
    """The entries, with the place of each member in its container, or the reason why it has none."""
    wanted = {entry.uri for entry in entries if entry.container}
    containers = dict.fromkeys(entry.container for entry in entries if entry.container)
    members = {name: _list_members(name, wanted, access, zip_encoding) for name in containers}
    found = []
    for entry in entries:
        if entry.container:
            own = members[entry.container]
            entry = replace(own.get(entry.uri) or own[""], uri=entry.uri)
        found.append(entry)
    return found


def _list_members(
    container: str, wanted: set[str], access: Access, zip_encoding: str | None
) -> dict[str, Entry]:
    """The wanted entries of a container by uri; at "" the entry of any member that it does not have."""
    name = container if container.startswith("http") else os.fsdecode(decode_name(container))
    missing = Entry(uri="", relative="", status="missing", error="its container has nothing of that name")
    members = {"": missing}
    try:
        archives = (name.removeprefix(SCHEME),)
        config = PlanConfig(archives=archives, include_hidden=True, zip_encoding=zip_encoding)
        sources = arguments.find_sources(config, access)
        for entry in reader.list_entries(sources, config, access, Tally()):
            if entry.uri in wanted:
                members[entry.uri] = entry
            elif entry.uri == container:  # the row that says what is wrong with the container itself
                members[""] = entry
    except (MaskbatchError, OSError) as error:
        members[""] = replace(missing, status="read_error", error=explain(error))
    return members
