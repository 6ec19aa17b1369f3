"""What a check of a committed run found: counts, and differences."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskbatch.verify.tolerance import TOLERANCES

Values: TypeAlias = pa.Array | pa.ChunkedArray
KEPT = 100
"""Differences to keep; all are counted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was committed or planned."""

    file: str
    """Below the run directory; or the archive, or the checkpoint."""
    id: int | None
    """Of the image; None where it is not about one."""
    what: str
    expected: str
    got: str

    def __str__(self) -> str:
        where = self.file if self.id is None else f"{self.file}, id {self.id}"
        return f"{where}: {self.what}: expected {self.expected}, got {self.got}"


@dataclass(kw_only=True, slots=True)
class Verification:
    """What was checked, and what differs."""

    success_sha256: str
    seed: int
    """Of the sample; the same one draws the same images."""
    decoder: str = "cpu"
    """What decoded the run's baseline JPEGs; here it is always the CPU."""
    files: int = 0
    rows: int = 0
    """Whole-image rows of scores/."""
    faces: int | None = None
    """Rows of faces; None in a run of the view `face`."""
    sampled: int = 0
    """Images read again from the archive."""
    rescored: int = 0
    """Of these, those that were ok, and are."""
    faces_rescored: int = 0
    """Faces that were found in these again, and compared."""
    faces_near_threshold: int = 0
    """Faces that came or went there, so close to the detector's threshold that devices may differ."""
    bit_equal: int = 0
    """Images of `rescored` whose probabilities, and faces, are the same to the last bit."""
    largest_difference: float = 0.0
    """Between a committed probability and the same one computed again."""
    largest_shift_px: float = 0.0
    """Between a side of a committed box and the same one found again, in pixels of the source."""
    far_apart: int = 0
    """Images or faces of a run of another decoder with probabilities further apart than those of most."""
    damaged_inside: int = 0
    """Sampled images that are `ok` by another decoder, and by ours, of the same bytes, are not."""
    healed: int = 0
    """Sampled images that failed in the run in a way that may heal, and are ok now."""
    still_failing: int = 0
    """Sampled images that failed in the run, and do so still."""
    changed_status: int = 0
    """Sampled images whose rows follow older decode rules than ours, and that have another status by ours."""
    changed_time: int = 0
    """Of such rows, those whose time from EXIF is another by ours."""
    num_differences: int = 0
    differences: list[Difference] = field(default_factory=list)
    """The first KEPT of them."""

    @property
    def verified(self) -> bool:
        return not self.num_differences

    def add(self, count: int, found: Iterable[Difference]) -> None:
        """Count `count` differences, and keep of `found` what there is room for."""
        self.num_differences += count
        self.differences += islice(found, KEPT - len(self.differences))

    def differ(self, file: str, what: str, expected: object, got: object, image: int | None = None) -> None:
        self.add(1, [Difference(file, image, what, str(expected), str(got))])

    def mark(self, rows: pa.Table, wrong: Values, what: str, expected: str | Values, got: Values) -> None:
        """A difference for each of `rows` (N,) where `wrong` (N,) bool; `expected` and `got` (N,) too."""
        places = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))

        def text(values: str | Values, k: int) -> str:  # as Arrow writes it: Python has no year 20,000
            if isinstance(values, str):
                return values
            value = values[k]
            return str(value.as_py() if pa.types.is_list(value.type) else value.cast(pa.string()))

        differences = (
            Difference(str(rows["file"][k]), rows["id"][k].as_py(), what, text(expected, k), text(got, k))
            for k in places.tolist()
        )
        self.add(len(places), differences)

    def compare(self, rows: pa.Table, what: str, expected: Values, got: Values) -> None:
        """Two columns beside `rows` are equal; nulls too."""
        unequal = pc.fill_null(pc.not_equal(expected, got), True)
        neither = pc.and_(pc.is_null(expected), pc.is_null(got))
        self.mark(rows, pc.and_not(unequal, neither), what, expected, got)

    def check_far_apart(self) -> None:
        """No more images or faces are far apart than another decoder explains."""
        tolerance, unit = TOLERANCES[self.decoder], "images" if self.faces is None else "faces"
        judged = self.rescored if self.faces is None else self.faces_rescored
        most = ceil(tolerance.share_far * judged)
        if self.far_apart > most:
            expected = f"at most {most:,} of {judged:,} {unit} more than {tolerance.prob:g} apart"
            self.differ("scores", "probabilities", expected, f"{self.far_apart:,}")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"verified": self.verified, **asdict(self)}

    def __str__(self) -> str:
        found = "verified" if self.verified else f"NOT verified (differences: {self.num_differences:,})"
        faces = "" if self.faces is None else f", {self.faces:,} faces"
        text = f"{found}: {self.files:,} files, {self.rows:,} images{faces}; "
        text += f"sha256 of _SUCCESS {self.success_sha256}."
        if not self.sampled:
            return f"{text} No image was read again."
        text += (
            f" {self.sampled:,} images read again (--seed {self.seed}), {self.rescored:,} of them "
            f"scored again{'' if self.faces is None else f' with {self.faces_rescored:,} faces'}: "
            f"{self.bit_equal:,} equal to the last bit, "
            f"probabilities at most {self.largest_difference:.2g} apart"
            f"{'' if self.faces is None else f', boxes at most {self.largest_shift_px:.2g} pixels'}."
        )
        if self.decoder != "cpu":
            text += f" {self._explain_decoder()}"
        if self.faces_near_threshold:
            noun = "face" if self.faces_near_threshold == 1 else "faces"
            text += f" {self.faces_near_threshold:,} {noun} near the detector's threshold came or went."
        if self.still_failing:
            text += f" {self.still_failing:,} failed in the run, and do so still."
        if self.healed:
            text += f" {self.healed:,} failed in the run, and can be read now."
        for what, count in (("status", self.changed_status), ("time", self.changed_time)):
            if count:
                text += f" {count:,} of {self.sampled:,} changed {what} under newer decode rules."
        return text

    def _explain_decoder(self) -> str:
        """Which tolerance was used, why, and what was found within it."""
        tolerance, unit = TOLERANCES[self.decoder], "image" if self.faces is None else "face"
        judged = self.rescored if self.faces is None else self.faces_rescored
        text = (
            f"The run decoded JPEGs on the {self.decoder.upper()}, this check on the CPU, and their pixels "
            f"differ a little: so probabilities may be {tolerance.prob:g} apart, brightness and contrast "
            f"{255 * tolerance.level:g} grey levels, sharpness {tolerance.sharpness:.0%}, dhash "
            f"{tolerance.dhash_bits} bits."
        )
        if self.far_apart:
            may = f"{tolerance.share_far:.0%} may be, by up to {tolerance.most_prob:g}"
            text += f" Further apart: {self.far_apart:,} of {judged:,} {unit}s ({may})."
        if self.damaged_inside:
            noun = "image that it called" if self.damaged_inside == 1 else "images that it called"
            text += f" {self.damaged_inside:,} {noun} ok: damaged inside, says the CPU's decoder."
        return text
