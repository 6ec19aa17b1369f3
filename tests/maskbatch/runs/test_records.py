"""run.json and _SUCCESS are written as they always were, and read with care."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskbatch.config import PLAN_RULES, PlanConfig
from maskbatch.errors import UsageError
from maskbatch.runner import plan_archive
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import RunSettings, Success
from maskbatch.runs.request import Request
from maskbatch.stores.access import Access
from maskbatch.stores.files import write_json
from tests.maskbatch.samples import LAYOUT, Run, edit_json, write_files


def test_what_is_read_is_written_byte_for_byte(committed: Run) -> None:
    for path, record in (
        (committed.run.run_json, committed.run.read_run()),
        (committed.run.success, committed.run.read_success()),
    ):
        assert json.dumps(record.to_json(), indent=2, sort_keys=True) + "\n" == path.read_text()


def test_run_json_has_these_keys_and_no_others(committed: Run) -> None:
    values = json.loads(committed.run.run_json.read_text())
    assert list(values) == [
        "checkpoint", "created_at", "decode_rules", "format_version", "job", "listing", "plan", "plan_rules",
        "replaces", "reuse", "reuse_counts", "score", "shard_size", "versions",
    ]  # fmt: skip
    assert list(values["checkpoint"]) == ["card", "digest", "path"]
    success = json.loads(committed.run.success.read_text())
    assert list(success) == [
        "carried", "committed_at", "devices", "exit_code", "files", "format_version", "max_error_rate",
        "planned", "statuses", "timings_s", "unreadable",
    ]  # fmt: skip
    assert list(success["files"][0]) == ["name", "num_bytes", "rows", "sha256"]


def test_a_later_version_may_write_more_and_an_earlier_one_wrote_less(staged: Run) -> None:
    values = json.loads(staged.run.run_json.read_text())
    plan = {name: value for name, value in values["plan"].items() if name != "margin_days"}
    edit_json(
        staged.run.run_json,
        zoom=[2],
        plan={**plan, "tilt": 3},
        score={"dtype": "float32", "batch_size": 32, "lens": 1},
    )
    settings = staged.run.read_run()
    assert settings.to_json()["zoom"] == [2]
    assert settings.to_json()["plan"] == {**plan, "margin_days": 0, "tilt": 3}
    assert settings.to_json()["score"] == {**values["score"], "lens": 1}
    assert settings.score == RunSettings.from_json(values, staged.run.run_json).score
    request = Request(
        plan=settings.plan, access=Access(), score=settings.score, checkpoint=settings.checkpoint
    )
    with pytest.raises(UsageError, match=r"(?s)tilt.*lens"):
        request.refuse_difference(staged.run, settings)
    staged.commit()
    edit_json(staged.run.success, mood="good")
    assert staged.run.read_success().planned == 102


def test_an_earlier_run_was_decoded_by_the_cpu(staged: Run) -> None:
    values = json.loads(staged.run.run_json.read_text())
    score = {name: value for name, value in values["score"].items() if name != "decoder"}
    edit_json(staged.run.run_json, score=score)
    settings = staged.run.read_run()
    assert settings.score.decoder == settings.score_values["decoder"] == "cpu"
    assert settings.scored_by == RunSettings.from_json(values, staged.run.run_json).scored_by
    request = Request(
        plan=settings.plan,
        access=Access(),
        score=replace(settings.score, decoder="gpu"),
        checkpoint=settings.checkpoint,
    )
    with pytest.raises(UsageError, match="decoder gpu instead of cpu"):
        request.refuse_difference(staged.run, settings)
    replace(request, score=settings.score).refuse_difference(staged.run, settings)


def test_rows_of_another_decoder_are_scored_otherwise_and_those_of_another_batch_are_not(staged: Run) -> None:
    ours = staged.run.read_run()
    for changes, is_same in (({"batch_size": 256}, True), ({"decoder": "gpu"}, False)):
        theirs = replace(ours, score=replace(ours.score, **changes))
        assert (theirs.scored_by == ours.scored_by) == is_same


def test_a_plan_of_older_rules_is_gone_on_with_by_the_same_command(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "archive", {"a.jpg": b"x", ".b.jpg": b"x"})
    config, out = PlanConfig(archives=(str(archive),)), tmp_path / "run"
    assert plan_archive(config, out).hidden == {".*": 1}
    values = json.loads((out / "run.json").read_text())
    del values["plan_rules"], values["listing"]["hidden"], values["listing"]["links"]
    for name in ("exclude_path", "include_hidden", "skip_unreadable"):
        del values["plan"][name]
    write_json(out / "run.json", values)
    listing = plan_archive(config, out)
    assert (listing.num_images, listing.hidden, RunDir(out).read_run().plan_rules) == (1, {}, 1)
    with pytest.raises(UsageError, match="include_hidden True instead of False"):
        plan_archive(PlanConfig(archives=(str(archive),), include_hidden=True), out)


def test_a_plan_records_its_rules_and_one_without_them_was_made_by_the_first(staged: Run) -> None:
    assert staged.run.read_run().plan_rules == PLAN_RULES
    values = json.loads(staged.run.run_json.read_text())
    del values["plan_rules"]
    assert RunSettings.from_json(values, staged.run.run_json).plan_rules == 1


def test_the_one_layout_of_an_earlier_run_is_the_first_of_several(staged: Run) -> None:
    values = json.loads(staged.run.run_json.read_text())
    config = staged.run.read_run().plan
    assert config.layout == (LAYOUT,)
    for layout, expected in ((LAYOUT, (LAYOUT,)), (None, ())):
        plan = {
            name: v for name, v in values["plan"].items() if name not in ("names_in", "allow_unknown_times")
        }
        edit_json(staged.run.run_json, plan=plan | {"layout": layout})
        settings = staged.run.read_run()
        assert settings.plan.layout == expected
        assert settings.plan.names_in == () and settings.plan.allow_unknown_times is False
        asked = replace(config, layout=expected, allow_unknown_times=True)
        Request(plan=asked, access=Access()).refuse_difference(staged.run, settings)
        with pytest.raises(UsageError, match="names_in UTC instead of none"):
            Request(plan=replace(asked, names_in=("UTC",)), access=Access()).refuse_difference(
                staged.run, settings
            )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"plan": None}, "plan is None, an object expected"),
        ({"plan": {"archives": ["/a"], "timezone": ["Mars/Dome"]}}, "Mars/Dome"),
        ({"created_at": "soon"}, "Invalid isoformat string: 'soon'"),
        ({"reuse": [{"path": "/a"}]}, "it lacks 'success_sha256'"),
        ({"reuse_counts": {"carried": True}}, "reuse_counts carried is True, a whole number expected"),
        ({"versions": ["3.11"]}, "versions is .*, an object expected"),
        ({"replaces": 2}, "replaces is 2, a string expected"),
    ],
)
def test_a_value_that_is_wrong_is_named_with_its_file(
    changes: dict[str, Any], what: str, staged: Run
) -> None:
    edit_json(staged.run.run_json, **changes)
    with pytest.raises(UsageError, match=rf"run\.json is damaged: .*{what}.*; restore it$"):
        staged.run.read_run()


def test_a_commit_has_no_fewer_than_no_images(committed: Run) -> None:
    values = json.loads(committed.run.success.read_text()) | {"planned": -1}
    with pytest.raises(UsageError, match=r"_SUCCESS is damaged: planned -1, 0 or more expected; restore it"):
        Success.from_json(values, committed.run.success)
