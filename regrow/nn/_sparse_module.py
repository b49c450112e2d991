"""What truly sparse layers have in common: values, a topology, and how both are saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regrow._checks import check_choice, described
from regrow._resize import resize
from regrow.errors import SparsityError
from regrow.nn._init import draw_bias, draw_topology, draw_values
from regrow.nn._packed import is_plain, kind_of, pack_topology, unpack_topology
from regrow.nn._recorder import Recorder
from regrow.ops import BACKEND_NAMES, CSR
from regrow.topology import Structure, Topology, Unstructured
from regrow.typing import Shape

EXTRA = "_extra_state"


def _check_given(
    topology: object, shape: Shape, sparsity: float | None, structure: Structure | None
) -> None:
    if not isinstance(topology, Topology):
        raise TypeError(f"topology must be a Topology, got {topology!r:.80}")
    if topology.shape != shape:
        raise SparsityError(f"topology must be of shape {shape}, got one of {topology.shape}")
    if sparsity is not None or structure is not None:
        raise SparsityError(
            "topology= says what sparsity= and structure= would: pass sparsity=None and no "
            f"structure with it, got sparsity={sparsity} and structure={structure}"
        )


class SparseModule(nn.Module):
    """Base of the truly sparse layers.

    The parameter ``values`` (nnz,) is in the order of ``topology.indices``. A checkpoint of the
    module holds the topology beside it, as one int32 tensor; loading takes both over together,
    whatever the number of connections was, and the ``Parameter`` object stays the same.

    Args:
        weight_shape: Of the dense weight that the layer stands for.
        n_out: Outputs, for the bias.
        bias: Whether there is one.
        sparsity: Fraction in [0, 1) of zeros; None where the structure fixes it or ``topology`` is
            given.
        structure: What a unit is.
        seed: Of topology and values. Layers of one shape and one seed begin alike: give each its
            own.
        backend: "auto", or the name of one.
        device: Of the parameters; the topology goes along.
        dtype: Of the parameters.
        topology: In place of a drawn one; ``sparsity`` and ``structure`` are then left out.

    Raises:
        TypeError: An argument is of another type.
        SparsityError: ``dtype`` is not a real one, or ``topology`` of another shape, or given
            together with ``sparsity`` or ``structure``.
    """

    takes_compressed_rows = False
    """Whether the input may be a ``scipy.sparse`` matrix, too."""

    holds_values = True
    """What tells these modules from dense ones where the class is not at hand."""

    def __init__(
        self,
        weight_shape: Shape,
        *,
        n_out: int,
        bias: bool,
        sparsity: float | None,
        structure: Structure | None,
        seed: int,
        backend: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        topology: Topology | None = None,
    ) -> None:
        super().__init__()
        self.backend = check_choice(backend, "backend", BACKEND_NAMES)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        if not dtype.is_floating_point:
            raise SparsityError(f"dtype must be a real floating type, got {dtype}")
        if topology is None:
            structure = Unstructured() if structure is None else structure
            topology = draw_topology(
                weight_shape, sparsity=sparsity, structure=structure, seed=seed
            )
        else:
            _check_given(topology, weight_shape, sparsity, structure)
        self.topology = topology.compact()
        self._layout: CSR | None = None
        self._recorder = Recorder()
        self.values = nn.Parameter(draw_values(self.topology, seed=seed, dtype=dtype))
        if bias:
            fan_in = self.topology.n_elements // weight_shape[0]
            self.bias = nn.Parameter(draw_bias(n_out, fan_in=fan_in, seed=seed, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        if device is not None:
            self.to_empty(device=device) if torch.device(device).type == "meta" else self.to(device)

    # -- what the layer stands for -----------------------------------------------------------

    @property
    def weight_shape(self) -> Shape:
        """Shape of the dense weight that the layer stands for."""
        return self.topology.shape

    @property
    def structure(self) -> Structure:
        """What a unit is."""
        return self.topology.structure

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return self.topology.nnz

    @property
    def sparsity(self) -> float:
        """Fraction of connections that do not exist, counted."""
        return self.topology.sparsity

    @property
    def layout(self) -> CSR:
        """The topology as the operations take it; shares its memory."""
        if self._layout is None:
            self._layout = CSR.of(self.topology)
        return self._layout

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """The weight with its zeros, of ``weight_shape``: a dense allocation, for tests and export.

        Without gradient history.
        """
        dense = self.values.new_zeros(self.topology.n_elements)
        dense[self.topology.indices] = self.values
        return dense.view(self.weight_shape)

    def adopt(self, topology: Topology) -> None:
        """Take over another topology; the caller puts ``values`` in its order.

        Args:
            topology: Of the same shape and structure.

        Raises:
            SparsityError: Another shape or structure, or one that cannot be compact.
        """
        if (topology.shape, topology.structure) != (self.weight_shape, self.structure):
            raise SparsityError(
                f"the layer is of shape {self.weight_shape}, {self.structure}; the topology of "
                f"{topology.shape}, {topology.structure}"
            )
        # The old forms go first: both at once would be what a rewiring has no room for.
        device, self._layout = self.topology.device, None
        self.topology = topology.compact().to(device)

    # -- growth scores -----------------------------------------------------------------------

    def watch(self, owner: object) -> None:
        """From now on keep the input and the output gradient of each backward pass.

        Only of passes whose gradient reaches the values: that of an input alone, as for adversarial
        examples, leaves nothing.

        Args:
            owner: Who reads them; once it is gone nothing is kept any more.
        """
        self._recorder.start(owner, self.values)

    def unwatch(self) -> None:
        """Keep them no longer, and let go of those that were kept."""
        self._recorder.stop()

    @property
    def watched(self) -> list[tuple[Any, Tensor]]:
        """Input and output gradient of each backward pass since ``watch``."""
        return self._recorder.kept

    def grad_rows(self, x: Any, dy: Tensor, first: int, last: int) -> Tensor:  # noqa: ANN401
        """Rows ``first`` to ``last`` of the dense weight gradient of one pass, as a matrix.

        Args:
            x: Input of the pass.
            dy: Gradient of its output.
            first: First row.
            last: Row behind the last one.

        Returns:
            (last - first, weight elements a row), float32 or wider.
        """
        raise NotImplementedError

    def _observed(
        self,
        x: Any,  # noqa: ANN401
        values: Tensor,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """``compute(values)``; what growth needs of the pass is kept where it is asked for."""
        if self._recorder.is_on:
            return self._recorder.observed(x, values, compute)
        return compute(values)

    # -- torch's protocols -------------------------------------------------------------------

    def _cast(self, x: Any) -> tuple[Any, Tensor, Tensor | None]:  # noqa: ANN401
        """Input, values and bias in the dtype of autocast, as torch's own layers take them."""
        if not isinstance(x, Tensor):
            self._check_input(x)
        # (Not by attribute, which Module looks up in Python; parametrizations move them elsewhere.)
        own: dict[str, Any] = self._parameters
        whole = "values" in own and "bias" in own
        values, bias = (own["values"], own["bias"]) if whole else (self.values, self.bias)
        kind = values.device.type
        if not torch.is_autocast_enabled(kind) or not isinstance(x, Tensor):
            return x, values, bias
        dtype = torch.get_autocast_dtype(kind)
        if x.dtype == torch.float64:
            return x, values, bias
        return x.to(dtype), values.to(dtype), None if bias is None else bias.to(dtype)

    def _check_input(self, x: object) -> None:
        """Refuse what is neither a tensor nor, where that will do, a matrix in compressed rows."""
        form = getattr(x, "format", None)
        if self.takes_compressed_rows and form == "csr":
            return
        wanted, hint = "a tensor", ""
        if type(x).__module__ == "numpy":
            hint = "; torch.from_numpy(x) is one"
        elif self.takes_compressed_rows and hasattr(x, "tocsr"):
            wanted += " or a scipy.sparse matrix in compressed rows (CSR)"
            hint = "; x.tocsr() is one"
        raise TypeError(f"x must be {wanted}, got {described(x)}{hint}")

    def get_extra_state(self) -> Tensor:
        """The topology as one int32 tensor: part of ``state_dict()``."""
        return pack_topology(self.topology)

    def set_extra_state(self, state: object) -> None:
        """Take over the topology of a ``state_dict()``, whose values are loaded with it.

        Called by itself it leaves values of another number at zero, to be written next.

        Raises:
            SparsityError: Damaged, or of another layer.
        """
        topology = unpack_topology(state, shape=self.weight_shape, structure=self.structure)
        if topology.nnz != self.values.numel():
            resize(self.values, self.values.data.new_zeros(topology.nnz))
        if topology.to(self.topology.device) != self.topology:
            self.adopt(topology)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,  # noqa: FBT001 - torch's signature
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load values and topology together, or neither."""
        problem = self._make_room(state_dict, prefix)
        if problem:
            error_msgs.append(problem)
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _make_room(self, state_dict: dict[str, Any], prefix: str) -> str:
        """Fit ``values`` to what comes; what is wrong with it, or ""."""
        values, packed = (state_dict.get(prefix + key) for key in ("values", EXTRA))
        if values is None and packed is None:
            return ""
        if values is None or packed is None:
            here, gone = ("values", EXTRA) if packed is None else (EXTRA, "values")
            return (
                f"{prefix}{here} is in the state_dict and {prefix}{gone} is not: values mean "
                "nothing without their topology; save the module's whole state_dict()"
            )
        if not is_plain(values) or not values.dtype.is_floating_point:
            return f"{prefix}values must be a dense tensor of real numbers, got {kind_of(values)}"
        try:
            topology = unpack_topology(packed, shape=self.weight_shape, structure=self.structure)
        except SparsityError as error:
            return f"{prefix}{EXTRA}: {error}"
        if tuple(values.shape) != (topology.nnz,):
            return (
                f"size mismatch for {prefix}values: {tuple(values.shape)} in the state_dict, where "
                f"its topology has {topology.nnz} connections"
            )
        if topology.nnz != self.values.numel():
            resize(self.values, self.values.data.new_empty(topology.nnz))
        self.adopt(topology)
        return ""

    def _apply(self, fn: Any, recurse: bool = True) -> SparseModule:  # noqa: ANN401, FBT001, FBT002
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.values.device
        if device.type != "meta" and device != self.topology.device:
            self._layout = None
            self.topology = self.topology.to(device)
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> SparseModule:
        # As torch copies modules, save for what belongs to the step under way.
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        for key, value in self.__getstate__().items():
            clone.__dict__[key] = copy.deepcopy(value, memo)
        clone._recorder = Recorder()
        return clone

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_recorder"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._recorder = Recorder()

    def _describe(self) -> str:
        tail = "" if isinstance(self.structure, Unstructured) else f", structure={self.structure}"
        return f"nnz={self.nnz}, sparsity={self.sparsity:.4g}{tail}"
