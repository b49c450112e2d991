"""How a model is filled from a file: all checks first, then all changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from regrow.errors import SparsityError
from regrow.nn._conv import SparseConv1d, SparseConv2d, SparseConv3d
from regrow.nn._convert import has_sparse_form, replace_modules
from regrow.nn._files_header import Header, LayerEntry, arguments_of, kind_of, structure_of
from regrow.nn._files_index import decode
from regrow.nn._linear import SparseLinear
from regrow.nn._sparse_module import SparseModule
from regrow.topology import Topology

_KINDS = {kind.__name__: kind for kind in (SparseLinear, SparseConv1d, SparseConv2d, SparseConv3d)}


@final
class Filling:
    """The checked content of a file, and where in a model it belongs.

    Args:
        root: The model, unwrapped.
        header: Of the file.
        tensors: Of the file; they may lie in its memory.

    Raises:
        SparsityError: The file is of another model, or damaged.
    """

    def __init__(self, root: nn.Module, header: Header, tensors: Mapping[str, Tensor]) -> None:
        self._header = header
        self._tensors = tensors
        self._modules = dict(root.named_modules())
        self._places = self._find_places()
        self._check_layers()
        self._check_names()
        self._check_dense()
        self._topologies = self._decoded()
        self._check_ties()

    # -- checks ------------------------------------------------------------------------------

    def _find_places(self) -> dict[str, tuple[nn.Module, str]]:
        """Name -> (module, attribute) of all that is filled with a tensor as it is."""
        found = {}
        for path, module in self._modules.items():
            for attribute, tensor in {**module._parameters, **module._buffers}.items():
                name = f"{path}.{attribute}" if path else attribute
                if tensor is None or attribute == _weight_of(self._header.layers, path, module):
                    continue
                if attribute not in module._non_persistent_buffers_set:
                    found[name] = (module, attribute)
                elif tensor.is_meta:
                    raise SparsityError(
                        f"the buffer {name!r} is on the device meta, and no file holds it, since "
                        "it is not persistent: make the model on a real device"
                    )
        return found

    def _check_layers(self) -> None:
        for path, entry in self._header.layers.items():
            module = self._modules.get(path)
            if module is None:
                raise SparsityError(f"the model has no module {path!r:.80}, which the file has")
            fits = isinstance(module, SparseModule) or has_sparse_form(module)
            if not fits or kind_of(module) != entry.kind:
                raise SparsityError(
                    f"{path!r} is a {type(module).__name__} in the model, and a {entry.kind!r:.40} "
                    "in the file"
                )
            if arguments_of(module) != entry.arguments:
                raise SparsityError(
                    f"{path!r} has {arguments_of(module)} in the model, and "
                    f"{entry.arguments!r:.300} in the file"
                )
        for path, module in self._modules.items():
            if isinstance(module, SparseModule) and path not in self._header.layers:
                raise SparsityError(
                    f"{path!r} is truly sparse in the model, and not in the file: make the model "
                    "with dense layers"
                )

    def _check_names(self) -> None:
        layers = self._header.layers.values()
        wanted = {self._held(name) for name in self._places}
        wanted |= {entry.values for entry in layers} | {entry.topology for entry in layers}
        missing, more = wanted - set(self._tensors), set(self._tensors) - wanted
        if missing or more:
            here, name = ("model", min(missing)) if missing else ("file", min(more))
            other = "file" if missing else "model"
            raise SparsityError(
                f"the {here} has {name!r:.80} and the {other} has not"
                f"{self._hint(name) if missing else ''}"
            )

    def _hint(self, name: str) -> str:
        is_form = name.endswith("weight") and f"{name[:-6]}values" in self._tensors
        return ": it holds values there, and its header no layer" if is_form else ""

    def _held(self, name: str) -> str:
        return self._header.same.get(name, name)

    def _check_dense(self) -> None:
        for name, (module, attribute) in self._places.items():
            mine, theirs = getattr(module, attribute), self._tensors[self._held(name)]
            if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
                raise SparsityError(
                    f"{name!r} is {mine.dtype} of shape {tuple(mine.shape)} in the model, and "
                    f"{theirs.dtype} of shape {tuple(theirs.shape)} in the file"
                )

    def _decoded(self) -> dict[str, Topology]:
        """Path of each truly sparse layer -> its topology; tied ones have the same."""
        found: dict[str, Topology] = {}
        known: dict[tuple[str, str, int, str, str], Topology] = {}
        for path, entry in self._header.layers.items():
            mine = _weight(self._modules[path])
            values = self._tensors[entry.values]
            if (values.dtype, tuple(values.shape)) != (mine.dtype, (entry.nnz,)):
                raise SparsityError(
                    f"{path!r} needs {entry.nnz} values of {mine.dtype}; in the file are "
                    f"{values.dtype} of shape {tuple(values.shape)}"
                )
            structure = structure_of(entry.structure)
            key = (entry.values, entry.topology, entry.nnz, entry.coding, str(structure))
            if key not in known:
                try:
                    known[key] = decode(
                        entry.coding,
                        self._tensors[entry.topology],
                        shape=_weight_shape(self._modules[path]),
                        nnz=entry.nnz,
                        structure=structure,
                    )
                except SparsityError as error:
                    raise SparsityError(f"{path!r}: {error}") from error
            if known[key].shape != _weight_shape(self._modules[path]):
                raise SparsityError(f"{path!r} shares a topology with a weight of another shape")
            found[path] = known[key]
        return found

    def _check_ties(self) -> None:
        """What is one tensor in the model must be one in the file."""
        held: dict[int, set[str]] = {}
        for name, (module, attribute) in self._places.items():
            held.setdefault(id(getattr(module, attribute)), set()).add(self._held(name))
        for path, entry in self._header.layers.items():
            held.setdefault(id(_weight(self._modules[path])), set()).add(entry.values)
        for names in held.values():
            if len(names) > 1:
                raise SparsityError(
                    f"{' and '.join(sorted(names)[:3])} are tied in the model, and not in the file"
                )

    # -- changes -----------------------------------------------------------------------------

    @torch.no_grad()
    def apply(self, model: nn.Module) -> nn.Module:
        """Fill the model, or what wraps it.

        Returns:
            The model, or what is put in its own place.
        """
        made: dict[int, Tensor] = {}
        for name, (module, attribute) in self._places.items():
            mine, theirs = getattr(module, attribute), self._tensors[self._held(name)]
            if not mine.is_meta:
                mine.copy_(theirs)
                continue
            if id(mine) not in made:
                made[id(mine)] = _like(mine, theirs.clone())
            setattr(module, attribute, made[id(mine)])
        forms = self._forms()
        return replace_modules(model, lambda _, module: forms.get(id(module)))

    def _forms(self) -> dict[int, SparseModule]:
        forms: dict[int, SparseModule] = {}
        shared: dict[int, nn.Parameter] = {}
        for path, entry in self._header.layers.items():
            module = self._modules[path]
            mine = _weight(module)
            if id(mine) not in shared:
                device = "cpu" if mine.is_meta else mine.device
                values = self._tensors[entry.values].clone().to(device)
                shared[id(mine)] = nn.Parameter(values, requires_grad=False)
            made = _form(module, self._topologies[path])
            made.values = shared[id(mine)]
            made.topology = made.topology.to(made.values.device)
            made.bias = module.bias
            forms[id(module)] = made
        return forms


def _form(module: nn.Module, topology: Topology) -> SparseModule:
    """The truly sparse layer that takes the place of a layer, with any values and no bias."""
    return _KINDS[kind_of(module)](
        **arguments_of(module),
        bias=False,
        sparsity=None,
        topology=topology,
        dtype=_weight(module).dtype,
        backend=getattr(module, "backend", "auto"),
    )


def _weight_of(layers: Mapping[str, LayerEntry], path: str, module: nn.Module) -> str:
    """The parameter of a module that values of the file take the place of, or ""."""
    if isinstance(module, SparseModule):
        return "values"
    return "weight" if path in layers else ""


def _weight(module: nn.Module) -> Tensor:
    return module.values if isinstance(module, SparseModule) else module.weight  # type: ignore[return-value]


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    return module.weight_shape if isinstance(module, SparseModule) else tuple(_weight(module).shape)


def _like(mine: Tensor, tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=False) if isinstance(mine, nn.Parameter) else tensor
