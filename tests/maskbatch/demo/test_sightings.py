from hypothesis import given
from hypothesis import strategies as st

from maskbatch.demo.sightings import _count_faces, match_boxes
from maskbatch.drawing.gate import LABELS

boxes = st.tuples(*[st.floats(0, 500, width=16)] * 2, *[st.floats(1, 300, width=16)] * 2).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)
faces = st.fixed_dictionaries(
    {
        "label": st.sampled_from(LABELS[:3]),
        "box": boxes,
        "visible": st.floats(0, 1),
        "poster": st.booleans(),
        "found": st.booleans(),
        "right": st.booleans(),
    }
)
CLEAR = {"box": [0, 0, 50, 60], "visible": 1.0, "poster": False, "found": True, "right": True}


@given(st.lists(boxes), st.lists(boxes))
def test_a_box_that_is_found_belongs_to_one_face_at_most(
    drawn: list[list[float]], found: list[list[float]]
) -> None:
    matches = match_boxes(drawn, found)
    known = [k for k in matches if k is not None]
    assert len(matches) == len(drawn) and len(set(known)) == len(known)
    assert all(k < len(found) for k in known)


def test_the_nearest_boxes_are_matched_and_far_ones_are_not() -> None:
    drawn = [[0, 0, 100, 100], [30, 0, 130, 100], [500, 500, 520, 520]]
    found = [[28, 0, 128, 100], [5, 0, 105, 100], [200, 500, 220, 520]]
    assert match_boxes(drawn, found) == [1, 0, None]


@given(st.lists(faces))
def test_every_drawn_face_is_counted_once(drawn: list[dict[str, object]]) -> None:
    drawn = [*drawn, CLEAR | {"label": "with_mask"}]
    counts = _count_faces(drawn)
    others = [counts[name] for name in ("too_small", "hidden", "poster")]
    for table in ("labels", "sizes"):
        rows = [*counts[table].values(), *others]
        assert sum(row[0] for row in rows) == len(drawn)
        assert sum(row[1] for row in rows) == sum(bool(face["found"]) for face in drawn)


def test_compliance_is_that_of_people_in_sight() -> None:
    others = ({"visible": 0.5}, {"poster": True}, {"box": [0, 0, 9, 9]})
    drawn = [CLEAR | {"label": label} for label in (*LABELS[:3], "with_mask")]
    masked = [CLEAR | {"label": "with_mask"} | other for other in others]
    counts = _count_faces([*drawn, *masked])
    assert counts["true_compliance"] == 0.5
    assert [counts[name][0] for name in ("hidden", "poster", "too_small")] == [1, 1, 1]
