"""How an updater attaches itself: nothing is added to the user's loop."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regrow._names import Owned, owned_parameters, unwrap
from regrow._sharding import is_sharded
from regrow.errors import SparsityError

if TYPE_CHECKING:
    from regrow.training._layer import Layer


class Driver(Protocol):
    """What the hooks call."""

    def grad_arrived(self, layer: Layer) -> None:
        """A gradient was accumulated into the layer's parameter."""

    def begin_step(self, index: int) -> None:
        """``step`` of optimizer number ``index`` was called; a closure has yet to run."""

    def before_step(self, index: int) -> None:
        """Optimizer number ``index`` is about to step; gradients are complete."""

    def after_step(self, index: int) -> None:
        """Optimizer number ``index`` has stepped."""


@final
class _GradHook:
    """Called with the parameter after each accumulation into its ``.grad``.

    It holds on to nothing: a parameter keeps its hooks where the garbage collector does not look,
    and a model that was forgotten would stay for good. The optimizer's hooks keep the driver.
    """

    def __init__(self, driver: Driver, layer: Layer) -> None:
        self._driver = weakref.ref(driver)
        self._layer = weakref.ref(layer)

    @property
    def is_live(self) -> bool:
        """Whether there is still an updater behind it."""
        return self._driver() is not None

    def __call__(self, parameter: Tensor) -> None:
        del parameter
        driver, layer = self._driver(), self._layer()
        if driver is not None and layer is not None:
            driver.grad_arrived(layer)


@final
class ParameterGuard:
    """Notices where the model holds other parameters than those that were made sparse.

    ``fully_shard`` after the call and ``load_state_dict(assign=True)`` replace parameters, and a
    new optimizer then knows nothing of the topology. A forward pre-hook; a copy of it, made with a
    copied or pickled model, guards nothing: the copy is a plain dense module.

    Args:
        model: Any module, or None for nothing to guard.
        names: Canonical names of its sparse parameters.
        driver: The updater's driver; the guard outlives it, since a model whose optimizer was
            replaced is the case it is for.
    """

    def __init__(
        self, model: nn.Module | None, names: Collection[str], driver: Driver | None
    ) -> None:
        self._root = None if model is None else unwrap(model)
        self._driver = (lambda: None) if driver is None else weakref.ref(driver)
        owned = [] if model is None else owned_parameters(model)
        self._sparse = [one for one in owned if one.name in names]

    @property
    def is_live(self) -> bool:
        """Whether there is still an updater behind it."""
        return self._driver() is not None

    def check(self) -> None:
        """Raise ``SparsityError`` if a parameter was replaced; one that only moved may."""
        if all(self._holds(one) for one in self._sparse) or self._root is None:
            return
        now = {id(one.parameter): one for one in owned_parameters(self._root)}
        for i, one in enumerate(self._sparse):
            found = now.get(id(one.parameter))
            if found is None or len(found.paths) < len(one.paths):
                raise SparsityError(
                    f"the parameter {one.name!r} was replaced after it was made sparse (sharding, "
                    "load_state_dict(assign=True), or an assignment): replace parameters first, "
                    "(fully_shard before the method), then build the optimizer, then call the "
                    "method again"
                )
            self._sparse[i] = Owned(one.name, one.parameter, found.owners, found.paths)

    def _holds(self, one: Owned) -> bool:
        for _, path, attribute in one.paths:
            owner = self._root
            for part in path.split(".") if path else ():
                owner = None if owner is None else owner._modules.get(part)
            held = None if owner is None else owner._parameters.get(attribute)
            if held is not one.parameter and not _is_gathered(one.parameter, held):
                return False
        return True

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module, inputs
        if not torch.compiler.is_compiling():
            self.check()

    def __deepcopy__(self, memo: dict[int, object]) -> ParameterGuard:
        return ParameterGuard(None, (), None)

    def __reduce__(self) -> tuple[type[ParameterGuard], tuple[None, tuple[()], None]]:
        return ParameterGuard, (None, (), None)


def _is_gathered(parameter: Tensor, held: Tensor | None) -> bool:
    """Whether ``held`` is what ``fully_shard`` puts in a sharded parameter's place to compute."""
    return (
        held is not None
        and is_sharded(parameter)
        and not is_sharded(held)
        and held.shape == parameter.shape
    )


def _remove_left_guards(model: nn.Module) -> None:
    """Take away guards that came with a copy, or whose updater is gone."""
    for module in (model, unwrap(model)):
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, ParameterGuard) and not hook.is_live:
                del module._forward_pre_hooks[key]


def check_unattached(layers: list[Layer]) -> None:
    """Refuse weights that another updater already drives.

    Raises:
        SparsityError: Names the first such weight.
    """
    for layer in layers:
        hooks = layer.parameter._post_accumulate_grad_hooks or {}
        if any(isinstance(hook, _GradHook) and hook.is_live for hook in hooks.values()):
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
        layers: list[Layer],
        optimizers: list[Optimizer],
    ) -> None:
        self._driver = driver
        _remove_left_guards(model)
        self._guard = ParameterGuard(model, {layer.name for layer in layers}, driver)
        self._stepping: list[FrameType | None] = [None] * len(optimizers)
        self._handles: list[_Removable] = []
        for layer in layers:
            hook = _GradHook(driver, layer)
            register = layer.parameter.register_post_accumulate_grad_hook
            self._handles.append(register(hook))  # type: ignore[no-untyped-call]
        for index, optimizer in enumerate(optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._pre_hook(index)))
            self._handles.append(optimizer.register_step_post_hook(self._post_hook(index)))
        self._handles.append(model.register_forward_pre_hook(self._guard))

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
            caller = sys._getframe(1)
            if self._is_nested(index, caller):
                return None
            self._stepping[index] = caller
            self._guard.check()
            self._driver.begin_step(index)
            closure = args[1] if len(args) > 1 else kwargs.get("closure")
            if closure is None:
                self._driver.before_step(index)
                return None
            wrapped = self._wrap(closure, index)
            if len(args) > 1:
                return (args[0], wrapped, *args[2:]), kwargs
            return args, {**kwargs, "closure": wrapped}

        return hook

    def _is_nested(self, index: int, caller: FrameType) -> bool:
        """Whether the optimizer is stepping already: a subclass that calls ``super().step()``.

        torch then runs the hooks twice. A flag would not do: it would stay set where a step, or
        its closure, raised; so the step under way must really be among the callers.
        """
        outer, frame = self._stepping[index], caller.f_back
        while outer is not None and frame is not None:
            if frame is outer:
                return True
            frame = frame.f_back
        return False

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
            if self._stepping[index] is sys._getframe(1):
                self._stepping[index] = None
                self._driver.after_step(index)

        return hook
