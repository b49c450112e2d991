"""UpdateWindow against a counter in a loop."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from regrow.schedules import UpdateWindow


def due_steps(interval, start, stop, n_steps):
    """What a training loop with a counter does."""
    due, since = [], 0
    for step in range(1, n_steps + 1):
        if step <= start:
            continue
        since += 1
        if since == interval:
            since = 0
            if step < stop:
                due.append(step)
    return due


@given(st.integers(1, 40), st.integers(0, 60), st.integers(1, 200))
def test_due_steps_are_those_of_a_loop(interval, start, stop):
    expected = due_steps(interval, start, stop, n_steps=stop + 2 * interval)
    if not expected:
        with pytest.raises(ValueError, match="never comes due"):
            UpdateWindow(interval=interval, stop=stop, start=start)
        return
    window = UpdateWindow(interval=interval, stop=stop, start=start)
    assert list(window.steps) == expected
    assert window.last == expected[-1]
    assert [step for step in range(-1, stop + interval) if window.is_due(step)] == expected


def test_first_and_last_by_hand():
    window = UpdateWindow(interval=100, stop=401)
    assert list(window.steps) == [100, 200, 300, 400]
    assert not window.is_due(0)
    assert window.is_due(400)
    assert not window.is_due(401)
    assert not UpdateWindow(interval=100, stop=400).is_due(400)
    assert list(UpdateWindow(interval=10, stop=31, start=5).steps) == [15, 25]


def test_rigl_on_imagenet():
    """32,000 steps, every 100, up to 25,000 (Evci et al. 2020)."""
    window = UpdateWindow.of_training(32_000, interval=100, stop_at=25 / 32)
    assert (window.stop, len(window.steps), window.last) == (25_000, 249, 24_900)


@given(st.integers(1, 10**6), st.integers(1, 100), st.integers(0, 99), st.integers(1, 100))
def test_fractions_mean_the_steps_that_they_name(n_steps, interval, start, stop):
    """0.7 of 10 steps is step 7, though 0.7 * 10 is a hair less in binary."""
    assume(start < stop)
    first, end = (int(Fraction(percent, 100) * n_steps) for percent in (start, stop))
    assume(first + interval < end)
    window = UpdateWindow.of_training(
        n_steps, interval=interval, start_at=start / 100, stop_at=stop / 100
    )
    assert (window.start, window.stop) == (first, end)


@pytest.mark.parametrize(
    ("stop_at", "n_steps", "stop"), [(0.7, 10, 7), (0.29, 100, 29), (0.57, 100, 57), (1.0, 3, 3)]
)
def test_fractions_that_binary_rounds_down(stop_at, n_steps, stop):
    window = UpdateWindow.of_training(n_steps, interval=1, stop_at=stop_at)
    assert window.stop == stop
    assert window.last == stop - 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"interval": 0}, ValueError, "interval must be at least 1, got 0"),
        ({"interval": 2.0}, TypeError, "interval must be an integer"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"stop_at": 0.0}, ValueError, r"stop_at must lie in \(0, 1\], got 0.0"),
        ({"stop_at": 1.01}, ValueError, "stop_at"),
        ({"stop_at": float("nan")}, ValueError, "stop_at"),
        ({"start_at": 0.75}, ValueError, r"start_at must lie in \[0, stop_at=0.75\)"),
        ({"start_at": -0.1}, ValueError, "start_at"),
        ({"interval": 75}, ValueError, "interval=75 never comes due between step 0 and step 75"),
        ({"interval": 50, "start_at": 0.25}, ValueError, "choose an interval below 50"),
    ],
)
def test_windows_that_cannot_be(arguments, error, message):
    arguments = {"n_steps": 100, "interval": 10, "stop_at": 0.75} | arguments
    with pytest.raises(error, match=message):
        UpdateWindow.of_training(arguments.pop("n_steps"), **arguments)


def test_the_interval_that_the_message_names_works():
    with pytest.raises(ValueError, match="below 50"):
        UpdateWindow(interval=50, stop=75, start=25)
    assert list(UpdateWindow(interval=49, stop=75, start=25).steps) == [74]


def test_starts_before_the_training():
    with pytest.raises(ValueError, match="start must be at least 0"):
        UpdateWindow(interval=1, stop=5, start=-1)


@given(
    st.integers(1, 20),
    st.integers(0, 30),
    st.sets(st.integers(1, 150), max_size=5),
)
def test_further_steps_are_due_once_each(interval, start, also):
    """Within the interval's reach, on one of its steps, or behind its end."""
    regular = due_steps(interval, start, 100, n_steps=150)
    window = UpdateWindow(interval=interval, stop=100, start=start, also=tuple(sorted(also)))
    expected = sorted(set(regular) | also)
    assert list(window.steps) == expected
    assert [step for step in range(-1, 160) if window.is_due(step)] == expected
    assert window.last == expected[-1]


@pytest.mark.parametrize(
    ("also", "error", "message"),
    [
        ([3], TypeError, "also must be a tuple of steps"),
        ((2.5,), TypeError, "a step in also must be an integer"),
        ((0,), ValueError, "a step in also must be at least 1, got 0"),
        ((7, 3), ValueError, "also must ascend without repeats"),
        ((3, 3), ValueError, "also must ascend without repeats"),
    ],
)
def test_further_steps_that_cannot_be(also, error, message):
    with pytest.raises(error, match=message):
        UpdateWindow(interval=2, stop=10, also=also)
