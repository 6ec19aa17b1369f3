"""A lobby with people at any distance, a poster in some, and where the faces are.

A pinhole camera that looks straight ahead: x to the right, y up from the floor, z away from it, in metres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maskbatch.drawing.art import CLOTHES, WALLS
from maskbatch.drawing.camera import Canvas, Lens, write_clock
from maskbatch.drawing.person import draw_person
from maskbatch.drawing.sketch import Colour, Shades, add_shades, mix, pick, pick_colour

Box = tuple[float, float, float, float]

FOCAL = 0.8
"""In longest sides of the picture."""
NEAREST = 0.95
"""How near people come, in metres: their faces fill a sixth of the longest side."""
HEADS = 7.4
"""How many heads tall a person is."""
FACE = np.array([(-0.33, -0.31), (0.33, 0.52)])
"""The corners of a face's box, as a detector sees it, in heads from the middle of the head."""
SWAY, CRISP = 0.3, 400
"""A camera that hangs there for years exposes much alike from picture to picture; faces are small in it."""
ROOM_HEIGHT = 3.0
ROOM = """wall- -1,-1 0,1 0,1; wall 1,1 0,1 0,1; wall+ -1,1 0,1 1,1; white -1,1 1,1 0,1; floor -1,1 0,0 0,1;
    glass -1,-1 .3,.82 .2,.38; glass -1,-1 .3,.82 .44,.62; glass -1,-1 .3,.82 .68,.86;
    accent- -1,1 0,.03 1,1; accent- -1,-1 0,.03 0,1; accent- 1,1 0,.03 0,1;
    lamps -.3,.3 1,1 .3,.36; lamps -.3,.3 1,1 .5,.56; lamps -.3,.3 1,1 .7,.76"""
"""Rectangles: PAINT and spans to the right, up and away, in half widths, heights and depths of the room."""
FIXED = {"glass": (176, 198, 206), "leaf": (70, 112, 62), "lamps": (255, 255, 250)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """Who stands where, with which of LABELS; `no_face` looks away.

    x, z: place. head_y: the middle of the head above the floor. head: crown to chin. All in metres.
    seed: of all that varies.
    """

    label: str
    x: float
    z: float
    head_y: float
    head: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prop:
    """What of ART stands where, in metres."""

    art: str
    x: float
    z: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """A face that is drawn.

    box: (x0, y0, x1, y1) in pixels, clipped to the picture. visible: the share of it that lies in the picture
    and behind nothing. poster: nobody's; it hangs there.
    """

    label: str
    box: tuple[float, float, float, float]
    visible: float
    poster: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Lobby:
    """What one camera always sees. Lengths are in metres.

    size: width and height of its pictures, in pixels. horizon: from the top, in heights of the picture.
    poster: the face on a banner. warmth: -1 cool to 1 warm.
    """

    size: tuple[int, int]
    wall: Colour
    floor: Colour
    accent: Colour
    half_width: float
    depth: float
    camera_y: float
    horizon: float
    props: tuple[Prop, ...]
    poster: Person | None
    warmth: float

    @classmethod
    def draw_lots(cls, size: tuple[int, int], rng: np.random.Generator, *, poster: bool = False) -> "Lobby":
        """Make a random lobby, with or without a poster of a face with a mask."""
        half_width, depth, side = rng.uniform(2.8, 3.6), rng.uniform(9.5, 11), float(rng.choice((-1, 1)))
        far, middle = depth - 0.01, depth * rng.uniform(0.7, 0.76)
        banner_z = 4.6
        in_sight = banner_z * size[0] / max(size) / FOCAL / 2
        banner_x = -side * min(half_width, in_sight - 0.1) + side * 0.55
        props = [
            Prop(art=pick(rng, "doors lift"), x=-side * half_width * 0.25, z=far),
            Prop(art="board", x=side * half_width * 0.35, z=far),
            Prop(art="clock", x=side * half_width * 0.8, z=far),
            Prop(art="plant", x=-side * (half_width - 0.5), z=middle + 0.9),
            Prop(art="reception", x=side * (half_width - 1.4), z=middle),
            Prop(art="bench", x=-side * (half_width - 1), z=middle - 1),
        ]
        seed = int(rng.integers(2**31))
        face = Person(label="with_mask", x=banner_x, z=banner_z, head_y=1.42, head=0.52, seed=seed)
        return cls(
            size=size,
            wall=pick_colour(rng, WALLS),
            floor=mix(pick_colour(rng, WALLS), (96, 90, 84), rng.uniform(0.3, 0.7)),
            accent=mix(pick_colour(rng, CLOTHES), (128, 128, 128), rng.uniform(0.1, 0.5)),
            half_width=half_width,
            depth=depth,
            camera_y=rng.uniform(1.85, 2.05),
            horizon=rng.uniform(0.24, 0.3),
            props=(*props, Prop(art="banner", x=banner_x, z=banner_z)) if poster else tuple(props),
            poster=face if poster else None,
            warmth=rng.uniform(-1, 1),
        )

    def scale(self, z: float) -> float:
        """Pixels of the picture for a metre, at `z`."""
        return FOCAL * max(self.size) / z

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Pixels of the picture where a point falls."""
        width, height = self.size
        scale = self.scale(z)
        return width / 2 + scale * x, height * self.horizon + scale * (self.camera_y - y)

    def gather(self, labels: Sequence[str], rng: np.random.Generator) -> list[Person]:
        """Place people, one for each of `labels`, anywhere that the camera sees."""
        people = []
        for label in labels:
            z = NEAREST + (self.depth - 1.5 - NEAREST) * rng.random() ** 1.4
            reach = min(self.half_width - 0.4, 0.9 * self.size[0] / 2 / self.scale(z))
            tall = float(np.clip(rng.normal(1.7, 0.09), 1.5, 1.92))
            people.append(
                Person(
                    label=label,
                    x=rng.uniform(-reach, reach),
                    z=z,
                    head_y=tall * (1 - 0.5 / HEADS),
                    head=tall / HEADS,
                    seed=int(rng.integers(2**31)),
                )
            )
        return people


def draw_scene(
    people: Sequence[Person],
    lobby: Lobby,
    rng: np.random.Generator,
    *,
    light: float = 1.0,
    clock: str | None = None,
) -> tuple[Image.Image, list[Face]]:
    """Draw an RGB picture of `people` in a lobby, and say where which faces are, the furthest first.

    light: 1.0 day to 0.0 night. clock: overlay text. The same state of `rng`, which makes the noise, gives
    the same pixels.
    """
    canvas = Canvas.blank(lobby.size, lobby.wall)
    shades = add_shades(FIXED | {"wall": lobby.wall, "floor": lobby.floor, "accent": lobby.accent})
    _draw_room(canvas, lobby, shades)
    things: list[Prop | Person] = [*lobby.props, *people, *([lobby.poster] if lobby.poster else [])]
    heads = []
    for thing in sorted(things, key=lambda thing: -thing.z):
        if isinstance(thing, Prop):
            x, y = lobby.project(thing.x, 0, thing.z)
            canvas.sketch(x, y, unit=lobby.scale(thing.z)).draw(thing.art, shades)
            continue
        box = _draw_figure(canvas, lobby, thing)
        if thing.label != "no_face":
            heads.append((thing, box, _cut(canvas, box)))
    faces = [_find_face(canvas, lobby, *head) for head in heads]
    picture = canvas.develop(Lens(warmth=lobby.warmth, sway=SWAY, crisp=CRISP), light, rng)
    if clock is not None:
        write_clock(picture, clock)
    return picture, faces


def _draw_room(canvas: Canvas, lobby: Lobby, shades: Shades) -> None:
    """Paint the walls, the floor and what is flat on them."""
    pen = ImageDraw.Draw(canvas.paint)
    for text in ROOM.split(";"):
        paint, *spans = text.split()
        (x0, x1), (y0, y1), (z0, z1) = ([float(end) for end in span.split(",")] for span in spans)
        z2, z3 = (z0, z1) if y0 == y1 else (z1, z0)
        corners = [(x0, y0, z0), (x1, y0, z2), (x1, y1, z1), (x0, y1, z3)]
        pixels = [
            lobby.project(x * lobby.half_width, y * ROOM_HEIGHT, max(0.3, z * lobby.depth))
            for x, y, z in corners
        ]
        pen.polygon((2 * np.array(pixels)).ravel().tolist(), shades[paint])


def _draw_figure(canvas: Canvas, lobby: Lobby, person: Person) -> Box:
    """Draw a person, and return the box of the face, in pixels of the picture, not clipped to it."""
    x, y = lobby.project(person.x, person.head_y, person.z)
    body = canvas.sketch(x, y, unit=lobby.scale(person.z) * person.head)
    figure = "portrait" if person is lobby.poster else "figure"
    head = draw_person(body, person.label, np.random.default_rng(person.seed), pitch=0.06, figure=figure)
    middle = head.origin + FACE.mean(axis=0) @ head.axes + 0.2 * head.lean
    half = (FACE[1] - FACE[0]) / 2 * np.linalg.norm(head.axes, axis=1)
    (x0, y0), (x1, y1) = ((middle - half) / 2).tolist(), ((middle + half) / 2).tolist()
    return x0, y0, x1, y1


def _cut(canvas: Canvas, box: Box) -> NDArray[np.uint8]:
    """The pixels of paint in `box`, of which what lies outside is left out."""
    (x0, y0), (x1, y1) = np.clip(_corners(box), 0, canvas.paint.size)
    return np.asarray(canvas.paint.crop((x0, y0, x1, y1)))


def _corners(box: Box) -> NDArray[np.int64]:
    """The corners (2, 2) in pixels of paint."""
    return (2 * np.reshape(box, (2, 2))).round().astype(np.int64)


def _find_face(canvas: Canvas, lobby: Lobby, person: Person, box: Box, drawn: NDArray[np.uint8]) -> Face:
    """The face of a person in the whole picture; `drawn` is what was painted of it."""
    untouched = (_cut(canvas, box) == drawn).all(axis=2).sum()
    x0, y0, x1, y1 = np.clip(box, 0, 2 * lobby.size).tolist()
    return Face(
        label=person.label,
        box=(x0, y0, x1, y1),
        visible=float(untouched / np.prod(np.diff(_corners(box), axis=0))),
        poster=person is lobby.poster,
    )
