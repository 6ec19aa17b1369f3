"""One PNG of pictures, what the classifier made of each, and bars of its probabilities."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from maskbatch.errors import UsageError
from maskbatch.stores.files import write_whole
from maskbatch.stores.uris import SCHEME, local_path

if TYPE_CHECKING:
    from maskbatch.predict.images import Predicted, Prediction


PICTURE_PX = (320, 240)
"""The box of each picture, (W, H)."""


MAX_IMAGES = 100


WIDTH_PX, MARGIN_PX, BAR_PX = 960, 20, 26


PAPER, INK, MUTED, TRACK, ACCENT, ALERT = "#fdfdfb", "#1b1f23", "#59626b", "#e8eaea", "#1d5f8a", "#b02318"
"""Of the report's page."""


def check_target(path: Path, images: Sequence[str]) -> None:
    """Raises UsageError for a file that could not be shown, or is an image itself."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--show {path}: a .png file expected")
    if len(images) > MAX_IMAGES:
        raise UsageError(f"--show {path}: {len(images):,} images, at most {MAX_IMAGES} fit; name fewer")
    files = [os.fsdecode(local_path(image)) if image.startswith(SCHEME) else image for image in images]
    if path.exists() and any(os.path.exists(file) and path.samefile(file) for file in files):  # noqa: PTH110  no error for a long URL
        raise UsageError(f"--show {path}: one of the images, which would be lost; name another file")


def write_sheet(path: Path, found: Sequence["Predicted"]) -> None:
    """A row an image, whole or not at all. Raises RunFailedError where `path` cannot be written."""
    rows = [_row(one) for one in found]
    sheet = Image.new("RGB", (WIDTH_PX, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with write_whole(path) as partial:
        sheet.save(partial, "PNG")


def printable(name: str) -> str:
    """A name without what would break a line, or command a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)


@lru_cache
def _font(size_px: int, weight: str = "") -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path  # whose font knows more alphabets than Pillow's

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans{weight}.ttf", size_px)


def _row(one: "Predicted") -> Image.Image:
    found, left = one.prediction, 2 * MARGIN_PX + PICTURE_PX[0]
    bars_top = MARGIN_PX + 68
    needed = (
        bars_top + BAR_PX * len(found.probs or ()),
        MARGIN_PX + (one.picture.height if one.picture else 140),
    )
    row = Image.new("RGB", (WIDTH_PX, max(needed) + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(row)
    draw.line((MARGIN_PX, row.height - 1, WIDTH_PX - MARGIN_PX, row.height - 1), TRACK)
    if one.picture:
        row.paste(one.picture, (MARGIN_PX + (PICTURE_PX[0] - one.picture.width) // 2, MARGIN_PX))
    else:
        draw.rectangle((MARGIN_PX, MARGIN_PX, MARGIN_PX + PICTURE_PX[0] - 1, MARGIN_PX + 139), TRACK)
    room = WIDTH_PX - MARGIN_PX - left
    name = _fitting(printable(one.uri.removeprefix(SCHEME)), _font(14), room)
    draw.text((left, MARGIN_PX), name, MUTED, _font(14))
    if found.probs:
        _verdict(draw, (left, MARGIN_PX + 26), found)
        _bars(draw, (left, bars_top), found)
    else:
        draw.text((left, MARGIN_PX + 26), found.status.replace("_", " "), ALERT, _font(22, "-Bold"))
        draw.text((left, bars_top), _wrapped(found.error or "", _font(16), room), INK, _font(16))
    return row


def _verdict(draw: ImageDraw.ImageDraw, at: tuple[int, int], found: "Prediction") -> None:
    text = f"{found.label}".replace("_", " ") + f"  {found.confidence:.1%}"
    draw.text(at, text, INK, _font(22, "-Bold"))
    if found.needs_review:
        right = at[0] + round(_font(22, "-Bold").getlength(f"{text}   "))
        draw.text((right, at[1] + 5), "to be reviewed", ALERT, _font(16))


def _bars(draw: ImageDraw.ImageDraw, at: tuple[int, int], found: "Prediction") -> None:
    """A bar a class from the same left edge, its track as long as a probability of 1."""
    probs = found.probs or {}
    names = [_fitting(name.replace("_", " "), _font(16), 240) for name in probs]
    start = at[0] + 12 + round(max(map(_font(16).getlength, names)))
    end = WIDTH_PX - MARGIN_PX - 70
    for i, (name, prob) in enumerate(zip(names, probs.values(), strict=True)):
        top, best = at[1] + i * BAR_PX, prob == found.confidence
        draw.text((at[0], top), name, INK if best else MUTED, _font(16))
        draw.rectangle((start, top + 2, end, top + 18), TRACK)
        if round(prob * (end - start)):
            draw.rectangle((start, top + 2, start + round(prob * (end - start)), top + 18), ACCENT)
        draw.text((WIDTH_PX - MARGIN_PX, top), f"{prob:.1%}", INK if best else MUTED, _font(16), anchor="ra")


def _fitting(text: str, font: ImageFont.FreeTypeFont, room_px: int) -> str:
    """`text` with what is too much taken out of its middle."""
    kept = len(text)
    while font.getlength(shorter := _shortened(text, kept)) > room_px:
        kept -= 1
    return shorter


def _shortened(text: str, kept: int) -> str:
    return text if kept >= len(text) else f"{text[: kept // 3]} ... {text[len(text) - (kept - kept // 3) :]}"


def _wrapped(text: str, font: ImageFont.FreeTypeFont, room_px: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > room_px and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
