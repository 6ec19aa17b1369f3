"""Single images through the job's own reader, decoder and classifier, in this process, without Ray.

A URL is read as it stands in a run's scores, members of a tar, zip or Parquet file too; a path as it is.
"""

import os
import re
from collections import Counter
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
from maskbatch.clock import Clock, now
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import ImageError, MaskbatchError, UsageError
from maskbatch.model.checkpoint import Card, Checkpoint, open_checkpoint
from maskbatch.model.classifier import Classifier
from maskbatch.progress import step
from maskbatch.review.pictures import draw_upright
from maskbatch.score.decode import decode_batch
from maskbatch.score.read import READ_COLUMNS, Encoded, read_images
from maskbatch.score.shard import make_rows
from maskbatch.stores.access import Access
from maskbatch.stores.files import explain
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import SCHEME, Place, decode_name, locate, parse_argument, redact

MEMBER = re.compile(r"(tar|zip|parquet)://(.*?)::(.*)", re.DOTALL)


QUIET_IMAGES = 64
"""Up to so many are done before a bar would be of use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a scores row would say of one image."""

    status: str
    error: str | None
    label: str | None
    confidence: float | None
    probs: dict[str, float] | None
    """By class, in the checkpoint's order; None where the status is not ok."""
    needs_review: bool
    width: int | None
    """Pixels of the source, upright."""
    height: int | None
    image: NDArray[np.uint8]
    """(H, W, 3) RGB, what the model saw; zeros where nothing could be decoded."""

    def as_dict(self) -> dict[str, Any]:
        """All but the pixels, JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "image"}


class Predictor:
    """A checkpoint, loaded once, for as many images as come."""

    def __init__(self, checkpoint: Checkpoint, config: ScoreConfig) -> None:
        self.card: Card = checkpoint.card
        self.path, self.digest, self.config = checkpoint.path, checkpoint.digest, config
        self._classifier = Classifier(checkpoint, dtype=config.dtype, batch_size=config.batch_size)

    def predict(self, encoded: Sequence[Encoded]) -> list[Prediction]:
        """One prediction an image, in their order; what the job gives, bit for bit on one kind of device."""
        decoded = decode_batch(encoded, len(encoded), self.card.preset, self.config.max_pixels)
        probs_NK = self._classifier.probs(decoded.images_NHWC)
        planned = pa.Table.from_pylist(
            [{"id": number, "uri": "", "encoding": "raw"} for number in range(len(encoded))], schema.PLAN
        )
        rows = make_rows(planned, decoded, probs_NK, self.card, Clock.parse((), now())).to_pylist()
        return [self._prediction(*both) for both in zip(rows, decoded.images_NHWC, strict=True)]

    def _prediction(self, row: dict[str, Any], image: NDArray[np.uint8]) -> Prediction:
        kept = ("status", "error", "label", "confidence", "needs_review", "width", "height")
        probs = {name: row[f"prob_{name}"] for name in self.card.classes} if row["status"] == "ok" else None
        return Prediction(**{name: row[name] for name in kept}, probs=probs, image=image)


@dataclass(frozen=True, slots=True)
class Predicted:
    """One image that was asked for."""

    uri: str
    """As the plan would show it: no user-info, no query."""
    prediction: Prediction
    picture: Image.Image | None = None
    """Where a box for it was given, and it can be decoded."""


def predict_images(
    images: Sequence[str],
    config: ScoreConfig,
    job: JobConfig,
    *,
    checkpoint: str | None = None,
    allow_prefix: Sequence[str] = (),
    options: StorageOptions = NO_OPTIONS,
    box_px: tuple[int, int] | None = None,
) -> tuple[Predictor, list[Predicted]]:
    """The predictor, and what it says of every one of `images`, in their order.

    Raises UsageError for the checkpoint, a URL that names nothing, and a folder or container alone.
    """
    entries = [_entry(image) for image in images]
    if len(entries) == 1 and entries[0].status:
        remedy = f"maskbatch score {redact(images[0])} --out OUT scores all that is in it"
        raise UsageError(f"image {redact(images[0])}: {entries[0].error}; {remedy}")
    access = _access(entries, allow_prefix, options, job)
    predictor = Predictor(open_checkpoint(checkpoint), config)
    entries = _with_members(entries, access)
    # Neighbours in a container come by one request, and rows of a Parquet file are read forward only.
    order = sorted(range(len(entries)), key=lambda i: _position(entries[i]))
    plan_rows = [{name: getattr(entries[i], name) for name in READ_COLUMNS} for i in order]
    encoded, found = read_images(plan_rows, access, config.max_bytes), dict[int, Predicted]()
    with step("predict", len(images)) if len(images) > QUIET_IMAGES else nullcontext() as shown_step:
        for start in range(0, len(order), config.batch_size):
            batch = list(islice(encoded, config.batch_size))
            for i, item, one in zip(order[start:], batch, predictor.predict(batch), strict=False):
                picture = _picture(item, box_px, config.max_pixels) if box_px else None
                if one.status == "missing" and not (entries[i].status or entries[i].container):
                    one = replace(one, error="no such file")
                found[i] = Predicted(entries[i].uri, one, picture)
            if shown_step:
                shown_step.advance(len(batch))
    return predictor, [found[i] for i in range(len(images))]


def _picture(encoded: Encoded, box_px: tuple[int, int], max_pixels: int) -> Image.Image | None:
    with suppress(ImageError):
        return draw_upright(encoded.data, box_px, max_pixels) if encoded.data is not None else None
    return None


def summary(predictor: Predictor, found: Sequence[Predicted]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "checkpoint": predictor.path,
        "digest": predictor.digest,
        "classes": list(predictor.card.classes),
        "images": [{"uri": one.uri, **one.prediction.as_dict()} for one in found],
    }


def _position(entry: Entry) -> tuple[str, int, int]:
    return entry.container or "", entry.offset or 0, entry.length or 0


def _access(
    entries: Sequence[Entry], allow_prefix: Sequence[str], options: StorageOptions, job: JobConfig
) -> Access:
    """As a run's; a web server that was named may redirect anywhere within itself, and to https."""
    web = {
        f"{scheme}://{uri.split('/')[2]}/"
        for uri in (entry.container or entry.uri for entry in entries)
        if uri.startswith("http")
        for scheme in ("https", uri.partition("://")[0])
    }
    config = PlanConfig(archives=(), allow_prefix=(*allow_prefix, *sorted(web)))
    return arguments.make_access(config, options, job)


def _entry(image: str) -> Entry:
    """The entry of an image, of a member that has to be looked up, or of what is none. Raises UsageError."""
    member = MEMBER.fullmatch(image)
    place = _place(member[3] if member else image)
    web, local = place.root.startswith("http"), Path(place.path) if place.root == SCHEME else None
    if local and local.exists() and not (local.is_file() or local.is_dir()):  # a pipe is waited for in vain
        raise UsageError(f"image {redact(image)}: a pipe or device, not a file; copy the image to one")
    uri = place.uri if web or place.root == SCHEME else place.root + place.path
    kind = os.path.splitext(place.path)[1].lower()
    if member:
        if kind != f".{member[1]}" or place.fetch:
            expected = f"a .{member[1]} file, without a query or a password, expected behind `::`"
            raise UsageError(f"image {redact(image)}: {expected}; check it, or copy the file here")
        return Entry(uri=f"{member[1]}://{member[2]}::{uri}", relative=member[2], container=uri)
    folder = local.is_dir() if local else place.path.endswith("/") and not web
    if folder or kind in arguments.CONTAINERS:
        error = f"{'a folder' if folder else f'a {kind}'}, not one image"
        return Entry(uri=uri, relative=uri, status="unsupported", error=error)
    return Entry(uri=uri, relative=uri, fetch=place.fetch)


def _place(text: str) -> Place:
    if not text:
        raise UsageError("image (empty): a path or URL expected")
    try:
        return locate(text) if "://" in text else parse_argument(text)
    except ValueError as error:
        raise UsageError(f"image {redact(text)} {error}") from error


def _with_members(entries: Sequence[Entry], access: Access) -> list[Entry]:
    """Each entry, those of members with their place in their container, or why they have none."""
    wanted = {entry.uri for entry in entries if entry.container}
    listed = {
        container: _listed(container, wanted, access)
        for container in dict.fromkeys(entry.container for entry in entries if entry.container)
    }
    return [
        replace(listed[entry.container].get(entry.uri) or listed[entry.container][""], uri=entry.uri)
        if entry.container
        else entry
        for entry in entries
    ]


def _listed(container: str, wanted: set[str], access: Access) -> dict[str, Entry]:
    """The entries of a container that are wanted; at "", what stands for those that it does not have."""
    name = container if container.startswith("http") else os.fsdecode(decode_name(container))
    missing = Entry(uri="", relative="", status="missing", error="its container has nothing of that name")
    found = {"": missing}
    try:
        config = PlanConfig(archives=(name.removeprefix(SCHEME),))
        sources = arguments.find_sources(config, access)
        for entry in reader.list_entries(sources, config, access, Counter(), Counter()):
            if entry.uri in wanted:
                found[entry.uri] = entry
            elif entry.uri == container:  # the row that says what is wrong with the container itself
                found[""] = entry
    except (MaskbatchError, OSError) as error:
        found[""] = replace(missing, status="read_error", error=explain(error))
    return found
