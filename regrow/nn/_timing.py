"""What a training step, or a forward pass, of one layer takes, measured on its own inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from regrow._names import unwrap


def step_seconds(layers: Sequence[nn.Module], x: Tensor, *, rounds: int = 7) -> list[float]:
    """Seconds of a training step of several layers on one input, the least of some, in turn.

    A step is the forward pass, the gradients of the parameters, which are left as they were, and
    that of the input where it requires one: the first layer of a model computes none. One step each
    is not timed: kernels are compiled in it.

    Args:
        layers: That take ``x``.
        x: An example batch, as ``layer_inputs`` gives it; not changed.
        rounds: How many are timed.
    """
    return least_seconds([layer_step(layer, x) for layer in layers], device=x.device, rounds=rounds)


def layer_step(
    layer: nn.Module, x: Tensor, *, dead: Mapping[str, Tensor] | None = None
) -> Callable[[], None]:
    """A training step of one layer: the forward pass, and its gradients, which are thrown away.

    Args:
        layer: That takes ``x``; runs once, forward.
        x: An example batch; not changed. Its gradient is part of the step where it requires one.
        dead: Name of a parameter -> where its gradient is masked, bool of its shape, as masked
            training does.

    Returns:
        What performs it.
    """
    x = x.detach().clone().requires_grad_(x.requires_grad)
    named = {name: one for name, one in layer.named_parameters() if one.requires_grad}
    wanted = [*([x] if x.requires_grad else []), *named.values()]
    masks = [(len(wanted) - len(named) + i, (dead or {}).get(n)) for i, n in enumerate(named)]
    with torch.no_grad():
        # Contiguous, as a loss or a dense neighbour gives it.
        dy = torch.ones(layer(x).shape, dtype=x.dtype, device=x.device)

    def step() -> None:
        y = layer(x)
        # (A frozen layer behind none that trains is only computed.)
        gradients = torch.autograd.grad(y, wanted, dy) if wanted else ()
        for place, where in masks:
            if where is not None:
                gradients[place].masked_fill_(where, 0.0)

    return step


def layer_pass(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """A forward pass of one layer, without gradients: what inference does.

    Args:
        layer: That takes ``x``; runs once.
        x: An example batch; not changed.

    Returns:
        What performs it.
    """
    x = x.detach().clone()

    @torch.no_grad()
    def forward() -> None:
        layer(x)

    forward()
    return forward


def least_seconds(
    steps: Sequence[Callable[[], None]], *, device: torch.device, rounds: int = 7
) -> list[float]:
    """Seconds that each of several things takes, the least of some rounds, in turn.

    In turn, so that whatever else the machine does meets all alike; the least, since other work
    only ever adds. Each is done once before, untimed: kernels are compiled in it.

    Args:
        steps: What to do.
        device: Where; waited for.
        rounds: How many are timed.
    """
    for step in steps:
        step()
    found = [[_seconds(step, device) for step in steps] for _ in range(rounds)]
    return [min(column) for column in zip(*found, strict=True)]


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def layer_inputs(
    model: nn.Module, inputs: object, modules: Sequence[nn.Module]
) -> list[Tensor | None]:
    """The first input of each module in one forward pass of a model.

    The pass runs in evaluation mode, with gradients enabled as in training, and with the global
    random state put back behind it.

    Args:
        model: Any module. Of a parallel or compiled wrapper the module inside runs.
        inputs: A tensor, or a tuple of the model's positional arguments.
        modules: Of the model.

    Returns:
        For each module a copy of the tensor it was called with, which requires a gradient where
        training would compute one (in any of its calls): not that of the model's own input, unless
        it asks for one. None where the module was not called.
    """
    found: dict[int, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if arguments and isinstance(x := arguments[0], Tensor):
            first = found.setdefault(id(module), x.detach().clone())
            if x.requires_grad and first.is_floating_point():
                first.requires_grad_()

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        with _evaluating(model), torch.random.fork_rng(), torch.enable_grad():
            # (A parallel wrapper would wait for a backward pass that never comes.)
            unwrap(model)(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    finally:
        for handle in handles:
            handle.remove()
    return [found.get(id(module)) for module in modules]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
