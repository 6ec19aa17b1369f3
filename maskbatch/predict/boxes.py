"""The row of a whole scene on the sheet: the picture with a box around each face, and the faces below it."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from maskbatch.geometry import do_overlap
from maskbatch.predict.ink import ALERT, INK, MARGIN_PX, MUTED, PAPER, TRACK, WIDTH_PX, font, shorten
from maskbatch.stores.uris import SCHEME
from maskbatch.visible import make_visible

if TYPE_CHECKING:
    from maskbatch.predict.result import Face, Prediction

SCENE_PX = (WIDTH_PX - 2 * MARGIN_PX, 690)
"""The box of each picture, (W, H)."""
CROP_PX, PITCH_PX = 112, (131, 160)
"""The longer side of each face below the picture, and from one to the next (across, down)."""
ACROSS, MAX_CROPS = 7, 70
HEAD_PX = 66
COLOURS = ("#1d5f8a", "#b02318", "#a35c00", "#5f666d", "#6a3d9a", "#23743f")
"""Of the classes, in the checkpoint's order."""
SMALL_COLOUR = "#757c83"
SMALL = "too small"
TAG_PX = 18
Box = tuple[float, float, float, float]


def draw_scene(prediction: "Prediction") -> Image.Image:
    """A scene that is ok; at most MAX_CROPS of its faces are below it."""
    faces, picture = prediction.faces or (), prediction.thumbnail
    picture_px = picture.height + MARGIN_PX if picture else 0
    shown = faces[:MAX_CROPS]
    crops_px = -(-len(shown) // ACROSS) * PITCH_PX[1]
    left_out = len(faces) - len(shown) + prediction.num_faces_left_out
    row = Image.new(
        "RGB", (WIDTH_PX, MARGIN_PX + HEAD_PX + picture_px + crops_px + 30 * bool(left_out)), PAPER
    )
    draw = ImageDraw.Draw(row)
    _draw_head(draw, prediction)
    if picture:
        row.paste(draw_boxes(picture, prediction), (MARGIN_PX, MARGIN_PX + HEAD_PX))
    top = MARGIN_PX + HEAD_PX + picture_px
    for k, face in enumerate(shown):
        at = MARGIN_PX + k % ACROSS * PITCH_PX[0], top + k // ACROSS * PITCH_PX[1]
        _draw_face(row, at, k + 1, face)
    if left_out:
        draw.text((MARGIN_PX, top + crops_px), f"and {left_out:,} more", MUTED, font(14))
    draw.line((MARGIN_PX, row.height - 1, WIDTH_PX - MARGIN_PX, row.height - 1), TRACK)
    return row


def count_faces(faces: Sequence["Face"]) -> str:
    """How many there are, and of which label: `3 faces: 2 with mask, 1 too small`."""
    if len(faces) < 2:
        return f"1 face: {name_face(faces[0])}" if faces else "no faces"
    counts = Counter(name_face(face) for face in faces)
    parts = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    return f"{len(faces):,} faces: {parts}"


def name_face(face: "Face") -> str:
    """Its label in words."""
    return face.label.replace("_", " ") if face.label else SMALL


def _colour(face: "Face") -> str:
    if not face.probs:
        return SMALL_COLOUR
    return COLOURS[list(face.probs).index(face.label or "") % len(COLOURS)]


def _draw_head(draw: ImageDraw.ImageDraw, prediction: "Prediction") -> None:
    faces, room = prediction.faces or (), SCENE_PX[0]
    name = shorten(make_visible(prediction.uri.removeprefix(SCHEME)), font(14), room)
    draw.text((MARGIN_PX, MARGIN_PX), name, MUTED, font(14))
    review = sum(face.needs_review for face in faces)
    asked = f"{review:,} to be reviewed" if review else ""
    head = shorten(count_faces(faces), font(22, "-Bold"), room - font(16).getlength(asked) - 20)
    draw.text((MARGIN_PX, MARGIN_PX + 24), head, INK, font(22, "-Bold"))
    draw.text((WIDTH_PX - MARGIN_PX, MARGIN_PX + 29), asked, ALERT, font(16), anchor="ra")


def draw_boxes(picture: Image.Image, prediction: "Prediction") -> Image.Image:
    """The picture with numbered boxes; a tag says the label too where it is free of other tags and faces."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    faces = prediction.faces or ()
    scale = (picture.width / (prediction.width or 1), picture.height / (prediction.height or 1)) * 2
    boxes = [_scale(face.box, scale) for face in faces]
    for face, (x0, y0, x1, y1) in zip(faces, boxes, strict=True):
        draw.rectangle((x0 - 2, y0 - 2, x1 + 2, y1 + 2), outline="white", width=4)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=_colour(face), width=2)
    tags = [_place_tag(f"{k}", box, picture.size) for k, box in enumerate(boxes, 1)]
    for k, (face, box) in enumerate(zip(faces, boxes, strict=True)):
        text = f"{k + 1} {name_face(face)}"
        longer = _place_tag(text, box, picture.size)
        if any(do_overlap(longer, other) for other in (*boxes, *tags[:k], *tags[k + 1 :])):
            text = f"{k + 1}"
        else:
            tags[k] = longer
        draw.rectangle(tags[k], _colour(face))
        draw.text((tags[k][0] + 4, tags[k][1] + 2), text, "white", font(12, "-Bold"))
    return picture


def _scale(box: Box, scale: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (side * share for side, share in zip(box, scale, strict=True))
    return x0, y0, x1, y1


def _place_tag(text: str, box: Box, size: tuple[int, int]) -> Box:
    """Above a box, or below it where the picture ends there; within the picture."""
    wide = font(12, "-Bold").getlength(text) + 8
    left = max(0.0, min(box[0] - 2, size[0] - wide))
    top = box[1] - 3 - TAG_PX
    if top < 0:
        top = min(box[3] + 3, size[1] - TAG_PX)
    return left, top, left + wide, top + TAG_PX


def _draw_face(row: Image.Image, at: tuple[int, int], number: int, face: "Face") -> None:
    """The face, its number, its label and how sure that is."""
    draw = ImageDraw.Draw(row)
    if face.crop:
        row.paste(face.crop, at)
    top = at[1] + CROP_PX + 3
    name = shorten(f"{number} {name_face(face)}", font(13, "-Bold"), PITCH_PX[0] - 6)
    draw.text((at[0], top), name, _colour(face), font(13, "-Bold"))
    if face.confidence is not None:
        sure = f"{face.confidence:.1%}"
        draw.text((at[0], top + 17), sure, INK, font(13))
        if face.needs_review:
            draw.text((at[0] + font(13).getlength(f"{sure} "), top + 17), "review", ALERT, font(13))
