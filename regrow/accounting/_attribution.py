"""Which parameter each matrix product and convolution of a forward pass reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from regrow._names import owned_parameters, unwrap
from regrow._sharding import is_sharded
from regrow.errors import SparsityError


@final
@dataclass
class ReadCost:
    """What the operations that read one parameter cost in one forward pass.

    Args:
        flops: Multiply and add counted as two.
        n_outputs: Elements of their results.
        order: Place of the last of them among all operations.
    """

    flops: int = 0
    n_outputs: int = 0
    order: int = -1


@final
class _Attribution(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts as ``FlopCounterMode`` does, and books each operation on the parameter it reads.

    Views and transposes share their parameter's storage, so attention's projections, recurrent
    cells, tied weights and functional calls need no table of module types.
    """

    def __init__(self, parameters: Mapping[str, Tensor], whole: Mapping[str, int]) -> None:
        # Imported here: it brings triton along, which `import regrow` shall not.
        from torch.utils.flop_counter import flop_registry

        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = flop_registry
        self.total = 0
        self.costs = {name: ReadCost() for name in parameters}
        self._by_storage = {_storage(p): name for name, p in parameters.items()}
        self._whole = whole
        self._n_operations = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in self._formulas and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        result = func(*args, **kwargs)
        if packet in self._formulas:
            flops = self._formulas[packet](*args, **kwargs, out_val=result)
            self._book(int(flops), args, result)
        return result

    def _book(self, flops: int, args: tuple[Any, ...], result: object) -> None:
        self._n_operations += 1
        name, flops = self._reader(args, flops)
        self.total += flops
        if name is not None:
            cost = self.costs[name]
            cost.flops += flops
            cost.n_outputs += result.numel() if isinstance(result, Tensor) else 0
            cost.order = self._n_operations

    def _reader(self, args: tuple[Any, ...], flops: int) -> tuple[str | None, int]:
        """The parameter that an operation reads, and what the operation costs where it is dense."""
        for arg in reversed(args):  # weights stand behind inputs, and behind a bias
            name = self._by_storage.get(_storage(arg)) if isinstance(arg, Tensor) else None
            if name is not None and name in self._whole:
                return name, flops * self._whole[name] // max(arg.numel(), 1)
            if name is not None and arg.dim() >= 2:  # (a bias that is added costs nothing)
                return name, flops
        return None, flops


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def attribute(model: nn.Module, inputs: object) -> tuple[int, dict[str, ReadCost]]:
    """Run one forward pass and book its cost; a truly sparse layer's is that of the dense one.

    The model runs in evaluation mode without gradients and is left as it was: modes, statistics
    and the global random state.

    Args:
        model: Any module.
        inputs: A tensor, or a tuple of the model's positional arguments.

    Returns:
        FLOPs of the whole pass (without truly sparse layers equal to ``FlopCounterMode``), and
        canonical name -> cost for every weight with at least two dimensions.

    Raises:
        SparsityError: The model is sharded: its layers compute on other tensors than they hold.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    owned = [one for one in owned_parameters(model) if len(one.shape) >= 2]
    parameters = {one.name: one.parameter for one in owned}
    whole = {one.name: math.prod(one.shape) for one in owned if one.is_compact}
    if any(map(is_sharded, parameters.values())):
        raise SparsityError(
            "FLOPs of a sharded model cannot be booked on its parameters: count before "
            "fully_shard, on the same model with the topologies of the updater"
        )
    counter = _Attribution(parameters, whole)
    bare = unwrap(model)
    with _quiet(bare), torch.random.fork_rng(), torch.no_grad(), counter:
        bare(*arguments)
    return counter.total, counter.costs


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    modes = [(module, module.training) for module in model.modules()]
    # Fused kernels of attention and recurrence hide the products that they are made of.
    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        # (`torch.backends.mkldnn.flags` would warn about settings that it also writes.)
        torch._C._set_mkldnn_enabled(False)  # noqa: FBT003
        # Not every torch has a formula for every fused attention; all have one for its products.
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
