import inspect
from pathlib import Path
from typing import Any

import pytest

from maskbatch.cli.commands import score
from maskbatch.config import (
    JobConfig,
    PlanConfig,
    ReportConfig,
    ScoreConfig,
    check_decoder,
    list_differences,
    make_config,
    read_toml,
    to_dict,
)
from maskbatch.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (PlanConfig, {"limit": 0}, "limit 0"),
        (PlanConfig, {"layout": "{nope}.jpg"}, "{nope}"),
        (PlanConfig, {"timezone": ("Mars",)}, "Mars"),
        (PlanConfig, {"since": "soon"}, "--since soon"),
        (PlanConfig, {"until": "2026-99-01"}, "--until 2026-99-01"),
        (ScoreConfig, {"dtype": "float16"}, "dtype float16"),
        (ScoreConfig, {"batch_size": 0}, "--batch-size 0"),
        (ScoreConfig, {"decoder": "tpu"}, "--decoder tpu: cpu or gpu expected"),
        (ScoreConfig, {"batch_size": 5000}, "1 to 4096"),
        (ScoreConfig, {"max_bytes": 0}, "--max-bytes"),
        (ScoreConfig, {"max_pixels": 10**9}, "--max-pixels"),
        (JobConfig, {"max_workers": 0}, "--max-workers 0"),
        (JobConfig, {"max_scorers": 0}, "--max-scorers 0"),
        (JobConfig, {"gpus_per_worker": -1.0}, "--gpus-per-worker -1.0: 0 to 64"),
        (JobConfig, {"gpus_per_worker": 1.5}, "gpus_per_worker 1.5: whole numbers"),
        (JobConfig, {"max_error_rate": 1.5}, "--max-error-rate 1.5: 0 to 1 expected"),
        (JobConfig, {"max_error_rate": float("nan")}, "--max-error-rate"),
        (JobConfig, {"stall_timeout_s": 0.5}, "--stall-timeout-s"),
        (JobConfig, {"request_timeout_s": 0.0}, "--request-timeout-s 0.0: 0.1 or more expected"),
        (JobConfig, {"image_timeout_s": 0.0}, "--image-timeout-s"),
        (JobConfig, {"decode_timeout_s": 0.0}, "--decode-timeout-s"),
        (JobConfig, {"max_requests": 0}, "--max-requests 0: 1 to 1024 expected"),
        (JobConfig, {"max_requests": 2000}, "--max-requests 2000"),
        (PlanConfig, {"keep_column": "a b"}, "keep_column 'a b'"),
        (PlanConfig, {"keep_column": "Status"}, "the tables have a column of that name already"),
        (PlanConfig, {"keep_column": "prob_x"}, "the tables have a column of that name already"),
        (PlanConfig, {"keep_column": "size_band"}, "the tables have a column of that name already"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_name(kind: Any, values: dict[str, Any], expected: str) -> None:
    own = {"archives": ("/a",)} if kind is PlanConfig else {}
    with pytest.raises(UsageError) as refused:
        kind(**own, **values)
    assert expected in str(refused.value)


def test_make_takes_its_own_settings_and_leaves_the_unset_to_defaults() -> None:
    values = {"batch_size": 8, "dtype": None, "camera": ["a", "b"], "archives": ["/x"], "max_error_rate": 0.2}
    assert make_config(ScoreConfig, values) == ScoreConfig(batch_size=8)
    assert make_config(PlanConfig, values) == PlanConfig(archives=("/x",), camera=("a", "b"))
    assert make_config(JobConfig, values) == JobConfig(max_error_rate=0.2)
    assert ReportConfig(alert_by="overall") == ReportConfig()


def test_a_toml_file_sets_what_flags_set(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "layout = '{camera}/*'\nbatch-size = 16\nmax_error_rate = 1\ntimezone = 'UTC'\ncamera = ['a', 'b']\n"
        "checkpoint = 'c.safetensors'\n"
    )
    assert read_toml(path) == {
        "layout": ["{camera}/*"],
        "batch_size": 16,
        "max_error_rate": 1.0,
        "timezone": ["UTC"],
        "camera": ["a", "b"],
        "checkpoint": "c.safetensors",
    }


def test_one_file_serves_score_and_report(tmp_path: Path) -> None:
    path = tmp_path / "nightly.toml"
    path.write_text(
        "max-error-rate = 0.02\nexclude = 'frozen, dark'\nexpect = '1/5min'\nalert-below = 1\nby = 'camera'\n"
        "corrected = true\nthumbnails = false\n"
    )
    values = read_toml(path)
    assert make_config(JobConfig, values) == JobConfig(max_error_rate=0.02)
    assert make_config(ReportConfig, values) == ReportConfig(
        exclude=("frozen", "dark"), expect="1/5min", alert_below=1.0, alert_by="camera", alert_corrected=True
    )
    path.write_text("exclude = ['frozen', 'dark']\nalert_by = 'site'\n")
    assert read_toml(path) == {"exclude": ["frozen", "dark"], "alert_by": "site"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("corrected = 1", "corrected = 1, a bool expected"),
        ("batch_size = ", "cannot be read as TOML"),
        ("bach_size = 3", "'bach_size' is no setting; .* such as batch-size$"),
        ("archives = ['/a']", "'archives' is no setting"),
        ("own_days = true", "'own_days' is no setting"),
        ("batch_size = '3'", "an? (int|whole number|integer) expected"),
        ("batch_size = true", "an? (int|whole number|integer) expected"),
        ("max_error_rate = 'x'", "a (float|number) expected"),
        ("camera = [1]", "a list of strings expected"),
        ("layout = 3", "a list of strings expected"),
        ("dtype = 3", "a (str|string) expected"),
        ("limit = 1\nbatch-size = 2\nbatch_size = 3", "batch_size is set twice"),
        ("by = 'camera'\nalert_by = 'site'", "alert_by is set twice"),
    ],
)
def test_a_toml_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected):
        read_toml(path)


# How and where the command runs, which a file of settings does not say.
NOT_SETTINGS = {
    "json_logs", "reuse", "archives", "out", "fresh", "config_file", "as_json", "verbose", "dry_run", "options",
}  # fmt: skip


@pytest.mark.parametrize("flag", sorted(set(inspect.signature(score).parameters) - NOT_SETTINGS))
def test_every_flag_of_score_is_a_name_in_the_toml_file(tmp_path: Path, flag: str) -> None:
    numbers = {
        "batch_size", "max_bytes", "max_pixels", "max_workers", "max_scorers", "limit", "max_requests", "margin_days", "detect_px",
    }  # fmt: skip
    fractions = {
        "gpus_per_worker", "max_error_rate", "stall_timeout_s", "request_timeout_s", "image_timeout_s",
        "decode_timeout_s",
    }  # fmt: skip
    switches = {"allow_unknown_times", "include_hidden", "skip_unreadable"}
    value = "1" if flag in numbers else "1.0" if flag in fractions else "true" if flag in switches else "'x'"
    path = tmp_path / "run.toml"
    path.write_text(f"{flag.replace('_', '-')} = {value}\n")
    assert len(read_toml(path)) == 1


@pytest.mark.parametrize("gpus", [1.0, 0.5])
def test_gpus_that_are_not_used_decode_nothing(gpus: float) -> None:
    check_decoder(ScoreConfig(decoder="gpu"), JobConfig(gpus_per_worker=gpus))
    check_decoder(ScoreConfig(), JobConfig(gpus_per_worker=0.0))
    with pytest.raises(UsageError, match=r"--gpus-per-worker 0 uses none; leave one of the two out$"):
        check_decoder(ScoreConfig(decoder="gpu"), JobConfig(gpus_per_worker=0.0))


def test_a_batch_size_left_open_fits_any_and_a_decoder_only_its_own() -> None:
    recorded = to_dict(ScoreConfig(batch_size=256))
    assert list_differences(to_dict(ScoreConfig()), recorded) == []
    assert list_differences(to_dict(ScoreConfig(batch_size=32)), recorded) == ["batch_size 32 instead of 256"]
    asked = to_dict(ScoreConfig(decoder="gpu"))
    assert list_differences(asked, recorded) == ["decoder gpu instead of cpu"]


def test_differences_name_what_changed_in_words() -> None:
    ours = to_dict(PlanConfig(archives=("/a",), limit=10, camera=("x", "y")))
    theirs = to_dict(PlanConfig(archives=("/a",), limit=20))
    assert list_differences(ours, theirs) == ["camera x, y instead of none", "limit 10 instead of 20"]
    assert list_differences(ours, ours) == []


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("https://h/x.jpg?X-Amz-Signature=SECRET", "https://h/x.jpg: a URL with a query or a password"),
        ("https://ann:SECRET@h:8443/list.csv", "https://h:8443/list.csv: a URL with a query"),
        ("HTTPS://SECRET@h/list.csv", "https://h/list.csv: a URL"),
        ("s3://key:SECRET@bucket/x", "s3://bucket/x: a URL with a query or a password is kept in no run; say it in"),
        ("sftp://ann:SECRET@host/x", "sftp://host/x: a URL with"),
        ("http://[bad/x?SECRET", "a URL with a query"),
        ("s3://", "names nothing; write it like s3://BUCKET/PREFIX"),
        ("memory:///", "names nothing"),
    ],
)  # fmt: skip
def test_an_argument_that_no_run_may_keep_is_refused(argument: str, expected: str) -> None:
    with pytest.raises(UsageError) as refused:
        PlanConfig(archives=(argument,))
    assert expected in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_an_argument_is_kept_absolute_and_by_its_usual_scheme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    for argument, kept in {
        "a/../b/": f"{tmp_path}/b", f"file://{tmp_path}/b/": f"{tmp_path}/b", "*/x.tar": f"{tmp_path}/*/x.tar",
        "~/x": "/home/ann/x", "S3A://b/x//": "s3://b/x", "s3n://b": "s3://b", "abfs://box@account/x": "abfs://box@account/x",
        "s3://b/a@b:c?/d": "s3://b/a@b:c?/d", "{date:%Y/%m}/x": f"{tmp_path}/{{date:%Y/%m}}/x",
    }.items():  # fmt: skip
        assert PlanConfig(archives=(argument,)).archives == PlanConfig(archives=(kept,)).archives == (kept,)


def test_a_settings_file_that_is_not_there_is_refused_without_a_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; check the path$"):
        read_toml(tmp_path / "none.toml")
