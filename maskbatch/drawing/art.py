"""The shapes and colours of all that is drawn, as text."""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

CLOTHES = "#283042 #962e32 #e2e2dc #3c6e5a #5a5a60 #e2b43c #4664a0 #7c5482"
WALLS = "#cec8bc #aebec4 #beb2a0 #96a096 #d8d8d4 #888e9e"
TROUSERS = "#20242c #20242c #2c3a58 #3c4658 #5a5040 #6e6a64 #96886e"
LOOKS = {
    "skin": "#faddc8 #f3cdb2 #ecbc9b #d6a078 #c38c66 #b07854 #986546 #805238 #6a4636 #543829",
    "hair": "#1c1818 #302820 #543826 #845832 #c8a062 #964628 #969492 #dedcd8",
    "cloth": CLOTHES,
    "iris": "#3c281c #3c281c #302018 #302018 #5a6e50 #5a7896",
    "rim": "#1e1c1c #503420 #8c8c90 #7c2830",
}
MASKS = {
    "pleats": "#82bedc #82bedc #e8f0f2 #8cccb4 #24262a #f0becd",
    "ridge": "#f0f0ee #e2e4e6 #28282c #96a0aa",
}
FABRICS = CLOTHES + " #24262a #24262a #e6e6e6 #b43c78 #3c8c46 #d2642d #c8a078"
WORN = {"with_mask": "nose", "incorrect_mask": "mouth " * 7 + "chin " * 3}
MIDDLES = {"nose": (33, 1), "mouth": (42.5, 0.68), "chin": (52, 0.5)}  # and relative heights

# Shapes from back to front, separated by ";": PAINT[^LIFT] KIND u,v u,v ...
#   PAINT  colours ("-" is darker), or signed gains in per cent; several lie one over the other
#   LIFT   height above the face, which shifts as the head turns; without it, a silhouette
#   KIND   half: the right half of a mirrored outline; box: corner and size; in pairs, left and right:
#          flat: polygon; ball: centre and radii; line<width>: curve
# Units are hundredths of a head (crown to chin, from its middle); of the frame's height (from where the
# gate's prop meets the floor); or, of what stands in a lobby, of a metre (from the floor below it).
ART = {
    "floor": "wall- box -300,-3 600,3; floor box -300,0 600,150",
    "door": """accent-- box -34,-68 68,68; accent box -31,-65 62,65; accent-- box -1,-65 2,65;
        wall+ box -26,-59 20,42; wall+ box 6,-59 20,42""",
    "ajar": "accent-- box 1,-65 30,65; accent box 31,-68 14,74; wall+ box 34,-59 8,42",
    "turnstile": """accent box -300,-58 600,10; accent-- flat 36,-20 52,-20 52,60 36,60;
        wall+ flat 36,-20 52,-20 52,-16 36,-16; lamp flat 41,-12 46,-12 46,-9 41,-9;
        wall+ flat 36,-10 36,-7 8,2 8,-1""",
    "kiosk": """white box -70,-75 30,6; white box -20,-75 30,6; white box 30,-75 30,6;
        accent box -55,-50 30,30; wall+ box -52,-47 24,12; wall- box 40,-90 13,93""",
    "corridor": """wall- flat 30,-50 150,-95 150,90 30,0; accent line3 30,-22 150,-14;
        accent box -12,-40 24,40""",
    "bag": "black line2 7,0 5,-10 0,-10; cloth half 0,0 16,0 18,18 0,18; cloth- line1 0,4 15,4",
    "bust": """skin half 0,30 20,30 19,50 24,66 20,80 0,82;
        cloth,-8 half 0,70 20,62 50,72 82,86 95,120 100,260 0,280;
        skin half 0,60 18,60 12,74 0,82; -35 half 0,30 22,30 20,56 0,64""",
    "figure": """-40 ball 0,692 70,10; trousers flat 3,300 52,320 46,520 42,668 14,668 8,500;
        trousers-- line1.5 6,350 10,500 15,660; black ball 29,678 20,13;
        skin half 0,30 20,30 19,50 24,66 20,80 0,82; skin ball 90,318 11,17;
        cloth- line27 76,92 88,150 92,230 90,298;
        cloth,-8 half 0,70 20,62 50,70 76,78 84,96 78,150 68,230 64,300 60,352 0,356;
        cloth-- line1.5 70,120 72,180 66,290; cloth- line1.5 0,90 1,350;
        skin half 0,60 18,60 12,74 0,82; -35 half 0,30 22,30 20,56 0,64""",
    "portrait": """skin half 0,30 20,30 19,50 24,66 20,80 0,82;
        cloth flat 0,72 20,66 44,74 58,84 58,96 0,96; skin half 0,60 18,60 12,74 0,82""",
    "scarf": "cloth+ half 0,66 26,60 33,70 25,82 0,88; cloth line1 0,76 15,74 29,68",
    "head": """skin^-9 ball 36.5,5 5,10; skin-^-9 ball 37,6 2.5,6;
        skin,-16 half 0,-50 20,-47 32,-33 36,-10 35,10 31,28 23,42 11,50 0,51;
        +4^0 half 0,-44 16,-42 26,-29 29,-10 28,10 25,25 18,37 9,44 0,45""",
    "eyes": """-10^0 ball 15.5,1 9,6.5; white^0 ball 15.5,2 7.2,3.2;
        skin--^0 line1.4 7.5,2.5 11,-.5 15.5,-1.5 20,-.5 23.5,2.5""",
    "irises": "iris^0 ball 15.5,2 3,2.9; black^0 ball 15.5,2 1.4,1.4; white^0 ball 16,1 .6,.6",
    "brows": "hair^0 line2.4 7.5,-7 16,-9 24,-6",
    "nose": """skin-^3 half 0,0 1.5,0 4.5,10 8,19 7,22.5 0,23.5; skin^6 half 0,0 2,10 5,18 0,21.5;
        +16^6 half 0,2 2,10 4.5,18 0,21; skin--^3 line1.2 7,16.5 8.5,19.5 6.5,22.2;
        skin--^5 ball 3.4,21.8 2.2,1.1; -14^3 half 0,22 9,25 0,28""",
    "beard": "beard^0 half 0,24 10,26 20,24 30,6 35,4 34,25 25,45 12,54 0,56",
    "moustache": "hair^3 half 0,24.5 8,25 13.5,30 10,30 0,28.5",
    "calm": "lip^1 half 0,31 4,30 13,33 6,37 0,38; lip--^1 half 0,33.4 13,33 0,34.6",
    "smile": "lip^1 half 0,31 4,30 16,30 7,37 0,38; lip--^1 half 0,33.4 9,32.5 16,30 7,34.6 0,35",
    "grin": """lip^1 half 0,30 4,29.5 17,30 8,39 0,41; lip--^1 half 0,32 5,32 14,31 7,36.5 0,38;
        white^1 half 0,32.4 8,32.2 6,34.6 0,35""",
    "gape": "lip^1 half 0,30 4,29.5 12,34 7,42 0,44; lip--^1 half 0,32.5 5,32.5 9,34 5,39 0,40",
    "behind long": "hair- half 0,-50 40,-20 44,30 47,78 40,88 0,88",
    "behind afro": "hair half 0,-68 30,-62 50,-40 52,-12 40,14 0,20",
    "behind bun": "hair half 0,-76 12,-71 13,-58 0,-50",
    "short": """hair half 0,-56 20,-54 34,-42 38,-20 37,2 33,2 32,-14 27,-29 14,-34 0,-34;
        +14 ball 8,-45 8,5""",
    "fringe": """hair half 0,-57 22,-55 36,-42 40,-15 38,12 33,10 31,-10 24,-13 12,-15 0,-14;
        +14 ball 8,-42 8,6""",
    "long": """hair half 0,-57 22,-55 37,-42 43,-10 44,30 46,70 42,84 35,72 34,30 33,0 26,-24
        10,-36 0,-38; +14 ball 10,-45 9,4""",
    "cap": """cloth half 0,-60 20,-57 34,-44 39,-22 34,-19 20,-24 0,-26; +14 ball 8,-48 8,5;
        cloth--^2 half 0,-27 24,-25 37,-17 25,-13 0,-11""",
    "beanie": """cloth half 0,-62 20,-59 35,-46 40,-22 36,-17 20,-20 0,-21;
        cloth+ half 0,-33 38,-30 39,-18 0,-20""",
    "hijab": """cloth half 0,-57 25,-53 40,-32 43,0 41,30 44,60 50,80 20,90 0,92 0,92 0,51 0,51
        20,43 28,30 31,10 30,-12 20,-27 0,-30; cloth- line1.2 34,10 33,40 10,74""",
    "glasses": """rim^4 line1.6 8,10 5,3 8,-4 16,-6 24,-4 27,3 24,10 16,12 8,10;
        rim^6 line1.6 0,-.5 5,1; rim line1.6 27,0 36,-1""",
    "nape": "hair half 0,-57 25,-53 38,-30 38,0 31,30 20,42 0,44; +12 ball 8,-25 10,12",
    "on nose": """mask+^0 line1.2 32,19 36,-2; mask+^0 line1.2 25,40 36,13;
        -30^2 half 0,20 30,22 33,30 25,45 16,55 0,58;
        mask,-8^2 half 0,10 10,12.5 24,15 32.5,17 33,24 25,40 18,49 9,53.5 0,54""",
    "on mouth": """mask+^0 line1.2 30,29 36,-2; mask+^0 line1.2 24,43 36,13;
        -30^2 half 0,34 29,30 30,38 24,48 16,58 0,61;
        mask,-8^2 half 0,27 10,27 22,27 30.5,27.5 30,33 24,43 18,52 9,56.5 0,57""",
    "on chin": """mask+^0 line1.2 25,37 36,-2; mask+^0 line1.2 23,50 36,13;
        -30^2 half 0,50 24,42 23,56 14,65 0,68;
        mask,-8^2 half 0,43 9,42.5 18,39.5 25,35 26,40 23,52 16,60 8,63.5 0,64""",
    "pleats": """mask-^2 line.8 0,-18 9,-15.5; mask-^2 line.8 0,-4 10,-5 24,-8;
        mask-^2 line.8 0,4 10,3 23,0; mask-^2 line.8 0,12 10,11 19,8; +10^2 ball 5,-4 12,8""",
    "ridge": "+12^2 ball 12,-2 8,12; mask-^2 line1.4 0,-22 .5,0 0,21",
    "dots": """mask-^2 ball 5,-9 2,2; mask-^2 ball 16,-9 2,2; mask-^2 ball 10,-2 2,2;
        mask-^2 ball 5,5 2,2; mask-^2 ball 15,5 2,2; mask-^2 ball 9,12 2,2""",
    "stripes": """mask-^2 line3 0,-9 12,-10 25,-12; mask-^2 line3 0,0 12,-1 23,-4;
        mask-^2 line3 0,9 10,8 18,5""",
    "reception": """-30 ball 0,0 130,8; accent-- box -120,-108 240,108; wall- box -112,-92 104,84;
        wall- box 8,-92 104,84; accent box -126,-114 252,10; black box 40,-150 46,32;
        black box 60,-120 6,8; white box -70,-118 24,4""",
    "plant": """-30 ball 0,0 30,5; leaf-- line5 0,-40 12,-100 40,-124; leaf line6 0,-40 24,-74 48,-72;
        leaf- line6 0,-40 6,-120 12,-164; leaf+ line5 0,-40 14,-84 26,-146;
        accent-- half 0,-46 20,-46 15,0 0,0""",
    "bench": """-30 ball 0,0 95,7; black flat 62,-40 68,-40 68,0 62,0; accent- box -85,-84 170,34;
        accent box -90,-50 180,14""",
    "doors": """accent-- box -108,-236 216,236; glass box -100,-228 97,224; glass box 3,-228 97,224;
        glass+ flat 20,-228 46,-228 24,-4 10,-4; lamp box -26,-262 52,18""",
    "lift": """accent-- box -72,-226 144,226; wall-- box -64,-218 62,218; wall-- box 2,-218 62,218;
        wall box -61,-215 56,215; wall box 5,-215 56,215; black box 84,-124 10,22; lamp box -10,-244 20,12""",
    "board": """accent-- box -62,-190 124,90; white box -57,-185 114,80; wall- box -48,-176 40,30;
        accent box 6,-176 40,24; wall- box -48,-138 40,22; wall- box 6,-144 40,30""",
    "clock": "black ball 0,-250 20,20; white ball 0,-250 17,17; black line2 0,-250 9,-250",
    "banner": """-30 ball 0,0 54,5; black box -50,-6 100,6; white box -46,-206 92,200;
        accent box -46,-206 92,20; accent box -40,-70 80,12; wall- box -34,-50 68,6;
        wall- box -34,-38 68,6; accent-- box -46,-22 92,16""",
}


@cache
def read_shapes(art: str) -> list[tuple[list[str], float | None, float, Points]]:
    """Read one of ART into (paints, lift, line width or 0, outline (N, 2)), in whole units."""
    shapes = []
    for text in filter(None, ART.get(art, "").split(";")):
        paint, kind, *pairs = text.split()
        paints, _, lift = paint.partition("^")
        points = np.array([pair.split(",") for pair in pairs], np.float64) / 100
        if kind == "half":
            points = _smooth(np.concatenate([points, points[-2:0:-1] * (-1, 1)]), "wrap")
        elif kind == "box":
            points = points[0] + points[1] * ((0, 0), (1, 0), (1, 1), (0, 1))
        elif kind == "ball":
            turn = np.linspace(0, 2 * np.pi, 24)
            points = points[0] + points[1] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        elif kind != "flat":
            points = _smooth(points, "edge")[:-4]
        width = float(kind[4:]) / 100 if kind.startswith("line") else 0
        for outline in (points,) if kind in ("half", "box") else (points, points * (-1, 1)):
            shapes.append((paints.split(","), float(lift) / 100 if lift else None, width, outline))
    return shapes


def _smooth(points: Points, ends: Literal["wrap", "edge"]) -> Points:
    """Round a closed ("wrap") or open outline (N, 2): a Catmull-Rom spline, five steps a point."""
    t = np.linspace(0, 1, 5, endpoint=False)[:, None]
    basis = (2 * t**2 - t - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
    padded = np.pad(points, ((1, 2), (0, 0)), ends)
    control = np.stack([padded[k : k + len(points)] for k in range(4)], axis=1)
    return (np.hstack(basis) / 2 @ control).reshape(-1, 2)
