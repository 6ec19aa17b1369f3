"""Snapshots of gate and kiosk cameras with a known truth, for `maskbatch demo` and training."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from maskbatch.drawing.art import CLOTHES, WALLS
from maskbatch.drawing.camera import Canvas, Lens, write_clock
from maskbatch.drawing.person import draw_person
from maskbatch.drawing.sketch import Colour, Sketch, add_shades, mix, pick, pick_colour

LABELS = ("with_mask", "without_mask", "incorrect_mask", "no_face")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What one camera always sees. Lengths are in frame heights.

    kind: door, turnstile, kiosk or corridor. head_height: mean, crown to chin; (head_x, head_y): mean place.
    pitch: radians, positive looks down on people. warmth: -1 cool to 1 warm. infrared: grey at night.
    """

    kind: str
    wall: Colour
    floor: Colour
    accent: Colour
    horizon: float
    prop_x: float
    head_x: float
    head_y: float
    head_height: float
    pitch: float
    warmth: float
    infrared: bool

    @classmethod
    def draw_lots(cls, rng: np.random.Generator) -> "Gate":
        """Make a random gate."""
        return cls(
            kind=pick(rng, "door turnstile kiosk corridor"),
            wall=pick_colour(rng, WALLS),
            floor=mix(pick_colour(rng, WALLS), (60, 56, 54), rng.uniform(0.3, 0.7)),
            accent=mix(pick_colour(rng, CLOTHES), (128, 128, 128), rng.uniform(0.1, 0.5)),
            horizon=rng.uniform(0.12, 0.34),
            prop_x=rng.uniform(-0.35, 0.35),
            head_x=rng.uniform(-0.1, 0.1),
            head_y=rng.uniform(-0.08, 0.03),
            head_height=rng.uniform(0.5, 0.74),
            pitch=rng.uniform(-0.12, 0.16),
            warmth=rng.uniform(-1, 1),
            infrared=bool(rng.random() < 0.5),
        )


def draw_snapshot(
    label: str,
    gate: Gate,
    rng: np.random.Generator,
    *,
    light: float = 1.0,
    size: tuple[int, int] = (640, 480),
    clock: str | None = None,
) -> Image.Image:
    """Draw an RGB snapshot of (width, height) `size` that shows `label`, one of LABELS.

    light: 1.0 day to 0.0 night. clock: overlay text, such as '2026-10-03 17:20:05'. The same state of `rng`
    gives the same pixels. Raises ValueError for an unknown label.
    """
    if label not in LABELS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}; got {label!r}")
    canvas = Canvas.blank(size, gate.wall)
    frame = canvas.sketch(size[0] / 2, size[1] / 2, unit=size[1])
    _draw_gate(frame, gate, rng, deserted=label == "no_face")
    if label != "no_face" or rng.random() < 0.08:
        _draw_visitor(frame, gate, label, rng)
    lens = Lens(warmth=gate.warmth, infrared=gate.infrared, lamp=(gate.head_x, gate.head_y))
    picture = canvas.develop(lens, light, rng)
    if clock is not None:
        write_clock(picture, clock)
    return picture


def _draw_visitor(frame: Sketch, gate: Gate, label: str, rng: np.random.Generator) -> None:
    place = np.array([gate.head_x, gate.head_y]) + rng.normal(0, (0.03, 0.02))
    scale = np.clip(gate.head_height + rng.normal(0, 0.05), 0.45, 0.8)
    draw_person(frame.move(place, scale), label, rng, pitch=gate.pitch)


def _draw_gate(frame: Sketch, gate: Gate, rng: np.random.Generator, *, deserted: bool) -> None:
    """Draw floor and prop; a door may be ajar, and a bag may be left in a deserted gate."""
    colours = {"wall": gate.wall, "floor": gate.floor, "accent": gate.accent}
    shades = add_shades(colours | {"cloth": pick_colour(rng, CLOTHES)})
    props = ["floor", gate.kind] + ["ajar"] * (gate.kind == "door" and rng.random() < 0.3)
    for prop in props:
        frame.draw(prop, shades, 100 * gate.prop_x, 100 * gate.horizon)
    if deserted and rng.random() < 0.2:
        frame.draw("bag", shades, rng.uniform(-40, 40), rng.uniform(24, 32))
