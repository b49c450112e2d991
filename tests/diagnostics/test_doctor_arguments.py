"""What is refused before anything runs, and what a diagnosis prints."""

import pytest
import torch
from doctor_cases import adamw, bits, build, sgd, world
from torch import nn

import regrow


def refused():
    raise AssertionError("step ran")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": 3}, TypeError, "step must be a function"),
        ({"updater": object()}, TypeError, "updater must be what"),
        ({"model": "net"}, TypeError, "model must be"),
        ({"optimizer": []}, ValueError, "optimizer must be an optimizer or several"),
        ({"optimizer": "sgd"}, TypeError, "optimizer must be a torch.optim.Optimizer"),
        ({"also": [{}, 3]}, TypeError, r"also\[0\] must have state_dict"),
        ({"also": 3}, TypeError, "also must be a tuple"),
        ({"also": [torch.Generator()]}, TypeError, "a Generator has not"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(change, error, message):
    run = build()
    arguments = {
        "model": run.net,
        "optimizer": run.optimizer,
        "updater": run.updater,
        "step": refused,
        "also": (),
    }
    also = (arguments | change).pop("also")
    rest = [(arguments | change)[key] for key in ("model", "optimizer", "updater", "step")]
    before = world(run)
    with pytest.raises(error, match=message):
        regrow.doctor(*rest, also=also)
    assert world(run) == before


def test_an_updater_of_another_model_is_refused():
    run = build(adamw)
    run.step()
    other = nn.Linear(5, 5)
    before = world(run), bits(other.state_dict())
    with pytest.raises(ValueError, match=r"updater is of another model: .*'conv.weight'"):
        regrow.doctor(other, sgd(other.parameters()), run.updater, refused)
    assert (world(run), bits(other.state_dict())) == before


def test_a_sharded_parameter_is_refused():
    class Sharded(torch.Tensor):
        pass

    run = build()
    run.net.extra = nn.Parameter(torch.ones(2).as_subclass(Sharded))
    with pytest.raises(ValueError, match=r"model has a sharded .*'extra'"):
        regrow.doctor(run.net, run.optimizer, run.updater, refused)


def test_a_diagnosis_reads_as_a_list():
    finding = regrow.diagnostics.Finding("some-check", "seen " * 40, "one line\nanother line")
    text = str(regrow.Diagnosis((finding,), ("a note",), 3))
    assert text.startswith("regrow.doctor: 3 training steps run and taken back, found 1:")
    assert "1. [some-check] seen" in text
    assert "       one line\n       another line" in text
    assert text.endswith("note: a note")
    assert max(map(len, text.splitlines())) <= 100
    assert "nothing found" in str(regrow.Diagnosis((), (), 3))
