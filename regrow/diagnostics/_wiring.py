"""Verdicts on who holds whose parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.optim import Optimizer

from regrow.diagnostics._diagnosis import Finding
from regrow.diagnostics._evidence import Evidence, listed
from regrow.diagnostics._setup import Setup, holds, parameters_of

_COPY = "model, optimizer, updater = copy.deepcopy((model, optimizer, updater))"


def wiring(evidence: Evidence) -> list[Finding]:
    """What is broken before a step is made, and what the steps show of it."""
    tied = _tied(evidence.setup)
    hidden = _hidden(evidence)
    copied = _not_driven(evidence.setup, {*tied}) if not hidden else []
    explained = {*tied, *copied}
    found = [*_tied_finding(evidence.setup, tied), *hidden]
    found += _copied_finding(evidence.setup, copied)
    found += _lacking(evidence.setup, explained)
    found += _strangers(evidence)
    if not found:
        found += _unheard(evidence)
    if not found or (found == hidden):
        found += _elsewhere(evidence)
    return found


# -- tied ----------------------------------------------------------------------------------------


def _tied(setup: Setup) -> dict[str, tuple[str, ...]]:
    """Sparse weight -> its places, where these became several after the optimizer was built.

    Tied before, the optimizer never saw a second tensor; tied since, it holds the one replaced.
    """
    orphans = {
        tuple(parameter.shape)
        for optimizer in setup.optimizers
        for parameter in parameters_of(optimizer)
        if not setup.in_model(parameter)
    }
    return {
        name: places
        for name, parameter in setup.named.items()
        if len(places := setup.places(parameter)) > 1 and tuple(parameter.shape) in orphans
    }


def _tied_finding(setup: Setup, tied: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    groups = {places: name for name, places in reversed(tied.items())}
    for places, name in groups.items():
        topology = setup.updater.topologies[name]
        n_dead = topology.n_elements - topology.nnz
        first, *others = places
        yield Finding(
            "tied-after-call",
            f"the sparse weight {name!r} is one tensor at {listed([*places])}, and the optimizer "
            "still holds the tensor that this tying replaced: the weights were tied after the "
            f"updater was made, so that {listed(others)} takes on {n_dead} zeros of "
            f"{topology.n_elements} that were never planned for it",
            f"model.{others[0]} = model.{first}  # before the two lines below\n"
            f"optimizer = {_constructor(setup.optimizers[0])}\n"
            "updater = regrow.rigl(model, optimizer, ...)",
        )


# -- hidden --------------------------------------------------------------------------------------


def _hidden(evidence: Evidence) -> list[Finding]:
    setup, watch = evidence.setup, evidence.modules
    unseen = [
        name
        for name, parameter in setup.driven.items()
        if name not in setup.named and not setup.in_model(parameter)
    ]
    if not unseen and not watch.hidden:
        return []
    kinds = sorted({type(module).__name__ for module in watch.hidden.values()})
    parts = []
    if watch.hidden:
        parts.append(
            f"{len(watch.hidden)} layers ({', '.join(kinds)}) run inside model without being "
            f"registered in it: model.parameters() misses {watch.n_parameters} tensors that train, "
            "and a method that is given this model cannot make them sparse"
        )
    if unseen:
        parts.append(
            f"the sparse weights {listed(unseen)} ({len(unseen)} of "
            f"{len(setup.updater.topologies)}) are not among model.named_parameters()"
        )
    return [Finding("hidden-parameters", "; ".join(parts), watch.where)]


# -- copied --------------------------------------------------------------------------------------


def _not_driven(setup: Setup, explained: set[str]) -> list[str]:
    return [
        name
        for name, parameter in setup.named.items()
        if setup.driven.get(name) is not parameter and name not in explained
    ]


def _copied_finding(setup: Setup, names: list[str]) -> Iterator[Finding]:
    if names:
        n = len(setup.updater.topologies)
        yield Finding(
            "copied-model",
            f"{len(names)} of {n} sparse weights of model ({listed(names)}) are not those that the "
            "updater drives: the model was copied without its updater, or these parameters were "
            "replaced, so nothing keeps them sparse",
            _COPY,
        )


def _elsewhere(evidence: Evidence) -> Iterator[Finding]:
    """The calls train something else than the model passed, or nothing."""
    if not evidence.n_complete or evidence.scales.overflowed:
        return
    trained = set.union(evidence.grads.arrived, *(call.with_grad for call in evidence.calls))
    others = _named(evidence.steps.strange)
    n = len(evidence.setup.updater.topologies)
    if not trained and others:
        yield Finding(
            "copied-model",
            f"none of the {n} sparse weights of model got a gradient in {evidence.n_complete} "
            f"calls, while {others}, which holds none of the model's parameters, stepped: step "
            "trains another model, such as a copy made without its updater",
            _COPY,
        )
    elif not trained:
        yield Finding(
            "no-gradient",
            f"none of the {n} sparse weights got a gradient in {evidence.n_complete} calls",
            "loss(model(x), y).backward()  # with the model that was passed",
        )
    elif evidence.grads.arrived and _stepped_without(evidence):
        yield Finding(
            "no-gradient",
            f"{len(evidence.grads.arrived)} of {n} sparse weights got a gradient, and none of them "
            "still had one when the optimizer stepped: zero_grad() stands between backward() and "
            "step(), so that nothing is trained",
            "loss.backward()\noptimizer.step()\noptimizer.zero_grad()  # behind the step",
        )
    elif not any(call.stepped for call in evidence.calls):
        yield Finding(
            "no-step",
            f"no optimizer stepped in {evidence.n_complete} calls, so nothing could be examined",
            "optimizer.step()  # in every call: all micro-batches of a step belong into one call",
        )


def _stepped_without(evidence: Evidence) -> bool:
    """Whether optimizers stepped, and never with a gradient of a sparse weight."""
    stepped = [call for call in evidence.calls if call.stepped]
    return bool(stepped) and not any(call.with_grad for call in stepped)


# -- optimizers ----------------------------------------------------------------------------------


def _lacking(setup: Setup, explained: set[str]) -> Iterator[Finding]:
    weights = {name: p for name, p in setup.weights.items() if name not in explained}
    lacking = [
        name
        for name, weight in weights.items()
        if not any(holds(optimizer, weight) for optimizer in setup.optimizers)
    ]
    if lacking:
        yield Finding(
            "optimizer-lacks-weights",
            f"{len(lacking)} of {len(setup.updater.topologies)} sparse weights ({listed(lacking)}) "
            f"are in none of the optimizers passed ({_named(setup.optimizers)}): these steps do "
            "not move them, and what does is not heard by the updater",
            f"optimizer = {_constructor(setup.optimizers[0])}\n"
            "updater = regrow.rigl(model, optimizer, ...)",
        )


def _strangers(evidence: Evidence) -> Iterator[Finding]:
    setup = evidence.setup
    for optimizer in evidence.steps.strange:
        mine = [p for p in parameters_of(optimizer) if setup.in_model(p)]
        sparse = [name for name, weight in setup.weights.items() if holds(optimizer, weight)]
        if not mine and not sparse:
            continue
        dead = {name: n for call in evidence.calls for name, n in call.dead_weights.items()}
        left = [f"{n} dead entries of {name!r}" for name, n in dead.items() if name in sparse]
        yield Finding(
            "optimizer-not-passed",
            f"{type(optimizer).__name__} stepped {evidence.times_stepped(optimizer)} times in "
            f"{len(evidence.calls)} calls and holds {len(mine)} parameters of the model, "
            f"{len(sparse)} of them sparse, but was not passed"
            + (f"; it left {', '.join(left[:4])} away from zero" if left else "")
            + ": the updater neither zeroes what it moves nor holds it back on a rewiring step",
            _with_all(setup.optimizers, [optimizer]),
        )
    deaf = [o for o in setup.optimizers if not setup.is_heard(o) and _drives(setup, o)]
    if deaf:
        yield Finding(
            "optimizer-not-passed",
            f"{_named(deaf)} holds {sum(_drives(setup, o) for o in deaf)} sparse weights, but the "
            "updater was made with another optimizer: it hears none of this one's steps (after "
            "building an optimizer anew, the method has to be called anew)",
            _with_all(setup.optimizers, []),
        )


def _drives(setup: Setup, optimizer: Optimizer) -> int:
    return sum(holds(optimizer, parameter) for parameter in setup.driven.values())


def _unheard(evidence: Evidence) -> Iterator[Finding]:
    """Steps of the optimizers passed that the updater did not count."""
    optimizers = evidence.setup.optimizers
    n_steps = sum(evidence.times_stepped(optimizer) for optimizer in optimizers)
    if n_steps and not evidence.n_counted and not evidence.scales.overflowed:
        idle = [o for o in optimizers if not evidence.times_stepped(o)]
        yield Finding(
            "steps-not-counted",
            f"the optimizers passed stepped {n_steps} times in {len(evidence.calls)} calls, and "
            "the updater counted 0: "
            + (
                f"{_named(idle)} never stepped, and a step is complete when all have"
                if idle
                else "it was detached, or made with another optimizer"
            ),
            _with_all(optimizers, []),
        )
    late = [_stepped_after(evidence, number) for number, _ in enumerate(evidence.calls)]
    if late and evidence.n_complete == len(late) and all(late):
        beyond = [o for o in optimizers if all(any(o is one for one in seen) for seen in late)]
        if beyond:
            yield Finding(
                "optimizer-not-passed",
                f"the updater took each step for complete before {_named(beyond)} stepped: the "
                "method was not given this optimizer, and a rewiring step does not hold it back",
                _with_all(optimizers, []),
            )


def _stepped_after(evidence: Evidence, number: int) -> list[Optimizer]:
    """Optimizers passed that stepped in this call after the updater's last count."""
    call = evidence.calls[number]
    if not call.counted or not call.counted[-1]:
        return []
    last = call.counted.index(call.counted[-1])
    return [one for one in call.stepped[last + 1 :] if evidence.is_passed(one)]


def _named(optimizers: Sequence[Optimizer]) -> str:
    return ", ".join(f"{type(o).__name__} ({len(parameters_of(o))} tensors)" for o in optimizers)


def _constructor(optimizer: Optimizer) -> str:
    kind = type(optimizer)
    module = "torch.optim." if kind.__module__.startswith("torch.optim") else ""
    return f"{module}{kind.__name__}(model.parameters(), ...)"


def _with_all(passed: Sequence[Optimizer], more: Sequence[Optimizer]) -> str:
    names = [type(optimizer).__name__.lower() for optimizer in [*passed, *more]]
    if len(names) == 1:
        return "updater = regrow.rigl(model, optimizer, ...)  # after the optimizer was built"
    twice = len(set(names)) < len(names)
    names = [f"{name}_{i}" for i, name in enumerate(names, start=1)] if twice else names
    return f"updater = regrow.rigl(model, [{', '.join(names)}], ...)  # in the order they step"
