import numpy as np
import pytest
from PIL import Image

from maskbatch.review.blur import BLUR_CELLS, blur_others

SIZE = (120, 80)


def noise(seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    return Image.fromarray(values)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def test_other_faces_keep_a_few_colours_and_the_rest_of_the_picture_is_untouched() -> None:
    image, own, other = noise(), (10, 10, 40, 50), (70, 20, 100, 60)
    out = blur_others(image, [own, other], 0)
    before, after = pixels(image), pixels(out)
    changed = (before != after).any(axis=2)
    assert changed[20:60, 70:100].mean() > 0.99
    assert not changed[:, :64].any() and not changed[:13].any() and not changed[67:].any()
    parts = [picture[14:66, 66:104] for picture in (before, after)]
    steps = [np.abs(np.diff(part, axis=1)).mean() for part in parts]
    assert steps[1] < steps[0] / 20


def test_pictures_that_differ_in_nothing_but_the_detail_of_other_faces_become_the_same() -> None:
    part, box = (40, 20, 80, 60), (44.7, 24.7, 75.3, 55.3)
    one, two = noise(1), noise(1)
    cell = 40 // BLUR_CELLS
    for x in range(part[0], part[2], cell):
        for y in range(part[1], part[3], cell):
            place = (x, y, x + cell, y + cell)
            two.paste(one.crop(place).transpose(Image.Transpose.ROTATE_180), place)
    assert one.tobytes() != two.tobytes()
    own = (0, 0, 20, 20)
    assert blur_others(one, [own, box], 0).tobytes() == blur_others(two, [own, box], 0).tobytes()


def test_where_faces_overlap_each_pixel_is_of_the_face_whose_middle_is_nearer() -> None:
    image, left, right = noise(2), (20, 20, 60, 60), (50, 20, 90, 60)
    for own, kept, blurred in (
        (0, np.s_[20:60, 20:50], np.s_[20:60, 56:94]),
        (1, np.s_[20:60, 60:90], np.s_[20:60, 16:54]),
    ):
        changed = (pixels(image) != pixels(blur_others(image, [left, right], own))).any(axis=2)
        assert not changed[kept].any()
        assert changed[blurred].mean() > 0.99


@pytest.mark.parametrize(
    "box", [(0, 0, 120, 80), (-5, 70, 3, 95), (60.2, 40.2, 61.4, 41.3), (119.5, 0, 120, 1)]
)
def test_a_face_of_any_size_at_the_border_is_blurred_and_the_own_one_stays(box: tuple[float, ...]) -> None:
    image, own = noise(3), (30, 30, 40, 42)
    out = blur_others(image, [box, own], 1)
    assert out.size == SIZE
    assert out.crop((33, 33, 38, 40)).tobytes() == image.crop((33, 33, 38, 40)).tobytes()
    x, y = int(max(box[0], 0)), int(min(max(box[1], 0), SIZE[1] - 1))
    assert (pixels(out)[y : y + 4, x : x + 4] != pixels(image)[y : y + 4, x : x + 4]).any()


def test_a_face_alone_is_left_as_it_is() -> None:
    assert blur_others(noise(), [(10, 10, 50, 50)], 0).tobytes() == noise().tobytes()
