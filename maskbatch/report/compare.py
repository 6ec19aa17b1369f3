"""Two committed runs compared, or several together: what changed, and whether chance explains it.

Runs that share at least half of the smaller one's images (by uri) are compared on those, by each image's two
labels and a paired test. Others are two periods or places, whose two rates are tested. Both tests allow for
alike snapshots of one camera on one day.

Two runs of whole scenes are compared by their rates of faces. Pictures are paired, faces are not: detectors
need not find the same ones. So a picture changed where its numbers of assessed or compliant faces did.

Shape suffixes: C clusters (camera-days, or the hours of one camera-day), G groups, S strata.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import false_discovery_control

from maskbatch.errors import UsageError
from maskbatch.progress import step
from maskbatch.report.cells import Camera
from maskbatch.report.intervals import FEW_CLUSTERS
from maskbatch.report.pairs import MANY, SIDES, Cameras, Extent, pair_images, read_images
from maskbatch.runs.committed import CommittedRun, Meaning, open_together
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import choose_versions
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text

FAILED = "failed"
"""The label of an image whose status is not ok."""
COUNTS = ("compliant_first", "assessed_first", "compliant_second", "assessed_second")
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What changed from the first run to the second, as plain values.

    Differences are the second's compliance minus the first's, as shares. A rate is None where nothing was
    assessed, an interval and p where there are fewer than two clusters.
    """

    kind: str
    """`images` where the shared ones are paired, or `periods`."""
    view: str
    """That of both sides."""
    runs: list[dict[str, Any]]
    """Both sides: path, checkpoint, detector, decode_rules, decoder, planned, first_time and last_time
    (local). Commas stand between several values of a side."""
    shared: int
    only_first: int
    only_second: int
    changed: int
    """Shared images whose labels differ, or whose numbers of assessed and compliant faces do; a failure
    counts as a label."""
    crossed: list[dict[str, Any]]
    """Paired images by label: first, second, count; empty for whole scenes."""
    overall: dict[str, Any]
    by_camera: list[dict[str, Any]]
    """Cameras of the shared images, named as in the first run, or those that are in both periods."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare_runs(
    first: Text, second: Text, *, latest: bool = False, options: StorageOptions = NO_OPTIONS
) -> Comparison:
    """Compare two finished runs, or with `latest` the newest version of each.

    Raises UsageError where a run is missing or unfinished, where both are the same, and where they share few
    images and their labels mean different things.
    """
    sides = [choose_versions([RunDir.at(name, options)], take_latest=latest) for name in (first, second)]
    return make_comparison(*sides)


def make_comparison(
    first: Sequence[RunDir], second: Sequence[RunDir], *, own_days: bool = False
) -> Comparison:
    """Compare the runs of one side, taken together, with those of the other.

    With `own_days` each run gives only the local days that it was asked for. Memory: 20 bytes an image of the
    first side. Raises UsageError as `compare_runs` does, and where a run stands on both sides.
    """
    sides = [open_together(runs, own_days=own_days) for runs in (first, second)]
    paths = [_join(str(run.run.path) for run in side) for side in sides]
    if any(run.success == other.success for run in sides[0] for other in sides[1]):
        raise UsageError(f"{' and '.join(paths)} are the same run; name two different ones")
    views = [side[0].score.view for side in sides]
    if views[0] != views[1]:
        what = (
            f"were scored with --view {views[0]} and --view {views[1]}, so their rates count different things"
        )
        raise UsageError(f"{' and '.join(paths)} {what}; compare runs of one view")
    meanings = [side[0].meaning for side in sides]
    cameras: Cameras = {}
    extents = Extent(), Extent()
    num_rows = sum(run.num_images for side in sides for run in side)
    with step("compare", num_rows, "rows" if views[0] == "scene" else "images") as progress:
        images = [
            read_images(runs, side, cameras, extent, progress)
            for runs, side, extent in zip(sides, SIDES, extents, strict=True)
        ]
        strata, shared = pair_images(*images)
    paired = len(strata) == 1
    if not paired and meanings[0] != meanings[1]:
        message = "share few images and their labels do not mean the same; compare runs of the same classes"
        raise UsageError(f"{' and '.join(paths)} {message}")
    in_scenes = views[0] == "scene"
    crossed = _crossed(strata[0], meanings) if paired and not in_scenes else []
    changed = sum(pair["count"] for pair in crossed if pair["first"] != pair["second"])
    if paired and in_scenes:
        changed = int(strata[0]["count"][strata[0]["first"] != strata[0]["second"]].sum())
    count = _count_faces if in_scenes else _count_images
    clusters = pd.concat(_clusters(cells, k, meanings, count) for k, cells in enumerate(strata))
    overall, by_camera = _figures(clusters, list(cameras), len(strata))
    return Comparison(
        kind="images" if paired else "periods",
        view=views[0],
        runs=[_identity(runs, extent) for runs, extent in zip(sides, extents, strict=True)],
        shared=shared,
        only_first=extents[0].num_images - shared,
        only_second=extents[1].num_images - shared,
        changed=changed,
        crossed=crossed,
        overall=overall,
        by_camera=by_camera,
    )


def estimate_difference(
    counts_C4: NDArray[np.float64], group_C: Integers, stratum_C: Integers, num_groups: int, num_strata: int
) -> pd.DataFrame:
    """The difference of two compliance rates in each group, with its 95 % interval and p; (G,) rows.

    `counts_C4` are whole numbers in the order of COUNTS. A paired comparison has both runs in one stratum;
    periods have a stratum each. `num_clusters` is that of the stratum with fewer.

    Source: linearised ratio estimators, Cochran 1977, section 6.9, and Binder 1983; degrees of freedom,
    Satterthwaite 1946 (clusters - 1 in one stratum, Welch's in two).
    """
    totals_G4 = np.stack([np.bincount(group_C, column, num_groups) for column in counts_C4.T], axis=1)
    compliant_C2, assessed_C2 = counts_C4[:, ::2], counts_C4[:, 1::2]
    compliant_G2, assessed_G2 = totals_G4[:, ::2], totals_G4[:, 1::2]
    cell_C, num_cells = group_C * num_strata + stratum_C, num_groups * num_strata
    with np.errstate(invalid="ignore", divide="ignore"):
        rates_G2 = compliant_G2 / assessed_G2
        # Products of whole numbers: exactly 0 where every cluster has the same rate.
        residual_C2 = compliant_C2 * assessed_G2[group_C] - compliant_G2[group_C] * assessed_C2
        influence_C2 = residual_C2 / assessed_G2[group_C] ** 2
        spread = np.bincount(cell_C, (influence_C2[:, 1] - influence_C2[:, 0]) ** 2, num_cells)
        clusters = np.bincount(cell_C, np.any(assessed_C2 > 0, axis=1), num_cells)
        variance = spread * clusters / (clusters - 1)
        sums = np.stack([variance, variance**2 / (clusters - 1)]).reshape(2, num_groups, num_strata).sum(2)
        variance_G, freedom_G = sums[0], sums[0] ** 2 / sums[1]
        change_G = rates_G2[:, 1] - rates_G2[:, 0]
        error_G = np.where(variance_G > 0, np.sqrt(variance_G), np.nan)
        half_G = stdtrit(freedom_G, 0.975) * error_G
        p_G = 2 * stdtr(freedom_G, -np.abs(change_G) / error_G)
    table = pd.DataFrame(totals_G4.astype(np.int64), columns=list(COUNTS))
    table["compliance_first"], table["compliance_second"] = rates_G2.T
    table["difference"], table["p"] = change_G, np.where((variance_G == 0) & (change_G == 0), 1, p_G)
    table["difference_low"] = np.maximum(change_G - half_G, -1)
    table["difference_high"] = np.minimum(change_G + half_G, 1)
    table["num_clusters"] = clusters.reshape(num_groups, num_strata).min(axis=1).astype(np.int64)
    table["few_clusters"] = table["num_clusters"] < FEW_CLUSTERS
    return table


def _crossed(cells: pd.DataFrame, meanings: Sequence[Meaning]) -> list[dict[str, Any]]:
    first, second = ((*meaning.classes, FAILED) for meaning in meanings)
    counts = cells.groupby(list(SIDES))["count"].sum()
    return [{"first": first[a], "second": second[b], "count": int(n)} for (a, b), n in counts.items()]


def _clusters(
    cells: pd.DataFrame, stratum: int, meanings: Sequence[Meaning], count: Callable[..., tuple[Integers, ...]]
) -> pd.DataFrame:
    """COUNTS of each cluster: the cells of one camera and hour."""
    counts = cells[["camera", "hour"]].copy()
    for side, meaning in zip(SIDES, meanings, strict=True):
        for what, each in zip(("compliant", "assessed"), count(cells[side].to_numpy(), meaning), strict=True):
            counts[f"{what}_{side}"] = cells["count"] * each
    return counts.groupby(["camera", "hour"], as_index=False).sum().assign(stratum=stratum)


def _count_images(label: Integers, meaning: Meaning) -> tuple[Integers, ...]:
    """How many compliant and how many assessed ones an image of each label is; -1 is no image."""
    names = (*meaning.classes, FAILED, "no image at -1")
    known = (meaning.compliant, meaning.assessed)
    return tuple(np.array([name in chosen for name in names], np.int64)[label] for chosen in known)


def _count_faces(label: Integers, meaning: Meaning) -> tuple[Integers, ...]:
    """Compliant and assessed faces of a picture of each label."""
    label = np.maximum(label, 0)
    return label % MANY, label // MANY % MANY


def _figures(
    clusters: pd.DataFrame, names: Sequence[Camera], num_strata: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(overall, by_camera) of the comparison; cameras in every stratum, with Benjamini-Hochberg's q."""
    strata = clusters.groupby("camera")["stratum"].nunique()
    both = list(strata.index[strata == num_strata])
    both.sort(key=lambda camera: [name or "" for name in names[camera]])

    def table(chosen: pd.DataFrame, group_C: Integers, num_groups: int) -> pd.DataFrame:
        counts_C4 = chosen[list(COUNTS)].to_numpy(np.float64)
        return estimate_difference(counts_C4, group_C, chosen["stratum"].to_numpy(), num_groups, num_strata)

    overall = table(clusters, np.zeros(len(clusters), np.int64), 1)
    chosen = clusters[clusters["camera"].isin(both)]
    cameras = table(chosen, pd.Index(both).get_indexer(chosen["camera"]), len(both))
    for place, key in enumerate(("site", "camera")):
        cameras.insert(place, key, [names[camera][place] for camera in both])
    known = cameras["p"].notna()
    cameras.loc[known, "q"] = false_discovery_control(cameras.loc[known, "p"])
    (overall_row,), by_camera = (
        table.astype(object).where(table.notna(), None).to_dict("records") for table in (overall, cameras)
    )
    return overall_row, by_camera


def _identity(runs: Sequence[CommittedRun], extent: Extent) -> dict[str, Any]:
    return {
        "path": _join(str(run.run.path) for run in runs),
        "checkpoint": _join(run.digest for run in runs),
        "detector": runs[0].detector and runs[0].detector.digest,
        "decode_rules": _join(str(run.settings.decode_rules) for run in runs),
        "decoder": _join(run.score.decoder for run in runs),
        "planned": extent.num_images,
        "first_time": min(extent.times, default=None),
        "last_time": max(extent.times, default=None),
    }


def _join(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
