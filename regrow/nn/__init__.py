"""Layers that hold their connections only: values and indices, and nothing dense.

``SparseLinear`` and ``SparseConv1d/2d/3d`` take the place of torch's layers. Their one weight is
the parameter ``values`` (nnz,), so that gradients and optimizer state are as small; where each
value belongs is the layer's topology, which travels in its ``state_dict`` as extra state.
"""

from regrow.nn._conv import SparseConv1d, SparseConv2d, SparseConv3d
from regrow.nn._convert import (
    dense_form,
    densify_,
    has_sparse_form,
    replace_modules,
    sparse_form,
)
from regrow.nn._files import load, read_metadata, save
from regrow.nn._finalize import finalize_
from regrow.nn._linear import SparseLinear
from regrow.nn._onnx import export_onnx
from regrow.nn._sparse_module import SparseModule
from regrow.nn._timing import layer_inputs, layer_pass, layer_step, least_seconds, step_seconds

__all__ = [
    "SparseConv1d",
    "SparseConv2d",
    "SparseConv3d",
    "SparseLinear",
    "SparseModule",
    "dense_form",
    "densify_",
    "export_onnx",
    "finalize_",
    "has_sparse_form",
    "layer_inputs",
    "layer_pass",
    "layer_step",
    "least_seconds",
    "load",
    "read_metadata",
    "replace_modules",
    "save",
    "sparse_form",
    "step_seconds",
]
