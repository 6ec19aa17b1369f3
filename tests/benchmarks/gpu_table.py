"""The figures of the GPU benchmark as one table; each is shown as soon as it is there."""

from collections.abc import Mapping
from typing import NamedTuple

Figures = Mapping[str, float]
RECKONED = 48_000
"""Files that whole runs of any number are reckoned for."""
NONE = "-"


class Row(NamedTuple):
    """A figure's name and words."""

    name: str
    words: str
    form: str = ",.0f"


def _list_score_rows(decoder: str) -> list[Row]:
    words = f"`maskbatch score --decoder {decoder}`"
    return [
        Row(f"{decoder}_steady", f"{words}: steady, images/s"),
        Row(f"{decoder}_whole", f"{words}: whole, images/s"),
        Row(f"{decoder}_first_s", f"{words}: first shard after, s", ".1f"),
        Row(f"{decoder}_whole_s", f"{words}: whole, s", ".1f"),
        Row(f"{decoder}_cpu_ms", f"{words}: processor time an image, ms", ".2f"),
        Row(f"{decoder}_busy", f"{words}: GPU busy, %"),
        Row(f"{decoder}_shard", f"{words}: images a shard"),
    ]


ROWS = (
    Row("files", "files"),
    Row("file_kb", "size of a file, KB"),
    Row("cores", "decode on every core, nothing else, images/s"),
    Row("jpeg", "the device's JPEG decoder alone, images/s"),
    Row("probs_1", "bytes in memory to probabilities, 1 thread, images/s"),
    Row("probs_2", "bytes in memory to probabilities, 2 threads, images/s"),
    *_list_score_rows("gpu"),
    *_list_score_rows("cpu"),
    Row("recipe_steady", "Ray's recipe: steady, images/s"),
    Row("recipe_whole", "Ray's recipe: whole, images/s"),
    Row("recipe_files", "Ray's recipe: files"),
    Row("gpu_of_probs", "`--decoder gpu` / bytes in memory to probabilities, steady", ".2f"),
    Row("cpu_of_cores", "`--decoder cpu` / every core, steady", ".2f"),
    Row("gpu_of_recipe", "`--decoder gpu` / the recipe, steady", ".1f"),
    Row("gpu_of_recipe_whole", "`--decoder gpu` / the recipe, whole, the recipe reckoned for as many files", ".1f"),
    Row("gpu_of_recipe_reckoned", f"`--decoder gpu` / the recipe, whole, both reckoned for {RECKONED:,} files", ".1f"),
    Row("damaged", "damaged JPEGs of 640x480"),
    Row("status_same", "damaged JPEGs with the same status by both decoders, %", ".1f"),
    Row("photographs", "photographs"),
    Row("labels_same", "photographs with the same label by both decoders, %", ".1f"),
    Row("prob_apart", "photographs: largest difference of a probability", ".3f"),
)  # fmt: skip
PAIR = "pair "
"""`pair CPU GPU`: damaged files with these two statuses."""


def reckon_s(figures: Figures, who: str, num_files: float, whole_s: float, steady: float) -> float:
    """Seconds that as many files would take: those beside the steady part stay."""
    fixed_s = max(0.0, whole_s - figures[f"{who}files"] / steady)
    return fixed_s + num_files / steady


def add_ratios(figures: Figures) -> dict[str, float]:
    """The figures, and the ratios that follow from those that are there."""
    found = dict(figures)
    best = max(found.get("probs_1", 0.0), found.get("probs_2", 0.0))
    pairs = {
        "gpu_of_probs": (found.get("gpu_steady"), best),
        "cpu_of_cores": (found.get("cpu_steady"), found.get("cores")),
        "gpu_of_recipe": (found.get("gpu_steady"), found.get("recipe_steady")),
    }
    found |= {name: ours / theirs for name, (ours, theirs) in pairs.items() if ours and theirs}
    if "gpu_of_recipe" in found:
        ours = "", found["gpu_whole_s"], found["gpu_steady"]
        theirs = "recipe_", found["recipe_whole_s"], found["recipe_steady"]
        for name, num_files in (("whole", found["files"]), ("reckoned", RECKONED)):
            ours_s, theirs_s = (
                reckon_s(found, who, num_files, whole_s, steady) for who, whole_s, steady in (ours, theirs)
            )
            found[f"gpu_of_recipe_{name}"] = theirs_s / ours_s
    return found


def list_rows(figures: Mapping[str, Figures]) -> list[Row]:
    """ROWS, and one for each pair of statuses."""
    names, rows = {name for of_size in figures.values() for name in of_size}, list(ROWS)
    for name in sorted(name for name in names if name.startswith(PAIR)):
        cpu, gpu = name.removeprefix(PAIR).split()
        rows.append(Row(name, f"damaged JPEGs: `{cpu}` by the CPU decoder, `{gpu}` by the GPU decoder"))
    return rows


def show(row: Row, figures: Figures) -> str:
    return format(figures[row.name], row.form) if row.name in figures else NONE


def describe(figures: Figures) -> list[str]:
    """A line a figure."""
    rows = list_rows({"": figures})
    return [f"{row.words}: {show(row, figures)}" for row in rows if row.name in figures]


def make_table(figures: Mapping[str, Figures]) -> str:
    """Markdown, a column for each key."""
    full = {column: add_ratios(of_column) for column, of_column in figures.items()}
    lines = ["| | " + " | ".join(full) + " |", "| --- |" + " --- |" * len(full)]
    for row in list_rows(full):
        lines.append(f"| {row.words} | " + " | ".join(show(row, found) for found in full.values()) + " |")
    return "\n".join(lines)
