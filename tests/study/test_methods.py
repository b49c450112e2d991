import pytest
import torch
from torch.nn import functional as F

import regrow
from regrow.study import DENSE, DYNAMIC, METHODS, SCHEDULED, attach_method, plan, rewiring_schedule

N_STEPS = 140


def train(make_net, method, *, sparsity=0.5, **options):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = rewiring_schedule(N_STEPS)
    updater = attach_method(
        method, model, optimizer, sparsity=sparsity, n_steps=N_STEPS, schedule=schedule, **options
    )
    first = None if updater is None else updater.sparsity
    generator = torch.Generator().manual_seed(0)
    for _ in range(N_STEPS):
        inputs = torch.randn(4, 3, 8, 8, generator=generator)
        labels = torch.randint(3, (4,), generator=generator)
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, updater, first, schedule


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_at_its_sparsity_and_rewires_as_often_as_the_others(make_net, method):
    model, updater, first, schedule = train(make_net, method)
    if method in DENSE:
        assert updater is None
        return
    n_weights = sum(t.mask.numel() for t in updater.topologies.values())
    nnz = sum(t.nnz for t in updater.topologies.values())
    assert abs(nnz - n_weights / 2) <= 1
    assert updater.weight_steps == N_STEPS
    assert updater.rewirings == (schedule.rewirings if method in SCHEDULED else 0)
    for name, weight in model.named_parameters():
        if name in updater.topologies:
            assert not weight[~updater.topologies[name].mask].any()
    if method.startswith("granet"):
        assert first == pytest.approx(0.2, abs=0.01)
    elif method == "gradual":
        assert first == 0
    elif method.startswith("mest"):
        # MEST's soft bound: more connections than the target until the end.
        assert first < 0.5
    else:
        assert first == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("target", "start"), [(0.1, 0.0), (0.2, 0.0), (0.3, 0.2)])
def test_granet_starts_at_a_fifth_or_dense(make_net, target, start):
    _, updater, first, _ = train(make_net, "granet-random", sparsity=target)
    assert first == pytest.approx(start, abs=0.01)
    assert updater.sparsity == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("method", DYNAMIC)
def test_all_drop_by_magnitude_and_step_before_they_rewire(make_net, monkeypatch, method):
    seen = {}
    from regrow.study import _methods as module

    factory = module._SCHEDULED[method]

    def spy(model, optimizer, **options):
        seen.update(options)
        return factory(model, optimizer, **options)

    monkeypatch.setitem(module._SCHEDULED, method, spy)
    train(make_net, method, allocation="uniform", seed=4)
    assert seen["drop"] is regrow.criteria.magnitude
    assert seen["weight_step"] == "before"
    assert seen["seed"] == 4
    assert str(seen["allocation"]) == "uniform()"


def test_rigls_own_weight_step_costs_a_step_for_each_rewiring(make_net):
    _, updater, _, schedule = train(make_net, "rigl", weight_step="skip")
    assert updater.weight_steps == N_STEPS - schedule.rewirings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "snip"}, "method must be one of dense, .*; got 'snip'"),
        ({"allocation": "erk"}, "allocation must be one of"),
        ({"weight_step": "never"}, "weight_step must be one of"),
        ({"sparsity": 1.0}, "sparsity must lie in"),
        ({"schedule": None}, "it needs n_steps and a schedule"),
        ({"n_steps": None}, "it needs n_steps and a schedule"),
    ],
)
def test_bad_requests_are_refused_and_leave_the_model_alone(make_net, change, message):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    request = {
        "method": "rigl",
        "sparsity": 0.5,
        "n_steps": N_STEPS,
        "schedule": rewiring_schedule(N_STEPS),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        attach_method(request.pop("method"), model, optimizer, **request)
    assert all((p != 0).any() for p in model.parameters() if p.dim() > 1)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("method", [m for m in METHODS if m not in DENSE])
def test_a_plan_lists_every_tensor_and_leaves_nothing_attached(make_net, method):
    model = make_net()
    made = plan(model, method=method, sparsity=0.5, input_size=(3, 8, 8))
    text = str(made)
    for name, _ in model.named_parameters():
        assert name in text
    assert "rewirings planned" not in text
    assert ("its last rewirings take it to sparsity 0.5" in text) == (
        method.startswith(("granet", "gradual", "mest"))
    )
    assert "FLOPs" in text
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    regrow.static(model, optimizer, sparsity=0.5)  # would refuse a model that is attached


def test_plans_that_cannot_be_made_say_why(make_net):
    with pytest.raises(ValueError, match=r"cannot take an input of shape \(5, 8, 8\)"):
        plan(make_net(), input_size=(5, 8, 8))
    with pytest.raises(ValueError, match="method must be one of static"):
        plan(make_net(), method="dense")
    assert plan(make_net(), sparsity=0.5).cost is None
