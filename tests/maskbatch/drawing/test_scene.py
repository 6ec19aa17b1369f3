from dataclasses import replace

import numpy as np
import pytest

from maskbatch.drawing.scene import HEADS, Face, Lobby, Person, draw_scene

SIZE = 1280, 720
LOBBY = Lobby.draw_lots(SIZE, np.random.default_rng(3))


def person(label: str = "with_mask", x: float = 0.0, z: float = 3.0, seed: int = 1) -> Person:
    return Person(label=label, x=x, z=z, head_y=1.6, head=1.7 / HEADS, seed=seed)


def draw(*people: Person, lobby: Lobby = LOBBY, seed: int = 1) -> tuple[np.ndarray, list[Face]]:
    picture, faces = draw_scene(people, lobby, np.random.default_rng(seed))
    return np.asarray(picture, np.int16), faces


def test_the_same_seed_draws_the_same_pixels_and_another_does_not() -> None:
    crowd = LOBBY.gather(["with_mask", "without_mask", "no_face"], np.random.default_rng(5))
    picture, faces = draw(*crowd)
    again, same_faces = draw(*crowd)
    assert np.array_equal(picture, again) and faces == same_faces
    assert not np.array_equal(picture, draw(*crowd, seed=2)[0])


@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080), (720, 1280)])
def test_a_scene_has_the_size_of_its_camera(size: tuple[int, int]) -> None:
    picture, _ = draw_scene([], replace(LOBBY, size=size), np.random.default_rng(1))
    assert picture.size == size


@pytest.mark.parametrize("z", [1.0, 2.5, 6.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_mask_changes_the_lower_half_of_the_box_and_hardly_anything_else(z: float, seed: int) -> None:
    masked, (face,) = draw(person("with_mask", z=z, seed=seed))
    bare, (same,) = draw(person("without_mask", z=z, seed=seed))
    assert masked.shape == bare.shape and face.box == same.box and face.visible > 0.99
    changed = np.abs(masked - bare).max(axis=2) > 40
    x0, y0, x1, y1 = map(round, face.box)
    middle, margin = (y0 + y1) // 2, round(0.12 * (y1 - y0))
    assert changed[middle:y1, x0:x1].mean() > 0.5
    around = changed.copy()
    around[y0 - margin : y1 + margin, x0 - margin : x1 + margin] = False
    assert around.sum() < 0.01 * (x1 - x0) * (y1 - y0)


def test_a_face_behind_another_is_hidden() -> None:
    _, (behind, before) = draw(person(z=3.2, seed=1), person(z=3.0, seed=2))
    assert behind.visible < 0.3 and before.visible > 0.99


def test_a_face_at_the_border_is_cut_and_one_beyond_it_is_not_visible() -> None:
    edge = 3.0 * SIZE[0] / 2 / LOBBY.scale(1)
    _, (face,) = draw(person(x=edge))
    assert 0.4 < face.visible < 0.6 and face.box[2] == SIZE[0] and face.box[0] < SIZE[0]
    _, (beyond,) = draw(person(x=edge + 1))
    assert beyond.visible == 0


def test_who_looks_away_shows_no_face() -> None:
    empty, _ = draw()
    picture, faces = draw(person("no_face"))
    assert faces == [] and (np.abs(picture - empty).max(axis=2) > 30).mean() > 0.01


def test_a_poster_is_the_only_face_of_an_empty_lobby_and_stands_still() -> None:
    lobby = Lobby.draw_lots(SIZE, np.random.default_rng(3), poster=True)
    _, (face,) = draw(lobby=lobby)
    assert face.poster and face.label == "with_mask" and face.visible > 0.95
    _, faces = draw(person(), lobby=lobby, seed=2)
    assert [(f.box, f.poster) for f in faces if f.poster] == [(face.box, True)]
    assert draw()[1] == []


def test_faces_are_of_many_sizes() -> None:
    crowd = LOBBY.gather(["with_mask"] * 200, np.random.default_rng(1))
    heights = [0.83 * p.head * LOBBY.scale(p.z) for p in crowd]
    assert 18 < min(heights) < 28 and 160 < max(heights) < 260
    assert all(0 < LOBBY.project(p.x, p.head_y, p.z)[0] < SIZE[0] for p in crowd)
