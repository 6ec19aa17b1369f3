"""The demo of whole scenes, as a user runs it, on a real Ray."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.slow


def test_a_drawn_week_of_lobbies_is_scored_as_it_was_drawn(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "lobbies"
    result = cli("demo", "--view", "scene", "--images", 240, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    truth, overall = found["truth"], found["overall"]
    rows = pq.read_table(out / "truth.parquet")
    assert sum(found["statuses"].values()) == found["planned"] == rows["label"].null_count
    faces = [*truth["labels"].values(), truth["too_small"], truth["hidden"], truth["poster"]]
    assert sum(drawn for drawn, _, _ in faces) == rows.num_rows - rows["label"].null_count
    assert truth["spoilt"] == truth["spoilt_right"] > 0
    drawn, boxed, right = (sum(column) for column in zip(*truth["labels"].values(), strict=True))
    assert boxed > 0.88 * drawn and right > 0.8 * drawn
    assert truth["poster"][1] > 0.85 * truth["poster"][0]
    assert truth["static"] > 0.75 * truth["poster"][1]
    assert truth["assessed_alarms"] < 0.03 * drawn
    assert overall["compliance_low"] <= truth["true_compliance"] <= overall["compliance_high"]
    again = json.loads(cli("demo", "--view", "scene", "--images", 240, "--out", out, "--json").stdout)
    assert not again["rescored"] and again["truth"] == truth
    other = cli("demo", "--view", "face", "--images", 240, "--out", out)
    assert other.returncode == 2 and "name another --out" in other.stderr
