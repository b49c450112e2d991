"""Dead outputs and inputs: against the module itself, and by hand."""

import itertools

import pytest
import torch
from torch import nn

import regrow


def live_by_gradient(module: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Outputs that depend on an input, and inputs that an output depends on, by the module itself.

    All weights positive, so that nothing cancels: the module with its weights says what is
    connected, whatever the layout of its weight is.
    """
    with torch.no_grad():
        module.weight.copy_(torch.where(module.weight != 0, 1.0, 0.0))
    y = module(x.requires_grad_())
    summed = y.flatten(2).sum(2) if y.dim() > 2 else y  # (1, outputs)
    gradients = torch.stack(
        [torch.autograd.grad(s, x, retain_graph=True)[0].squeeze(0) for s in summed.squeeze(0)]
    )
    flat = gradients.abs().flatten(2).sum(2) if gradients.dim() > 2 else gradients.abs()
    return int(flat.any(1).sum()), int(flat.any(0).sum())


MODULES = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "conv": (lambda: nn.Conv2d(6, 8, 3), (6, 4, 4)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, groups=2), (6, 4, 4)),
    "depthwise": (lambda: nn.Conv1d(6, 6, 3, groups=6), (6, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 2), (6, 3, 3)),
    "transposed, grouped": (lambda: nn.ConvTranspose1d(6, 8, 2, groups=2), (6, 3)),
}


@pytest.mark.parametrize("structure", ["Unstructured", "OutChannel", "InChannel", "Kernel"])
@pytest.mark.parametrize("kind", MODULES)
def test_dead_neurons_are_those_that_nothing_passes(kind: str, structure: str) -> None:
    make, shape = MODULES[kind]
    dead_ones = 0
    for seed, sparsity in itertools.product(range(2), (0.5, 0.8, 0.97)):
        module = make()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        try:
            updater = regrow.static(
                module,
                optimizer,
                sparsity=sparsity,
                seed=seed,
                structure=getattr(regrow, structure)(),
                allocation=regrow.uniform(),
            )
        except regrow.SparsityError:
            continue  # fewer than one unit is left at this sparsity
        fed, used = live_by_gradient(module, torch.ones(1, *shape))
        (row,) = updater.report().layers
        n_out = getattr(module, "out_features", None) or module.out_channels
        assert (row.n_outputs, row.n_inputs) == (n_out, shape[0])
        assert (row.n_dead_outputs, row.n_dead_inputs) == (n_out - fed, shape[0] - used)
        dead_ones += row.n_dead_outputs + row.n_dead_inputs
    assert dead_ones or (kind, structure) == ("depthwise", "InChannel"), "of one unit"


def test_dead_neurons_of_other_weights() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 3)
            self.two = nn.Bilinear(2, 5, 3)
            self.gain = nn.Parameter(torch.ones(4))

    net = Odd()
    masks = {
        "table.weight": torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]),
        "two.weight": torch.zeros(3, 2, 5),
        "gain": torch.tensor([1, 0, 0, 0]),
    }
    masks["two.weight"][2, 1, 4] = 1
    topologies = {n: regrow.Topology.from_mask(m.bool()) for n, m in masks.items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    updater = regrow.static(
        net, optimizer, sparsity=None, select=list(masks), allocation=regrow.explicit(topologies)
    )
    found = {
        row.name: (row.n_outputs, row.n_dead_outputs, row.n_inputs, row.n_dead_inputs)
        for row in updater.report().layers
    }
    assert found == {
        "table.weight": (3, 1, 4, 2),  # rows are looked up: they are inputs
        "two.weight": (3, 2, 2, 1),
        "gain": (0, 0, 0, 0),
    }
    assert updater.report().n_dead_outputs == 3
    assert updater.report().n_dead_inputs == 3
