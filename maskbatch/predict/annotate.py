"""A sheet: one PNG with a row for each image, its picture, and its label and bars or its faces."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from maskbatch.errors import UsageError
from maskbatch.predict.boxes import SCENE_PX, draw_scene
from maskbatch.predict.ink import (
    ACCENT,
    ALERT,
    INK,
    MARGIN_PX,
    MUTED,
    PAPER,
    TRACK,
    WIDTH_PX,
    font,
    shorten,
    wrap,
)
from maskbatch.stores.files import write_whole
from maskbatch.stores.uris import SCHEME, local_path
from maskbatch.visible import make_visible

if TYPE_CHECKING:
    from maskbatch.predict.result import Prediction

PICTURE_PX = (320, 240)
"""The box of each picture, (W, H)."""
MAX_IMAGES = 100
BAR_PX = 26


def check_sheet_path(path: Path, images: Sequence[str]) -> None:
    """Raises UsageError unless `path` can hold a sheet of `images` and is none of them."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--show {path}: a .png file expected")
    if len(images) > MAX_IMAGES:
        raise UsageError(f"--show {path}: {len(images):,} images, at most {MAX_IMAGES} fit; name fewer")
    files = [os.fsdecode(local_path(image)) if image.startswith(SCHEME) else image for image in images]
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in files):  # noqa: PTH110  no error for a long URL
        raise UsageError(f"--show {path}: this is one of the images and would be lost; name another file")


def choose_box_px(view: str) -> tuple[int, int]:
    """(W, H) that the picture of an image may fill on the sheet."""
    return SCENE_PX if view == "scene" else PICTURE_PX


def write_sheet(path: Path, predictions: Sequence["Prediction"]) -> None:
    """Write the whole sheet or nothing. Raises RunFailedError where `path` cannot be written."""
    rows = [draw_scene(p) if p.faces is not None and p.status == "ok" else _draw_row(p) for p in predictions]
    sheet = Image.new("RGB", (WIDTH_PX, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with write_whole(path) as partial:
        sheet.save(partial, "PNG")


def _draw_row(prediction: "Prediction") -> Image.Image:
    left, picture = 2 * MARGIN_PX + PICTURE_PX[0], prediction.thumbnail
    bars_top = MARGIN_PX + 68
    bars_bottom = bars_top + BAR_PX * len(prediction.probs or ())
    picture_bottom = MARGIN_PX + (picture.height if picture else 140)
    row = Image.new("RGB", (WIDTH_PX, max(bars_bottom, picture_bottom) + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(row)
    draw.line((MARGIN_PX, row.height - 1, WIDTH_PX - MARGIN_PX, row.height - 1), TRACK)
    if picture:
        row.paste(picture, (MARGIN_PX + (PICTURE_PX[0] - picture.width) // 2, MARGIN_PX))
    else:
        draw.rectangle((MARGIN_PX, MARGIN_PX, MARGIN_PX + PICTURE_PX[0] - 1, MARGIN_PX + 139), TRACK)
    room = WIDTH_PX - MARGIN_PX - left
    name = shorten(make_visible(prediction.uri.removeprefix(SCHEME)), font(14), room)
    draw.text((left, MARGIN_PX), name, MUTED, font(14))
    if prediction.probs:
        label = f"{prediction.label}".replace("_", " ") + f"  {prediction.confidence:.1%}"
        draw.text((left, MARGIN_PX + 26), label, INK, font(22, "-Bold"))
        if prediction.needs_review:
            right = left + round(font(22, "-Bold").getlength(f"{label}   "))
            draw.text((right, MARGIN_PX + 31), "to be reviewed", ALERT, font(16))
        _draw_bars(draw, (left, bars_top), prediction)
    else:
        draw.text((left, MARGIN_PX + 26), prediction.status.replace("_", " "), ALERT, font(22, "-Bold"))
        draw.text((left, bars_top), wrap(prediction.error or "", font(16), room), INK, font(16))
    return row


def _draw_bars(draw: ImageDraw.ImageDraw, at: tuple[int, int], prediction: "Prediction") -> None:
    """A bar for each class, all from the same left edge; the track is as long as a probability of 1."""
    probs = prediction.probs or {}
    names = [shorten(name.replace("_", " "), font(16), 240) for name in probs]
    start = at[0] + 12 + round(max(map(font(16).getlength, names)))
    end = WIDTH_PX - MARGIN_PX - 70
    for i, (name, prob) in enumerate(zip(names, probs.values(), strict=True)):
        top, best = at[1] + i * BAR_PX, prob == prediction.confidence
        draw.text((at[0], top), name, INK if best else MUTED, font(16))
        draw.rectangle((start, top + 2, end, top + 18), TRACK)
        if round(prob * (end - start)):
            draw.rectangle((start, top + 2, start + round(prob * (end - start)), top + 18), ACCENT)
        draw.text((WIDTH_PX - MARGIN_PX, top), f"{prob:.1%}", INK if best else MUTED, font(16), anchor="ra")
