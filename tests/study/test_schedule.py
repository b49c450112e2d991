import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.schedules import UpdateWindow
from regrow.study import RewiringSchedule, rewiring_schedule


def due_steps(schedule, n_steps):
    window = UpdateWindow.of_training(n_steps, interval=schedule.interval, stop_at=schedule.stop_at)
    return list(window.steps)


@given(n_steps=st.integers(135, 200_000), rewirings=st.integers(20, 400))
def test_as_many_rewirings_as_promised_all_in_the_first_three_quarters(n_steps, rewirings):
    schedule = rewiring_schedule(n_steps, rewirings=rewirings)
    steps = due_steps(schedule, n_steps)
    assert len(steps) == schedule.rewirings <= rewirings
    assert steps[-1] < 0.75 * n_steps
    assert schedule.interval >= 5
    if schedule.rewirings < rewirings:
        # One more would be closer than five steps, or late.
        assert 5 * (schedule.rewirings + 1) >= int(0.75 * n_steps)


@given(n_steps=st.integers(30, 50_000), interval=st.integers(1, 2000))
def test_a_given_interval_is_kept_and_the_number_follows(n_steps, interval):
    number = len(range(interval, int(0.75 * n_steps), interval))
    if number < 20:
        with pytest.raises(ValueError, match=f"{n_steps} weight steps give {number} rewirings"):
            rewiring_schedule(n_steps, interval=interval)
    else:
        schedule = rewiring_schedule(n_steps, interval=interval)
        assert schedule.interval == interval
        assert due_steps(schedule, n_steps) == list(range(interval, int(0.75 * n_steps), interval))
        assert schedule.rewirings == number


@pytest.mark.parametrize(
    ("n_steps", "rewirings", "expected"),
    [
        (160, 60, (23, 5)),  # 1,280 images, batch 16, 2 epochs
        (300, 60, (44, 5)),  # the digits
        (402, 60, (60, 5)),
        (78_000, 60, (60, 974)),  # 200 epochs of CIFAR at batch 128
        (135, 60, (20, 5)),
    ],
)
def test_some_lengths_by_hand(n_steps, rewirings, expected):
    schedule = rewiring_schedule(n_steps, rewirings=rewirings)
    assert (schedule.rewirings, schedule.interval) == expected


@given(
    n_steps=st.integers(1, 134),
    steps_per_epoch=st.integers(1, 100),
    interval=st.one_of(st.none(), st.integers(1, 300)),
)
def test_what_the_refusal_advises_works(n_steps, steps_per_epoch, interval):
    try:
        rewiring_schedule(n_steps, interval=interval, steps_per_epoch=steps_per_epoch)
    except ValueError as error:
        words = str(error).replace(",", "").split()
        enough = int(words[words.index("least", words.index("take")) + 1])
        epochs = int(words[words.index("epochs") - 1].strip("("))
        assert rewiring_schedule(enough, interval=interval).rewirings >= 20
        assert rewiring_schedule(epochs * steps_per_epoch, interval=interval).rewirings >= 20
        with pytest.raises(ValueError, match="at least 20"):
            rewiring_schedule(enough - 1, interval=interval)
        if "interval" in words:
            largest = int(words[-1])
            assert rewiring_schedule(n_steps, interval=largest).rewirings >= 20
            with pytest.raises(ValueError, match="at least 20"):
                rewiring_schedule(n_steps, interval=largest + 1)
    else:
        assert interval is not None


def test_fewer_than_twenty_cannot_be_asked_for():
    with pytest.raises(ValueError, match="rewirings must be at least 20, got 19"):
        rewiring_schedule(10_000, rewirings=19)
    assert rewiring_schedule(10_000, rewirings=20) == RewiringSchedule(20, 374, 7481.5 / 10_000)
