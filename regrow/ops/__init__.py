"""Operations on sparse weights that hold their connections only, and nothing dense.

Values ``(nnz,)`` and a layout, :class:`CSR`, take the place of a weight. Products, their gradients
and the exchange of values when a topology changes run on the first back end that can: numba (extra
``sparse``), torch's sparse matrices, or plain PyTorch.

Results are *logically* (batch, features) and *in memory* feature-major, strides (1, batch):
elementwise operations keep that, and the next sparse product copies nothing.
"""

from regrow.ops._backend import Backend, Pattern
from regrow.ops._carry import carry_values
from regrow.ops._conv import sparse_conv
from regrow.ops._dispatch import BACKEND_NAMES, available_backends, use_backend, why_not
from regrow.ops._functional import (
    product,
    sampled_at,
    sampled_product,
    sparse_linear,
    to_dense,
    transposed_product,
)
from regrow.ops._layout import CSR, ColumnForm

__all__ = [
    "BACKEND_NAMES",
    "CSR",
    "Backend",
    "ColumnForm",
    "Pattern",
    "available_backends",
    "carry_values",
    "product",
    "sampled_at",
    "sampled_product",
    "sparse_conv",
    "sparse_linear",
    "to_dense",
    "transposed_product",
    "use_backend",
    "why_not",
]
