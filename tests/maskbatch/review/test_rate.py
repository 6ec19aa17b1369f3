import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from maskbatch.cli.terminal import print_report
from maskbatch.config import ReportConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.report.make import make_report
from maskbatch.report.words import describe_review
from maskbatch.review import corrections
from maskbatch.review.queue import RANDOM, UNCERTAIN, read_queue
from maskbatch.review.rate import LEAST_JUDGED, count_targets, estimate_rates
from maskbatch.runs.committed import Meaning
from tests.maskbatch.samples import CLASSES, Run, edit_json, speckle, stage_run, write_files

MEANING = Meaning(classes=CLASSES, compliant=("with_mask",), not_assessed=("no_face",))


def queue_of(strata: str, label: Callable[[int], str] = lambda _: "with_mask") -> pa.Table:
    """A queue of an image for each letter: r random, u uncertain; d and D the same, and dark."""
    rows = [
        {
            "position": k, "uri": f"file:///a/{k}.jpg", "sha256": f"{k:064x}", "label": label(k), "site": "north", "camera": "gate",
            "captured_local": datetime(2026, 10, 1), "condition": "dark" if letter in "dD" else None,
            "stratum": RANDOM if letter in "rd" else UNCERTAIN,
        }
        for k, letter in enumerate(strata)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def said(*words: tuple[int, str | None, str], region: int = 0) -> pd.DataFrame:
    """Latest judgements of (position in the queue, label, who)."""
    rows = [
        {
            "uri": f"file:///a/{k}.jpg", "sha256": f"{k:064x}", "region": region, "label": label, "was": "with_mask", "by": by,
            "at": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=n), "stratum": RANDOM, "probability": 1.0,
        }
        for n, (k, label, by) in enumerate(words)
    ]  # fmt: skip
    return corrections.find_latest_judgements(pa.Table.from_pylist(rows, corrections.SCHEMA))


def counts(**labels: int) -> dict[str, Any]:
    return {f"num_{name}": labels.get(name, 0) for name in CLASSES} | {"compliance": 0.9}


def found(words: pd.DataFrame, queue: pa.Table | None, exclude: Sequence[str] = (), **labels: int) -> Any:
    return estimate_rates(words, queue, counts(**labels), MEANING, exclude)


def numbers(got: dict[str, Any], name: str = "num_judged") -> list[int]:
    """A number of each stratum: random, uncertain."""
    return [stratum[name] for stratum in got["strata"]]


def right(places: Iterable[int]) -> list[tuple[int, str | None, str]]:
    return [(k, "with_mask", "ann") for k in places]


def test_of_each_stratum_what_was_judged_before_the_first_untouched_image_counts() -> None:
    queue = queue_of("ru" * 100)
    random, uncertain = right(range(0, 100, 2)), right(range(1, 81, 2))
    words = said(*random, (100, None, "ann"), (102, "with_mask", "bob"), *uncertain, *right((120, 199)))
    got = found(words, queue, with_mask=9000)
    assert (numbers(got), got["num_skipped"]) == ([51, 40], 1)
    assert (got["num_judged"], got["num_waiting"], got["num_elsewhere"]) == (91, 2, 0)
    assert got["reviewers"] == [{"by": "ann", "num_judged": 90}, {"by": "bob", "num_judged": 1}]
    assert got["reason"] is None
    assert got["compliance"]["value"] == 1
    assert got["moved"] == pytest.approx(0.1)


def test_judged_images_wait_for_one_that_is_named() -> None:
    queue = queue_of("ru" * 100)
    words = said(*right(range(0, 100, 2)), *right(range(3, 81, 2)), *right((104, 106)))
    random, uncertain = found(words, queue, with_mask=9000)["waiting_for"]
    assert (random["stratum"], random["num_waiting"], random["uri"]) == (RANDOM, 2, "file:///a/100.jpg")
    assert (uncertain["stratum"], uncertain["num_waiting"], uncertain["uri"]) == (
        UNCERTAIN,
        39,
        "file:///a/1.jpg",
    )
    assert (uncertain["camera"], uncertain["captured_local"]) == ("gate", datetime(2026, 10, 1))
    assert found(said(*right(range(40))), queue, with_mask=9000)["waiting_for"] == []


def test_a_stratum_that_was_looked_at_to_its_end_is_enough_whatever_was_skipped_in_it() -> None:
    queue = queue_of("ru" * 24 + "r" * 50)
    seen = said(*right(range(0, 98)), *[(k, None, "ann") for k in (1, 3, 47)])
    seen = seen.drop_duplicates(["uri", "by"], keep="last")
    got = found(seen, queue, with_mask=9000)
    assert (got["reason"], numbers(got), got["num_skipped"]) == (None, [74, 21], 3)
    assert numbers(got, "num_needed") == [30, 21]
    none = found(
        said(*right((*range(0, 48, 2), *range(48, 98))), *[(k, None, "ann") for k in range(1, 48, 2)]),
        queue,
        with_mask=240,
    )
    assert (none["reason"], numbers(none)[1], none["num_skipped"]) == (None, 0, 24)
    assert (none["error_rate"]["value"], none["error_rate"]["low"]) == (0, 0)
    assert none["error_rate"]["high"] > 24 / 240, "of what nobody judged all may be wrong"
    skipped = found(said(*[(k, None, "ann") for k in range(98)]), queue, with_mask=9000)
    assert skipped["reason"] == "every image of the queue was skipped"


def test_a_target_is_what_the_report_counts() -> None:
    random, uncertain = count_targets([RANDOM, UNCERTAIN] * 3, [True, False, None, True, True, True])
    assert random == {"stratum": RANDOM, "num_queued": 3, "num_judged": 1, "num_skipped": 0, "num_needed": 3}
    assert uncertain == {
        "stratum": UNCERTAIN,
        "num_queued": 3,
        "num_judged": 2,
        "num_skipped": 1,
        "num_needed": 2,
    }
    assert [stratum["num_needed"] for stratum in count_targets([RANDOM] * 500, [None] * 500)] == [
        LEAST_JUDGED,
        0,
    ]


def test_the_error_rate_follows_from_the_images_and_those_judged_of_each_stratum_and_label() -> None:
    queue = queue_of("ru" * 60, lambda k: CLASSES[k % 3])
    words = said(*[(k, CLASSES[k % 3 if k % 7 else 3], "ann") for k in range(100)], (0, CLASSES[0], "bob"))
    got = found(words, queue, **{name: 1000 * (k + 1) for k, name in enumerate(CLASSES[:3])})
    rows = [row for stratum in got["strata"] for row in stratum["labels"] if row["num_judged"]]
    stands_for = sum(row["num_images"] for row in rows)
    weighted = sum(row["num_images"] * row["num_wrong"] / row["num_judged"] for row in rows)
    assert stands_for == 6000
    assert got["error_rate"]["value"] == pytest.approx(weighted / stands_for)
    assert 0.5 in [row["num_wrong"] % 1 for row in rows], "a disputed image is wrong in part"


def test_a_skip_that_another_reviewer_judged_is_judged() -> None:
    words = said((0, None, "ann"), (0, "with_mask", "bob"), (1, None, "bob"))
    got = found(words, queue_of("rr"), with_mask=9000)
    assert (got["num_judged"], got["num_skipped"]) == (1, 1)


def test_words_that_are_not_of_the_queue_or_of_no_class_say_nothing_of_the_rate() -> None:
    words = said((0, "mask_of_another_checkpoint", "ann"), (1, "with_mask", "ann"), (7, "with_mask", "ann"))
    changed = words.assign(sha256=words["sha256"].where(words.index != 1, "0" * 64))
    got = found(changed, queue_of("rrr"), with_mask=9000)
    assert (got["num_judged"], got["num_skipped"], got["num_unknown"], got["num_elsewhere"]) == (0, 0, 1, 2)
    other = said((0, "mask_of_another_checkpoint", "ann"), (0, "with_mask", "bob"))
    got = found(other, queue_of("rrr"), with_mask=9000)
    assert (got["num_judged"], got["num_unknown"], got["num_disputes"]) == (0, 1, 1)
    of_a_face = found(said((0, "with_mask", "ann"), region=1), queue_of("rrr"), with_mask=9000)
    assert (of_a_face["num_judged"], of_a_face["num_elsewhere"]) == (0, 1)
    assert found(said(), queue_of("rrr"), with_mask=9000) is None


def test_what_is_left_out_of_the_rates_is_left_out_here_and_does_not_hold_up_the_queue() -> None:
    queue = queue_of("rd" * 40 + "uD" * 40)
    words = said(*right(range(0, 160, 2)), *right((1, 81)))
    got = found(words, queue, ["dark"], with_mask=9000)
    assert (numbers(got), got["num_elsewhere"]) == ([40, 40], 2)
    everything = found(words, queue, with_mask=9000)
    assert (numbers(everything), everything["num_waiting"]) == ([3, 3], 76)


def test_with_too_few_judged_images_it_says_how_many_are_missing() -> None:
    queue = queue_of("ru" * 100)
    got = found(said(*right(range(40))), queue, with_mask=9000)
    short = f"20 of {LEAST_JUDGED} random, 20 of {LEAST_JUDGED} uncertain"
    assert got["reason"] == f"{short} judged, in the order of the queue"
    assert (got["error_rate"], got["compliance"], got["shares"], got["moved"]) == (None, None, [], None)
    assert got["confusion"][0] == [40, 0, 0, 0]
    few = found(said(*right(range(36))), queue_of("ru" * 3 + "r" * 90), with_mask=93)
    assert few["reason"] is None, "all three uncertain images of the run"
    none = found(said((0, "with_mask", "ann")), queue_of("r").slice(0, 0))
    assert none["reason"] == "no image could be scored"


def test_a_disputed_image_counts_in_the_shares_of_its_labels_and_is_listed_with_who_said_what() -> None:
    queue = queue_of("r" * 40)
    words = said(*right(range(40)), (3, "without_mask", "bob"), (3, "with_mask", "eve"), (3, None, "kim"))
    got = found(words, queue, with_mask=40)
    assert got["confusion"][0] == [39.67, 0.33, 0, 0]
    assert got["compliance"]["value"] == pytest.approx(1 - 1 / 3 / 40)
    (dispute,) = got["disputes"]
    assert dispute["labels"] == [
        {"by": "ann", "label": "with_mask"}, {"by": "bob", "label": "without_mask"}, {"by": "eve", "label": "with_mask"},
    ]  # fmt: skip
    assert (got["num_disputes"], dispute["uri"], dispute["camera"]) == (1, "file:///a/3.jpg", "gate")


def test_over_several_runs_judgements_are_counted_and_no_rate_is_made_of_them() -> None:
    got = found(said(*right(range(50))), None, with_mask=9000)
    assert (got["reason"], got["num_elsewhere"]) == ("a rate is made for one run at a time", 50)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Run:
    """A committed run of 200 images with its report."""
    root = tmp_path_factory.mktemp("judged")
    files = {
        f"north/gate-{k % 2}/2026-10-0{k % 4 + 1}/{k // 60:04d}{k % 60:02d}.jpg": speckle(k)
        for k in range(200)
    }
    run = stage_run(root / "run", write_files(root / "archive", files), checkpoint)
    run.commit()
    make_report([run.run], run.run.report)
    return run


def judge(run: Run, folder: Path, most: int, label: str | None = None, first: int = 0) -> None:
    """Judge images of the queue in its order, right where no label is given."""
    for row in read_queue(run.run.report).slice(first, most).to_pylist():
        known = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
        said = {"region": 0, "label": label or row["label"], "was": row["label"], "by": "ann"}
        corrections.write_judgement(folder, known | said)


def test_a_report_shows_the_rate_that_follows_from_what_people_judged_first(
    made: Run, tmp_path: Path
) -> None:
    run = made.copy(tmp_path / "run")
    plain = make_report([run.run], tmp_path / "plain")
    assert plain.values["judged"] is None
    page = (tmp_path / "plain" / "report.html").read_text()
    assert f"maskbatch ui --run {run.run.path}" in page
    judge(run, tmp_path / "run" / "corrections", 400)
    judge(run, tmp_path / "run" / "corrections", 7, "without_mask")
    report = make_report([run.run], run.run.report)
    values = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["judged"]
    assert values == report.values["judged"]
    assert (values["num_judged"], values["num_waiting"], values["num_reviewers"]) == (200, 0, 1)
    labels = read_queue(run.run.report)["label"].to_pylist()
    wrong = sum(label != "without_mask" for label in labels[:7])
    assert values["error_rate"] == {"value": pytest.approx(wrong / 200), "low": pytest.approx(wrong / 200),
                                    "high": pytest.approx(wrong / 200)}  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert text.index("Compliance by people's review: ") < text.index("As classified: ")
    assert "judged by 1 person" in text
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert page.index('data-figure="judged/compliance/value"') < page.index("overall/0/compliance")
    assert report.tables["corrections"].num_rows == 200, "the latest judgements"


def test_the_command_line_takes_the_folder_of_what_was_judged(made: Run, tmp_path: Path, cli: Any) -> None:
    judge(made, tmp_path / "elsewhere", 4)
    arguments = (
        "report",
        made.run.path,
        "--corrections",
        tmp_path / "elsewhere",
        "--out",
        tmp_path / "report",
    )
    done = cli(*arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)["judged"]["num_judged"]) == (0, 4), done.stderr


def test_what_was_judged_of_a_read_only_run_is_read_from_where_it_was_put(made: Run, tmp_path: Path) -> None:
    judge(made, tmp_path / "elsewhere", 10)
    judge(made, tmp_path / "elsewhere", 1, first=20)
    config = ReportConfig(corrections=str(tmp_path / "elsewhere"))
    values = make_report([made.run], tmp_path / "report", config).values
    assert values["judged"]["num_judged"] == 10
    assert "5 of 30 random" in values["judged"]["reason"]
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(make_report([made.run], tmp_path / "report", config), console)
    text = " ".join(console.export_text().split())
    assert "Judged by people: 11 images; no rate yet: 5 of 30 random" in text
    next_one = read_queue(made.run.report).slice(10, 1).to_pylist()[0]
    assert "Not counted yet: 1 random, until somebody judges or skips this image: north/gate-" in text
    assert next_one["uri"] in text


def test_what_was_judged_in_the_version_before_counts(made: Run, tmp_path: Path) -> None:
    run, newer = made.copy(tmp_path / "run"), made.copy(tmp_path / "run.v2")
    judge(run, tmp_path / "run" / "corrections", 10)
    edit_json(newer.run.run_json, replaces=str(run.run.path))
    assert make_report([newer.run], newer.run.report).values["judged"]["num_judged"] == 10


def test_corrections_of_another_folder_belong_to_one_run(made: Run, committed: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--corrections belongs to one run"):
        make_report([made.run, committed.run], tmp_path, ReportConfig(corrections=str(tmp_path / "other")))


def test_several_runs_are_reported_with_their_judgements_counted(
    made: Run, committed: Run, tmp_path: Path
) -> None:
    run = made.copy(tmp_path / "run")
    judge(run, tmp_path / "run" / "corrections", 5)
    values = make_report([run.run, committed.run], tmp_path / "both").values["judged"]
    assert (values["num_elsewhere"], values["num_judged"]) == (5, 0)


def test_of_whole_scenes_faces_are_judged_and_a_false_alarm_of_the_detector_is_no_face(
    lobby: Run, tmp_path: Path
) -> None:
    overall = make_report([lobby.run], tmp_path).overall
    queue = read_queue(tmp_path).to_pylist()
    assert len(queue) == overall["assessed"] + overall["num_no_face"] < overall["faces"]
    pictures = Counter(face["uri"] for face in queue)
    first = next(face for face in queue if pictures[face["uri"]] > 1)
    for face in queue:
        label = "no_face" if face is first else face["label"]
        values = {name: face[name] for name in ("uri", "sha256", "region", "stratum", "probability")}
        corrections.write_judgement(
            tmp_path / "said", {**values, "label": label, "was": face["label"], "by": "ann"}
        )
    report = make_report([lobby.run], tmp_path, ReportConfig(corrections=str(tmp_path / "said")))
    judged = report.values["judged"]
    assert (judged["reason"], judged["num_judged"], judged["num_elsewhere"]) == (None, len(queue), 0)
    assert judged["error_rate"]["value"] == pytest.approx(1 / len(queue))
    assessed = overall["assessed"] - (first["label"] != "no_face")
    compliant = overall["compliant"] - (first["label"] == "with_mask")
    assert judged["compliance"]["value"] == pytest.approx(compliant / assessed)
    dispute = {name: first[name] for name in ("uri", "sha256", "region", "stratum", "probability")}
    corrections.write_judgement(
        tmp_path / "said", {**dispute, "label": "with_mask", "was": first["label"], "by": "bob"}
    )
    report = make_report([lobby.run], tmp_path, ReportConfig(corrections=str(tmp_path / "said")))
    (disputed,) = report.values["judged"]["disputes"]
    assert (disputed["uri"], disputed["region"]) == (first["uri"], first["region"])
    assert [label["by"] for label in disputed["labels"]] == ["ann", "bob"]
    assert "judged/disputes/0/region" in (tmp_path / "report.html").read_text()
    corrections.write_judgement(tmp_path / "late", {**dispute, "label": None, "was": "", "by": "ann"})
    last = max((face for face in queue if face["stratum"] == RANDOM), key=lambda face: face["position"])
    late = {name: last[name] for name in dispute} | {"label": "with_mask", "was": "", "by": "ann"}
    corrections.write_judgement(tmp_path / "late", late)
    report = make_report([lobby.run], tmp_path, ReportConfig(corrections=str(tmp_path / "late")))
    (waiting,) = report.values["judged"]["waiting_for"]
    assert waiting["num_waiting"] == 1 and waiting["region"] > 0
    assert "judged/waiting_for/0/region" in (tmp_path / "report.html").read_text()
    (line,) = [line for line in describe_review(report) if line.startswith("Not counted yet")]
    assert f"{waiting['uri']}, face {waiting['region']}; " in line
