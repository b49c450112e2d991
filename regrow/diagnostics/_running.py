"""Verdicts on what happens during a step: counts, gradients, scales, dead weights, errors."""

from __future__ import annotations

from collections.abc import Iterator

from regrow.diagnostics._diagnosis import Finding
from regrow.diagnostics._evidence import Evidence, listed
from regrow.errors import SparsityError

_SCALER_ORDER = (
    "scaler.scale(loss).backward()\n"
    "scaler.unscale_(optimizer)  # once, and only where gradients are read or clipped\n"
    "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)\n"
    "scaler.step(optimizer)\n"
    "scaler.update()"
)


def running(evidence: Evidence, *, wired: bool) -> list[Finding]:
    """What the calls showed.

    Args:
        evidence: All that was seen.
        wired: Whether parameters, optimizers and updater belong together; where not, weights that
            are not kept at zero are no news.
    """
    found = [*_several(evidence), *_rewritten(evidence), *_dead_grads(evidence)]
    found += _misscaled(evidence)
    dead = [*_dead_weights(evidence)] if wired else []
    found += dead
    if dead and evidence.raised is not None and isinstance(evidence.raised.error, SparsityError):
        return found  # the next step refuses weights that were written to
    return [*found, *_raised(evidence, known=bool(found) or not wired)]


def _several(evidence: Evidence) -> Iterator[Finding]:
    counts = [call.counted[-1] for call in evidence.calls if call.counted and call.is_complete]
    if counts and min(counts) > 1:
        yield Finding(
            "several-steps",
            f"each call makes {listed_numbers(counts)} optimizer steps, and the updater counts "
            "every one: n_steps, interval and the schedules run that much faster than the calls",
            f"updater = regrow.rigl(model, optimizer, n_steps={min(counts)} * n_calls, ...)",
        )


def listed_numbers(numbers: list[int]) -> str:
    """Numbers once each: ``2`` or ``2, 3``."""
    return ", ".join(str(number) for number in sorted(set(numbers)))


def _rewritten(evidence: Evidence) -> Iterator[Finding]:
    by_hook: dict[str, list[str]] = {}
    for found in evidence.grads.rewritten.values():
        by_hook.setdefault(found.hook, []).append(found.layer)
    for found in evidence.grads.rewritten.values():
        layers = by_hook.pop(found.hook, None)
        if layers is None:
            continue
        yield Finding(
            "rewritten-gradients",
            f"the hook {found.hook} on {listed(layers)} ({found.method}) changed "
            f"{found.n_changed} of {found.n_elements} gradients of {found.layer!r}, "
            f"{found.n_zeroed} of them to zero: growth no longer follows the gradient of the "
            "loss, and a connection that grows where the hook writes zeros never trains",
            f"handle.remove()  # handle = what {found.method}(...) returned; the updater masks "
            "gradients itself",
        )


def _dead_grads(evidence: Evidence) -> Iterator[Finding]:
    explained = {layer for layer, _ in evidence.grads.rewritten}
    for call in evidence.calls:
        counts = {name: n for name, n in call.dead_grads.items() if name not in explained}
        if counts:
            name, n = next(iter(counts.items()))
            yield Finding(
                "rewritten-gradients",
                f"in call {call.number}, {n} gradients of weights that do not exist in {name!r} "
                f"were not zero when the optimizer stepped ({len(counts)} layers: "
                f"{listed([*counts])}): something writes into .grad after backward(), so clipping "
                "and logging see gradients that no weight has",
                f"weight.grad.mul_(updater.topologies[{name!r}].mask)  # after that line",
            )
            return


def _misscaled(evidence: Evidence) -> Iterator[Finding]:
    for found in evidence.scales.found.values():
        times = 1 / found.factor if found.factor else float("inf")
        if found.kind in ("before", "after"):
            when = "before" if found.kind == "before" else "again after"
            yield Finding(
                "unscaled-twice",
                f"the gradients of {found.optimizer} became {times:.4g} times smaller {when} the "
                f"scaler (scale {found.scale:g}) unscaled them: they are unscaled twice, or "
                f"clipped while still scaled, and the weights move about {found.scale:g} times "
                "too little",
                _SCALER_ORDER,
            )
        elif found.kind == "never":
            yield Finding(
                "never-unscaled",
                f"{found.optimizer} stepped with gradients that still carry the scale "
                f"{found.scale:g}",
                "scaler.step(optimizer)  # in place of optimizer.step()",
            )
        else:
            yield Finding(
                "never-scaled",
                f"the scaler divided the gradients of {found.optimizer} by {found.scale:g}, but "
                "scaler.scale(loss) was not called in this step",
                "scaler.scale(loss).backward()  # in place of loss.backward()",
            )


def _dead_weights(evidence: Evidence) -> Iterator[Finding]:
    for call in evidence.calls:
        if call.dead_weights:
            name, n = next(iter(call.dead_weights.items()))
            yield Finding(
                "dead-weights",
                f"after call {call.number}, {n} weights that do not exist in {name!r} were not "
                f"zero ({len(call.dead_weights)} layers: {listed([*call.dead_weights])}): "
                "something writes into the weights after optimizer.step()",
                f"weight.data.mul_(updater.topologies[{name!r}].mask)  # after that line",
            )
            return


def _raised(evidence: Evidence, *, known: bool) -> Iterator[Finding]:
    raised = evidence.raised
    if raised is None:
        return
    text = str(raised.error)
    if "unscale_() has already been called" in text:
        yield Finding(
            "unscaled-twice",
            f"in call {raised.call}, unscale_ ran a second time on one step, at {raised.place}",
            _SCALER_ORDER,
        )
        return
    because = " (which a finding above may explain)" if known else ""
    kind = type(raised.error).__name__
    yield Finding(
        "raised",
        f"call {raised.call} of step raised {kind}{because}: {text}",
        f"# the line that raised is {raised.place}",
    )
