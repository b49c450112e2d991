"""count: what each number of a CostReport is, by hand on small models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import regrow
from regrow.accounting import CostReport, count
from regrow.errors import SparsityError
from regrow.topology import Topology


class Net(nn.Module):
    """Registered last to first, so that order of execution is not order of registration."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.head = nn.Linear(6, 3, dtype=dtype)
        self.unused = nn.Linear(5, 5, dtype=dtype)
        self.body = nn.Linear(4, 6, dtype=dtype)
        self.norm = nn.LayerNorm(6, dtype=dtype)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).relu())


INPUTS = torch.zeros(2, 4)
N_PARAMETERS = (18 + 3) + (25 + 5) + (24 + 6) + 12


def topology(shape, nnz):
    return Topology(torch.arange(nnz), shape)


def test_by_hand():
    report = count(Net(), INPUTS, {"body.weight": topology((6, 4), 10), "head.weight": 0.5})
    assert report == CostReport(
        convention="mac2",
        parameters=N_PARAMETERS,
        live_parameters=N_PARAMETERS - 14 - 9,
        nnz=10 + 9,
        dense_forward_flops=2 * 2 * (24 + 18),
        forward_flops=2 * 2 * (10 + 9),
        layer_flops={"head.weight": 36, "unused.weight": 0, "body.weight": 40},
        dense_layer_flops={"head.weight": 72, "unused.weight": 0, "body.weight": 96},
        dense_bytes=4 * N_PARAMETERS,
        bytes=4 * (N_PARAMETERS - 23) + 3 + 3,  # one bit for each of 24 and of 18 elements
        index_bytes=4 * (N_PARAMETERS - 23) + 4 * 19,
    )
    assert report.training_flops == 3 * 76
    assert report.dense_training_flops == 3 * 168


def test_without_topologies_sparse_is_dense():
    report = count(Net(), INPUTS, {})
    assert report.forward_flops == report.dense_forward_flops
    assert report.bytes == report.index_bytes == report.dense_bytes
    assert (report.nnz, report.live_parameters) == (0, report.parameters)


def test_full_topologies_need_no_mask():
    report = count(Net(), INPUTS, {"body.weight": Topology.full((6, 4))})
    assert report.bytes == report.index_bytes == report.dense_bytes
    assert report.nnz == 24


def test_bytes_follow_the_dtype():
    report = count(Net(torch.bfloat16), INPUTS.bfloat16(), {"body.weight": topology((6, 4), 10)})
    assert report.dense_bytes == 2 * N_PARAMETERS
    assert report.bytes == 2 * (N_PARAMETERS - 14) + 3
    assert report.index_bytes == 2 * (N_PARAMETERS - 14) + 4 * 10


def test_flops_are_those_of_the_batch():
    one = count(Net(), torch.zeros(1, 4), {"head.weight": 0.5})
    many = count(Net(), torch.zeros(7, 4), {"head.weight": 0.5})
    assert many.forward_flops == 7 * one.forward_flops
    assert many.bytes == one.bytes


def test_micronet_adds_bias_and_relu_save_behind_the_last_layer():
    """2 v n - n for products and sums, n for the bias, and n for the ReLU of all but the last."""
    report = count(Net(), INPUTS, {"body.weight": topology((6, 4), 10)}, convention="micronet")
    assert report.convention == "micronet"
    assert report.dense_forward_flops == 2 * (2 * 24 + 6) + 2 * (2 * 18)
    assert report.forward_flops == 2 * (2 * 10 + 6) + 2 * (2 * 18)
    assert report.layer_flops["body.weight"] == 52
    assert report.layer_flops["head.weight"] == 72
    # 32 bits a connection and a bias, one bit an element of a sparse tensor; nothing else.
    assert report.dense_bytes == 4 * (24 + 6 + 18 + 3)
    assert report.bytes == 4 * (10 + 6 + 18 + 3) + 3


def test_micronet_counts_no_products_of_activations():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    sequence = torch.zeros(3, 5, 8)
    report = count(layer, (sequence, sequence, sequence), {}, convention="micronet")
    assert report.forward_flops == 15 * (2 * 24 * 8 + 24) + 15 * 2 * 8 * 8


@given(st.integers(0, 24), st.integers(0, 18))
def test_topologies_and_their_sparsities_cost_the_same(n_body, n_head):
    given = {"body.weight": topology((6, 4), n_body), "head.weight": topology((3, 6), n_head)}
    fractions = {name: one.sparsity for name, one in given.items()}
    report = count(Net(), INPUTS, given)
    assert report == count(Net(), INPUTS, fractions)
    assert report.forward_flops == 4 * (n_body + n_head)
    assert report.nnz == n_body + n_head


@given(st.floats(0, 1))
def test_fractions_are_rounded_to_whole_numbers(sparsity):
    report = count(nn.Linear(10, 7, bias=False), torch.zeros(3, 10), {"weight": sparsity})
    assert type(report.forward_flops) is int
    assert abs(report.forward_flops - 420 * (1 - sparsity)) <= 0.5 + 1e-9
    assert abs(report.nnz - 70 * (1 - sparsity)) <= 0.5 + 1e-9
    assert sum(report.layer_flops.values()) == report.forward_flops


def test_rigl_pays_for_one_dense_gradient_an_interval():
    """Of 101 steps, 100 cost 3 f_S and one 2 f_S + f_D (appendix H)."""
    report = count(Net(), INPUTS, {"body.weight": 0.5})
    sparse, dense = report.forward_flops, report.dense_forward_flops
    assert (sparse, dense) == (4 * (12 + 18), 168)
    assert report.mean_training_flops(100) == pytest.approx(
        (100 * 3 * sparse + 2 * sparse + dense) / 101
    )
    assert report.mean_training_flops(1) == pytest.approx((5 * sparse + dense) / 2)
    with pytest.raises(ValueError, match="interval must be at least 1"):
        report.mean_training_flops(0)


def test_names_that_are_no_parameters():
    with pytest.raises(SparsityError, match=r"'body' *, which is no parameter"):
        count(Net(), INPUTS, {"body": 0.5})


def test_topologies_of_another_shape():
    with pytest.raises(SparsityError, match=r"'body.weight' has shape \(4, 6\).*\(6, 4\)"):
        count(Net(), INPUTS, {"body.weight": Topology.full((4, 6))})


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, 90])
def test_sparsities_out_of_range(sparsity):
    with pytest.raises(ValueError, match=r"sparsity of 'body.weight' must lie in \[0, 1\]"):
        count(Net(), INPUTS, {"body.weight": sparsity})


def test_unknown_conventions():
    with pytest.raises(ValueError, match="one of mac2, micronet"):
        count(Net(), INPUTS, {}, convention="fvcore")


def test_bad_requests_do_not_run_the_model():
    class Untouchable(Net):
        def forward(self, x):
            raise AssertionError("the model ran")

    with pytest.raises(SparsityError, match="no parameter"):
        count(Untouchable(), INPUTS, {"body": 0.5})
    with pytest.raises(ValueError, match="convention must be"):
        count(Untouchable(), INPUTS, {}, convention="macs")


def test_a_trained_topology_is_counted_as_it_is():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    updater = regrow.static(model, optimizer, sparsity=0.5)
    report = count(model, INPUTS, updater.topologies)
    assert report.nnz == updater.nnz
    assert report.forward_flops == 4 * (
        updater.topologies["body.weight"].nnz + updater.topologies["head.weight"].nnz
    )
