"""Colours, letters and sizes of the sheet."""

from functools import lru_cache

from PIL import ImageFont

WIDTH_PX, MARGIN_PX = 960, 20
PAPER, INK, MUTED, TRACK, ACCENT, ALERT = "#fdfdfb", "#1b1f23", "#59626b", "#e8eaea", "#1d5f8a", "#b02318"
"""Colours of the report."""


@lru_cache
def font(size_px: int, weight: str = "") -> ImageFont.FreeTypeFont:
    """Letters of that size; `weight` is empty or `-Bold`."""
    from matplotlib import get_data_path  # its font has more alphabets than Pillow's

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans{weight}.ttf", size_px)


def shorten(text: str, letters: ImageFont.FreeTypeFont, room_px: float) -> str:
    """Cut the middle out of `text` until it fits."""
    kept, shorter = len(text), text
    while letters.getlength(shorter) > room_px:
        kept -= 1
        shorter = f"{text[: kept // 3]} ... {text[len(text) - (kept - kept // 3) :]}"
    return shorter


def wrap(text: str, letters: ImageFont.FreeTypeFont, room_px: float) -> str:
    """Break `text` between words into lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) > room_px and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
