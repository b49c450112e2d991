"""How an updater attaches itself: nothing is added to the user's loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._names import owned_parameters
from regrow.errors import SparsityError

if TYPE_CHECKING:
    from regrow.training._layers import MaskedWeight


class Driver(Protocol):
    """What the hooks call."""

    def grad_arrived(self, layer: MaskedWeight) -> None:
        """A gradient was accumulated into the layer's parameter."""

    def before_step(self, index: int) -> None:
        """Optimizer number ``index`` is about to step; gradients are complete."""

    def after_step(self, index: int) -> None:
        """Optimizer number ``index`` has stepped."""


@final
class _GradHook:
    """Called with the parameter after each accumulation into its ``.grad``."""

    def __init__(self, driver: Driver, layer: MaskedWeight) -> None:
        self._driver = driver
        self._layer = layer

    def __call__(self, parameter: Tensor) -> None:
        del parameter
        self._driver.grad_arrived(self._layer)


@final
class ParameterGuard:
    """Forward pre-hook: the model still holds the parameters that were made sparse.

    ``fully_shard`` after the call and ``load_state_dict(assign=True)`` replace parameters, and a
    new optimizer then knows nothing of the topology. A copy of the guard, made with a copied or
    pickled model, guards nothing: the copy is a plain dense module.
    """

    def __init__(self, places: list[tuple[str, nn.Module, str, nn.Parameter]]) -> None:
        self._places = places

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module, inputs
        if torch.compiler.is_compiling():
            return
        for name, owner, attribute, parameter in self._places:
            if owner._parameters.get(attribute) is not parameter:
                raise SparsityError(
                    f"the parameter {name!r} was replaced after it was made sparse (sharding, "
                    "load_state_dict(assign=True), or an assignment): replace parameters first, "
                    "then build the optimizer, then call the method again"
                )

    def __deepcopy__(self, memo: dict[int, object]) -> ParameterGuard:
        return ParameterGuard([])

    def __reduce__(self) -> tuple[type[ParameterGuard], tuple[list[object]]]:
        return ParameterGuard, ([],)


def check_unattached(layers: list[MaskedWeight]) -> None:
    """Refuse weights that another updater already drives.

    Raises:
        SparsityError: Names the first such weight.
    """
    for layer in layers:
        hooks = layer.parameter._post_accumulate_grad_hooks or {}
        if any(isinstance(hook, _GradHook) for hook in hooks.values()):
            raise SparsityError(
                f"{layer.name!r} is driven by another updater: call its detach() first"
            )


class _Removable(Protocol):
    def remove(self) -> None: ...


@final
class Attachment:
    """All hooks of one updater, so that they can be removed together.

    Args:
        driver: The updater.
        model: Guarded against replaced parameters.
        layers: Their gradients are watched.
        optimizers: Their steps are watched, in this order.
    """

    def __init__(
        self,
        driver: Driver,
        model: nn.Module,
        *,
        layers: list[MaskedWeight],
        optimizers: list[Optimizer],
    ) -> None:
        self._driver = driver
        self._handles: list[_Removable] = []
        for layer in layers:
            hook = _GradHook(driver, layer)
            register = layer.parameter.register_post_accumulate_grad_hook
            self._handles.append(register(hook))  # type: ignore[no-untyped-call]
        for index, optimizer in enumerate(optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._pre_hook(index)))
            self._handles.append(optimizer.register_step_post_hook(self._post_hook(index)))
        names = {layer.name for layer in layers}
        guard = ParameterGuard(
            [
                (one.name, owner, attribute, one.parameter)
                for one in owned_parameters(model)
                if one.name in names
                for _, owner, attribute in one.owners
            ]
        )
        self._handles.append(model.register_forward_pre_hook(guard))

    def remove(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _pre_hook(self, index: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]] | None]:
        def hook(
            optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            del optimizer  # the driver knows it by its index
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self._driver.before_step(index)
                return None
            wrapped = self._wrap(closure, index)
            if len(args) > 1:
                return (args[0], wrapped, *args[2:]), kwargs
            return args, {**kwargs, "closure": wrapped}

        return hook

    def _wrap(self, closure: Callable[[], Any], index: int) -> Callable[[], Any]:
        """A closure computes the gradients itself, so our turn is right behind it."""

        def wrapped() -> Any:  # noqa: ANN401
            loss = closure()
            self._driver.before_step(index)
            return loss

        return wrapped

    def _post_hook(self, index: int) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            del optimizer, args, kwargs
            self._driver.after_step(index)

        return hook
