"""Kernels for other processors than this one, as far as it can run them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from regrow.ops import _numba

pytestmark = pytest.mark.skipif(bool(_numba.missing()), reason=_numba.missing() or "numba is here")

CODE = """
import torch
from regrow.ops import CSR, _vectors, sparse_linear, to_dense
from regrow.topology import Topology
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
layout = CSR.of(Topology.from_mask(torch.rand(21, 150, generator=generator) > 0.6))
w = torch.randn(layout.nnz, generator=generator)
for batch in (1, 3, 38, 130):
    values = w.clone().requires_grad_()
    x = torch.randn(batch, 150, generator=generator, requires_grad=True)
    dy = torch.randn(batch, 21, generator=generator)
    y = sparse_linear(values, layout, x, backend="numba")
    y.backward(dy)
    dense, exact_x = to_dense(w, layout).double(), x.detach().double()
    for found, expected in (
        (y.detach(), exact_x @ dense.t()),
        (x.grad, dy.double() @ dense),
        (values.grad, (dy.double().t() @ exact_x).reshape(-1)[layout.positions]),
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
print(_vectors.BITS)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86 processors")
@pytest.mark.parametrize(("name", "bits"), [("haswell", 256), ("generic", 128)])
def test_narrower_vectors(name, bits):
    # (128 bits are those of NEON, too.)
    features = Path("/proc/cpuinfo")
    if name == "haswell" and features.exists() and "avx2" not in features.read_text():
        pytest.skip("this processor has no AVX2")
    # numba keeps what it compiled by the name of the processor.
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(bits)]
