"""What is told of long work: how much is done and how long the rest takes, as lines where there is no terminal."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from lianet_user.cli import console
from lianet_user.cli.console import Pace, Stages, minutes, progress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def work(pace: Pace, clock: Clock, stages: Stages, seconds: list[float], steps: int = 200) -> Iterator[float]:
    """Do all stages, which take so many seconds; yields how much was left of them after every step."""
    total = sum(seconds)
    for at, taken in enumerate(seconds):
        for step in range(steps + 1):
            pace.update(step / steps, stages, at)
            yield total
            if step < steps:
                clock.now += taken / steps
                total -= taken / steps


def test_steady_work_takes_as_long_as_it_has_taken() -> None:
    clock = Clock()
    pace = Pace(clock)
    for n, left in enumerate(work(pace, clock, (("", 1.0),), [300.0])):
        assert pace.share == pytest.approx(n / 200)
        assert pace.elapsed == pytest.approx(300 - left)
        if n:
            assert pace.left() == pytest.approx(left)


def test_nothing_is_said_of_what_nothing_tells() -> None:
    pace = Pace(Clock())
    assert pace.left() is None
    pace.update(0.0)
    assert pace.left() is None
    assert pace.share == 0


def test_the_pace_is_that_of_late() -> None:
    clock = Clock()
    pace = Pace(clock)
    for step in range(101):  # a tenth of a second each, then two seconds: another program has begun
        pace.update(step / 200)
        clock.now += 0.1
    for step in range(101, 141):
        pace.update(step / 200)
        clock.now += 2.0
    assert pace.left() == pytest.approx(60 * 2, rel=0.05)


def test_the_time_left_runs_down_between_two_steps() -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in (0.0, 0.1):
        pace.update(done)
        clock.now += 10
    assert pace.left() == pytest.approx(80)
    clock.now += 50
    assert pace.left() == pytest.approx(30)
    clock.now += 500
    assert pace.left() == 0


STAGES = (("features", 30.0), ("training", 50.0), ("judging", 5.0), ("training", 50.0), ("drawing", 10.0))


@pytest.mark.parametrize("factor", [0.2, 1.0, 6.0])
def test_the_time_left_counts_what_is_still_to_come(factor: float) -> None:
    clock = Clock()
    pace = Pace(clock)
    for n, left in enumerate(work(pace, clock, STAGES, [factor * seconds for _, seconds in STAGES])):
        if n:
            assert pace.left() == pytest.approx(left, rel=0.02, abs=0.01)
            assert pace.share == pytest.approx(1 - left / factor / 145, abs=0.01)


def test_a_stage_that_was_expected_to_be_faster_teaches_what_to_expect_of_its_kind() -> None:
    clock = Clock()
    pace = Pace(clock)
    seconds = [30.0, 150.0, 5.0, 150.0, 10.0]  # training is three times as slow as was expected
    off = {}
    for left in work(pace, clock, STAGES, seconds):
        told = pace.left()
        if told is not None:
            off[round(sum(seconds) - left)] = (told - left) / sum(seconds)
    assert off[20] < -0.5  # nothing has told it yet
    assert all(abs(each) < 0.06 for moment, each in off.items() if moment >= 50)


def test_what_an_interrupted_run_had_done_tells_nothing_of_the_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    for step in range(80, 91):
        pace.update(step / 100)
        clock.now += 3.0
    clock.now -= 3.0
    assert pace.left() == pytest.approx(30)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_lines_are_printed_at_every_tenth(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_AFTER", 0.0)
    monkeypatch.setattr(console, "LINES_APART", 0.0)
    with progress(quiet=False) as bars:
        for step in range(1, 201):
            time.sleep(0.001)
            bars.task("mapping")(step, 200, f"{step} of 200 tiles")
    told = lines(capsys)
    assert [line.split(" in ")[0] for line in told] == [f"mapping: {n}0%" for n in range(1, 11)]
    assert all(re.fullmatch(r"mapping: \d+% in 0:0\d, about 0:0\d left, \d+ of 200 tiles", line) for line in told[:-1])
    assert re.fullmatch(r"mapping: 100% in 0:0\d, 200 of 200 tiles", told[-1])


def test_a_line_is_printed_now_and_then_while_nothing_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_WITHIN", 0.1)
    with progress(quiet=False) as bars:
        bars.task("fine-tuning")(0, 1, "solving", STAGES, 1)
        time.sleep(2.5)
        told = lines(capsys)
    assert 1 <= len(told) <= 2
    assert told[0].startswith("fine-tuning: 21% in 0:0")
    assert told[0].endswith(", solving")
    assert lines(capsys) == []


def test_what_is_over_at_once_or_asked_to_be_quiet_prints_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress(quiet=False) as bars:
        for step in range(11):
            bars.task("zones")(step, 10)
    monkeypatch.setattr(console, "LINE_AFTER", 0.0)
    monkeypatch.setattr(console, "LINES_APART", 0.0)
    with progress(quiet=True) as bars:
        for step in range(11):
            bars.task("zones")(step, 10)
    assert lines(capsys) == []


def test_a_terminal_has_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True, width=120))
    with progress(quiet=False) as bars:
        for step in range(6):
            time.sleep(0.01)
            bars.task("mapping")(step, 10, "5 of 10 Mpx")
    last = shown.getvalue().split("mapping")[-1]
    assert "50 %" in last
    assert "about 0:00 left  5 of 10 Mpx" in last


def test_durations_read_as_on_a_clock() -> None:
    assert [minutes(seconds) for seconds in (0.4, 59.6, 125, 3599.7, 7262)] == [
        "0:00",
        "1:00",
        "2:05",
        "1:00:00",
        "2:01:02",
    ]
