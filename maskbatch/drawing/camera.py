"""A canvas to draw on, and what a camera makes of it: an exposed, blurred, noisy picture with a clock in it.

Colour is painted at twice the size and averaged down. Soft shading is a second picture, small and blurred, of
gains.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from maskbatch.drawing.sketch import Colour, Sketch

_font = cache(ImageFont.load_default)  # 5 ms to load


@dataclass(frozen=True, kw_only=True, slots=True)
class Lens:
    """What a camera adds. warmth: -1 cool to 1 warm. infrared: grey at night.

    lamp: what it lights at night, in frame heights from the middle. sway: how much blur, shading and exposure
    vary from picture to picture, 0 to 1. crisp: how many times the blur of soft shading goes into the height.
    """

    warmth: float
    infrared: bool = False
    lamp: tuple[float, float] = (0, 0)
    sway: float = 1
    crisp: float = 160


@dataclass(frozen=True, slots=True)
class Canvas:
    """paint: RGB, twice the frame. gains: grey, a quarter of the frame; 128 is a gain of 1."""

    paint: Image.Image
    gains: Image.Image

    @classmethod
    def blank(cls, size: tuple[int, int], colour: Colour) -> "Canvas":
        """For a picture of (width, height) `size`."""
        width, height = size
        paint = Image.new("RGB", (2 * width, 2 * height), colour)
        return cls(paint, Image.new("L", (-(-width // 4), -(-height // 4)), 128))

    def sketch(self, x: float, y: float, *, unit: float) -> Sketch:
        """A pen at (x, y) whose unit is `unit`, all in pixels of the picture."""
        brushes = ImageDraw.Draw(self.paint), ImageDraw.Draw(self.gains)
        origin, axes = 2 * np.array([x, y], np.float64), np.eye(2) * 2 * unit
        return Sketch(paint=brushes[0], gains=brushes[1], origin=origin, axes=axes, lean=np.zeros(2))

    def develop(self, lens: Lens, light: float, rng: np.random.Generator) -> Image.Image:
        """Add what lens, lamp and sensor do: blur, shading, vignette, colour cast, noise.

        light: 1.0 day to 0.0 night.
        """
        picture, gains = self.paint.reduce(2), self.gains
        width, height = picture.size
        if rng.random() < 0.25:
            picture = picture.filter(ImageFilter.BoxBlur(lens.sway * rng.uniform(0.3, 1) * height / 480))
        night, warm = 1 - light, 0.07 * lens.warmth
        gain = np.asarray(gains.filter(ImageFilter.GaussianBlur(height / lens.crisp)), np.float32) / 128
        y, x = (np.indices(gain.shape, np.float32) * 4 - np.array([[[height]], [[width]]]) / 2) / height
        glow = night * np.exp(-3 * ((x - lens.lamp[0]) ** 2 + (y - lens.lamp[1]) ** 2))
        gain *= 1 - 0.25 * (x**2 + y**2) + lens.sway * rng.uniform(-0.2, 0.2) * x + glow
        gain *= (0.38 + 0.56 * light) * rng.uniform(1 - 0.12 * lens.sway, 1 + 0.08 * lens.sway)
        exposure = np.asarray(Image.fromarray(gain).resize((width, height), Image.Resampling.BILINEAR))
        cast = (1 + warm - 0.2 * night, 1, 1 - warm + 0.12 * night)
        if lens.infrared and light < 0.4:
            picture, cast = picture.convert("L").point(lambda grey: grey * 0.85 + 40), (1, 1, 1)
        noise = rng.standard_normal((height + 2, width), np.float32) * (1.5 + 7 * night)
        bands = []
        for k, band in enumerate(picture.split()):
            pixels = np.asarray(band) * exposure
            pixels *= cast[k]
            pixels += noise[k : k + height]
            bands.append(Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)))
        return Image.merge("RGB", bands if len(bands) == 3 else bands * 3)


def write_clock(picture: Image.Image, clock: str) -> None:
    """Write `clock`, such as '2026-10-03 17:20:05', into the corner of `picture`."""
    height = picture.height
    font, corner = _font(max(8, height // 24)), (height // 40, height // 40)
    pen = ImageDraw.Draw(picture)
    pen.text(corner, clock, (245, 245, 240), font, stroke_width=1, stroke_fill=(0, 0, 0))
