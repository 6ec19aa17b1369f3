"""The model card: what an exported checkpoint says about itself, as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from maskbatch.model.card import Card
from training.recipe import describe

SUBSETS = {"all": "val", "faces": "val faces", "faces_without_suspects": "val faces, suspect labels left out"}
NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy of the assessed classes",
    "two_way": "accuracy of with_mask against without_mask alone",
    "ece": "expected calibration error",
}


def model_card(card: Card) -> str:
    """Fill `model_card.md` with what the card of an exported checkpoint holds."""
    facts = card.recipe
    figures, recipe, leak = facts["figures"], facts["recipe"], facts["leak"]
    names = NAMES | {
        f"{what}_{name}": f"{what} {name}" for name in card.classes for what in ("precision", "recall", "f1")
    }
    subsets = [name for name in SUBSETS if name in figures]
    results = [["", *(f"{SUBSETS[subset]} ({figures[subset]['num']:,})" for subset in subsets)]] + [
        [name, *(format_interval(figures[subset].get(key)) for subset in subsets)]
        for key, name in names.items() if any(key in figures[subset] for subset in subsets)
    ]  # fmt: skip
    counts = zip(card.classes, card.confusion, strict=True)
    confusion = [["true", *card.classes], *([name, *map(str, row)] for name, row in counts)]
    bins = [["from", "to", "", "pictures", "accuracy"]] + [
        [f"{row['from']:g}", f"{row['to'] or 'more'}", row["unit"], f"{row['num']:,}", format_interval(row)]
        for row in figures["by_face_size"] + figures["by_brightness"]
    ]
    parts = [["source", "part", "label", "pictures"], *([*map(str, row)] for row in facts["counts"])]
    automatic = figures["review"]["automatic_accuracy"]
    return Path(__file__).with_name("model_card.md").read_text().format(
        card=card,
        facts=facts,
        figures=figures,
        recipe=recipe,
        leak=leak,
        classes=", ".join(card.classes),
        described=describe(recipe),
        versions=", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        sources=format_table(parts),
        probe=_describe_probe(leak["probe_accuracy"]),
        results=format_table(results),
        ece_before=format_interval(figures["ece_before"]),
        ece_after=format_interval(figures["all"]["ece"]),
        automatic="none" if automatic is None else f"{automatic:.1%}",
        confusion=format_table(confusion),
        by_bin=format_table(bins),
        notes=f"\n{recipe['notes'].strip()}\n" if recipe["notes"] else "",
    )  # fmt: skip


def _describe_probe(accuracy: Mapping[str, float] | None) -> str:
    if not accuracy:
        return "There were too few pictures to measure what that split would have claimed."
    return (
        "With that split a linear probe on the features of the network before training claims "
        f"{accuracy['by_file']:.1%}, but it reaches {accuracy['by_group']:.1%} on groups it never saw."
    )


def format_interval(figure: Mapping[str, float] | None) -> str:
    """Format a figure as `0.912 (0.880 to 0.941)`, and no figure as nothing."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" if figure else ""


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table; the first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
