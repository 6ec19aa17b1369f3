"""Score single images with a run's own reader, decoder and classifier, in this process and without Ray.

URLs are those of a run's scores, members of tar, zip and Parquet files included. Paths are taken literally.
"""

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from maskbatch import schema
from maskbatch.archives import arguments, reader
from maskbatch.archives.entries import Entry
from maskbatch.archives.tally import Tally
from maskbatch.clock import Clock, now
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import ImageError, MaskbatchError, UsageError
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.model.classifier import Classifier
from maskbatch.progress import step
from maskbatch.review.pictures import draw_upright
from maskbatch.score.read import READ_COLUMNS, Encoded, read_images
from maskbatch.score.rows import make_rows
from maskbatch.score.sandbox import open_sandbox
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
QUIET_IMAGES = 64
"""No progress bar for so many images or fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a row of scores would say of one image."""

    uri: str
    """As a plan shows it: no user-info, no query."""
    status: str
    error: str | None
    label: str | None
    confidence: float | None
    probs: dict[str, float] | None
    """By class, in the checkpoint's order; None unless the status is ok."""
    needs_review: bool
    width: int | None
    """Pixels of the source, upright."""
    height: int | None
    model_input: NDArray[np.uint8]
    """(H, W, 3) RGB, what the model saw; zeros where the image cannot be decoded."""
    thumbnail: Image.Image | None = None
    """The source, upright; None without `box_px`, or where it cannot be decoded."""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, JSON-ready."""
        pixels = ("model_input", "thumbnail")
        return {name: getattr(self, name) for name in self.__slots__ if name not in pixels}


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one checkpoint says of some images."""

    checkpoint: str
    """Its path."""
    digest: str
    """Its sha256."""
    classes: tuple[str, ...]
    images: list[Prediction]
    """In the order in which they were given."""

    def as_dict(self) -> dict[str, Any]:
        """What `maskbatch predict --json` prints."""
        values = {"checkpoint": self.checkpoint, "digest": self.digest, "classes": list(self.classes)}
        return values | {"images": [image.as_dict() for image in self.images]}


class Predictor:
    """A checkpoint that is loaded once for any number of images."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ScoreConfig,
        job: JobConfig = JobConfig(),  # noqa: B008  frozen
    ) -> None:
        self._sandbox = open_sandbox(job.decode_timeout_s)
        self.card: Card = checkpoint.card
        self.path, self.digest, self.config = checkpoint.path, checkpoint.digest, config
        self._classifier = Classifier(checkpoint, dtype=config.dtype, batch_size=config.batch_size)

    def predict(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """One prediction an image, in order and without a uri; bit for bit a run's on one kind of device."""
        decoded = self._sandbox.decode_batch(encoded, len(encoded), self.card.preset, self.config.max_pixels)
        probs_NK = self._classifier.probs(decoded.images_NHWC)
        plan_rows = [{"id": number, "uri": "", "encoding": "raw"} for number in range(len(encoded))]
        plan = pa.Table.from_pylist(plan_rows, schema.PLAN)
        rows = make_rows(plan, decoded, probs_NK, self.card, Clock.parse((), now())).to_pylist()
        names = ("uri", "status", "error", "label", "confidence", "needs_review", "width", "height")
        predictions = []
        for row, pixels in zip(rows, decoded.images_NHWC, strict=True):
            probs = (
                {name: row[f"prob_{name}"] for name in self.card.classes} if row["status"] == "ok" else None
            )
            values = {name: row[name] for name in names}
            predictions.append(Prediction(**values, probs=probs, model_input=pixels))
        return predictions


def predict_images(
    images: Texts,
    score: ScoreConfig = ScoreConfig(),  # noqa: B008  frozen
    job: JobConfig = JobConfig(),  # noqa: B008  frozen
    *,
    checkpoint: str | None = None,
    allow_prefix: Sequence[str] = (),
    options: StorageOptions = NO_OPTIONS,
    box_px: tuple[int, int] | None = None,
    zip_encoding: str | None = None,
) -> Predictions:
    """What a checkpoint says of `images`: paths, URLs, or members as a run names them.

    checkpoint: a path; None is the packaged one. allow_prefix: where web servers may redirect to. box_px:
    (W, H) that each thumbnail fits in. zip_encoding: that of the run that names the members. Raises
    UsageError for a checkpoint that cannot be used, for a URL that names nothing, and for a single folder or
    container.
    """
    images = list_texts(images)
    entries = [_parse_image(image) for image in images]
    if len(entries) == 1 and entries[0].status:
        remedy = f"maskbatch score {redact(images[0])} --out OUT scores everything in it"
        raise UsageError(f"image {redact(images[0])}: {entries[0].error}; {remedy}")
    access = _open_access(entries, allow_prefix, options, job)
    predictor = Predictor(open_checkpoint(checkpoint), score, job)
    entries = _find_members(entries, access, zip_encoding)
    # Neighbours in a container share a request, and the rows of a Parquet file are only read forwards.
    places = [(entry.container or "", entry.offset or 0, entry.length or 0) for entry in entries]
    order = sorted(range(len(entries)), key=places.__getitem__)
    plan_rows = [{name: getattr(entries[i], name) for name in READ_COLUMNS} for i in order]
    encoded, predictions = read_images(plan_rows, access, score.max_bytes), dict[int, Prediction]()
    with step("predict", len(images)) if len(images) > QUIET_IMAGES else nullcontext() as progress:
        for start in range(0, len(order), score.batch_size):
            batch = list(islice(encoded, score.batch_size))
            for i, item, prediction in zip(order[start:], batch, predictor.predict(batch), strict=False):
                entry, error = entries[i], prediction.error
                if prediction.status == "missing" and not (entry.status or entry.container):
                    error = "no such file"
                thumbnail = None
                if box_px and prediction.width:
                    thumbnail = _draw_thumbnail(item, box_px, score.max_pixels)
                predictions[i] = replace(prediction, uri=entry.uri, error=error, thumbnail=thumbnail)
            if progress:
                progress.advance(len(batch))
    in_order = [predictions[i] for i in range(len(images))]
    return Predictions(predictor.path, predictor.digest, predictor.card.classes, in_order)


def _draw_thumbnail(encoded: Encoded, box_px: tuple[int, int], max_pixels: int) -> Image.Image | None:
    with suppress(ImageError):
        return draw_upright(encoded.data, box_px, max_pixels) if encoded.data is not None else None
    return None


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
