"""The model card: what an exported checkpoint states, as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from maskbatch.model.checkpoint import Card
from training.recipe import describe


def model_card(card: Card) -> str:
    """The model card, Markdown: `model_card.md` filled with what an exported checkpoint states."""
    facts = card.recipe
    figures, recipe, leak = facts["figures"], facts["recipe"], facts["leak"]
    subsets = {
        "all": "val",
        "faces": "val faces",
        "faces_without_suspects": "val faces, suspect labels left out",
    }
    present = {name: subset for name, subset in subsets.items() if name in figures}
    keys = ["accuracy", "balanced_accuracy", "two_way", "ece"]
    keys += [f"{what}_{name}" for name in card.classes for what in ("precision", "recall", "f1")]
    results = [["", *(f"{subset} ({figures[name]['num']:,})" for name, subset in present.items())]] + [
        [key.replace("_", " ", 1) if key.split("_")[0] in ("precision", "recall", "f1") else NAMES[key]]
        + [interval(figures[name].get(key)) for name in present]
        for key in keys if any(key in figures[name] for name in present)
    ]  # fmt: skip
    confusion = [["true", *card.classes]] + [
        [name, *map(str, counts)] for name, counts in zip(card.classes, card.confusion, strict=True)
    ]
    bins = [["from", "to", "", "pictures", "accuracy"]] + [
        [f"{it['from']:g}", f"{it['to'] or 'more'}", it["unit"], f"{it['num']:,}", interval(it)]
        for it in figures["by_face_size"] + figures["by_brightness"]
    ]  # fmt: skip
    parts = [["source", "part", "label", "pictures"], *([*map(str, row)] for row in facts["counts"])]
    automatic = figures["review"]["automatic_accuracy"]
    return Path(__file__).with_name("model_card.md").read_text().format(
        title=facts["title"],
        architecture=card.architecture,
        size=card.input_size[0],
        classes=", ".join(card.classes),
        command=facts["command"],
        described=describe(recipe),
        best_epoch=facts["best_epoch"],
        versions=", ".join(f"{name} {it}" for name, it in facts["versions"].items()),
        sources=markdown(parts),
        num_groups=f"{leak['num_groups']:,}",
        num_leaked=f"{leak['num_leaked_by_file']:,}",
        num_naive=f"{leak['num_test_by_file']:,}",
        probe=probe_text(leak["probe_accuracy"]),
        results=markdown(results),
        ece_before=interval(figures["ece_before"]),
        ece_after=interval(figures["all"]["ece"]),
        temperature=card.temperature,
        review_threshold=card.review_threshold,
        target=recipe["target_accuracy"],
        review_share=figures["review"]["share"],
        automatic="none" if automatic is None else f"{automatic:.1%}",
        bfloat16=figures["bfloat16"],
        milliseconds_an_image=figures["milliseconds_an_image"],
        confusion=markdown(confusion),
        by_bin=markdown(bins),
        notes=f"\n{recipe['notes'].strip()}\n" if recipe["notes"] else "",
    )  # fmt: skip


NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy of the classes to assess",
    "two_way": "accuracy of with_mask against without_mask alone",
    "ece": "expected calibration error",
}


def probe_text(probed: Mapping[str, float] | None) -> str:
    """What a split by file would have claimed."""
    if not probed:
        return "There were too few pictures to say what it would have claimed."
    return (
        "A linear probe on the features of the network before training then claims "
        f"{probed['by_file']:.1%}, and reaches {probed['by_group']:.1%} on groups it never saw."
    )


def interval(figure: Mapping[str, float] | None) -> str:
    """`.912 (.880 to .941)`."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" if figure else ""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
