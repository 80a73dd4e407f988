"""The time left of a whole run: what is done puts right what was thought of the rest."""

import re
import types

import pytest

from latent_audit.runtime.telling import compiling, forecast, progress
from latent_audit.runtime.telling.forecast import Forecast, Part


def part(key, units, seconds, kind=""):
    return Part(key, kind or key, units, seconds / 2, seconds, 2 * seconds)


@pytest.fixture
def clock(monkeypatch):
    """A clock and a compiler that move as a test says, and the lines that are logged."""
    told = types.SimpleNamespace(now=0.0, watch=compiling.Watch(), lines=[])
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: told.now))
    monkeypatch.setattr(told.watch, "began", 0.0)
    monkeypatch.setattr(progress, "_COMPILED", told.watch)
    monkeypatch.setattr(progress.logging, "info", lambda text, *values: told.lines.append(text % values))
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    return told


def left(line):
    """The seconds that a line says are left."""
    return int(re.search(r"(\d+) s left in all", line)[1])


def test_what_a_kind_took_tells_of_its_rest_and_of_kinds_not_begun():
    run = Forecast([part("units a/", 100, 100.0, "slow"), part("units b/", 2, 20.0, "other")])
    assert run.seconds_left() == pytest.approx(120)
    run.done("units a/L0", 1, 11.0)
    # One unit that took eleven times as long says little of the others.
    assert 120 < run.seconds_left() < 2.5 * 119
    run = Forecast(run.parts)
    for _ in range(50):
        run.done("units a/L0", 1, 2.0)
    # Fifty that took twice as long say nearly all, and half as much of a kind that is not begun.
    assert run.error("slow") == pytest.approx(2, rel=0.15) and run.error("other") == pytest.approx(2**0.5, rel=0.1)
    assert run.seconds_left() == pytest.approx(2 * 50 + 2**0.5 * 20, rel=0.15)
    for _ in range(2):
        run.done("units b/L0", 1, 5.0)
    assert run.error("other") < 0.75 and run.error("slow") == pytest.approx(2, rel=0.15)


def test_what_was_read_back_is_done_and_says_nothing_of_the_speed():
    run = Forecast([part("units a/", 4, 40.0)])
    run.done("units a/L0", 3, None)
    assert run.seconds_left() == pytest.approx(10)
    run.done("units elsewhere", 1, 500.0)
    assert run.seconds_left() == pytest.approx(10)


def test_a_label_belongs_to_the_longest_key_it_begins_with():
    run = Forecast([part("units a/", 4, 40.0), part("units a/suite/", 1, 7.0)])
    run.done("units a/suite/p0", 1, 7.0)
    assert run.left == {"units a/": 4, "units a/suite/": 0}


def test_a_meter_that_came_to_its_end_leaves_nothing(clock):
    with progress.expect([part("models first/", 8, 80.0), part("models last/", 2, 20.0), part("models", 1, 5.0)]):
        with progress.of(5, "models") as meter:
            clock.now = 50.0
            meter.advance("first/a", 5)
            assert progress.whole_left(50.0) > 40
        assert progress.whole_left(50.0) == 0
        with progress.of(5, "others") as meter:
            pass
    run = Forecast([part("units", 2, 20.0), part("unit", 2, 20.0)])
    run.finished("unit")
    assert run.left == {"units": 2, "unit": 0} and run.missed == {"unit": 2}


def test_the_unit_at_hand_counts_down_and_goes_on_for_a_while_once_it_is_overdue():
    alone = Forecast([part("units a/", 1, 10.0), part("units b/", 1, 30.0)])
    assert alone.seconds_left(4.0) == pytest.approx(6 + 30)
    assert alone.seconds_left(40.0) == pytest.approx(forecast.OVERDUE * 40 + 30)
    # What one of several has taken too long may be the others' work, and is no more than half of it.
    among = Forecast([part("units a/", 5, 50.0, "a"), part("units b/", 5, 50.0, "a")])
    assert among.seconds_left(30.0) == pytest.approx(90 - 20 + forecast.OVERDUE * 30)
    assert among.seconds_left(300.0) == pytest.approx(90 - 45 + forecast.OVERDUE * 300)


def test_a_meter_tells_the_time_left_of_the_whole_run_without_compilation(clock):
    with progress.expect([part("steps", 10, 10.0), part("units base/", 2, 30.0)]):
        with progress.of(10, "steps") as meter:
            clock.now, clock.watch.seconds = 25.0, 5.0
            meter.advance("loss 1.0", 10)
        # What took twice as long as thought is a quarter of the run, and of another kind.
        assert 35 < left(clock.lines[-1]) < 50 and "(5 s of 25 were compilation)" in clock.lines[-1]
        with progress.of(2, "units") as meter:
            before = left(clock.lines[-1])
            clock.now += 10
            assert left(progress.said(clock.now)) == before - 10
            progress.within("search", 3, 8)
            assert "at the next: search 3/8" in progress.said(clock.now)
            clock.now += 5
            meter.advance("base/lvs/L0")
            assert 12 < left(clock.lines[-1]) < 25 and "search" not in progress.said(clock.now)
            clock.now += 15
            meter.advance("base/lvs/L1")
    assert "0 s left in all" in clock.lines[-1]


def test_a_run_inside_of_another_is_one_of_its_parts(clock):
    runs = [part("points a", 1, 100.0, "run"), part("points b", 1, 100.0, "run")]
    with progress.expect(runs), progress.of(2, "points") as outer:
        with progress.expect([part("units ", 2, 100.0)]), progress.of(2, "units") as inner:
            clock.now = 100.0
            inner.advance("L0")
            # Half of the first point took twice as long as thought: so do, nearly, its rest and the second point.
            assert 250 < left(clock.lines[-1]) < 300
            clock.now = 200.0
            inner.advance("L1")
        outer.advance("a")
        assert 160 < left(clock.lines[-1]) < 200


def test_times_are_said_in_a_unit_that_fits():
    assert [forecast.in_words(seconds) for seconds in (7, 99, 720, 9000)] == ["7 s", "99 s", "12 min", "2.5 h"]


def test_a_range_holds_what_is_thought_and_is_wider_than_what_is_least_and_most():
    least, most = forecast.span([part("a", 1, 10.0), part("b", 1, 20.0)])
    assert least < 15 and most > 60
