"""The rows of one image as they were committed, and as they come out again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from maskbatch.geometry import measure_overlap
from maskbatch.schema import MAY_HEAL, MEASURES
from maskbatch.verify.result import Verification
from maskbatch.verify.tolerance import TOLERANCES, Row, Tolerance

ELSEWHERE_CONFIDENCE = 0.05
"""Between confidences of one face in bfloat16, or on two devices."""
SAME_OVERLAP = 0.5
"""Boxes that overlap so much, as intersection over union, are of one face there."""
ELSEWHERE = (
    "id", "uri", "site", "camera", "error", "label", "confidence", "needs_review", "num_faces",
)  # fmt: skip
"""Columns that `rows` and `faces` check, and `error`, which is in a library's words."""
FROM_EXIF = ("captured_at", "captured_local", "time_source")
DAMAGED = ("corrupt", "truncated")
Differ = Callable[[str, object, object], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """How a run looked for faces, and how closely they are found again."""

    threshold: float
    """The least confidence of a face."""
    detect_px: int
    """The longest side of what the detector saw."""
    is_exact: bool
    """Whether device, dtype and decoder are those of the run, and give the same box to a pixel.

    Another device, or bfloat16, may put a box a cell of the heat map beside: on photographs up to a tenth of
    its side, and confidences .03 off.
    """
    tolerance: Tolerance = TOLERANCES["cpu"]

    def is_same(self, old: Row, new: Row, picture: Row) -> bool:
        """Whether two boxes are of one face."""
        if not self.is_exact:
            return bool(measure_overlap(old["box"], new["box"]) >= SAME_OVERLAP)
        longest_px = float(max(picture["width"], picture["height"]))
        return _shift_px(old, new) <= max(1.0, longest_px / self.detect_px)

    @property
    def confidence(self) -> float:
        """The most between confidences of one face."""
        return max(self.tolerance.confidence, 0 if self.is_exact else ELSEWHERE_CONFIDENCE)

    def is_near(self, face: Row, faces: Sequence[Row], num_left_out: int | None) -> bool:
        """Whether a face is so little above the threshold that another device or decoder may not find it.

        Where faces were left out, the least confident of those that were not is the threshold.
        """
        least = min(row["face_confidence"] for row in faces) if num_left_out else self.threshold
        return bool(face["face_confidence"] - least <= self.tolerance.confidence)


def compare_images(
    old: Sequence[Row],
    new: Sequence[Row],
    classes: Sequence[str],
    result: Verification,
    finding: Finding | None = None,
    own: Sequence[Row] = (),
    *,
    tolerance: Tolerance = TOLERANCES["cpu"],
    is_older: bool = False,
) -> None:
    """Compare the committed rows of an image, its faces after it, with those of the same image scored again.

    `own` are the committed faces, cut out where they were found and scored again: so their measures and
    probabilities do not depend on a box that the detector puts elsewhere now.
    Of rows that are `is_older` than our decode rules, another status or time from EXIF is only counted.
    """
    differ = _make_differ(old[0], old[0]["uri"], result)
    if not _compare_pictures(old[0], new[0], result, tolerance, differ, is_older=is_older):
        return
    result.rescored += 1
    if finding is None:
        result.bit_equal += _compare_probs(old[0], new[0], classes, result, tolerance, differ)
        return
    equal = _compare_places(old, new, result, finding, differ)
    for was, again in zip(old[1:], own, strict=True):
        equal &= _compare_crop(was, again, classes, result, tolerance)
    result.bit_equal += equal


def _make_differ(row: Row, name: str, result: Verification) -> Differ:
    def differ(what: str, expected: object, got: object) -> None:
        result.differ(row["file"], f"{what} of {name}", expected, got, row["id"])

    return differ


def _compare_pictures(
    old: Row, new: Row, result: Verification, tolerance: Tolerance, differ: Differ, *, is_older: bool
) -> bool:
    """Compare whole-image rows; whether they are of the same bytes, and both ok."""
    result.sampled += 1
    failed = old["status"] != "ok"
    result.still_failing += failed and new["status"] != "ok"
    if old["status"] != new["status"]:
        result.healed += old["status"] in MAY_HEAL and new["status"] == "ok"
        if tolerance.hides_damage and _is_damaged_inside(old, new):
            result.damaged_inside += 1
        elif old["status"] not in MAY_HEAL and is_older and _is_of_rules(old, new):
            result.changed_status += 1
        elif old["status"] not in MAY_HEAL:
            why = f" ({new['error']})" if new["error"] else ""
            differ("status", old["status"], f"{new['status']}{why}")
        return False
    if old["sha256"] != new["sha256"]:
        differ("sha256", old["sha256"], new["sha256"])
        return False
    changed_time = is_older and any(old[name] != new[name] for name in FROM_EXIF)
    result.changed_time += changed_time
    passed = (*ELSEWHERE, *FROM_EXIF) if changed_time else ELSEWHERE
    for name in new:
        if name not in passed and not name.startswith("prob_") and not tolerance.is_alike(name, old, new):
            differ(name, old[name], new[name])
    return not failed


def _is_damaged_inside(old: Row, new: Row) -> bool:
    """Whether a decoder that forgives damage called `ok` what ours, of the same bytes, does not."""
    return bool(old["status"] == "ok" and new["status"] in DAMAGED and old["sha256"] == new["sha256"])


def _is_of_rules(old: Row, new: Row) -> bool:
    """Whether other decode rules may explain another status: the bytes came, and are the same."""
    same_bytes = old["sha256"] in (None, new["sha256"])
    return same_bytes and new["status"] not in ("missing", "read_error")


def _compare_probs(
    old: Row,
    new: Row,
    classes: Sequence[str],
    result: Verification,
    tolerance: Tolerance,
    differ: Differ,
) -> bool:
    """Compare probabilities, and the label unless two classes are close; whether nothing differs at all."""
    probs, again = (np.array([row[f"prob_{name}"] for name in classes], float) for row in (old, new))
    apart = np.abs(probs - again)
    worst = int(apart.argmax())  # a null is NaN, which argmax takes for the most
    result.largest_difference = max(result.largest_difference, float(np.nanmax(apart, initial=0)))
    if tolerance.prob < apart[worst] <= tolerance.most_prob:
        result.far_apart += 1
        return False
    if not apart[worst] <= tolerance.prob:
        differ(f"prob_{classes[worst]}", f"{probs[worst]:.6g}", f"{again[worst]:.6g}")
    named = again[[name == old["label"] for name in classes]].max(initial=0)
    if old["label"] != new["label"] and again.max() - named > tolerance.label_gap:
        differ("label", old["label"], new["label"])
    return bool((apart == 0).all())


def _compare_places(
    old: Sequence[Row], new: Sequence[Row], result: Verification, finding: Finding, differ: Differ
) -> bool:
    """Compare boxes of a picture's faces, that come after its row; whether all are bit for bit equal."""
    equal = len(old) == len(new)
    sides = [(rows[1:], rows[0]["num_faces_left_out"]) for rows in (old, new)]
    for was, now in _pair_faces(old[1:], new[1:]):
        near = [
            row is not None and finding.is_near(row, *side)
            for row, side in zip((was, now), sides, strict=True)
        ]
        if was and now and (finding.is_same(was, now, new[0]) or not any(near)):
            equal &= _compare_place(was, now, new[0], result, finding)
            continue
        equal = False
        result.faces_near_threshold += sum(near)
        if was and not near[0]:
            differ(f"face {was['region']}", _show_box(was), "none")
        if now and not near[1]:
            differ("faces", f"none at {_show_box(now)}", "one")
    return equal


def _compare_place(old: Row, new: Row, picture: Row, result: Verification, finding: Finding) -> bool:
    """Compare the boxes of one face; whether nothing differs at all."""
    differ = _make_differ(old, _name(old), result)
    if not finding.is_same(old, new, picture):
        differ("box", _show_box(old), _show_box(new))
        return False
    shift_px = _shift_px(old, new)
    result.largest_shift_px = max(result.largest_shift_px, shift_px)
    was, now = old["face_confidence"], new["face_confidence"]
    if abs(was - now) > finding.confidence:
        differ("face_confidence", f"{was:.6g}", f"{now:.6g}")
    return shift_px == 0 and bool(was == now)


def _compare_crop(
    old: Row, new: Row, classes: Sequence[str], result: Verification, tolerance: Tolerance
) -> bool:
    """Compare what is in one box; whether its probabilities are bit for bit equal."""
    result.faces_rescored += 1
    differ = _make_differ(old, _name(old), result)
    for name in MEASURES:
        if not tolerance.is_alike(name, old, new):
            differ(name, old[name], new[name])
    return old["label"] is None or _compare_probs(old, new, classes, result, tolerance, differ)


def _pair_faces(old: Sequence[Row], new: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """Each face beside the one that is nearest, and those that only one side has beside None."""
    from scipy.optimize import linear_sum_assignment

    boxes, again = (np.array([row["box"] for row in rows], float).reshape(-1, 4) for rows in (old, new))
    apart = np.abs(boxes[:, None] - again[None]).max(axis=2)
    first, second = linear_sum_assignment(np.sqrt(apart))  # one far pair rather than many that are near
    pairs = [(old[i], new[k]) for i, k in zip(first, second, strict=True)]
    alone = [(row, None) for i, row in enumerate(old) if i not in first]
    return [*pairs, *alone, *((None, row) for k, row in enumerate(new) if k not in second)]


def _shift_px(old: Row, new: Row) -> float:
    return float(np.abs(np.subtract(old["box"], new["box"])).max())


def _name(face: Row) -> str:
    return f"face {face['region']} of {face['uri']}"


def _show_box(face: Row) -> str:
    return "(" + ", ".join(f"{side:.1f}" for side in face["box"]) + ")"
