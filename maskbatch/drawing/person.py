"""A person whose label fixes where the mask ends on nose, mouth and chin; all else varies."""

from dataclasses import replace

import numpy as np

from maskbatch.drawing.art import FABRICS, LOOKS, MASKS, MIDDLES, TROUSERS, WORN
from maskbatch.drawing.sketch import Shades, Sketch, add_shades, mix, pick, pick_colour


def _person_shades(masks: str, rng: np.random.Generator) -> Shades:
    """Pick the colours of a person, of the mask from `masks`."""
    colours = {name: pick_colour(rng, palette) for name, palette in (LOOKS | {"mask": masks}).items()}
    if sum(colours["skin"]) < 400:
        colours["hair"] = pick_colour(rng, LOOKS["hair"][:23])  # the three darkest
    colours["lip"] = mix(colours["skin"], (170, 50, 60), 0.42)
    colours["beard"] = mix(colours["skin"], colours["hair"], rng.uniform(0.2, 1))
    return add_shades(colours)


def draw_person(
    body: Sketch, label: str, rng: np.random.Generator, *, pitch: float = 0, figure: str = "bust"
) -> Sketch:
    """Draw a random person, from back to front, and return where the head lies.

    body: the middle of the head, upright; a unit is the head's height. pitch: radians, as if seen from above.
    figure: what of ART is below the head.
    """
    body = replace(body, axes=body.axes * ((rng.uniform(0.92, 1.06),), (1,)))  # narrow and broad heads
    tilt, yaw, nod = np.clip(rng.normal((0, 0, pitch), (0.09, 0.12, 0.04)), -0.21, 0.21)
    bust, head = body.turn(tilt * 0.3, 0, 0), body.turn(tilt, yaw, nod)

    pattern = pick(rng, "pleats pleats pleats ridge dots stripes plain")
    shades = _person_shades(MASKS.get(pattern, FABRICS), rng)
    if figure == "figure":
        shades |= add_shades({"trousers": pick_colour(rng, TROUSERS)})
    hair = pick(rng, "short short fringe bald afro bun long long cap beanie hijab")
    beards = "" if hair in ("bun", "long", "hijab") else "beard beard moustache"
    head.draw(f"behind {hair}", shades)
    bust.draw(figure, shades)
    if rng.random() < 0.12:
        bust.draw("scarf", shades)
    head.draw("head", shades)
    if label == "no_face":  # a person who walks away
        head.draw("nape", shades)
        return head
    head.draw("eyes", shades)
    head.draw("irises", shades, rng.uniform(-1.2, 1.2), rng.uniform(-0.4, 0.3))
    head.draw("brows", shades, 0, rng.uniform(-2, 0.5))
    head.draw("nose", shades)
    head.draw(pick(rng, "shaven shaven shaven " + beards), shades)
    head.draw(pick(rng, "calm calm smile grin gape"), shades)
    if hair in ("hijab", "afro", "bun", "cap", "beanie"):
        head.draw("hijab" if hair == "hijab" else "short", shades)
    if label in WORN:
        worn, slip = pick(rng, WORN[label]), rng.uniform(-0.8, 0.8)
        head.draw(f"on {worn}", shades, 0, slip)
        head.draw(pattern, shades, 0, MIDDLES[worn][0] + slip, MIDDLES[worn][1])
    if rng.random() < 0.25:
        head.draw("glasses", shades)
    if hair != "hijab":
        head.draw(hair, shades)
    return head
