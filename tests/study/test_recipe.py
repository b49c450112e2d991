import math

import pytest
import torch
from torch import nn

from regrow.study import Recipe


def test_learning_rates_fall_where_they_should():
    recipe = Recipe(epochs=4, batch_size=10, lr=0.2)
    assert recipe.steps_per_epoch(109) == 10
    assert recipe.n_steps(109) == 40
    rates = [recipe.lr_at(step, n_steps=40) for step in range(40)]
    assert rates == [0.2] * 20 + [0.1 * 0.2] * 10 + [0.01 * 0.2] * 10
    cosine = Recipe(epochs=4, batch_size=10, lr=0.2, schedule="cosine")
    for step in range(40):
        expected = 0.1 * (1 + math.cos(math.pi * step / 40))
        assert cosine.lr_at(step, n_steps=40) == pytest.approx(expected)


def test_the_optimizer_is_nesterovs():
    (group,) = Recipe(epochs=1, batch_size=1, lr=0.1).optimizer(nn.Linear(2, 2)).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert group["nesterov"]
    plain = Recipe(epochs=1, batch_size=1, lr=0.1, momentum=0.0).optimizer(nn.Linear(2, 2))
    assert isinstance(plain, torch.optim.SGD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": 0.0}, "lr must be a finite number above 0"),
        ({"lr": math.inf}, "lr must be a finite"),
        ({"schedule": "step"}, "schedule must be one of steps, cosine"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"padding": -1}, "padding"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, "batch_size": 8, "lr": 0.1, **change})


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size 8 is more than the 7 training images"):
        Recipe(epochs=1, batch_size=8, lr=0.1).n_steps(7)
