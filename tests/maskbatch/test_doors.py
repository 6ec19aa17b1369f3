"""Damaged and hostile files: whatever run.json, `_SUCCESS`, a plan or a checkpoint says, the answer is a sentence."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from maskbatch.errors import MaskbatchError, RunFailedError, UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import METADATA_KEY, Checkpoint, open_checkpoint
from maskbatch.plan.table import check_plan, part_path, read_plan
from maskbatch.report.make import make_report
from maskbatch.runner import plan_archive
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import read_lease
from maskbatch.runs.status import describe_status, read_status
from maskbatch.stores.files import parse_json
from maskbatch.verify.files import check_run
from tests.maskbatch.samples import Run, make_card

DEEP = "[" * 100_000 + "]" * 100_000
NESTED: Any = {}
for _ in range(300):
    NESTED = {"a": NESTED}
HOSTILE = [
    None, True, -1, 0, 3, 2**63, 10**400, -(10**30), 1.5, float("nan"), float("inf"), 1e-320, "", "x", "\ud800",
    "a\nb", "a" * 100_000, "../../etc", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00", "1e400", [], [[]], {},
    [None] * 3, ["x", "x"], {"": None}, {"x": {"x": []}}, NESTED, [1e999] * 3, [10**400] * 3,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in JSON, but of a list only the first two."""
    found = [path] if path else []
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    return found + [place for key, item in items for place in places(item, (*path, key))]


@st.composite
def spoilt(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    """`values` with one to three places replaced, dropped, or given a hostile key beside them."""
    values = deepcopy(values)
    for _ in range(draw(st.integers(1, 3))):
        found = places(values)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        part = values
        for key in path:
            part = part[key]
        how = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if how == "replace":
            part[last] = deepcopy(draw(st.sampled_from(HOSTILE)))
        elif how == "drop":
            del part[last]
        elif isinstance(part, dict):
            part[draw(st.sampled_from(["", "a/b", "~", "ok\n", "x" * 5000]))] = deepcopy(
                draw(st.sampled_from(HOSTILE))
            )
    return values


def refuses_in_a_sentence(act: Callable[[], Any]) -> bool:
    """Whether `act` was refused; anything but one of our sentences is an error of this test."""
    try:
        act()
    except MaskbatchError as error:
        assert len(str(error)) < 5_000 and str(error)
        return True
    return False


lasting = settings(
    max_examples=60,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def spare(committed: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A committed run whose run.json and _SUCCESS are spoilt and mended again."""
    return committed.copy(tmp_path_factory.mktemp("spare") / "run")


@pytest.mark.parametrize("name", ["run.json", "_SUCCESS"])
def test_whatever_a_file_of_a_run_says_every_command_answers_in_a_sentence(
    name: str, spare: Run, tmp_path: Path
) -> None:
    path = Path(str(spare.run.path)) / name
    before = path.read_bytes()

    @lasting
    @given(spoilt(json.loads(before)))
    def check(values: dict[str, Any]) -> None:
        path.write_text(json.dumps(values))
        run = RunDir.at(str(spare.run.path))
        refuses_in_a_sentence(lambda: list(describe_status(read_status(run))))
        refuses_in_a_sentence(lambda: make_report([run], tmp_path / "report"))
        refuses_in_a_sentence(lambda: check_run(run, sample=0))

    try:
        check()
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", ["run.json", "_SUCCESS"])
@pytest.mark.parametrize(
    "text",
    [DEEP, "", "null", "3", "{", '"x"', "\x00", '{"planned": 1' + "0" * 5000 + "}", json.dumps(NESTED)],
)
def test_a_file_of_a_run_that_is_no_object_is_named(name: str, text: str, spare: Run, tmp_path: Path) -> None:
    path = Path(str(spare.run.path)) / name
    before = path.read_bytes()
    try:
        path.write_text(text)
        for act in (lambda: read_status(spare.run), lambda: make_report([spare.run], tmp_path / "report")):
            with pytest.raises(UsageError, match=name.replace(".", r"\.")):
                act()
        spare.run.lease.write_text(text)
        assert read_lease(spare.run) is None
    finally:
        path.write_bytes(before)
        spare.run.lease.unlink(missing_ok=True)


def test_json_nests_as_deep_as_anything_we_write_and_no_deeper() -> None:
    assert parse_json("[" * 60 + "]" * 60)
    for depth in (66, 500, 990, 2_000, 100_000):
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            parse_json("[" * depth + "]" * depth)


# the plan


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    table = pq.read_table(path)
    tables = {
        "fewer columns": table.drop_columns(["uri"]), "other types": table.set_column(0, "id", table["uri"]),
        "fewer rows": table.slice(1), "no rows": table.slice(0, 0), "another table": pa.table({"x": [1]}),
    }  # fmt: skip
    bytes_of = {
        "cut": data[: len(data) // 2],
        "emptied": b"",
        "no Parquet": b"{}" * 99,
        "flipped": data[:4] + bytes(200) + data[204:],
    }
    if how in tables:
        pq.write_table(tables[how], path)
    elif how == "gone":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(bytes_of[how])


WAYS = ("fewer columns", "other types", "fewer rows", "no rows", "another table", "cut", "emptied", "no Parquet",
        "flipped", "gone", "a folder")  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_plan_is_named_at_resume_and_at_commit_and_is_a_difference_for_verify(
    how: str, staged: Run, committed: Run, month: Path, tmp_path: Path
) -> None:
    path = part_path(staged.run.plan, 0)
    spoil(path, how)
    name = r"part-000000000000\.parquet"
    config = staged.run.read_run().plan
    if how not in ("other types", "flipped"):  # a footer does not show these
        with pytest.raises(RunFailedError, match=f"{name} .*(restore it|--fresh)"):
            plan_archive(config, str(staged.run.path))
    with pytest.raises(MaskbatchError, match=name):
        staged.commit()
    copy = committed.copy(tmp_path / "committed").run
    spoil(part_path(copy.plan, 0), how)
    assert not check_run(copy, sample=2).verified
    assert not refuses_in_a_sentence(lambda: make_report([copy], tmp_path / "report"))


def test_a_sound_plan_passes(staged: Run) -> None:
    check_plan(staged.run.plan, 102)
    assert read_plan(staged.run.plan, 0, 102).num_rows == 102


# checkpoints


def write_checkpoint(path: Path, text: str, state: dict[str, torch.Tensor] | None = None) -> str:
    save_file(state or {"w": torch.zeros(2)}, path, {METADATA_KEY: text})
    return str(path)


CARD = Checkpoint("", "", make_card(reference={"confidence": [1, 2]}, recipe={"epochs": 3})).card_dict()


@lasting
@given(spoilt(CARD))
@example(CARD | {"temperature": 10**400})
@example(CARD | {"options": NESTED})
def test_whatever_a_card_says_it_opens_or_is_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "card.safetensors"
    refuses_in_a_sentence(lambda: open_checkpoint(write_checkpoint(path, json.dumps(values))))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mean": (float("nan"), 0.5, 0.5)}, "mean = nan"),
        ({"mean": (1e30, 0.5, 0.5)}, "mean"),
        ({"std": (1e-30, 0.2, 0.2)}, "std"),
        ({"std": (float("inf"), 0.2, 0.2)}, "std = inf"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"review_threshold": float("nan")}, "review_threshold"),
        ({"review_threshold": 2.0}, "review_threshold"),
        ({"confusion": ((-1, 0, 0, 0),) * 4}, "counts of 0 or more"),
        ({"reference": {"confidence": [-1]}}, "reference"),
        ({"reference": {"confidence": "x"}}, "reference"),
        *[
            ({"classes": ("with_mask", name, "c", "no_face")}, f"class {name}: the tables have a column")
            for name in (
                "label",
                "status",
                "count",
                "review",
                "clusters",
                "failed",
                "prob_x",
                "num_x",
                "share_a",
                "failed_ok",
            )
        ],
    ],
)
def test_a_card_with_numbers_or_names_that_break_a_run_is_refused(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        make_card(**changes)


@pytest.mark.parametrize(
    "text", [DEEP, "NaN", '{"classes": 1' + "0" * 5000 + "}", '{"a":' * 990 + "1" + "}" * 990]
)
def test_metadata_that_is_no_card_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its metadata cannot be used"):
        open_checkpoint(write_checkpoint(tmp_path / "c.safetensors", text))


def test_complex_weights_are_refused(tmp_path: Path) -> None:
    state = {"w": torch.zeros(2, dtype=torch.complex64)}
    opened = open_checkpoint(write_checkpoint(tmp_path / "c.safetensors", json.dumps(CARD), state))
    with pytest.raises(UsageError, match="weight 'w' is complex"):
        opened.load_state()


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("plain_cnn", {"widths": 3}), ("plain_cnn", {"widths": [None]}), ("plain_cnn", {"widths": [-1]}),
        ("plain_cnn", {"dropout": 7}), ("mobilenet_v1", {"width": 0}), ("mobilenet_v1", {"width": "x"}),
        ("mobilenet_v3_small", {"head": 3}), ("mobilenet_v3_small", {"head": {"units": "ab"}}),
        ("mobilenet_v3_small", {"weights": "x"}), ("mobilenet_v3_small", {"norm_layer": 3}), ("resnet18", {"block": 1}),
        ("", {}), ("no\nsuch", {}), ("vit_b_16", {"image_size": "x"}),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_named(architecture: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be built"):
        build(architecture, 2 if architecture == "mobilenet_v1" else 4, options)


@pytest.mark.parametrize(
    "config",
    [
        {}, {"model_type": "none"}, {"model_type": 3}, {"model_type": "vit", "hidden_size": -3},
        {"model_type": "vit", "num_attention_heads": 0}, {"model_type": "vit", "hidden_act": "none"},
        {"model_type": "convnext", "depths": 3}, {"model_type": "resnet", "depths": []}, {"model_type": "bert"},
        {"model_type": "vit", "num_hidden_layers": "x"}, {"model_type": "vit", "patch_size": [0]},
        {"model_type": "vit", "id2label": 3}, {"model_type": "vit", "dtype": "none"}, 3, "x", None,
    ],
)  # fmt: skip
def test_an_odd_config_of_hugging_face_is_named(config: Any) -> None:
    pytest.importorskip("transformers")
    assert refuses_in_a_sentence(lambda: build("transformers", 2, {"config": config})) or config.keys() & {
        "id2label",
        "dtype",
    }
