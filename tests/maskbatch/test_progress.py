import io
import os
import sys

import pytest

from maskbatch import progress
from maskbatch.progress import Step, quiet_output, say, step


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
    assert shown.line() == "score: 60 of 100 images (60%)"
    shown.advance(10)  # the first waited for the start: no speed either
    shown._rated -= 10
    shown.advance(10)
    assert shown.rate() == pytest.approx(1, rel=0.01)
    assert shown.line() == "score: 80 of 100 images (80%), 1/s, 0:00:20 left"


def test_a_large_step_that_has_not_begun_has_a_line() -> None:
    assert "0 of 100,000,000" in Step("score", 100_000_000, "images").line()


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
