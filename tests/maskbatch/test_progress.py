import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from maskbatch import progress
from maskbatch.progress import Step, describe_step, event, quiet_output, say, step


def test_a_step_ends_with_a_line_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with step("score", 3000, "images") as shown:
        for _ in range(3):
            shown.advance(1000)
    assert capsys.readouterr().err.startswith("score: 3,000 images in 0.")


def test_a_long_step_speaks_as_it_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with step("score", 4) as shown:
        shown.advance()
        assert "score: 1 of 4 images (25%)" in capsys.readouterr().err


def test_what_was_there_before_counts_as_done_but_not_as_speed() -> None:
    shown = Step("score", 100, "images")
    shown.start_at(60)
    assert describe_step(shown.live()) == "score: 60 of 100 images (60%)"
    shown.advance(10)  # the first waited for the start: no speed either
    shown._rated -= 10
    shown.advance(10)
    assert shown.rate() == pytest.approx(1, rel=0.01)
    assert describe_step(shown.live()) == "score: 80 of 100 images (80%), 1/s, 0:00:20 left"


def test_a_large_step_that_has_not_begun_has_a_line() -> None:
    assert "0 of 100,000,000" in describe_step(Step("score", 100_000_000, "images").live())


def test_quiet_output_keeps_others_out_and_lets_us_through(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_output():
        os.write(2, b"noise of a library\n")
        say("ours")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "ours\nafter\n"


def test_say_follows_a_stderr_that_is_replaced_after_quiet_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with quiet_output():
        pass
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    say("hello")
    assert sys.stderr.getvalue() == "hello\n"  # type: ignore[attr-defined]


def test_an_event_is_silent_where_no_json_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    event("shard", shard=3)
    assert capsys.readouterr() == ("", "")


NOISE = """
import logging, os, sys, warnings
from maskbatch import progress
progress.LINE_EVERY_S = 0.0
progress.log_json()
progress.log_json()
progress.say("resume: [bold]2 shards")
progress.event("shard", shard=3, statuses={"ok": 5})
with progress.step("score", 8) as shown:
    shown.statuses.update(ok=2)
    shown.advance(4)
with progress.quiet_output():
    os.write(2, b"noise of a library\\n")
    print("noise", file=sys.stderr)
    progress.say("ours")
warnings.warn("a warning of a library")
logging.warning("logged by a library")
print("the result")
progress.say("it failed", "error", exit_code=2)
raise SystemError("a defect")
"""


def test_as_json_every_line_on_stderr_is_one_object_also_of_libraries_and_defects() -> None:
    noisy = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True)
    lines = [json.loads(line) for line in noisy.stderr.splitlines()]
    assert noisy.stdout == "the result\n"
    for line in lines:
        assert abs(datetime.fromisoformat(line.pop("time")) - datetime.now(UTC)) < timedelta(minutes=5)
    kinds = [line["event"] for line in lines]
    assert kinds[:5] == ["message", "shard", "progress", "step", "message"]
    assert lines[0]["message"] == "resume: [bold]2 shards"
    assert lines[1] == {"event": "shard", "shard": 3, "statuses": {"ok": 5}}
    live = {"phase": "score", "unit": "images", "done": 4, "total": 8, "statuses": {"ok": 2}}
    assert live.items() <= lines[2].items()
    assert 0 <= lines[3].pop("took_s") < 60
    assert lines[3].pop("message").startswith("score: 4 images in ")
    assert lines[3] == {"event": "step", "phase": "score", "unit": "images", "done": 4}
    assert lines[4]["message"] == "ours"
    assert {"event": "error", "message": "it failed", "exit_code": 2} in lines
    text = "\n".join(line["message"] for line in lines if line["event"] == "message")
    assert "a warning of a library" in text
    assert "logged by a library" in text
    assert "noise" not in text
    assert text.endswith("SystemError: a defect")


def test_as_json_no_bar_is_drawn_on_a_terminal() -> None:
    reader, terminal = os.openpty()
    code = "from maskbatch import progress\nprogress.log_json()\nwith progress.step('score', 8) as s: s.advance(8)"
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    os.close(terminal)
    (line,) = os.read(reader, 65_536).decode().splitlines()
    os.close(reader)
    assert json.loads(line)["event"] == "step"
