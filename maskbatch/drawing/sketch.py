"""A pair of pictures under the pen, paint and gains, and the mixing of colours."""

from dataclasses import dataclass, replace
from math import cos, sin

import numpy as np
from PIL import ImageColor, ImageDraw

from maskbatch.drawing.art import Points, read_shapes

Colour = tuple[int, ...]
Shades = dict[str, Colour]


def pick(rng: np.random.Generator, words: str) -> str:
    """One of `words`, which spaces separate."""
    return words.split()[int(rng.integers(len(words.split())))]


def pick_colour(rng: np.random.Generator, palette: str) -> Colour:
    """One of `palette`, colours like "#1c1818"."""
    return ImageColor.getrgb(pick(rng, palette))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that has `share` of the way from `first` to `second`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def add_shades(colours: Shades) -> Shades:
    """Add the shades "--", "-" and "+" of each colour. Near black, the darker shades are paler."""
    shades = colours | {"white": (244, 242, 238), "black": (20, 18, 18), "lamp": (90, 210, 120)}
    for name, colour in colours.items():
        dark = (40, 16, 10) if sum(colour) > 125 else (200, 200, 200)
        for sign, other, share in (("--", dark, 0.55), ("-", dark, 0.2), ("+", (255,) * 3, 0.3)):
            shades[name + sign] = mix(colour, other, share)
    return shades


@dataclass(frozen=True, kw_only=True, slots=True)
class Sketch:
    """The two pictures of a snapshot, and where the units of ART fall on them.

    paint: RGB, twice the frame. gains: grey, a quarter of the frame; 128 is a gain of 1. In pixels of
    paint: origin (2,); axes (2, 2), whose rows are one unit right and down; lean (2,), one unit forwards.
    """

    paint: ImageDraw.ImageDraw
    gains: ImageDraw.ImageDraw
    origin: Points
    axes: Points
    lean: Points

    def move(self, place: Points, scale: float) -> "Sketch":
        """Move to `place` (2,), in units, and make the unit `scale` of it."""
        return replace(self, origin=self.origin + place @ self.axes, axes=self.axes * scale)

    def turn(self, tilt: float, yaw: float, pitch: float) -> "Sketch":
        """Turn by angles in radians."""
        axes = np.array([[cos(tilt), sin(tilt)], [-sin(tilt), cos(tilt)]]) @ self.axes
        return replace(self, axes=axes, lean=(sin(yaw), sin(pitch)) @ axes)

    def draw(self, art: str, shades: Shades, x: float = 0, y: float = 0, squeeze: float = 1) -> None:
        """Paint one of ART, moved by (x, y) hundredths; `squeeze` multiplies its height."""
        for paints, lift, width, outline in read_shapes(art):
            points = outline * (1, squeeze) + (x / 100, y / 100)
            pixels = self.origin + points @ self.axes
            if lift is not None:
                bulge = 0.3 * np.sqrt(np.clip(1 - (points[:, :1] / 0.38) ** 2, 0, 1))
                pixels += (lift + bulge) * self.lean
            for paint in paints:
                if paint[0] in "+-":
                    gain = round(128 + 1.28 * float(paint))
                    self.gains.polygon((pixels / 8).ravel().tolist(), gain)
                elif width:
                    thick = max(1, round(width * self.axes[1, 1]))
                    self.paint.line(pixels.ravel().tolist(), shades[paint], thick, "curve")
                else:
                    self.paint.polygon(pixels.ravel().tolist(), shades[paint])
