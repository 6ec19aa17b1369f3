"""Cells to the tables of the report: counts, shares, compliance with its interval and corrected, by group.

In whole scenes images are listed and scored, and faces are assessed: a face is one sighting. Each of them is
left out, too small to assess, a false alarm of the detector, or assessed. Beside the rate of faces stands the
share of pictures, of those with anyone assessed, in which everyone assessed complies.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.report import cells as cells_module
from maskbatch.report.intervals import FEW_CLUSTERS, DesignEffects, estimate_design_effects, wilson
from maskbatch.report.prevalence import Correction, Found, correct_shares
from maskbatch.runs.committed import Meaning

GROUPINGS: dict[str, tuple[str, ...]] = {
    "overall": (),
    "by_site": ("site",),
    "by_camera": ("site", "camera"),
    "by_day": ("date",),
    "by_hour": ("hour",),
    "by_weekday": ("weekday",),
    "by_camera_day": ("site", "camera", "date"),
}
"""Weekdays are 1, Monday, to 7."""
CAMERA_DAY = ("site", "camera", "date")
SIZE_BAND = ("size_band",)
"""The grouping of the table `by_size`, which only whole scenes have."""
KEYS = ("site", "camera", "date", "hour", "weekday", "kept", "label", "size_band")
PICTURES = ("pictures_assessed", "pictures_compliant")
FACES = ("faces", "too_small", "false_alarms")
CORRECTED = ("corrected", "corrected_low", "corrected_high")
KEY_TYPES = {"hour": pa.int64(), "weekday": pa.int64()}
Row = dict[str, Any]
Counts = NDArray[np.int64]


class Tables:
    """Every table over one set of cells."""

    def __init__(
        self,
        cells: pa.Table,
        meaning: Meaning,
        confusion: Sequence[Sequence[int]] | None = None,
        exclude: Sequence[str] = (),
        view: str = "face",
        boxed: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> None:
        """`confusion`: held-out counts, true by predicted, if they can correct; `exclude`: conditions.

        `boxed`: of scenes, held-out faces `[found, boxed]` by class and size band.
        """
        self.meaning, self.view = meaning, view
        self.boxed = None if boxed is None else np.array(boxed, np.int64)
        self.confusion = None if confusion is None else np.array(confusion, np.int64)
        self._frame = _count(cells, meaning, exclude, view)
        self._counts = [name for name in self._frame if name not in ("_all", *KEYS)]
        self._one_day = len(self._frame.drop_duplicates(list(CAMERA_DAY))) <= 1

    def by(self, keys: tuple[str, ...]) -> pa.Table:
        """One row for each group of `keys`, sorted, with the columns of `row_schema`; null for no data.

        A camera's single days are not corrected: they hold too few images, and there may be 100,000. Nor are
        bands of size: the held-out matrix is of faces of all sizes, and small ones are judged worse.
        """
        groups = self._frame.groupby(["_all", *keys], dropna=False)
        sums, group = groups[self._counts].sum().reset_index(), groups.ngroup()
        effects = self._effects(keys, group, len(sums))
        self._rate(sums, effects)
        if self.view == "scene":
            self._rate_pictures(sums, self._effects(keys, group, len(sums), PICTURES))
        sums[list(CORRECTED)] = np.nan
        if self.confusion is not None and keys not in (CAMERA_DAY, SIZE_BAND):
            fixed = self._correct(sums, effects, group, self.confusion)
            sums["corrected"] = fixed.compliance_G
            sums["corrected_low"], sums["corrected_high"] = fixed.low_G, fixed.high_G
        target = row_schema(keys, self.meaning, self.view)
        table = pa.Table.from_pandas(sums[target.names], target, preserve_index=False)
        return table.replace_schema_metadata()

    def by_size(self) -> pa.Table:
        """One row for each band of face sizes, the smallest first."""
        table = self.by(SIZE_BAND)
        table = table.filter(pc.is_valid(table["size_band"]))
        order = [schema.SIZE_BAND_NAMES.index(name) for name in table["size_band"].to_pylist()]
        table = table.take(pa.array(np.argsort(order), pa.int64()))
        share = pa.array(table["faces"].to_numpy() / max(pc.sum(table["faces"]).as_py() or 0, 1))
        of_pictures = ("listed", "scored", "failed", "picture", "corrected")
        kept = [name for name in table.column_names if not name.startswith(of_pictures)]
        return table.select(kept).drop_columns(["faces_per_picture"]).append_column("share_faces", share)

    def _effects(
        self,
        keys: tuple[str, ...],
        group: "pd.Series[int]",
        num_groups: int,
        counts: tuple[str, str] = ("assessed", "compliant"),
    ) -> DesignEffects:
        """Design effects from camera-days, or from hours where groups lie inside one camera-day."""
        one_day = keys == CAMERA_DAY or self._one_day
        clusters = ["_group", *CAMERA_DAY, *(["hour"] if one_day else [])]
        frame = self._frame[[*counts, *CAMERA_DAY, "hour"]].assign(_group=group)
        by_cluster = frame.groupby(clusters, dropna=False)[list(counts)].sum().reset_index()
        by_cluster = by_cluster[by_cluster[counts[0]] > 0]
        assessed_C, compliant_C = (by_cluster[name].to_numpy(np.float64) for name in counts)
        group_C = by_cluster["_group"].to_numpy(np.int64)
        return estimate_design_effects(compliant_C, assessed_C, group_C, num_groups)

    def _rate(self, sums: pd.DataFrame, effects: DesignEffects) -> None:
        """Add shares, and compliance with all that belongs to it, to `sums`, a row for each group."""
        sums["failed"] = sums["listed"] - sums["scored"]
        in_scene = self.view == "scene"
        seen = (sums["faces"] - sums["too_small"] if in_scene else sums["scored"]) - sums["excluded"]
        for name in self.meaning.classes:
            sums[f"share_{name}"] = sums[f"num_{name}"] / seen
        sums["compliance"] = sums["compliant"] / sums["assessed"]
        compliant, assessed = (sums[name].to_numpy(np.float64) for name in ("compliant", "assessed"))
        sums["compliance_low"], sums["compliance_high"] = wilson(compliant, assessed, effects)
        sums["design_effect"], sums["num_clusters"] = effects.effect_G, effects.num_clusters_G
        sums["degrees_of_freedom"] = effects.freedom_G
        sums["few_clusters"] = effects.num_clusters_G < FEW_CLUSTERS
        sums["mean_confidence"] = sums["confidence_sum"] / seen
        sums["share_review"] = sums["num_review"] / seen

    def _rate_pictures(self, sums: pd.DataFrame, effects: DesignEffects) -> None:
        """Add what is said of pictures of whole scenes."""
        assessed, compliant = (sums[name].to_numpy(np.float64) for name in PICTURES)
        sums["picture_compliance"] = sums["pictures_compliant"] / sums["pictures_assessed"]
        limits = wilson(compliant, assessed, effects)
        sums["picture_compliance_low"], sums["picture_compliance_high"] = limits
        sums["faces_per_picture"] = sums["faces"] / sums["scored"]

    def _correct(
        self, sums: pd.DataFrame, effects: DesignEffects, group: "pd.Series[int]", confusion: Counts
    ) -> Correction:
        names = self.meaning.classes
        counts_GK = sums[[f"num_{name}" for name in names]].to_numpy(np.int64)
        compliant_K = np.isin(names, self.meaning.compliant)
        assessed_K = ~np.isin(names, self.meaning.not_assessed)
        found = None if self.boxed is None else Found(self.boxed, self._count_sizes(group, len(sums)))
        return correct_shares(counts_GK, effects, confusion, compliant_K, assessed_K, found)

    def _count_sizes(self, group: "pd.Series[int]", num_groups: int) -> Counts:
        """The faces (G, K, B) of each group, label and size band."""
        shape = num_groups, len(self.meaning.classes), len(schema.SIZE_BAND_NAMES)
        label = pd.Index(self.meaning.classes).get_indexer(self._frame["label"])
        band = pd.Index(schema.SIZE_BAND_NAMES).get_indexer(self._frame["size_band"])
        count = self._frame[[f"num_{name}" for name in self.meaning.classes]].sum(axis=1).to_numpy()
        known = (label >= 0) & (band >= 0)
        place = np.ravel_multi_index((group.to_numpy()[known], label[known], band[known]), shape)
        return np.bincount(place, count[known], int(np.prod(shape))).reshape(shape).astype(np.int64)

    def shares(self) -> list[Row]:
        """Each class's share of all images that count, as classified and corrected with its interval."""
        (overall,) = self.by(()).to_pylist()
        names = self.meaning.classes
        counts, raw = ([overall[f"{what}_{name}"] for name in names] for what in ("num", "share"))
        columns = zip(names, counts, raw, strict=True)
        rows = [{"class": n, "count": c, "share": s, **dict.fromkeys(CORRECTED)} for n, c, s in columns]
        if self.confusion is not None and sum(counts):
            effects = self._effects((), self._frame["_all"], 1)
            sums = self._frame[self._counts].sum().to_frame().T
            fixed = self._correct(sums, effects, self._frame["_all"], self.confusion)
            shares = (fixed.share_GK, fixed.share_low_GK, fixed.share_high_GK)
            for k, row in enumerate(rows):
                row |= {name: float(share_GK[0, k]) for name, share_GK in zip(CORRECTED, shares, strict=True)}
        return rows


def _count(cells: pa.Table, meaning: Meaning, exclude: Sequence[str], view: str) -> pd.DataFrame:
    """A row for each cell: its keys, and what it adds to every count of the report."""
    frame = cells.select([*cells_module.KEYS, "count", "confidence_sum"]).to_pandas()
    frame["hour"] = frame["hour"].astype("Int64")  # whole also where a time is unknown
    dates = pd.to_datetime(frame["date"].where(frame["date"] != schema.UNKNOWN_DATE))
    frame["weekday"] = (dates.dt.day_of_week + 1).astype("Int64")
    count, ok, label = frame.pop("count"), frame["status"] == "ok", frame["label"]
    picture = frame["region_kind"] == cells_module.PICTURE
    judged = ok & (frame["region_kind"] == (cells_module.FACE if view == "scene" else cells_module.PICTURE))
    out = frame["condition"].isin(list(exclude))
    seen = judged & ~out
    counts = frame[list(KEYS)].assign(
        _all=0, listed=count.where(picture, 0), scored=count.where(picture & ok, 0)
    )
    for name in schema.STATUSES:
        if name != "ok":
            counts[f"failed_{name}"] = count.where(picture & (frame["status"] == name), 0)
    counts["excluded"] = count.where(judged & out, 0)
    for name in meaning.classes:
        counts[f"num_{name}"] = count.where(seen & (label == name), 0)
    counts["assessed"] = count.where(seen & label.isin(meaning.assessed), 0)
    counts["compliant"] = count.where(seen & label.isin(meaning.compliant), 0)
    counts["num_review"] = count.where(seen & frame["needs_review"], 0)
    counts["confidence_sum"] = frame["confidence_sum"].where(seen, 0)
    if view == "scene":
        complies = frame["everyone_complies"]
        counts["faces"] = count.where(judged, 0)
        counts["too_small"] = count.where(seen & label.isna(), 0)
        counts["false_alarms"] = count.where(seen & label.isin(meaning.not_assessed), 0)
        counts["pictures_assessed"] = count.where(picture & ~out & complies.notna(), 0)
        counts["pictures_compliant"] = count.where(picture & ~out & complies.eq(True), 0)
    return counts


def row_schema(keys: Sequence[str], meaning: Meaning, view: str = "face") -> pa.Schema:
    """The columns of a table grouped by `keys`."""
    whole_number, real = pa.int64(), pa.float64()
    failed = [f"failed_{name}" for name in schema.STATUSES if name != "ok"]
    labels = [f"num_{name}" for name in meaning.classes]
    counts = ("listed", "scored", "failed", *failed, "excluded", "assessed", *labels)
    rates = ("compliance", "compliance_low", "compliance_high", *CORRECTED)
    shares = [f"picture_compliance{part}" for part in ("", "_low", "_high")]
    of_scenes = [
        *[(name, whole_number) for name in (*FACES, *PICTURES)],
        *[(name, real) for name in (*shares, "faces_per_picture")],
    ]
    return pa.schema(
        [
            *[(key, KEY_TYPES.get(key, pa.string())) for key in keys],
            *[(name, whole_number) for name in counts],
            *[(f"share_{name}", real) for name in meaning.classes],
            ("compliant", whole_number),
            *[(name, real) for name in (*rates, "design_effect", "degrees_of_freedom")],
            ("num_clusters", whole_number),
            ("few_clusters", pa.bool_()),
            ("mean_confidence", real),
            ("num_review", whole_number),
            ("share_review", real),
            *(of_scenes if view == "scene" else ()),
        ]
    )
